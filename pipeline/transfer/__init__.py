"""Bringing files here: over a network, out of archives, through a cache that runs share."""
