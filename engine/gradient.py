"""Gradients: from a graph to a bigger graph.

Comes in: a node, the gradient of something with respect to it, and nothing else. Goes out: nodes for the gradients
of the leaves. Nothing runs here, so gradients fuse like anything else, and the gradient of a gradient is this same file
applied again. The table reads as a table of derivatives: `g` is the gradient of the result `y`, and each rule gives one
gradient a source (None: nothing flows there).

>>> from clgrad import Tensor
>>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad.tolist()
[2.0, 4.0, 6.0]
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import reduce
from math import log, pi, prod, sqrt
from typing import Optional

from ..backends.dtypes import accumulator, bool_, is_float
from . import attention, profile
from .node import Node, attribute, constant, iota, make, topological
from .scan import others

Bounds = tuple[tuple[int, int], ...]
MOST_SHIFTS = 16  # overlapping windows are added up shifted; more of them than this, by a scatter


def _expand_gradient(g: Node, y: Node, x: Node):
    return (g.sum(tuple(a for a, (old, new) in enumerate(zip(x.shape, y.shape)) if old != new)),)


def _max_gradient(g: Node, y: Node, a: Node, b: Node):
    """Ties share the gradient evenly, as in PyTorch."""
    half, zero = g * 0.5, 0.0
    tie = a.eq(b)
    return tie.where_(half, (b < a).where_(g, zero)), tie.where_(half, (a < b).where_(g, zero))


def _reduce_max_gradient(g: Node, y: Node, x: Node):
    """Ties share the gradient evenly, as in PyTorch's amax."""
    best = x.eq(y.expand(x.shape)).cast(x.dtype)
    return (best * (g / best.sum(y_axes(x, y))).expand(x.shape),)


def y_axes(x: Node, y: Node) -> tuple[int, ...]:
    """The axes along which the reduction `y` of `x` reduced (those of size 1 need no reducing)."""
    return tuple(a for a, (old, new) in enumerate(zip(x.shape, y.shape)) if old != new)


def _reduce_prod_gradient(g: Node, y: Node, x: Node):
    """The product of all the *other* elements, formed without dividing, so that zeros are right in every derivative."""
    axes = y_axes(x, y)
    if not axes:
        return (g,)
    rest = tuple(a for a in range(len(x.shape)) if a not in axes)
    moved = x.permute(rest + axes)
    outer, n = tuple(x.shape[a] for a in rest), prod(x.shape[a] for a in axes)
    product = others(moved.reshape((*outer, n)), len(outer)).reshape(moved.shape)
    product = product.permute(tuple((rest + axes).index(a) for a in range(len(x.shape))))
    return (g.expand(x.shape) * product,)


def _pow_gradient(g: Node, y: Node, a: Node, b: Node):
    """b a^(b-1) and a^b log a; 0 where b is 0, and where a is 0 but b not below 0 (the limit), as in PyTorch."""
    slope = b * make("pow", (a, b - 1.0))
    flat = make("and", (a.eq(0.0), make("xor", (b < 0.0, constant(True, bool_, b.shape, b.device)))))
    return b.eq(0.0).where_(0.0, g * slope), flat.where_(0.0, g * y * make("log", (a,)))


def _mod_gradient(g: Node, y: Node, a: Node, b: Node):
    return g, -g * make("idiv", (a, b))


def _one_minus_square(x: Node) -> Node:
    """1 - x^2, without the rounding of x^2, which shows near 1."""
    return (1.0 - x) * (1.0 + x)


def _gather_gradient(g: Node, y: Node, x: Node, index: Node):
    """Each row gains the gradients of all its readers. Of halves the sum is rounded once, not at each addition."""
    wide = accumulator(g.dtype)
    return make("scatter_add", (g.cast(wide), index), x.shape[0]).cast(x.dtype), None


def _attention_gradient(g: Node, y: Node, *src: Node):
    """Of the output another kernel; of what that kernel computes, the gradient of its expansion."""
    if y.arg.result == "output":
        return attention.gradient(g, y)
    found = pull_back_to(src, attention.expansion(y), g)
    return tuple(found.get(s) for s in src)


def _scatter_set_gradient(g: Node, y: Node, x: Node, values: Node, index: Node):
    """What was replaced gets nothing; of values for one row, the last gets the row's gradient."""
    zeros = constant(0.0, g.dtype, values.shape, g.device)
    number = iota(prod(index.shape), g.device)
    nobody = constant(-1, number.dtype, x.shape[:1], g.device)
    flat = index.reshape((prod(index.shape),))
    last = make("gather", (make("scatter_set", (nobody, number, flat)), flat)).eq(number)
    shape = index.shape + (1,) * (len(x.shape) - 1)
    kept = last.reshape(shape).expand(values.shape)
    return make("scatter_set", (g, zeros, index)), kept.where_(make("gather", (g, index)), 0.0), None


def _window_gradient(g: Node, y: Node, x: Node):
    axis, size, step = y.arg
    return (placed(g, axis, size, step, x.shape[axis]),)


def placed(g: Node, axis: int, size: int, step: int, length: int) -> Node:
    """Windows (..., count, ..., size), `step` apart, put where they lie along an axis of `length`, and added up.

    In blocks of `step`: those of one window go into successive rows.
    """
    count, rank, rounds = g.shape[axis], len(g.shape) - 1, -(-size // step)
    if 0 in g.shape:
        return constant(0.0, g.dtype, (*g.shape[:axis], length, *g.shape[axis + 1 : -1]), g.device)
    g = g.permute((*range(axis + 1), rank, *range(axis + 1, rank)))  # (..., count, size, ...)
    before, after = g.shape[:axis], g.shape[axis + 2 :]
    if rounds > MOST_SHIFTS:
        index = iota(count * size, g.device)  # of a window and a place in it; then of the element that is there
        number = constant(size, index.dtype, index.shape, g.device)
        window = make("idiv", (index, number))
        index = (window * step + (index - window * number)).reshape((count, size))
        order = (axis, axis + 1, *(a for a in range(rank + 1) if a not in (axis, axis + 1)))
        wide = accumulator(g.dtype)
        total = make("scatter_add", (g.permute(order).cast(wide), index), length).cast(g.dtype)
        return total.permute((*range(1, axis + 1), 0, *range(axis + 1, rank)))
    g = resized(g, axis + 1, 0, rounds * step)
    blocks = [
        resized(resized(g, axis + 1, -k * step, step), axis, k, count + rounds - 1) for k in range(rounds)
    ]  # (..., count + rounds - 1, step, ...)
    total = reduce(Node.__add__, blocks)
    return resized(total.reshape((*before, (count + rounds - 1) * step, *after)), axis, 0, length)


def resized(x: Node, axis: int, start: int, size: int) -> Node:
    """`x` put at `start` of `size` places along `axis`: cut off where it does not fit, zeros where it is not."""
    n = x.shape[axis]
    low, high = max(-start, 0), min(n, size - start)
    if (low, high) != (0, n):
        x = make("shrink", (x,), tuple((low, high) if a == axis else (0, m) for a, m in enumerate(x.shape)))
    before, after = max(start, 0), max(size - start - n, 0)
    if not before + after:
        return x
    return make("pad", (x,), tuple((before, after) if a == axis else (0, 0) for a in range(len(x.shape))))


def _cat_gradient(g: Node, y: Node, *parts: Node):
    """Each part gets its own part of the gradient."""
    pieces, start = [], 0
    for part in parts:
        end = start + part.shape[y.arg]
        bounds = tuple((start, end) if a == y.arg else (0, n) for a, n in enumerate(y.shape))
        pieces.append(make("shrink", (g,), bounds))
        start = end
    return tuple(pieces)


# fmt: off
GRADIENTS: dict[str, Callable[..., tuple[Optional[Node], ...]]] = {
    "neg":         lambda g, y, x: (-g,),
    "exp":         lambda g, y, x: (g * y,),
    "log":         lambda g, y, x: (g / x,),
    "sin":         lambda g, y, x: (g * make("cos", (x,)),),
    "cos":         lambda g, y, x: (-g * make("sin", (x,)),),
    "tanh":        lambda g, y, x: (g * (1.0 - y * y),),
    "sqrt":        lambda g, y, x: (g * 0.5 / y,),
    "reciprocal":  lambda g, y, x: (-g * y * y,),
    "erf":         lambda g, y, x: (g * (make("exp", (-x * x,)) * (2.0 / sqrt(pi))),),
    "expm1":       lambda g, y, x: (g * (y + 1.0),),
    "log1p":       lambda g, y, x: (g / (x + 1.0),),
    "exp2":        lambda g, y, x: (g * (y * log(2.0)),),
    "log2":        lambda g, y, x: (g / (x * log(2.0)),),
    "log10":       lambda g, y, x: (g / (x * log(10.0)),),
    "tan":         lambda g, y, x: (g * (1.0 + y * y),),
    "asin":        lambda g, y, x: (g / make("sqrt", (_one_minus_square(x),)),),
    "acos":        lambda g, y, x: (-g / make("sqrt", (_one_minus_square(x),)),),
    "atan":        lambda g, y, x: (g / (1.0 + x * x),),
    "sinh":        lambda g, y, x: (g * make("cosh", (x,)),),
    "cosh":        lambda g, y, x: (g * make("sinh", (x,)),),
    "asinh":       lambda g, y, x: (g / make("cosh", (y,)),),  # sqrt(1 + x^2) without overflow
    "acosh":       lambda g, y, x: (g / make("sinh", (y,)),),
    "atanh":       lambda g, y, x: (g / _one_minus_square(x),),
    "floor":       lambda g, y, x: (None,),
    "add":         lambda g, y, a, b: (g, g),
    "sub":         lambda g, y, a, b: (g, -g),
    "mul":         lambda g, y, a, b: (g * b, g * a),
    "div":         lambda g, y, a, b: (g / b, -g * y / b),
    "max":         _max_gradient,
    "idiv":        lambda g, y, a, b: (None, None),
    "pow":         _pow_gradient,
    "mod":         _mod_gradient,
    "where":       lambda g, y, c, a, b: (None, c.where_(g, 0.0), c.where_(0.0, g)),
    "cast":        lambda g, y, x: (g.cast(x.dtype),),
    "bitcast":     lambda g, y, x: (None,),
    "custom":      lambda g, y, *src: y.arg.pull_back(g, y, *src),
    "reduce_sum":  lambda g, y, x: (g.expand(x.shape),),
    "reduce_max":  _reduce_max_gradient,
    "reduce_prod": _reduce_prod_gradient,
    "reshape":     lambda g, y, x: (g.reshape(x.shape),),
    "permute":     lambda g, y, x: (g.permute(tuple(y.arg.index(a) for a in range(len(y.arg)))),),
    "expand":      _expand_gradient,
    "pad":         lambda g, y, x: (make("shrink", (g,), tuple((b, b + n) for (b, _), n in zip(y.arg, x.shape))),),
    "shrink":      lambda g, y, x: (_joined(x, {y.arg: g}),),  # but all parts of a split are joined at once
    "flip":        lambda g, y, x: (make("flip", (g,), y.arg),),
    "window":      _window_gradient,
    "cat":         _cat_gradient,
    "dot":         lambda g, y, a, b: (make("dot", (g, b.transpose())), make("dot", (a.transpose(), g))),
    "attention":   _attention_gradient,
    "gather":      _gather_gradient,
    "scatter_add": lambda g, y, values, index: (make("gather", (g, index)), None),
    "scatter_set": _scatter_set_gradient,
    "contiguous":  lambda g, y, x: (g,),
    "barrier":     lambda g, y, x, *awaited: (g,),
    "copy":        lambda g, y, x: (make("copy", (g,), x.device),),
    "composite":   lambda g, y, expansion, *inputs: (None, *y.arg.gradient(g, y, *inputs)),
}
# Nothing flows through these: leaves, comparisons, integers.
NO_GRADIENT = (
    "detach", "lt", "eq", "and", "or", "xor", "shl", "shr", "argsort", "random", "iota", "buffer", "const",
)
# fmt: on


@profile.span("gradient")
def gradients(y: Node, g: Node) -> dict[Node, Node]:
    """The gradient of every leaf that `y` depends on and that wants one, given `g`, the gradient of `y`."""
    return _pull_back([(y, g)], lambda node: node.owner is not None, differentiable_sources)


@profile.span("gradient")
def pull_back(starts: Sequence[tuple[Node, Node]], targets: Collection[Node]) -> dict[Node, Node]:
    """The gradient of each of `targets` on which the nodes of `starts` depend, given the gradients of those.

    Targets may depend on one another. Those that require no grad are looked for along all floats.
    """
    sources = differentiable_sources if all(t.requires_grad for t in targets) else _float_sources
    useful: set[Node] = set(targets)  # and what is on the way to them
    for node in topological([y for y, _ in starts], sources):
        if not useful.isdisjoint(sources(node)):
            useful.add(node)
    road = [(y, g) for y, g in starts if y in useful]
    return _pull_back(road, set(targets).__contains__, lambda node: tuple(s for s in sources(node) if s in useful))


def pull_back_to(inputs: Collection[Node], y: Node, g: Node) -> dict[Node, Node]:
    """The gradient of each of `inputs` on which `y` depends, and no further: what one computes from another counts as
    computed from nothing."""
    ends = set(inputs)
    return _pull_back([(y, g)], ends.__contains__, lambda node: () if node in ends else differentiable_sources(node))


def _pull_back(
    starts: Sequence[tuple[Node, Node]], wanted: Callable[[Node], bool], sources: Callable[[Node], tuple[Node, ...]]
) -> dict[Node, Node]:
    """The gradient of every wanted node that `starts` depend on, on the road back that `sources` tells."""
    found: dict[Node, Optional[Node]] = {}
    for y, g in starts:
        before = found.get(y)
        found[y] = g if before is None else before + g
    cuts: dict[Node, dict[Node, Node]] = {}  # of each node the parts that it was shrunk to, and their gradients
    result: dict[Node, Node] = {}
    try:
        for node in reversed(topological(found, sources)):
            g_node = found.pop(node, None)
            if node in cuts:
                whole = _whole(node, cuts.pop(node))
                g_node = whole if g_node is None or whole is None else g_node + whole
            if g_node is None:
                continue
            if wanted(node):
                result[node] = g_node
            following = sources(node)
            if not following:
                continue
            attribute(node.where)
            if node.op == "shrink":
                cuts.setdefault(node.src[0], {})[node] = g_node
                continue
            for source, part in zip(node.src, GRADIENTS[node.op](g_node, node, *node.src)):
                if part is not None and source in following:
                    before = found.get(source)
                    found[source] = part if before is None else before + part
    finally:
        attribute(None)
    return result


def _whole(x: Node, cuts: dict[Node, Node]) -> Optional[Node]:
    """The gradient of `x`, given those of the parts that it was shrunk to."""
    if len(cuts) > 1:
        pieces: dict[Bounds, Node] = {}
        for part, g in cuts.items():
            pieces[part.arg] = g if part.arg not in pieces else pieces[part.arg] + g
        return _joined(x, pieces)
    ((part, g),) = cuts.items()
    return GRADIENTS["shrink"](g, part, x)[0]


def _joined(x: Node, pieces: dict[Bounds, Node]) -> Node:
    """The gradient of `x` from those of its parts: side by side where they are all of it, as after a split."""
    ordered = sorted(pieces)
    for axis in range(len(x.shape)):
        edges = [(0, 0), *(bounds[axis] for bounds in ordered), (x.shape[axis],) * 2]
        rest = all(b == (0, n) for bounds in ordered for a, (b, n) in enumerate(zip(bounds, x.shape)) if a != axis)
        if len(pieces) > 1 and rest and all(high == low for (_, high), (low, _) in zip(edges, edges[1:])):
            return make("cat", tuple(pieces[bounds] for bounds in ordered), axis)
    padded = [
        make("pad", (g,), tuple((lo, n - hi) for (lo, hi), n in zip(bounds, x.shape))) for bounds, g in pieces.items()
    ]
    return reduce(Node.__add__, padded)


def differentiable_sources(node: Node) -> tuple[Node, ...]:
    if node.owner is not None:
        return ()
    sources = node.src[1:] if node.op == "composite" else node.src
    return tuple(s for s in sources if s.requires_grad)


def _float_sources(node: Node) -> tuple[Node, ...]:
    """The sources through which a gradient could flow, wanted or not."""
    if node.owner is not None or node.op in NO_GRADIENT:
        return ()
    sources = node.src[1:] if node.op == "composite" else node.src
    return tuple(s for s in sources if is_float(s.dtype))
