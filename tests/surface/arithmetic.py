"""Operators, between Tensors and with Python's numbers on either side; comparisons; bits."""

from __future__ import annotations

import torch

from .entry import ALL, BOOL, FLOATS, INTS, Entry, Operand

POSITIVE = (Operand(low=0.25), Operand(low=0.25))


def ties(a, b):
    return a == b


# fmt: off
ENTRIES = [
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
    Entry("// of integers", "Tensor.__floordiv__", lambda a: a // 3, dtypes=INTS, derivatives=0),
    Entry("// of floats", "Tensor.__floordiv__", lambda a: a // 0.75, dtypes=FLOATS[-2:], special=False,
          derivatives=0),
    Entry("% of integers", "Tensor.__mod__", lambda a: a % 3, dtypes=INTS, derivatives=0),
    Entry("% of floats", "Tensor.__mod__", lambda a: a % 0.75, dtypes=FLOATS[-2:], special=False),
    Entry("mod", "Tensor.mod", lambda a, b: a % b, operands=POSITIVE, dtypes=FLOATS[-2:], special=False,
          kinks=lambda a, b: abs(a / b - (a / b).round()) < 1e-9),
    Entry("** 2", "Tensor.__pow__", lambda a: a**2, dtypes=FLOATS + INTS),
    Entry("** 3", "Tensor.__pow__", lambda a: a**3, dtypes=FLOATS + INTS),
    Entry("** 0", "Tensor.__pow__", lambda a: a**0, dtypes=FLOATS + INTS),
    Entry("** -1", "Tensor.__pow__", lambda a: a**-1, operands=POSITIVE[:1]),
    Entry("** -2", "Tensor.__pow__", lambda a: a**-2, operands=POSITIVE[:1]),
    Entry("** 0.5", "Tensor.__pow__", lambda a: a**0.5, operands=POSITIVE[:1]),
    Entry("** 2.5", "Tensor.__pow__", lambda a: a**2.5, operands=POSITIVE[:1]),
    Entry("**", "Tensor.pow", lambda a, b: a**b, operands=POSITIVE, broadcast=True, dtypes=FLOATS[-2:]),
    Entry("2 **", "Tensor.__rpow__", lambda a: 2**a),
    Entry("& | ^", ("Tensor.bitwise_and", "Tensor.bitwise_or", "Tensor.bitwise_xor", "Tensor.__and__", "Tensor.__or__",
                    "Tensor.__xor__"), lambda a, b: (a & b, a | b, a ^ b), operands=2, dtypes=INTS + BOOL,
          broadcast=True, derivatives=0),
    Entry("& | ^ of numbers", ("Tensor.__rand__", "Tensor.__ror__", "Tensor.__rxor__"),
          lambda a: (3 & a, 3 | a, 3 ^ a), dtypes=INTS, derivatives=0),
    Entry("<< >>", ("Tensor.lshift", "Tensor.rshift", "Tensor.__lshift__", "Tensor.__rshift__"),
          lambda a, b: (a << b, a >> b), operands=(Operand(), Operand(low=0, high=7)), dtypes=INTS, derivatives=0),
    Entry("< >=", ("Tensor.__lt__", "Tensor.__ge__"), lambda a, b: (a < b, a >= b), operands=2, broadcast=True,
          dtypes=ALL, derivatives=0),
    Entry("<= >", ("Tensor.__le__", "Tensor.__gt__"), lambda a, b: (a <= b, a > b), operands=2, broadcast=True,
          dtypes=ALL, derivatives=0),
    Entry("== !=", ("Tensor.__eq__", "Tensor.__ne__"), lambda a, b: (a == b, a != b), operands=2, broadcast=True,
          dtypes=ALL, derivatives=0),
    Entry("!= 1", "Tensor.__ne__", lambda a: a != 1, dtypes=FLOATS + INTS, derivatives=0),
    Entry("mixed dtypes", "Tensor.__add__", lambda a: a + a.cast("float32") * 2, lambda a: a + a.float() * 2,
          dtypes=INTS, derivatives=0),
    Entry("a float number", "Tensor.__mul__", lambda a: a * 0.5, dtypes=INTS, derivatives=0),
    Entry("maximum", "Tensor.maximum", lambda a, b: a.maximum(b), torch.maximum, operands=2, broadcast=True,
          dtypes=ALL, kinks=ties),
    Entry("minimum", "Tensor.minimum", lambda a, b: a.minimum(b), torch.minimum, operands=2, broadcast=True,
          dtypes=ALL, kinks=ties),
    Entry("lerp", "Tensor.lerp", lambda a, b: a.lerp(b, 0.25), operands=2, broadcast=True, special="mild", ulp=16),
]
