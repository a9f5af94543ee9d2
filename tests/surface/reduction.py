"""Reductions, and what is made of them."""

from __future__ import annotations

import numpy as np
from torch.nn import functional as TF

from .entry import ALL, BOOL, FLOATS, INTS, Entry, Operand

ROWS = (Operand(min_dims=1),)  # with a last axis
FULL = (Operand(min_dims=1, min_size=1),)  # and something in it
APART = (Operand(min_dims=1, min_size=2, distinct=True),)
PLAIN = (Operand(min_dims=1, min_size=2),)


def tied(x, axis=None):
    """Whether a largest or smallest element is not alone."""
    ordered = np.sort(x.ravel() if axis is None else x, axis=-1)
    return (ordered[..., 1:] == ordered[..., :-1]).any()


# fmt: off
ENTRIES = [
    Entry("sum", "Tensor.sum", lambda x: (x * x).sum(), dtypes=FLOATS, special="mild"),
    Entry("sum of integers", "Tensor.sum", lambda x: x.sum(), dtypes=INTS + BOOL, derivatives=0),
    Entry("sum(axis)", "Tensor.sum", lambda x: (x * x).sum(0), operands=ROWS, dtypes=FLOATS + INTS, special="mild"),
    Entry("sum(axes)", "Tensor.sum", lambda x: x.sum((0, -1), True), operands=(Operand(min_dims=2),),
          dtypes=FLOATS + INTS, special="mild"),
    Entry("mean", "Tensor.mean", lambda x: (x * x).mean(), special="mild"),
    Entry("mean(axis)", "Tensor.mean", lambda x: x.mean(-1), operands=ROWS, special="mild"),
    Entry("max", "Tensor.max", lambda x: x.max(), lambda x: x.amax(), dtypes=ALL, operands=(Operand(min_size=1),)),
    Entry("max(axis)", "Tensor.max", lambda x: x.max(0, keepdim=True), lambda x: x.amax(0, keepdim=True),
          operands=FULL, dtypes=ALL),
    Entry("min(axis)", "Tensor.min", lambda x: x.min(-1), lambda x: x.amin(-1), operands=FULL, dtypes=ALL),
    Entry("prod", "Tensor.prod", lambda x: x.prod(), special="mild", operands=(Operand(max_dims=2),), ulp=64),
    Entry("prod(axis)", "Tensor.prod", lambda x: x.prod(-1), operands=ROWS, dtypes=FLOATS + INTS, special="mild"),
    Entry("var", "Tensor.var", lambda x: x.var(-1), operands=PLAIN, special="mild", ulp=32),
    Entry("var(correction)", "Tensor.var", lambda x: x.var(0, correction=0), operands=ROWS, special="mild", ulp=32),
    Entry("std", "Tensor.std", lambda x: x.std(), operands=APART, special=False, ulp=32),
    Entry("any all", ("Tensor.any", "Tensor.all"), lambda x: (x.any(), x.all()), dtypes=ALL, derivatives=0),
    Entry("any(axis)", ("Tensor.any", "Tensor.all"), lambda x: (x.any(-1), x.all(0)), operands=ROWS, dtypes=ALL,
          derivatives=0),
    Entry("argmax", "Tensor.argmax", lambda x: x.argmax(), operands=(Operand(min_size=1, distinct=True),),
          dtypes=FLOATS + INTS, derivatives=0),
    Entry("argmax(axis)", "Tensor.argmax", lambda x: x.argmax(-1, keepdim=True), operands=FULL, dtypes=FLOATS + INTS,
          derivatives=0),
    Entry("argmin(axis)", "Tensor.argmin", lambda x: x.argmin(0), operands=FULL, dtypes=FLOATS + INTS, derivatives=0),
    Entry("logsumexp", "Tensor.logsumexp", lambda x: x.logsumexp(-1), operands=ROWS, special="mild"),
    Entry("logsumexp of all", "Tensor.logsumexp", lambda x: x.logsumexp(), lambda x: x.flatten().logsumexp(0),
          special="mild"),
    Entry("softmax", "Tensor.softmax", lambda x: x.softmax(-1), special="mild"),
    Entry("log_softmax", "Tensor.log_softmax", lambda x: x.log_softmax(0), special="mild"),
    Entry("cumsum", "Tensor.cumsum", lambda x: x.cumsum(-1), operands=ROWS, dtypes=FLOATS + INTS, special="mild",
          ulp=16),
    Entry("layernorm", "Tensor.layernorm", lambda x: x.layernorm(), lambda x: TF.layer_norm(x, x.shape[-1:]),
          operands=APART, special=False, ulp=64),
]
