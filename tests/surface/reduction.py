"""Reductions, and what is made of them."""

from __future__ import annotations

from math import inf

import numpy as np
import torch
from torch.nn import functional as TF

from .entry import ALL, BOOL, FLOATS, INTS, WIDE, Entry, Operand

ROWS = (Operand(min_dims=1),)  # with a last axis
FULL = (Operand(min_dims=1, min_size=1),)  # and something in it
MATRIX = (Operand(min_dims=2),)
APART = (Operand(min_dims=1, min_size=2, distinct=True),)
PLAIN = (Operand(min_dims=1, min_size=2),)
VAR_MEAN = ("Tensor.var_mean", "Tensor.std_mean")


def _over_both(function):
    """`function` along the last axis, of the last two as one."""
    return lambda x: function(x.flatten(-2), -1).unflatten(-1, x.shape[-2:])


# fmt: off
ENTRIES = [
    Entry("sum", "Tensor.sum", lambda x: (x * x).sum(), dtypes=FLOATS, special="mild"),
    Entry("sum of integers", "Tensor.sum", lambda x: x.sum(), dtypes=INTS + BOOL, derivatives=0),
    Entry("sum(axis)", "Tensor.sum", lambda x: (x * x).sum(0), operands=ROWS, dtypes=FLOATS + INTS, special="mild"),
    Entry("sum(axes)", "Tensor.sum", lambda x: x.sum((0, -1), True), operands=MATRIX, dtypes=FLOATS + INTS,
          special="mild"),
    Entry("sum(dtype)", "Tensor.sum", lambda x: (x.sum(-1, dtype="float64"), x.sum(dtype="int32")),
          lambda x: (x.sum(-1, dtype=torch.float64), x.sum(dtype=torch.int32)), operands=ROWS,
          dtypes=("bool", "int8", "int16"), derivatives=0),
    Entry("sum(dtype) of floats", "Tensor.sum", lambda x: (x * x).sum(-1, dtype="float64"),
          lambda x: (x * x).sum(-1, dtype=torch.float64), operands=ROWS, special="mild"),
    Entry("mean", "Tensor.mean", lambda x: (x * x).mean(), special="mild"),
    Entry("mean(axis)", "Tensor.mean", lambda x: x.mean(-1), operands=ROWS, special="mild"),
    Entry("mean(axes)", "Tensor.mean", lambda x: x.mean((0, 1), keepdim=True), operands=MATRIX, special="mild"),
    Entry("max", "Tensor.max", lambda x: x.max(), lambda x: x.amax(), dtypes=ALL, operands=(Operand(min_size=1),)),
    Entry("max(axis)", "Tensor.max", lambda x: x.max(0, keepdim=True), lambda x: x.amax(0, keepdim=True),
          operands=ROWS, dtypes=ALL),
    Entry("max(axes)", "Tensor.max", lambda x: (x * x).max((-1, 0)), lambda x: (x * x).amax((-1, 0)),
          operands=(Operand(min_dims=2, min_size=1),)),
    Entry("min", "Tensor.min", lambda x: x.min(), lambda x: x.amin(), dtypes=ALL, operands=(Operand(min_size=1),)),
    Entry("min(axis)", "Tensor.min", lambda x: x.min(-1), lambda x: x.amin(-1), operands=ROWS, dtypes=ALL),
    Entry("prod", "Tensor.prod", lambda x: x.prod(), special="mild", operands=(Operand(max_dims=2),), ulp=64),
    Entry("prod(axis)", "Tensor.prod", lambda x: x.prod(-1), operands=ROWS, dtypes=FLOATS + INTS + BOOL,
          special="mild"),
    Entry("prod(axes)", "Tensor.prod", lambda x: x.prod((0, 2), keepdim=True),
          lambda x: x.prod(2, keepdim=True).prod(0, keepdim=True),
          operands=(Operand(min_dims=3, max_dims=3),), special="mild", dtypes=WIDE, ulp=64),
    Entry("prod(dtype)", "Tensor.prod", lambda x: x.prod(0, dtype="float32"),
          lambda x: x.prod(0, dtype=torch.float32), operands=ROWS, dtypes=("bool", "int8"), derivatives=0),
    Entry("prod of zeros", "Tensor.prod", lambda x: (x * x - x).prod(-1),
          operands=(Operand(min_dims=1, low=0, high=1),), dtypes=("float64",), special=False),
    Entry("var", "Tensor.var", lambda x: x.var(-1), operands=PLAIN, special="mild", ulp=32),
    Entry("var(correction)", "Tensor.var", lambda x: x.var(0, correction=0), operands=ROWS, special="mild", ulp=32),
    Entry("var(axes)", "Tensor.var", lambda x: x.var((0, -1), keepdim=True), special="mild", ulp=32,
          operands=(Operand(min_dims=2, min_size=2),)),
    Entry("var of too few", "Tensor.var", lambda x: (x.var(0, correction=20), x[:1].var(0)), operands=PLAIN,
          special="mild", derivatives=0),
    Entry("std", "Tensor.std", lambda x: x.std(), operands=APART, special=False, ulp=32),
    Entry("std(axis)", "Tensor.std", lambda x: x.std(-1, keepdim=True, correction=0), operands=APART, special=False,
          ulp=32),
    # torch's second derivative is NaN there; ours is 0, like the first
    Entry("std of equal elements", "Tensor.std", lambda x: x.std(-1) + x.sum(-1), derivatives=1, special=False,
          operands=(Operand(shape=(2, 7), low=0.1, high=0.1),)),
    Entry("var_mean std_mean", VAR_MEAN, lambda x: (*x.var_mean(-1), *x.std_mean(-1, keepdim=True, correction=0)),
          lambda x: (*torch.var_mean(x, -1), *torch.std_mean(x, -1, keepdim=True, correction=0)),
          operands=APART, special=False, ulp=32),
    Entry("any all", ("Tensor.any", "Tensor.all"), lambda x: (x.any(), x.all()), dtypes=ALL, derivatives=0),
    Entry("any(axis)", ("Tensor.any", "Tensor.all"), lambda x: (x.any(-1), x.all(0)), operands=ROWS, dtypes=ALL,
          derivatives=0),
    Entry("any(axes)", ("Tensor.any", "Tensor.all"), lambda x: (x.any((0, 1)), x.all((0, -1), keepdim=True)),
          operands=MATRIX, dtypes=ALL, derivatives=0),
    Entry("argmax", "Tensor.argmax", lambda x: x.argmax(), operands=(Operand(min_size=1),), dtypes=FLOATS + INTS,
          derivatives=0),
    Entry("argmax(axis)", "Tensor.argmax", lambda x: x.argmax(-1, keepdim=True), operands=ROWS, dtypes=FLOATS + INTS,
          derivatives=0),
    Entry("argmin", "Tensor.argmin", lambda x: x.argmin(keepdim=True), operands=(Operand(min_size=1),),
          dtypes=FLOATS + INTS, derivatives=0),
    Entry("argmin(axis)", "Tensor.argmin", lambda x: x.argmin(0), operands=ROWS, dtypes=FLOATS + INTS, derivatives=0),
    Entry("logsumexp", "Tensor.logsumexp", lambda x: x.logsumexp(-1), operands=ROWS, special="mild"),
    Entry("logsumexp of all", "Tensor.logsumexp", lambda x: x.logsumexp(), lambda x: x.flatten().logsumexp(0),
          special="mild"),
    Entry("logsumexp(axes)", "Tensor.logsumexp", lambda x: x.logsumexp((0, -1), keepdim=True), operands=MATRIX,
          special="mild"),
    Entry("logsumexp of integers", "Tensor.logsumexp", lambda x: x.logsumexp(0), operands=ROWS, dtypes=INTS,
          special="mild", derivatives=0),
    Entry("softmax", "Tensor.softmax", lambda x: x.softmax(-1), special="mild"),
    Entry("softmax(axes)", "Tensor.softmax", lambda x: x.softmax((-2, -1)), _over_both(torch.softmax), special="mild",
          operands=(Operand(min_dims=2, min_size=1),)),
    Entry("softmax(dtype)", "Tensor.softmax", lambda x: x.softmax(0, dtype="float64"),
          lambda x: x.softmax(0, dtype=torch.float64), special="mild"),
    Entry("log_softmax", "Tensor.log_softmax", lambda x: x.log_softmax(0), special="mild"),
    Entry("log_softmax(axes)", "Tensor.log_softmax", lambda x: x.log_softmax((-2, -1)), _over_both(torch.log_softmax),
          special="mild", operands=(Operand(min_dims=2, min_size=1),)),
    # torch's second derivative at a row of zeros is NaN
    Entry("normalize", "Tensor.normalize", lambda x: x.normalize(), lambda x: TF.normalize(x), special="mild",
          operands=(Operand(min_dims=2, low=0.25),)),
    Entry("normalize(p, dim)", "Tensor.normalize", lambda x: x.normalize(3.0, 0, 0.5),
          lambda x: TF.normalize(x, 3, 0, 0.5), operands=PLAIN, special="mild", ulp=16),
    Entry("normalize(1)", "Tensor.normalize", lambda x: x.normalize(1, -1), lambda x: TF.normalize(x, 1, -1),
          operands=ROWS, special="mild"),
    Entry("normalize(0)", "Tensor.normalize", lambda x: x.normalize(0, -1), lambda x: TF.normalize(x, 0, -1),
          operands=ROWS, special="mild"),
    Entry("normalize(inf)", "Tensor.normalize", lambda x: x.normalize(inf, -1), lambda x: TF.normalize(x, inf, -1),
          operands=FULL, special="mild", kinks=lambda x: (np.abs(x) == np.abs(x).max(-1, keepdims=True)).sum(-1) > 1),
    Entry("layernorm", "Tensor.layernorm", lambda x: x.layernorm(), lambda x: TF.layer_norm(x, x.shape[-1:]),
          operands=APART, special=False, ulp=64),
]
