"""Movement methods of Tensor: other shapes of the same elements. None of them computes or copies anything by itself.

A dimension that is not there is an IndexError, shapes that do not go together a `ShapeError`, which is both a
ValueError and a RuntimeError.

>>> from clgrad import Tensor
>>> x = Tensor.arange(6).reshape(2, -1)
>>> x.shape, x.T.tolist(), x.flip(1).tolist()
((2, 3), [[0, 3], [1, 4], [2, 5]], [[2, 1, 0], [5, 4, 3]])
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import index as whole
from typing import TYPE_CHECKING, Optional, Union

from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

Bounds = Optional[Sequence[int]]


def as_shape(shape: tuple) -> tuple[int, ...]:
    """(2, 3), ((2, 3),) and ([2, 3],) all mean the shape (2, 3)."""
    return tuple(whole(n) for n in _one_sequence(shape))


def _one_sequence(args: tuple) -> tuple:
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def axis_of(op: str, axis: int, rank: int) -> int:
    """A non-negative axis, or an IndexError. A 0-d Tensor has the axis 0 (and -1), as in PyTorch."""
    axis = whole(axis)
    if not -max(rank, 1) <= axis < max(rank, 1):
        raise IndexError(f"{op}: axis {axis} is out of range for {rank} dimensions")
    return axis % max(rank, 1)


def axes_of(op: str, axes: Union[int, Sequence[int]], rank: int) -> tuple[int, ...]:
    """Non-negative axes, none of them twice."""
    found = tuple(axis_of(op, a, rank) for a in (axes if isinstance(axes, (tuple, list)) else (axes,)))
    if len(set(found)) != len(found):
        raise ShapeError(f"{op}: the axes {axes} of {rank} dimensions name one of them twice")
    return found


def along(x: Tensor, axis: int, low: int, high: int) -> Tensor:
    """The part `low <= i < high` of one axis."""
    return x.shrink([(low, high) if a == axis else None for a in range(x.ndim)])


# --- the same elements under another shape ------------------------------------------------------------------------


def reshape(self: Tensor, *shape) -> Tensor:
    """The same elements in another shape; one size may be -1 and follows from the rest, None keeps a size.

    Raises ShapeError if the sizes do not hold as many elements as there are.
    """
    given = _one_sequence(shape)
    if any(n is None and a >= self.ndim for a, n in enumerate(given)):
        raise ShapeError(f"reshape: None in {given} keeps a size, and {self.shape} has none at that place")
    sizes = tuple(self.shape[a] if n is None else whole(n) for a, n in enumerate(given))
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


def squeeze(self: Tensor, dim: Union[int, Sequence[int], None] = None) -> Tensor:
    """Without the dimensions of size 1: without those of `dim` (an int or several) that have size 1, if it is given."""
    axes = range(self.ndim) if dim is None else axes_of("squeeze", dim, self.ndim)
    return self.reshape(tuple(n for a, n in enumerate(self.shape) if n != 1 or a not in axes))


def unsqueeze(self: Tensor, dim: int) -> Tensor:
    """With a new dimension of size 1 at `dim`."""
    axis = axis_of("unsqueeze", dim, self.ndim + 1)
    return self.reshape((*self.shape[:axis], 1, *self.shape[axis:]))


def flatten(self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions `start_dim` to `end_dim` (included) as one. A 0-d Tensor becomes one of shape (1,)."""
    first, last = axis_of("flatten", start_dim, self.ndim), axis_of("flatten", end_dim, self.ndim)
    if first > last:
        raise ShapeError(f"flatten: dimension {start_dim} of {self.shape} comes after dimension {end_dim}")
    return self.reshape((*self.shape[:first], prod(self.shape[first : last + 1]), *self.shape[last + 1 :]))


def unflatten(self: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` as several; one of `sizes` may be -1. Raises ShapeError if their product is not its size."""
    axis = axis_of("unflatten", dim, self.ndim)
    size, full = (self.shape or (1,))[axis], as_shape(tuple(sizes))
    known = -prod(full)
    if full.count(-1) == 1 and known:
        full = tuple(size // known if n == -1 else n for n in full)
    if prod(full) != size or any(n < 0 for n in full):
        raise ShapeError(f"unflatten: {tuple(sizes)} do not make up the {size} of axis {axis} of {self.shape}")
    return self.reshape((*self.shape[:axis], *full, *self.shape[axis + 1 :]))


# --- the same elements in another order ---------------------------------------------------------------------------


def permute(self: Tensor, *order) -> Tensor:
    """The axes in another order. Raises ShapeError unless each is named once."""
    given = as_shape(order)
    if len(given) != self.ndim:
        raise ShapeError(f"permute: {given} is not an order of the {self.ndim} axes of {self.shape}")
    axes = tuple(axis_of("permute", a, self.ndim) for a in given)
    return self if axes == tuple(range(self.ndim)) else self._apply("permute", axes)


def transpose(self: Tensor, dim0: int = 1, dim1: int = 0) -> Tensor:
    """Two axes exchanged."""
    a, b = axis_of("transpose", dim0, self.ndim), axis_of("transpose", dim1, self.ndim)
    order = list(range(self.ndim))
    if order:
        order[a], order[b] = order[b], order[a]
    return self.permute(*order) if order else self


def flip(self: Tensor, *axis) -> Tensor:
    """Reversed along the given axes. Raises ShapeError for an axis given twice."""
    axes = tuple(sorted(axes_of("flip", _one_sequence(axis), self.ndim)))
    return self._apply("flip", axes) if axes and self.ndim else self


# --- more of them -------------------------------------------------------------------------------------------------


def expand(self: Tensor, *shape) -> Tensor:
    """Dimensions of size 1 repeated; -1 (or None) keeps a size; new dimensions appear at the left."""
    given = _one_sequence(shape)
    added = len(given) - self.ndim
    if added < 0:
        raise ShapeError(f"expand: {self.shape} has more dimensions than {given}")
    sizes = tuple(-1 if n is None else whole(n) for n in given)
    if -1 in sizes[:added]:
        raise ShapeError(f"expand: {given} keeps a size where {self.shape} has none; only new sizes stand at the left")
    return self.broadcast_to(tuple(self.shape[a - added] if n == -1 else n for a, n in enumerate(sizes)))


def broadcast_to(self: Tensor, shape: tuple[int, ...]) -> Tensor:
    """This Tensor as one of the given shape, by repeating dimensions of size 1."""
    if shape == self.shape:
        return self
    x = self if len(shape) == self.ndim else self.reshape((1,) * (len(shape) - self.ndim) + self.shape)
    return x if x.shape == shape else x._apply("expand", shape)


def repeat(self: Tensor, *repeats) -> Tensor:
    """The whole Tensor laid out `repeats` times along each axis; more counts than dimensions add some at the left."""
    times = as_shape(repeats)
    shape = (1,) * (len(times) - self.ndim) + self.shape
    if len(shape) != len(times) or any(n < 0 for n in times):
        raise ShapeError(f"repeat: {self.shape} needs at least {self.ndim} counts of 0 or more, got {times}")
    spread = self.reshape(tuple(size for n in shape for size in (1, n)))
    spread = spread.broadcast_to(tuple(size for r, n in zip(times, shape, strict=True) for size in (r, n)))
    return spread.reshape(tuple(r * n for r, n in zip(times, shape, strict=True)))


def unfold(self: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements along `dim`, `step` apart, which may overlap: (..., places, ..., size).

    There are (n - size) // step + 1 places in n elements. Nothing is copied. Raises ShapeError if not even one fits.
    """
    axis = axis_of("unfold", dim, self.ndim)
    x = self if self.ndim else self.reshape(1)
    size, step = whole(size), whole(step)
    if not 0 <= size <= x.shape[axis] or step <= 0:
        raise ShapeError(
            f"unfold: windows of {size}, {step} apart, do not fit axis {axis} of {self.shape}; "
            "wanted 0 <= size <= that axis and step > 0"
        )
    windows = x._apply("window", (axis, size, step))
    return windows if self.ndim else windows.reshape(size)


# --- fewer of them ------------------------------------------------------------------------------------------------


def shrink(self: Tensor, bounds: Sequence[Bounds]) -> Tensor:
    """The part `low <= i < high` of each axis; None keeps an axis whole. Raises ShapeError outside of the axis."""
    if len(bounds) != self.ndim:
        raise ShapeError(f"shrink: {self.shape} needs {self.ndim} pairs of bounds, got {bounds}")
    parts = tuple((0, n) if b is None else (whole(b[0]), whole(b[1])) for b, n in zip(bounds, self.shape, strict=True))
    return self if parts == tuple((0, n) for n in self.shape) else self._apply("shrink", parts)


def squared(x: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the rows and of the columns of the last two axes, (n, 1) and (m,), as int32."""
    rows, columns = (type(x).arange(n, dtype="int32", device=x.device) for n in x.shape[-2:])
    return rows.unsqueeze(1), columns


def tril(self: Tensor, diagonal: int = 0) -> Tensor:
    """The last two axes' lower triangle, zeros above the given diagonal (0: the main one, above it positive)."""
    return _triangle("tril", self, lambda distance: distance <= whole(diagonal))


def triu(self: Tensor, diagonal: int = 0) -> Tensor:
    """The last two axes' upper triangle, zeros below the given diagonal (0: the main one, above it positive)."""
    return _triangle("triu", self, lambda distance: distance >= whole(diagonal))


def _triangle(op: str, x: Tensor, keeps) -> Tensor:
    if x.ndim < 2:
        raise ShapeError(f"{op}: a triangle needs two dimensions, and {x.shape} has {x.ndim}")
    rows, columns = squared(x)
    return keeps(columns - rows).where(x, x.zeros_like())


def diag(self: Tensor, diagonal: int = 0) -> Tensor:
    """(n,) on a diagonal of a square of n + |diagonal| rows, zeros elsewhere; of a matrix, that diagonal."""
    if self.ndim == 2:
        return self.diagonal(diagonal)
    if self.ndim != 1:
        raise ShapeError(f"diag: needs one dimension or two, and {self.shape} has {self.ndim}; see diagonal()")
    by_row = self.pad(((max(-diagonal, 0), max(diagonal, 0)),)).unsqueeze(1)
    square = by_row.expand(-1, by_row.shape[0])
    rows, columns = squared(square)
    return (columns - rows == diagonal).where(square, square.zeros_like())


def diagonal(self: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The elements whose index along `dim2` is that along `dim1` plus `offset`, as a new last axis."""
    a, b = axis_of("diagonal", dim1, self.ndim), axis_of("diagonal", dim2, self.ndim)
    if a == b:
        raise ShapeError(f"diagonal: dim1 and dim2 are the same dimension {a} of {self.shape}")
    if a > b:  # in the order in which they lie in memory, which makes the result a view
        a, b, offset = b, a, -offset
    x = self.permute(*(c for c in range(self.ndim) if c not in (a, b)), a, b)
    *batch, n, m = x.shape
    row, column = max(-offset, 0), max(offset, 0)
    length = min(n - row, m - column)
    if length <= 0:
        return x.shrink([(0, k) for k in batch] + [(0, 0)] * 2).reshape(*batch, 0)
    start = row * m + column
    line = along(x.flatten(-2), x.ndim - 2, start, start + (length - 1) * (m + 1) + 1)
    return line.unfold(-1, 1, m + 1).squeeze(-1)
