"""Indexing: rows, slices, masks, gathers and scatters, read and assigned."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch.nn import functional as TF

from clgrad import Tensor

from .entry import ALL, INTS, WIDE, Entry, Operand, constant

GRID = (Operand((3, 4)),)
BLOCK = Operand(min_dims=3, max_dims=3, min_size=2)
NUMBERS = INTS + WIDE


def last(axis):
    """The largest index along an axis of the first operand."""
    return lambda shape: shape[axis] - 1


def some_rows(draw, first):
    return (draw(st.integers(0, 5)),)


INDEX = Operand(some_rows, dtype="int64", low=0, high=last(0))
TABLE = Operand(min_dims=1, max_dims=3, min_size=1)
# What is sent to the columns of a matrix, and where to.
COLUMNS = Operand(min_dims=2, max_dims=2, min_size=1)
SENT = (COLUMNS, Operand((1, 4)), Operand((1, 4), dtype="int64", low=0, high=last(1)))


def assigned(index, value=None):
    """x with a value at an index, which may be a function of x."""

    def assign(x, *given):
        y = x.clone()
        y[index(x) if callable(index) else index] = value if value is not None else given[0]
        return y * x

    return assign


def added(x, value):
    y = x.clone()
    y[1:] += value
    y[..., -1] *= y[..., 0].clone()
    return y


def reduced(reduce, *include):
    return lambda x, v, i: tuple(x.scatter_reduce(1, i, v, reduce, include_self=own) for own in include)


# fmt: off
ENTRIES = [
    Entry("[slices]", "Tensor.__getitem__", lambda x: (x[1:], x[..., -1], x[None, :, 1::2] ** 2, x[-2:, :1]),
          operands=(Operand(min_dims=2, max_dims=3, min_size=1),), dtypes=ALL),
    Entry("[integers]", "Tensor.__getitem__", lambda x: x[-1, 1] ** 2 + x[0], operands=GRID, dtypes=ALL[1:]),
    Entry("[steps]", "Tensor.__getitem__", lambda x: (x[::2] ** 2, x[..., 1::3], x[::3, ::2], x[5:1]),
          operands=(Operand(min_dims=2, max_dims=3),), dtypes=ALL),
    Entry("[negative steps]", "Tensor.__getitem__", lambda x: (x[::-1, 3:0:-2] ** 2, x[..., ::-3]),
          lambda x: (x.flip((0, 1))[:, :3:2] ** 2, x.flip(1)[:, ::3]), operands=GRID, dtypes=ALL),
    Entry("[index]", "Tensor.__getitem__", lambda x, i: x[i] ** 2, operands=(TABLE, INDEX), dtypes=ALL),
    Entry("[0-d index]", "Tensor.__getitem__", lambda x: (x[constant(x, 1)], x[:, constant(x, -1), 1:] ** 2),
          operands=(BLOCK,), dtypes=ALL),
    Entry("[:, index]", "Tensor.__getitem__", lambda x: x[:, constant(x, [[0, 1], [3, -4]])] ** 2, operands=GRID,
          dtypes=ALL),
    Entry("[index, index]", "Tensor.__getitem__",
          lambda x: x[constant(x, [0, 2, 2]), constant(x, [[1, 0, -1]])] ** 2, operands=GRID, dtypes=ALL),
    Entry("[lists]", "Tensor.__getitem__", lambda x: (x[[0, 1, 0], :, [1]] ** 2, x[0, :, [1, -1]], x[..., [0, 0], 1]),
          operands=(BLOCK,), dtypes=ALL),
    Entry("[mask]", "Tensor.__getitem__", lambda x: x[x != 0] ** 2, dtypes=ALL),
    Entry("[:, mask], [mask, index]", "Tensor.__getitem__",
          lambda x: (x[:, constant(x, [True, False, True, True])] ** 2, x[[True, False, True], constant(x, [0, 1])]),
          operands=GRID, dtypes=ALL),
    Entry("[slices] =", "Tensor.__setitem__", lambda x, v: (assigned(slice(1, None))(x, v), assigned(
              (slice(None, None, 2), ..., slice(1, None)))(x, v), assigned((0, -1), 2)(x)),
          operands=(Operand(min_dims=2, max_dims=3, min_size=1), Operand(())), dtypes=ALL),
    Entry("[steps] = a block", "Tensor.__setitem__", assigned((slice(None, None, 2), slice(1, None, 2))),
          operands=(Operand((5, 6)), Operand((3, 3))), dtypes=ALL),
    Entry("[index] =", "Tensor.__setitem__", assigned(lambda x: constant(x, [2, -3])),
          operands=(Operand((3, 4)), Operand((2, 4))), dtypes=ALL),
    Entry("[index, :, index] =", "Tensor.__setitem__", assigned(([0, 1, 1], slice(None), [1, 0, 1])),
          operands=(Operand((2, 3, 2)), Operand((3, 1))), dtypes=ALL),
    Entry("[mask] =", "Tensor.__setitem__", lambda x: (assigned(lambda x: x > 0, 1)(x), assigned(
              lambda x: (..., constant(x, [True, False, True])), 2)(x)),
          operands=(Operand(st.integers(0, 3).map(lambda n: (n, 3))),), dtypes=NUMBERS),
    Entry("[mask] = values", "Tensor.__setitem__", assigned([True, False, True]),
          operands=(Operand((3, 2)), Operand((2, 2))), dtypes=ALL),
    Entry("[...] +=", "Tensor.__setitem__", added,
          operands=(Operand(min_dims=1, max_dims=3, min_size=1), Operand(())), dtypes=NUMBERS),
    Entry("take", "Tensor.take", lambda x, i: x.take(i) ** 2, lambda x, i: x[i] ** 2, operands=(TABLE, INDEX),
          dtypes=ALL),
    Entry("gather", "Tensor.gather", lambda x, i: x.gather(1, i) ** 2, dtypes=ALL,
          operands=(Operand(min_dims=2, max_dims=2, min_size=1),
                    Operand(lambda draw, first: (draw(st.integers(0, first[0])), draw(st.integers(0, 5))),
                            dtype="int64", low=0, high=last(1)))),
    Entry("nonzero", "Tensor.nonzero", lambda x: (x.nonzero(), *x.nonzero(as_tuple=True)), derivatives=0,
          operands=(Operand(min_dims=1),), dtypes=ALL),
    Entry("masked_select", "Tensor.masked_select", lambda x: x.masked_select(x != 0) ** 2, dtypes=ALL),
    Entry("masked_fill, dtype kept", "Tensor.masked_fill",
          lambda x: (x.masked_fill(x > 0, 2), x.masked_fill(x == x, 1)), dtypes=ALL),
    Entry("one_hot", "Tensor.one_hot", lambda x: x.one_hot(6), lambda x: TF.one_hot(x, 6), derivatives=0,
          operands=(Operand(low=0, high=5, max_dims=3),), dtypes=("int64",)),
    Entry("index_copy", "Tensor.index_copy", lambda x, v: x.index_copy(1, constant(x, [3, 0]), v) ** 2,
          operands=(Operand((2, 4)), Operand((2, 2))), dtypes=ALL),
    Entry("scatter", "Tensor.scatter", lambda x, v: (x.scatter(0, constant(x, [[2, 0], [1, 3], [3, 2]]), v) ** 2,
                                                     x.scatter(1, constant(x, [[1], [0], [1]]), 2)),
          operands=(Operand((4, 2)), Operand((3, 2))), dtypes=ALL),
    Entry("scatter(add)", "Tensor.scatter", lambda x, v, i: x.scatter(1, i, v, reduce="add") ** 2,
          lambda x, v, i: x.scatter_add(1, i, v) ** 2, operands=SENT, special="mild", dtypes=NUMBERS),
    Entry("scatter(multiply)", "Tensor.scatter", lambda x, v, i: x.scatter(1, i, v, reduce="multiply"),
          lambda x, v, i: x.scatter_reduce(1, i, v, "prod"), special="mild", dtypes=NUMBERS,
          operands=(Operand(min_dims=2, max_dims=2, min_size=1, low=0.5), Operand((1, 4), low=0.5), SENT[2])),
    Entry("scatter_reduce(sum)", "Tensor.scatter_reduce", reduced("sum", True, False), operands=SENT, special="mild",
          dtypes=NUMBERS),
    Entry("scatter_reduce(mean)", "Tensor.scatter_reduce", reduced("mean", True, False), operands=SENT, special="mild",
          dtypes=WIDE),
    Entry("scatter_reduce(prod)", "Tensor.scatter_reduce", reduced("prod", False), special="mild", dtypes=NUMBERS,
          operands=(Operand(min_dims=2, max_dims=2, min_size=1, low=0.5), Operand((1, 4), low=0.5), SENT[2])),
    Entry("scatter_reduce(amax amin)", "Tensor.scatter_reduce",
          lambda x, v, i: (*reduced("amax", True)(x, v, i), *reduced("amin", True)(x, v, i)), operands=SENT,
          dtypes=NUMBERS),
    # torch counts x among the ties even where it takes no part, so here nothing is equal
    Entry("scatter_reduce(amax amin of others)", "Tensor.scatter_reduce",
          lambda x, v, i: (*reduced("amax", False)(x, v, i), *reduced("amin", False)(x, v, i)), dtypes=NUMBERS,
          operands=(COLUMNS, Operand((1, 4), distinct=True, low=4, high=9), SENT[2])),
    # primitives of the engine, beneath what is public
    Entry("scatter_add", (), lambda x, i: Tensor._make("scatter_add", x, i, arg=4) ** 2,
          lambda x, i: x.new_zeros(4, *x.shape[1:]).index_add(0, i, x) ** 2, special="mild",
          operands=(TABLE, Operand(lambda draw, first: first[:1], dtype="int64", low=0, high=3))),
    Entry("scatter_set", (), lambda x, v: Tensor._make("scatter_set", x, v**2, constant(x, [3, 1, 3])) ** 2,
          lambda x, v: torch.stack([x[0], v[1] ** 2, x[2], v[2] ** 2]) ** 2,
          operands=(Operand((4, 2)), Operand((3, 2)))),
]
