"""Lowering: from a group of nodes to one Kernel.

Comes in: the nodes that one kernel is to store (its members), and the iteration space that they share. Goes out: the
Kernel of `backends/kernel.py`, and the nodes whose buffers it reads. Every movement between a member and a buffer is
collected on the way down and folded into the View of the load; arithmetic stays.

A member may read another member only where it lies: at the very point of the iteration space that is being computed
(or, for a reduction over rows, anywhere in that row). Anything else raises `Misfit`, which is how the scheduler
learns that two groups cannot be one kernel. A movement that no View expresses raises `Cut` with the node that has to
reach memory first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

from ..backends.dtypes import DType
from ..backends.kernel import ELEMENTWISE, Attention, Instr, Kernel, Output, Scatter, Sort
from ..backends.packing import Packing
from ..backends.view import View, walked_as_one
from .node import Node
from .ops import MOVEMENT, REDUCE

Shape = tuple[int, ...]


class Misfit(Exception):
    """These nodes cannot share a kernel over this iteration space."""


class Cut(Exception):
    """`node` must reach memory before what follows can be expressed."""

    def __init__(self, node: Node):
        self.node = node


class Stray(Misfit):
    """`node` cannot be computed, or read, where it was to lie inside a larger value."""

    def __init__(self, node: Node):
        self.node = node


class Home(NamedTuple):
    """Where a stored value lies: in the memory of `whole`, at `view` (over the value's own shape)."""

    whole: Node
    view: View


Homes = Mapping[Node, Home]
NOWHERE: Homes = MappingProxyType({})


class Move(NamedTuple):
    """One movement on the way from the iteration space down to a buffer. `below` is the node it was applied to."""

    op: str
    arg: Any
    below: Optional[Node] = None


class Path:
    """All movement on the way from an iteration space to a node. Paths from one root are equal only if identical.

    The bodies that one schedule tries share a root, so that they share the Views that its paths make. A path does not
    know the one that it continues: a cycle would keep nodes alive.
    """

    __slots__ = ("_moves", "_next", "_views")

    def __init__(self, moves: tuple[Move, ...] = ()):
        self._moves = moves
        self._next: dict[tuple, Path] = {}
        self._views: dict[tuple, tuple[Optional[View], Optional[Node]]] = {}

    def then(self, op: str, arg: Any, below: Optional[Node] = None) -> Path:
        """This path and one more movement."""
        key = (op, arg, below)
        path = self._next.get(key)
        if path is None:
            path = self._next[key] = Path((*self._moves, Move(op, arg, below)))
        return path

    def reshape(self, old: Shape, new: Shape) -> Path:
        """How a value of shape `old` is read by a space of shape `new`."""
        return self if old == new else self.then("reshape", new)

    def view(self, shape: Shape, start: Optional[View] = None) -> View:
        """The View over the space of all elements of a node of that shape (or of `start`). Raises Misfit, Cut."""
        key = shape if start is None else start
        found = self._views.get(key)
        if found is None:
            found = self._views[key] = self._compute_view(View.contiguous(shape) if start is None else start)
        view, cut = found
        if view is not None:
            return view
        if cut is None:
            raise Misfit
        raise Cut(cut)

    def _compute_view(self, view: View) -> tuple[Optional[View], Optional[Node]]:
        """The View, or None and the node that has to reach memory for there to be one."""
        for move in reversed(self._moves):
            moved = view.apply(move.op, move.arg)
            if moved is None:
                return None, move.below
            view = moved
        return view, None


class Space(NamedTuple):
    """An iteration space: its shape, and the axes that its reductions run over."""

    shape: Shape
    reduce_axes: Shape = ()

    @property
    def kept(self) -> Shape:
        """The shape of a reduction's result: reduced dimensions have size 1."""
        return tuple(1 if a in self.reduce_axes else n for a, n in enumerate(self.shape))

    @property
    def signature(self) -> tuple:
        """The space with runs of like axes merged: spaces of one signature differ by a reshape only."""
        return _signature(self)


@lru_cache(maxsize=4096)
def _signature(space: Space) -> tuple:
    runs: list[list] = []
    for axis, size in enumerate(space.shape):
        if size == 1:
            continue
        reduced = axis in space.reduce_axes
        if runs and runs[-1][1] == reduced:
            runs[-1][0] *= size
        else:
            runs.append([size, reduced])
    return tuple(map(tuple, runs))


def space_of(node: Node) -> Space:
    """The iteration space that a node has by itself."""
    return Space(node.src[0].shape, node.arg) if node.op in REDUCE else Space(node.shape or (1,))


def operand(
    node: Node, stored: Callable[[Node], bool] = lambda node: False, homes: Homes = NOWHERE
) -> tuple[Node, Optional[View]]:
    """The node under a chain of movement, and the View of its memory that the chain makes (None if no View does)."""
    moves = []
    while node.op in MOVEMENT and not node.in_memory and not stored(node):
        moves.append((node.op, node.arg))
        node = node.src[0]
    view: Optional[View] = homes[node].view if node in homes else View.contiguous(node.shape)
    for op, arg in reversed(moves):
        if view is None:
            break
        view = view.apply(op, arg)
    return node, view


class Body:
    """The instructions of one kernel under construction.

    `stored` says which nodes that are not in memory will be when the kernel runs, `homes` of some that they lie inside
    another value. `reads` are the nodes that the loads read, and `members` maps each member to its value and to the
    View of where that lies.
    """

    def __init__(self, members: list[Node], space: Space, stored: Callable[[Node], bool], root: Path, homes: Homes):
        self.space, self.stored, self.root, self.homes = space, stored, root, homes
        self.instrs: list[Instr] = []
        self.reads: list[Node] = []
        self.members: dict[Node, tuple[int, View]] = {}
        self.packing: Optional[Packing] = None  # of the right operand of its dot
        self._slots: dict[Node, int] = {}
        self._index: dict[tuple, int] = {}
        self._memo: dict[tuple[Node, Path], int] = {}
        self._add(members)

    def extended(self, members: list[Node], space: Space) -> Body:
        """This body with more members, none of which it reads, over a space of the same shape."""
        body = Body.__new__(Body)
        body.space, body.stored, body.root, body.homes = space, self.stored, self.root, self.homes
        body.packing = self.packing
        body.instrs, body.reads, body.members = self.instrs.copy(), self.reads.copy(), self.members.copy()
        body._slots, body._index, body._memo = self._slots.copy(), self._index.copy(), self._memo.copy()
        body._add(members)
        return body

    def computes(self, node: Node) -> bool:
        """Whether `node` is a value on the way, rather than read from memory."""
        return any(node is n for n, _ in self._memo)

    def loads(self, node: Node) -> list[View]:
        """Where the body reads `node`."""
        slot = self._slots.get(node)
        return [instr.arg[1] for instr in self.instrs if instr.op == "load" and instr.arg[0] == slot]

    def _add(self, members: list[Node]) -> None:
        self._pending = set(members)
        self._wholes = {self.homes[m].whole for m in (*self.members, *members) if m in self.homes}
        if not self._wholes.isdisjoint(self.reads):
            raise Misfit  # a whole is there when all its parts are
        for node in members:
            root, path, view = self._place(node)
            if root is not node:  # stored through the inverse of its movement: the value itself is another node's
                value = self._value(root, path)
            elif node.op in REDUCE:
                value = self._reduction(node)
            elif node.op == "dot":
                value = self._dot(node)
            else:
                value = self._compute(node, path)
            self.members[node] = (value, view)
            self._pending.discard(node)

    def _place(self, node: Node) -> tuple[Node, Path, View]:
        """Where a member lies: the node to evaluate, its movement from the space, and the View over the space."""
        space = self.space
        if node.op in REDUCE:
            return node, self.root, self._laid(node, space.kept).expand(space.shape)
        if prod(node.shape) == prod(space.shape):
            # Pure movement of a member of this kernel is undone at the store rather than done at the load.
            base, view = node, self._home(node)
            while base.op in MOVEMENT and base not in self.members and not self._stored_elsewhere(base):
                undo = inverse(base)
                undone = None if undo is None else view.apply(*undo)
                if undone is None:
                    break
                base, view = base.src[0], undone
            if base is not node and base in self.members:
                placed = view.reshape(space.shape)
                if placed is not None:
                    return base, self.root.reshape(base.shape, space.shape), placed
            return node, self.root.reshape(node.shape, space.shape), self._laid(node, space.shape)
        if prod(node.shape) == prod(space.kept):
            path = self.root.then("expand", space.shape) if space.kept != space.shape else self.root
            view = self._laid(node, space.kept).expand(space.shape)
            return node, path.reshape(node.shape, space.kept), view
        raise Misfit

    def _home(self, node: Node) -> View:
        """Where the elements of a stored node lie."""
        home = self.homes.get(node)
        return View.contiguous(node.shape) if home is None else home.view

    def _laid(self, node: Node, shape: Shape) -> View:
        view = self._home(node).reshape(shape)
        if view is None:
            raise Stray(node)
        return view

    def _seen(self, node: Node, path: Path) -> View:
        """Where the elements of a stored node lie for each point of the space."""
        home = self.homes.get(node)
        return path.view(node.shape, None if home is None else home.view)

    def _in_memory(self, node: Node) -> bool:
        return node.buffer is not None or node.op == "buffer" or self.stored(node)

    def _stored_elsewhere(self, node: Node) -> bool:
        return node not in self._pending and node not in self.members and self._in_memory(node)

    def _emit(self, op: str, src: tuple[int, ...], arg: Any, dtype: DType) -> int:
        key = (op, src, repr(arg) if op == "const" else arg, dtype)
        index = self._index.get(key)
        if index is None:
            index = self._index[key] = len(self.instrs)
            self.instrs.append(Instr(op, src, arg, dtype))
        return index

    def _slot(self, node: Node) -> int:
        if node in self._wholes:
            raise Misfit
        if node not in self._slots:
            self._slots[node] = len(self.reads)
            self.reads.append(node)
        return self._slots[node]

    def _reduction(self, node: Node) -> int:
        x = node.src[0]
        if Space(x.shape, node.arg).signature != self.space.signature:
            raise Misfit
        value = self._value(x, self.root.reshape(x.shape, self.space.shape))
        return self._emit(node.op, (value,), None, node.dtype)

    def _dot(self, node: Node) -> int:
        if node.shape != self.space.shape:
            raise Misfit
        arg: list = []
        for source in node.src:
            base, view = operand(source, self.stored, self.homes)
            if base in self._pending or base in self.members:
                raise Misfit  # a product of a value with itself needs the whole of it
            if view is None:
                raise Stray(base) if base in self.homes else Misfit
            arg += [self._slot(base), view]
        self.packing = node.arg
        return self._emit("dot", (), tuple(arg), node.dtype)

    def _value(self, node: Node, path: Path) -> int:
        key = (node, path)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._find(node, path)
        return found

    def _find(self, node: Node, path: Path) -> int:
        member = self.members.get(node)
        if member is not None:
            if self._seen(node, path) != member[1]:
                raise Misfit
            return member[0]
        if node in self._pending:
            raise Misfit
        if self._in_memory(node):
            return self._emit("load", (), (self._slot(node), self._seen(node, path)), node.dtype)
        return self._compute(node, path)

    def _compute(self, node: Node, path: Path) -> int:
        op, dtype = node.op, node.dtype
        if op in ELEMENTWISE:
            arg = node.arg if op == "custom" else None
            return self._emit(op, tuple([self._value(s, path) for s in node.src]), arg, dtype)
        if op == "const":
            return self._emit("const", (), node.arg, dtype)
        if op == "iota":
            return self._emit("iota", (), path.view(node.shape), dtype)
        if op == "pad":
            return self._padded(node, path)
        if op in MOVEMENT:
            return self._value(node.src[0], path.then(op, node.arg, node.src[0]))
        if op == "random":
            scalar = self.root.then("expand", self.space.shape).then("reshape", (1,) * len(self.space.shape))
            return self._emit(op, tuple([self._value(s, scalar) for s in node.src]), path.view(node.shape), dtype)
        if op == "gather":
            return self._gather(node, path)
        if op in ("contiguous", "barrier"):
            return self._value(node.src[0], path)
        raise Misfit

    def _padded(self, node: Node, path: Path) -> int:
        source = node.src[0]
        inner = path.then("pad", node.arg, source)
        view = inner.view(source.shape)
        zero = node.dtype.type(0).item()
        if view.mask is not None and any(lo >= hi for lo, hi in view.mask):  # nothing of it is seen from here
            return self._emit("const", (), zero, node.dtype)
        value = self._value(source, inner)
        if self.instrs[value].op in ("load", "iota", "random") and _only_moved(source, self.stored):
            return value  # such a read gives 0 outside its mask by itself
        inside = self._emit("valid", (), view, _BOOL)
        return self._emit("where", (inside, value, self._emit("const", (), zero, node.dtype)), None, node.dtype)

    def _gather(self, node: Node, path: Path) -> int:
        table, index = node.src
        base, view = operand(table, self.stored, self.homes)
        if base in self._pending or base in self.members:
            raise Misfit
        if view is None:
            raise Stray(base) if base in self.homes else Misfit
        rest = len(table.shape) - 1
        spread = index.shape + (1,) * rest
        position = self._value(index, path.then("expand", node.shape).then("reshape", spread))
        start = View(node.shape, (0,) * len(index.shape) + view.strides[1:], view.offset)
        rows = path.view(node.shape, start)
        return self._emit("gather", (position,), (self._slot(base), rows, view.strides[0], table.shape[0]), node.dtype)


def finish(body: Body, outputs: list[Node], kind: str) -> tuple[Kernel, list[Node]]:
    """The Kernel that stores `outputs`, over the fewest dimensions that all its Views allow, and what it reads."""
    used = _reachable(body.instrs, [body.members[node][0] for node in outputs])
    renumber = {old: new for new, old in enumerate(used)}
    instrs = [body.instrs[i] for i in used]
    places = [body.members[node] for node in outputs]
    views = [view for _, view in places] + [v for v in map(_own_view, instrs) if v is not None]
    views += [v for instr in instrs if instr.op == "dot" for v in instr.arg[1::2]]  # they share the batch axes
    groups = _groups(body.space, views, keep_last=2 if kind == "dot" else 0)
    shape = tuple(prod(body.space.shape[a] for a in group) for group in groups)
    reduce_axes = tuple(i for i, group in enumerate(groups) if group[0] in body.space.reduce_axes)
    slots: dict[int, int] = {}

    def slot(old: int) -> int:
        return slots.setdefault(old, len(slots))

    final = []
    for op, src, arg, dtype in instrs:
        if op == "load":
            arg = (slot(arg[0]), arg[1].merge(groups))
        elif op == "gather":
            arg = (slot(arg[0]), arg[1].merge(groups), *arg[2:])
        elif op == "dot":
            batch = groups[:-2]
            arg = (slot(arg[0]), _merge_batch(arg[1], batch), slot(arg[2]), _merge_batch(arg[3], batch))
        elif isinstance(arg, View):
            arg = arg.merge(groups)
        final.append(Instr(op, tuple(renumber[s] for s in src), arg, dtype))
    reads = [body.reads[old] for old in slots]
    kernel = Kernel(
        kind,
        shape,
        reduce_axes,
        tuple(final),
        tuple(Output(renumber[value], view.merge(groups)) for value, view in places),
        tuple(node.dtype for node in reads),
        tuple(node.dtype for node in outputs),
        packing=body.packing,
        name=_name(kind, shape, final),
    )
    return kernel, reads


def attention_kernel(nodes: list[Node], stored: Callable[[Node], bool], homes: Homes) -> tuple[Kernel, list[Node]]:
    """The Kernel of attention nodes that have their operands in common, which have been made to lie in memory, and the
    nodes that it reads."""
    part, reads = nodes[0].arg, []
    operands: list[tuple[str, int, View]] = []
    for name, source in part.operands(nodes[0].src).items():
        base, view = operand(source, stored, homes)
        if view is None and base in homes:
            raise Stray(base)
        if view is None or view.mask is not None:
            raise Cut(source)
        if base not in reads:
            reads.append(base)
        operands.append((name, reads.index(base), view))
    q, k, *_ = (view.shape for _, _, view in operands)
    space = Space((*q[:-1], k[-2]))
    laid = [homes[node].view if node in homes else View.contiguous(node.shape) for node in nodes]
    places = [view.permute(node.arg.layout(len(node.shape))) for view, node in zip(laid, nodes, strict=True)]
    *batch, _, _ = _groups(space, [view for _, _, view in operands] + places, keep_last=2)
    shape = (*(prod(space.shape[a] for a in group) for group in batch), *space.shape[-2:])
    attention = Attention(
        tuple((name, slot, _merge_batch(view, batch)) for name, slot, view in operands),
        tuple(node.arg.result for node in nodes), part.scale, part.causal,
    )  # fmt: skip
    kernel = Kernel(
        "attention", shape, (), (),
        tuple(Output(number, _merge_batch(view, batch)) for number, view in enumerate(places)),
        tuple(node.dtype for node in reads), tuple(node.dtype for node in nodes), attention=attention,
        name=_name("attention_gradient" if any(name == "grad" for name, *_ in operands) else "attention", shape, []),
    )  # fmt: skip
    return kernel, reads


def scatter_kernel(node: Node, stored: Callable[[Node], bool], homes: Homes) -> tuple[Kernel, list[Node]]:
    """The Kernel of a scatter, and the nodes that it reads. Its operands have been made to lie in memory."""
    values, index = node.src[-2:]
    (value_base, value_view), (index_base, index_view) = (operand(x, stored, homes) for x in (values, index))
    count, width = prod(index.shape), prod(node.shape[1:])
    if value_view is None:
        raise Stray(value_base)
    if index_view is None:
        raise Stray(index_base)
    flat_values, flat_index = value_view.reshape((count, width)), index_view.reshape((count,))
    if flat_values is None or flat_values.mask is not None:
        raise Cut(values)
    if flat_index is None or flat_index.mask is not None:
        raise Cut(index)
    scatter = Scatter(count, width, node.shape[0], flat_values, flat_index, node.op == "scatter_set")
    shape = (node.shape[0], width)
    kernel = Kernel(
        "scatter", shape, (), (), (Output(0, View.contiguous(shape)),), (node.dtype, index.dtype), (node.dtype,),
        scatter, name=f"{node.op}_{count}x{width}",
    )  # fmt: skip
    return kernel, [value_base, index_base]


def sort_kernel(node: Node, stored: Callable[[Node], bool], homes: Homes) -> tuple[Kernel, list[Node]]:
    """The Kernel of an `argsort`, and the nodes that it reads. Its operands have been made to lie in memory."""
    length = node.shape[-1]
    shape = (prod(node.shape[:-1]), length)
    reads, views = [], []
    for source in node.src:
        base, view = operand(source, stored, homes)
        if view is None:
            raise Stray(base)
        flat = view.reshape(shape)
        if flat is None or flat.mask is not None:
            raise Cut(source)
        reads.append(base)
        views.append(flat)
    kernel = Kernel(
        "sort", shape, (), (), (Output(0, View.contiguous(shape)),), tuple(s.dtype for s in node.src), (node.dtype,),
        sort=Sort(*shape, node.arg, *views), name=f"argsort_{shape[0]}x{length}_runs_{node.arg}",
    )  # fmt: skip
    return kernel, reads


_BOOL = DType("bool")


def _own_view(instr: Instr) -> Optional[View]:
    if instr.op in ("load", "gather"):
        return instr.arg[1]
    return instr.arg if isinstance(instr.arg, View) else None


def inverse(node: Node) -> Optional[tuple[str, Any]]:
    """The movement that undoes `node`, if it moved every element once."""
    if node.op == "reshape":
        return "reshape", node.src[0].shape
    if node.op == "permute":
        return "permute", tuple(node.arg.index(a) for a in range(len(node.arg)))
    return ("flip", node.arg) if node.op == "flip" else None


def _only_moved(node: Node, stored: Callable[[Node], bool]) -> bool:
    """Whether reading `node` is a single read of memory (or of a numbering) through movement."""
    while node.op in MOVEMENT and not node.in_memory and not stored(node):
        node = node.src[0]
    return node.in_memory or stored(node) or node.op in ("iota", "random")


def _reachable(instrs: list[Instr], roots: list[int]) -> list[int]:
    seen = set()
    stack = list(roots)
    while stack:
        i = stack.pop()
        if i not in seen:
            seen.add(i)
            stack.extend(instrs[i].src)
    return sorted(seen)


def _groups(space: Space, views: list[View], keep_last: int) -> list[list[int]]:
    """The axes of the kernel, each as those of the space that it stands for: the last ones stay as they are."""
    fixed = len(space.shape) - keep_last
    groups = walked_as_one(views, range(fixed), space.reduce_axes)
    return [*groups, *([fixed + i] for i in range(keep_last))] or [[0]]


def _merge_batch(view: View, batch: list[list[int]]) -> View:
    """An operand of a dot over merged batch axes; if its own strides do not merge, the axes were kept apart."""
    *outer, rows, columns = range(len(view.shape))
    return view.merge([*batch, [rows], [columns]])


def _name(kind: str, shape: Shape, instrs: list[Instr]) -> str:
    """What a person would call the kernel: its kind, its telling operations, its size."""
    telling = []
    for instr in instrs:
        op = instr.arg.name if instr.op == "custom" else instr.op.removeprefix("reduce_")
        if (
            instr.op in (*REDUCE, "custom") or op in ("exp", "log", "tanh", "erf", "sqrt", "gather", "random")
        ) and op not in telling:
            telling.append(op)
    return "_".join([kind, *telling[:4], "x".join(map(str, shape)) or "1"])
