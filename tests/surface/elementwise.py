"""Functions of one number, casts, and choices between two."""

from __future__ import annotations

import torch

from .entry import ALL, BOOL, FLOATS, INTS, Entry, Operand

POSITIVE = (Operand(low=0.25),)
UNIT = (Operand(low=-0.75, high=0.75),)

# fmt: off
ENTRIES = [
    Entry("neg", ("Tensor.neg", "Tensor.__neg__"), lambda x: -x, dtypes=FLOATS + INTS),
    Entry("exp", "Tensor.exp", lambda x: x.exp()),
    Entry("expm1", "Tensor.expm1", lambda x: x.expm1()),
    Entry("exp2", "Tensor.exp2", lambda x: x.exp2()),
    Entry("log", "Tensor.log", lambda x: x.log(), operands=POSITIVE),
    Entry("log1p", "Tensor.log1p", lambda x: x.log1p(), operands=UNIT),
    Entry("log2", "Tensor.log2", lambda x: x.log2(), operands=POSITIVE),
    Entry("log10", "Tensor.log10", lambda x: x.log10(), operands=POSITIVE),
    Entry("functions of integers", ("Tensor.exp", "Tensor.sqrt", "Tensor.atan", "Tensor.reciprocal"),
          lambda x: (x.exp(), x.sqrt(), x.atan(), x.reciprocal()), dtypes=INTS + BOOL, derivatives=0),
    Entry("sin", "Tensor.sin", lambda x: x.sin()),
    Entry("cos", "Tensor.cos", lambda x: x.cos()),
    Entry("tan", "Tensor.tan", lambda x: x.tan(), operands=UNIT),
    Entry("asin", "Tensor.asin", lambda x: x.asin(), operands=UNIT),
    Entry("acos", "Tensor.acos", lambda x: x.acos(), operands=UNIT),
    Entry("atan", "Tensor.atan", lambda x: x.atan()),
    Entry("sinh", "Tensor.sinh", lambda x: x.sinh()),
    Entry("cosh", "Tensor.cosh", lambda x: x.cosh()),
    Entry("tanh", "Tensor.tanh", lambda x: x.tanh()),
    Entry("asinh", "Tensor.asinh", lambda x: x.asinh()),
    Entry("acosh", "Tensor.acosh", lambda x: x.acosh(), operands=(Operand(low=1.25),)),
    Entry("atanh", "Tensor.atanh", lambda x: x.atanh(), operands=UNIT),
    Entry("erf", "Tensor.erf", lambda x: x.erf()),
    Entry("sqrt", "Tensor.sqrt", lambda x: x.sqrt(), operands=POSITIVE),
    Entry("rsqrt", "Tensor.rsqrt", lambda x: x.rsqrt(), operands=POSITIVE),
    Entry("square", "Tensor.square", lambda x: x.square(), dtypes=FLOATS + INTS),
    Entry("reciprocal", "Tensor.reciprocal", lambda x: x.reciprocal(), operands=POSITIVE),
    Entry("abs", ("Tensor.abs", "Tensor.__abs__"), lambda x: abs(x), dtypes=FLOATS + INTS),
    # torch's sign of NaN is 0, ours and NumPy's is NaN
    Entry("sign", "Tensor.sign", lambda x: x.sign(), lambda x: x.sign().where(x == x, x), dtypes=FLOATS + INTS),
    Entry("floor", "Tensor.floor", lambda x: x.floor(), dtypes=FLOATS + INTS),
    Entry("ceil", "Tensor.ceil", lambda x: x.ceil(), dtypes=FLOATS + INTS),
    Entry("trunc", "Tensor.trunc", lambda x: x.trunc(), dtypes=FLOATS + INTS),
    Entry("round", "Tensor.round", lambda x: x.round(), dtypes=FLOATS + INTS),
    Entry("clip", ("Tensor.clip", "Tensor.clamp"), lambda x: x.clip(-1, 1.5), dtypes=FLOATS),
    Entry("clip of integers", ("Tensor.clip", "Tensor.clamp"), lambda x: x.clip(-1, 2), dtypes=INTS[:4], derivatives=0),
    Entry("clip below", "Tensor.clip", lambda x: x.clip(0.5), lambda x: x.clip(min=0.5)),
    Entry("clip between Tensors", "Tensor.clip", lambda x, a, b: x.clip(a, b), lambda x, a, b: x.clip(a, b), operands=3,
          kinks=lambda x, a, b: (x == a) | (x == b) | (a == b), special=False),
    Entry("isnan", "Tensor.isnan", lambda x: x.isnan(), dtypes=FLOATS + INTS, derivatives=0),
    Entry("isinf", "Tensor.isinf", lambda x: x.isinf(), dtypes=FLOATS + INTS, derivatives=0),
    Entry("isinf(sign)", "Tensor.isinf", lambda x: (x.isinf(detect_negative=False), x.isinf(detect_positive=False)),
          lambda x: (x.isposinf(), x.isneginf()), dtypes=FLOATS + INTS, derivatives=0),
    Entry("isfinite", "Tensor.isfinite", lambda x: x.isfinite(), dtypes=FLOATS + INTS, derivatives=0),
    Entry("logical_not", "Tensor.logical_not", lambda x: x.logical_not(), dtypes=ALL, derivatives=0),
    Entry("bitwise_not", ("Tensor.bitwise_not", "Tensor.__invert__"), lambda x: (x.bitwise_not(), ~x),
          dtypes=INTS + BOOL, derivatives=0),
    Entry("where", "Tensor.where", lambda c, a, b: c.where(a, b), torch.where, dtypes=ALL, broadcast=True,
          operands=(Operand(dtype="bool"), Operand(), Operand())),
    Entry("where a number", "Tensor.where", lambda x: (x > 0).where(x, 0), lambda x: torch.where(x > 0, x, 0),
          dtypes=FLOATS + INTS),
    Entry("masked_fill", "Tensor.masked_fill", lambda x: x.masked_fill(x > 1, 2) * x, dtypes=FLOATS + INTS),
    Entry("casts", ("Tensor.float", "Tensor.double", "Tensor.half", "Tensor.bool"),
          lambda x: (x.float(), x.double(), x.half(), x.bool()), dtypes=ALL, tolerance=1e-2,
          why="through float16 and float32, whose rounding is in the values that are compared"),
    # what is out of range is undefined in torch
    Entry("casts to integers", ("Tensor.int", "Tensor.long"), lambda x: (x.int(), x.long()),
          dtypes=FLOATS + INTS, special=False, derivatives=0),
    Entry("cast", "Tensor.cast", lambda x: x.cast("float32").cast("float64") * x, lambda x: x.float().double() * x,
          dtypes=("float32", "float64"), tolerance=1e-5),
    Entry("bitcast", "Tensor.bitcast", lambda x: x.bitcast("int32"), lambda x: x.view(torch.int32),
          dtypes=("float32", "int32"), derivatives=0),
]
