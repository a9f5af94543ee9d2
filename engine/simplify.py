"""Simplify: the same values with fewer nodes.

Comes in: the nodes that are wanted. Goes out: for every node of their graph one that means the same, with identities
(`detach`, composites, `x * 1`, a reshape of a reshape, ...) gone, and with reductions shaped for the machine: a sum
over something repeated becomes a product, and a long reduction to few results becomes two short ones, which is both
faster (there is something to do in parallel) and more accurate. Which rewrites apply depends on shapes alone, so the
order of every summation is the same in every run.

Only rewrites that hold for every bit pattern are made: x * 0 is not 0 where x is NaN, x + 0.0 is not x where x is -0.0.

>>> from clgrad import Tensor
>>> from clgrad.engine.simplify import simplify
>>> x = Tensor([[1.0, 2.0]])
>>> node = (x.reshape(2, 1).reshape(2) * 1).node
>>> simplify([node])[node]
<reshape (2,) float32 NUMPY>
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Optional

from ..backends import dtypes
from ..backends.dtypes import float32, is_half
from . import profile
from .node import Node, attribute, constant, make, topological

Src = tuple[Node, ...]
Rewrite = Callable[[Node, Src], Optional[Node]]

# A reduction of at least LONG elements to at most FEW results is split in two.
LONG, FEW, PIECE = 4096, 64, 1024


@profile.span("simplify")
def simplify(roots: Iterable[Node], known: Optional[dict[Node, Node]] = None) -> dict[Node, Node]:
    """The simpler equal of every node that `roots` depend on. Realised nodes are taken as they are, `known` ones as
    what they map to."""
    result: dict[Node, Node] = dict(known or {})
    try:
        for node in topological(roots, lambda n: () if n.in_memory or n in result else n.src):
            if node in result:
                continue
            attribute(node.where)
            if node.in_memory or (not node.src and node.op != "const"):
                result[node] = node
                continue
            src = tuple(result[s] for s in node.src)
            if 0 in node.shape:
                result[node] = constant(0, node.dtype, node.shape, node.device)
                continue
            rewrite = RULES.get(node.op)
            simpler = rewrite(node, src) if rewrite is not None else None
            if simpler is None:
                simpler = node if src == node.src else _with_sources(node, src)
            result[node] = simpler
    finally:
        attribute(None)
    return result


def _with_sources(node: Node, src: Src) -> Node:
    if node.op == "barrier":  # its number must not change: two barriers of one value stay two
        rebuilt = Node(
            "barrier", src, node.arg, node.shape, node.dtype, node.device, node.requires_grad, node.where, node
        )
        return rebuilt
    return make(node.op, src, node.arg, node.where)


def _is_const(node: Node, value) -> bool:
    return node.op == "const" and node.arg == value and str(node.arg) == str(type(node.arg)(value))


def _moved_constant(node: Node, src: Src) -> Optional[Node]:
    """Movement leaves a constant constant, but for padding, which keeps only zeros so."""
    if src[0].op == "const" and (node.op != "pad" or src[0].arg == 0 and str(src[0].arg) in ("0", "0.0", "False")):
        return constant(src[0].arg, node.dtype, node.shape, node.device)
    return None


def _reshape(node: Node, src: Src) -> Optional[Node]:
    x = src[0]
    while x.op == "reshape" and not x.in_memory:
        x = x.src[0]
    if x.shape == node.shape:
        return x
    return _moved_constant(node, (x,)) or (make("reshape", (x,), node.shape, node.where) if x is not src[0] else None)


def _permute(node: Node, src: Src) -> Optional[Node]:
    x, order = src[0], node.arg
    if x.op == "permute" and not x.in_memory:
        order = tuple(x.arg[a] for a in order)
        x = x.src[0]
    if order == tuple(range(len(order))):
        return x
    return _moved_constant(node, (x,)) or (make("permute", (x,), order, node.where) if x is not src[0] else None)


def _expand(node: Node, src: Src) -> Optional[Node]:
    x = src[0]
    if x.op == "expand" and not x.in_memory:
        x = x.src[0]
    if x.shape == node.shape:
        return x
    return _moved_constant(node, (x,)) or (make("expand", (x,), node.shape, node.where) if x is not src[0] else None)


def _pad(node: Node, src: Src) -> Optional[Node]:
    return src[0] if not any(map(sum, node.arg)) else _moved_constant(node, src)


def _shrink(node: Node, src: Src) -> Optional[Node]:
    x = src[0]
    if node.shape == x.shape:
        return x
    if x.op == "pad" and not x.in_memory:
        inner = x.src[0]
        if node.arg == tuple((before, before + n) for (before, _), n in zip(x.arg, inner.shape, strict=True)):
            return inner
    if x.op == "cat" and not x.in_memory:
        start, (low, high) = 0, node.arg[x.arg]
        for part in x.src:
            end = start + part.shape[x.arg]
            if start <= low and high <= end:
                bounds = tuple((low - start, high - start) if a == x.arg else b for a, b in enumerate(node.arg))
                return part if node.shape == part.shape else make("shrink", (part,), bounds, node.where)
            start = end
    if x.op == "shrink" and not x.in_memory:
        bounds = tuple((lo + base, hi + base) for (lo, hi), (base, _) in zip(node.arg, x.arg, strict=True))
        return make("shrink", (x.src[0],), bounds, node.where)
    return _moved_constant(node, src)


def _flip(node: Node, src: Src) -> Optional[Node]:
    return src[0] if not any(node.shape[a] > 1 for a in node.arg) else _moved_constant(node, src)


def _cat(node: Node, src: Src) -> Optional[Node]:
    """Neighbouring parts of one value are one part of it."""
    axis = node.arg
    parts: list[Node] = []
    for part in src:
        if part.op == "cat" and part.arg == axis and not part.in_memory:
            parts.extend(part.src)
        elif part.shape[axis]:
            parts.append(_stretch(part) if len(node.shape) == 1 else part)
    joined = parts[:1]
    for part in parts[1:]:
        one = _adjacent(joined[-1], part, axis)
        if one is None:
            joined.append(part)
        else:
            joined[-1] = one
    if len(joined) > 1:
        return None if tuple(joined) == node.src else make("cat", tuple(joined), axis, node.where)
    (only,) = joined
    return (_shrink(only, only.src) if only.op == "shrink" else None) or only


def _stretch(part: Node) -> Node:
    """A flat part as a shrink of a flat value, if that is what it is under its reshapes and barriers."""
    x = part
    while x.op in ("reshape", "barrier", "contiguous") and len(x.src) == 1 and not x.in_memory:
        x = x.src[0]
    return x if x.op == "shrink" and len(x.shape) == 1 and not x.in_memory else part


def _adjacent(a: Node, b: Node, axis: int) -> Optional[Node]:
    """`a` and `b` as one node, if they are parts of one value that meet along `axis`."""
    if a.op == b.op == "const" and constant(a.arg, a.dtype, b.shape, a.device) is b:
        return constant(a.arg, a.dtype, tuple(n + b.shape[axis] * (i == axis) for i, n in enumerate(a.shape)), a.device)
    if a.op != "shrink" or b.op != "shrink" or a.in_memory or b.in_memory or a.src[0] is not b.src[0]:
        return None
    if any(x != y for i, (x, y) in enumerate(zip(a.arg, b.arg, strict=True)) if i != axis):
        return None
    if a.arg[axis][1] != b.arg[axis][0]:
        return None
    bounds = tuple((x[0], y[1]) if i == axis else x for i, (x, y) in enumerate(zip(a.arg, b.arg, strict=True)))
    return make("shrink", a.src, bounds, a.where)


def _cast(node: Node, src: Src) -> Optional[Node]:
    x = src[0]
    while x.op == "cast" and not x.in_memory and dtypes.holds(x.dtype, x.src[0].dtype):
        x = x.src[0]
    if x.dtype == node.dtype:
        return x
    return make("cast", (x,), node.dtype, node.where) if x is not src[0] else None


def _mul(node: Node, src: Src) -> Optional[Node]:
    a, b = src
    if _is_const(b, 1):
        return a
    return b if _is_const(a, 1) else None


def _div(node: Node, src: Src) -> Optional[Node]:
    return src[0] if _is_const(src[1], 1) else None


def _sub(node: Node, src: Src) -> Optional[Node]:
    return src[0] if _is_const(src[1], 0) else None


def _neg(node: Node, src: Src) -> Optional[Node]:
    return src[0].src[0] if src[0].op == "neg" and not src[0].in_memory else None


def _where(node: Node, src: Src) -> Optional[Node]:
    condition, a, b = src
    if a is b:
        return a
    if condition.op == "const":
        return a if condition.arg else b
    opposite = _opposite(condition)
    return make("where", (opposite, b, a), None, node.where) if opposite is not None else None


def _opposite(condition: Node) -> Optional[Node]:
    """What a condition is the negation of, if it is one."""
    if condition.in_memory:
        return None
    if condition.op == "xor":
        return condition.src[0] if _is_const(condition.src[1], True) else None
    inner = _opposite(condition.src[0]) if condition.op in ("reshape", "permute", "expand") else None
    return make(condition.op, (inner,), condition.arg, condition.where) if inner is not None else None


def _contiguous(node: Node, src: Src) -> Optional[Node]:
    return src[0] if src[0].in_memory or src[0].op in ("contiguous", "barrier") else None


def _reduce(node: Node, src: Src) -> Optional[Node]:
    x = src[0]
    axes = tuple(a for a in node.arg if x.shape[a] != 1)
    if not axes:
        return x
    if 0 in x.shape:  # and the result is not empty: the reduction of nothing
        return constant(1 if node.op == "reduce_prod" else 0, node.dtype, node.shape, node.device)
    if is_half(node.dtype) and node.op != "reduce_max":  # in float32, and rounded once, however it is cut
        wide = make(node.op, (make("cast", (x,), float32, node.where),), axes, node.where)
        return make("cast", (simplify_reduce(wide),), node.dtype, node.where)
    if x.op == "expand" and not x.in_memory and node.op != "reduce_prod":
        inner = x.src[0]
        repeated = tuple(a for a in axes if inner.shape[a] == 1)
        if repeated:
            return _reduce_repeated(node, inner, axes, repeated, prod(x.shape[a] for a in repeated))
    size = prod(x.shape[a] for a in axes)
    if size >= LONG and prod(node.shape) <= FEW:
        split = _split(node, x, axes)
        if split is not None:
            return split
    return make(node.op, (x,), axes, node.where) if x is not node.src[0] or axes != node.arg else None


def _reduce_repeated(node: Node, inner: Node, axes, repeated, times: int) -> Node:
    """Reduce what is repeated `times` along `repeated` without repeating it: n x, or x."""
    rest = tuple(a for a in axes if a not in repeated)
    part = make(node.op, (inner,), rest, node.where) if rest else inner
    if node.op == "reduce_sum":
        part = part * times
    return part.expand(node.shape)


def _split(node: Node, x: Node, axes: tuple[int, ...]) -> Optional[Node]:
    """One long reduction as two: first the last axis (or pieces of it), then the rest."""
    if len(axes) > 1:
        first = make(node.op, (x,), axes[-1:], node.where)
        return simplify_reduce(make(node.op, (first,), axes[:-1], node.where))
    (axis,) = axes
    length = x.shape[axis]
    piece = next((p for p in range(PIECE, 15, -1) if length % p == 0), None)
    if piece is None:
        return None
    shape = (*x.shape[:axis], length // piece, piece, *x.shape[axis + 1 :])
    first = make(node.op, (make("reshape", (x,), shape, node.where),), (axis + 1,), node.where)
    shape = (*x.shape[:axis], length // piece, *x.shape[axis + 1 :])
    return simplify_reduce(make(node.op, (make("reshape", (first,), shape, node.where),), (axis,), node.where))


def simplify_reduce(node: Node) -> Node:
    return _reduce(node, node.src) or node


RULES: dict[str, Rewrite] = {
    "detach": lambda node, src: src[0],
    "composite": lambda node, src: src[0],
    "contiguous": _contiguous,
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "pad": _pad,
    "shrink": _shrink,
    "cat": _cat,
    "flip": _flip,
    "window": _moved_constant,
    "cast": _cast,
    "mul": _mul,
    "div": _div,
    "sub": _sub,
    "neg": _neg,
    "where": _where,
    "reduce_sum": _reduce,
    "reduce_max": _reduce,
    "reduce_prod": _reduce,
    "dot": lambda node, src: constant(0, node.dtype, node.shape, node.device) if src[0].shape[-1] == 0 else None,
    "scatter_set": lambda node, src: src[0] if 0 in src[1].shape else None,
    "scatter_add": lambda node, src: (
        constant(0, node.dtype, node.shape, node.device) if 0 in src[0].shape or 0 in src[1].shape else None
    ),
}
