"""What each elementwise instruction means on NumPy: one entry a row of `kernel.ELEMENTWISE`.

`FUNCTIONS[op](*operands, out)` writes the result into `out` (an array of the instruction's dtype and of the operands'
broadcast shape) and returns nothing that anybody reads. `out` may be one of the operands. Wherever NumPy's ufunc means
what `kernel.py` asks for, the entry is the ufunc itself, so that generated code calls it with nothing in between; the
caller holds `np.errstate(all="ignore")`.

>>> import numpy as np
>>> from clgrad.backends.numpy.functions import FUNCTIONS
>>> out = np.empty(4, np.int8)
>>> FUNCTIONS["cast"](np.array([1.9, -1.9, 300.0, np.nan]), out)
>>> out.tolist()
[1, -1, 127, 0]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtypes import is_float, is_int

SMALL = 2048  # elements
_BITS = {size: np.dtype(f"int{8 * size}") for size in (1, 2, 4, 8)}


def _max(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """With a single number np.maximum takes three times as long as np.clip, which has a loop for that."""
    if b.size == 1 and out.size > SMALL and out.dtype.kind == "f":
        np.clip(a, b, np.inf, out=out)
    else:
        np.maximum(a, b, out=out)  # alone among ufuncs, it wants `out` by name


def _where(cond: np.ndarray, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """`a` where `cond`, else `b`, as b ^ ((a ^ b) & mask) on their bits, or x & mask where the other one is 0.

    NumPy's own selections take a branch an element; on a dropout mask this is six times as fast. It takes six calls,
    though, which small arrays are done without.
    """
    if out.size <= SMALL:
        np.copyto(out, np.where(cond, a, b))
        return
    bits = _BITS[out.itemsize]
    a, b, result = a.view(bits), b.view(bits), out.view(bits)
    mask = np.empty(cond.shape, bits)
    np.copyto(mask, cond.view(np.int8))
    if a.size == 1 and not a.item():
        np.bitwise_and(np.subtract(mask, 1, mask), b, result)  # every bit of a point that is False
        return
    np.negative(mask, mask)  # every bit of a point that is True
    if b.size == 1 and not b.item():
        np.bitwise_and(mask, a, result)
        return
    changed = np.bitwise_xor(a, b)
    np.bitwise_xor(np.bitwise_and(changed, mask), b, result)


def _cast(x: np.ndarray, out: np.ndarray) -> None:
    """To `out.dtype`. Float to integer truncates, saturates, and turns NaN into 0; the rest is what C does."""
    if not (is_float(x.dtype) and is_int(out.dtype)):
        np.copyto(out, x, casting="unsafe")
        return
    info = np.iinfo(out.dtype)
    above = float(int(info.max) + 1)  # a power of two: exact, which info.max is not for 64 bits
    wide = np.array(x, np.float64)
    too_large = wide >= above
    np.copyto(wide, 0.0, where=np.isnan(wide))
    np.clip(wide, float(info.min), np.nextafter(above, 0.0), out=wide)
    np.copyto(out, wide, casting="unsafe")
    np.copyto(out, info.max, where=too_large)


def _bitcast(x: np.ndarray, out: np.ndarray) -> None:
    np.copyto(out.view(x.dtype), x)


# Rational approximations of the error function, lowest power first. Each is close to the minimax one: least squares
# on 160 Chebyshev points in 60-digit arithmetic, linearised by dividing by the last denominator (Sanathanan and
# Koerner, 1963) and reweighted towards the worst points (Lawson, 1961). The error stated is of erf, relative.
_ERF_SINGLE = (  # erf(x) / x as a function of x*x in [0, 16]: 2.5e-8
    (1.1283791393084526, 0.19354446598545139, 0.053101663866450606, 0.003883319039020176, 0.0002845654768501338,
     1.986787981254082e-06),
    (1.0, 0.5048568725924037, 0.11534975135552107, 0.015207199038816495, 0.0011855654608717288, 3.74202125853537e-05),
)  # fmt: skip
_ERF_SMALL = (  # erf(x) / x - 1 as a function of x*x in [0, 1]: 7e-19
    (0.1283791670955126, -0.317006130479756, -0.04832947798939923, -0.00881567150003616, -0.0004956140027435752,
     -2.0732564042958113e-05),
    (1.0, 0.4605128689462282, 0.09381310124498082, 0.010693085503008666, 0.0006924988479884998, 2.0810286132097195e-05),
)  # fmt: skip
_ERF_LARGE = (  # (1 - erf(x)) * exp(x*x) as a function of x in [1, 6]: 1.2e-18
    (0.999999886932924, 1.3906040551633139, 0.9495534618819701, 0.373618567604302, 0.08435495685824142,
     0.008931209694114563),
    (1.0, 2.518982031159106, 2.791926291629126, 1.757221624090275, 0.6701962551886107, 0.14951136363791373,
     0.015830279450022893),
)  # fmt: skip


def _rational(x: np.ndarray, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> np.ndarray:
    """P(x) / Q(x) by Horner's rule."""
    parts = []
    for low_to_high in coefficients:
        value = np.full_like(x, low_to_high[-1])
        for coefficient in low_to_high[-2::-1]:
            np.multiply(value, x, value)
            np.add(value, coefficient, value)
        parts.append(value)
    return np.divide(parts[0], parts[1], parts[0])


def _erf(x: np.ndarray, out: np.ndarray) -> None:
    """erf(x) = 2/sqrt(pi) * integral of exp(-t*t) from 0 to x, within 1 ulp (float16, float32) or 2 (float64)."""
    if x.dtype != np.float64:
        wide = np.clip(x.astype(np.float64), -4.0, 4.0)  # erf(4) rounds to 1 in float32
        np.multiply(_rational(wide * wide, _ERF_SINGLE), wide, out, casting="same_kind")
        return
    # Both branches add a small correction to x or 1, so that the rounding of the correction hardly shows.
    a = np.clip(np.abs(x), 1.0, 6.0)
    large = 1.0 - np.exp(-a * a) * _rational(a, _ERF_LARGE)
    small = x + x * _rational(np.minimum(x * x, 1.0), _ERF_SMALL)
    np.copyto(out, np.where(np.abs(x) < 1.0, small, np.copysign(large, x)))


def _pow(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """NumPy refuses negative powers of integers: here they are 1 // a**b rounded towards 0, so -1, 0 or 1."""
    if out.dtype.kind != "i":
        np.power(a, b, out)
        return
    negative = b < 0
    inverse = np.where(a == 1, 1, np.where(a == -1, 1 - 2 * (b & 1), 0))
    np.power(a, np.maximum(b, 0), out)
    np.copyto(out, inverse, where=negative, casting="unsafe")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "neg": np.negative,
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "erf": _erf,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "exp2": np.exp2,
    "log2": np.log2,
    "log10": np.log10,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "floor": np.floor,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "idiv": np.floor_divide,
    "mod": np.remainder,
    "max": _max,
    "pow": _pow,
    "lt": np.less,
    "eq": np.equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "where": _where,
    "cast": _cast,
    "bitcast": _bitcast,
}
