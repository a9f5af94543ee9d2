"""Convolutions: functions under torch.nn.functional's names, and the layers that call them under torch.nn's.

The mathematics is `Tensor.conv2d` and `Tensor.conv_transpose2d`, for one to three dimensions; here are PyTorch's order
of arguments and its layers, with their parameters and first values.

>>> from clgrad import Tensor, nn
>>> conv = nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
>>> conv.weight.shape, conv(Tensor.zeros(1, 3, 32, 32)).shape
((8, 3, 3, 3), (1, 8, 16, 16))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional, Union

from ..engine.ops import ShapeError
from ..engine.tensor import Tensor
from . import init
from .module import Module, parameter

Sizes = Union[int, Sequence[int]]

# --- functions --------------------------------------------------------------------------------------------------------


def each(name: str, value: Sizes, rank: int) -> tuple[int, ...]:
    """One number for each of `rank` axes; one alone stands for all of them."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    sizes = sizes * rank if len(sizes) == 1 else sizes
    if len(sizes) != rank:
        raise ShapeError(f"{name}: {value} must be one number, or {rank} of them")
    return sizes


def _check_rank(name: str, x: Tensor, weight: Tensor, rank: int) -> None:
    if weight.ndim != rank + 2 or x.ndim not in (rank + 1, rank + 2):
        raise ShapeError(
            f"{name}: needs an input of {rank + 1} or {rank + 2} dimensions and a weight of {rank + 2}, not {x.shape} "
            f"and {weight.shape}"
        )


def _conv(rank: int, x: Tensor, weight: Tensor, bias, stride, padding, dilation, groups: int) -> Tensor:
    name = f"conv{rank}d"
    _check_rank(name, x, weight, rank)
    if not isinstance(padding, str):
        padding = each(f"{name}: padding", padding, rank)
    stride, dilation = each(f"{name}: stride", stride, rank), each(f"{name}: dilation", dilation, rank)
    return x.conv2d(weight, bias, groups, stride, dilation, padding)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: Sizes = 1,
    padding: Union[Sizes, str] = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """(N, C, L) with weight (O, C / groups, k) to (N, O, L'); N may be missing."""
    return _conv(1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: Sizes = 1,
    padding: Union[Sizes, str] = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """(N, C, H, W) with weight (O, C / groups, kh, kw) to (N, O, H', W'); N may be missing."""
    return _conv(2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: Sizes = 1,
    padding: Union[Sizes, str] = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """(N, C, D, H, W) with weight (O, C / groups, kd, kh, kw) to (N, O, D', H', W'); N may be missing."""
    return _conv(3, x, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(
    rank: int, x: Tensor, weight: Tensor, bias, stride, padding, output_padding, groups: int, dilation
) -> Tensor:
    name = f"conv_transpose{rank}d"
    _check_rank(name, x, weight, rank)
    return x.conv_transpose2d(
        weight,
        bias,
        groups,
        each(f"{name}: stride", stride, rank),
        each(f"{name}: dilation", dilation, rank),
        each(f"{name}: padding", padding, rank),
        each(f"{name}: output_padding", output_padding, rank),
    )


def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """(N, C, L) with weight (C, O / groups, k) to (N, O, L'); N may be missing."""
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """(N, C, H, W) with weight (C, O / groups, kh, kw) to (N, O, H', W'); N may be missing."""
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """(N, C, D, H, W) with weight (C, O / groups, kd, kh, kw) to (N, O, D', H', W'); N may be missing."""
    return _conv_transpose(3, x, weight, bias, stride, padding, output_padding, groups, dilation)


# --- layers -----------------------------------------------------------------------------------------------------------


class _Convolution(Module):
    """What all share: options for each axis, a weight and a bias that start uniform in ±1/sqrt(fan_in)."""

    rank: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    def _set(self, in_channels: int, out_channels: int, groups: int, bias: bool, device, dtype, **sizes: Sizes) -> None:
        name = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"{name}: {in_channels} and {out_channels} channels do not divide into {groups} groups")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        for option, value in sizes.items():
            setattr(self, option, each(f"{name}: {option}", value, self.rank))
        shape = self._weight_shape()
        # kaiming_uniform_ with a = sqrt(5), as PyTorch writes it. What it counts is axis 1 times the kernel.
        bound = 1.0 / math.sqrt(max(math.prod(shape[1:]), 1))
        self.weight = init.uniform_(parameter(*shape, dtype=dtype, device=device), -bound, bound)
        self.bias: Optional[Tensor] = None
        if bias:
            self.bias = init.uniform_(parameter(out_channels, dtype=dtype, device=device), -bound, bound)

    def _weight_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def extra_repr(self) -> str:
        shown = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        usual: dict[str, Any] = {"padding": (0,), "output_padding": (0,), "dilation": (1,)}
        for option, value in usual.items():
            if getattr(self, option, value * self.rank) != value * self.rank:
                shown.append(f"{option}={getattr(self, option)}")
        shown += [f"groups={self.groups}"] * (self.groups != 1) + ["bias=False"] * (self.bias is None)
        return ", ".join(shown)


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Union[Sizes, str] = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Optional[str] = None,
        dtype=None,
    ):
        name = type(self).__name__
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(
                f"{name}: padding_mode must be 'zeros', 'reflect', 'replicate' or 'circular', not {padding_mode!r}"
            )
        self._set(
            in_channels, out_channels, groups, bias, device, dtype,
            kernel_size=kernel_size, stride=stride, dilation=dilation,
        )  # fmt: skip
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"{name}: padding must be 'same', 'valid' or numbers, not {padding!r}")
            if padding == "same" and set(self.stride) != {1}:
                raise ValueError(f"{name}: padding 'same' needs stride 1, not {self.stride}")
        self.padding = padding if isinstance(padding, str) else each(f"{name}: padding", padding, self.rank)
        self.padding_mode = padding_mode

    def _weight_shape(self) -> tuple[int, ...]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        padding: Union[Sizes, str] = self.padding
        if self.padding_mode != "zeros":
            x, padding = x.pad(self._widths(), mode=self.padding_mode), 0
        return _conv(self.rank, x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _widths(self) -> list[int]:
        """(before, after) of each axis, the last first, in one list."""
        if self.padding == "valid":
            return [0] * (2 * self.rank)
        widths: list[int] = []
        for axis in reversed(range(self.rank)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                widths += [total // 2, total - total // 2]
            else:
                widths += [int(self.padding[axis])] * 2
        return widths


class Conv1d(_Conv):
    """Convolution of (N, C, L): weight (out_channels, in_channels / groups, k). Arguments are those of `conv1d`."""

    rank = 1


class Conv2d(_Conv):
    """Convolution of (N, C, H, W): weight (out_channels, in_channels / groups, kh, kw)."""

    rank = 2


class Conv3d(_Conv):
    """Convolution of (N, C, D, H, W): weight (out_channels, in_channels / groups, kd, kh, kw)."""

    rank = 3


class _ConvTranspose(_Convolution):
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        device: Optional[str] = None,
        dtype=None,
    ):
        self._set(
            in_channels, out_channels, groups, bias, device, dtype, kernel_size=kernel_size, stride=stride,
            padding=padding, output_padding=output_padding, dilation=dilation,
        )  # fmt: skip

    def _weight_shape(self) -> tuple[int, ...]:
        return self.in_channels, self.out_channels // self.groups, *self.kernel_size

    def forward(self, x: Tensor, output_size: Optional[Sequence[int]] = None) -> Tensor:
        """`output_size` (of the spatial axes, or all) chooses among the sizes that differ by less than a stride."""
        more = self.output_padding if output_size is None else self._output_padding(x, tuple(output_size))
        return _conv_transpose(
            self.rank, x, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )

    def _output_padding(self, x: Tensor, wanted: tuple[int, ...]) -> tuple[int, ...]:
        wanted = wanted[-self.rank :]
        least = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                x.shape[-self.rank :], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        )
        more = tuple(w - n for w, n in zip(wanted, least, strict=True))
        if not all(0 <= m < s for m, s in zip(more, self.stride, strict=True)):
            most = tuple(n + s - 1 for n, s in zip(least, self.stride, strict=True))
            raise ShapeError(f"{type(self).__name__}: output_size {wanted} must be between {least} and {most}")
        return more


class ConvTranspose1d(_ConvTranspose):
    """The transpose of Conv1d: (N, C, L), weight (in_channels, out_channels / groups, k)."""

    rank = 1


class ConvTranspose2d(_ConvTranspose):
    """The transpose of Conv2d: (N, C, H, W), weight (in_channels, out_channels / groups, kh, kw)."""

    rank = 2


class ConvTranspose3d(_ConvTranspose):
    """The transpose of Conv3d: (N, C, D, H, W), weight (in_channels, out_channels / groups, kd, kh, kw)."""

    rank = 3
