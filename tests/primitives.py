"""The fifth table: what each primitive is given in tests, and what it must make of it.

`ELEMENTWISE` says what each elementwise primitive means, on which dtypes it exists, and how far off it may be in units
in the last place. The meaning is written for *wide* operands: floats as extended precision, integers as Python's own
(object arrays), bool as bool; `narrow` brings the result back to the dtype. So no oracle shares an overflow or a
rounding with the code that it judges.

`DRAW` has one entry for every primitive of the graph: a function that draws a `Case`, its operands as bases and the
movement that leads from them to what the primitive is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from strategies import MOVES, elements, finfo, laid_out, move, movement, shapes

from clgrad import Tensor, operation
from clgrad.backends.dtypes import accumulator, is_float
from clgrad.backends.numpy.philox import philox4x32
from clgrad.engine.attention import attention
from clgrad.engine.composite import Composite
from clgrad.engine.node import iota, make

BOOL = ("bool",)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
NUMBERS = INTEGERS + FLOATS
ALL = BOOL + NUMBERS


class Elementwise(NamedTuple):
    """`meaning(*wide arrays)`, on the `dtypes` where the primitive exists.

    `result` is the dtype of the result, None for the operands' own. `ulp` bounds the distance from the exact result
    rounded once.
    """

    dtypes: tuple[str, ...]
    meaning: Callable[..., Any]
    arity: int
    ulp: int = 0
    result: str | None = None


def _python(function: Callable[..., Any], arity: int) -> Callable[..., Any]:
    """A function of Python scalars over object arrays."""
    return np.frompyfunc(function, arity, 1)


def _mod(a, b):
    """The sign of the divisor; x % 0 is 0 for integers and NaN for floats."""
    return _python(lambda x, y: x % y if y else 0, 2)(a, b) if a.dtype == object else np.mod(a, b)


def _idiv(a, b):
    return _python(lambda x, y: x // y if y else 0, 2)(a, b) if a.dtype == object else np.floor_divide(a, b)


def _whole_power(x, n):
    """Modulo 2**64, which narrows to any integer dtype. A negative power is 1 / x**|n| without its fraction."""
    if n >= 0:
        return pow(x, n, 2**64)
    return {1: 1, -1: 1 - 2 * (n % 2)}.get(x, 0)


def _pow(a, b):
    return _python(_whole_power, 2)(a, b) if a.dtype == object else np.power(a, b)


def _erf(x):
    return np.array([math.erf(v) for v in x.ravel()], np.longdouble).reshape(x.shape)


def _shift_left(a, b):
    return _python(lambda x, n: x << n if 0 <= n < 64 else 0, 2)(a, b)


def _shift_right(a, b):
    return _python(lambda x, n: x >> n if 0 <= n < 64 else (-1 if x < 0 else 0), 2)(a, b)


# fmt: off
ELEMENTWISE: dict[str, Elementwise] = {
    "neg":        Elementwise(NUMBERS, lambda x: -x, 1),
    "exp":        Elementwise(FLOATS, np.exp, 1, 4),
    "log":        Elementwise(FLOATS, np.log, 1, 4),
    "sin":        Elementwise(FLOATS, np.sin, 1, 4),
    "cos":        Elementwise(FLOATS, np.cos, 1, 4),
    "tanh":       Elementwise(FLOATS, np.tanh, 1, 4),
    "sqrt":       Elementwise(FLOATS, np.sqrt, 1, 3),
    "reciprocal": Elementwise(FLOATS, lambda x: 1 / x, 1, 3),
    "erf":        Elementwise(FLOATS, _erf, 1, 4),
    "expm1":      Elementwise(FLOATS, np.expm1, 1, 4),
    "log1p":      Elementwise(FLOATS, np.log1p, 1, 4),
    "exp2":       Elementwise(FLOATS, np.exp2, 1, 4),
    "log2":       Elementwise(FLOATS, np.log2, 1, 4),
    "log10":      Elementwise(FLOATS, np.log10, 1, 4),
    "tan":        Elementwise(FLOATS, np.tan, 1, 4),
    "asin":       Elementwise(FLOATS, np.arcsin, 1, 4),
    "acos":       Elementwise(FLOATS, np.arccos, 1, 4),
    "atan":       Elementwise(FLOATS, np.arctan, 1, 4),
    "sinh":       Elementwise(FLOATS, np.sinh, 1, 4),
    "cosh":       Elementwise(FLOATS, np.cosh, 1, 4),
    "asinh":      Elementwise(FLOATS, np.arcsinh, 1, 4),
    "acosh":      Elementwise(FLOATS, np.arccosh, 1, 4),
    "atanh":      Elementwise(FLOATS, np.arctanh, 1, 4),
    "floor":      Elementwise(FLOATS, np.floor, 1),
    "add":        Elementwise(ALL, np.add, 2),
    "sub":        Elementwise(NUMBERS, np.subtract, 2),
    "mul":        Elementwise(ALL, np.multiply, 2),
    "div":        Elementwise(FLOATS, np.divide, 2, 3),
    "idiv":       Elementwise(NUMBERS, _idiv, 2, 1),
    "mod":        Elementwise(NUMBERS, _mod, 2),
    "max":        Elementwise(ALL, np.maximum, 2),
    "pow":        Elementwise(NUMBERS, _pow, 2, 4),
    "lt":         Elementwise(ALL, np.less, 2, result="bool"),
    "eq":         Elementwise(ALL, np.equal, 2, result="bool"),
    "and":        Elementwise(BOOL + INTEGERS, np.bitwise_and, 2),
    "or":         Elementwise(BOOL + INTEGERS, np.bitwise_or, 2),
    "xor":        Elementwise(BOOL + INTEGERS, np.bitwise_xor, 2),
    "shl":        Elementwise(INTEGERS, _shift_left, 2),
    "shr":        Elementwise(INTEGERS, _shift_right, 2),
    "where":      Elementwise(ALL, np.where, 3),
}
# fmt: on


def widen(array: np.ndarray) -> np.ndarray:
    """The operand of a meaning: extended precision, Python integers, or bool."""
    if is_float(array.dtype):
        return array.astype(np.longdouble)
    return array.astype(object) if array.dtype.kind in "iu" else array


def narrow(exact, dtype) -> np.ndarray:
    """A meaning's result as `dtype`: integers wrap, floats are rounded once."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        wrap = _python(lambda v: int(v) % 2 ** (8 * dtype.itemsize), 1)
        return np.asarray(wrap(exact)).astype(f"uint{8 * dtype.itemsize}").view(dtype)
    exact = np.asarray(exact)
    if exact.dtype == object:  # integers of 64 bits, which that holds exactly, and of which ml_dtypes takes but 63
        exact = exact.astype(np.longdouble)
    with np.errstate(all="ignore"):
        return exact.astype(dtype)


def meaning(op: str, *operands: np.ndarray) -> np.ndarray:
    """What the elementwise primitive `op` must make of `operands`, to the rounding of one operation."""
    entry = ELEMENTWISE[op]
    with np.errstate(all="ignore"):
        return narrow(entry.meaning(*map(widen, operands)), entry.result or operands[-1].dtype)


def cast(x: np.ndarray, dtype) -> np.ndarray:
    """Float to integer truncates and saturates, NaN gives 0; integers wrap; to bool is x != 0; else round once."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return x != 0
    if is_float(x.dtype) and dtype.kind in "iu":
        lo, hi = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)

        def saturate(v: float) -> int:
            if math.isnan(v):
                return 0
            return (hi if v > 0 else lo) if math.isinf(v) else min(max(int(v), lo), hi)

        return np.array([saturate(float(v)) for v in x.ravel()], dtype).reshape(x.shape)
    return narrow(widen(x), dtype)


def ulp_distance(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """How many floats lie between; 0 for NaN with NaN; infinity follows the largest float, and -0 is 0."""

    def ordered(x: np.ndarray) -> np.ndarray:
        bits = x.view(f"int{8 * x.itemsize}").astype(object)
        return np.where(bits < 0, -(bits + 2 ** (8 * x.itemsize - 1)), bits)

    distance = np.abs(ordered(np.ascontiguousarray(got)) - ordered(np.ascontiguousarray(want)))
    both, either = np.isnan(got) & np.isnan(want), np.isnan(got) | np.isnan(want)
    return np.where(both, 0, np.where(either, 2**63, distance))


def assert_close(got: np.ndarray, want: np.ndarray, ulp: int = 0, signed_zero: bool = True) -> None:
    """`got` is `want`: the same shape and dtype, exactly for integers and bool, within `ulp` for floats.

    A subnormal may be flushed to zero. Zeros have the same sign unless `signed_zero` is False.
    """
    assert got.dtype == want.dtype and got.shape == want.shape, (got.dtype, got.shape, want.dtype, want.shape)
    if not is_float(got.dtype):
        np.testing.assert_array_equal(got, want)
        return
    tiny = finfo(got.dtype).tiny
    with np.errstate(invalid="ignore"):
        flushed = (np.abs(want) < tiny) & (np.abs(got) <= tiny)
    wrong = (ulp_distance(got, want) > ulp) & ~flushed
    if signed_zero:
        wrong |= (got == 0) & (want == 0) & (np.signbit(got) != np.signbit(want))
    if wrong.any():
        at = tuple(int(i[0]) for i in np.nonzero(wrong)) if got.ndim else ()
        raise AssertionError(f"at {at}: got {got[at]!r}, want {want[at]!r} within {ulp} ulp")


# --- drawing ------------------------------------------------------------------------------------------------------


class Operand(NamedTuple):
    """A base array, and the movement primitives that lead from it to what the primitive under test reads."""

    base: np.ndarray
    steps: tuple[tuple[str, Any], ...] = ()

    def array(self) -> np.ndarray:
        array = self.base
        for op, arg in self.steps:
            array = move(array, op, arg)
        return np.asarray(array)

    def tensor(self, device: str) -> Tensor:
        tensor = Tensor(self.base, dtype=self.base.dtype, device=device)
        for op, arg in self.steps:
            tensor = Tensor._make(op, tensor, arg=arg)
        return tensor


@dataclass
class Case:
    """`op` of `operands` with `arg` is `want`, within `ulp` units in the last place and `slack` besides."""

    op: str
    operands: list[Operand]
    arg: Any
    want: np.ndarray
    ulp: int = 0
    slack: np.ndarray | None = None

    def run(self, device: str) -> Tensor:
        """The Tensor that should have the value `want`, not computed yet."""
        if self.op in SPECIAL:
            return SPECIAL[self.op](self, device)
        return Tensor._make(self.op, *(operand.tensor(device) for operand in self.operands), arg=self.arg)

    def check(self, got: np.ndarray) -> None:
        if self.slack is None:
            assert_close(got, self.want, self.ulp, signed_zero=self.op in ELEMENTWISE and self.op != "max")
            return
        assert got.dtype == self.want.dtype and got.shape == self.want.shape
        with np.errstate(invalid="ignore"):
            near = np.abs(got.astype(np.longdouble) - self.want) <= self.slack
        same = (got == self.want) | (np.isnan(got) & np.isnan(self.want))
        assert np.all(near | same), f"{self.op}: got {got!r}, want {self.want!r} within {self.slack!r}"


# Primitives that are no function of their operands alone.
SPECIAL: dict[str, Callable[[Case, str], Tensor]] = {
    "iota": lambda case, device: Tensor._wrap(iota(case.arg, device)),
    "copy": lambda case, device: case.operands[0].tensor(device).to("NUMPY").to(device),
    "attention": lambda case, device: Tensor._wrap(
        attention(*(operand.tensor(device).node for operand in case.operands), None, *case.arg)
    ),
    "composite": lambda case, device: Tensor._wrap(_composite(case.operands[0].tensor(device).node)),
}


def _composite(x):
    return make("composite", (x, x), Composite("identity", None, lambda arg, g, y, x: (g,)))


def _operand(draw, dtype: str, shape, special: bool = True, pool=None) -> Operand:
    pool = elements(np.dtype(dtype), special) if pool is None else pool
    return Operand(*draw(laid_out(np.dtype(dtype), shape, pool)))


def _draw_elementwise(op: str):
    def draw_case(draw) -> Case:
        dtype, shape = draw(st.sampled_from(ELEMENTWISE[op].dtypes)), draw(shapes())
        dtypes = ["bool", dtype, dtype] if op == "where" else [dtype] * ELEMENTWISE[op].arity
        operands = [_operand(draw, name, shape) for name in dtypes]
        return Case(op, operands, None, meaning(op, *(o.array() for o in operands)), ELEMENTWISE[op].ulp)

    return draw_case


def _draw_cast(draw) -> Case:
    target = np.dtype(draw(st.sampled_from(ALL)))
    x = _operand(draw, draw(st.sampled_from(ALL)), draw(shapes()))
    return Case("cast", [x], target, cast(x.array(), target))


# Exact but for one rounding: which of two, or their difference.
CUSTOM = operation(
    "above", numpy=lambda a, b: np.where(b > a, b, a - b), opencl="if (b > a) return b;\nreturn a - b;",
    gradient=lambda g, y, a, b: ((b <= a).where(g, 0), (b > a).where(g, -g)),
)  # fmt: skip


def _draw_custom(draw) -> Case:
    dtype, shape = draw(st.sampled_from(FLOATS)), draw(shapes())
    a, b = (_operand(draw, dtype, shape) for _ in range(2))
    with np.errstate(all="ignore"):
        wide_a, wide_b = widen(a.array()), widen(b.array())
        want = narrow(np.where(wide_b > wide_a, wide_b, wide_a - wide_b), dtype)
    return Case("custom", [a, b], CUSTOM, want, ulp=1)


def _draw_bitcast(draw) -> Case:
    target = np.dtype(draw(st.sampled_from(NUMBERS)))
    same_width = [name for name in NUMBERS if np.dtype(name).itemsize == target.itemsize]
    x = _operand(draw, draw(st.sampled_from(same_width)), draw(shapes()))
    return Case("bitcast", [x], target, np.array(x.array(), order="C").view(target))


def _draw_reduce_sum(draw) -> Case:
    dtype = draw(st.sampled_from(ALL))
    pool = elements(np.dtype(dtype), special=dtype in INTEGERS)
    if dtype in FLOATS:
        pool = pool | st.sampled_from([math.inf, -math.inf, math.nan])
    x = _operand(draw, dtype, draw(shapes()), pool=pool)
    array, axes = x.array(), _axes(draw, x.array().ndim)
    if dtype in BOOL:
        return Case("reduce_sum", [x], axes, np.logical_or.reduce(array, axes, keepdims=True))
    with np.errstate(all="ignore"):
        exact = np.add.reduce(widen(array), axes, keepdims=True) if axes else widen(array)
        want = narrow(exact, dtype)
        if dtype in INTEGERS:
            return Case("reduce_sum", [x], axes, want)
        scale = np.add.reduce(np.abs(np.nan_to_num(widen(array), posinf=0, neginf=0)), axes, keepdims=True)
        return Case("reduce_sum", [x], axes, want, slack=_sum_slack(dtype, array.size, scale))


def _sum_slack(dtype: str, count: int, scale):
    """The rounding of a sum of `count` terms whose magnitudes add up to `scale`; halves are rounded only once."""
    each = finfo(accumulator(np.dtype(dtype))).eps
    return scale * (count * each + finfo(dtype).eps / 2) + finfo(dtype).tiny


def _draw_reduce_max(draw) -> Case:
    dtype = draw(st.sampled_from(ALL))
    x = _operand(draw, dtype, draw(shapes(sizes=st.sampled_from([1, 2, 3, 5, 17]))))
    axes = _axes(draw, x.array().ndim)
    return Case("reduce_max", [x], axes, np.maximum.reduce(x.array(), axes, keepdims=True))


def _draw_reduce_prod(draw) -> Case:
    dtype = draw(st.sampled_from(ALL))
    pool = elements(np.dtype(dtype))
    if dtype in FLOATS:  # products that neither overflow nor vanish on the way
        near_one = st.floats(0.921875, 1.09375, width=16)
        pool = near_one | near_one.map(lambda v: -v) | st.sampled_from([0.0, 1.0, math.nan])
    x = _operand(draw, dtype, draw(shapes(max_size=60)), pool=pool)
    array, axes = x.array(), _axes(draw, x.array().ndim)
    if dtype in BOOL:
        return Case("reduce_prod", [x], axes, np.logical_and.reduce(array, axes, keepdims=True))
    exact = np.multiply.reduce(widen(array), axes, keepdims=True) if axes else widen(array)
    want = narrow(exact, dtype)
    slack = np.abs(exact) * (array.size + 1) * finfo(dtype).eps if dtype in FLOATS else None
    return Case("reduce_prod", [x], axes, want, slack=slack)


def _axes(draw, rank: int) -> tuple[int, ...]:
    return tuple(a for a in range(rank) if draw(st.booleans()))


def _draw_movement(op: str):
    def draw_case(draw) -> Case:
        shape = draw(shapes().filter(len) if op == "window" else shapes())
        x = _operand(draw, draw(st.sampled_from(ALL)), shape)
        _, arg = draw(movement(x.array().shape, ops=(op,)))
        return Case(op, [x], arg, np.array(move(x.array(), op, arg)))

    return draw_case


def _draw_cat(draw) -> Case:
    dtype, shape = draw(st.sampled_from(ALL)), draw(shapes().filter(len))
    axis = draw(st.integers(0, len(shape) - 1))
    lengths = draw(st.lists(st.sampled_from([shape[axis], 0, 1, 3]), min_size=1, max_size=4))
    parts = [_operand(draw, dtype, tuple(n if a == axis else m for a, m in enumerate(shape))) for n in lengths]
    return Case("cat", parts, axis, np.concatenate([p.array() for p in parts], axis))


def _draw_dot(draw) -> Case:
    dtype = draw(st.sampled_from(NUMBERS))
    batch = draw(st.sampled_from([(), (), (1,), (3,), (2, 2), (0,)]))
    size = st.sampled_from([0, 1, 2, 3, 7, 16, 33])
    m, k, n = draw(size), draw(size), draw(size)
    a, b = (_operand(draw, dtype, (*batch, *shape), special=dtype in INTEGERS) for shape in ((m, k), (k, n)))
    with np.errstate(all="ignore"):
        if k == 0:
            exact = np.zeros((*batch, m, n), object if dtype in INTEGERS else np.longdouble)
        else:
            exact = (widen(a.array())[..., :, :, None] * widen(b.array())[..., None, :, :]).sum(-2)
        if dtype in INTEGERS:
            return Case("dot", [a, b], None, narrow(exact, dtype))
        scale = (np.abs(widen(a.array()))[..., :, :, None] * np.abs(widen(b.array()))[..., None, :, :]).sum(-2)
    return Case("dot", [a, b], None, narrow(exact, dtype), slack=_sum_slack(dtype, k, scale))


def _draw_attention(draw) -> Case:
    dtype = draw(st.sampled_from(FLOATS))
    batch, causal = draw(st.sampled_from([(), (1,), (3,), (2, 2)])), draw(st.booleans())
    size = st.sampled_from([1, 2, 3, 7, 16, 33])
    queries, keys, width, other = (draw(size) for _ in range(4))
    shapes = ((queries, width), (keys, width), (keys, other))
    operands = [_operand(draw, dtype, (*batch, *shape), special=False) for shape in shapes]
    q, k, v = (widen(operand.array()) for operand in operands)
    scale = 1 / math.sqrt(width)
    scores = q @ np.swapaxes(k, -1, -2) * scale
    if causal:
        scores = np.where(np.tri(queries, keys, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    # A score is wrong by an error of a sum of `width` products, and a weight relatively by twice that.
    size = (np.abs(q) @ np.swapaxes(np.abs(k), -1, -2)).max() * scale
    slack = finfo(dtype).eps * (16 + keys + (2 * width + 8) * float(size)) * float(np.abs(v).max())
    want = narrow(weights @ v, dtype)
    return Case("attention", operands, (scale, causal), want, slack=np.full(want.shape, slack))


def _indices(draw, rows: int) -> Operand:
    """Valid rows, in any integer dtype. The layouts may put zeros between, which are valid where there is a row."""
    dtype = draw(st.sampled_from(INTEGERS))
    shape = draw(shapes(max_dims=2, max_size=20)) if rows else (0,)
    return _operand(draw, dtype, shape, pool=st.integers(0, max(rows - 1, 0)))


def _draw_gather(draw) -> Case:
    x = _operand(draw, draw(st.sampled_from(ALL)), (draw(st.sampled_from([1, 2, 5, 9])), *draw(shapes(2, 20))))
    index = _indices(draw, x.array().shape[0])
    return Case("gather", [x, index], None, x.array()[index.array().astype(np.intp)])


def _draw_scatter_add(draw) -> Case:
    dtype, rows = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from([1, 2, 5, 9]))
    index = _indices(draw, rows)
    at = index.array().astype(np.intp)
    x = _operand(draw, dtype, (*at.shape, *draw(shapes(2, 20))), special=dtype in INTEGERS)
    values = widen(x.array())

    def added(terms):
        total = np.zeros((rows, *terms.shape[at.ndim :]), terms.dtype)
        np.add.at(total, at, terms)
        return total

    slack = _sum_slack(dtype, at.size, added(np.abs(values))) + 0 if dtype in FLOATS else None
    if accumulator(np.dtype(dtype)) != dtype:  # it may also be rounded at each step
        slack = slack + added(np.abs(values)) * at.size * finfo(dtype).eps
    return Case("scatter_add", [x, index], rows, narrow(added(values), dtype), slack=slack)


def _draw_scatter_set(draw) -> Case:
    dtype, rows = draw(st.sampled_from(ALL)), draw(st.sampled_from([1, 2, 5, 9]))
    index = _indices(draw, rows)
    at = index.array().astype(np.intp)
    x = _operand(draw, dtype, (rows, *draw(shapes(2, 20))))
    values = _operand(draw, dtype, (*at.shape, *x.array().shape[1:]))
    want = np.array(x.array())
    for i in np.ndindex(at.shape):
        want[at[i]] = values.array()[i]
    return Case("scatter_set", [x, values, index], None, want)


def _sorted_runs(keys: np.ndarray, run: int) -> np.ndarray:
    """The positions in each row that sort each run of it, by Python's own stable sort."""
    positions = np.empty(keys.shape, np.int32)
    for row in np.ndindex(keys.shape[:-1]):
        for start in range(0, keys.shape[-1], run):
            stop = min(start + run, keys.shape[-1])
            positions[row][start:stop] = sorted(range(start, stop), key=lambda i: keys[row][i].item())
    return positions


def _draw_argsort(draw) -> Case:
    """Either short runs of what is in no order, or runs put together of two halves that are in order."""
    rows = draw(shapes(2, 20))
    x = _operand(draw, draw(st.sampled_from(INTEGERS)), (*rows, draw(st.sampled_from([0, 1, 2, 5, 16, 17, 40, 70]))))
    keys = x.array()
    if draw(st.booleans()):
        run = draw(st.sampled_from([1, 2, 3, 8, 16]))
        return Case("argsort", [x], run, _sorted_runs(keys, run))
    half = draw(st.sampled_from([1, 4, 16, 32]))
    order, axes = _sorted_runs(keys, half), tuple(draw(st.permutations(range(keys.ndim))))
    moved = Operand(np.ascontiguousarray(order.transpose(np.argsort(axes))), (("permute", axes),))
    return Case("argsort", [x, moved], 2 * half, _sorted_runs(keys, 2 * half))


def _draw_random(draw) -> Case:
    key, counter = draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 2**64 - 1))
    shape = draw(shapes())
    want = philox4x32(key, counter, 0, math.prod(shape)).reshape(shape)
    return Case("random", [Operand(np.array(v, np.uint64)) for v in (key, counter)], shape, want)


def _draw_iota(draw) -> Case:
    length = draw(st.integers(0, 300))
    return Case("iota", [], length, np.arange(length, dtype=np.int32))


def _draw_identity(op: str):
    def draw_case(draw) -> Case:
        x = _operand(draw, draw(st.sampled_from(ALL)), draw(shapes()))
        return Case(op, [x], None, np.array(x.array()))

    return draw_case


DRAW: dict[str, Callable[..., Case]] = {
    **{op: _draw_elementwise(op) for op in ELEMENTWISE},
    "cast": _draw_cast,
    "custom": _draw_custom,
    "bitcast": _draw_bitcast,
    "reduce_sum": _draw_reduce_sum,
    "reduce_max": _draw_reduce_max,
    "reduce_prod": _draw_reduce_prod,
    **{op: _draw_movement(op) for op in MOVES},
    "cat": _draw_cat,
    "dot": _draw_dot,
    "attention": _draw_attention,
    "gather": _draw_gather,
    "scatter_add": _draw_scatter_add,
    "scatter_set": _draw_scatter_set,
    "argsort": _draw_argsort,
    "random": _draw_random,
    "iota": _draw_iota,
    **{op: _draw_identity(op) for op in ("detach", "contiguous", "barrier", "copy", "composite")},
}


@st.composite
def cases(draw, *ops: str) -> list[Case]:
    """One case of each primitive named."""
    return [DRAW[op](draw) for op in ops]
