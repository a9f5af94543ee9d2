"""Products: dots of every shape, linear layers, attention."""

from __future__ import annotations

import numpy as np
from torch.nn import functional as TF

from .entry import FLOATS, INTS, Entry, Operand, constant

MATRIX = Operand(min_dims=2)
MASK = np.array([[True, False, True], [True, True, False], [False, True, True]])
QKV = (Operand((2, 3, 4)), Operand((2, 3, 4)), Operand((2, 3, 5)))


def attended(**options):
    return lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, **options)


# fmt: off
ENTRIES = [
    Entry("@", ("Tensor.matmul", "Tensor.dot", "Tensor.__matmul__"), lambda a, b: a @ b.transpose(-1, -2),
          operands=(MATRIX, Operand()), dtypes=FLOATS + INTS, special="mild", ulp=16),
    Entry("@ of vectors", "Tensor.__matmul__", lambda a, b: a @ b, special="mild", ulp=16,
          operands=(Operand(min_dims=1, max_dims=1), Operand())),
    Entry("@ of a matrix and a vector", "Tensor.__matmul__", lambda a, b: a @ b, special="mild", ulp=16,
          operands=(MATRIX, Operand(lambda draw, first: first[-1:]))),
    Entry("@ of a vector and a matrix", "Tensor.__rmatmul__", lambda a, b: a @ b, special="mild", ulp=16,
          operands=(Operand(min_dims=1, max_dims=1), Operand(lambda draw, first: (*first, 3)))),
    Entry("@ broadcast", "Tensor.__matmul__", lambda a, b: a.unsqueeze(1) @ b.transpose(-1, -2), special="mild", ulp=16,
          operands=(Operand(min_dims=3, max_dims=3), Operand())),
    Entry("linear", "Tensor.linear", lambda x, w, b: x.linear(w, b).tanh(), lambda x, w, b: (x @ w + b).tanh(),
          operands=(Operand(min_dims=1), Operand(lambda draw, first: (first[-1], 4)), Operand((4,))), special=False,
          ulp=128, why="sums of up to 35 products of up to 9 each, whose size the tanh hides"),
    Entry("attention", "Tensor.scaled_dot_product_attention",
          lambda q, k, v: q.scaled_dot_product_attention(k, v), attended(), operands=QKV, special=False, ulp=16),
    Entry("attention, causal", "Tensor.scaled_dot_product_attention",
          lambda q, k, v: q.scaled_dot_product_attention(k, v, is_causal=True), attended(is_causal=True), operands=QKV,
          special=False, ulp=16),
    Entry("attention, masked", "Tensor.scaled_dot_product_attention",
          lambda q, k, v: q.scaled_dot_product_attention(k, v, constant(q, MASK)),
          lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, constant(q, MASK)), operands=QKV, special=False,
          ulp=16),
]
