"""Normalisation: functions under torch.nn.functional's names, and the layers that call them under torch.nn's.

Each subtracts a mean and divides by the root of a variance, plus eps; they differ in what these are taken over. For
images (B, C, H, W): batch over (B, H, W), layer over (C, H, W), instance over (H, W), group over some channels and
(H, W). Half precision is normalised in float32 and rounded once.

>>> from clgrad import Tensor, nn
>>> x = Tensor([[1.0, 10.0], [3.0, 30.0]])
>>> norm = nn.BatchNorm1d(2)
>>> norm(x).tolist()[0][0] < -0.99, norm.running_mean.tolist()
(True, [0.20000000298023224, 2.0])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional, Union

import numpy as np

from ..backends.dtypes import accumulator
from ..engine import trace
from ..engine.tensor import Tensor
from .module import Module, parameter

# --- functions --------------------------------------------------------------------------------------------------------


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the last dimensions, times weight, plus bias (Ba et al., arXiv 1607.06450)."""
    shape = tuple(normalized_shape)
    _check_ending("layer_norm", x, shape)
    y = x.cast(accumulator(x.dtype)).layernorm(axis=tuple(range(-len(shape), 0)), eps=eps)
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias).cast(x.dtype)


def rms_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Optional[Tensor] = None, eps: Optional[float] = None
) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last dimensions, times weight (Zhang and Sennrich, arXiv 1910.07467).

    Without `eps` it is the distance from 1 to the next number of the dtype in which it is computed.
    """
    shape = tuple(normalized_shape)
    _check_ending("rms_norm", x, shape)
    wide = x.cast(accumulator(x.dtype))
    eps = float(np.finfo(wide.dtype).eps) if eps is None else eps
    y = wide * (wide.square().mean(tuple(range(-len(shape), 0)), keepdim=True) + eps).rsqrt()
    return (y if weight is None else y * weight).cast(x.dtype)


def batch_norm(
    x: Tensor,
    running_mean: Optional[Tensor],
    running_var: Optional[Tensor],
    weight: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    training: bool = False,
    momentum: Union[float, Tensor] = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) for each channel of (N, C, ...), times weight, plus bias (arXiv 1502.03167).

    While `training`, mean and variance are those of x, and the running ones, if there are any, come nearer to them by
    the share `momentum` (to the unbiased variance); otherwise the running ones are taken. Raises ValueError for a
    channel with one value while training.
    """
    if x.ndim < 2:
        raise ValueError(f"batch_norm: input must be (N, C, ...), not {x.shape}")
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: without training it needs running_mean and running_var")
        return _standardised(x, running_mean, running_var, weight, bias, eps)
    wide, axes = x.cast(accumulator(x.dtype)), (0, *range(2, x.ndim))
    each = math.prod(x.shape[a] for a in axes)
    if each == 1:
        raise ValueError(f"batch_norm: needs more than one value for each channel while training, got {x.shape}")
    if each and running_mean is not None and running_var is not None:
        variance, mean = wide.detach().var_mean(axes)
        _approach(running_mean, mean, momentum)
        _approach(running_var, variance, momentum)
    return _affine(wide.layernorm(axes, eps), weight, bias).cast(x.dtype)


def instance_norm(
    x: Tensor,
    running_mean: Optional[Tensor] = None,
    running_var: Optional[Tensor] = None,
    weight: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As batch_norm, over (...) of each channel of each instance of (N, C, ...) (Ulyanov et al., arXiv 1607.08022).

    With `use_input_stats` the running statistics come nearer to the mean over N of those of the instances.
    """
    if x.ndim < 3:
        raise ValueError(f"instance_norm: input must be (N, C, ...), not {x.shape}")
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ValueError("instance_norm: without use_input_stats it needs running_mean and running_var")
        return _standardised(x, running_mean, running_var, weight, bias, eps)
    wide, axes = x.cast(accumulator(x.dtype)), tuple(range(2, x.ndim))
    if math.prod(x.shape[2:]) == 1:
        raise ValueError(f"instance_norm: needs more than one value for each channel and instance, got {x.shape}")
    if running_mean is not None and running_var is not None:
        variance, mean = wide.detach().var_mean(axes)
        _approach(running_mean, mean.mean(0), momentum)
        _approach(running_var, variance.mean(0), momentum)
    return _affine(wide.layernorm(axes, eps), weight, bias).cast(x.dtype)


def group_norm(
    x: Tensor, num_groups: int, weight: Optional[Tensor] = None, bias: Optional[Tensor] = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(var + eps) over each group of channels of (N, C, ...), times weight, plus bias
    (Wu and He, arXiv 1803.08494)."""
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"group_norm: the channels of {x.shape} do not divide into {num_groups} groups")
    each = math.prod(x.shape[1:]) // num_groups
    rows = x.cast(accumulator(x.dtype)).reshape(x.shape[0], num_groups, each)
    return _affine(rows.layernorm(-1, eps).reshape(x.shape), weight, bias).cast(x.dtype)


def _check_ending(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"{name}: input {x.shape} must end in normalized_shape {shape}")


def _by_channel(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(1, -1, *[1] * (x.ndim - 2))


def _affine(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor]) -> Tensor:
    x = x if weight is None else x * _by_channel(weight, x)
    return x if bias is None else x + _by_channel(bias, x)


def _standardised(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], eps: float
) -> Tensor:
    """With statistics from elsewhere: a factor and a summand for each channel."""
    scale = (variance.cast(accumulator(x.dtype)) + eps).rsqrt()
    y = (x - _by_channel(mean, x)) * _by_channel(scale, x)
    return _affine(y, weight, bias).cast(x.dtype)


@Tensor.no_grad()
def _approach(running: Tensor, value: Tensor, momentum: Union[float, Tensor]) -> None:
    """Take over a share of a new value. The optimiser's step computes it in passing; else the next call does."""
    running.realize()
    running.assign(running + momentum * (value - running))
    trace.born(running)


# --- layers -----------------------------------------------------------------------------------------------------------


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) over the last dimensions, scaled and shifted (Ba et al., arXiv 1607.06450)."""

    def __init__(
        self,
        normalized_shape: Union[int, Sequence[int]],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Optional[str] = None,
        dtype=None,
    ):
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        affine = elementwise_affine
        self.weight = parameter(*self.normalized_shape, value=1.0, dtype=dtype, device=device) if affine else None
        self.bias = parameter(*self.normalized_shape, dtype=dtype, device=device) if affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class RMSNorm(Module):
    """x / sqrt(mean(x²) + eps) over the last dimensions, scaled (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(
        self,
        normalized_shape: Union[int, Sequence[int]],
        eps: Optional[float] = None,
        elementwise_affine: bool = True,
        device: Optional[str] = None,
        dtype=None,
    ):
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        affine = elementwise_affine
        self.weight = parameter(*self.normalized_shape, value=1.0, dtype=dtype, device=device) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class GroupNorm(Module):
    """Normalises groups of channels of (N, C, ...), scaled and shifted by channel (Wu and He, arXiv 1803.08494)."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Optional[str] = None,
        dtype=None,
    ):
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = parameter(num_channels, value=1.0, dtype=dtype, device=device) if affine else None
        self.bias = parameter(num_channels, dtype=dtype, device=device) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"GroupNorm: input must be (N, {self.num_channels}, ...), not {x.shape}")
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.weight is not None}"


class _ChannelNorm(Module):
    """What BatchNorm and InstanceNorm share: scale and shift by channel, and running statistics."""

    buffer_names = ("running_mean", "running_var", "num_batches_tracked")
    dimensions: Optional[tuple[int, ...]] = None  # that an input may have; None: any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: Optional[float] = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Optional[str] = None,
        dtype=None,
    ):
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = parameter(num_features, value=1.0, dtype=dtype, device=device) if affine else None
        self.bias = parameter(num_features, dtype=dtype, device=device) if affine else None
        self.running_mean: Optional[Tensor] = None
        self.running_var: Optional[Tensor] = None
        self.num_batches_tracked: Optional[Tensor] = None
        if track_running_stats:
            self.running_mean = parameter(num_features, dtype=dtype, device=device).requires_grad_(False)
            self.running_var = parameter(num_features, value=1.0, dtype=dtype, device=device).requires_grad_(False)
            self.num_batches_tracked = Tensor(np.zeros((), np.int64), device=device)

    def _check(self, x: Tensor, channels: int) -> None:
        name = type(self).__name__
        if self.dimensions is not None and x.ndim not in self.dimensions:
            raise ValueError(
                f"{name}: input must have {' or '.join(map(str, self.dimensions))} dimensions, not {x.shape}"
            )
        if x.shape[channels] != self.num_features:
            raise ValueError(f"{name}: input {x.shape} must have {self.num_features} channels along axis {channels}")

    def _counted(self) -> Union[float, Tensor]:
        """The share of a new batch in the running statistics, once this one is counted."""
        if self.num_batches_tracked is None:
            return 0.0
        with Tensor.no_grad():
            self.num_batches_tracked.realize()
            self.num_batches_tracked.assign(self.num_batches_tracked + 1)
        trace.born(self.num_batches_tracked)
        return 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm(_ChannelNorm):
    """Normalises each channel of (N, C, ...) over all else, scaled and shifted (Ioffe and Szegedy, arXiv 1502.03167).

    While training with the batch's mean and variance, which the running ones follow: running += momentum (batch's -
    running), or their plain average for momentum None. In eval mode with the running ones, or the batch's where there
    are none (track_running_stats=False).
    """

    def forward(self, x: Tensor) -> Tensor:
        self._check(x, 1)
        if self.training:
            share = self._counted()
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, share, self.eps)
        own = self.running_mean is None
        return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, own, 0.0, self.eps)


class BatchNorm1d(BatchNorm):
    """BatchNorm of (N, C) or (N, C, L)."""

    dimensions = (2, 3)


class BatchNorm2d(BatchNorm):
    """BatchNorm of (N, C, H, W)."""

    dimensions = (4,)


class BatchNorm3d(BatchNorm):
    """BatchNorm of (N, C, D, H, W)."""

    dimensions = (5,)


class InstanceNorm(_ChannelNorm):
    """Normalises each channel of each instance of (N, C, ...) by itself (Ulyanov et al., arXiv 1607.08022).

    With `track_running_stats` running statistics follow while training, and are what eval mode takes.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Optional[str] = None,
        dtype=None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        single = self.dimensions is not None and x.ndim == self.dimensions[0]
        self._check(x, 0 if single else 1)
        own = self.training or not self.track_running_stats
        y = instance_norm(
            x.unsqueeze(0) if single else x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            own,
            self.momentum or 0.0,
            self.eps,
        )
        return y.squeeze(0) if single else y


class InstanceNorm1d(InstanceNorm):
    """InstanceNorm of (N, C, L) or (C, L)."""

    dimensions = (2, 3)


class InstanceNorm2d(InstanceNorm):
    """InstanceNorm of (N, C, H, W) or (C, H, W)."""

    dimensions = (3, 4)


class InstanceNorm3d(InstanceNorm):
    """InstanceNorm of (N, C, D, H, W) or (C, D, H, W)."""

    dimensions = (4, 5)
