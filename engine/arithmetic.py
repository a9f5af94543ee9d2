"""Arithmetic, comparisons and bits: the elementwise methods of two or three operands, and Python's operators.

Comes in: Tensors, Python numbers, arrays. Goes out: Tensors. Shapes broadcast as in NumPy; dtypes meet as in
`dtypes.result_type`. With `reverse`, the operands change places: that is what Python's reversed operators ask for.
`x += y` binds the name x to x + y, and leaves the Tensor that x was alone.

>>> from clgrad import Tensor
>>> (Tensor([1, 2, 3]) / 2).tolist(), (2 ** Tensor([1, 2, 3])).tolist()
([0.5, 1.0, 1.5], [2, 4, 8])
>>> Tensor([-7, 7]).div(2, rounding_mode="trunc").tolist(), (Tensor([-7, 7]) // 2).tolist()
([-3, 3], [-4, 3])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import numpy as np

from ..backends import dtypes
from ..backends.dtypes import is_bool, is_float
from . import composite
from .elementwise import Operand, broadcast_shape, floats
from .node import Node, constant, make

if TYPE_CHECKING:
    from .tensor import Tensor


def _pair(a: Tensor, b: Operand, op: str, reverse: bool) -> tuple[Tensor, Tensor]:
    """Both operands, of one dtype."""
    a, b = a._meet(b, op)
    return (b, a) if reverse else (a, b)


def _floats(a: Tensor, b: Operand, op: str, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """Both operands, of one float dtype: integers become float32, and nothing is made an integer before."""
    if isinstance(b, (int, float)):
        a, b = floats(a)._meet(float(b), op)
    else:
        met = a._meet(b, op)
        a, b = met if is_float(met[0].dtype) else (floats(a), floats(b if isinstance(b, type(a)) else met[1]))
    return (b, a) if reverse else (a, b)


def _numbers(x: Tensor) -> Tensor:
    """Bools as integers."""
    return x.cast(dtypes.default_int) if is_bool(x.dtype) else x


def _expanded(op: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    shape = broadcast_shape(op, a.shape, b.shape)
    return a.broadcast_to(shape), b.broadcast_to(shape)


# --- sums and products -----------------------------------------------------------------------------------------------


def add(self: Tensor, x: Operand, reverse: bool = False) -> Tensor:
    """self + x; of bools, the logical or."""
    return self._binary("add", x, swap=reverse)


def sub(self: Tensor, x: Operand, reverse: bool = False) -> Tensor:
    """self - x. Raises TypeError for two bools."""
    return self._binary("sub", x, swap=reverse)


def mul(self: Tensor, x: Operand, reverse: bool = False) -> Tensor:
    """self * x; of bools, the logical and."""
    return self._binary("mul", x, swap=reverse)


# --- division --------------------------------------------------------------------------------------------------------


def div(self: Tensor, x: Operand, reverse: bool = False, rounding_mode: Optional[str] = None) -> Tensor:
    """self / x in floating point, where integers become float32.

    `rounding_mode` "floor" is `//`, and "trunc" rounds towards 0; both keep integers, of which x / 0 is 0, and have no
    derivative. Raises RuntimeError for any other mode.
    """
    if rounding_mode is None:
        if is_float(self.dtype) or isinstance(x, (int, float)):
            return floats(self)._binary("div", x, swap=reverse)
        a, b = _floats(self, x, "div", reverse)
        return a._binary("div", b)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(f'div: rounding_mode must be None, "floor" or "trunc", not {rounding_mode!r}')
    if rounding_mode == "floor" and is_float(self.dtype):
        return self._binary("idiv", x, swap=reverse)
    a, b = map(_numbers, _pair(self, x, "div", reverse))
    if rounding_mode == "floor":
        return a._binary("idiv", b)
    if is_float(a.dtype):
        return a._binary("div", b).trunc()
    down = a._binary("idiv", b)
    return _inexact_below(a, b).where(down + 1, down)


def _inexact_below(a: Tensor, b: Tensor) -> Tensor:
    """Whether a / b is negative and not whole, so that it differs whether rounded down or towards 0. Of integers."""
    return (a._binary("mod", b) != 0) & ((a < 0) ^ (b < 0))


def mod(self: Tensor, x: Operand, reverse: bool = False) -> Tensor:
    """The remainder with the sign of the divisor; on integers x % 0 = 0, on floats NaN."""
    a, b = map(_numbers, _pair(self, x, "mod", reverse))
    return a._binary("mod", b)


def fmod(self: Tensor, x: Operand) -> Tensor:
    """The remainder with the sign of the dividend, as C's; on integers fmod(x, 0) = 0, on floats NaN."""
    a, b = map(_numbers, _pair(self, x, "fmod", False))
    if not is_float(a.dtype):
        rest = a._binary("mod", b)
        return _inexact_below(a, b).where(rest - b, rest)
    a, b = _expanded("fmod", a, b)
    rest = a.abs()._binary("mod", b.abs())  # exact, which a sum with b is not
    expansion = copysign(rest, a).node
    return type(self)._wrap(composite.composite("fmod", None, _fmod_gradient, expansion, a._source(), b._source()))


def _fmod_gradient(arg: None, g: Node, y: Node, a: Node, b: Node):
    """1, and minus the whole part of a / b."""
    quotient = a / b
    down, up = make("floor", (quotient,)), -make("floor", (-quotient,))
    return g, -g * (quotient < 0.0).where_(up, down)


def pow_(self: Tensor, x: Operand, reverse: bool = False) -> Tensor:
    """self ** x. Small whole exponents are products.

    Integers stay integers, and wrap; negative powers of theirs are 0, 1 or -1 (0 ** -1 is 0). Raises RuntimeError for
    integers to the power of a negative Python integer, as PyTorch does.
    """
    if not reverse and isinstance(x, (int, float)) and not isinstance(x, bool):
        if is_float(self.dtype):
            power = _simple_power(self, x)
        elif isinstance(x, int) and x < 0:
            raise RuntimeError(f"pow: {self.dtype} to the power of {x} is not an integer; cast to a float first")
        else:
            power = _product(_numbers(self), x) if isinstance(x, int) and x <= 4 else None
        if power is not None:
            return power
    a, b = map(_numbers, _pair(self, x, "pow", reverse))
    return a._binary("pow", b)


def _simple_power(x: Tensor, n: float) -> Optional[Tensor]:
    """x**n where that is a root, or a few products of floats: of 1 / x, whose derivative at 0 is infinite, not NaN."""
    if n == 0.5:
        return x.sqrt()
    if not float(n).is_integer() or abs(n) > 4:
        return None
    return _product(x.reciprocal() if n < 0 else x, abs(int(n)))


def _product(x: Tensor, n: int) -> Tensor:
    """x**n for n >= 0."""
    if n == 0:
        return x.ones_like()
    if n == 1:
        return x
    half = _product(x, n // 2)
    return half * half * x if n % 2 else half * half


# --- of two, one -----------------------------------------------------------------------------------------------------


def maximum(self: Tensor, x: Operand) -> Tensor:
    """The larger of two; NaN if either is; ties share the gradient."""
    return self._binary("max", x)


def minimum(self: Tensor, x: Operand) -> Tensor:
    """The smaller of two; NaN if either is; ties share the gradient."""
    a, b = self._meet(x, "minimum")
    if is_float(a.dtype):
        return -((-a)._binary("max", -b))
    if is_bool(a.dtype):
        return a & b
    return ~((~a)._binary("max", ~b))


def copysign(self: Tensor, other: Operand) -> Tensor:
    """|self| with the sign of `other`, that of its zeros and NaNs included. Integers become float32."""
    a, b = _expanded("copysign", *_floats(self, other, "copysign"))
    width = 8 * a.dtype.itemsize
    bits, most = f"int{width}", 2 ** (width - 1) - 1
    expansion = ((a.bitcast(bits) & most) | (b.bitcast(bits) & ~most)).bitcast(a.dtype).node
    return type(self)._wrap(composite.composite("copysign", None, _copysign_gradient, expansion, a._source(), b.node))


def _copysign_gradient(arg: None, g: Node, y: Node, a: Node, b: Node):
    """1 where the sign is kept and -1 where it changes; 0 at 0, as in PyTorch."""
    zero = constant(0.0, a.dtype, a.shape, a.device)
    changed = make("xor", (a < zero, y < zero))
    return a.eq(zero).where_(zero, changed.where_(-g, g)), None


def logaddexp(self: Tensor, other: Operand) -> Tensor:
    """log(exp(self) + exp(other)), without overflow. Integers become float32."""
    a, b = _expanded("logaddexp", *_floats(self, other, "logaddexp"))
    wide = [x.cast(dtypes.accumulator(x.dtype))._source() for x in (a, b)]
    return type(self)._wrap(composite.log_add_exp(*wide)).cast(a.dtype)


def lerp(self: Tensor, end: Operand, weight: Operand) -> Tensor:
    """self + weight (end - self): exactly self at weight 0 and exactly `end` at 1."""
    start, end = _floats(self, end, "lerp")
    way = end - start
    if isinstance(weight, (int, float)):
        return start + way * weight if abs(weight) < 0.5 else end - way * (1 - weight)
    return (weight.abs() < 0.5).where(start + way * weight, end - way * (1 - weight))


# --- comparisons -----------------------------------------------------------------------------------------------------


def lt(self: Tensor, x: Operand) -> Tensor:
    """self < x, as bool; False with NaN."""
    return self._binary("lt", x)


def gt(self: Tensor, x: Operand) -> Tensor:
    """self > x, as bool; False with NaN."""
    return self._binary("lt", x, swap=True)


def eq(self: Tensor, x: Operand) -> Tensor:
    """self == x, as bool; False with NaN."""
    return self._binary("eq", x)


def ne(self: Tensor, x: Operand) -> Tensor:
    """self != x, as bool; True with NaN."""
    return eq(self, x).logical_not()


def le(self: Tensor, x: Operand) -> Tensor:
    """self <= x, as bool; False with NaN."""
    a, b = self._meet(x, "<=")  # not the negation of >, which would be True for NaN
    return a._binary("lt", b) | a._binary("eq", b) if is_float(a.dtype) else b._binary("lt", a).logical_not()


def ge(self: Tensor, x: Operand) -> Tensor:
    """self >= x, as bool; False with NaN."""
    a, b = self._meet(x, ">=")
    return le(b, a)


def isclose(self: Tensor, other: Operand, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """Whether |self - other| <= atol + rtol |other|, as bool. Infinities are close to themselves only.

    A NaN is close to nothing; with `equal_nan`, to NaN. Raises RuntimeError for a negative tolerance.
    """
    if rtol < 0 or atol < 0:
        raise RuntimeError(f"isclose: tolerances are not below 0, unlike rtol={rtol} or atol={atol}")
    a, b = _floats(self, other, "isclose")
    distance = (a - b).abs()
    near = distance.isfinite() & (distance <= (b * rtol).abs() + atol)
    close = (a == b) | near
    return close | (a.isnan() & b.isnan()) if equal_nan else close


def allclose(self: Tensor, other: Operand, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """Whether all elements are close, as a bool Tensor without dimensions; see `isclose`."""
    return isclose(self, other, rtol, atol, equal_nan).all()


# --- bits ------------------------------------------------------------------------------------------------------------


def _bits(op: str, doc: str):
    def method(self: Tensor, x: Operand, reverse: bool = False) -> Tensor:
        return self._binary(op, x, swap=reverse)

    method.__name__, method.__doc__ = f"bitwise_{op}", doc
    return method


bitwise_and = _bits("and", "Bit by bit on integers, logical on bool. Raises TypeError for floats.")
bitwise_or = _bits("or", "Bit by bit on integers, logical on bool. Raises TypeError for floats.")
bitwise_xor = _bits("xor", "Bit by bit on integers, logical on bool. Raises TypeError for floats.")
lshift = _bits("shl", "self << x; 0 for shifts by the width or more, or by less than 0.")
rshift = _bits("shr", "self >> x, keeping the sign; 0 or -1 for shifts by the width or more, or by less than 0.")


# --- Python's operators ----------------------------------------------------------------------------------------------

NUMBERS = (int, float, np.ndarray, np.generic, list, tuple)  # what a Tensor combines with beside Tensors


def operator(method, **arguments):
    """A method as an operator. What is no operand is left to Python: == is False then, + asks the other's __radd__."""

    def operate(self: Tensor, x: Operand) -> Tensor:
        known = isinstance(x, NUMBERS) or isinstance(x, type(self))
        return method(self, x, **arguments) if known else NotImplemented

    operate.__doc__ = method.__doc__
    return operate


def reversed_operator(method, **arguments):
    """A method as an operator whose Tensor stands on the right."""
    return operator(method, reverse=True, **arguments)
