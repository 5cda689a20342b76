"""``python -m g3d``."""

from .cli import main

main()
