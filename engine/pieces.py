"""Tensors put together of pieces, and taken apart: cat, stack, split, chunk, pad, roll, repeat_interleave, meshgrid.

>>> from clgrad import Tensor
>>> x = Tensor.arange(5)
>>> first, second = x.split([2, 3])
>>> second.cat(first).tolist(), x.roll(1).tolist(), x.pad((1, 2), "reflect").tolist()
([2, 3, 4, 0, 1], [4, 0, 1, 2, 3], [1, 0, 1, 2, 3, 4, 3, 2])
"""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign, inf
from operator import index as whole
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from ..backends import dtypes
from .elementwise import only_tensors
from .movement import along, axis_of
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

Tensors = Union["Tensor", Sequence["Tensor"]]


def _listed(op: str, first: Tensors, others: tuple, dim: int) -> tuple[list[Tensor], int]:
    """x.cat(y, z, dim=1), Tensor.cat(x, y, z, dim=1), Tensor.cat([x, y, z], dim=1) and Tensor.cat([x, y, z], 1)."""
    if not isinstance(first, (list, tuple)):
        only_tensors(op, first, *others)
        return [first, *others], dim
    if len(others) > 1 or not all(isinstance(other, int) for other in others):
        raise TypeError(f"{op}: one list of Tensors and perhaps a dim, or Tensors one by one")
    if not first:
        raise ShapeError(f"{op}: needs at least one Tensor")
    only_tensors(op, *first)
    return list(first), others[0] if others else dim


def cat(self: Tensors, *others: Any, dim: int = 0) -> Tensor:
    """Tensors (or one list of them) one after another along `dim`. Their dtypes meet as in arithmetic.

    One of shape (0,) fits anything. Raises ShapeError if they differ in more than the size of `dim`.
    """
    tensors, dim = _listed("cat", self, others, dim)
    dtype = tensors[0].dtype
    for other in tensors[1:]:
        dtype = dtypes.promote(dtype, other.dtype)
    parts = [t for t in tensors if t.shape != (0,)] or tensors[:1]
    first = parts[0]
    if not first.ndim:
        raise ShapeError("cat: Tensors without dimensions have no axis to stand along; stack() gives them one")
    axis = axis_of("cat", dim, first.ndim)
    for other in parts[1:]:
        if other.ndim != first.ndim or any(
            a != axis and n != m for a, (n, m) in enumerate(zip(first.shape, other.shape, strict=True))
        ):
            raise ShapeError(f"cat: {other.shape} differs from {first.shape} in more than axis {axis}")
    return type(first)._make("cat", *(t.cast(dtype) for t in parts), arg=axis)


def stack(self: Tensors, *others: Any, dim: int = 0) -> Tensor:
    """Tensors (or one list of them) of one shape side by side along a new dimension `dim`."""
    tensors, dim = _listed("stack", self, others, dim)
    first = tensors[0]
    axis = axis_of("stack", dim, first.ndim + 1)
    for other in tensors[1:]:
        if other.shape != first.shape:
            raise ShapeError(f"stack: shapes {first.shape} and {other.shape} differ; stacked Tensors have one shape")
    return cat([t.unsqueeze(axis) for t in tensors], dim=axis)


def split(self: Tensor, sizes: Union[int, Sequence[int]], dim: int = 0) -> tuple[Tensor, ...]:
    """Parts along `dim`, of `sizes` each (an int: all of that size but perhaps the last). None of them is copied."""
    axis, total = _divisible("split", self, dim)
    if isinstance(sizes, int):
        if sizes < 0 or (sizes == 0 and total):
            raise ShapeError(f"split: parts of {sizes} do not make up the {total} of axis {axis} of {self.shape}")
        sizes = [min(sizes, total - start) for start in range(0, max(total, 1), max(sizes, 1))]
    sizes = [whole(n) for n in sizes]
    if sum(sizes) != total or any(n < 0 for n in sizes):
        raise ShapeError(f"split: sizes {sizes} do not make up the {total} of axis {axis} of {self.shape}")
    ends = np.cumsum([0, *sizes]).tolist()
    return tuple(along(self, axis, low, high) for low, high in zip(ends, ends[1:]))


def chunk(self: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` parts of equal size along `dim`; the last may be smaller. Of no elements, `chunks` of none."""
    axis, total = _divisible("chunk", self, dim)
    if chunks <= 0:
        raise ShapeError(f"chunk: wanted 1 part of {self.shape} or more, got {chunks}")
    return self.split(-(-total // chunks) if total else [0] * chunks, axis)


def _divisible(op: str, x: Tensor, dim: int) -> tuple[int, int]:
    """The axis to be divided, and its size."""
    if not x.ndim:
        raise ShapeError(f"{op}: a Tensor without dimensions has no parts")
    axis = axis_of(op, dim, x.ndim)
    return axis, x.shape[axis]


# --- around the edges ---------------------------------------------------------------------------------------------


def pad(self: Tensor, padding: Sequence, mode: str = "constant", value: float = 0.0) -> Tensor:
    """Surrounded by more elements: of `value`, or by `mode` "reflect", "replicate" or "circular" of its own.

    `padding` holds (before, after) for each axis (None for none); or, as in PyTorch, the numbers alone, those of the
    last axis first: (left, right, top, bottom, ...). Negative widths cut off. Reflection leaves out the edge and needs
    widths below the axis's size, a circle widths up to it. Raises ShapeError where they do not fit.
    """
    if mode not in ("constant", *MOST):
        raise NotImplementedError(f'pad: mode must be "constant", "reflect", "replicate" or "circular", not {mode!r}')
    widths = [(whole(b), whole(a)) for b, a in _widths(self, tuple(padding))]
    x = self.shrink([(max(-b, 0), n - max(-a, 0)) for (b, a), n in zip(widths, self.shape, strict=True)])
    widths = [(max(b, 0), max(a, 0)) for b, a in widths]
    if mode != "constant":
        for axis, (before, after) in enumerate(widths):
            if before or after:
                x = _continued(x, axis, before, after, mode)
        return x
    if not any(map(sum, widths)):
        return x
    padded = x._apply("pad", tuple(widths))
    if value == 0 and copysign(1, value) > 0:
        return padded
    inside = x.ones_like(dtype="bool")._apply("pad", tuple(widths))
    return inside.where(padded, padded.full_like(value))


def _widths(x: Tensor, padding: tuple) -> list[tuple[int, int]]:
    """(before, after) for each axis."""
    if all(isinstance(w, (int, np.integer)) for w in padding):
        pairs = list(zip(padding[::2], padding[1::2]))[::-1]
        if len(padding) % 2 == 0 and len(pairs) <= x.ndim:
            return [(0, 0)] * (x.ndim - len(pairs)) + pairs
    elif len(padding) == x.ndim and all(w is None or isinstance(w, (tuple, list)) and len(w) == 2 for w in padding):
        return [(0, 0) if w is None else tuple(w) for w in padding]
    raise ShapeError(
        f"pad: {padding} does not fit {x.shape}; wanted (before, after) for each of its {x.ndim} axes, "
        "or up to twice as many numbers, those of the last axis first"
    )


# How wide an axis of n elements continues to either side.
MOST = {"reflect": lambda n: n - 1, "circular": lambda n: n, "replicate": lambda n: inf if n else 0}


def _continued(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """One axis with its own elements put before it and after it."""
    n = x.shape[axis]
    if max(before, after) > MOST[mode](n):
        raise ShapeError(f"pad: {mode} by ({before}, {after}) needs more than the {n} elements of axis {axis}")
    if mode == "reflect":
        left, right = along(x, axis, 1, before + 1).flip(axis), along(x, axis, n - 1 - after, n - 1).flip(axis)
    elif mode == "circular":
        left, right = along(x, axis, n - before, n), along(x, axis, 0, after)
    else:
        sizes = [[k if a == axis else m for a, m in enumerate(x.shape)] for k in (before, after)]
        left, right = along(x, axis, 0, 1).expand(sizes[0]), along(x, axis, n - 1, n).expand(sizes[1])
    return cat([part for part in (left, x, right) if part.shape[axis]], dim=axis)


def roll(self: Tensor, shifts: Union[int, Sequence[int]], dims: Union[int, Sequence[int], None] = None) -> Tensor:
    """Moved by `shifts` along `dims`; what leaves at the end comes in at the beginning. Without `dims`, as if flat."""
    if dims is None:
        return self.flatten().roll(shifts, 0).reshape(self.shape)
    moves = tuple(shifts) if isinstance(shifts, (tuple, list)) else (shifts,)
    axes = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,)
    if len(moves) != len(axes):
        raise ShapeError(f"roll: {len(moves)} shifts {moves} for {len(axes)} dimensions {axes}")
    x = self
    for axis, shift in zip((axis_of("roll", a, x.ndim) for a in axes), moves, strict=True):
        n = x.shape[axis] if x.ndim else 0
        cut = -whole(shift) % n if n else 0
        if cut:
            x = cat([along(x, axis, cut, n), along(x, axis, 0, cut)], dim=axis)
    return x


# --- more of the same ---------------------------------------------------------------------------------------------


def repeat_interleave(self: Tensor, repeats: Union[int, Sequence[int], Tensor], dim: Union[int, None] = None) -> Tensor:
    """Each element of `dim` so many times, next to each other: `repeats` is one count or one for each element.

    Without `dim`, of the flat Tensor. Counts that are a Tensor are read, which jit cannot do. Raises ShapeError for
    negative counts, and for as many as do not fit the axis.
    """
    if dim is None:
        return self.flatten().repeat_interleave(repeats, 0)
    if not self.ndim:
        return self.reshape(1).repeat_interleave(repeats, dim)
    axis = axis_of("repeat_interleave", dim, self.ndim)
    n = self.shape[axis]
    counts = np.asarray(repeats.numpy() if isinstance(repeats, type(self)) else repeats)
    if counts.dtype.kind not in "iu" and counts.size:
        raise TypeError(f"repeat_interleave: counts are integers, not {counts.dtype}")
    if counts.ndim > 1 or counts.size not in (1, n) or (counts < 0).any():
        raise ShapeError(
            f"repeat_interleave: wanted one count of 0 or more, or {n} of them for axis {axis} of {self.shape}, "
            f"got {counts.tolist()}"
        )
    if counts.size != 1:
        index = np.repeat(np.arange(n), counts.astype(np.int64))
        return self[(slice(None),) * axis + (index,)]
    times = int(counts.reshape(()))
    spread = self.unsqueeze(axis + 1).expand(*self.shape[: axis + 1], times, *self.shape[axis + 1 :])
    return spread.reshape(*self.shape[:axis], n * times, *self.shape[axis + 1 :])


def meshgrid(self: Tensors, *others: Tensor, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Each of n Tensors of one dimension (or none) repeated along those of the others: n Tensors of n dimensions.

    With `indexing` "xy" the first two dimensions change places. Raises ShapeError for more dimensions.
    """
    tensors, _ = _listed("meshgrid", self, others, 0)
    if indexing not in ("ij", "xy"):
        raise ShapeError(f'meshgrid: indexing must be "ij" or "xy", not {indexing!r}')
    for t in tensors:
        if t.ndim > 1:
            raise ShapeError(f"meshgrid: takes Tensors of one dimension or none, not of shape {t.shape}")
    order = list(range(len(tensors)))
    if indexing == "xy":
        order[:2] = order[:2][::-1]
    shape = tuple(tensors[a].numel() for a in order)
    return tuple(
        t.reshape([-1 if place == a else 1 for place in order]).broadcast_to(shape) for a, t in enumerate(tensors)
    )
