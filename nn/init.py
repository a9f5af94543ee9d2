"""Filling a Tensor with its first values, in place. Names, arguments and formulas are torch.nn.init's.

Every function rebinds the Tensor that it is given, records no gradient, and returns it. Random ones draw from
`Tensor.manual_seed`'s stream, which is the same on every device.
"""

from __future__ import annotations

import math

from ..engine.tensor import Tensor


@Tensor.no_grad()
def constant_(tensor: Tensor, value: float) -> Tensor:
    return tensor.assign(Tensor.full(tensor.shape, value, dtype=tensor.dtype, device=tensor.device))


def zeros_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 1.0)


@Tensor.no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Values of [a, b)."""
    return tensor.assign(Tensor.uniform(*tensor.shape, low=a, high=b, dtype=tensor.dtype, device=tensor.device))


@Tensor.no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return tensor.assign(Tensor.normal(*tensor.shape, mean=mean, std=std, dtype=tensor.dtype, device=tensor.device))


def fan(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight laid out (out, in, *kernel). Raises ValueError for fewer than two dimensions."""
    if tensor.ndim < 2:
        raise ValueError(
            f"init: a fan needs a weight of two or more dimensions (out, in, ...), not shape {tensor.shape}"
        )
    kernel = math.prod(tensor.shape[2:])
    return tensor.shape[1] * kernel, tensor.shape[0] * kernel


def kaiming_uniform_(tensor: Tensor, a: float = 0.0) -> Tensor:
    """U(-b, b) with b = sqrt(6 / ((1 + a²) fan_in)) (He et al., ICCV 2015); `a` is the slope of a leaky ReLU."""
    bound = math.sqrt(6.0 / ((1.0 + a * a) * max(fan(tensor)[0], 1)))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0.0) -> Tensor:
    """N(0, 2 / ((1 + a²) fan_in)) (He et al., ICCV 2015)."""
    return normal_(tensor, 0.0, math.sqrt(2.0 / ((1.0 + a * a) * max(fan(tensor)[0], 1))))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010)."""
    bound = gain * math.sqrt(6.0 / max(sum(fan(tensor)), 1))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """N(0, 2 gain² / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(sum(fan(tensor)), 1)))
