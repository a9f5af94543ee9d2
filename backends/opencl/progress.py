"""One line on stderr while kernels are built, once that has taken two seconds.

Some runtimes compile a kernel when its program is built, others when it is first launched; a kernel counts as built
when its first launch is over. On a terminal the line counts along and goes away; in a log it ends with the time taken.
"""

from __future__ import annotations

import sys
import threading
import time

PATIENCE = 2.0  # seconds


class Progress:
    def __init__(self, device: str):
        self.device = device
        self.total = self.done = 0
        self.shown = ""
        self.timer: threading.Timer | None = None
        self.lock = threading.Lock()

    def begin(self, count: int) -> None:
        """`count` more kernels are going to be built."""
        with self.lock:
            if not self.total:
                self.started = time.perf_counter()
                self.timer = threading.Timer(PATIENCE, self._show)
                self.timer.daemon = True
                self.timer.start()
            self.total += count

    def built(self) -> None:
        """One more is ready."""
        with self.lock:
            self.done += 1
        if self.done >= self.total:
            self.end()
        elif self.shown:
            self._show()

    def end(self) -> None:
        """Whatever was asked for has been built."""
        with self.lock:
            if self.timer is not None:
                self.timer.cancel()
            if self.shown:
                seconds = f" {time.perf_counter() - self.started:.1f} s\n"
                sys.stderr.write(f"\r{' ' * len(self.shown)}\r" if sys.stderr.isatty() else seconds)
                sys.stderr.flush()
            self.total = self.done = 0
            self.shown, self.timer = "", None

    def _show(self) -> None:
        with self.lock:
            if not self.total:
                return
            if sys.stderr.isatty():
                text = f"{self.device}: building kernels, {self.done} of {self.total} "
                sys.stderr.write("\r" + text)
            elif not self.shown:
                text = f"{self.device}: building {self.total} kernels, which are kept for the next time ..."
                sys.stderr.write(text)
            else:
                return
            self.shown = text
            sys.stderr.flush()
