"""Tracing: what a function does to Tensors, recorded once.

While a trace is active nothing is computed. A Tensor from outside that is read shows a stand-in leaf in place of its
value; assigning to it, or to its `.grad`, rebinds the name as ever. At the end the trace knows which Tensors were
captured and which of them were bound to something new, and puts everything back. `jit.py` makes a plan of it.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import TYPE_CHECKING, Any, Optional

from . import node as nodes
from . import realize as realizing
from .node import Node

if TYPE_CHECKING:
    from .tensor import Tensor


class _State(threading.local):
    """Of each of Python's threads: what one traces is nothing to the others."""

    active: Optional[Trace] = None


_state = _State()
_numbers = count(1)
# Held while a jitted function is traced or replayed: both put other values into Tensors that threads may share, and a
# replay's memory is used by the next one.
LOCK = threading.RLock()


def active() -> Optional[Trace]:
    """The trace in progress, or None."""
    return _state.active


def forbid(what: str) -> None:
    """Raise if a value is asked for while there are none."""
    tracing = _state.active
    if tracing is not None:
        raise RuntimeError(
            f"{what} while jit traces {tracing.name}: there are no values yet; "
            "return the Tensor and read it outside the function"
        )


def depend(owner: Any, attribute: str) -> None:
    """While tracing: replay what is traced now only while `owner.attribute` has the value that it has now."""
    if _state.active is not None:
        _state.active.guards.append((owner, attribute, getattr(owner, attribute)))


@dataclass
class Capture:
    """A Tensor from outside, as it was before the trace, its stand-in, and (after the trace) what it was bound to."""

    tensor: Tensor
    node: Node
    stand_in: Node
    grad: Optional[Tensor]
    new_node: Optional[Node] = None
    new_grad: Optional[Tensor] = None
    grad_changed: bool = False
    grad_read: bool = False  # the trace asked what `.grad` was before it set it
    grad_set: bool = False


class Trace:
    """A context in which Tensor operations are recorded. After it, `captures` tells what was read and rebound."""

    def __init__(self, name: str):
        self.name = name
        self.number = next(_numbers)  # Tensors remember this rather than the trace, which would be a cycle
        self.captures: dict[int, Capture] = {}
        self.guards: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Trace:
        assert _state.active is None
        _state.active = self
        return self

    def __exit__(self, *exc) -> None:
        _state.active = None
        for capture in self.captures.values():
            tensor = capture.tensor
            if tensor._node is not capture.stand_in:
                capture.new_node = tensor._node
            if tensor._grad is not capture.grad or capture.grad_set:
                capture.new_grad, capture.grad_changed = tensor._grad, True
            tensor._node, tensor._grad = capture.node, capture.grad

    def reads_grad(self, tensor: Tensor) -> None:
        """What follows may depend on whether `tensor.grad` was there before."""
        self.capture(tensor)
        capture = self.captures[id(tensor)]
        capture.grad_read = capture.grad_read or not capture.grad_set

    def sets_grad(self, tensor: Tensor) -> None:
        self.capture(tensor)
        self.captures[id(tensor)].grad_set = True

    def capture(self, tensor: Tensor) -> None:
        """Show `tensor` as a stand-in leaf from now on."""
        if id(tensor) in self.captures:
            return
        node = tensor._node
        if node.requires_grad and node.owner is None:
            raise RuntimeError(
                f"jit: {self.name} reads a Tensor of shape {node.shape} that was computed outside from something with "
                "requires_grad=True; gradients do not flow into a replay: detach() it, or compute it inside"
            )
        stand_in = nodes.leaf(node.shape, node.dtype, node.device)
        stand_in.requires_grad = node.requires_grad
        stand_in.owner = weakref.ref(tensor) if node.owner is not None else None
        self.captures[id(tensor)] = Capture(tensor, node, stand_in, tensor._grad)
        tensor._node = stand_in


# --- Tensors that are alive ---------------------------------------------------------------------------------------

_waiting: dict[int, weakref.ref] = {}  # by identity: equality of Tensors is itself a Tensor


def born(tensor: Tensor) -> None:
    """Remember a Tensor whose value is not in memory."""
    key = id(tensor)
    _waiting[key] = weakref.ref(tensor, lambda _: _waiting.pop(key, None))


def realize_tensors(tensors: list[Tensor]) -> None:
    """Realise Tensors; where state is replaced, also what is alive and holds on to values of the step that ends.

    After an optimiser's step the loss, or a running total of it, would otherwise keep the graph of every step and all
    its activations alive until somebody reads it.
    """
    wanted = [t._node for t in tensors]
    if any(n.op == "barrier" and n.buffer is None for n in wanted) and (waiting := list(_waiting_for(wanted))):
        try:
            return realizing.realize([*wanted, *(t._node for t in waiting)])
        except Exception:  # perhaps of a value that nobody has asked for: whoever reads it will hear of it
            for tensor in waiting:
                _waiting.pop(id(tensor), None)
    realizing.realize(wanted)


def _waiting_for(wanted: list[Node]) -> Iterable[Tensor]:
    """Waiting Tensors that need a value which `wanted` needs too, or are no larger than a value they hold on to."""
    shared = {n for n in nodes.topological(wanted, _unrealised_sources) if n.buffer is None and n.src}
    for key, reference in list(_waiting.items()):
        tensor = reference()
        if tensor is None or tensor._node.buffer is not None:
            _waiting.pop(key, None)
            continue
        size = prod(tensor._node.shape)
        below = nodes.topological([tensor._node], lambda n: () if n in shared else _unrealised_sources(n))
        if any(n in shared or (n.buffer is not None and prod(n.shape) >= size) for n in below):
            yield tensor


def _unrealised_sources(node: Node) -> tuple[Node, ...]:
    return () if node.buffer is not None else node.src


# --- who else holds a value ---------------------------------------------------------------------------------------


class _Holder:
    """Something that holds a node as a Tensor does."""

    __slots__ = ("_node",)
    _node: Any


def _references(holder: Any) -> tuple[int, int]:
    node = holder._node
    buffer = node.buffer
    return sys.getrefcount(node), sys.getrefcount(buffer)


def _calibrate() -> tuple[int, int]:
    holder = _Holder()
    holder._node = nodes.leaf((), nodes.DType("float32"), "NUMPY")
    holder._node.buffer = object()
    return _references(holder)


_ALONE = _calibrate()


def _calibrate_base() -> int:
    holder = _Holder()
    holder._node = object()
    return sys.getrefcount(holder._node) - 1


_ONE_MORE = _calibrate_base()  # what asking for a count adds to it


def alone(tensor: Tensor) -> bool:
    """Whether this name is the only holder of its value, so that the value's memory may be overwritten.

    Counted by the interpreter's own reference counts: a view, a detached copy or a graph that still reads the value
    holds the node or its buffer.
    """
    node = tensor._node
    if node.op not in ("buffer", "barrier") or node.src or not _undivided(node):
        return False
    del node
    return _references(tensor) == _ALONE


def _undivided(node: Node) -> bool:
    """Whether nobody holds memory that `node` shares, except for other parts of it, which do not overlap."""
    buffer = node.buffer
    if buffer is None or buffer.base is None:
        return True
    return buffer.divided and sys.getrefcount(buffer.base) == buffer.base.parts + _ONE_MORE


def _grad_references(holder: Any) -> tuple[int, int, int]:
    grad = holder._node
    node = grad._node
    buffer = node.buffer
    return sys.getrefcount(grad), sys.getrefcount(node), sys.getrefcount(buffer)


def _calibrate_grad() -> tuple[int, int, int]:
    outer, inner = _Holder(), _Holder()
    inner._node = nodes.leaf((), nodes.DType("float32"), "NUMPY")
    inner._node.buffer = object()
    outer._node = inner
    del inner
    return _grad_references(outer)


_ALONE_GRAD = _calibrate_grad()


class _GradOf:
    """A Tensor's `.grad` seen as the one thing that a holder holds."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Any):
        self._tensor = tensor

    @property
    def _node(self) -> Any:
        return self._tensor._grad


def sole_grad(tensor: Tensor) -> bool:
    """Whether `tensor.grad` is a leaf that nobody but `tensor` holds, down to its memory."""
    grad = tensor._grad
    if grad is None or grad._node.op != "buffer" or not _undivided(grad._node):
        return False
    del grad
    return _grad_references(_GradOf(tensor)) == _ALONE_GRAD
