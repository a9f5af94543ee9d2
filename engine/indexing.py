"""Indexing: parts of a Tensor by number, slice, mask or other Tensors, read and assigned.

An index is taken apart into two steps. First each axis is *cut* to a part of it, which is movement and copies nothing:
integers, slices (with steps of either sign), None and ... do no more. What remains are *lookups*: an integer Tensor for
some of the axes, which broadcast together and are made into one number for each row to be taken. A mask is as many
lookups as it has dimensions, at the places where it holds; those depend on its values, so it is read, which jit cannot
do (but for an assignment of one value to all of them, which is a `where`).

The meaning is PyTorch's, with NumPy's negative steps: the dimensions of lookups stand where the first of them stood if
the lookups are neighbours, and otherwise in front; integers and Tensors without dimensions are no neighbours of
anything. Outside of an axis, numbers raise IndexError, Tensors by the next read of what was computed with them.

>>> from clgrad import Tensor
>>> x = Tensor.arange(6).reshape(2, 3)
>>> x[:, ::-1].tolist(), x[1, [2, 0]].tolist(), x[x > 2].tolist()
([[2, 1, 0], [5, 4, 3]], [5, 3], [3, 4, 5])
>>> x[:, 1:] = 7
>>> x.tolist()
[[0, 7, 7], [3, 7, 7]]
"""

from __future__ import annotations

from math import prod
from operator import index as whole
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

import numpy as np

from ..backends.dtypes import int32, int64, is_bool, is_int, uint32, uint64
from . import trace
from .elementwise import broadcast_shape, only_tensors
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

Array = Union["Tensor", np.ndarray]
Item = Union[None, int, slice, Array]
FAR = 2**31  # from as many elements on, they are counted in 64 bits


class Cut(NamedTuple):
    """`length` elements of an axis from `start` on, `step` apart."""

    start: int
    length: int
    step: int

    @property
    def bounds(self) -> tuple[int, int]:
        """The part of the axis that they lie in."""
        last = self.start + (self.length - 1) * self.step
        return (min(self.start, last), max(self.start, last) + 1) if self.length else (0, 0)


class Index(NamedTuple):
    """An index of a Tensor: a cut of each axis, then lookups.

    `shape` is what the cuts leave, without the axes of integers and with a 1 for each None; `places` says for each axis
    of the Tensor where it is in there (None: nowhere), `lookups` which of those axes are looked up by what.
    """

    cuts: list[Cut]
    shape: tuple[int, ...]
    places: list[Optional[int]]
    lookups: list[tuple[int, Array]]


# --- taking an index apart ----------------------------------------------------------------------------------------


def _items(x: Tensor, index: Any) -> list[Item]:
    """One item for each axis (a mask: for several) and each None; arrays are integers or bools."""
    items = [_item(x, item) for item in (index if isinstance(index, tuple) else (index,))]
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index may hold only one ...")
    used = sum(_axes_used(item) for item in items)
    if used > x.ndim:
        raise IndexError(f"{used} indices for the {x.ndim} dimensions of shape {x.shape}")
    at = dots[0] if dots else len(items)
    return items[:at] + [slice(None)] * (x.ndim - used) + items[at + 1 :]


def _item(x: Tensor, item: Any) -> Any:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, type(x)):
        if not is_int(item.dtype) and not is_bool(item.dtype):
            raise IndexError(f"an index Tensor holds integers, or bools for a mask, not {item.dtype}")
        return item
    if isinstance(item, (list, tuple, range, np.ndarray, np.generic, bool)):
        try:
            array = np.array(item)
        except ValueError as error:
            raise IndexError(f"an index list is rectangular: {error}") from None
        if not array.size and array.dtype.kind == "f" and not isinstance(item, np.ndarray):
            array = array.astype(np.int64)
        if array.dtype.kind not in "biu":
            raise IndexError(f"an index holds integers, or bools for a mask, not {array.dtype}")
        return array if array.ndim or array.dtype.kind == "b" else int(array)
    try:
        return whole(item)
    except TypeError:
        raise IndexError(
            f"integers, slices, None, ..., lists, arrays and Tensors are indices; {type(item).__name__} is none"
        ) from None


def _is_mask(item: Any) -> bool:
    return not isinstance(item, (int, slice)) and item is not None and item is not Ellipsis and is_bool(item.dtype)


def _axes_used(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    return item.ndim if _is_mask(item) else 1


def _parsed(x: Tensor, items: list[Item]) -> Index:
    """The cuts and lookups that `items` say. Reads masks."""
    cuts: list[Cut] = []
    shape: list[int] = []
    places: list[Optional[int]] = []
    lookups: list[tuple[int, Array]] = []
    for item in items:
        axis = len(cuts)
        if item is None:
            shape.append(1)
        elif isinstance(item, slice):
            start, stop, step = item.indices(x.shape[axis])
            cuts.append(Cut(start, len(range(start, stop, step)), step))
            places.append(len(shape))
            shape.append(cuts[-1].length)
        elif isinstance(item, int):
            size = x.shape[axis]
            if not -size <= item < size:
                raise IndexError(f"index {item} is out of range for axis {axis} of shape {x.shape}")
            cuts.append(Cut(item % size, 1, 1))
            places.append(None)
        else:
            numbers = _held(item, x.shape[axis : axis + item.ndim]) if _is_mask(item) else [item]
            if _is_mask(item) and not item.ndim:  # takes no axis, and makes one of size 0 or 1
                lookups.append((len(shape), numbers[0]))
                shape.append(1)
                continue
            for number in numbers:
                lookups.append((len(shape), number))
                cuts.append(Cut(0, x.shape[len(cuts)], 1))
                places.append(len(shape))
                shape.append(cuts[-1].length)
    return Index(cuts, tuple(shape), places, lookups)


def _held(mask: Array, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Where a mask holds: numbers along each of its axes."""
    if mask.shape != shape:
        raise IndexError(f"a mask of shape {mask.shape} does not fit axes of sizes {shape}")
    if not isinstance(mask, np.ndarray):
        trace.forbid("an index by a mask, whose result has the shape that its values say,")
        mask = mask.numpy()
    return list(np.nonzero(mask)) if mask.ndim else [np.zeros(int(mask), np.int64)]


def _cut(x: Tensor, index: Index) -> Tensor:
    """What the cuts leave of `x`, in `index.shape`: a view."""
    part = x.shrink([cut.bounds for cut in index.cuts])
    back = [axis for axis, cut in enumerate(index.cuts) if cut.step < 0 and cut.length > 1]
    part = part.flip(*back) if back else part
    for axis, cut in enumerate(index.cuts):
        if abs(cut.step) > 1 and cut.length > 1:
            part = part._apply("window", (axis, 1, abs(cut.step)))
    return part.reshape(index.shape)


# --- reading ------------------------------------------------------------------------------------------------------


def getitem(self: Tensor, index: Any) -> Tensor:
    """x[i]: integers, slices, None, ..., integer Tensors or lists or arrays of any shape, and masks.

    Raises IndexError for what is no index, for too many, and out of range; RuntimeError for a mask under jit.
    """
    parsed = _parsed(self, _items(self, index))
    part = _cut(self, parsed)
    if parsed.lookups:
        return _looked_up(part, parsed.lookups)
    return part if part is not self else type(self)._wrap(self._source())  # a name of its own


def _looked_up(x: Tensor, lookups: list[tuple[int, Array]]) -> Tensor:
    """`x` at lookups along some of its axes, in one lookup of rows."""
    shape = _common_shape(lookups)
    place, order = _order(x.ndim, lookups)
    picked = _rows(x, order, len(lookups)).take(_row_numbers(x, lookups, shape))
    front = tuple(len(shape) + i for i in range(place))
    return picked.permute(*front, *range(len(shape)), *range(len(front) + len(shape), picked.ndim))


def _common_shape(lookups: list[tuple[int, Array]]) -> tuple[int, ...]:
    try:
        return broadcast_shape("index", *(t.shape for _, t in lookups))
    except ShapeError as error:
        raise IndexError(*error.args) from None


def _order(rank: int, lookups: list[tuple[int, Array]]) -> tuple[int, tuple[int, ...]]:
    """How many of the other axes stand before the looked up dimensions, and all axes, those with lookups first."""
    axes = [axis for axis, _ in lookups]
    gone = [axis for axis, t in lookups if not t.ndim]
    left = [axis for axis in range(rank) if axis not in gone]
    at = [left.index(axis) for axis, t in lookups if t.ndim]
    neighbours = at == list(range(at[0], at[0] + len(at))) if at else False
    return at[0] if neighbours else 0, (*axes, *(axis for axis in range(rank) if axis not in axes))


def _rows(x: Tensor, order: tuple[int, ...], count: int) -> Tensor:
    """`x` with its first `count` axes of `order` as one, and the rest after it."""
    x = x.permute(*order)
    return x.reshape((prod(x.shape[:count]), *x.shape[count:]))


def _row_numbers(x: Tensor, lookups: list[tuple[int, Array]], shape: tuple[int, ...]) -> Tensor:
    """The number of the row for each point of `shape`; out of range where any lookup is."""
    tensor_type = type(x)
    sizes = [x.shape[axis] for axis, _ in lookups]
    if 0 in sizes and 0 not in shape:
        raise IndexError(f"an index of shape {shape} looks up {x.shape}, which has nothing there")
    dtype = int64 if prod(sizes) > FAR else int32
    known = [_checked(t, axis, x.shape) for axis, t in lookups if isinstance(t, np.ndarray)]
    if len(known) == len(lookups):
        flat = sum(t * prod(sizes[i + 1 :]) for i, t in enumerate(known))
        return tensor_type(np.broadcast_to(flat, shape).astype(dtype), device=x.device)
    outside, numbers = None, None
    for (axis, t), size in zip(lookups, sizes, strict=True):
        if isinstance(t, np.ndarray):
            t = tensor_type(_checked(t, axis, x.shape), device=x.device)
        else:
            t = from_front(t, size)
            if len(lookups) == 1:
                return t
            bad = (t < 0) | (t >= size)
            outside = bad if outside is None else outside | bad
        t = t.cast(dtype)
        numbers = t if numbers is None else numbers * size + t
    assert numbers is not None and outside is not None
    return outside.broadcast_to(shape).where(-1, numbers.broadcast_to(shape))  # or it would be another row's number


def _checked(numbers: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers known by now, counted from the front, all of them in range."""
    size = shape[axis]
    outside = numbers[(numbers < -size) | (numbers >= size)]
    if outside.size:
        raise IndexError(f"index {outside[0]} is out of range for axis {axis} of shape {shape}")
    return np.where(numbers < 0, numbers + size, numbers).astype(np.int64)


def from_front(index: Tensor, size: int) -> Tensor:
    """Numbers of `size` things, the negative ones counted from the end, in a dtype that can also say `size`."""
    if index.dtype == uint64:
        return index
    t = index.cast(int64 if index.dtype == uint32 else int32) if index.dtype not in (int32, int64) else index
    return t if index.dtype.kind == "u" else (t < 0).where(t + size, t)


# --- assigning ----------------------------------------------------------------------------------------------------


def setitem(self: Tensor, index: Any, value: Any) -> None:
    """x[i] = v for every index that can be read: rebinds x to a new value; views taken earlier keep the old one.

    `value`, a number, list, array or Tensor, is cast to x's dtype and broadcasts. Gradients flow to it, and to the old
    value of x where that stays. Of equal indices the last wins. Under jit, rows at a Tensor index of the first axes are
    written in place. Raises ShapeError where the value does not fit, RuntimeError where x is a leaf with
    `requires_grad` (but for under no_grad), as PyTorch does.
    """
    if self._source().owner is not None:
        raise RuntimeError(
            "assignment to a part of a leaf with requires_grad=True; assign under no_grad(), or to a clone() of it"
        )
    tensor_type = type(self)
    new = value if isinstance(value, tensor_type) else tensor_type(value, dtype=self.dtype, device=self.device)
    items = _items(self, index)
    result = _assigned(self, items, new.cast(self.dtype))
    if result is not self:
        self.assign(result)


def _assigned(x: Tensor, items: list[Item], value: Tensor) -> Tensor:
    """`x` with `value` at `items`."""
    arrays = [item for item in items if item is not None and not isinstance(item, (int, slice))]
    if len(arrays) == 1 and _is_mask(arrays[0]):
        filled = _filled(x, items, arrays[0], value)
        if filled is not None:
            return filled
    if arrays:  # integers are lookups like others, so that rows of the whole of x are replaced, not of a part
        items = [np.array(item) if isinstance(item, int) else item for item in items]
    parsed = _parsed(x, items)
    if parsed.lookups:
        value = _replaced(_cut(x, parsed), parsed.lookups, value)
    else:
        value = _fitted(value, parsed.shape)
    return _placed(x, parsed, value)


def _fitted(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`value` with as many dimensions as `shape`, to which it must broadcast."""
    extra = value.ndim - len(shape)
    sizes = value.shape[extra:] if extra > 0 else (1,) * -extra + value.shape
    leading = value.shape[: max(extra, 0)]
    if any(n != 1 for n in leading) or any(n not in (1, m) for n, m in zip(sizes, shape, strict=True)):
        raise ShapeError(f"assignment: a value of shape {value.shape} does not fit {shape}")
    return value.reshape(sizes)


def _placed(x: Tensor, index: Index, value: Tensor) -> Tensor:
    """`x` with `value`, which broadcasts to `index.shape`, where the cuts say: one `where`."""
    value = value.reshape(tuple(1 if place is None else value.shape[place] for place in index.places))
    if any(not cut.length for cut in index.cuts):
        return x
    box, spread, apart = [], [], []
    for axis, (cut, size) in enumerate(zip(index.cuts, x.shape, strict=True)):
        low, high = cut.bounds
        box.append((low, size - high))
        spread.append((0, 0))
        step = abs(cut.step) if cut.length > 1 else 1
        if step > 1:
            place = type(x).arange(size, dtype=int32, device=x.device) - low
            apart.append((place % step == 0).reshape([-1 if a == axis else 1 for a in range(x.ndim)]))
        if value.shape[axis] > 1:
            spread[-1] = box[-1]
            value = value.flip(axis) if cut.step < 0 else value
            if step > 1:
                wide = value.unsqueeze(axis + 1).pad([(0, step - 1 if a == axis + 1 else 0) for a in range(x.ndim + 1)])
                value = wide.flatten(axis, axis + 1)
                value = value.shrink([(0, high - low) if a == axis else None for a in range(x.ndim)])
    value = value.pad(spread).broadcast_to(x.shape)
    inside = None
    if any(map(any, box)):
        sizes = tuple(n - before - after for n, (before, after) in zip(x.shape, box, strict=True))
        inside = type(x).full(sizes, True, device=x.device).pad(box)
    for part in apart:
        inside = part.broadcast_to(x.shape) if inside is None else inside & part
    return value if inside is None else inside.where(value, x)


def _replaced(x: Tensor, lookups: list[tuple[int, Array]], value: Tensor) -> Tensor:
    """`x` with `value` at lookups along some of its axes."""
    shape = _common_shape(lookups)
    place, order = _order(x.ndim, lookups)
    rows = _rows(x, order, len(lookups))
    rest = rows.shape[1:]
    wanted = (*rest[:place], *shape, *rest[place:])
    value = _fitted(value, wanted).broadcast_to(wanted)
    front = range(place, place + len(shape))
    value = value.permute(*front, *(a for a in range(value.ndim) if a not in front))
    new = type(x)._make("scatter_set", rows, value, _row_numbers(x, lookups, shape))
    back = new.reshape(tuple(x.shape[axis] for axis in order))
    return back.permute(*(order.index(axis) for axis in range(x.ndim)))


def _filled(x: Tensor, items: list[Item], mask: Array, value: Tensor) -> Optional[Tensor]:
    """`x` with `value` where a mask holds, if it is the same for all its places: then nobody need know how many."""
    at = next(i for i, item in enumerate(items) if item is mask)
    parsed = _parsed(x, items[:at] + [slice(None)] * mask.ndim + items[at + 1 :])
    before = sum(not isinstance(item, int) for item in items[:at])
    sizes = parsed.shape[before : before + mask.ndim]
    if mask.shape != sizes:
        raise IndexError(f"a mask of shape {mask.shape} does not fit axes of sizes {sizes}")
    after = len(parsed.shape) - before - mask.ndim
    if value.ndim > after:
        one = value.ndim - after - 1
        if value.shape[one] != 1:
            return None
        value = value.reshape(value.shape[:one] + (1,) * mask.ndim + value.shape[one + 1 :])
    part = _cut(x, parsed)
    if isinstance(mask, np.ndarray):
        mask = type(x)(mask, device=x.device)
    held = mask.reshape((1,) * before + mask.shape + (1,) * after)
    filled = held.broadcast_to(part.shape).where(_fitted(value, part.shape).broadcast_to(part.shape), part)
    return _placed(x, parsed, filled)


# --- by name ------------------------------------------------------------------------------------------------------


def take(self: Tensor, index: Tensor) -> Tensor:
    """Rows of this Tensor: shape (N, *rest) at integers of any shape gives index.shape + rest.

    Raises IndexError for an index outside 0 <= i < N: at once on NUMPY, at the next read on CL.
    """
    only_tensors("take", index)
    return type(self)._make("gather", self, index)


def nonzero(self: Tensor, as_tuple: bool = False) -> Union[Tensor, tuple[Tensor, ...]]:
    """Where elements are not 0: (count, dimensions) int64, or a Tensor (count,) for each dimension. Reads the values.

    Without dimensions there is one such Tensor, as if there was one dimension (of size 1), as in PyTorch.
    Raises RuntimeError under jit, where no shape may depend on values.
    """
    trace.forbid("nonzero(), whose result has the shape that the values say,")
    held = self.numpy() != 0
    found = np.argwhere(np.atleast_1d(held) if as_tuple else held).astype(np.int64)
    if as_tuple:
        return tuple(type(self)(np.ascontiguousarray(column), device=self.device) for column in found.T)
    return type(self)(found, device=self.device)


def masked_select(self: Tensor, mask: Tensor) -> Tensor:
    """The elements where `mask`, a bool Tensor that broadcasts with this one, holds, in one dimension. Reads the mask.

    Raises RuntimeError under jit, where no shape may depend on values, and for a mask that is no bool.
    """
    only_tensors("masked_select", mask)
    if not is_bool(mask.dtype):
        raise RuntimeError(f"masked_select: a mask is bool, not {mask.dtype}; compare first")
    shape = broadcast_shape("masked_select", self.shape, mask.shape)
    return self.broadcast_to(shape)[mask.broadcast_to(shape)].reshape(-1)


def masked_fill(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`value`, a number or a Tensor that broadcasts, where the bool Tensor `mask` holds, else x; x's dtype.

    Raises RuntimeError for a mask that is no bool.
    """
    only_tensors("masked_fill", mask)
    if not is_bool(mask.dtype):
        raise RuntimeError(f"masked_fill: a mask is bool, not {mask.dtype}; compare first")
    tensor_type = type(self)
    new = value if isinstance(value, tensor_type) else tensor_type(value, dtype=self.dtype, device=self.device)
    return mask.where(new.cast(self.dtype), self)


def one_hot(self: Tensor, num_classes: int = -1) -> Tensor:
    """(*shape, num_classes) int64: 1 at each element's number, 0 elsewhere (and where that is no class).

    With -1 there are as many classes as the largest number wants, which is read, and which jit cannot do. Raises
    TypeError for what is not integers, ShapeError where -1 finds no or negative numbers.
    """
    num_classes = whole(num_classes)
    if not is_int(self.dtype):
        raise TypeError(f"one_hot: classes are integers, not {self.dtype}; cast first")
    if num_classes == -1:
        trace.forbid("one_hot() without num_classes, whose result has the shape that the values say,")
        values = self.numpy()
        if not values.size or values.min() < 0:
            raise ShapeError(f"one_hot: no classes follow from {values.tolist()}; give num_classes")
        num_classes = int(values.max()) + 1
    if num_classes < 0:
        raise ShapeError(f"one_hot: wanted 0 classes or more, got {num_classes}")
    numbers = self.cast(int64) if num_classes > FAR or self.dtype in (uint32, uint64, int64) else self.cast(int32)
    classes = type(self).arange(num_classes, dtype=numbers.dtype, device=self.device)
    return (numbers.unsqueeze(-1) == classes).cast(int64)
