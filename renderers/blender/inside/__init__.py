"""What runs inside Blender: scene, looks, materials and passes.

A child process loads this folder by itself as the package ``inside``: it may import the standard
library, numpy and Blender's modules, and nothing of g3d.
"""
