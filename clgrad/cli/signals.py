"""Ctrl-C and SIGTERM as a request to stop after the step that runs."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """A context in which SIGINT and SIGTERM only set `signal`. The second one raises KeyboardInterrupt at once.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.signal = 0  # the number of the signal that came
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        print("\nstopping after this step, and saving; once more to stop at once", file=sys.stderr)

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
