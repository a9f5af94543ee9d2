"""CLGRAD_DEBUG: see what runs. 1: where the time of each step went; 2: each kernel and its source; 3: the schedule;
4: the graph. What is measured comes from `profile.py`."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from ..backends.dtypes import is_float
from ..backends.kernel import ELEMENTWISE, REDUCTIONS, Kernel

if TYPE_CHECKING:
    from .profile import Launch, Span

TOP = 7  # kernels that a summary names one by one: with the totals it takes ten lines


def level() -> int:
    """The number in CLGRAD_DEBUG, read each time so that a program may change it."""
    text = os.environ.get("CLGRAD_DEBUG", "")
    return int(text) if text.isdigit() else int(bool(text))


def say(text: str) -> None:
    print(text, file=sys.stderr)


# --- how much there is to do -----------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def work(kernel: Kernel) -> tuple[int, int]:
    """(floating-point operations, bytes read and written) that one run has to do, each buffer counted once.

    An operation is any that gives or compares floats; a fused multiply and add is two.
    """
    points = prod(kernel.shape)
    rows = prod(n for axis, n in enumerate(kernel.shape) if axis not in kernel.reduce_axes)
    operations = 0
    extents: dict[int, int] = {}  # elements of each input that are read
    for instr, inner in zip(kernel.body, kernel.inner, strict=True):
        if instr.op in REDUCTIONS:
            operations += points * is_float(instr.dtype)
        elif instr.op in ELEMENTWISE:
            floats = is_float(instr.dtype) or any(is_float(kernel.body[s].dtype) for s in instr.src)
            operations += floats * (points if inner or not kernel.reduce_axes else rows)
        elif instr.op == "dot":
            operations += 2 * points * instr.arg[1].shape[-1]
            for slot, view in (instr.arg[:2], instr.arg[2:]):
                extents[slot] = max(extents.get(slot, 0), _extent(view))
        elif instr.op in ("load", "gather"):
            slot, view = instr.arg[:2]
            extents[slot] = max(extents.get(slot, 0), points if instr.op == "gather" else _extent(view))
    nbytes = sum(_extent(o.view) * d.itemsize for o, d in zip(kernel.outputs, kernel.output_dtypes, strict=True))
    if kernel.scatter is not None:
        scatter = kernel.scatter
        operations += scatter.count * scatter.width
        extents = {0: scatter.count * scatter.width, 1: scatter.count}
    if kernel.sort is not None:
        extents = dict.fromkeys(range(len(kernel.inputs)), points)
    if kernel.attention is not None:
        operations += _attention_operations(kernel)
        extents = {slot: _extent(view) for _, slot, view in kernel.attention.operands}
    return operations, nbytes + sum(n * kernel.inputs[slot].itemsize for slot, n in extents.items())


def _extent(view) -> int:
    """How many elements a View reads: those inside its mask, repeated ones once."""
    bounds = view.mask or tuple((0, n) for n in view.shape)
    return prod(hi - lo for (lo, hi), s in zip(bounds, view.strides, strict=True) if s)


def _attention_operations(kernel: Kernel) -> int:
    """Those of the products alone, over the pairs of a query and a key that causality leaves."""
    attention = kernel.attention
    assert attention is not None
    *batch, queries, keys = kernel.shape
    pairs = sum(min(t + 1, keys) for t in range(queries)) if attention.causal else queries * keys
    sizes = {name: view.shape[-1] for name, _, view in attention.operands}
    score, value = sizes["q"], sizes["v"]
    each = {"output": value, "query": score, "key": score, "value": value}
    a_pair = score + sum(each.get(result, 0) for result in attention.results)
    if "query" in attention.results or "key" in attention.results:
        a_pair += value  # the gradient of the probabilities
    return 2 * prod(batch) * pairs * a_pair


# --- what is printed -------------------------------------------------------------------------------------------------


def line(kernel: Kernel, device: str, seconds: float) -> str:
    """One kernel as it ran."""
    return f"{device:<6} {kernel.name:<44} {seconds * 1e6:9.1f} us {_rates(*work(kernel), seconds)}"


def _rates(operations: float, nbytes: float, seconds: float) -> str:
    rate = 1e-9 / max(seconds, 1e-9)
    return f"{operations * rate:8.2f} GFLOP/s {nbytes * rate:8.2f} GB/s"


def summary(launches: list[Launch], spans: list[Span], notes: list[str]) -> str:
    """Where the time of a step went, in at most ten lines: totals, the dearest kernels by name, the host."""
    groups: dict[tuple[str, str], list[float]] = {}  # (device, name) -> [launches, seconds, operations, bytes]
    for launch in launches:
        group = groups.setdefault((launch.device, launch.kernel.name), [0, 0.0, 0, 0])
        for i, part in enumerate((1, 1e-9 * (launch.end - launch.start), *work(launch.kernel))):
            group[i] += part
    _, busy, operations, nbytes = _sum(groups.values())
    host: dict[str, float] = {}
    for span in spans:
        host[span.name] = host.get(span.name, 0.0) + 1e-9 * span.own
    plural = "s" if len(launches) != 1 else ""
    head = f"step: {len(launches)} kernel{plural} {_ms(busy)}, {' '.join(_rates(operations, nbytes, busy).split())}"
    begun = min([s.start for s in spans] + [launch.start for launch in launches])
    ended = max([s.end for s in spans] + [launch.end for launch in launches])
    shown = ["; ".join([f"{head}; from first to last {_ms(1e-9 * (ended - begun))}", *notes])]
    ranked = sorted(groups.items(), key=lambda item: -item[1][1])
    if len(ranked) > TOP + 1:
        rest = ranked[TOP:]
        ranked = [*ranked[:TOP], (("", f"and {len(rest)} other names"), _sum(g for _, g in rest))]
    for (device, name), (count, seconds, operations, nbytes) in ranked:
        share = seconds / max(busy, 1e-9)
        rates = _rates(operations, nbytes, seconds)
        shown.append(f"  {device:<6} {name:<40} {int(count):4} x {_ms(seconds):>11} {share:6.1%} {rates}")
    parts = sorted(host.items(), key=lambda item: -item[1])
    shown.append(f"  host {_ms(sum(host.values()))}: " + ", ".join(f"{name} {_ms(t)}" for name, t in parts))
    return "\n".join(shown)


def _sum(groups: Iterable[list[float]]) -> list[float]:
    return [sum(column) for column in zip(*groups, strict=True)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def quoted(lines: Iterable[tuple[str, int]]) -> list[str]:
    """Lines of programs as `file:number  text`."""
    return [f"{os.path.basename(file)}:{n}  {linecache.getline(file, n).strip()}".rstrip() for file, n in lines]
