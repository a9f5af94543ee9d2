"""Indexing: parts of a Tensor by number, slice, Tensor or mask, read and assigned.

>>> from clgrad import Tensor
>>> x = Tensor.arange(6).reshape(2, 3)
>>> x[:, ::-1].tolist(), x[1, [2, 0]].tolist()
([[2, 1, 0], [5, 4, 3]], [5, 3])
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from .elementwise import broadcast_shape
from .movement import axis_of
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor


def getitem(self: Tensor, index: Any) -> Tensor:
    """Integers, slices, None, ... and integer Tensors (or lists of integers), as in NumPy.

    Several integer Tensors broadcast together; the result has their shape where the first of them stood. Negative
    entries count from the end. A bool mask has no static shape and is not supported: use `where`.
    """
    items = _full_index(self, index)
    x = self
    shape: list[int] = []
    advanced: list[tuple[int, Tensor]] = []
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        size = self.shape[axis]
        if isinstance(item, slice):
            x, n = _slice(x, axis, item)
            shape.append(n)
        elif isinstance(item, int):
            if not -size <= item < size:
                raise IndexError(f"index {item} is out of range for axis {axis} of shape {self.shape}")
            start = item % size
            x = x.shrink([(start, start + 1) if a == axis else None for a in range(x.ndim)])
        else:
            advanced.append((len(shape), item))
            shape.append(size)
        axis += 1
    x = x.reshape(tuple(shape))
    return _take_along(x, advanced) if advanced else x


def _full_index(self: Tensor, index: Any) -> list:
    """The index with one entry for each axis (and each None), Tensors checked."""
    items = list(index) if isinstance(index, tuple) else [index]
    tensor_type = type(self)
    for i, item in enumerate(items):
        if isinstance(item, (list, range)) or (hasattr(item, "__array__") and not isinstance(item, tensor_type)):
            item = tensor_type(list(item) if isinstance(item, range) else item, device=self.device)
            items[i] = int(item.item()) if item.ndim == 0 else item
        if isinstance(items[i], tensor_type) and items[i].dtype.kind not in "iu":
            raise IndexError(f"an index Tensor must hold integers, not {items[i].dtype}; for a mask use where()")
        if isinstance(items[i], bool):
            raise IndexError("True and False are not indices; for a mask use where()")
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > self.ndim:
        raise IndexError(f"{used} indices for the {self.ndim} dimensions of shape {self.shape}")
    rest = [slice(None)] * (self.ndim - used)
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index may hold only one ...")
    return items[: dots[0]] + rest + items[dots[0] + 1 :] if dots else items + rest


def _slice(x: Tensor, axis: int, item: slice) -> tuple[Tensor, int]:
    """Axis `axis` of x cut by a slice, and its new size. Steps are a reshape of what a stride would skip."""
    start, stop, step = item.indices(x.shape[axis])
    length = len(range(start, stop, step))
    if step < 0:
        start, step = start + (length - 1) * step, -step
        flipped = True
    else:
        flipped = False
    end = start + length * step if length else start
    whole = min(end, x.shape[axis])
    x = x.shrink([(start, max(whole, start)) if a == axis else None for a in range(x.ndim)])
    if step > 1 and length:
        x = x.pad([(0, end - whole) if a == axis else None for a in range(x.ndim)])
        x = x.reshape((*x.shape[:axis], length, step, *x.shape[axis + 1 :]))
        x = x.shrink([(0, 1) if a == axis + 1 else None for a in range(x.ndim)])
        x = x.reshape((*x.shape[:axis], length, *x.shape[axis + 2 :]))
    return (x.flip(axis) if flipped and length > 1 else x), length


def _take_along(x: Tensor, advanced: list[tuple[int, Tensor]]) -> Tensor:
    """x indexed by integer Tensors at the given axes, in one lookup of rows."""
    axes = [axis for axis, _ in advanced]
    shape = broadcast_shape("index", *(t.shape for _, t in advanced))
    rest = [a for a in range(x.ndim) if a not in axes]
    rows = x.permute(*axes, *rest) if axes + rest != list(range(x.ndim)) else x
    flat = None
    for axis, t in advanced:
        size = x.shape[axis]
        t = t.cast("int64" if t.dtype == "uint64" or size > 2**31 or x.numel() > 2**31 else "int32")
        t = (t < 0).where(t + size, t)
        if flat is None:
            flat = t.broadcast_to(shape)
        else:
            # An index out of range must not become another row's: -1 stays out of range in the product.
            bad = (t < 0) | (t >= size) | (flat < 0)
            flat = bad.broadcast_to(shape).where(-1, flat * size + t)
    assert flat is not None
    picked = rows.reshape((prod(x.shape[a] for a in axes), *(x.shape[a] for a in rest))).take(flat)
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    if axes[0] and adjacent:
        order = [len(shape) + i for i in range(axes[0])] + list(range(len(shape)))
        return picked.permute(*order, *range(len(order), picked.ndim))
    return picked


def take(self: Tensor, index: Tensor) -> Tensor:
    """Rows of this Tensor: shape (N, *rest) at integers of any shape gives index.shape + rest.

    Raises IndexError for an index outside 0 <= i < N: at once on NUMPY, at the next read on CL.
    """
    return type(self)._make("gather", self, index)


def gather(self: Tensor, dim: int, index: Tensor) -> Tensor:
    """result[i][j] = self[index[i][j]][j] for dim 0, and alike for the others, as in PyTorch."""
    axis = axis_of("gather", dim, self.ndim)
    if index.ndim != self.ndim or any(
        a != axis and n > m for a, (n, m) in enumerate(zip(index.shape, self.shape, strict=True))
    ):
        raise ShapeError(f"gather: an index of shape {index.shape} does not fit {self.shape} along axis {axis}")
    tensor_type = type(self)
    items: list = []
    for a, n in enumerate(index.shape):
        own = tensor_type.arange(n, dtype="int32", device=self.device)
        own = own.reshape([-1 if b == a else 1 for b in range(index.ndim)])
        items.append(index if a == axis else own)
    return self[tuple(items)]


def index_copy(self: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """This Tensor with the slices that `index` (K) numbers along `dim` replaced by those of `source`, as in PyTorch.

    `source` has the shape of this Tensor, but K along `dim`. Of equal indices the last wins. Under jit, assigning the
    result to this Tensor's own name writes those slices and nothing else.
    """
    axis = axis_of("index_copy", dim, self.ndim)
    order = (axis, *(a for a in range(self.ndim) if a != axis))
    back = tuple(order.index(a) for a in range(self.ndim))
    rows, new = self.permute(*order), source.cast(self.dtype).permute(*order)
    return type(self)._make("scatter_set", rows, new, index).permute(*back)


def setitem(self: Tensor, index: Any, value) -> None:
    """`x[i] = v` rebinds x to a new value; views taken earlier keep the old one. No integer Tensors as indices."""
    items = _full_index(self, index)
    tensor_type = type(self)
    if any(isinstance(item, tensor_type) for item in items):
        raise IndexError("assignment through an integer Tensor is not supported; build the value with where()")
    axes = [
        slice(i, i + 1) if isinstance(i, int) and i != -1 else slice(-1, None) if i == -1 else i
        for i in items
        if i is not None
    ]
    inside = None
    for a, (item, n) in enumerate(zip(axes, self.shape, strict=True)):
        covered = tensor_type([i in range(*item.indices(n)) for i in range(n)], device=self.device, dtype="bool")
        covered = covered.reshape([-1 if b == a else 1 for b in range(self.ndim)])
        inside = covered if inside is None else inside & covered
    part_shape = self[index].shape
    filled = value if isinstance(value, tensor_type) else tensor_type(value, dtype=self.dtype, device=self.device)
    filled = filled.cast(self.dtype).broadcast_to(broadcast_shape("assignment", part_shape, filled.shape))
    if filled.shape != part_shape:
        raise ShapeError(f"assignment: a value of shape {filled.shape} does not fit {part_shape}")
    if inside is None:
        self.assign(filled)
        return
    self.assign(inside.where(_spread(self, filled, axes), self))


def _spread(self: Tensor, filled: Tensor, axes: list) -> Tensor:
    """`filled` moved to where the slices of `axes` pick it from, anything elsewhere."""
    lengths = [len(range(*item.indices(n))) for item, n in zip(axes, self.shape, strict=True)]
    x = filled.reshape(tuple(lengths))
    for a, (item, n) in enumerate(zip(axes, self.shape, strict=True)):
        start, stop, step = item.indices(n)
        positions = list(range(start, stop, step))
        if not positions:
            return self
        order = [0] * n
        for i, p in enumerate(positions):
            order[p] = i
        index = type(self)(order, device=self.device)
        moved = x.permute(a, *(b for b in range(x.ndim) if b != a)).take(index)
        back = list(range(1, a + 1)) + [0] + list(range(a + 1, x.ndim))
        x = moved.permute(*back)
    return x
