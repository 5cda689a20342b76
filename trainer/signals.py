"""SIGTERM and Ctrl-C: the first ends a run after its step, a second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A run was asked to stop; it goes on with the same command.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class StopRequest:
    """Whether a signal came. True from the first on; the second raises :class:`Stopped`."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def note(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Take a signal."""
        if self:
            raise Stopped(number)
        self.number = int(number)

    def stopped(self) -> Stopped:
        """The end that was asked for."""
        return Stopped(self.number if self.number is not None else signal.SIGTERM)


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Within the block signals are taken note of instead of ending the process.

    Outside the main thread, where Python delivers none, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
