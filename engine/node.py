"""Nodes: the graph of what is to be computed.

Comes in: an operation, its sources and an argument. Goes out: an immutable `Node` with its shape, dtype and device
known. Two pure nodes that say the same thing are the same object (hash-consing through a weak table), so common
subexpressions cost nothing. What must stay apart stays apart: `buffer` and `barrier` carry a unique number, and
constants are told apart by dtype and bit pattern (0.0 is not -0.0, 1 is not True).

A node that has been computed holds its bytes in `buffer`. Scheduling stops there; differentiation does not. A node
without a differentiable history then drops its sources, so that a long computation does not keep its past alive.

>>> from clgrad.engine.node import constant
>>> from clgrad import dtypes
>>> one = constant(1.0, dtypes.float32, (2,), "NUMPY")
>>> (one + one) is (one + one), (one + one) is (one + 2)
(True, False)
"""

from __future__ import annotations

import os
import struct
import sys
import weakref
from itertools import count
from typing import Any, Optional

from ..backends.base import Buffer
from ..backends.dtypes import DType, is_bool, is_float, is_int
from . import ops

_unique = count()
_table: weakref.WeakValueDictionary[tuple, Node] = weakref.WeakValueDictionary()


class Node:
    """One value of the graph. Build with `make`, `constant` or `leaf`; never change one.

    `buffer` is the realised value, C-contiguous in `shape`; `owner` is a weak reference to the Tensor whose gradient
    is wanted here; `where` is the (file, line) that made the node; `requires_grad` says whether any such leaf is
    among its sources.
    """

    __slots__ = (
        "op", "src", "arg", "shape", "dtype", "device", "requires_grad", "buffer", "owner", "where", "_key",
        "__weakref__",
    )  # fmt: skip
    op: str
    src: tuple[Node, ...]
    arg: Any
    shape: tuple[int, ...]
    dtype: DType
    device: str
    requires_grad: bool
    buffer: Optional[Buffer]
    owner: Optional[weakref.ref]
    where: Optional[tuple[str, int]]

    created = 0  # how many nodes there have ever been

    def __init__(self, op, src, arg, shape, dtype, device, requires_grad, where, key):
        Node.created += 1
        self.op, self.src, self.arg, self.shape, self.dtype, self.device = op, src, arg, shape, dtype, device
        self.requires_grad, self.where, self._key = requires_grad, where, key
        self.buffer = self.owner = None

    def __repr__(self) -> str:
        return (
            f"<{self.op} {self.shape} {self.dtype.name} {self.device}{' realised' if self.buffer is not None else ''}>"
        )

    @property
    def in_memory(self) -> bool:
        """Whether kernels find the value in memory: it is realised, or it is a leaf that a plan will bind."""
        return self.buffer is not None or self.op == "buffer"

    def forget_sources(self) -> None:
        """Become a leaf. The table forgets the node too: its key named the sources, whose identities may be reused."""
        if self.src:
            if _table.get(self._key) is self:
                del _table[self._key]
            self.src = ()

    # The little arithmetic that gradient rules are written in. Python numbers become constants of the node's dtype.
    def _binary(self, op: str, other, swap: bool = False) -> Node:
        if not isinstance(other, Node):
            other = constant(other, self.dtype, self.shape, self.device)
        return make(op, (other, self) if swap else (self, other))

    def __add__(self, other):
        return self._binary("add", other)

    def __sub__(self, other):
        return self._binary("sub", other)

    def __mul__(self, other):
        return self._binary("mul", other)

    def __truediv__(self, other):
        return self._binary("div", other)

    def __lt__(self, other):
        return self._binary("lt", other)

    def eq(self, other):
        return self._binary("eq", other)

    def __radd__(self, other):
        return self._binary("add", other, swap=True)

    def __rsub__(self, other):
        return self._binary("sub", other, swap=True)

    def __rmul__(self, other):
        return self._binary("mul", other, swap=True)

    def __rtruediv__(self, other):
        return self._binary("div", other, swap=True)

    def __neg__(self):
        return make("neg", (self,))

    def where_(self, a, b) -> Node:
        """`a` where this bool node holds, else `b`; one of them may be a number."""
        like = a if isinstance(a, Node) else b
        a, b = (x if isinstance(x, Node) else constant(x, like.dtype, self.shape, self.device) for x in (a, b))
        return make("where", (self, a, b))

    def cast(self, dtype: DType) -> Node:
        return self if dtype == self.dtype else make("cast", (self,), dtype)

    def reshape(self, shape: tuple[int, ...]) -> Node:
        return self if shape == self.shape else make("reshape", (self,), shape)

    def expand(self, shape: tuple[int, ...]) -> Node:
        return self if shape == self.shape else make("expand", (self,), shape)

    def permute(self, axes: tuple[int, ...]) -> Node:
        return self if axes == tuple(range(len(axes))) else make("permute", (self,), axes)

    def transpose(self) -> Node:
        """The last two axes exchanged."""
        rank = len(self.shape)
        return self.permute((*range(rank - 2), rank - 1, rank - 2))

    def sum(self, axes: tuple[int, ...]) -> Node:
        return make("reduce_sum", (self,), axes) if axes else self


def make(op: str, src: tuple[Node, ...], arg: Any = None, where: Optional[tuple[str, int]] = None) -> Node:
    """The node for `op` of `src`: the one that exists, or a new one. Raises what the operation's rule raises."""
    if op == "barrier":
        arg = (next(_unique), arg)
    key = (op, arg, *map(id, src))
    found = _table.get(key)
    if found is not None:
        return found
    shape, dtype = ops.RULES[op](op, src, arg)
    flows = src[1:] if op == "composite" else src[:1] if op == "barrier" else src  # what a gradient may flow to
    device = arg if op == "copy" else _common_device(op, src[:1] if op in ("composite", "barrier") else src)
    requires_grad = op != "detach" and is_float(dtype) and any([s.requires_grad for s in flows])
    node = Node(op, src, arg, shape, dtype, device, requires_grad, where or user_line(), key)
    _table[key] = node
    return node


def constant(value, dtype: DType, shape: tuple[int, ...], device: str) -> Node:
    """`value` everywhere in `shape`, as an element of `dtype` (integers wrap; OverflowError beyond 64 bits)."""
    if is_float(dtype):
        value = float(value)
        bits: Any = struct.pack("d", value)
    elif is_int(dtype):
        width = 8 * dtype.itemsize
        value = int(value)
        if not -(1 << 63) <= value < 1 << 64:
            raise OverflowError(f"{value} does not fit into an integer of 64 bits")
        value %= 1 << width
        if dtype.kind == "i" and value >= 1 << (width - 1):
            value -= 1 << width
        bits = value
    else:
        assert is_bool(dtype)
        value = bits = bool(value)
    key = ("const", bits, dtype, shape, device)
    found = _table.get(key)
    if found is None:
        found = _table[key] = Node("const", (), value, shape, dtype, device, False, user_line(), key)
    return found


def iota(length: int, device: str) -> Node:
    """0, 1, ... length - 1."""
    key = ("iota", length, device)
    found = _table.get(key)
    if found is None:
        shape, dtype = ops.RULES["iota"]("iota", (), length)
        found = _table[key] = Node("iota", (), length, shape, dtype, device, False, user_line(), key)
    return found


def random_bits(key: Node, counter: Node, shape: tuple[int, ...]) -> Node:
    return make("random", (key, counter), shape)


def leaf(shape: tuple[int, ...], dtype: DType, device: str, buffer: Optional[Buffer] = None) -> Node:
    """A value that comes from outside: a buffer with an identity of its own."""
    number = next(_unique)
    node = Node("buffer", (), number, shape, dtype, device, False, user_line(), ("buffer", number))
    node.buffer = buffer
    return node


def live_nodes() -> int:
    """How many hash-consed nodes are alive."""
    return len(_table)


def topological(roots, sources=lambda node: node.src) -> list[Node]:
    """All nodes that `roots` depend on, sources first. `sources` may cut the walk short."""
    order: list[Node] = []
    done: dict[Node, bool] = {}  # False from the first visit, when the sources go on the stack, to the second
    stack = list(roots)[::-1]
    while stack:
        node = stack[-1]
        state = done.get(node)
        if state is None:
            done[node] = False
            stack += [s for s in sources(node)[::-1] if s not in done]
        else:
            stack.pop()
            if not state:
                done[node] = True
                order.append(node)
    return order


def _common_device(op: str, src: tuple[Node, ...]) -> str:
    device = src[0].device
    for other in src[1:]:
        if other.device != device:
            raise ValueError(f"{op}: operands are on {device} and {other.device}; move one with .to({device!r})")
    return device


# The user's line: the nearest caller outside the library folders. Models and the command line are written with the
# library like other programs, and their lines say more about a kernel than the call of the model does.
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARY = tuple(os.path.join(_ROOT, room) + os.sep for room in ("engine", "backends", "nn"))
_inside: dict[str, bool] = {}
_attributed: Optional[tuple[str, int]] = None


def attribute(where: Optional[tuple[str, int]]) -> None:
    """From now on nodes come from this line, as those of a gradient do from the line that it is the gradient of.

    None: from the user's line on the call stack, as usual.
    """
    global _attributed
    _attributed = where


def user_line() -> Optional[tuple[str, int]]:
    """(file, line) of the nearest caller outside the library; of the outermost caller if there is none.

    Of another line if `attribute` says so.
    """
    if _attributed is not None:
        return _attributed
    frame = sys._getframe(1)
    while True:
        filename = frame.f_code.co_filename
        inside = _inside.get(filename)
        if inside is None:
            inside = _inside[filename] = filename.startswith(_LIBRARY)
        if not inside or frame.f_back is None:
            return filename, frame.f_lineno
        frame = frame.f_back
