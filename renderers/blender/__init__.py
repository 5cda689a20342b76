"""Blender as a renderer: a supervised child process for every worker."""
