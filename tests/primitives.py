"""The fifth table: what each primitive is given in tests, and what it must make of it.

`ELEMENTWISE` says, for each elementwise primitive, on which dtypes it exists, how a Tensor spells it, what it means,
and how far off it may be in units in the last place. The meaning is written for *wide* operands: floats as extended
precision, integers as Python's own (object arrays), bool as bool; `narrow` brings it back to the dtype. So no
oracle can share an overflow or a rounding with the code that it judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

BOOL = ("bool",)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")
NUMBERS = INTEGERS + FLOATS
ALL = BOOL + NUMBERS


class Elementwise(NamedTuple):
    """`spell(*tensors)` and `meaning(*wide arrays)`; `result` is the dtype of the result, None for the operands' own.

    `ulp` bounds the distance from the exact result rounded once.
    """

    dtypes: tuple[str, ...]
    spell: Callable[..., Any]
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


def _erf(x):
    return np.array([math.erf(v) for v in x.ravel()], np.longdouble).reshape(x.shape)


def _shift_left(a, b):
    return _python(lambda x, n: x << n if 0 <= n < 64 else 0, 2)(a, b)


def _shift_right(a, b):
    return _python(lambda x, n: x >> n if 0 <= n < 64 else (-1 if x < 0 else 0), 2)(a, b)


# fmt: off
ELEMENTWISE: dict[str, Elementwise] = {
    "neg":        Elementwise(NUMBERS, lambda x: -x, lambda x: -x, 1),
    "exp":        Elementwise(FLOATS, lambda x: x.exp(), np.exp, 1, 4),
    "log":        Elementwise(FLOATS, lambda x: x.log(), np.log, 1, 4),
    "sin":        Elementwise(FLOATS, lambda x: x.sin(), np.sin, 1, 4),
    "cos":        Elementwise(FLOATS, lambda x: x.cos(), np.cos, 1, 4),
    "tanh":       Elementwise(FLOATS, lambda x: x.tanh(), np.tanh, 1, 4),
    "sqrt":       Elementwise(FLOATS, lambda x: x.sqrt(), np.sqrt, 1, 3),
    "reciprocal": Elementwise(FLOATS, lambda x: x.reciprocal(), lambda x: 1 / x, 1, 3),
    "erf":        Elementwise(FLOATS, lambda x: x.erf(), _erf, 1, 4),
    "expm1":      Elementwise(FLOATS, lambda x: x.expm1(), np.expm1, 1, 4),
    "log1p":      Elementwise(FLOATS, lambda x: x.log1p(), np.log1p, 1, 4),
    "floor":      Elementwise(FLOATS, lambda x: x.floor(), np.floor, 1),
    "add":        Elementwise(ALL, lambda a, b: a + b, np.add, 2),
    "sub":        Elementwise(NUMBERS, lambda a, b: a - b, np.subtract, 2),
    "mul":        Elementwise(ALL, lambda a, b: a * b, np.multiply, 2),
    "div":        Elementwise(FLOATS, lambda a, b: a / b, np.divide, 2, 3),
    "idiv":       Elementwise(INTEGERS, lambda a, b: a // b, _python(lambda x, y: x // y if y else 0, 2), 2),
    "mod":        Elementwise(NUMBERS, lambda a, b: a % b, _mod, 2),
    "max":        Elementwise(ALL, lambda a, b: a.maximum(b), np.maximum, 2),
    "pow":        Elementwise(FLOATS, lambda a, b: a.pow(b), np.power, 2, 4),
    "lt":         Elementwise(ALL, lambda a, b: a < b, np.less, 2, result="bool"),
    "eq":         Elementwise(ALL, lambda a, b: a == b, np.equal, 2, result="bool"),
    "and":        Elementwise(BOOL + INTEGERS, lambda a, b: a & b, np.bitwise_and, 2),
    "or":         Elementwise(BOOL + INTEGERS, lambda a, b: a | b, np.bitwise_or, 2),
    "xor":        Elementwise(BOOL + INTEGERS, lambda a, b: a ^ b, np.bitwise_xor, 2),
    "shl":        Elementwise(INTEGERS, lambda a, b: a << b, _shift_left, 2),
    "shr":        Elementwise(INTEGERS, lambda a, b: a >> b, _shift_right, 2),
    "where":      Elementwise(ALL, lambda c, a, b: c.where(a, b), np.where, 3),
}
# fmt: on


def widen(array: np.ndarray) -> np.ndarray:
    """The operand of a meaning: extended precision, Python integers, or bool."""
    if array.dtype.kind == "f":
        return array.astype(np.longdouble)
    return array.astype(object) if array.dtype.kind in "iu" else array


def narrow(exact, dtype) -> np.ndarray:
    """A meaning's result as `dtype`: integers wrap, floats are rounded once."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        wrap = _python(lambda v: int(v) % 2 ** (8 * dtype.itemsize), 1)
        return np.asarray(wrap(exact)).astype(f"uint{8 * dtype.itemsize}").view(dtype)
    with np.errstate(all="ignore"):
        return np.asarray(exact).astype(dtype)


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
    if x.dtype.kind == "f" and dtype.kind in "iu":
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
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    tiny = np.finfo(got.dtype).tiny
    with np.errstate(invalid="ignore"):
        flushed = (np.abs(want) < tiny) & (np.abs(got) <= tiny)
    wrong = (ulp_distance(got, want) > ulp) & ~flushed
    if signed_zero:
        wrong |= (got == 0) & (want == 0) & (np.signbit(got) != np.signbit(want))
    if wrong.any():
        at = tuple(int(i[0]) for i in np.nonzero(wrong)) if got.ndim else ()
        raise AssertionError(f"at {at}: got {got[at]!r}, want {want[at]!r} within {ulp} ulp")
