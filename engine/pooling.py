"""Pooling: one value for each window of an image, its mean or its largest, and the way back.

Windows are those of `convolution.py`, so nothing is copied to look through them. The gradient of a maximum goes to the
element that was the first largest in its window, as in PyTorch; where windows overlap, it is added up.

>>> from clgrad import Tensor
>>> image = Tensor([[[[1.0, 2.0, 5.0, 0.0], [4.0, 3.0, 0.0, 3.0]]]])
>>> values, places = image.max_pool2d(2, return_indices=True)
>>> values.tolist(), places.tolist(), image.avg_pool2d(2).tolist()
([[[[4.0, 5.0]]]], [[[[4, 2]]]], [[[[2.5, 2.0]]]])
"""

from __future__ import annotations

from functools import reduce
from itertools import product
from math import inf, prod
from typing import TYPE_CHECKING, NamedTuple, Optional

import numpy as np

from ..backends import dtypes
from ..backends.dtypes import is_bool, is_float
from .composite import composite
from .convolution import MOST_PARTS, Shape, Sizes, Widths, each, overlaid, widths, windows
from .movement import as_shape
from .node import Node, iota, make
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor


REDUCTIONS = {"add": "reduce_sum", "max": "reduce_max"}


class Windows(NamedTuple):
    """The windows of a pooling over the last axes: what is padded, and how they lie in that."""

    size: Shape
    stride: Shape
    dilation: Shape
    padding: Widths
    beyond: Widths  # more padding at the end, for windows that `ceil_mode` lets begin inside and end outside
    places: Shape

    @property
    def steps(self) -> tuple[Shape, Shape, Shape]:
        return self.size, self.stride, self.dilation

    def over(self, x: Tensor) -> Tensor:
        """(..., *padded) -> (..., *places, *size)"""
        return type(x)._wrap(windows(x._source(), *self.steps))

    def reduced(self, x: Tensor, op: str) -> Tensor:
        """(..., *places, *size) -> (..., *places), where `op` is "add" or "max": one element of each window after
        another where these are few, which is faster than so many short rows."""
        rank = len(self.size)
        shape = x.shape[:-rank]
        if prod(self.size) > MOST_PARTS:
            return x._apply(REDUCTIONS[op], tuple(range(len(shape), x.ndim))).reshape(shape)
        whole = [(0, n) for n in shape]
        places = product(*([(i, i + 1) for i in range(n)] for n in self.size))
        parts = [make("shrink", (x._source(),), (*whole, *place)) for place in places]
        total = reduce(lambda a, b: make(op, (a, b)), parts).reshape(shape)
        return type(x)._wrap(composite("windows_" + op, None, _sum_gradient, total, x._source()))

    def padded(self, x: Tensor, widths: Widths, value: float = 0.0) -> Tensor:
        return x.pad([(0, 0)] * (x.ndim - len(widths)) + widths, value=value)


def _windows_of(op: str, x: Tensor, kernel_size: Sizes, stride: Optional[Sizes], dilation, padding, ceil) -> Windows:
    """With an int for the kernel: two axes, as in PyTorch's functions of that name; a tuple says how many."""
    rank = 2 if isinstance(kernel_size, int) else len(kernel_size)
    size = each(op, "kernel_size", kernel_size, rank)
    step = size if stride is None else each(op, "stride", stride, rank)
    gap, around = each(op, "dilation", dilation, rank), widths(op, padding, rank)
    if x.ndim < rank:
        raise ShapeError(f"{op}: {x.shape} has fewer dimensions than kernel_size {size}")
    if any(p > k // 2 for k, pair in zip(size, around) for p in pair):
        raise ShapeError(f"{op}: padding {padding} must be at most half of kernel_size {size}")
    beyond, places = [], []
    for n, k, s, d, (before, after) in zip(x.shape[-rank:], size, step, gap, around):
        room = before + n + after - d * (k - 1) - 1
        count = room // s + 1
        if ceil and room % s and count * s < n + before:  # one more, unless it would begin outside
            count += 1
        if count < 1:
            raise ShapeError(f"{op}: kernel_size {size} with dilation {gap} does not fit into a padded {x.shape}")
        places.append(count)
        beyond.append((0, max((count - 1) * s - room, 0)))
    return Windows(size, step, gap, around, beyond, tuple(places))


def _sum_gradient(arg: None, g: Node, y: Node, x: Node):
    """To every element of a window. (Of a maximum nobody asks: it is taken of what has no history.)"""
    return (g.reshape((*g.shape, *(1,) * (len(x.shape) - len(g.shape)))).expand(x.shape),)


def avg_pool2d(
    self: Tensor,
    kernel_size: Sizes = (2, 2),
    stride: Optional[Sizes] = None,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window: (..., *n) -> (..., *places), over as many axes as `kernel_size` has (an int: two).

    `stride` is `kernel_size` unless given; `padding` takes conv2d's forms; `ceil_mode` adds a last window that is not
    full, and counts what it has. Without `count_include_pad` zeros of the padding do not count. Integers become floats.
    """
    w = _windows_of("avg_pool2d", self, kernel_size, stride, dilation, padding, ceil_mode)
    x = self if is_float(self.dtype) else self.cast(dtypes.default_float)
    wide = dtypes.float32 if x.dtype.itemsize < 4 else x.dtype
    total = w.reduced(w.over(w.padded(w.padded(x, w.padding), w.beyond)).cast(wide), "add").cast(x.dtype)
    counted = any(map(any, w.beyond)) or (any(map(any, w.padding)) and not count_include_pad)
    if not counted:
        return total / prod(w.size)
    ones = x.ones(*x.shape[-len(w.size) :], dtype=x.dtype, device=x.device)
    inside = w.padded(ones, w.padding, float(count_include_pad))
    return total / w.reduced(w.over(w.padded(inside, w.beyond)), "add")


def max_pool2d(
    self: Tensor,
    kernel_size: Sizes = (2, 2),
    stride: Optional[Sizes] = None,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    return_indices: bool = False,
):
    """The largest of each window: (..., *n) -> (..., *places), over as many axes as `kernel_size` has numbers.

    Arguments as in `avg_pool2d`; padding never wins. NaN is the largest. The first of several largest elements gets the
    gradient. With `return_indices` also (int64) where in the flattened spatial axes each was found.
    """
    w = _windows_of("max_pool2d", self, kernel_size, stride, dilation, padding, ceil_mode)
    rank, count = len(w.size), prod(w.size)
    least = -inf if is_float(self.dtype) else 0 if is_bool(self.dtype) else int(np.iinfo(self.dtype).min)
    around = [(before, after + more) for (before, after), (_, more) in zip(w.padding, w.beyond)]
    x = w.padded(self, around, least)
    seen = w.over(x)
    best = w.reduced(seen.detach(), "max")
    # The place in the window, as a distance from `count`: below it for the first largest, above it for the last NaN.
    place = type(self).arange(count, dtype="int32", device=self.device).reshape(w.size)
    rating = (seen.detach() == best.reshape((*best.shape, *[1] * rank))).where(count - place, -1)
    if any(map(any, around)):
        inside = w.padded(self.ones(*self.shape[-rank:], dtype="bool", device=self.device), around)
        rating = w.over(inside).where(rating, -1)
    if is_float(self.dtype):
        rating = seen.detach().isnan().where(count + place, rating)
    found = (w.reduced(rating, "max") - count).abs()  # (..., *places)
    arg = (x.shape[-rank:], *w.steps)
    node = composite("max_pool", arg, _max_pool_gradient, best.node, x._source(), found.node)
    result = type(self)._wrap(node)
    if not return_indices:
        return result
    index, below = found * 0, count
    for axis, (k, s, d, (before, _), n) in enumerate(zip(w.size, w.stride, w.dilation, w.padding, self.shape[-rank:])):
        below //= k
        first = type(self).arange(w.places[axis], dtype="int32", device=self.device) * s - before
        first = first.reshape([-1 if a == axis else 1 for a in range(rank)])
        index = index * n + first + found // below % k * d
    return result, index.long()


def _max_pool_gradient(arg, g: Node, y: Node, x: Node, found: Node):
    """To the element of each window that was found."""
    size = arg[1]
    whole = (*g.shape, prod(size))
    place = iota(prod(size), g.device).reshape((*(1,) * len(g.shape), prod(size))).expand(whole)
    chosen = place.eq(found.reshape((*g.shape, 1)).expand(whole))
    return overlaid(chosen.where_(g.reshape((*g.shape, 1)).expand(whole), 0.0).reshape((*g.shape, *size)), *arg), None


def max_unpool2d(
    self: Tensor,
    indices: Tensor,
    kernel_size: Sizes = (2, 2),
    stride: Optional[Sizes] = None,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    output_size=None,
) -> Tensor:
    """Each value where `max_pool2d` found it, zeros elsewhere: (..., *places) and indices of that shape -> (..., *n).

    The other arguments are those of the pooling; n is the smallest size that they allow unless `output_size` (of the
    spatial axes, or of all) says more. Of values for one element the last counts. Raises IndexError for an index out
    of range, as the device finds it.
    """
    op, rank = "max_unpool2d", 2 if isinstance(kernel_size, int) else len(kernel_size)
    if indices.shape != self.shape:
        raise ShapeError(f"{op}: indices of shape {indices.shape} must have the shape of the values, {self.shape}")
    size, gap = each(op, "kernel_size", kernel_size, rank), each(op, "dilation", dilation, rank)
    step = size if stride is None else each(op, "stride", stride, rank)
    around = widths(op, padding, rank)
    least = (
        s * (n - 1) + d * (k - 1) + 1 - sum(p) for n, k, s, d, p in zip(self.shape[-rank:], size, step, gap, around)
    )
    shape = tuple(least) if output_size is None else as_shape((output_size,))[-rank:]
    outer, area = prod(self.shape[:-rank]), prod(shape)
    values, index = self.reshape(outer, -1), indices.reshape(outer, -1).cast("int64")
    index = (index < 0).where(outer * area, (index < area).where(index, outer * area))  # not another image's
    index = index + type(self).arange(outer, dtype="int64", device=self.device).unsqueeze(1) * area
    empty = self.zeros(outer * area, dtype=self.dtype, device=self.device)
    filled = empty.index_copy(0, index.flatten(), values.flatten())
    return filled.reshape((*self.shape[:-rank], *shape))
