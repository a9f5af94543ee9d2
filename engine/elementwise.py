"""Functions of one number, selection and casts: elementwise methods of Tensor, each a few primitives.

Functions of the C mathematics library are within 4 units in the last place of float32 (docs/accuracy.md), and take
integers as float32. What has two operands is in `arithmetic`, what stands between layers in `activations`.

>>> from clgrad import Tensor
>>> Tensor([1, 4, 9]).sqrt().tolist(), Tensor([-2.5, 0.5, 1.5]).round().tolist()
([1.0, 2.0, 3.0], [-2.0, 0.0, 2.0])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from ..backends import dtypes
from ..backends.dtypes import is_bool, is_float
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

Number = Union[int, float, bool]
Operand = Union["Tensor", Number]


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


def only_tensors(op: str, *operands: Any) -> None:
    """Raises TypeError unless all of them are Tensors."""
    for x in operands:
        if not hasattr(x, "_source"):
            raise TypeError(f"{op}: takes Tensors, not {type(x).__name__}; make it one with Tensor(...)")


def floats(x: Tensor) -> Tensor:
    """Integers and bools as float32; floats as they are."""
    return x if is_float(x.dtype) else x.cast(dtypes.default_float)


def _unary(op: str, doc: str):
    def method(self: Tensor) -> Tensor:
        return floats(self)._apply(op)

    method.__name__, method.__doc__ = op, doc
    return method


exp = _unary("exp", "e to the power of each element. Integers become float32.")
expm1 = _unary("expm1", "exp(x) - 1, accurate near 0.")
exp2 = _unary("exp2", "2 to the power of each element.")
log_ = _unary("log", "The natural logarithm; NaN below 0, -inf at 0.")
log1p = _unary("log1p", "log(1 + x), accurate near 0.")
log2 = _unary("log2", "The logarithm to base 2; NaN below 0, -inf at 0.")
log10 = _unary("log10", "The logarithm to base 10; NaN below 0, -inf at 0.")
sin = _unary("sin", "The sine of an angle in radians.")
cos = _unary("cos", "The cosine of an angle in radians.")
tan = _unary("tan", "The tangent of an angle in radians.")
asin = _unary("asin", "The angle between -pi/2 and pi/2 whose sine is x; NaN outside [-1, 1].")
acos = _unary("acos", "The angle between 0 and pi whose cosine is x; NaN outside [-1, 1].")
atan = _unary("atan", "The angle between -pi/2 and pi/2 whose tangent is x.")
sinh = _unary("sinh", "The hyperbolic sine, (exp(x) - exp(-x)) / 2.")
cosh = _unary("cosh", "The hyperbolic cosine, (exp(x) + exp(-x)) / 2.")
tanh = _unary("tanh", "The hyperbolic tangent, sinh(x) / cosh(x).")
asinh = _unary("asinh", "The inverse of the hyperbolic sine.")
acosh = _unary("acosh", "The inverse of the hyperbolic cosine, which is not negative; NaN below 1.")
atanh = _unary("atanh", "The inverse of the hyperbolic tangent; infinite at -1 and 1, NaN beyond.")
sqrt_ = _unary("sqrt", "The square root; NaN below 0.")
reciprocal = _unary("reciprocal", "1 / x.")
erf = _unary("erf", "The error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x.")


def neg(self: Tensor) -> Tensor:
    """-x. On bool, the logical not."""
    return self.logical_not() if is_bool(self.dtype) else self._apply("neg")


def rsqrt(self: Tensor) -> Tensor:
    """1 / sqrt(x)."""
    return self.sqrt().reciprocal()


def square(self: Tensor) -> Tensor:
    """x * x; of bools as integers, as in PyTorch."""
    return self**2


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


def clip(self: Tensor, min_=None, max_=None) -> Tensor:
    """x held between `min_` and `max_` (either may be None); NaN where any of the three is.

    The gradient is 1 where x is within, ends included.
    """
    if min_ is None and max_ is None:
        raise RuntimeError("clip: give min_, max_ or both")
    x = self
    if min_ is not None:
        x = _or_unordered(x < min_, min_).where(min_, x)
    return x if max_ is None else _or_unordered(x > max_, max_).where(max_, x)


def _or_unordered(outside: Tensor, bound: Operand) -> Tensor:
    """Where x is outside of a bound, or the bound is NaN."""
    unordered = bound != bound
    return outside if unordered is False else outside | unordered


def logical_not(self: Tensor) -> Tensor:
    """Whether x is 0, as bool."""
    x = self if is_bool(self.dtype) else self != 0
    return x._binary("xor", True)


def bitwise_not(self: Tensor) -> Tensor:
    """Every bit inverted; on bool, the logical not."""
    return self.logical_not() if is_bool(self.dtype) else self._binary("xor", -1)


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


def isnan(self: Tensor) -> Tensor:
    """Whether x is NaN."""
    return self != self


def isinf(self: Tensor, detect_positive: bool = True, detect_negative: bool = True) -> Tensor:
    """Whether x is infinite: positively, negatively, or either."""
    found = (self != self) & False
    if is_float(self.dtype):
        found = (self == float("inf")) if detect_positive else found
        found = (self == float("-inf")) | found if detect_negative else found
    return found


def isfinite(self: Tensor) -> Tensor:
    """Whether x is neither infinite nor NaN."""
    return (self.isnan() | self.isinf()).logical_not()
