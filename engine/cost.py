"""The cost rule: which values to keep in memory, and which to compute again wherever they are read.

Comes in: a node, and which nodes are stored. Goes out: what it takes to compute it from those, and whether that is
worth storing. A value that several kernels read is stored when computing it again takes more than CHEAP_OPS
operations, or more than one full-sized read, or a transcendental function. Nothing is measured: the same graph has the
same cuts on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .node import Node
from .ops import MOVEMENT, UNARY_FLOAT

CHEAP_OPS = 12
DEEP = 64  # longer chains of elementwise operations are cut, so that kernels stay of a size compilers like
TRANSCENDENTAL = frozenset(UNARY_FLOAT) - {"sqrt", "reciprocal", "floor"} | {"pow", "gather", "custom"}


@dataclass
class Cost:
    """What it takes to compute a value from memory: operations, full-sized reads, transcendental functions, depth."""

    ops: int
    reads: frozenset[Node]
    dear: bool
    depth: int


class Costs:
    """The cost rule. A value that is stored costs one read; anything else what its sources cost, and its own."""

    def __init__(self, is_stored: Callable[[Node], bool]):
        self._is_stored = is_stored
        self._known: dict[Node, Cost] = {}

    def of(self, node: Node) -> Cost:
        if self._is_stored(node):
            return Cost(0, frozenset((node,)), False, 0)
        cost = self._known.get(node)
        if cost is None:
            cost = self._known[node] = self._compute(node)
        return cost

    def _compute(self, node: Node) -> Cost:
        if not node.src:
            return Cost(0, frozenset(), False, 0)
        parts = [self.of(s) for s in node.src]  # sources come first in the order, so this does not recurse deep
        if node.op in MOVEMENT:
            part = parts[0]
            return Cost(part.ops, part.reads if node.op != "expand" else frozenset(), part.dear, part.depth)
        reads = frozenset().union(*(p.reads for p in parts)) if node.op != "random" else frozenset()
        return Cost(
            min(1 + sum(p.ops for p in parts), 10**6),
            reads if len(reads) < 4 else frozenset(list(reads)[:4]),
            node.op in TRANSCENDENTAL or any(p.dear for p in parts),
            1 + max(p.depth for p in parts),
        )

    def worth_storing(self, node: Node, readers: int) -> str:
        """Why to store an elementwise value, or "" to compute it again in each kernel that reads it."""
        cost = self.of(node)
        if cost.depth >= DEEP:
            return f"stored: {DEEP} operations in a chain are enough for one kernel"
        if readers < 2:
            return ""
        if cost.dear:
            return f"stored: read {readers} times, and a transcendental function is dear"
        if len(cost.reads) > 1:
            return f"stored: read {readers} times, and costs {len(cost.reads)} reads to compute again"
        if cost.ops > CHEAP_OPS:
            return f"stored: read {readers} times, and costs {cost.ops} operations to compute again"
        return ""
