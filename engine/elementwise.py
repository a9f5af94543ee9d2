"""Elementwise methods of Tensor: each is a few primitives.

Comes in: Tensors and Python numbers. Goes out: Tensors. Shapes broadcast as in NumPy; dtypes meet as in
`dtypes.promote`, and a Python number takes the Tensor's dtype (a float with an integer Tensor gives float32).

>>> from clgrad import Tensor
>>> (Tensor([1, 2, 3]) / 2).tolist()
[0.5, 1.0, 1.5]
>>> Tensor([-1.0, 0.0, 2.0]).relu().tolist()
[0.0, 0.0, 2.0]
"""

from __future__ import annotations

from math import log, sqrt
from typing import TYPE_CHECKING, Union

from ..backends import dtypes
from ..backends.dtypes import is_bool, is_float
from . import composite
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

Number = Union[int, float, bool]
Operand = Union["Tensor", Number]

ERF_LINEAR = sqrt(0.5)


def broadcast_shape(op: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape to which all of `shapes` expand, or a ShapeError that names them."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        others = {n for n in sizes if n != 1}
        if len(others) > 1:
            raise ShapeError(
                f"{op}: shapes {' and '.join(map(str, shapes))} do not broadcast; aligned at the right, "
                "each pair of dimensions must be equal or contain a 1"
            )
        result.append(others.pop() if others else 1)
    return tuple(result)


def _floats(x: Tensor) -> Tensor:
    return x if is_float(x.dtype) else x.cast(dtypes.default_float)


def _unary(op: str, doc: str):
    def method(self: Tensor) -> Tensor:
        return _floats(self)._apply(op)

    method.__name__, method.__doc__ = op, doc
    return method


exp = _unary("exp", "e to the power of each element. Integers become float32.")
expm1 = _unary("expm1", "exp(x) - 1, accurate near 0.")
log_ = _unary("log", "The natural logarithm; NaN below 0, -inf at 0.")
log1p = _unary("log1p", "log(1 + x), accurate near 0.")
sin = _unary("sin", "The sine of an angle in radians.")
cos = _unary("cos", "The cosine of an angle in radians.")
tanh = _unary("tanh", "The hyperbolic tangent.")
sqrt_ = _unary("sqrt", "The square root; NaN below 0.")
reciprocal = _unary("reciprocal", "1 / x.")
erf = _unary("erf", "The error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x.")


def neg(self: Tensor) -> Tensor:
    """-x. On bool, the logical not."""
    return self.logical_not() if is_bool(self.dtype) else self._apply("neg")


def exp2(self: Tensor) -> Tensor:
    """2 to the power of each element."""
    return exp(_floats(self) * log(2))


def log2(self: Tensor) -> Tensor:
    """The logarithm to base 2."""
    return log_(self) * (1 / log(2))


def tan(self: Tensor) -> Tensor:
    """sin(x) / cos(x)."""
    return self.sin() / self.cos()


def rsqrt(self: Tensor) -> Tensor:
    """1 / sqrt(x)."""
    return self.sqrt().reciprocal()


def square(self: Tensor) -> Tensor:
    """x * x."""
    return self * self


def abs_(self: Tensor) -> Tensor:
    """|x|, with derivative 0 at 0, as in PyTorch."""
    if is_bool(self.dtype) or self.dtype.kind == "u":
        return self
    # x * x is +0.0 for both zeros and NaN for NaN, which is what is left between the two branches.
    return (self > 0).where(self, (self < 0).where(-self, (self * self).detach()))


def sign(self: Tensor) -> Tensor:
    """-1, 0 or 1; NaN where x is NaN."""
    if is_bool(self.dtype) or self.dtype.kind == "u":
        return (self != 0).cast(self.dtype)
    result = (self > 0).where(1, (self < 0).where(-1, self.zeros_like()))
    return self.isnan().where(self, result).detach() if is_float(self.dtype) else result


def floor(self: Tensor) -> Tensor:
    """The largest integer not above x, in x's dtype."""
    return self._apply("floor") if is_float(self.dtype) else self


def ceil(self: Tensor) -> Tensor:
    """The smallest integer not below x, in x's dtype."""
    return -((-self).floor()) if is_float(self.dtype) else self


def trunc(self: Tensor) -> Tensor:
    """x rounded towards 0, in x's dtype."""
    return (self < 0).where(self.ceil(), self.floor()) if is_float(self.dtype) else self


def round_(self: Tensor) -> Tensor:
    """x rounded to the nearest integer, halves to the even one, in x's dtype."""
    if not is_float(self.dtype):
        return self
    down = self.floor()
    rest = self - down
    odd = (down * 0.5).floor() * 2 != down
    up = (rest > 0.5) | ((rest == 0.5) & odd)
    result = up.where(down + 1, down)
    return self.isinf().where(self, ((self < 0) & (result == 0)).where(-0.0, result))


def sigmoid(self: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), through tanh, which neither overflows nor loses the tails' sign."""
    return (_floats(self) * 0.5).tanh() * 0.5 + 0.5


def relu(self: Tensor) -> Tensor:
    """max(x, 0), with derivative 0 at 0; NaN stays NaN."""
    return (self <= 0).where(0, self)


def silu(self: Tensor) -> Tensor:
    """x sigmoid(x) (Hendrycks and Gimpel, 2016), also known as swish."""
    return self * self.sigmoid()


def gelu(self: Tensor, approximate: str = "tanh") -> Tensor:
    """x times the normal distribution's Phi(x) (Hendrycks and Gimpel, 2016).

    "none" computes Phi with erf; "tanh" with 0.5 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as GPT-2 does.
    """
    x = _floats(self)
    if approximate == "none":
        return x * 0.5 * ((x * ERF_LINEAR).erf() + 1.0)
    if approximate != "tanh":
        raise ValueError(f'gelu: approximate must be "tanh" or "none", not {approximate!r}')
    return type(self)._wrap(composite.gelu(x._source()))


def softplus(self: Tensor, beta: float = 1.0) -> Tensor:
    """log(1 + exp(beta x)) / beta, without overflow."""
    return type(self)._wrap(composite.softplus((_floats(self) * beta)._source())) * (1 / beta)


def leaky_relu(self: Tensor, neg_slope: float = 0.01) -> Tensor:
    """x above 0, neg_slope * x below."""
    return (self > 0).where(self, _floats(self) * neg_slope)


def elu(self: Tensor, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha (exp(x) - 1) below (Clevert et al., 2016)."""
    x = _floats(self)
    return (x > 0).where(x, (x > 0).where(0.0, x).expm1() * alpha)


def clip(self: Tensor, min_=None, max_=None) -> Tensor:
    """x held between `min_` and `max_` (either may be None). The gradient is 1 where x is within, ends included."""
    if min_ is None and max_ is None:
        raise ValueError("clip: give min_, max_ or both")
    x = self
    if min_ is not None:
        x = (x < min_).where(min_, x)
    return x if max_ is None else (x > max_).where(max_, x)


def maximum(self: Tensor, other: Operand) -> Tensor:
    """The larger of two; NaN if either is; ties share the gradient."""
    return self._binary("max", other)


def minimum(self: Tensor, other: Operand) -> Tensor:
    """The smaller of two; NaN if either is; ties share the gradient."""
    a, b = self._meet(other, "minimum")
    if is_float(a.dtype):
        return -((-a)._binary("max", -b))
    if is_bool(a.dtype):
        return a & b
    return ~((~a)._binary("max", ~b))


def add(self: Tensor, other: Operand) -> Tensor:
    return self._binary("add", other)


def sub(self: Tensor, other: Operand) -> Tensor:
    return self._binary("sub", other)


def rsub(self: Tensor, other: Operand) -> Tensor:
    return self._binary("sub", other, swap=True)


def mul(self: Tensor, other: Operand) -> Tensor:
    return self._binary("mul", other)


def _divided(a: Tensor, b: Tensor) -> Tensor:
    return _floats(a)._binary("div", _floats(b))


def div(self: Tensor, other: Operand) -> Tensor:
    """self / other in floating point; integers become float32."""
    if isinstance(other, (int, float)):
        x = _floats(self)
        return x._binary("div", float(other))
    return _divided(*self._meet(other, "div"))


def rdiv(self: Tensor, other: Operand) -> Tensor:
    if isinstance(other, (int, float)):
        return _floats(self)._binary("div", float(other), swap=True)
    a, b = self._meet(other, "div")
    return _divided(b, a)


def _floor_divided(a: Tensor, b: Tensor) -> Tensor:
    if is_float(a.dtype):
        return (a / b).floor()
    return a._binary("idiv", b)


def _numbers(x: Tensor) -> Tensor:
    return x.cast(dtypes.default_int) if is_bool(x.dtype) else x


def floordiv(self: Tensor, other: Operand) -> Tensor:
    """Division rounded down; on integers x // 0 = 0."""
    return _floor_divided(*map(_numbers, self._meet(other, "//")))


def rfloordiv(self: Tensor, other: Operand) -> Tensor:
    a, b = map(_numbers, self._meet(other, "//"))
    return _floor_divided(b, a)


def mod(self: Tensor, other: Operand) -> Tensor:
    """The remainder with the sign of the divisor; on integers x % 0 = 0, on floats NaN."""
    a, b = map(_numbers, self._meet(other, "%"))
    return a._binary("mod", b)


def rmod(self: Tensor, other: Operand) -> Tensor:
    a, b = map(_numbers, self._meet(other, "%"))
    return b._binary("mod", a)


def pow_(self: Tensor, other: Operand) -> Tensor:
    """self ** other. Small whole exponents are products, and work on integers; otherwise integers become float32."""
    if isinstance(other, (int, float)) and not isinstance(other, bool):
        if other == 0.5 and is_float(self.dtype):
            return self.sqrt()
        if float(other).is_integer() and 0 <= other <= 4 and (is_float(self.dtype) or isinstance(other, int)):
            return _whole_power(_numbers(self), int(other))
        if float(other).is_integer() and -4 <= other < 0 and is_float(self.dtype):
            return _whole_power(self, int(-other)).reciprocal()
        x = _floats(self)
        return x._binary("pow", float(other))
    a, b = self._meet(other, "pow")
    return _floats(a)._binary("pow", _floats(b))


def _whole_power(x: Tensor, n: int) -> Tensor:
    if n == 0:
        return x.ones_like()
    if n == 1:
        return x
    half = _whole_power(x, n // 2)
    return half * half * x if n % 2 else half * half


def rpow(self: Tensor, other: Operand) -> Tensor:
    if isinstance(other, (int, float)):
        x = _floats(self)
        return x._binary("pow", float(other), swap=True)
    a, b = self._meet(other, "pow")
    return _floats(b)._binary("pow", _floats(a))


def lt(self: Tensor, other: Operand) -> Tensor:
    return self._binary("lt", other)


def gt(self: Tensor, other: Operand) -> Tensor:
    return self._binary("lt", other, swap=True)


def eq(self: Tensor, other: Operand) -> Tensor:
    return self._binary("eq", other)


def ne(self: Tensor, other: Operand) -> Tensor:
    return eq(self, other).logical_not()


def le(self: Tensor, other: Operand) -> Tensor:
    # Not the negation of >, which would be True for NaN.
    a, b = self._meet(other, "<=")
    return a._binary("lt", b) | a._binary("eq", b) if is_float(a.dtype) else b._binary("lt", a).logical_not()


def ge(self: Tensor, other: Operand) -> Tensor:
    a, b = self._meet(other, ">=")
    return le(b, a)


def logical_not(self: Tensor) -> Tensor:
    """Whether x is 0, as bool."""
    x = self if is_bool(self.dtype) else self != 0
    return x._binary("xor", True)


def _bits(op: str, doc: str):
    def method(self: Tensor, other: Operand) -> Tensor:
        return self._binary(op, other)

    method.__name__, method.__doc__ = f"bitwise_{op}", doc
    return method


bitwise_and = _bits("and", "Bit by bit on integers, logical on bool.")
bitwise_or = _bits("or", "Bit by bit on integers, logical on bool.")
bitwise_xor = _bits("xor", "Bit by bit on integers, logical on bool.")


def bitwise_not(self: Tensor) -> Tensor:
    """Every bit inverted; on bool, the logical not."""
    return self.logical_not() if is_bool(self.dtype) else self._binary("xor", -1)


def lshift(self: Tensor, other: Operand) -> Tensor:
    """x << other; 0 for shifts by the width or more."""
    return self._binary("shl", other)


def rshift(self: Tensor, other: Operand) -> Tensor:
    """x >> other, keeping the sign; 0 or -1 for shifts by the width or more."""
    return self._binary("shr", other)


def where(self: Tensor, a: Operand, b: Operand) -> Tensor:
    """`a` where this bool Tensor holds, else `b`. All three broadcast."""
    tensor_type = type(self)
    condition = self if is_bool(self.dtype) else self != 0
    if isinstance(a, tensor_type):
        x, y = a._meet(b, "where")
    elif isinstance(b, tensor_type):
        y, x = b._meet(a, "where")
    else:
        x, y = tensor_type(a, device=self.device)._meet(b, "where")
    shape = broadcast_shape("where", condition.shape, x.shape, y.shape)
    return tensor_type._make("where", condition.broadcast_to(shape), x.broadcast_to(shape), y.broadcast_to(shape))


def masked_fill(self: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """`value` where `mask` holds, else x."""
    return mask.where(value, self)


def isnan(self: Tensor) -> Tensor:
    """Whether x is NaN."""
    return self != self


def isinf(self: Tensor) -> Tensor:
    """Whether x is infinite."""
    if not is_float(self.dtype):
        return (self != self).cast(dtypes.bool_)
    return (self == float("inf")) | (self == float("-inf"))


def isfinite(self: Tensor) -> Tensor:
    """Whether x is neither infinite nor NaN."""
    return (self.isnan() | self.isinf()).logical_not()


def lerp(self: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """self + (end - self) * weight."""
    return self + (end - self) * weight


def cast(self: Tensor, dtype) -> Tensor:
    """As another dtype. Float to integer truncates and saturates, NaN gives 0; integers wrap; bool is x != 0."""
    wanted = dtypes.as_dtype(dtype)
    return self if wanted == self.dtype else self._apply("cast", wanted)


def bitcast(self: Tensor, dtype) -> Tensor:
    """The same bits read as another dtype of the same width."""
    wanted = dtypes.as_dtype(dtype)
    return self if wanted == self.dtype else self._apply("bitcast", wanted)


def _cast_to(dtype, doc: str):
    def method(self: Tensor) -> Tensor:
        return cast(self, dtype)

    method.__doc__ = doc
    return method


float_ = _cast_to(dtypes.float32, "As float32.")
half = _cast_to(dtypes.float16, "As float16.")
double = _cast_to(dtypes.float64, "As float64.")
int_ = _cast_to(dtypes.int32, "As int32.")
long = _cast_to(dtypes.int64, "As int64.")
bool_ = _cast_to(dtypes.bool_, "As bool: x != 0.")
