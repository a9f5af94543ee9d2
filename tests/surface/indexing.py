"""Indexing: rows, slices, gathers."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from clgrad import Tensor

from .entry import ALL, Entry, Operand, constant

GRID = (Operand((3, 4)),)


def last(axis):
    """The largest index along an axis of the first operand."""
    return lambda shape: shape[axis] - 1


def some_rows(draw, first):
    return (draw(st.integers(0, 5)),)


INDEX = Operand(some_rows, dtype="int64", low=0, high=last(0))
TABLE = Operand(min_dims=1, max_dims=3, min_size=1)


# fmt: off
ENTRIES = [
    Entry("[slices]", "Tensor.__getitem__", lambda x: (x[1:], x[..., -1], x[None, :, 1::2] ** 2, x[-2:, :1]),
          operands=(Operand(min_dims=2, max_dims=3, min_size=1),), dtypes=ALL),
    Entry("[integers]", "Tensor.__getitem__", lambda x: x[-1, 1] ** 2 + x[0], operands=GRID, dtypes=ALL[1:]),
    Entry("[negative steps]", "Tensor.__getitem__", lambda x: x[::-1, 3:0:-2] ** 2,
          lambda x: x.flip((0, 1))[:, :3:2] ** 2, operands=GRID, dtypes=ALL),
    Entry("[index]", "Tensor.__getitem__", lambda x, i: x[i] ** 2, operands=(TABLE, INDEX), dtypes=ALL),
    Entry("[:, index]", "Tensor.__getitem__", lambda x: x[:, constant(x, [[0, 1], [3, -4]])] ** 2, operands=GRID,
          dtypes=ALL),
    Entry("[index, index]", "Tensor.__getitem__",
          lambda x: x[constant(x, [0, 2, 2]), constant(x, [[1, 0, -1]])] ** 2, operands=GRID, dtypes=ALL),
    Entry("take", "Tensor.take", lambda x, i: x.take(i) ** 2, lambda x, i: x[i] ** 2, operands=(TABLE, INDEX),
          dtypes=ALL),
    Entry("gather", "Tensor.gather", lambda x, i: x.gather(1, i) ** 2, dtypes=ALL,
          operands=(Operand(min_dims=2, max_dims=2, min_size=1),
                    Operand(lambda draw, first: (first[0], draw(st.integers(0, 5))), dtype="int64", low=0,
                            high=last(1)))),
    # primitives of the engine, beneath what is public
    Entry("scatter_add", (), lambda x, i: Tensor._make("scatter_add", x, i, arg=4) ** 2,
          lambda x, i: x.new_zeros(4, *x.shape[1:]).index_add(0, i, x) ** 2, special="mild",
          operands=(TABLE, Operand(lambda draw, first: first[:1], dtype="int64", low=0, high=3))),
    Entry("scatter_set", (), lambda x, v: Tensor._make("scatter_set", x, v**2, constant(x, [3, 1, 3])) ** 2,
          lambda x, v: torch.stack([x[0], v[1] ** 2, x[2], v[2] ** 2]) ** 2,
          operands=(Operand((4, 2)), Operand((3, 2)))),
]
