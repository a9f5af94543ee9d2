"""Operators, between Tensors and with Python's numbers on either side; comparisons; bits."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as TF

from clgrad import operation

from .entry import ALL, BOOL, FLOATS, INTS, WIDE, Entry, Operand

POSITIVE = (Operand(low=0.25), Operand(low=0.25))


WHOLE = (Operand(), Operand(low=1, high=7))  # torch raises, or ends the process, where the second is 0 or -1


def ties(a, b):
    return a == b


def near_whole(a, b):
    return abs(a / b - np.round(a / b)) < 1e-9


def either_sign(function):
    """Of a divisor as it is, and of a negative one that is not -1."""
    return lambda a, b: (function(a, b), function(a, -b - 1))


def swiglu_gradient(g, y, gate, up):
    s = gate.sigmoid()
    return g * up * (s + gate * s * (1 - s)), g * gate * s


swiglu = operation(
    "swiglu",
    numpy=lambda gate, up: gate / (1 + np.exp(-gate)) * up,
    opencl="gate / (1 + exp(-gate)) * up",
    gradient=swiglu_gradient,
)

# fmt: off
ENTRIES = [
    Entry("operation", (), lambda a, b: swiglu(a, b), lambda a, b: TF.silu(a) * b, operands=2, broadcast=True),
    Entry("+", ("Tensor.add", "Tensor.__add__", "Tensor.__radd__"), lambda a, b: a + b, operands=2, broadcast=True,
          dtypes=ALL),
    Entry("-", ("Tensor.sub", "Tensor.__sub__"), lambda a, b: a - b - 2, operands=2, broadcast=True,
          dtypes=FLOATS + INTS),
    Entry("*", ("Tensor.mul", "Tensor.__mul__", "Tensor.__rmul__"), lambda a, b: a * b * 2, operands=2, broadcast=True,
          dtypes=ALL),
    Entry("/", ("Tensor.div", "Tensor.__truediv__"), lambda a, b: a / b, operands=POSITIVE, broadcast=True),
    Entry("/ of integers", "Tensor.__truediv__", lambda a: a / 4, dtypes=INTS, derivatives=0),
    Entry("3 -", "Tensor.__rsub__", lambda a: 3 - a, dtypes=FLOATS + INTS),
    Entry("1 /", "Tensor.__rtruediv__", lambda a: 1 / a, operands=POSITIVE[:1], dtypes=FLOATS),
    Entry("// of integers", "Tensor.__floordiv__", either_sign(lambda a, b: a // b), operands=WHOLE, dtypes=INTS,
          derivatives=0),
    Entry("% of integers", ("Tensor.__mod__", "Tensor.mod"), either_sign(lambda a, b: a % b), operands=WHOLE,
          dtypes=INTS, derivatives=0),
    Entry("fmod of integers", "Tensor.fmod", either_sign(lambda a, b: a.fmod(b)), operands=WHOLE, dtypes=INTS,
          derivatives=0),
    Entry("div(trunc) of integers", "Tensor.div", either_sign(lambda a, b: a.div(b, rounding_mode="trunc")),
          operands=WHOLE, dtypes=INTS, derivatives=0),
    Entry("div(floor) of integers", "Tensor.div", either_sign(lambda a, b: a.div(b, rounding_mode="floor")),
          operands=WHOLE, dtypes=INTS, derivatives=0),
    Entry("7 // 7 %", ("Tensor.__rfloordiv__", "Tensor.__rmod__"), lambda a: (7 // a, 7 % a), operands=WHOLE[1:],
          dtypes=INTS, derivatives=0),
    # torch has no derivative for it
    Entry("// of floats", "Tensor.__floordiv__", lambda a, b: a // b * a, lambda a, b: a.detach() // b.detach() * a,
          operands=POSITIVE, dtypes=WIDE, special=False, kinks=near_whole),
    Entry("% of floats", "Tensor.__mod__", lambda a: a % 0.75, dtypes=WIDE, special=False),
    Entry("mod", "Tensor.mod", lambda a, b: a % b, operands=POSITIVE, dtypes=WIDE, special=False,
          kinks=near_whole),
    Entry("fmod", "Tensor.fmod", lambda a, b: (a.fmod(b), a.fmod(-b)), operands=(Operand(), POSITIVE[1]), dtypes=WIDE,
          special=False, kinks=near_whole),
    Entry("div(trunc)", "Tensor.div", lambda a, b: a.div(b, rounding_mode="trunc") + a, operands=POSITIVE, dtypes=WIDE,
          special=False, kinks=near_whole),
    Entry("** 2", "Tensor.__pow__", lambda a: a**2, dtypes=FLOATS + INTS),
    Entry("** 3", "Tensor.__pow__", lambda a: a**3, dtypes=FLOATS + INTS),
    Entry("** 0", "Tensor.__pow__", lambda a: a**0, dtypes=FLOATS + INTS),
    Entry("** -1", "Tensor.__pow__", lambda a: a**-1, operands=POSITIVE[:1]),
    Entry("** -2", "Tensor.__pow__", lambda a: a**-2, operands=POSITIVE[:1]),
    Entry("** 0.5", "Tensor.__pow__", lambda a: a**0.5, operands=POSITIVE[:1]),
    Entry("** 2.5", "Tensor.__pow__", lambda a: a**2.5, operands=POSITIVE[:1]),
    Entry("**", "Tensor.pow", lambda a, b: a**b, operands=POSITIVE, broadcast=True, dtypes=WIDE),
    Entry("** of integers", ("Tensor.__pow__", "Tensor.pow"), lambda a, b: a**b, dtypes=INTS, broadcast=True,
          operands=(Operand(), Operand(low=-3, high=70)), derivatives=0),
    Entry("** 7 of integers", "Tensor.__pow__", lambda a: a**7, dtypes=INTS + BOOL, derivatives=0),
    Entry("** 0.5 of integers", "Tensor.__pow__", lambda a: a**1.5, dtypes=INTS, derivatives=0),
    Entry("3 ** integers", "Tensor.__rpow__", lambda a: 3**a, dtypes=INTS, derivatives=0,
          operands=(Operand(low=-3, high=70),)),
    Entry("2 **", "Tensor.__rpow__", lambda a: 2**a),
    Entry("& | ^", ("Tensor.bitwise_and", "Tensor.bitwise_or", "Tensor.bitwise_xor", "Tensor.__and__", "Tensor.__or__",
                    "Tensor.__xor__"), lambda a, b: (a & b, a | b, a ^ b), operands=2, dtypes=INTS + BOOL,
          broadcast=True, derivatives=0),
    Entry("& | ^ of numbers", ("Tensor.__rand__", "Tensor.__ror__", "Tensor.__rxor__"),
          lambda a: (3 & a, 3 | a, 3 ^ a), dtypes=INTS, derivatives=0),
    Entry("<< >>", ("Tensor.lshift", "Tensor.rshift", "Tensor.__lshift__", "Tensor.__rshift__"),
          lambda a, b: (a << b, a >> b), operands=(Operand(), Operand(low=0, high=7)), dtypes=INTS, derivatives=0),
    Entry("<< >> of numbers", ("Tensor.__rlshift__", "Tensor.__rrshift__"), lambda b: (3 << b, -100 >> b),
          operands=(Operand(low=0, high=7),), dtypes=INTS[:4], derivatives=0),
    Entry("< >=", ("Tensor.__lt__", "Tensor.__ge__"), lambda a, b: (a < b, a >= b), operands=2, broadcast=True,
          dtypes=ALL, derivatives=0),
    Entry("<= >", ("Tensor.__le__", "Tensor.__gt__"), lambda a, b: (a <= b, a > b), operands=2, broadcast=True,
          dtypes=ALL, derivatives=0),
    Entry("== !=", ("Tensor.__eq__", "Tensor.__ne__"), lambda a, b: (a == b, a != b), operands=2, broadcast=True,
          dtypes=ALL, derivatives=0),
    Entry("eq ne", ("Tensor.eq", "Tensor.ne"), lambda a, b: (a.eq(b), a.ne(b)), operands=2, broadcast=True, dtypes=ALL,
          derivatives=0),
    Entry("isclose", "Tensor.isclose", lambda a, b: a.isclose(b, rtol=0.25, atol=0.5), operands=2, broadcast=True,
          dtypes=FLOATS + INTS, derivatives=0),
    Entry("isclose(equal_nan)", "Tensor.isclose", operands=2, derivatives=0,
          ours=lambda a, b: (a.isclose(a, equal_nan=True), a.isclose(b, 0, 1, True))),
    Entry("allclose", "Tensor.allclose",
          lambda a, b: (a.allclose(a), a.allclose(b, 1, 2), a.allclose(b, equal_nan=True)),
          lambda a, b: tuple(torch.tensor(c) for c in (torch.allclose(a, a), torch.allclose(a, b, 1, 2),
                                                       torch.allclose(a, b, equal_nan=True))),
          operands=2, dtypes=FLOATS + INTS, derivatives=0),
    Entry("!= 1", "Tensor.__ne__", lambda a: a != 1, dtypes=FLOATS + INTS, derivatives=0),
    Entry("mixed dtypes", "Tensor.__add__", lambda a: a + a.cast("float32") * 2, lambda a: a + a.float() * 2,
          dtypes=INTS, derivatives=0),
    Entry("a float number", "Tensor.__mul__", lambda a: a * 0.5, dtypes=INTS, derivatives=0),
    Entry("maximum", "Tensor.maximum", lambda a, b: a.maximum(b), torch.maximum, operands=2, broadcast=True,
          dtypes=ALL, kinks=ties),
    Entry("minimum", "Tensor.minimum", lambda a, b: a.minimum(b), torch.minimum, operands=2, broadcast=True,
          dtypes=ALL, kinks=ties),
    Entry("copysign", "Tensor.copysign", lambda a, b: a.copysign(b), operands=2, broadcast=True,
          kinks=lambda a, b: a == 0),
    Entry("copysign of integers", "Tensor.copysign", lambda a, b: (a.copysign(b), a.copysign(-1)), operands=2,
          dtypes=INTS, derivatives=0),
    Entry("logaddexp", "Tensor.logaddexp", lambda a, b: a.logaddexp(b), torch.logaddexp, operands=2, broadcast=True,
          special="mild"),
    Entry("lerp between", "Tensor.lerp", lambda a, b, w: a.lerp(b, w), operands=3, broadcast=True, special="mild",
          dtypes=WIDE, ulp=16, kinks=lambda a, b, w: abs(w) == 0.5),
    Entry("lerp", "Tensor.lerp", lambda a, b: a.lerp(b, 0.25), operands=2, broadcast=True, special="mild", ulp=16),
]
