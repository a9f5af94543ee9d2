"""Running sums, products and extremes, and what is put in order."""

from __future__ import annotations

import torch

from .entry import ALL, BOOL, FLOATS, INTS, WIDE, Entry, Operand

ROWS = (Operand(min_dims=1),)
THREE = (Operand(min_dims=1, min_size=3),)


def _squared(pair):
    """The values, with something to differentiate, and the indices."""
    values, indices = pair
    return (values * values, indices) if values.dtype not in (torch.bool, bool) else (values, indices)


def _top(x, k, dim=-1, largest=True):
    """The first of a stable sort: torch's own `topk` leaves open which of equal elements it takes."""
    values, indices = x.sort(dim=dim, descending=largest, stable=True)
    return _squared((values.narrow(dim, 0, k), indices.narrow(dim, 0, k)))


# fmt: off
ENTRIES = [
    Entry("cumsum", "Tensor.cumsum", lambda x: x.cumsum(-1), dtypes=FLOATS + INTS + BOOL, special="mild", ulp=16),
    Entry("cumsum(0)", "Tensor.cumsum", lambda x: (x * x).cumsum(), lambda x: (x * x).cumsum(0), special="mild",
          dtypes=WIDE, ulp=16),
    Entry("cumprod", "Tensor.cumprod", lambda x: x.cumprod(0), dtypes=FLOATS + INTS + BOOL, special="mild", ulp=16),
    Entry("cumprod of zeros", "Tensor.cumprod", lambda x: (x * x - x).cumprod(-1), special=False, dtypes=("float64",),
          operands=(Operand(min_dims=1, low=0, high=1),)),
    Entry("cummax", "Tensor.cummax", lambda x: _squared(x.cummax(-1)), dtypes=FLOATS + INTS),
    Entry("cummax(0)", "Tensor.cummax", lambda x: x.cummax(), lambda x: x.cummax(0), dtypes=BOOL + WIDE),
    Entry("cummin", "Tensor.cummin", lambda x: _squared(x.cummin(0)), dtypes=WIDE + INTS[:2]),
    Entry("cummin(1)", "Tensor.cummin", lambda x: x.cummin(1), operands=(Operand(min_dims=2),), dtypes=ALL,
          derivatives=0),
    Entry("logcumsumexp", "Tensor.logcumsumexp", lambda x: x.logcumsumexp(-1), special="mild"),
    Entry("logcumsumexp(0)", "Tensor.logcumsumexp", lambda x: x.logcumsumexp(), lambda x: x.logcumsumexp(0),
          special="mild"),
    Entry("sort", "Tensor.sort", lambda x: _squared(x.sort()), lambda x: _squared(x.sort(stable=True)),
          dtypes=WIDE + INTS[:2]),
    Entry("sort(descending)", "Tensor.sort", lambda x: x.sort(0, descending=True),
          lambda x: x.sort(dim=0, descending=True, stable=True), dtypes=ALL),
    Entry("argsort", "Tensor.argsort", lambda x: (x.argsort(), x.argsort(0, True)),
          lambda x: (x.argsort(stable=True), x.argsort(dim=0, descending=True, stable=True)), dtypes=ALL,
          derivatives=0),
    Entry("topk", "Tensor.topk", lambda x: _squared(x.topk(2)), lambda x: _top(x, 2), operands=THREE,
          dtypes=FLOATS + INTS),
    Entry("topk(largest, dim)", "Tensor.topk", lambda x: x.topk(3, 0, largest=False), lambda x: _top(x, 3, 0, False),
          operands=THREE, dtypes=BOOL, derivatives=0),
    Entry("topk of distinct elements", "Tensor.topk", lambda x: _squared(x.topk(2, 0, False, sorted_=True)),
          lambda x: _squared(x.topk(2, 0, False)), dtypes=FLOATS + INTS[:4], special=False,
          operands=(Operand(min_dims=1, min_size=3, distinct=True),)),
    Entry("topk of nothing", "Tensor.topk", lambda x: x.topk(0, -1), operands=ROWS, dtypes=FLOATS + INTS),
]
