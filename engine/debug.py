"""CLGRAD_DEBUG: see what runs. 1: every kernel with its time; 2: its source; 3: the schedule; 4: the graph."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from ..backends.base import Backend
from ..backends.kernel import ELEMENTWISE, REDUCTIONS, Kernel

if TYPE_CHECKING:
    from .schedule import Step


def level() -> int:
    """The number in CLGRAD_DEBUG, read each time so that a program may change it."""
    text = os.environ.get("CLGRAD_DEBUG", "")
    return int(text) if text.isdigit() else int(bool(text))


def say(text: str) -> None:
    print(text, file=sys.stderr)


def work(kernel: Kernel) -> tuple[int, int]:
    """(floating-point operations, bytes read and written) that one run has to do, each buffer counted once."""
    points = prod(kernel.shape)
    operations = 0
    sizes: dict[int, int] = {}
    for instr, inner in zip(kernel.body, kernel.inner, strict=True):
        if instr.op in ELEMENTWISE or instr.op in REDUCTIONS:
            operations += points if inner or not kernel.reduce_axes or instr.op in REDUCTIONS else 1
        elif instr.op == "dot":
            operations += 2 * points * instr.arg[1].shape[-1]
            for slot, view in (instr.arg[:2], instr.arg[2:]):
                sizes[slot] = max(sizes.get(slot, 0), _extent(view) * kernel.inputs[slot].itemsize)
        elif instr.op in ("load", "gather"):
            slot, view = instr.arg[:2]
            extent = points if instr.op == "gather" else _extent(view)
            sizes[slot] = max(sizes.get(slot, 0), extent * kernel.inputs[slot].itemsize)
    written = sum(_extent(o.view) * d.itemsize for o, d in zip(kernel.outputs, kernel.output_dtypes, strict=True))
    if kernel.scatter is not None:
        values = kernel.scatter.count * kernel.scatter.width
        operations += values
        written += values * kernel.inputs[0].itemsize
    return operations, written + sum(sizes.values())


def _extent(view) -> int:
    return prod(n for n, s in zip(view.shape, view.strides, strict=True) if s)


def timed(step: Step, launch: Callable[[], Any], backend: Backend) -> None:
    """Run one kernel by itself and print its line."""
    assert step.kernel is not None
    backend.synchronize()
    start = time.perf_counter()
    launch()
    backend.synchronize()
    say(line(step.kernel, backend.name, time.perf_counter() - start))


def line(kernel: Kernel, device: str, seconds: float) -> str:
    operations, nbytes = work(kernel)
    rate = 1e-9 / max(seconds, 1e-9)
    rates = f"{operations * rate:8.2f} GFLOP/s {nbytes * rate:8.2f} GB/s"
    return f"{device:<6} {kernel.name:<44} {seconds * 1e6:9.1f} us {rates}"
