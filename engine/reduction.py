"""Reductions, and what is made of them: Tensor methods that put several elements into one.

`axis` is an integer, several, or None for all. Sums and products of integers and bools are int64; half precision is
computed in float32 and rounded once; where a result has to be a float, integers become float32.

>>> from clgrad import Tensor
>>> x = Tensor([[1.0, 2.0], [3.0, 6.0]])
>>> x.sum().item(), x.mean(0).tolist(), x.argmax(1).tolist()
(12.0, [2.0, 4.0], [1, 1])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, prod
from typing import TYPE_CHECKING, Optional, Union

from ..backends import dtypes
from ..backends.dtypes import is_float
from . import composite
from .movement import axis_of
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

Axis = Optional[Union[int, Sequence[int]]]


def _axes(op: str, axis: Axis, rank: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(rank))
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    resolved = [axis_of(op, a, rank) for a in axes]
    if len(set(resolved)) != len(resolved):
        raise ShapeError(f"{op}: axis {axes} names a dimension twice")
    return tuple(sorted(resolved)) if rank else ()


def _count(x: Tensor, axes: tuple[int, ...]) -> int:
    return prod(x.shape[a] for a in axes)


def _not_empty(op: str, x: Tensor, axis: Axis, axes: tuple[int, ...]) -> None:
    if not _count(x, axes):
        kind = ShapeError if axis is None else IndexError  # as PyTorch has it
        raise kind(f"{op}: axes {axes} of shape {x.shape} are empty, and none of nothing is the {op}")


def _reduced(self: Tensor, op: str, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    result = self._apply(op, axes) if axes else self
    return result if keepdim else _without(result, axes)


def _without(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x without these axes of size 1."""
    return x.reshape(tuple(n for a, n in enumerate(x.shape) if a not in axes))


def _whole(x: Tensor) -> Tensor:
    """Integers and bools as int64, in which sums are made."""
    return x if is_float(x.dtype) else x.cast(dtypes.default_int)


def accurately(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of x as floats of 32 bits or more; of half precision, rounded once to that."""
    if is_float(x.dtype) and x.dtype.itemsize >= 4:
        return function(x)
    result = function(x.cast(dtypes.default_float))
    return result.cast(x.dtype) if is_float(x.dtype) else result


def root(x: Tensor) -> Tensor:
    """The square root, with derivative 0 rather than infinity at 0."""
    nothing = x == 0
    return nothing.where(0, nothing.where(1, x).sqrt())


def sum_(self: Tensor, axis: Axis = None, keepdim: bool = False, dtype=None) -> Tensor:
    """The sum over `axis`, in `dtype` if there is one (cast first); integers and bools give int64. 0 for nothing."""
    x = _whole(self) if dtype is None else self.cast(dtype)
    return _reduced(x, "reduce_sum", _axes("sum", axis, self.ndim), keepdim)


def prod_(self: Tensor, axis: Axis = None, keepdim: bool = False, dtype=None) -> Tensor:
    """The product over `axis`, in `dtype` if there is one (cast first); integers and bools give int64. 1 for nothing.

    Its derivatives are products of the other elements, right where some are 0.
    """
    x, axes = _whole(self) if dtype is None else self.cast(dtype), _axes("prod", axis, self.ndim)
    if not is_float(x.dtype):
        return _reduced(x, "reduce_prod", axes, keepdim)
    return accurately(x, lambda x: _reduced(x, "reduce_prod", axes, keepdim))


def max_(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The largest element over `axis`; NaN if there is one; ties share the gradient.

    Of nothing there is none: IndexError, or without `axis` ShapeError.
    """
    axes = _axes("max", axis, self.ndim)
    _not_empty("max", self, axis, axes)
    return _reduced(self, "reduce_max", axes, keepdim)


def min_(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The smallest element over `axis`; NaN if there is one; ties share the gradient.

    Of nothing there is none: IndexError, or without `axis` ShapeError.
    """
    axes = _axes("min", axis, self.ndim)
    _not_empty("min", self, axis, axes)
    return reversed_order(reversed_order(self).max(axes, keepdim))


def reversed_order(x: Tensor) -> Tensor:
    """-x, or for integers and bools ~x, which is lower the higher x is and does not overflow."""
    return -x if is_float(x.dtype) else ~x


def mean(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The mean over `axis`; NaN for nothing."""
    axes = _axes("mean", axis, self.ndim)
    return accurately(self, lambda x: x.sum(axes, keepdim) / _count(x, axes))


def var(self: Tensor, axis: Axis = None, keepdim: bool = False, correction: float = 1) -> Tensor:
    """The variance over `axis`: the sum of squared distances from the mean, divided by n - correction.

    Where that is not above 0, it is divided by 0, as in PyTorch: NaN, or infinity if the sum is not 0.
    """
    axes = _axes("var", axis, self.ndim)

    def variance(x: Tensor) -> Tensor:
        if x.numel():  # the distances from the first element have the same variance: exactly 0 where all are equal
            x = x - x.detach().shrink([(0, 1) if a in axes else None for a in range(x.ndim)])
        centred = x - x.mean(axes, keepdim=True)
        return (centred * centred).sum(axes, keepdim) / max(0, _count(x, axes) - correction)

    return accurately(self, variance)


def std(self: Tensor, axis: Axis = None, keepdim: bool = False, correction: float = 1) -> Tensor:
    """The square root of the variance, with derivative 0 where all elements are equal, as in PyTorch."""
    return accurately(self, lambda x: root(x.var(axis, keepdim, correction)))


def var_mean(self: Tensor, axis: Axis = None, keepdim: bool = False, correction: float = 1) -> tuple[Tensor, Tensor]:
    """The variance and the mean over `axis`."""
    return self.var(axis, keepdim, correction), self.mean(axis, keepdim)


def std_mean(self: Tensor, axis: Axis = None, keepdim: bool = False, correction: float = 1) -> tuple[Tensor, Tensor]:
    """The standard deviation and the mean over `axis`."""
    return self.std(axis, keepdim, correction), self.mean(axis, keepdim)


def any_(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """Whether any element over `axis` is not 0: bool (of uint8 uint8, as in PyTorch). False for nothing."""
    return _verdict(self, _reduced(self != 0, "reduce_sum", _axes("any", axis, self.ndim), keepdim))


def all_(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """Whether no element over `axis` is 0: bool (of uint8 uint8, as in PyTorch). True for nothing."""
    return _verdict(self, _reduced(self != 0, "reduce_prod", _axes("all", axis, self.ndim), keepdim))


def _verdict(x: Tensor, result: Tensor) -> Tensor:
    return result.cast(dtypes.uint8) if x.dtype == dtypes.uint8 else result


def argmax(self: Tensor, axis: Optional[int] = None, keepdim: bool = False) -> Tensor:
    """The index (int64) of the largest element along `axis`, or in the flattened Tensor; of equal ones the first.

    The first NaN counts as the largest. Of nothing there is none: IndexError, or without `axis` ShapeError.
    """
    return _place_of_best("argmax", self, axis, keepdim)


def _place_of_best(op: str, x: Tensor, axis: Optional[int], keepdim: bool) -> Tensor:
    a = 0 if axis is None else axis_of(op, axis, x.ndim)
    if not x.ndim:
        return x.zeros_like(dtype=dtypes.default_int)
    _not_empty(op, x, axis, tuple(range(x.ndim)) if axis is None else (a,))
    if axis is None:
        return _place_of_best(op, x.flatten(), 0, False).reshape((1,) * x.ndim if keepdim else ())
    n = x.shape[a]
    best = x == x.max(a, keepdim=True)
    if is_float(x.dtype):
        best = best | x.isnan()
    # Counted from the end, so that the largest count is the first best.
    order = n - type(x).arange(n, dtype=dtypes.int32, device=x.device)
    order = order.reshape([-1 if b == a else 1 for b in range(x.ndim)])
    return (n - best.where(order, 0).max(a, keepdim)).cast(dtypes.default_int)


def argmin(self: Tensor, axis: Optional[int] = None, keepdim: bool = False) -> Tensor:
    """The index (int64) of the smallest element along `axis`, or in the flattened Tensor; of equal ones the first.

    The first NaN counts as the smallest. Of nothing there is none: IndexError, or without `axis` ShapeError.
    """
    return _place_of_best("argmin", reversed_order(self), axis, keepdim)


def logsumexp(self: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over `axis`, without overflow; -inf for nothing."""
    axes = _axes("logsumexp", axis, self.ndim)
    if not _count(self, axes):
        return accurately(self, lambda x: x.sum(axes, keepdim).log())
    result = accurately(self, lambda x: type(x)._wrap(composite.logsumexp(x._source(), axes)) if axes else x)
    return result if keepdim else _without(result, axes)


def _normalised(op: str, rule: Callable, self: Tensor, axis: Axis, dtype) -> Tensor:
    axes, x = _axes(op, axis, self.ndim), self if dtype is None else self.cast(dtype)
    if not axes:  # of each element by itself
        return _normalised(op, rule, x.unsqueeze(-1), -1, None).reshape(x.shape)
    return accurately(x, lambda x: type(x)._wrap(rule(x._source(), axes)) if x.numel() else x)


def softmax(self: Tensor, axis: Axis = -1, dtype=None) -> Tensor:
    """exp(x) / sum(exp(x)) over `axis`, without overflow; of `self.cast(dtype)` if there is a dtype."""
    return _normalised("softmax", composite.softmax, self, axis, dtype)


def masked_softmax(x: Tensor) -> Tensor:
    """The softmax over the last axis, with zeros where it holds nothing but -inf, as for a query that sees no key."""
    return _normalised("masked_softmax", composite.masked_softmax, x, -1, None)


def log_softmax(self: Tensor, axis: Axis = -1, dtype=None) -> Tensor:
    """The logarithm of the softmax over `axis`, computed directly; of `self.cast(dtype)` if there is a dtype."""
    return _normalised("log_softmax", composite.log_softmax, self, axis, dtype)


def normalize(self: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(norm, eps) with the p-norm along `dim`, sum(|x|^p)^(1/p); the largest |x| for p = inf.

    The smallest |x| for p = -inf, and the number of elements that are not 0 for p = 0. The norm's derivative at 0 is 0,
    as in PyTorch.
    """

    def scaled(x: Tensor) -> Tensor:
        if abs(p) == inf:
            norm = x.abs().max(dim, keepdim=True) if p > 0 else x.abs().min(dim, keepdim=True)
        elif p == 0:
            norm = (x != 0).cast(x.dtype).sum(dim, keepdim=True)
        elif p == 1:
            norm = x.abs().sum(dim, keepdim=True)
        elif p == 2:
            norm = root((x * x).sum(dim, keepdim=True))
        else:
            total = x.abs().pow(p).sum(dim, keepdim=True)
            nothing = total == 0
            norm = nothing.where(0, nothing.where(1, total).pow(1 / p))
        return x / norm.clip(eps)

    return accurately(self, scaled)


def layernorm(self: Tensor, axis: Axis = -1, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over `axis`, with the variance of the whole population."""
    axes = _axes("layernorm", axis, self.ndim)
    return accurately(self, lambda x: type(x)._wrap(composite.layernorm(x._source(), axes, eps)))
