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
from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

from ..engine.convolution import Sizes, each
from ..engine.ops import ShapeError
from ..engine.tensor import Tensor
from . import init
from .module import Module, parameter

# --- functions --------------------------------------------------------------------------------------------------------


def named(function: Callable, name: str, text: str) -> Callable:
    """A function that was made for a number of axes, under its own name."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = text
    return function


def _check_rank(name: str, x: Tensor, weight: Tensor, rank: int) -> None:
    if weight.ndim != rank + 2 or x.ndim not in (rank + 1, rank + 2):
        raise ShapeError(
            f"{name}: needs an input of {rank + 1} or {rank + 2} dimensions and a weight of {rank + 2}, not {x.shape} "
            f"and {weight.shape}"
        )


def _conv(rank: int) -> Callable[..., Tensor]:
    name = f"conv{rank}d"

    def conv(
        x: Tensor,
        weight: Tensor,
        bias: Optional[Tensor] = None,
        stride: Sizes = 1,
        padding: Union[Sizes, str] = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> Tensor:
        _check_rank(name, x, weight, rank)
        if not isinstance(padding, str):
            padding = each(name, "padding", padding, rank, 0)
        return x.conv2d(weight, bias, groups, stride, dilation, padding)

    text = "(N, C, *n) with weight (O, C / groups, *k) to (N, O, *n'); N may be missing. See `Tensor.conv2d`."
    return named(conv, name, text)


def _conv_transpose(rank: int) -> Callable[..., Tensor]:
    name = f"conv_transpose{rank}d"

    def conv(
        x: Tensor,
        weight: Tensor,
        bias: Optional[Tensor] = None,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        dilation: Sizes = 1,
    ) -> Tensor:
        _check_rank(name, x, weight, rank)
        around = each(name, "padding", padding, rank, 0)
        return x.conv_transpose2d(weight, bias, groups, stride, dilation, around, output_padding)

    text = "(N, C, *n) with weight (C, O / groups, *k) to (N, O, *n'); N may be missing. See `Tensor.conv_transpose2d`."
    return named(conv, name, text)


conv1d, conv2d, conv3d = _conv(1), _conv(2), _conv(3)
conv_transpose1d, conv_transpose2d, conv_transpose3d = _conv_transpose(1), _conv_transpose(2), _conv_transpose(3)


# --- layers -----------------------------------------------------------------------------------------------------------


class _Convolution(Module):
    """What all share: options for each axis, a weight and a bias that start uniform in ±1/sqrt(fan_in)."""

    rank: int
    function: Callable[..., Tensor]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    def _set(self, in_channels: int, out_channels: int, groups: int, bias: bool, device, dtype, **sizes: Sizes) -> None:
        name = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"{name}: {in_channels} and {out_channels} channels do not divide into {groups} groups")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        for option, value in sizes.items():
            setattr(self, option, each(name, option, value, self.rank, 0 if "padding" in option else 1))
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
        self.padding = padding if isinstance(padding, str) else each(name, "padding", padding, self.rank, 0)
        self.padding_mode = padding_mode

    def _weight_shape(self) -> tuple[int, ...]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        padding: Union[Sizes, str] = self.padding
        if self.padding_mode != "zeros":
            x, padding = x.pad(self._widths(), mode=self.padding_mode), 0
        conv = type(self).function
        return conv(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

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
    """Convolution of (N, C, L): weight (out_channels, in_channels / groups, k). Options as `functional.conv1d`'s."""

    rank = 1
    function = conv1d


class Conv2d(_Conv):
    """Convolution of (N, C, H, W): weight (out_channels, in_channels / groups, kh, kw)."""

    rank = 2
    function = conv2d


class Conv3d(_Conv):
    """Convolution of (N, C, D, H, W): weight (out_channels, in_channels / groups, kd, kh, kw)."""

    rank = 3
    function = conv3d


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
        conv = type(self).function
        return conv(x, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation)

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
    function = conv_transpose1d


class ConvTranspose2d(_ConvTranspose):
    """The transpose of Conv2d: (N, C, H, W), weight (in_channels, out_channels / groups, kh, kw)."""

    rank = 2
    function = conv_transpose2d


class ConvTranspose3d(_ConvTranspose):
    """The transpose of Conv3d: (N, C, D, H, W), weight (in_channels, out_channels / groups, kd, kh, kw)."""

    rank = 3
    function = conv_transpose3d
