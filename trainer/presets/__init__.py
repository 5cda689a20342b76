"""Presets of `g3d train`: only what differs from the defaults."""
