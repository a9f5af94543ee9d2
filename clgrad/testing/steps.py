"""The steps that random programs are made of: for every method that a Tensor has, a line of Python and what it needs.

A step is one entry of `STEPS`: its name, the text of an expression in which {0} is a value of the program (and {1} a
second one), the kind of dtype that {0} has, what {1} has to be like, and a function that draws the other arguments, or
says None where the step does not fit. To add a method, add a line.

>>> STEPS["softmax"].text
'{0}.softmax({axis})'
"""

from __future__ import annotations

from collections.abc import Callable
from math import e, prod
from typing import Any, NamedTuple, Optional

import numpy as np

from ..backends.dtypes import is_bool, is_float, is_int
from . import strategies, values
from .sample import code
from .strategies import Shape
from .values import integers, pick

LIMIT = 400  # elements of any value


class Type(NamedTuple):
    """What is known of a value before it is computed: no element is larger than `bound` in magnitude."""

    shape: Shape
    dtype: np.dtype
    bound: float
    requires_grad: bool

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)


Arguments = Optional[dict[str, Any]]


class Partner(NamedTuple):
    """The second operand: which values of the program will do, and the shape of a new one if none does."""

    fits: Callable[[Type, Type], bool]
    shape: Callable[[Any, Type], Optional[Shape]]


class Step(NamedTuple):
    """`torch` says that torch's tensors understand the same text, and mean the same by it."""

    text: str
    kind: str = "f"  # of {0}: f floats, i integers, b bool, n floats or integers, a any
    partner: Optional[Partner] = None
    draw: Callable[[Any, Type], Arguments] = lambda draw, t: {}  # the other arguments
    bound: Callable[..., float] = lambda x, y=0.0: x + y + 2
    torch: bool = False


KINDS: dict[str, Callable[[np.dtype], bool]] = {
    "f": is_float,
    "i": is_int,
    "b": is_bool,
    "n": lambda dtype: not is_bool(dtype),
    "w": lambda dtype: not is_float(dtype),
    "a": lambda dtype: True,
}

# --- second operands ----------------------------------------------------------------------------------------------


def _broadcasts(x: Type, y: Type) -> bool:
    try:
        return x.dtype == y.dtype and prod(np.broadcast_shapes(x.shape, y.shape)) <= LIMIT
    except ValueError:
        return False


def _broadcast_shape(draw, x: Type) -> Shape:
    ones = draw(integers(0, 2**x.rank - 1))
    return tuple(1 if ones >> a & 1 else n for a, n in enumerate(x.shape))[draw(integers(0, x.rank)) :]


def _multiplies(x: Type, y: Type) -> bool:
    return x.dtype == y.dtype and x.rank >= 1 and y.rank == 2 and x.shape[-1] == y.shape[0] and _small(x, y.shape[1])


def _small(x: Type, factor: int) -> bool:
    return x.size * max(factor, 1) <= LIMIT


def _alike(x: Type, y: Type) -> bool:
    """Whether they can stand one after another."""
    return x.dtype == y.dtype and x.rank == y.rank > 0 and x.shape[1:] == y.shape[1:]


BROADCAST = Partner(_broadcasts, _broadcast_shape)
SAME = Partner(lambda x, y: x.shape == y.shape and x.dtype == y.dtype, lambda draw, x: x.shape)
MATRIX = Partner(_multiplies, lambda draw, x: (x.shape[-1], pick(draw, (2, 3, 1))) if x.rank else None)
ROWS = Partner(
    lambda x, y: (
        x.dtype == y.dtype and x.rank == y.rank > 0 and x.shape[1:] == y.shape[1:] and x.size + y.size <= LIMIT
    ),
    lambda draw, x: (pick(draw, (1, 2, 0)), *x.shape[1:]) if x.rank else None,
)


def _filters(draw, x: Type) -> Optional[Shape]:
    """Weights of a convolution over the last two axes, with the axes before as channels."""
    if x.rank < 2 or not x.size:
        return None
    return (pick(draw, (1, 2)), prod(x.shape[:-2]), *(min(n, pick(draw, (1, 2, 3))) for n in x.shape[-2:]))


def _spread(draw, x: Type) -> Optional[Shape]:
    shape = _filters(draw, x)
    return shape and (shape[1], shape[0], *shape[2:])


FILTERS, SPREAD = Partner(lambda x, y: False, _filters), Partner(lambda x, y: False, _spread)

# --- arguments ----------------------------------------------------------------------------------------------------


def _axis(draw, t: Type) -> Arguments:
    return {"axis": draw(integers(-t.rank, t.rank - 1)), "k": pick(draw, (False, True))} if t.rank else None


def _filled_axis(draw, t: Type) -> Arguments:
    return _axis(draw, t) if t.size else None


def _axes(draw, t: Type) -> Arguments:
    if not t.rank:
        return None
    chosen = draw(integers(1, 2**t.rank - 1))
    return {"axes": tuple(a for a in range(t.rank) if chosen >> a & 1), "k": pick(draw, (False, True))}


def _filled_axes(draw, t: Type) -> Arguments:
    return _axes(draw, t) if t.size else None


def _several(draw, t: Type) -> Arguments:
    """Axes over more than one element, as a variance needs."""
    found = _filled_axes(draw, t)
    return found if found and prod(t.shape[a] for a in found["axes"]) > 1 else None


def _matrix(draw, t: Type) -> Arguments:
    return {"k": draw(integers(-2, 2))} if t.rank >= 2 else None


def _images(draw, t: Type) -> Arguments:
    return {"image": (1, prod(t.shape[:-2]), *t.shape[-2:])} if t.rank >= 2 and t.size else None


def _pooled(draw, t: Type) -> Arguments:
    found = _images(draw, t)
    return {**found, "size": tuple(min(n, 2) for n in t.shape[-2:])} if found else None


def _rank(least: int) -> Callable[[Any, Type], Arguments]:
    return lambda draw, t: {} if t.rank >= least and t.size else None


def _nothing(draw, t: Type) -> Arguments:
    return {}


def _room(times: int) -> Callable[[Any, Type], Arguments]:
    """Where there is room for a new axis of that size."""
    return lambda draw, t: {} if t.rank < 5 and _small(t, times) else None


def _squared(draw, t: Type) -> Arguments:
    return {} if t.rank >= 2 and _small(t, t.shape[-2]) else None


def _reshaped(draw, t: Type) -> Arguments:
    return {"shape": strategies._reshaped(draw, t.shape)}


def _permuted(draw, t: Type) -> Arguments:
    return {"order": pick(draw, strategies._orders(t.rank)[::-1])}


def _widths(draw, t: Type) -> Arguments:
    widths = tuple(strategies._widths(draw, t.rank, 2))
    return {"widths": widths} if prod(n + a + b for n, (a, b) in zip(t.shape, widths)) <= LIMIT and t.rank else None


def _bounds(draw, t: Type) -> Arguments:
    code_, result = draw(integers(0, 9**t.rank - 1)), []
    for a, n in enumerate(t.shape):
        low, high = divmod(code_ // 9**a % 9, 3)
        result.append((low, n - high) if low + high < n else (0, n))
    return {"bounds": tuple(result)} if t.rank else None


def _expanded(draw, t: Type) -> Arguments:
    shape = tuple(pick(draw, (2, 3)) if n == 1 else n for n in t.shape)
    shape = (2, *shape) if draw(integers(0, 1)) or shape == t.shape else shape
    return {"shape": shape} if prod(shape) <= LIMIT and len(shape) <= 5 else None


def _times(draw, t: Type) -> Arguments:
    times = tuple(pick(draw, (1, 2, 3)) for _ in t.shape)
    return {"times": times} if t.rank and prod(times) * t.size <= LIMIT else None


def _count_along(draw, t: Type) -> Arguments:
    found = _filled_axis(draw, t)
    return {**found, "n": pick(draw, (2, 3, 1))} if found and t.size * 3 <= LIMIT else None


def _within(draw, t: Type) -> Arguments:
    """An axis and a number up to its size."""
    found = _filled_axis(draw, t)
    return {**found, "n": draw(integers(1, t.shape[found["axis"]]))} if found else None


def _window(draw, t: Type) -> Arguments:
    found = _within(draw, t)
    return {**found, "step": draw(integers(1, 2))} if found and t.rank < 5 and _small(t, found["n"]) else None


def _factors(draw, t: Type) -> Arguments:
    found = _filled_axis(draw, t)
    if not found or t.rank > 4:
        return None
    n = t.shape[found["axis"]]
    factor = pick(draw, [d for d in range(1, n + 1) if n % d == 0])
    return {**found, "sizes": (factor, n // factor)}


def _tensor(array: np.ndarray) -> str:
    return f"Tensor({code(array)}, device={{0}}.device)"


def _index(draw, t: Type) -> Arguments:
    index = draw(strategies.indices(t.shape, masks=False))
    return {"index": code(index)} if np.empty(t.shape, bool)[index].size <= LIMIT and t.rank else None


def _cells(draw, t: Type) -> Arguments:
    """An index like the tensor, but of any length along one axis, for gather and scatter."""
    found = _filled_axis(draw, t)
    if not found:
        return None
    axis = found["axis"] % t.rank
    shape = tuple(pick(draw, (1, 2, 3)) if a == axis else n for a, n in enumerate(t.shape))
    drawn = values.array(draw, np.dtype(np.int64), shape, 0, t.shape[axis] - 1)
    return {"axis": axis, "cells": _tensor(drawn)} if prod(shape) <= LIMIT else None


def _scattered(draw, t: Type) -> Arguments:
    """The same no longer than the tensor, with no cell named twice."""
    found = _filled_axis(draw, t)
    if not found:
        return None
    axis = found["axis"] % t.rank
    order = np.random.default_rng(draw(integers(0, 99))).permutation(t.shape[axis])[: pick(draw, (1, 2, 3))]
    shape = tuple(len(order) if a == axis else n for a, n in enumerate(t.shape))
    cells = np.broadcast_to(order.reshape([-1 if a == axis else 1 for a in range(t.rank)]), shape)
    part = ", ".join(f":{n}" for n in shape)
    return {"axis": axis, "order": _tensor(order), "cells": _tensor(np.ascontiguousarray(cells)), "part": part}


def _rows(draw, t: Type) -> Arguments:
    if not t.rank or not t.shape[0]:
        return None
    shape = draw(strategies.shapes(0, 2, 1, 3, 6))
    drawn = values.array(draw, np.dtype(np.int64), shape, 0, t.shape[0] - 1)
    return {"rows": _tensor(drawn)} if prod(shape) * prod(t.shape[1:]) <= LIMIT else None


def _full(draw, t: Type) -> Arguments:
    return {} if t.size else None


def _few(draw, t: Type) -> Arguments:
    return {} if t.size * t.size <= LIMIT else None


def _targets(draw, t: Type) -> Arguments:
    if t.rank != 2 or not t.size:
        return None
    return {"targets": _tensor(values.array(draw, np.dtype(np.int64), t.shape[:1], 0, t.shape[1] - 1))}


def _wanting(draw, t: Type) -> Arguments:
    return {} if t.requires_grad and t.size else None


# --- the table ----------------------------------------------------------------------------------------------------


def _named(names: str, text: str = "{0}.NAME()", **options) -> dict[str, Step]:
    """Steps that differ in the method's name only."""
    return {name: Step(text.replace("NAME", name), **options) for name in names.split()}


def _moves(entries: dict[str, tuple[str, Any]], kind: str = "a", torch: bool = False) -> dict[str, Step]:
    """Steps whose results are no larger than what they are given."""
    return {name: Step(text, kind, None, draw, lambda x: x, torch) for name, (text, draw) in entries.items()}


def _contracted(x: float, y: Optional[float] = None) -> float:
    return 20 * x * (x if y is None else y)


def _large(x: float, y: float = 0.0) -> float:
    return e ** min(x, 60.0)


UNPOOLED = (
    "{out} = {0}.reshape({image}).max_pool2d({size}, return_indices=True); "
    "{out} = {out}[0].max_unpool2d({out}[1], {size}, output_size={image})"
)

# fmt: off
STEPS: dict[str, Step] = {
    # functions of one number
    **_named("sin cos tanh sigmoid erf atan asinh", torch=True, bound=lambda x: min(x, 2.0)),
    **_named("exp expm1 sinh cosh exp2", torch=True, bound=_large),
    **_named("abs neg relu floor ceil trunc round sign", torch=True, bound=lambda x: x + 1),
    **_named("square", torch=True, bound=lambda x: x * x),
    **_named("log log2 log10 rsqrt reciprocal", "({0}.abs() + 0.5).NAME()", torch=True),
    **_named("log1p sqrt", "({0}.abs() + 0.25).NAME()", torch=True),
    **_named("asin acos atanh", "({0}.tanh() * 0.75).NAME()", torch=True),
    "acosh": Step("({0}.abs() + 1.5).acosh()", torch=True),
    "tan": Step("{0}.tanh().tan()", torch=True),
    **_named("gelu quick_gelu silu swish mish softplus softsign logsigmoid leaky_relu"),
    **_named("relu6 elu celu selu hardtanh hardsigmoid hardswish"),
    "clamp": Step("{0}.clamp(-0.5, 1.0)", torch=True),
    "clip": Step("{0}.clip(-1.0, 1.5)", torch=True, bound=lambda x: 2.0),
    **_named("isnan isinf isfinite", torch=True),
    **_named("logical_not", kind="a", torch=True),
    # with numbers
    "times number": Step("{0} * 1.5", torch=True), "minus number": Step("0.25 - {0}", torch=True),
    "squared": Step("{0} ** 2", torch=True, bound=lambda x: x * x),
    "cubed": Step("{0} ** 3", torch=True, bound=lambda x: x ** 3),
    "number over": Step("2.0 / ({0} * {0} + 1.0)", torch=True),
    "number to": Step("2.0 ** {0}.tanh()", torch=True),
    "int arithmetic": Step("{0} * 3 - 1", "i", torch=True), "int power": Step("{0} ** 2", "i"),
    "int floor": Step("{0} // 3", "i", torch=True), "int remainder": Step("{0} % 5", "i", torch=True),
    "int true division": Step("{0} / 4", "i", torch=True),
    "shifts": Step("({0} << 2) >> 1", "i", torch=True), "invert": Step("{0}.bitwise_not()", "w", torch=True),
    "shift methods": Step("{0}.lshift(2).rshift(1)", "i"),
    "remainder": Step("{0} % 1.75", torch=True), "floor division": Step("{0} // 0.75"),
    "mod": Step("{0}.mod(1.75)"), "fmod": Step("{0}.fmod(1.75)", torch=True),
    # two operands
    **_named("add sub maximum minimum", "{0}.NAME({1})", kind="n", partner=BROADCAST, torch=True),
    "mul": Step("{0}.mul({1})", "n", BROADCAST, torch=True, bound=lambda x, y: x * y),
    "div": Step("{0}.div({1}.abs() + 0.5)", "f", BROADCAST, torch=True, bound=lambda x, y: 2 * x),
    "pow": Step("({0}.tanh() + 1.5).pow({1}.tanh())", "f", BROADCAST, torch=True, bound=lambda x, y: 3.0),
    **_named("logaddexp copysign", "{0}.NAME({1})", partner=BROADCAST, torch=True),
    "lerp": Step("{0}.lerp({1}, 0.25)", "f", SAME, torch=True),
    "less": Step("{0} < {1}", "n", BROADCAST, torch=True), "at least": Step("{0} >= {1}", "n", BROADCAST, torch=True),
    "isclose": Step("{0}.isclose({1})", "n", BROADCAST, torch=True),
    "equal": Step("{0}.eq({1})", "a", BROADCAST, torch=True),
    "unequal": Step("{0}.ne({1})", "a", BROADCAST, torch=True),
    "bits": Step("{0}.bitwise_and({1}).bitwise_or({0}.bitwise_xor(5))", "i", BROADCAST, torch=True),
    "logic": Step("({0} & {1}) ^ {0}", "b", BROADCAST, torch=True),
    "where": Step("({0} < {1}).where({0}, {1})", "n", BROADCAST),
    "where number": Step("({0} > 0).where({0}, -1)", "n"),
    "twice": Step("({0} + {1}) * ({0} - {1})", "f", BROADCAST, torch=True, bound=lambda x, y: (x + y) ** 2),
    # dtypes
    **_named("float double", kind="a", torch=True), **_named("int long short bool", kind="w", torch=True),
    "cast": Step('{0}.trunc().cast("int32")', "f"), "to float": Step("{0}.float() * 0.125", "w", torch=True),
    "bitcast": Step('{0}.float().bitcast("int32")'),
    "positive": Step("{0} > 0.25", torch=True),
    # reductions
    **_named("sum", "{0}.NAME({axes}, {k})", kind="a", draw=_axes, torch=True, bound=lambda x: x * 50),
    **_named("mean", "{0}.NAME({axes}, {k})", draw=_filled_axes, torch=True),
    **_named("max min", "{0}.NAME({axis}, {k})", kind="n", draw=_filled_axis),
    "max of all": Step("{0}.max()", "n", draw=_rank(0), torch=True),
    "sum of all": Step("{0}.sum()", "n", torch=True, bound=lambda x: x * 50),
    "prod": Step("({0}.tanh() + 0.75).prod({axis})", draw=_axis, torch=True, bound=lambda x: 1e3),
    **_named("var std", "{0}.NAME({axes})", draw=_several, torch=True, bound=lambda x: x * x),
    **_named("var_mean std_mean", "{0}.NAME({axes})", draw=_several, bound=lambda x: x * x),
    **_named("any all", "{0}.NAME({axis}, {k})", kind="a", draw=_axis, torch=True),
    **_named("argmax argmin", "{0}.NAME({axis}, {k})", kind="n", draw=_filled_axis, torch=True, bound=lambda x: 20.0),
    **_named("softmax log_softmax logsumexp", "{0}.NAME({axis})", draw=_filled_axis, torch=True),
    **_named("softmin layernorm", "{0}.NAME({axis})", draw=_filled_axis),
    "normalize": Step("({0} + 3.0).normalize(dim={axis})", draw=_filled_axis),
    # scans and sorting
    **_named("cumsum logcumsumexp", "{0}.NAME({axis})", draw=_filled_axis, torch=True, bound=lambda x: x * 20),
    "cumprod": Step("({0}.tanh() * 0.5 + 1.0).cumprod({axis})", draw=_filled_axis, torch=True, bound=lambda x: 1e3),
    **_named("cummax cummin", "{0}.NAME({axis})", kind="n", draw=_filled_axis, torch=True),
    "sort": Step("{0}.sort({axis})", "n", draw=_filled_axis),
    "argsort": Step("{0}.argsort({axis})", "n", draw=_filled_axis),
    "topk": Step("{0}.topk({n}, {axis})", "n", draw=_within),
    # movement: the same elements, so no larger
    **_moves({
        "reshape": ("{0}.reshape({shape})", _reshaped), "flatten": ("{0}.flatten()", _nothing),
        "permute": ("{0}.permute({order})", _permuted), "transpose": ("{0}.transpose({axis}, 0)", _axis),
        "expand": ("{0}.expand({shape})", _expanded), "repeat": ("{0}.repeat({times})", _times),
        "flip": ("{0}.flip({axes})", _axes), "roll": ("{0}.roll({n}, {axis})", _count_along),
        "squeeze": ("{0}.squeeze()", _nothing), "unsqueeze": ("{0}.unsqueeze({axis})", _axis),
        "unflatten": ("{0}.unflatten({axis}, {sizes})", _factors),
        "repeat_interleave": ("{0}.repeat_interleave({n}, {axis})", _count_along),
        "unfold": ("{0}.unfold({axis}, {n}, {step})", _window),
        "split": ("{0}.split({n}, {axis})", _within), "chunk": ("{0}.chunk(2, {axis})", _filled_axis),
        "broadcast_to": ("{0}.broadcast_to({shape})", _expanded),
        "T": ("{0}.T", lambda draw, t: {} if t.rank == 2 else None),
    }, torch=True),
    **_moves({"view": ("{0}.view({shape})", _reshaped), "diag": ("{0}.flatten().diag()", _few)}, kind="n"),
    **_moves({"rearrange": ('{0}.rearrange("a ... b -> b (...) a")', _rank(2))}),
    **_moves({"pad": ("{0}.pad({widths})", _widths), "shrink": ("{0}.shrink({bounds})", _bounds)}),
    **_moves({"tril": ("{0}.tril({k})", _matrix), "triu": ("{0}.triu({k})", _matrix)}, kind="n", torch=True),
    **_moves({"diagonal": ("{0}.diagonal()", _rank(2))}, kind="n", torch=True),
    "pad with": Step("{0}.pad({widths}, value=1.5)", draw=_widths),
    "cat": Step("Tensor.cat({0}, {1})", "a", ROWS, bound=max),
    "meshgrid": Step("{0}.flatten().meshgrid({1}.flatten())", "n", SAME, _few, max),
    "stack": Step("Tensor.stack({0}, {1}, dim=-1)", "a", SAME, _room(2), bound=max),
    # indexing
    **_moves({"index": ("{0}[{index}]", _index)}),
    **_moves({"take": ("{0}[{rows}]", _rows), "gather": ("{0}.gather({axis}, {cells})", _cells)}, torch=True),
    "scatter": Step("{0}.scatter({axis}, {cells}, {1}[{part}])", "n", SAME, _scattered, max, torch=True),
    "scatter add": Step('{0}.scatter_reduce({axis}, {cells}, {1}[{part}], "sum")', "n", SAME, _scattered, torch=True),
    "take rows": Step("{0}.take({rows})", "a", draw=_rows),
    "index_copy": Step("{0}.index_copy({axis}, {order}, {1}[{part}])", "n", SAME, _scattered, max),
    "masked_fill": Step("{0}.masked_fill({0} > 0.5, 1.25)", torch=True),
    "one_hot": Step("({0} % 3).one_hot(3)", "i", draw=_room(3)),
    "assign": Step("{out} = {0}.clone(); {out}[{index}] = 1.5", draw=_index),
    # products
    "matmul": Step("{0}.matmul({1})", "n", MATRIX, bound=_contracted, torch=True),
    "gram": Step("{0} @ {0}.transpose(-1, -2)", "n", None, _squared, bound=_contracted, torch=True),
    "einsum": Step('Tensor.einsum("...i,ij->...j", {0}, {1})', "f", MATRIX, bound=_contracted),
    "dot": Step("{0}.dot({1})", "n", MATRIX, bound=_contracted),
    "linear": Step("{0}.linear({1})", "f", MATRIX, bound=_contracted),
    "conv2d": Step("{0}.reshape((1, -1, *{0}.shape[-2:])).conv2d({1})", "f", FILTERS, bound=_contracted),
    "conv_transpose2d": Step("{0}.reshape({image}).conv_transpose2d({1})", "f", SPREAD, _images, _contracted),
    **_moves({
        "interpolate": ("{0}.reshape({image}).interpolate((3, 4))", _images),
        "max_unpool2d": (UNPOOLED, _pooled),
        "avg_pool2d": ("{0}.reshape({image}).avg_pool2d({size})", _pooled),
        "max_pool2d": ("{0}.reshape({image}).max_pool2d({size})", _pooled),
        "attention": ("{0}.scaled_dot_product_attention({0}, {0} * 0.5, is_causal=True)", _rank(2)),
    }, kind="f"),
    # losses
    **_named("cross_entropy sparse_categorical_crossentropy", "{0}.NAME({targets})", draw=_targets),
    "nll_loss": Step("{0}.log_softmax(1).nll_loss({targets})", draw=_targets),
    "binary_crossentropy": Step("{0}.sigmoid().binary_crossentropy({1}.sigmoid())", "f", SAME, _full),
    "binary_crossentropy_logits": Step("{0}.binary_crossentropy_logits({1}.sigmoid())", "f", SAME, _full),
    # the engine
    **_moves({name: ("{0}." + name + "()", _nothing) for name in ("contiguous", "clone", "detach")}, torch=True),
    "gradient": Step("({0} * {0}).sum().gradient({leaf})[0]", draw=_wanting, bound=lambda x: x * x * 100),
}
# fmt: on
