"""Schedule: cut the graph into kernels.

Comes in: simplified nodes that are wanted in memory. Goes out: a list of `Step`s, each a Kernel with the nodes that it
reads and writes, in an order in which they can run, and the reason of every decision.

    x.softmax() @ v   ->   row  max, exp, sum, div     writes p
                           dot  p, v                   writes the result

It goes in four moves. First some nodes become *stored*: those that are wanted, every reduction, dot and scatter, the
operands of dots, and what is read several times and dear to compute again (`cost.py` is the whole rule).
Each stored node begins as a group of its own. Then a group joins the group of a reader whenever one kernel can express
both (`lowering.Body` is the judge) and no third kernel stands between them. Then groups over the same space join side
by side, if they read the same thing or are short. At last each group keeps as outputs only what others still read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple, Optional

from ..backends.base import ALIGNMENT
from ..backends.kernel import Kernel
from ..backends.view import View
from . import profile
from .attention import siblings
from .cost import Costs
from .lowering import (
    Body,
    Cut,
    Home,
    Misfit,
    Path,
    Space,
    Stray,
    attention_kernel,
    finish,
    inverse,
    operand,
    scatter_kernel,
    sort_kernel,
    space_of,
)
from .node import Node, make, topological
from .ops import MOVEMENT, REDUCE
from .order import in_order

LARGEST_BODY = 320  # instructions
MOST_BUFFERS = 44  # inputs and outputs of a merged kernel: OpenCL guarantees 1024 bytes of arguments, each takes 16
SMALL = 1 << 17  # points of the iteration space of a kernel that is over sooner than the next one is launched
# Operations that read memory as a View says, and which of their sources so.
READERS = {
    "dot": slice(None), "attention": slice(None), "gather": slice(1), "scatter_add": slice(None),
    "scatter_set": slice(1, None), "argsort": slice(None),
}  # fmt: skip
SCATTERS = ("scatter_add", "scatter_set")
WHOLE = {"argsort": sort_kernel, **dict.fromkeys(SCATTERS, scatter_kernel)}  # kernels that do nothing else
HEAVY = frozenset((*REDUCE, "dot", "attention", "copy", *WHOLE))


@dataclass
class Step:
    """One thing to run. `kernel` is None for a copy between devices."""

    kernel: Optional[Kernel]
    inputs: list[Node]
    outputs: list[Node]
    lines: tuple[tuple[str, int], ...] = ()  # (file, line) of what it computes, if a profile is being written

    def find_lines(self) -> None:
        """Fill in `lines`."""
        read = set(self.inputs)
        inside = topological(self.outputs, lambda n: () if n in read or n.in_memory else n.src)
        # Constants are shared by all lines that use them.
        self.lines = tuple(sorted({n.where for n in inside if n.where and n.src and n not in read}))


class Slice(NamedTuple):
    """A wanted node that is `size` elements from `start` on of a stored one."""

    node: Node
    start: int
    size: int


@dataclass
class Schedule:
    """Steps in order, and for each decision the node it was about and the reason in words.

    `slices` says of some stored nodes that they are divided: wanted nodes lie in their memory, side by side.
    """

    steps: list[Step]
    decisions: list[tuple[Node, str]] = field(default_factory=list)
    slices: dict[Node, list[Slice]] = field(default_factory=dict)


@dataclass(eq=False)
class Group:
    """Stored nodes that one kernel computes. `bits` names them, `after` all stored nodes that must come before."""

    members: list[Node]
    space: Space
    body: Optional[Body]
    reads: list[Node]
    bits: int = 0
    after: int = 0
    lonely: bool = False

    def __post_init__(self) -> None:
        ops = {m.op for m in self.members}
        if self.lonely or ops & {"attention", "copy", *WHOLE}:
            self.kind = "alone"
        elif "dot" in ops:
            self.kind = "dot"
        else:
            self.kind = "row" if self.space.reduce_axes else "loop"


@profile.span("schedule")
def schedule(wanted: Iterable[Node], keep: frozenset[Node] = frozenset()) -> Schedule:
    """Kernels that bring every node of `wanted` (simplified, unrealised) into memory, and, where they are computed
    anyway as reductions or dots, those of `keep`."""
    scheduler = _Scheduler(list(dict.fromkeys(wanted)), keep)
    return scheduler.run()


class _Scheduler:
    def __init__(self, wanted: list[Node], keep: frozenset[Node]):
        self.slices = divided(wanted)
        sliced = {piece.node for pieces in self.slices.values() for piece in pieces}
        self.wanted = dict.fromkeys([*(w for w in wanted if w not in sliced), *self.slices])
        self.keep = keep
        self.apart: set[Node] = set()  # must lie in memory by themselves
        self.decisions: list[tuple[Node, str]] = []
        self.order = topological(self.wanted, lambda n: () if n.in_memory else n.src)
        self.position: dict[Node, float] = {node: i for i, node in enumerate(self.order)}
        self.stored: dict[Node, str] = {}
        self.homes: dict[Node, Home] = {}  # stored nodes that lie inside another
        self.parts: dict[Node, list[Node]] = {}  # the stored nodes that make up a larger one, which has no kernel
        self.grounds: dict[Node, Node] = {}  # for each `scatter_set`, the copy in which it replaces rows
        self.lonely: set[Node] = set()  # whose kernel does nothing else
        self.awaited: dict[Node, list[Node]] = {}  # stored nodes that must come before, though not read
        self.group_of: dict[Node, Group] = {}
        self.groups: set[Group] = set()
        self.root = Path()

    def run(self) -> Schedule:
        self._choose_stored()
        self._single_groups()
        self._link()
        self._merge_into_readers()
        self._merge_side_by_side()
        self._merge_small()
        steps = self._steps()
        if profile.tracing():
            for step in steps:
                step.find_lines()
        return Schedule(steps, self.decisions, self.slices)

    # --- which nodes reach memory -------------------------------------------------------------------------------

    def _store(self, node: Node, reason: str) -> None:
        if not node.in_memory and node not in self.stored:
            self.stored[node] = reason
            self.decisions.append((node, reason))

    def _is_stored(self, node: Node) -> bool:
        return node.in_memory or node in self.stored

    def _choose_stored(self) -> None:
        readers: dict[Node, int] = {}
        for node in self.order:
            if not node.in_memory:
                for source in set(node.src):
                    readers[source] = readers.get(source, 0) + 1
        for node in self.wanted:
            self._store(node, "stored: it is asked for")
        cost = Costs(self._is_stored)
        for node in self.order:
            if node.in_memory:
                continue
            if node.op in HEAVY:
                self._store(node, f"stored: a {node.op} is the end of a kernel")
            if node.op in READERS:
                for source in node.src[READERS[node.op]]:
                    self._store_operand(node, source)
            elif node.op == "copy":
                self._store(node.src[0], "stored: it is copied to another device")
                self.apart.add(node.src[0])
            elif node.op == "barrier" and len(node.src) > 1:
                self._store_waiting(node)
            elif node.op == "cat":
                self._store(node, "stored: its parts are computed where they lie in it")
            elif node.op in ("expand", "window") and _repeats(node) and cost.of(node.src[0]).dear:
                self._store(node.src[0], f"stored: the {node.op} would repeat a transcendental function")
            if node.op in MOVEMENT or node.op in ("const", "iota", "buffer") or node in self.stored:
                continue
            reason = cost.worth_storing(node, readers.get(node, 0))
            if reason:
                self._store(node, reason)
        for node in self.wanted:
            self._make_in_place(node)
        for node in list(self.stored):
            if node.op == "cat":
                self._assemble(node)
            elif node.op == "scatter_set":  # rows are replaced in a copy, which is none where a plan overwrites
                ground = self.grounds[node] = self._copy_of(node.src[0])
                self.lonely.add(ground)
                self.homes[ground] = Home(self._memory(node), View.contiguous(node.shape))

    def _store_waiting(self, node: Node) -> None:
        """A barrier that waits for values is a copy that runs after them."""
        self._store(node, "stored: it waits for other values")
        self.lonely.add(node)
        bases = [operand(other, self._is_stored)[0] for other in node.src[1:]]
        self.awaited[node] = [base for base in bases if base.src and not base.in_memory]
        for base in self.awaited[node]:
            self._store(base, "stored: another value waits for it")

    # --- values made of parts -------------------------------------------------------------------------------------

    def _make_in_place(self, whole: Node) -> None:
        """Let what is asked for be its own source, if that has a kernel of a kind that computes nothing else."""
        if whole.in_memory or whole.op not in ("contiguous", "barrier"):
            return
        node, view = self._undone(whole.src[0], View.contiguous(whole.shape))
        fits = node.op == "attention" or (node.op in SCATTERS and view.is_contiguous())
        if fits and self._may_move(node):
            self.homes[node] = Home(whole, view)
            self.parts[whole] = [node]

    def _undone(self, node: Node, view: View) -> tuple[Node, View]:
        """Down from `node`, which is to lie at `view`, through movement that can be undone: what then lies where."""
        while node.op in MOVEMENT and not self._is_stored(node):
            undo = inverse(node)
            moved = view.apply(*undo) if undo is not None else None
            if moved is None:
                break
            node, view = node.src[0], moved
        return node, view

    def _may_move(self, node: Node) -> bool:
        """Whether a node to be computed may lie inside another."""
        return not node.in_memory and not any(
            node in taken for taken in (self.homes, self.wanted, self.keep, self.apart)
        )

    def _assemble(self, whole: Node) -> None:
        """Give each part of a `cat` its home in it: computed there if it is computed at all, otherwise copied there."""
        start, axis = 0, whole.arg
        self.parts[whole] = []
        for part in whole.src:
            end = start + part.shape[axis]
            bounds = tuple((start, end) if a == axis else (0, n) for a, n in enumerate(whole.shape))
            self._settle(part, Home(whole, View.contiguous(whole.shape).shrink(bounds)))
            start = end

    def _settle(self, part: Node, home: Home) -> None:
        node, view = self._undone(part, home.view)
        if node.op not in (*MOVEMENT, "const", "iota", "cat", "copy", *WHOLE) and self._may_move(node):
            self._store(node, "stored: it is part of a larger value")
        else:
            node, view = self._copy_of(part), home.view
        self.homes[node] = Home(home.whole, view)
        self.parts[home.whole].append(node)

    def _copy_of(self, node: Node) -> Node:
        """A node of its own with the same value, computed by a kernel of its own."""
        copied = make("barrier", (node,), where=node.where)
        self.position[copied] = self.position[node] + 0.5
        if not self._is_stored(node) and node.op not in MOVEMENT and node.op not in ("const", "iota"):
            self._store(node, "stored: it is copied into a larger value")
        self._store(copied, "stored: a copy, as a part of a larger value")
        return copied

    def _send_home(self, node: Node) -> None:
        """`node` cannot be where it was to be: let it lie by itself, and copy it."""
        home = self.homes.pop(node)
        copied = self._copy_of(node)
        self.homes[copied] = home
        self.parts[home.whole] = [copied if p is node else p for p in self.parts[home.whole]]

    def _makers(self, node: Node) -> list[Group]:
        """The groups that compute a stored node."""
        return [self.group_of[part] for part in self.parts.get(node, (node,))]

    def _store_operand(self, user: Node, source: Node) -> None:
        base, view = operand(source, self._is_stored)
        if view is None or view.mask is not None or (user.op in WHOLE and base.op == "const"):
            self._store(source, f"stored: {user.op} reads it, and no strides express its movement")
        else:
            self._store(base, f"stored: an operand of {user.op}")

    # --- groups ---------------------------------------------------------------------------------------------------

    def _single_groups(self) -> None:
        """One group a stored node. What has to be stored on the way changes what others compute and read."""
        missing = [node for node in self.stored if node not in self.parts]
        while missing:
            cuts, strays = [], set()
            for node in missing:
                try:
                    self.group_of[node] = self._single_group(node)
                except Stray as stray:
                    if stray.node in self.homes:
                        self._send_home(stray.node)
                    strays.add(stray.node)
                except Cut as cut:
                    self._store(cut.node, "stored: no strides express the movement that follows")
                    cuts.append(cut.node)
            for group in list(self.group_of.values()):
                moved = not strays.isdisjoint((*group.members, *group.reads))
                if moved or (cuts and (group.body is None or any(map(group.body.computes, cuts)))):
                    for member in group.members:
                        self.group_of.pop(member, None)
            missing = [node for node in self.stored if node not in self.group_of and node not in self.parts]
        self.group_of = {node: self.group_of[node] for node in sorted(self.group_of, key=self.position.__getitem__)}

    def _single_group(self, node: Node) -> Group:
        if node.op == "copy":
            return Group([node], Space(node.shape), None, [node.src[0]])
        if node.op in WHOLE:
            reads = WHOLE[node.op](node, self._is_stored, self.homes)[1]
            if node in self.grounds:
                reads.append(self.grounds[node])
            return Group([node], Space(node.shape), None, reads)
        if node.op == "attention":
            return self._attention_group(node)
        space = space_of(node)
        body = Body([node], space, self.stored.__contains__, self.root, self.homes)
        reads = [*body.reads, *self.awaited.get(node, ())]
        return Group([node], space, body, reads, lonely=node in self.lonely)

    def _attention_group(self, node: Node) -> Group:
        """What one kernel computes from the same operands is one group from the start."""
        known = [n for n in self.group_of if n.op == "attention" and siblings(n) == siblings(node)]
        if not known:
            return Group([node], Space(node.shape), None, attention_kernel([node], self._is_stored, self.homes)[1])
        group = self.group_of[known[0]]
        group.members.append(node)
        return group

    def _link(self) -> None:
        """`after`: the stored nodes on which each group depends, as a set of bits."""
        for number, group in enumerate(self.group_of.values()):
            group.bits |= 1 << number
        self.groups = set(self.group_of.values())
        for group in self.group_of.values():
            for read in group.reads:
                for before in () if read.in_memory else self._makers(read):
                    group.after |= before.after | before.bits

    def _readers(self) -> dict[Node, list[Group]]:
        readers: dict[Node, list[Group]] = {}
        for group in dict.fromkeys(self.group_of.values()):
            for read in group.reads:
                readers.setdefault(read, []).append(group)
        return readers

    def _merge_into_readers(self) -> None:
        readers = {node: [g.members[0] for g in groups] for node, groups in self._readers().items()}
        for node in list(self.group_of):
            for reader in readers.get(node, ()):
                producer, consumer = self.group_of[node], self.group_of[reader]
                if producer is not consumer and node in consumer.reads:
                    self._try_merge(producer, consumer, "joined: its reader computes at the same points")

    def _merge_side_by_side(self) -> None:
        for groups in list(self._readers().values()):
            firsts: dict[tuple, Node] = {}
            for member in [g.members[0] for g in groups]:
                group = self.group_of[member]
                if group.kind not in ("loop", "row"):
                    continue
                key = (group.kind, group.space.signature)
                first = firsts.setdefault(key, member)
                other = self.group_of[first]
                if other is not group and not self._try_merge(
                    other, group, "joined: both read the same over one space"
                ):
                    firsts[key] = member

    def _merge_small(self) -> None:
        """Kernels so short that their launch is most of their cost join, over one space, though they share nothing."""
        firsts: dict[tuple, Node] = {}
        for group in list(dict.fromkeys(self.group_of.values())):
            if group.kind not in ("loop", "row") or _size(group.space) > SMALL:
                continue
            member = group.members[0]
            key = (group.kind, group.space.signature, member.device)
            first = firsts.setdefault(key, member)
            other = self.group_of[first]
            if other is not group and not self._try_merge(other, group, "joined: both are short, over one space"):
                firsts[key] = member

    def _try_merge(self, a: Group, b: Group, reason: str) -> bool:
        """Make one group of `a` and `b` if that is one kernel and nothing has to run between them."""
        space_candidates = self._shared_spaces(a, b)
        if not space_candidates or a.members[0].device != b.members[0].device or self._something_between(a, b):
            return False
        members = sorted(a.members + b.members, key=self.position.__getitem__)
        reads = {*a.reads, *b.reads}.difference(members)
        if len(reads) + len(members) > MOST_BUFFERS:
            return False
        for space in space_candidates:
            if self._misplaced(a, b, space) or self._misplaced(b, a, space):
                continue
            try:
                body = self._joint_body(a, b, members, space)
            except (Misfit, Cut):
                continue
            if len(body.instrs) > LARGEST_BODY:
                return False
            merged = Group(members, space, body, body.reads, a.bits | b.bits, (a.after | b.after) & ~(a.bits | b.bits))
            for member in members:
                self.group_of[member] = merged
            self.groups -= {a, b}
            self.groups.add(merged)
            for group in self.groups:
                if group.after & merged.bits:
                    group.after |= merged.after | merged.bits
            self.decisions.append((members[-1], reason))
            return True
        return False

    def _misplaced(self, a: Group, b: Group, space: Space) -> bool:
        """Whether it is plain that `b` reads a value of `a` elsewhere than where `a` has it over `space`."""
        if a.body is None or b.body is None or a.space != space or _size(b.space) != _size(space):
            return False
        if any(member.op in MOVEMENT for member in b.members):
            return False  # it would be undone where it is stored
        for member in a.members:
            for view in b.body.loads(member) if member in b.reads else ():
                seen = view.reshape(space.shape)
                if seen is not None and seen != a.body.members[member][1]:
                    return True
        return False

    def _joint_body(self, a: Group, b: Group, members: list[Node], space: Space) -> Body:
        """The body of both groups together: one of theirs with the other's members, where it does not read them."""
        for first, second in ((a, b), (b, a)):
            alike = first.space == space or (first.kind == "loop" and first.space.shape == space.shape)
            if alike and first.body is not None and not any(member in first.reads for member in second.members):
                return first.body.extended(second.members, space)
        return Body(members, space, self.stored.__contains__, self.root, self.homes)

    def _shared_spaces(self, a: Group, b: Group) -> list[Space]:
        """Spaces worth trying for both groups together, the likeliest first; none if their kinds do not mix."""
        kinds = {a.kind, b.kind}
        if "alone" in kinds or kinds == {"dot", "row"} or (kinds == {"dot"}):
            return []
        if kinds == {"loop"}:
            if _size(a.space) != _size(b.space):
                return []
            return [b.space] if a.space.shape == b.space.shape else [b.space, a.space]
        if kinds == {"row"}:
            if a.space.signature != b.space.signature:
                return []
            return [a.space] if a.space == b.space else [a.space, b.space]
        main, loop = (a, b) if b.kind == "loop" else (b, a)
        if _size(loop.space) not in (_size(main.space), _size(Space(main.space.kept))):
            return []
        return [main.space]

    def _something_between(self, a: Group, b: Group) -> bool:
        """Whether some other group needs one of the two and is needed by the other."""
        for first, second in ((a, b), (b, a)):
            if second.after & first.bits:
                for read in second.reads:
                    for group in () if read.in_memory else self._makers(read):
                        if group is not first and group is not second and group.after & first.bits:
                            return True
        return False

    # --- steps ----------------------------------------------------------------------------------------------------

    def _steps(self) -> list[Step]:
        groups = list(dict.fromkeys(self.group_of.values()))
        read_outside: set[Node] = {*self.wanted, *self.homes}
        steps = []
        for group in reversed(self._in_order(groups)):
            outputs = [m for m in group.members if m in read_outside or (m in self.keep and m.op in HEAVY)]
            if outputs:  # else nothing of it is seen in the end: the one who asked for it shows its padding only
                read_outside.update(
                    r for r in group.reads if not r.in_memory and any(g is not group for g in self._makers(r))
                )
                steps.append(self._step(group, outputs))
        return steps[::-1]

    def _in_order(self, groups: list[Group]) -> list[Group]:
        """The groups in the order in which their kernels run: see `order.py`."""
        groups = sorted(groups, key=lambda g: self.position[g.members[-1]])
        number = {id(group): i for i, group in enumerate(groups)}
        staying = {*self.wanted, *self.keep}
        needs: list[set[int]] = []
        reads: list[dict[Node, int]] = []
        for group in groups:
            read = [r for r in group.reads if not r.in_memory]
            needs.append({number[id(maker)] for r in read for maker in self._makers(r) if maker is not group})
            reads.append({m: 0 if m in staying else _bytes(m) for m in map(self._memory, read)})
        takes = [sum(_bytes(m) for m in g.members if m not in staying and m not in self.homes) for g in groups]
        return [groups[i] for i in in_order(needs, reads, takes)]

    def _step(self, group: Group, outputs: list[Node]) -> Step:
        node = group.members[0]
        if node.op == "copy":
            return Step(None, [self._memory(node.src[0])], [node])
        if node.op in WHOLE:
            kernel, reads = WHOLE[node.op](node, self._is_stored, self.homes)
            outputs = [node]
        elif node.op == "attention":
            kernel, reads = attention_kernel(outputs, self._is_stored, self.homes)
        else:
            assert group.body is not None
            kernel, reads = finish(group.body, outputs, "loop" if group.lonely else group.kind)
        return Step(kernel, [self._memory(r) for r in reads], [self._memory(m) for m in outputs])

    def _memory(self, node: Node) -> Node:
        """The node in whose memory a stored node lies."""
        return self.homes[node].whole if node in self.homes else node


def divided(wanted: Iterable[Node]) -> dict[Node, list[Slice]]:
    """Values to be computed of which all the parts are wanted, each in memory of its own: one memory serves for all."""
    found: dict[Node, list[Slice]] = {}
    wanted = dict.fromkeys(wanted)
    for node in wanted:
        if node.op not in ("contiguous", "barrier"):
            continue
        base, view = operand(node.src[0])
        if view is None or view.mask is not None or view.strides != View.contiguous(view.shape).strides:
            continue
        if not base.in_memory and view.size < prod(base.shape) and base.op not in ("const", "iota"):
            found.setdefault(base, []).append(Slice(node, view.offset, view.size))
    for base, pieces in list(found.items()):
        pieces.sort(key=lambda piece: piece.start)
        ends = [0, *(piece.start + piece.size for piece in pieces)]
        starts = [*(piece.start for piece in pieces), prod(base.shape)]
        if base in wanted or starts != ends or any(s * base.dtype.itemsize % ALIGNMENT for s in starts[:-1]):
            del found[base]
    return found


def _repeats(node: Node) -> bool:
    return prod(node.shape) > prod(node.src[0].shape)


def _bytes(node: Node) -> int:
    return prod(node.shape) * node.dtype.itemsize


def _size(space: Space) -> int:
    size = 1
    for n in space.shape:
        size *= n
    return size
