"""Ctrl-C where Python cannot raise it: in a callback that C code made, as while numba compiles.

There an exception is printed as "ignored" and lost. It is kept, and the interrupt comes again as
soon as the callback may have returned.
"""

from __future__ import annotations

import _thread
import sys
import threading
from typing import Any

AGAIN_S = 0.05


def install() -> None:
    """From here on no Ctrl-C is lost."""
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            before(lost)
            return
        timer = threading.Timer(AGAIN_S, _thread.interrupt_main)
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
