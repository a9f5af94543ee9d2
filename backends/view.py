"""Strided views: the language in which the engine says where the elements of a value lie.

A `View` maps the points of an index space to positions in a flat buffer:

    position(i0, i1, ...) = offset + i0*strides[0] + i1*strides[1] + ...

and, where `mask` is set, only points with `lo <= i < hi` in every dimension lie in the buffer;
everywhere else the value is zero (that is what padding means). Every movement operation turns one
View into another without touching data; a reshape (or a window over padding) that no strides can
express returns None, and whoever asked has to copy first.

>>> from clgrad.backends.view import View
>>> View.contiguous((2, 3)).permute((1, 0))
View(shape=(3, 2), strides=(1, 3), offset=0, mask=None)
>>> View.contiguous((2, 3)).permute((1, 0)).reshape((6,)) is None
True
>>> View.contiguous((4,)).pad(((1, 1),))
View(shape=(6,), strides=(1,), offset=-1, mask=((1, 5),))
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple, Optional

Shape = tuple[int, ...]
Mask = Optional[tuple[tuple[int, int], ...]]


@lru_cache(maxsize=65536)
def contiguous_strides(shape: Shape) -> Shape:
    """Row-major strides in elements; a dimension of size 1 has stride 0, so that equal views compare equal."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(0 if size == 1 else step)
        step *= size
    return tuple(reversed(strides))


class View(NamedTuple):
    """`shape` of the index space, `strides` and `offset` in elements, `mask` as half-open ranges or None."""

    shape: Shape
    strides: Shape
    offset: int = 0
    mask: Mask = None

    @staticmethod
    def contiguous(shape: Shape) -> View:
        return View(shape, contiguous_strides(shape))

    @property
    def size(self) -> int:
        return prod(self.shape)

    def is_contiguous(self) -> bool:
        return self.offset == 0 and self.mask is None and self.strides == contiguous_strides(self.shape)

    def permute(self, axes: Shape) -> View:
        mask = None if self.mask is None else tuple(self.mask[a] for a in axes)
        return View(tuple(self.shape[a] for a in axes), tuple(self.strides[a] for a in axes), self.offset, mask)

    def expand(self, shape: Shape) -> View:
        """Repeat dimensions of size 1. A masked one that lies wholly inside its mask loses it, else keeps it empty."""
        strides = tuple(0 if old != new else stride for old, new, stride in zip(self.shape, shape, self.strides))
        mask = self.mask
        if mask is not None:
            mask = tuple(
                m if old == new else ((0, new) if m == (0, 1) else (0, 0))
                for m, old, new in zip(mask, self.shape, shape)
            )
        return _normalised(shape, strides, self.offset, mask)

    def shrink(self, bounds: tuple[tuple[int, int], ...]) -> View:
        """Keep the points `lo <= i < hi` of each dimension."""
        offset = self.offset + sum(lo * stride for (lo, _), stride in zip(bounds, self.strides))
        mask = self.mask
        if mask is not None:
            mask = tuple(
                (min(max(m0 - lo, 0), hi - lo), max(min(m1 - lo, hi - lo), 0))
                for (m0, m1), (lo, hi) in zip(mask, bounds)
            )
        return _normalised(tuple(hi - lo for lo, hi in bounds), self.strides, offset, mask)

    def pad(self, widths: tuple[tuple[int, int], ...]) -> View:
        """Surround each dimension with `before` and `after` zeros."""
        offset = self.offset - sum(before * stride for (before, _), stride in zip(widths, self.strides))
        old = self.mask or tuple((0, size) for size in self.shape)
        mask = tuple((lo + before, hi + before) for (lo, hi), (before, _) in zip(old, widths))
        shape = tuple(size + before + after for size, (before, after) in zip(self.shape, widths))
        return _normalised(shape, self.strides, offset, mask)

    def flip(self, axes: Shape) -> View:
        """Reverse the given dimensions."""
        offset = self.offset + sum((self.shape[a] - 1) * self.strides[a] for a in axes)
        strides = tuple(-s if a in axes else s for a, s in enumerate(self.strides))
        mask = self.mask
        if mask is not None:
            mask = tuple(
                (n - hi, n - lo) if a in axes else (lo, hi) for a, ((lo, hi), n) in enumerate(zip(mask, self.shape))
            )
        return View(self.shape, strides, offset, mask)

    def window(self, arg: tuple[int, int, int]) -> Optional[View]:
        """Dimension `axis` as the places of windows of `size`, `step` apart, which the new last dimension walks.

        None where padding is seen by several of the windows: a mask is a range of each dimension by itself.
        """
        axis, size, step = arg
        count = (self.shape[axis] - size) // step + 1
        mask = self.mask
        if mask is not None:
            places, inside = (0, count), (0, size)
            if mask[axis] != (0, self.shape[axis]):
                if size != 1:
                    return None
                places = (-(-mask[axis][0] // step), -(-mask[axis][1] // step))
            mask = (*mask[:axis], places, *mask[axis + 1 :], inside)
        shape = (*self.shape[:axis], count, *self.shape[axis + 1 :], size)
        stride = self.strides[axis]
        strides = (*self.strides[:axis], stride * step, *self.strides[axis + 1 :], stride)
        return _normalised(shape, strides, self.offset, mask)

    def reshape(self, shape: Shape) -> Optional[View]:
        """The same elements under another shape of the same size, or None where strides cannot express it."""
        if shape == self.shape:
            return self
        return _reshape(self, shape)

    def merge(self, groups: Sequence[Sequence[int]]) -> View:
        """Each group of axes, which `walked_as_one` gave, as one axis; no axes at all as one of size 1."""
        shape = tuple(prod(self.shape[a] for a in group) for group in groups)
        if any(lo >= hi for lo, hi in self.mask or ()):
            return _normalised(shape, shape, 0, ((0, 0),) * len(shape))
        strides = tuple(self.strides[group[-1]] if group else 0 for group in groups)
        mask = None
        if self.mask is not None:
            inner = [prod(self.shape[a] for a in group[1:]) for group in groups]
            bounds = [self.mask[group[0]] if group else (0, 1) for group in groups]
            mask = tuple((lo * n, hi * n) for (lo, hi), n in zip(bounds, inner, strict=True))
        return _normalised(shape, strides, self.offset, mask)

    def apply(self, op: str, arg) -> Optional[View]:
        """The View after the movement primitive `op` with the argument of its Node."""
        return getattr(self, op)(arg)


def walked_as_one(views: Iterable[View], order: Sequence[int], apart: Collection[int] = ()) -> list[list[int]]:
    """Groups of axes, neighbours in `order`, that every View walks like one axis. Axes in `apart` are grouped with each
    other only. These axes have the same sizes in all Views, and those of size 1 are in no group."""
    views = list(views)
    groups: list[list[int]] = []
    for axis in order:
        if views[0].shape[axis] == 1:
            continue
        last = groups[-1][-1] if groups else axis
        if groups and (last in apart) == (axis in apart) and all(_continues(v, last, axis) for v in views):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def _continues(view: View, outer: int, inner: int) -> bool:
    if view.mask is not None and view.mask[inner] != (0, view.shape[inner]):
        return False
    return view.strides[outer] == view.strides[inner] * view.shape[inner]


def _normalised(shape: Shape, strides: Shape, offset: int, mask: Mask) -> View:
    """One View, one spelling: size-1 dimensions that the mask leaves whole have stride 0, full masks are None."""
    if mask is not None and all(m == (0, n) for m, n in zip(mask, shape)):
        mask = None
    if any(lo >= hi for lo, hi in mask or ()):  # nothing is inside: every position is as good as any
        return View(shape, (0,) * len(shape), 0, ((0, 0),) * len(shape))
    if 1 in shape:
        strides = tuple(0 if n == 1 else s for n, s in zip(shape, strides))
    return View(shape, strides, offset, mask)


@lru_cache(maxsize=65536)
def _reshape(view: View, shape: Shape) -> Optional[View]:
    """Match groups of old and new dimensions with equal products; each old group must be one strided run."""
    if 0 in view.shape:
        return View(shape, (0,) * len(shape), 0, None)
    mask = view.mask or tuple((0, n) for n in view.shape)
    # A masked dimension of size 1 that is not whole makes the whole view empty (see _normalised).
    if any(lo >= hi for lo, hi in mask):  # and no mask of no dimensions says so
        return View(shape, (0,) * len(shape), 0, ((0, 0),) * len(shape)) if shape else None
    old = [(n, s, m) for n, s, m in zip(view.shape, view.strides, mask) if n != 1]
    strides: list[int] = []
    masks: list[tuple[int, int]] = []
    position = 0
    group: list[int] = []  # new sizes still waiting for their old dimensions
    for size in shape:
        if size == 1:
            group.append(1)
            continue
        group.append(size)
        want = prod(group)
        have, first = 1, position
        while position < len(old) and have < want:
            have *= old[position][0]
            position += 1
        if have != want:  # the group needs more new dimensions before it ends where old ones end
            position = first
            continue
        if not _split(old[first:position], group, strides, masks):
            return None
        group = []
    if any(size != 1 for size in group):
        return None
    strides += [0] * len(group)
    masks += [(0, 1)] * len(group)
    return _normalised(shape, tuple(strides), view.offset, tuple(masks))


def _split(old, sizes: list[int], strides: list[int], masks: list[tuple[int, int]]) -> bool:
    """Append the strides and masks of `sizes` laid over the run of `old` dimensions; False if it is not one run."""
    real = [n for n in sizes if n != 1]
    if len(old) == 1 and len(real) == 1:  # unchanged but for dimensions of size 1
        _, stride, mask = old[0]
        strides += [0 if n == 1 else stride for n in sizes]
        masks += [(0, 1) if n == 1 else mask for n in sizes]
        return True
    for (_, outer, _), (inner_size, inner, _) in zip(old, old[1:]):
        if outer != inner * inner_size:
            return False
    if any(m != (0, n) for n, _, m in old[1:]):
        return False
    step, total = old[-1][1], prod(n for n, _, _ in old)
    lo, hi = (bound * (total // old[0][0]) for bound in old[0][2])
    inner = prod(real[1:])
    if (lo, hi) != (0, total) and (lo % inner or hi % inner):
        return False
    rest, first = total, True
    for n in sizes:
        rest //= n
        strides.append(0 if n == 1 else step * rest)
        whole = n == 1 or not first
        masks.append((0, n) if whole else (lo // inner, hi // inner))
        first = first and n == 1
    return True
