"""Categories as data: extent, aliases, camera prior."""
