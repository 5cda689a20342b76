"""The GET3D method (NeurIPS 2022): generator, losses, phases."""
