"""Pieces of one kernel, shared out between threads of Python.

NumPy lets go of Python's lock while it computes, so threads whose calls are long enough work at the same time. Where
BLAS has threads of its own, these are ended first: after each product they spin for a tenth of a second, and take the
processor from ours. They come back with the next product that wants them, which costs both ways a tenth of a
millisecond: less than kernels have to gain that share their work.

>>> done = []
>>> share([lambda thread, i=i: done.append(i) for i in range(3)])
>>> sorted(done)
[0, 1, 2]
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Optional
from weakref import WeakSet

import numpy as np

from . import blas

MOST = 4  # threads: more would mostly wait for Python's lock

_pool: Optional[ThreadPoolExecutor] = None
_size = 0
_ours: WeakSet[threading.Thread] = WeakSet()


def threads() -> int:
    """How many may take part: one alone where a thread that is not ours might be using BLAS."""
    if not blas.can_stop() or blas.allowed < 2:
        return 1
    this = threading.current_thread()
    return blas.allowed if all(t is this or t in _ours for t in threading.enumerate()) else 1


def share(pieces: Sequence[Callable[[int], Any]], most: int = MOST) -> None:
    """Call all of them, each in whichever thread is free, with the number of that thread: 0 to `most` - 1.

    The first exception is raised when nothing runs any more.
    """
    count = min(threads(), most, len(pieces))
    if count < 2:
        for piece in pieces:
            piece(0)
        return
    before = blas.threads()
    if before > 1:
        blas.use(1)
    blas.stop()
    todo = deque(pieces)

    def work(thread: int) -> None:
        try:
            with np.errstate(all="ignore"):
                while True:
                    try:
                        piece = todo.popleft()
                    except IndexError:
                        return
                    piece(thread)
        except BaseException:
            todo.clear()
            raise

    futures = [_threads(count - 1).submit(work, thread) for thread in range(1, count)]
    try:
        work(0)
    finally:
        wait(futures)
        if before > 1:
            blas.use(before)
    for future in futures:
        future.result()


def _threads(count: int) -> ThreadPoolExecutor:
    global _pool, _size
    if _pool is None or _size < count:
        if _pool is not None:
            _pool.shutdown()
        _pool, _size = ThreadPoolExecutor(count, "clgrad", lambda: _ours.add(threading.current_thread())), count
    return _pool


def _forget() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a child has none of its parent's threads
