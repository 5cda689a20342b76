"""Signed distance fields on tetrahedral grids -> triangle meshes."""
