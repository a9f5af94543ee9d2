"""Movement methods of Tensor: other shapes of the same elements. None of them computes or copies anything by itself.

>>> from clgrad import Tensor
>>> x = Tensor.arange(6).reshape(2, -1)
>>> x.shape, x.T.tolist(), x[:, ::-1].tolist()
((2, 3), [[0, 3], [1, 4], [2, 5]], [[2, 1, 0], [5, 4, 3]])
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from ..backends import dtypes
from .elementwise import broadcast_shape
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor


def as_shape(shape: tuple) -> tuple[int, ...]:
    """(2, 3), ((2, 3),) and ([2, 3],) all mean the shape (2, 3)."""
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    return tuple(int(n) for n in shape)


def axis_of(op: str, axis: int, rank: int) -> int:
    """A non-negative axis, or an IndexError."""
    if not -max(rank, 1) <= axis < max(rank, 1):
        raise IndexError(f"{op}: axis {axis} is out of range for {rank} dimensions")
    return axis + rank if axis < 0 else axis


def reshape(self: Tensor, *shape) -> Tensor:
    """The same elements in another shape; one size may be -1 and follows from the rest."""
    sizes = as_shape(shape)
    if sizes.count(-1) > 1:
        raise ShapeError(f"reshape: only one size of {sizes} may be -1")
    if -1 in sizes:
        known = -prod(sizes)
        if known == 0 or self.numel() % known:
            raise ShapeError(f"reshape: {self.shape} with {self.numel()} elements does not divide into {sizes}")
        sizes = tuple(self.numel() // known if n == -1 else n for n in sizes)
    if any(n < 0 for n in sizes):
        raise ShapeError(f"reshape: {sizes} has a negative size other than -1")
    return self if sizes == self.shape else self._apply("reshape", sizes)


def permute(self: Tensor, *order) -> Tensor:
    """The axes in another order."""
    axes = as_shape(order)
    axes = tuple(axis_of("permute", a, self.ndim) for a in axes)
    return self if axes == tuple(range(self.ndim)) else self._apply("permute", axes)


def transpose(self: Tensor, dim0: int = 1, dim1: int = 0) -> Tensor:
    """Two axes exchanged."""
    a, b = axis_of("transpose", dim0, self.ndim), axis_of("transpose", dim1, self.ndim)
    order = list(range(self.ndim))
    if order:
        order[a], order[b] = order[b], order[a]
    return self.permute(*order) if order else self


def expand(self: Tensor, *shape) -> Tensor:
    """Dimensions of size 1 repeated; -1 keeps a size; new dimensions appear at the left."""
    sizes = as_shape(shape)
    if len(sizes) < self.ndim:
        raise ShapeError(f"expand: {self.shape} has more dimensions than {sizes}")
    own = (1,) * (len(sizes) - self.ndim) + self.shape
    return self.broadcast_to(tuple(o if n == -1 else n for n, o in zip(sizes, own, strict=True)))


def broadcast_to(self: Tensor, shape: tuple[int, ...]) -> Tensor:
    """This Tensor as one of the given shape, by repeating dimensions of size 1."""
    if shape == self.shape:
        return self
    x = self if len(shape) == self.ndim else self.reshape((1,) * (len(shape) - self.ndim) + self.shape)
    return x if x.shape == shape else x._apply("expand", shape)


def flip(self: Tensor, *axis) -> Tensor:
    """Reversed along the given axes."""
    axes = tuple(sorted({axis_of("flip", a, self.ndim) for a in as_shape(axis)}))
    return self._apply("flip", axes) if axes else self


def shrink(self: Tensor, bounds: Sequence) -> Tensor:
    """The part `low <= i < high` of each axis; None keeps an axis whole."""
    whole = tuple((0, n) if b is None else (int(b[0]), int(b[1])) for b, n in zip(bounds, self.shape, strict=True))
    return self if whole == tuple((0, n) for n in self.shape) else self._apply("shrink", whole)


def pad(self: Tensor, padding: Sequence, value: float = 0.0) -> Tensor:
    """Surrounded by `value`: (before, after) for each axis (None for none). Negative widths cut off."""
    if len(padding) != self.ndim:
        raise ShapeError(f"pad: {self.shape} needs {self.ndim} pairs of widths, got {padding}")
    widths = tuple((0, 0) if w is None else (int(w[0]), int(w[1])) for w in padding)
    x = self.shrink([(max(-b, 0), n - max(-a, 0)) for (b, a), n in zip(widths, self.shape, strict=True)])
    widths = tuple((max(b, 0), max(a, 0)) for b, a in widths)
    if not any(map(sum, widths)):
        return x
    padded = x._apply("pad", widths)
    if value == 0:
        return padded
    inside = x.ones_like(dtype="bool")._apply("pad", widths)
    return inside.where(padded, value)


def squeeze(self: Tensor, dim: int | None = None) -> Tensor:
    """Without the dimensions of size 1, or without `dim` if that has size 1."""
    if dim is None:
        return self.reshape(tuple(n for n in self.shape if n != 1))
    axis = axis_of("squeeze", dim, self.ndim)
    if not self.ndim or self.shape[axis] != 1:
        return self
    return self.reshape(self.shape[:axis] + self.shape[axis + 1 :])


def unsqueeze(self: Tensor, dim: int) -> Tensor:
    """With a new dimension of size 1 at `dim`."""
    axis = axis_of("unsqueeze", dim, self.ndim + 1)
    return self.reshape((*self.shape[:axis], 1, *self.shape[axis:]))


def flatten(self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions `start_dim` to `end_dim` (included) as one."""
    first, last = axis_of("flatten", start_dim, self.ndim), axis_of("flatten", end_dim, self.ndim)
    return self.reshape((*self.shape[:first], prod(self.shape[first : last + 1]), *self.shape[last + 1 :]))


def unflatten(self: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` as several; one of `sizes` may be -1."""
    axis = axis_of("unflatten", dim, self.ndim)
    known = -prod(sizes) if -1 in sizes else 0
    full = tuple(self.shape[axis] // known if n == -1 and known else n for n in sizes)
    return self.reshape((*self.shape[:axis], *full, *self.shape[axis + 1 :]))


def repeat(self: Tensor, *repeats) -> Tensor:
    """The whole Tensor laid out `repeats` times along each axis."""
    times = as_shape(repeats)
    shape = (1,) * (len(times) - self.ndim) + self.shape
    if len(shape) != len(times):
        raise ShapeError(f"repeat: {self.shape} needs at least {self.ndim} counts, got {times}")
    spread = self.reshape(tuple(size for n in shape for size in (1, n)))
    spread = spread.broadcast_to(tuple(size for r, n in zip(times, shape, strict=True) for size in (r, n)))
    return spread.reshape(tuple(r * n for r, n in zip(times, shape, strict=True)))


def split(self: Tensor, sizes, dim: int = 0) -> tuple[Tensor, ...]:
    """Parts along `dim`, of `sizes` each (an int: all of that size but perhaps the last)."""
    axis = axis_of("split", dim, self.ndim)
    total = self.shape[axis]
    if isinstance(sizes, int):
        if sizes <= 0:
            raise ValueError(f"split: the size must be positive, got {sizes}")
        sizes = [min(sizes, total - start) for start in range(0, max(total, 1), sizes)]
    if sum(sizes) != total:
        raise ShapeError(
            f"split: sizes {list(sizes)} add up to {sum(sizes)}, not to the {total} of axis {axis} of {self.shape}"
        )
    parts, start = [], 0
    for size in sizes:
        parts.append(self.shrink([(start, start + size) if a == axis else None for a in range(self.ndim)]))
        start += size
    return tuple(parts)


def chunk(self: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` parts of equal size along `dim`; the last may be smaller."""
    axis = axis_of("chunk", dim, self.ndim)
    return self.split(max(1, -(-self.shape[axis] // chunks)), axis)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after another along `dim`. Dtypes meet as in arithmetic."""
    if not tensors:
        raise ValueError("cat: needs at least one Tensor")
    first = tensors[0]
    axis = axis_of("cat", dim, first.ndim)
    for other in tensors[1:]:
        if other.ndim != first.ndim or any(
            a != axis and n != m for a, (n, m) in enumerate(zip(first.shape, other.shape, strict=True))
        ):
            raise ShapeError(f"cat: {other.shape} differs from {first.shape} in more than axis {axis}")
    dtype = first.dtype
    for other in tensors[1:]:
        dtype = dtypes.promote(dtype, other.dtype)
    return type(first)._make("cat", *(t.cast(dtype) for t in tensors), arg=axis)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new dimension `dim`."""
    return cat([t.unsqueeze(dim) for t in tensors], axis_of("stack", dim, tensors[0].ndim + 1) if tensors else dim)


# --- indexing -----------------------------------------------------------------------------------------------------


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
