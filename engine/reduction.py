"""Reductions, and what is made of them: Tensor methods that put several elements into one.

Floats are summed in their own dtype (float16 through float32), integers and bools as int64.

>>> from clgrad import Tensor
>>> x = Tensor([[1.0, 2.0], [3.0, 6.0]])
>>> x.sum().item(), x.mean(0).tolist(), x.argmax(1).tolist()
(12.0, [2.0, 4.0], [1, 1])
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Optional, Union

from ..backends import dtypes
from ..backends.dtypes import is_float
from . import composite
from .movement import axis_of

if TYPE_CHECKING:
    from .tensor import Tensor

Axis = Optional[Union[int, Sequence[int]]]


def _axes(op: str, axis: Axis, rank: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(rank))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if not rank:
        return ()
    resolved = [axis_of(op, a, rank) for a in axes]
    if len(set(resolved)) != len(resolved):
        raise ValueError(f"{op}: axis {axes} names a dimension twice")
    return tuple(sorted(resolved))


def _reduced(self: Tensor, op: str, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    result = self._apply(op, axes) if axes else self
    if keepdim or not axes:
        return result
    return result.reshape(tuple(n for a, n in enumerate(self.shape) if a not in axes))


def _wide(x: Tensor) -> Tensor:
    """Integers in a dtype that sums do not leave at once: int64, as in PyTorch."""
    return x if is_float(x.dtype) else x.cast(dtypes.default_int)


def sum_(self: Tensor, axis: Axis = None, keepdim: bool = False, dtype=None) -> Tensor:
    """The sum over `axis` (all axes if None), in `dtype`; without one, integers and bools give int64."""
    x = _wide(self) if dtype is None else self.cast(dtype)
    return _reduced(x, "reduce_sum", _axes("sum", axis, self.ndim), keepdim)


def prod_(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The product over `axis` (all axes if None); integers and bools give int64."""
    return _reduced(_wide(self), "reduce_prod", _axes("prod", axis, self.ndim), keepdim)


def max_(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The largest element over `axis` (all axes if None); NaN if there is one; ties share the gradient."""
    return _reduced(self, "reduce_max", _axes("max", axis, self.ndim), keepdim)


def min_(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The smallest element over `axis` (all axes if None); NaN if there is one; ties share the gradient."""
    if is_float(self.dtype):
        return -((-self).max(axis, keepdim))
    return ~((~self).max(axis, keepdim))  # the order of integers and bools reversed, without overflow


def mean(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The mean over `axis` (all axes if None); integers become float32. The mean of nothing is NaN."""
    x = self if is_float(self.dtype) else self.cast(dtypes.default_float)
    axes = _axes("mean", axis, self.ndim)
    return x.sum(axes, keepdim) / prod(self.shape[a] for a in axes)


def var(self: Tensor, axis: Axis = None, keepdim: bool = False, correction: int = 1) -> Tensor:
    """The variance over `axis`: squared distances from the mean, divided by n - correction."""
    x = self if is_float(self.dtype) else self.cast(dtypes.default_float)
    axes = _axes("var", axis, self.ndim)
    centred = x - x.mean(axes, keepdim=True)
    count = prod(self.shape[a] for a in axes)
    return (centred * centred).sum(axes, keepdim) / max(0, count - correction)


def std(self: Tensor, axis: Axis = None, keepdim: bool = False, correction: int = 1) -> Tensor:
    """The square root of the variance."""
    return self.var(axis, keepdim, correction).sqrt()


def any_(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """Whether any element over `axis` is not 0."""
    return (self != 0).sum(axis, keepdim, dtypes.int32) != 0


def all_(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """Whether no element over `axis` is 0."""
    return (self == 0).sum(axis, keepdim, dtypes.int32) == 0


def argmax(self: Tensor, axis: Optional[int] = None, keepdim: bool = False) -> Tensor:
    """The index (int64) of the largest element along `axis`, or in the flattened Tensor; of equal ones the first.

    A NaN counts as the largest, as in NumPy.
    """
    if axis is None:
        return self.flatten().argmax(0) if not keepdim else self.flatten().argmax(0).reshape((1,) * self.ndim)
    a = axis_of("argmax", axis, self.ndim)
    if not self.ndim:
        return self.zeros_like(dtype=dtypes.int64)
    n = self.shape[a]
    best = self == self.max(a, keepdim=True)
    if is_float(self.dtype):
        best = best | self.isnan()
    # Counted from the end, so that the largest count is the first best.
    order = n - type(self).arange(n, dtype=dtypes.int32, device=self.device)
    order = order.reshape([-1 if b == a else 1 for b in range(self.ndim)])
    return (n - best.where(order, 0).max(a, keepdim)).cast(dtypes.int64)


def argmin(self: Tensor, axis: Optional[int] = None, keepdim: bool = False) -> Tensor:
    """The index (int64) of the smallest element along `axis`, or in the flattened Tensor; of equal ones the first."""
    return (-self if is_float(self.dtype) else ~self).argmax(axis, keepdim)


def cumsum(self: Tensor, axis: int = 0) -> Tensor:
    """Running sums along `axis`, as a product with a triangle of ones: n^2 work for n elements."""
    if not self.ndim:
        return self
    a = axis_of("cumsum", axis, self.ndim)
    n = self.shape[a]
    x = _wide(self).transpose(a, -1)
    index = type(self).arange(n, dtype=dtypes.int32, device=self.device)
    earlier = index.reshape(n, 1) >= index.reshape(1, n)
    # Chosen, not multiplied: an infinity must not reach the sums before it.
    spread = earlier.where(x.unsqueeze(-2), 0)
    return spread.sum(-1).transpose(a, -1)


def logsumexp(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over `axis` (all axes if None), without overflow."""
    axes = _axes("logsumexp", axis, self.ndim)
    if not axes:
        return self
    # One axis of the composite: the reduced axes moved to the end and flattened.
    rest = [a for a in range(self.ndim) if a not in axes]
    x = (
        _floats(self).permute(*rest, *axes).reshape((*(self.shape[a] for a in rest), -1))
        if len(axes) > 1
        else _floats(self)
    )
    along = x.ndim - 1 if len(axes) > 1 else axes[0]
    result = type(self)._wrap(composite.logsumexp(x._source(), along))
    return result.reshape(tuple(1 if a in axes else n for a, n in enumerate(self.shape) if keepdim or a not in axes))


def _floats(x: Tensor) -> Tensor:
    return x if is_float(x.dtype) else x.cast(dtypes.default_float)


def softmax(self: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`, without overflow."""
    a = axis_of("softmax", axis, self.ndim)
    if not self.ndim:
        return softmax(self.reshape(1), 0).reshape()
    return type(self)._wrap(composite.softmax(_floats(self)._source(), a))


def log_softmax(self: Tensor, axis: int = -1) -> Tensor:
    """The logarithm of the softmax along `axis`, computed directly."""
    a = axis_of("log_softmax", axis, self.ndim)
    if not self.ndim:
        return log_softmax(self.reshape(1), 0).reshape()
    return type(self)._wrap(composite.log_softmax(_floats(self)._source(), a))


def layernorm(self: Tensor, axis: Axis = -1, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over `axis`, with the variance of the whole population."""
    axes = _axes("layernorm", axis, self.ndim)
    return type(self)._wrap(composite.layernorm(_floats(self)._source(), axes, eps))
