"""Meshes + cameras -> views. See ``docs/conventions.md`` for axes, units and colours."""
