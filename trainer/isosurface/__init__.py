"""Signed distance fields on grids of tetrahedra or cubes -> triangle meshes."""
