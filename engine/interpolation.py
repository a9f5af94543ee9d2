"""Interpolation: images in other sizes, one axis after the other.

Each place of the result lies between two of the input, or on one. Which, and how near, is known from the sizes alone,
so it is computed on the host, in the precision of the data; the device looks two slices up and mixes them.

>>> from clgrad import Tensor
>>> Tensor([[1.0, 3.0]]).interpolate((4,)).tolist(), Tensor([[1.0, 3.0]]).interpolate((4,), "nearest").tolist()
([[1.0, 1.5, 2.5, 3.0]], [[1.0, 1.0, 3.0, 3.0]])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np

from ..backends import dtypes
from ..backends.dtypes import is_float
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

LINEAR = {"linear": 0, "bilinear": 2, "trilinear": 3}  # and the number of axes that a name says, if it does
MODES = (*LINEAR, "nearest", "nearest-exact")


def interpolate(self: Tensor, size: Sequence[int], mode: str = "linear", align_corners: bool = False) -> Tensor:
    """The last axes in other sizes: (..., *n) -> (..., *size), as many axes as `size` has.

    `mode` "linear" (or "bilinear", "trilinear") mixes the two nearest along each axis; place i looks at (i + 1/2) n /
    size - 1/2, or with `align_corners` at i (n - 1) / (size - 1), so that the ends stay the ends. "nearest" takes
    element floor(i n / size), "nearest-exact" element floor((i + 1/2) n / size). Integers are mixed in floats and
    rounded towards zero. Raises ShapeError for sizes that do not fit, ValueError for another mode.
    """
    return resampled(self, size, mode, align_corners)


def resampled(
    self: Tensor, size: Sequence[int], mode: str, align_corners: bool, factors: Optional[Sequence[float]] = None
) -> Tensor:
    """`interpolate`, but that places lie 1 / factor apart where `factors` are given, rather than n / size."""
    sizes = (size,) if isinstance(size, int) else tuple(size)
    if mode not in MODES or LINEAR.get(mode, 0) not in (0, len(sizes)):
        raise ValueError(f"interpolate: mode {mode!r} for {len(sizes)} axes; use one of {', '.join(MODES)}")
    if align_corners and mode not in LINEAR:
        raise ValueError(f"interpolate: align_corners goes with mode 'linear' only, not {mode!r}")
    if not 0 < len(sizes) <= self.ndim or any(n < 1 for n in (*sizes, *self.shape[self.ndim - len(sizes) :])):
        raise ShapeError(f"interpolate: {self.shape} to {sizes}: give 1 to {self.ndim} sizes above 0, of axes above 0")
    x = self if is_float(self.dtype) or mode not in LINEAR else self.cast(dtypes.default_float)
    real = np.float64 if x.dtype == dtypes.float64 and mode in LINEAR else np.float32  # as in PyTorch
    for axis, n in enumerate(sizes, self.ndim - len(sizes)):
        before = x.shape[axis]
        if before == n and (factors is None or mode != "nearest-exact"):  # which goes by its factor even so
            continue
        if align_corners:
            step = real(before - 1) / real(max(n - 1, 1))
        else:
            step = real(before) / real(n) if factors is None else real(1 / factors[axis - self.ndim])
        x = _mixed(x, axis, n, step, align_corners) if mode in LINEAR else _nearest(x, axis, n, step, mode[7:] != "")
    return x.cast(self.dtype)


def _looked_up(x: Tensor, axis: int, places: np.ndarray) -> Tensor:
    index = type(x)(places.astype("int32"), device=x.device)
    order = (axis, *(a for a in range(x.ndim) if a != axis))
    return x.permute(*order).take(index).permute(*(order.index(a) for a in range(x.ndim)))


def _nearest(x: Tensor, axis: int, size: int, step: np.floating, exact: bool) -> Tensor:
    places = np.floor((np.arange(size, dtype=step.dtype) + step.dtype.type(0.5 * exact)) * step)
    return _looked_up(x, axis, np.minimum(places, x.shape[axis] - 1))


def _mixed(x: Tensor, axis: int, size: int, step: np.floating, align_corners: bool) -> Tensor:
    n, real = x.shape[axis], step.dtype.type
    place: np.ndarray = np.arange(size).astype(real)
    place = place * step if align_corners else np.maximum((place + real(0.5)) * step - real(0.5), 0)
    low = np.minimum(np.floor(place), n - 1)
    share = type(x)((place - low).astype(real), device=x.device).cast(x.dtype)
    share = share.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    left, right = _looked_up(x, axis, low), _looked_up(x, axis, np.minimum(low + 1, n - 1))
    return left * (1 - share) + right * share
