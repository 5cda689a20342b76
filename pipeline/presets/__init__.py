"""Presets of `g3d prepare`: only what differs from the defaults."""
