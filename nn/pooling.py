"""Pooling and other sizes of images: functions under torch.nn.functional's names, and layers under torch.nn's.

The mathematics is `Tensor.avg_pool2d`, `max_pool2d`, `max_unpool2d` and `interpolate`, for one to three dimensions.

>>> from clgrad import Tensor, nn
>>> nn.MaxPool2d(2)(Tensor.arange(16.0).reshape(1, 1, 4, 4)).tolist()
[[[[5.0, 7.0], [13.0, 15.0]]]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

from ..engine.convolution import Sizes, each
from ..engine.interpolation import resampled
from ..engine.ops import ShapeError
from ..engine.tensor import Tensor
from .convolution import named
from .module import Module

# --- functions --------------------------------------------------------------------------------------------------------


def _images(name: str, x: Tensor, rank: int) -> None:
    if x.ndim not in (rank + 1, rank + 2):
        raise ShapeError(f"{name}: input must have {rank + 1} or {rank + 2} dimensions, not shape {x.shape}")


def _avg_pool(rank: int) -> Callable[..., Tensor]:
    name = f"avg_pool{rank}d"

    def pool(
        x: Tensor,
        kernel_size: Sizes,
        stride: Optional[Sizes] = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> Tensor:
        _images(name, x, rank)
        kernel, widths = each(name, "kernel_size", kernel_size, rank), each(name, "padding", padding, rank, 0)
        step = kernel if stride is None else each(name, "stride", stride, rank)
        return x.avg_pool2d(kernel, step, 1, widths, ceil_mode, count_include_pad)

    return named(pool, name, f"The mean of each window of the last {rank} axes. See `Tensor.avg_pool2d`.")


def _max_pool(rank: int) -> Callable[..., Any]:
    name = f"max_pool{rank}d"

    def pool(
        x: Tensor,
        kernel_size: Sizes,
        stride: Optional[Sizes] = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        _images(name, x, rank)
        kernel, widths = each(name, "kernel_size", kernel_size, rank), each(name, "padding", padding, rank, 0)
        step = kernel if stride is None else each(name, "stride", stride, rank)
        gap = each(name, "dilation", dilation, rank)
        return x.max_pool2d(kernel, step, gap, widths, ceil_mode, return_indices)

    return named(pool, name, f"The largest of each window of the last {rank} axes. See `Tensor.max_pool2d`.")


def _max_unpool(rank: int) -> Callable[..., Tensor]:
    name = f"max_unpool{rank}d"

    def unpool(
        x: Tensor,
        indices: Tensor,
        kernel_size: Sizes,
        stride: Optional[Sizes] = None,
        padding: Sizes = 0,
        output_size: Optional[Sequence[int]] = None,
    ) -> Tensor:
        _images(name, x, rank)
        kernel, widths = each(name, "kernel_size", kernel_size, rank), each(name, "padding", padding, rank, 0)
        step = kernel if stride is None else each(name, "stride", stride, rank)
        return x.max_unpool2d(indices, kernel, step, 1, widths, output_size)

    return named(unpool, name, f"Each value where `max_pool{rank}d` found it. See `Tensor.max_unpool2d`.")


avg_pool1d, avg_pool2d, avg_pool3d = _avg_pool(1), _avg_pool(2), _avg_pool(3)
max_pool1d, max_pool2d, max_pool3d = _max_pool(1), _max_pool(2), _max_pool(3)
max_unpool1d, max_unpool2d, max_unpool3d = _max_unpool(1), _max_unpool(2), _max_unpool(3)

MODES = {"linear": 1, "bilinear": 2, "trilinear": 3}


def interpolate(
    x: Tensor,
    size: Optional[Sizes] = None,
    scale_factor: Union[float, Sequence[float], None] = None,
    mode: str = "nearest",
    align_corners: Optional[bool] = None,
    recompute_scale_factor: bool = False,
) -> Tensor:
    """(N, C, *n) with other spatial sizes: `size`, or n times `scale_factor`. See `Tensor.interpolate`.

    Where n times the factor is no whole number it is rounded down, and places still lie 1 / factor apart; but with
    `recompute_scale_factor` n / size. Raises ShapeError for a mode that has another number of axes.
    """
    rank = x.ndim - 2
    if rank not in (1, 2, 3) or MODES.get(mode, rank) != rank:
        raise ShapeError(f"interpolate: mode {mode!r} does not fit an input of shape {x.shape}, (N, C, ...)")
    if align_corners is not None and mode not in MODES:
        raise ValueError(f"interpolate: align_corners goes with {list(MODES)} only, not with {mode!r}")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give size or scale_factor, one of them")
    factors: Optional[list[float]] = None
    if size is not None:
        sizes = each("interpolate", "size", size, rank, 0)
    else:
        factors = [scale_factor] * rank if isinstance(scale_factor, (int, float)) else list(scale_factor or ())
        if len(factors) != rank:
            raise ShapeError(f"interpolate: scale_factor {scale_factor} must be one number, or {rank} of them")
        sizes = tuple(int(n * factor) for n, factor in zip(x.shape[2:], factors, strict=True))
        factors = None if recompute_scale_factor else factors
    return resampled(x, sizes, "linear" if mode in MODES else mode, bool(align_corners), factors)


# --- layers -----------------------------------------------------------------------------------------------------------


class _Pool(Module):
    """A window and its options, passed on by name to the function `function`."""

    function: Callable[..., Any]

    def _set(self, **options: Any) -> None:
        self.options = options | {"stride": options["kernel_size"] if options["stride"] is None else options["stride"]}

    def forward(self, x: Tensor) -> Any:
        return type(self).function(x, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


class _AvgPool(_Pool):
    def __init__(
        self,
        kernel_size: Sizes,
        stride: Optional[Sizes] = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        self._set(
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )


class _MaxPool(_Pool):
    def __init__(
        self,
        kernel_size: Sizes,
        stride: Optional[Sizes] = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        self._set(
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            return_indices=return_indices,
        )


class AvgPool1d(_AvgPool):
    """The mean of each window of (N, C, L)."""

    function = avg_pool1d


class AvgPool2d(_AvgPool):
    """The mean of each window of (N, C, H, W)."""

    function = avg_pool2d


class AvgPool3d(_AvgPool):
    """The mean of each window of (N, C, D, H, W)."""

    function = avg_pool3d


class MaxPool1d(_MaxPool):
    """The largest of each window of (N, C, L)."""

    function = max_pool1d


class MaxPool2d(_MaxPool):
    """The largest of each window of (N, C, H, W)."""

    function = max_pool2d


class MaxPool3d(_MaxPool):
    """The largest of each window of (N, C, D, H, W)."""

    function = max_pool3d
