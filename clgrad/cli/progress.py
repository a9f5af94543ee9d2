"""How a run shows itself: a progress bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Iteration, loss, tokens a second and the time left, on standard error.

    A bar by tqdm where standard error is a terminal and tqdm is installed; otherwise a plain line after each
    evaluation and every ten seconds.
    """

    def __init__(self, start: int, total: int):
        self.start, self.iteration, self.total = start, start, total
        self.began = self.shown = time.perf_counter()
        self._bar: Any = None
        self._values: dict[str, str] = {}
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            tqdm.monitor_interval = 0  # no thread of its own: NUMPY shares kernels out only in a process that has none
            self._bar = tqdm(initial=start, total=total, unit="it", dynamic_ncols=True, file=sys.stderr)

    def update(self, iteration: int, loss: float, tokens_per_second: float, val_loss: float | None = None) -> None:
        step, self.iteration = iteration - self.iteration, iteration
        self._values |= {"loss": f"{loss:.4f}", "tokens/s": f"{tokens_per_second:,.0f}"}
        if val_loss is not None:
            self._values["val"] = f"{val_loss:.4f}"
        if self._bar is not None:
            self._bar.set_postfix(self._values, refresh=False)
            self._bar.update(step)
            return
        now = time.perf_counter()
        if val_loss is not None or now - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = now
            left = (now - self.began) / (iteration - self.start) * (self.total - iteration)
            values = "  ".join(f"{name} {value}" for name, value in self._values.items())
            print(f"iter {iteration}/{self.total}  {values}  {duration(left)} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """3:07, or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
