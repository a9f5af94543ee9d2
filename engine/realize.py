"""Realise: run what is needed to have values in memory.

Comes in: nodes. Goes out: the same nodes with buffers. The road is simplify, schedule, lower, run, and from the second
time on that a graph of one structure comes by, only run (`program.py`). The results are written to the nodes of the
graph as the user built it, because that is the graph that gradients are taken of.

When a graph that can still be differentiated is realised, its reductions and contractions are kept with it, so
that the backward pass reads them instead of computing them again; they go when the graph goes. A node without a
differentiable history drops its sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from math import prod
from typing import Optional

import numpy as np

from ..backends.base import Buffer
from ..backends.dtypes import DType
from ..backends.view import View
from . import debug, profile
from .device import Device
from .lowering import operand
from .node import Node, topological
from .ops import MOVEMENT, TRANSPARENT
from .program import PROGRAMS, Program, copy, structure
from .schedule import Schedule, Step, schedule
from .simplify import simplify


@profile.span("realize")
def realize(nodes: Iterable[Node]) -> None:
    """Bring every node into memory. One that is a movement of something realised stays a view of it."""
    nodes = list(dict.fromkeys(nodes))
    for node in nodes:
        if node.op == "detach" and node.buffer is None and node.src[0].buffer is not None:
            node.buffer = node.src[0].buffer
            node.forget_sources()
    pending = [node for node in nodes if not is_view_of_memory(node)]
    if not pending:
        return
    order, key = structure(pending)
    if profile.tracing():  # kernels are shown with the lines that they come from
        key = (key, tuple(node.where for node in order))
    program = PROGRAMS.find(key)
    if program is None or debug.level() >= 2:
        image, plan, retained = plan_for(pending)
        if debug.level() >= 2:
            from .explain import announce

            announce([image[node] for node in pending], plan, specialise=False)
        program = Program(order, image, plan, retained, lower(plan.steps, specialise=False))
        PROGRAMS.keep(key, program)
    program.run(order)


def is_view_of_memory(node: Node) -> bool:
    """Whether the value is in memory already, perhaps seen through movement (but not padding)."""
    while node.buffer is None:
        if node.op not in (*MOVEMENT, *TRANSPARENT) or node.op == "pad":
            return False
        node = node.src[0]
    return True


def plan_for(pending: list[Node]) -> tuple[dict[Node, Node], Schedule, set[Node]]:
    """The simplified image of each node, the schedule, and the simplified nodes whose buffers must outlive it."""
    image = simplify(pending)
    wanted = [image[storable(node)] for node in pending]
    wanted = [w for w in dict.fromkeys(wanted) if w.buffer is None]
    again = _computed_again(pending)
    keep = frozenset(s for node, s in image.items() if node.requires_grad and s.buffer is None and node not in again)
    return image, schedule(wanted, keep), set(wanted) | keep


def _computed_again(pending: list[Node]) -> set[Node]:
    """What depends on a barrier that waits: a second pass is there so that nothing is kept, and its gradients read it
    in the schedule that computes it."""
    again: set[Node] = set()
    for node in topological(pending, lambda n: () if n.in_memory else n.src):
        if (node.op == "barrier" and len(node.src) > 1) or not again.isdisjoint(node.src):
            again.add(node)
    return again


def storable(node: Node) -> Node:
    """What to bring into memory for `node`: itself, or what it is a view of, if that is no larger."""
    base = node
    view: View | None
    moves = []
    while base.buffer is None and base.op in (*MOVEMENT, *TRANSPARENT):
        if base.op in MOVEMENT:
            moves.append((base.op, base.arg))
        base = base.src[0]
    if base is node or base.op in ("const", "iota", "random") or prod(base.shape) > prod(node.shape):
        return node
    view = View.contiguous(base.shape)
    for op, arg in reversed(moves):
        view = view.apply(op, arg) if view is not None else None
    return node if view is None or view.mask is not None else base


@profile.span("build")
def lower(steps: list[Step], specialise: bool) -> list:
    """An Executable for each step (None for copies); what is missing on a device is built together."""
    return lower_chains([[step] for step in steps], specialise)


def lower_chains(chains: list[list[Step]], specialise: bool) -> list:
    """The same for each list of steps that one launch is to do."""
    result: list = [None] * len(chains)
    by_device: dict[str, list[int]] = {}
    for number, (step, *_) in enumerate(chains):
        if step.kernel is not None:
            by_device.setdefault(step.outputs[0].device, []).append(number)
    for device, numbers in by_device.items():
        kernels = [tuple(step.kernel for step in chains[n] if step.kernel is not None) for n in numbers]
        lowered = Device[device].lower([k[0] if len(k) == 1 else k for k in kernels], specialise)
        for n, executable in zip(numbers, lowered, strict=True):
            result[n] = executable
    return result


def chains_of(steps: list[Step]) -> list[list[Step]]:
    """The steps, in order, in lists of those that their device would rather do in one launch."""
    chains: list[list[Step]] = []
    runs = groupby(steps, lambda step: step.outputs[0].device if step.kernel is not None else None)
    for device, run in runs:
        own = list(run)
        kernels = [step.kernel for step in own if step.kernel is not None]
        for length in [1] * len(own) if device is None else Device[device].chains(kernels):
            chains.append(own[:length])
            own = own[length:]
    return chains


def duplicate(source: Buffer, node: Node) -> Buffer:
    """A new buffer with the same bytes, on the same device."""
    target = Device[node.device].allocate(prod(node.shape) * node.dtype.itemsize)
    copy(source, target)
    return target


def constant_array(node: Node) -> np.ndarray:
    return np.full(node.shape, node.arg, node.dtype)


@profile.span("read")
def read(node: Node) -> np.ndarray:
    """The value on the host, as a new C-contiguous array."""
    simple, base, view = _placed(node)
    if simple.op == "const":
        return constant_array(simple)
    assert base.buffer is not None
    data = _download(base.buffer, base)
    if view.is_contiguous() and view.size == data.size:
        return data.reshape(node.shape)
    return _seen(data, base.dtype, view).copy()


def shared(node: Node) -> Optional[np.ndarray]:
    """The value where it lies, as a read-only array; None where the host cannot see it.

    The array holds the Buffer, so that whoever asks whether it is the only holder of that is told that it is not.
    """
    simple, base, view = _placed(node)
    if simple.op == "const":
        result = constant_array(simple)
        result.flags.writeable = False
        return result
    assert base.buffer is not None
    memory = base.buffer.backend.memory(base.buffer)
    return None if memory is None else _seen(np.asarray(_Pin(base.buffer, memory)), base.dtype, view)


class _Pin:
    """Memory and the Buffer that it belongs to. A NumPy array over this holds both."""

    def __init__(self, buffer: Buffer, memory: np.ndarray):
        self.buffer, self.memory = buffer, memory
        self.__array_interface__ = {**memory.__array_interface__, "data": (memory.ctypes.data, True)}


def _placed(node: Node) -> tuple[Node, Node, View]:
    """The value brought into memory: its simpler equal, and where it lies unless that is a constant."""
    realize([node])
    simple = simplify([node])[node]
    base, view = operand(simple)
    if simple.op != "const" and (base.buffer is None or view is None or view.mask is not None):
        realize([contiguous := _forced(node)])
        return simple, contiguous, View.contiguous(node.shape)
    assert view is not None
    return simple, base, view


def _seen(memory: np.ndarray, dtype: DType, view: View) -> np.ndarray:
    """What a View shows of an array's memory."""
    size = dtype.itemsize
    if view.size == 0:
        result = np.empty(view.shape, dtype)
        result.flags.writeable = memory.flags.writeable
        return result
    return np.ndarray(view.shape, dtype, memory, view.offset * size, tuple(s * size for s in view.strides))


@profile.span("download")
def _download(buffer: Buffer, node: Node) -> np.ndarray:
    return buffer.backend.download(buffer, node.dtype, prod(node.shape))


def _forced(node: Node) -> Node:
    from .node import make

    return make("contiguous", (node,))


@profile.span("upload")
def write(array: np.ndarray, dtype: DType, device: str) -> Buffer:
    """A new buffer on `device` with the bytes of `array`."""
    backend = Device[device]
    data = np.ascontiguousarray(array, dtype)
    buffer = backend.allocate(data.nbytes)
    backend.upload(buffer, data)
    return buffer
