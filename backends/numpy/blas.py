"""How many threads NumPy's BLAS may use.

Small products lose more by waking a second thread than they gain, now and then a thousand times as much, when the
system lets the woken thread wait for the time slice of the one that waits for it. And a sum that several threads share
would depend on how many there are. OpenBLAS, which NumPy's packages for most systems contain, can be told; with any
other library everything runs as that library likes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import prod
from typing import Any, Optional

import numpy as np

from ..kernel import Kernel

# Products from here on may use all threads: of so many floating point operations, or with a matrix of so many bytes,
# which is more than a core's own cache likes to hold.
LARGE_OPERATIONS, LARGE_BYTES = 10_000_000, 1 << 19


def is_large(kernel: Kernel) -> bool:
    """Whether the kernel contains a product worth all threads."""
    for instr in kernel.body:
        if instr.op == "dot":
            _, left, _, right = instr.arg
            matrix = max(prod(view.shape[-2:]) for view in (left, right)) * instr.dtype.itemsize
            operations = 2 * prod(kernel.shape[-2:]) * left.shape[-1]
            return operations >= LARGE_OPERATIONS or matrix >= LARGE_BYTES
    return False


Functions = tuple[Callable[[], int], Callable[[int], Any]]


def _library() -> Any:
    core = getattr(np, "_core", None) or np.core
    return ctypes.PyDLL(core._multiarray_umath.__file__)  # finds what that is linked with, too


def _find() -> Optional[Functions]:
    """OpenBLAS's own functions that tell and set the number of threads, if they are there."""
    try:
        library = _library()
    except (AttributeError, OSError):
        return None
    for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
        try:
            found = (library[f"{prefix}openblas_{verb}_num_threads{suffix}"] for verb in ("get", "set"))
            tell, put = found
        except AttributeError:
            continue
        put.argtypes = [ctypes.c_int]
        return tell, put
    return None


def _find_stop() -> Optional[Callable[[], Any]]:
    """OpenBLAS's function that ends its threads, which it begins anew when it wants them."""
    try:
        return _library()["blas_thread_shutdown_"]
    except (AttributeError, OSError):
        return None


_FUNCTIONS = _find()
_STOP = _find_stop()

allowed = 0  # threads that BLAS had before the kernels that run now were begun; 0 where it cannot be told


def threads() -> int:
    """How many threads BLAS may use now; 0 where it cannot be told."""
    return _FUNCTIONS[0]() if _FUNCTIONS is not None else 0


def use(count: int) -> None:
    """Let BLAS use `count` threads from now on, in the whole process."""
    if _FUNCTIONS is not None:
        _FUNCTIONS[1](count)


def can_stop() -> bool:
    return _FUNCTIONS is not None and _STOP is not None


def stop() -> None:
    """End the threads of BLAS until the next call that wants several; `use` is such a call. Nobody may be using it."""
    if _STOP is not None:
        _STOP()
