"""Scans: running sums, products, extremes and log-sum-exps along an axis.

Comes in: a value and an associative function of two. Goes out: for each element, that function of it and of all before
it. It takes log2(n) steps (Hillis and Steele, 1986): after step k each element holds the last 2^k, so the next combines
it with the one 2^k before. All that is shifting and arithmetic, so scans fuse, run in parallel, and have derivatives
of every order; a running product is differentiated without dividing, so that zeros do no harm.

>>> from clgrad import Tensor
>>> x = Tensor([3.0, 1.0, 4.0, 1.0])
>>> x.cumsum(0).tolist(), x.cummax(0)[1].tolist()
([3.0, 4.0, 8.0, 9.0], [0, 0, 2, 2])
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Union

import numpy as np

from ..backends import dtypes
from ..backends.dtypes import is_bool, is_float
from .composite import log_add_exp
from .movement import axis_of
from .node import Node, constant, make
from .reduction import accurately

if TYPE_CHECKING:
    from .tensor import Tensor

Number = Union[int, float]


def scan(x: Node, axis: int, combine: Callable[[Node, Node], Node], neutral: Number) -> Node:
    """`combine` of each element and all before it. `neutral` combined with anything is that."""
    step = 1
    while step < x.shape[axis]:
        x = combine(shift(x, axis, step, neutral), x)
        step *= 2
    return x


def shift(x: Node, axis: int, step: int, value: Number) -> Node:
    """The elements `step` places further along `axis` (forwards only), and `value` where they were."""
    kept = tuple((0, n - step if a == axis else n) for a, n in enumerate(x.shape))
    widths = tuple((step if a == axis else 0, 0) for a in range(len(x.shape)))
    moved = make("pad", (make("shrink", (x,), kept),), widths)
    if value == 0:
        return moved
    inside = constant(True, dtypes.bool_, tuple(hi for _, hi in kept), x.device)
    return make("pad", (inside,), widths).where_(moved, value)


def others(x: Node, axis: int) -> Node:
    """The product of all elements along `axis` but the one itself: of those before, times those after."""
    if not x.shape[axis]:
        return x

    def before(x: Node) -> Node:
        return shift(scan(x, axis, Node.__mul__, 1), axis, 1, 1)

    return before(x) * make("flip", (before(make("flip", (x,), (axis,))),), (axis,))


def _scanned(op: str, self: Tensor, axis: int, combine: Callable[[Node, Node], Node], neutral: Number) -> Tensor:
    a = axis_of(op, axis, self.ndim)
    return type(self)._wrap(scan(self._source(), a, combine, neutral)) if self.ndim else self


def _summed(op: str, self: Tensor, axis: int, combine: Callable[[Node, Node], Node], neutral: Number) -> Tensor:
    if is_float(self.dtype):
        return accurately(self, lambda x: _scanned(op, x, axis, combine, neutral))
    return _scanned(op, self.cast(dtypes.default_int), axis, combine, neutral)


def cumsum(self: Tensor, axis: int = 0) -> Tensor:
    """Running sums along `axis`. Integers and bools give int64."""
    return _summed("cumsum", self, axis, Node.__add__, 0)


def cumprod(self: Tensor, axis: int) -> Tensor:
    """Running products along `axis`. Integers and bools give int64. The derivatives are right where elements are 0."""
    return _summed("cumprod", self, axis, Node.__mul__, 1)


def logcumsumexp(self: Tensor, axis: int = 0) -> Tensor:
    """log(cumsum(exp(x))) along `axis`, without overflow. Integers and bools become float32.

    Derivatives with respect to -inf are 0, also where all before are -inf and the limit depends on the direction.
    """
    return accurately(self, lambda x: _scanned("logcumsumexp", x, axis, log_add_exp, -inf))


def cummax(self: Tensor, axis: int = 0) -> tuple[Tensor, Tensor]:
    """The largest element so far along `axis`, and its index (int64): of equal ones the last.

    From the first NaN on the values are NaN. The gradient goes to the elements that the indices name.
    """
    return _running("cummax", self, axis, rank(self))


def cummin(self: Tensor, axis: int = 0) -> tuple[Tensor, Tensor]:
    """The smallest element so far along `axis`, and its index (int64): of equal ones the last.

    From the first NaN on the values are NaN. The gradient goes to the elements that the indices name.
    """
    keys = ~rank(self)
    if is_float(self.dtype):
        keys = self.isnan().where(int(np.iinfo(keys.dtype).max), keys)
    return _running("cummin", self, axis, keys)


def _running(op: str, self: Tensor, axis: int, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The elements of which the integer `keys` are the largest so far, and their indices."""
    a = axis_of(op, axis, self.ndim)
    if not self.ndim:
        return self, self.zeros_like(dtype=dtypes.default_int)

    def highest(x: Tensor) -> Tensor:
        return _scanned(op, x, a, lambda before, x: make("max", (before, x)), int(np.iinfo(x.dtype).min))

    places = type(self).arange(self.shape[a], dtype=dtypes.int32, device=self.device)
    places = places.reshape([-1 if b == a else 1 for b in range(self.ndim)])
    # An element that reaches the largest so far is the last one that does, until the next.
    indices = highest((keys == highest(keys)).where(places, 0))
    return self.gather(a, indices), indices.cast(dtypes.default_int)


def rank(x: Tensor) -> Tensor:
    """Integers in the order of x: NaN, whatever its sign, is above all, and the zeros are equal."""
    if is_bool(x.dtype):
        return x.cast(dtypes.uint8)
    if not is_float(x.dtype):
        return x
    if x.dtype.itemsize < 4:
        return rank(x.cast(dtypes.float32))
    x = x.detach()
    dtype = np.dtype(f"int{8 * x.dtype.itemsize}")
    top = int(np.iinfo(dtype).max)
    bits = (x == 0).where(0, x).bitcast(dtype)  # without the sign they are in order; below 0 the order is reversed
    return x.isnan().where(top, (bits < 0).where(bits ^ top, bits))
