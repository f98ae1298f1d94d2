"""Ctrl-C and SIGTERM that let the current step finish."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["StopRequest"]


class StopRequest:
    """While it is entered, the first Ctrl-C or SIGTERM sets ``asked``; the second Ctrl-C interrupts at once.

    Signals belong to the main thread; in any other, nothing is changed and ``asked`` stays False. A handler of SIGTERM
    that the program has set itself stays.

    Example:
        >>> with StopRequest() as stop:
        ...     stop.asked
        False
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            # None: the handler before was not set from Python and cannot be put back by it.
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A second SIGTERM comes from schedulers that are in a hurry: the step that is saved is worth more.
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
