"""Sorting: the order of the elements along an axis, and what is read off it.

Comes in: a Tensor of any dtype. Goes out: positions, and the elements at them. What is sorted are integers in the same
order (`scan.rank`), so NaN is above all, the zeros are equal, and one primitive on integers serves every dtype; in
descending order their bits are turned around, so that the sort is stable either way. The primitive sorts runs, and the
device says which (`Backend.sorted_runs`): NUMPY the row at once, OpenCL short runs, which it then merges by launches.

>>> from clgrad import Tensor
>>> values, indices = Tensor([3.0, 1.0, 2.0]).sort()
>>> values.tolist(), indices.tolist(), Tensor([3.0, 1.0, 2.0]).topk(2)[0].tolist()
([1.0, 2.0, 3.0], [1, 2, 0], [3.0, 2.0])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backends import dtypes
from .device import Device
from .movement import axis_of
from .node import Node, make
from .ops import ShapeError
from .scan import rank

if TYPE_CHECKING:
    from .tensor import Tensor


def order_of(keys: Node) -> Node:
    """The positions (int32) that sort each row of integers; equal ones keep their order."""
    order: tuple[Node, ...] = ()
    for run in Device[keys.device].sorted_runs(keys.shape[-1]):
        order = (make("argsort", (keys, *order), run),)
    return order[0]


def _order(op: str, self: Tensor, dim: int, descending: bool) -> tuple[int, Tensor]:
    """The axis that `dim` names, and the positions that sort along it."""
    a = axis_of(op, dim, self.ndim)
    if not self.numel() or not self.ndim:
        return a, self.zeros_like(dtype=dtypes.int32)
    keys = rank(self)
    rows = (~keys if descending else keys).transpose(a, -1)
    return a, type(self)._wrap(order_of(rows._source())).transpose(a, -1)


def sort(self: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """The elements in order along `dim`, and their indices (int64).

    Equal elements keep their order, -0.0 equals 0.0, and NaN is above all: last, or first if `descending`. The gradient
    of an element goes where it came from.
    """
    a, order = _order("sort", self, dim, descending)
    return (self.gather(a, order) if self.ndim else self), order.cast(dtypes.default_int)


def argsort(self: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    """The indices (int64) that put the elements in order along `dim`, as `sort` has them."""
    return _order("argsort", self, dim, descending)[1].cast(dtypes.default_int)


def topk(self: Tensor, k: int, dim: int = -1, largest: bool = True, sorted_: bool = True) -> tuple[Tensor, Tensor]:
    """The `k` largest (or smallest) elements along `dim`, in order, and their indices (int64).

    Of equal elements the first, and NaN is the largest. They are in order whether or not `sorted_` asks for it. Raises
    ShapeError where there are fewer than `k`.
    """
    a, order = _order("topk", self, dim, largest)
    size = self.shape[a] if self.ndim else 1
    if not 0 <= k <= size:
        raise ShapeError(f"topk: axis {a} of shape {self.shape} has {size} elements, and {k} are wanted")
    if not self.ndim:
        return self, order.cast(dtypes.default_int)
    order = order.shrink([(0, k) if b == a else None for b in range(self.ndim)])
    return self.gather(a, order), order.cast(dtypes.default_int)
