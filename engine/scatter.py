"""Along one dimension by index: gather, index_copy, scatter and its reductions.

The index has as many dimensions as the Tensor and says where along `dim`; its other dimensions stand for themselves,
and may be shorter than the Tensor's. So each of its elements names one element of the Tensor, whose number in the flat
Tensor is what the primitives are given. An index outside of `dim` (there are no negative ones here, as in PyTorch)
raises IndexError by the next read.

>>> from clgrad import Tensor
>>> x, index = Tensor([[1, 2], [3, 4]]), Tensor([[0, 0]])
>>> x.gather(0, index).tolist(), x.scatter(0, index, 9).tolist()
([[1, 2]], [[9, 9], [3, 4]])
>>> x.scatter_reduce(1, Tensor([[0, 0], [1, 1]]), Tensor([[5, 6], [7, 8]]), "amax").tolist()
[[6, 2], [3, 8]]
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any, Optional

from ..backends.dtypes import DType, bool_, float32, int32, int64, is_bool, is_float, is_int
from . import node as nodes
from .composite import composite
from .elementwise import only_tensors
from .indexing import FAR
from .movement import axis_of
from .node import Node, make
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor


def flat_numbers(op: str, shape: tuple[int, ...], axis: int, index: Tensor) -> Tensor:
    """The numbers in a flat Tensor of `shape` of what `index` names along `axis`, in its shape; -1 out of range.

    Raises ShapeError for an index that reaches beyond the other axes, RuntimeError for one that holds no integers.
    """
    only_tensors(op, index)
    if not is_int(index.dtype):
        raise RuntimeError(f"{op}: an index holds integers, not {index.dtype}")
    if index.ndim != len(shape) or any(
        a != axis and n > m for a, (n, m) in enumerate(zip(index.shape, shape, strict=True))
    ):
        raise ShapeError(f"{op}: an index of shape {index.shape} does not fit {shape} along axis {axis}")
    dtype = int64 if prod(shape) > FAR else int32
    strides = [prod(shape[a + 1 :]) for a in range(len(shape))]
    numbers = index.cast(dtype) * strides[axis]
    for axes in _runs(shape, index.shape, axis):
        sizes = [index.shape[a] if a in axes else 1 for a in range(index.ndim)]
        own = type(index)._wrap(nodes.iota(prod(sizes), index.device)).reshape(sizes)
        numbers = numbers + own.cast(dtype) * strides[axes[-1]]
    wide = index if index.dtype.itemsize >= 4 else index.cast(int32)
    outside = wide >= shape[axis] if wide.dtype.kind == "u" else (wide < 0) | (wide >= shape[axis])
    return outside.where(-1, numbers)


def _runs(shape: tuple[int, ...], part: tuple[int, ...], axis: int) -> list[list[int]]:
    """The axes before and after `axis`, in groups that `part` walks through as one."""
    found: list[list[int]] = []
    for side in (range(axis), range(axis + 1, len(shape))):
        whole = all(part[a] == shape[a] for a in side)
        found += [list(side)] if whole else [[a] for a in side]
    return [axes for axes in found if any(part[a] > 1 for a in axes)]


def gather(self: Tensor, dim: int, index: Tensor) -> Tensor:
    """result[i][j] = self[index[i][j]][j] for dim 0, and alike for the others, in the shape of `index`.

    Raises ShapeError for an index that reaches beyond the other dimensions; IndexError out of range.
    """
    axis = axis_of("gather", dim, self.ndim)
    only_tensors("gather", index)
    if not self.ndim:
        return self.reshape(1).gather(0, index.reshape(-1)).reshape(index.shape)
    return self.reshape(-1).take(flat_numbers("gather", self.shape, axis, index))


def index_copy(self: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """This Tensor with the slices that `index` (K) numbers along `dim` replaced by those of `source`, as in PyTorch.

    `source` has the shape of this Tensor, but K along `dim`. Of equal indices the last wins. Under jit, assigning the
    result to this Tensor's own name writes those slices and nothing else.
    """
    axis = axis_of("index_copy", dim, self.ndim)
    only_tensors("index_copy", index, source)
    order = (axis, *(a for a in range(self.ndim) if a != axis))
    back = tuple(order.index(a) for a in range(self.ndim))
    rows, new = self.permute(*order), source.cast(self.dtype).permute(*order)
    return type(self)._make("scatter_set", rows, new, index).permute(*back)


def scatter(self: Tensor, dim: int, index: Tensor, src: Any, reduce: Optional[str] = None) -> Tensor:
    """This Tensor with result[index[i][j]][j] = src[i][j] for dim 0, and alike for the others.

    `src` is a Tensor of this one's dtype, at least as large as `index`, or a number. With `reduce` "add" or "multiply"
    each is added to what is there, or multiplied with it; without, the last of equal indices wins. Raises ShapeError
    for shapes that do not fit, RuntimeError for another dtype or `reduce`; IndexError out of range.
    """
    if reduce not in (None, "add", "multiply"):
        raise RuntimeError(f'scatter: reduce must be None, "add" or "multiply", not {reduce!r}')
    only_tensors("scatter", index)
    if not isinstance(src, type(self)):
        src = type(self).full(index.shape, src, dtype=self.dtype, device=self.device)
    if reduce is not None:
        return self.scatter_reduce(dim, index, src, "sum" if reduce == "add" else "prod")
    return _scattered("scatter", self, dim, index, src, _last)


def scatter_reduce(
    self: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool = True
) -> Tensor:
    """Each element with those of `src` that `index` sends to it reduced to one: their sum, prod, mean, amax or amin.

    Without `include_self` the element itself takes no part, unless nothing is sent to it. The mean of integers is
    rounded down. Ties share the gradient of amax and amin evenly, as in PyTorch. Sums are added up in the order of
    `index`, those of halves in float32. Raises what `scatter` raises.
    """
    rule = REDUCTIONS.get(reduce)
    if rule is None:
        raise RuntimeError(f"scatter_reduce: reduce must be one of {', '.join(REDUCTIONS)}, not {reduce!r}")
    return _scattered("scatter_reduce", self, dim, index, src, lambda x, v, at: rule(x, v, at, include_self))


def _scattered(op: str, x: Tensor, dim: int, index: Tensor, src: Tensor, rule: Callable[..., Tensor]) -> Tensor:
    """`rule` of x, what is sent, and where to (by `flat_numbers`), all of them flat; in x's shape."""
    axis = axis_of(op, dim, x.ndim)
    only_tensors(op, index, src)
    if src.dtype != x.dtype:
        raise RuntimeError(f"{op}: src is {src.dtype} and the Tensor {x.dtype}; cast one to the other")
    whole, index, src = (t if t.ndim else t.reshape(1) for t in (x, index, src))
    if src.ndim != index.ndim or any(n > m for n, m in zip(index.shape, src.shape, strict=True)):
        raise ShapeError(f"{op}: an index of shape {index.shape} reaches beyond src of shape {src.shape}")
    numbers = flat_numbers(op, whole.shape, axis, index).reshape(-1)
    if not numbers.shape[0]:
        return x
    return rule(whole.reshape(-1), src.shrink([(0, n) for n in index.shape]).reshape(-1), numbers).reshape(x.shape)


# Of x (N,), what is sent v (K,), and where to (K,).


def _last(x: Tensor, v: Tensor, at: Tensor) -> Tensor:
    return type(x)._make("scatter_set", x, v, at)


def _hit(x: Tensor, at: Tensor) -> Tensor:
    """Whether anything is sent to each place."""
    return _last(x.zeros_like(dtype=bool_), type(x).full(at.shape, True, device=x.device), at)


def _added(x: Tensor, v: Tensor, at: Tensor) -> Tensor:
    """What is sent to each place, added up in a wide dtype."""
    return type(x)._make("scatter_add", v.cast(_wide(v.dtype)), at, arg=x.shape[0])


def _wide(dtype: DType) -> DType:
    """The dtype to accumulate in."""
    if is_bool(dtype):
        return int32
    return float32 if is_float(dtype) and dtype.itemsize < 4 else dtype


def _sum(x: Tensor, v: Tensor, at: Tensor, include_self: bool) -> Tensor:
    total = _added(x, v, at)
    if include_self:
        return (x.cast(total.dtype) + total).cast(x.dtype)
    return _hit(x, at).where(total.cast(x.dtype), x)


def _mean(x: Tensor, v: Tensor, at: Tensor, include_self: bool) -> Tensor:
    total = _added(x, v, at)
    count = _added(x, type(x).full(at.shape, 1, dtype=int32, device=x.device), at)
    if include_self:
        total, count = x.cast(total.dtype) + total, count + 1
    divisor = (count > 0).where(count, 1).cast(total.dtype)
    mean = (total / divisor if is_float(total.dtype) else total // divisor).cast(x.dtype)
    return mean if include_self else (count > 0).where(mean, x)


def _prod(x: Tensor, v: Tensor, at: Tensor, include_self: bool) -> Tensor:
    """In the order of the places, each product grows over its neighbours of one place in log2(K) steps; the last of a
    place, which wins, holds all of it. No step divides, so that zeros are right in every derivative."""
    order = at.argsort()
    at, v = at.take(order), v.take(order).cast(_wide(v.dtype) if is_float(v.dtype) else v.dtype)
    length, step = at.shape[0], 1
    while step < length:
        before = (at[:-step] == at[step:]).pad(((step, 0),))
        v = v * before.where(v[:-step].pad(((step, 0),)), v.ones_like())
        step *= 2
    start = x.cast(v.dtype)
    total = _last(start.ones_like(), v, at)
    return (start * total if include_self else _hit(x, at).where(total, start)).cast(x.dtype)


def _amax(x: Tensor, v: Tensor, at: Tensor, include_self: bool) -> Tensor:
    """In the order of the values the last of a place is the largest."""
    order = v.detach().argsort()
    best = _last(x.detach(), v.detach().take(order), at.take(order))
    if include_self:
        best = x.detach().maximum(best)
    inputs = (x, v, at) if include_self else (x, v, at, _hit(x, at))
    return type(x)._wrap(
        composite("scatter_amax", None, _amax_gradient, best._source(), *(t._source() for t in inputs))
    )


def _amax_gradient(arg: None, g: Node, y: Node, x: Node, v: Node, at: Node, *hit: Node):
    """Everything that equals the result has an equal share, as in PyTorch."""
    own = x.eq(y)
    for replaced in hit:
        own = replaced.where_(False, own)
    sent, own = v.eq(make("gather", (y, at))).cast(g.dtype), own.cast(g.dtype)
    share = g / (make("scatter_add", (sent, at), x.shape[0]) + own)
    return share * own, make("gather", (share, at)) * sent, None, *(None for _ in hit)


def _amin(x: Tensor, v: Tensor, at: Tensor, include_self: bool) -> Tensor:
    turned = (lambda t: -t) if is_float(x.dtype) else (lambda t: ~t)
    return turned(_amax(turned(x), turned(v), at, include_self))


REDUCTIONS = {"sum": _sum, "prod": _prod, "mean": _mean, "amax": _amax, "amin": _amin}
