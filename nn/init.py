"""Filling a Tensor with its first values, in place. Names, arguments and formulas are torch.nn.init's.

Every function rebinds the Tensor that it is given, records no gradient, and returns it. Random ones draw from
`Tensor.manual_seed`'s stream, which is the same on every device.

>>> from clgrad import Tensor, nn
>>> nn.init.eye_(Tensor.zeros(2, 3)).tolist(), nn.init.calculate_gain("relu") ** 2
([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 2.0000000000000004)
"""

from __future__ import annotations

import math
from typing import Any, Optional

import numpy as np

from ..engine.tensor import Tensor

# --- numbers ----------------------------------------------------------------------------------------------------------


@Tensor.no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    return tensor.assign(Tensor.full(tensor.shape, val, dtype=tensor.dtype, device=tensor.device))


def zeros_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """1 on the diagonal of a matrix, 0 elsewhere. Raises ValueError for what is no matrix."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: needs a matrix, not shape {tensor.shape}")
    rows, columns = tensor.shape
    return _fill(tensor, np.eye(rows, columns))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The weight of a convolution that leaves its input as it is, as many channels as there are, in each group.

    Raises ValueError for a weight that has not three to five dimensions or does not divide into `groups`.
    """
    if tensor.ndim not in (3, 4, 5) or tensor.shape[0] % groups:
        raise ValueError(f"dirac_: needs a weight (out, in, *kernel) with {groups} groups, not shape {tensor.shape}")
    array = np.zeros(tensor.shape)
    each = tensor.shape[0] // groups
    centre = tuple(n // 2 for n in tensor.shape[2:])
    for group in range(groups):
        for channel in range(min(each, tensor.shape[1])):
            array[(group * each + channel, channel, *centre)] = 1.0
    return _fill(tensor, array)


# --- random numbers ---------------------------------------------------------------------------------------------------


@Tensor.no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Values of [a, b)."""
    return tensor.assign(Tensor.uniform(*tensor.shape, low=a, high=b, dtype=tensor.dtype, device=tensor.device))


@Tensor.no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return tensor.assign(Tensor.normal(*tensor.shape, mean=mean, std=std, dtype=tensor.dtype, device=tensor.device))


@Tensor.no_grad()
def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Normal numbers of [a, b]: those of a normal distribution, without the others.

    Their distribution function, inverted at uniform numbers: x = mean + std sqrt(2) erfinv(2u - 1), with u between the
    normal distribution function's values at a and b.
    """
    low, high = (math.erf((edge - mean) / std / math.sqrt(2)) for edge in (a, b))
    u = Tensor.uniform(*tensor.shape, low=low, high=high, device=tensor.device)
    x = mean + std * math.sqrt(2) * _erfinv(u)
    return tensor.assign(x.clip(a, b).cast(tensor.dtype))


def _erfinv(y: Tensor) -> Tensor:
    """The x with erf(x) = y: Winitzki's approximation (2008), then three of Newton's steps."""
    y = y.clip(-1 + 2.0**-24, 1 - 2.0**-24)
    log, a = (1 - y * y).log(), 0.147
    half = 2 / (math.pi * a) + log * 0.5
    x = y.sign() * ((half * half - log / a).sqrt() - half).maximum(0).sqrt()
    for _ in range(3):
        x = x - (x.erf() - y) * (math.sqrt(math.pi) / 2) * (x * x).exp()
    return x


# --- scaled to a weight -----------------------------------------------------------------------------------------------


def fan(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight laid out (out, in, *kernel). Raises ValueError for fewer than two dimensions."""
    if tensor.ndim < 2:
        raise ValueError(
            f"init: a fan needs a weight of two or more dimensions (out, in, ...), not shape {tensor.shape}"
        )
    kernel = math.prod(tensor.shape[2:])
    return tensor.shape[1] * kernel, tensor.shape[0] * kernel


def calculate_gain(nonlinearity: str, param: Optional[float] = None) -> float:
    """By how much weights must be larger for the variance to survive `nonlinearity`; `param` is leaky_relu's slope."""
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1.0 + slope * slope))
    gains = {"tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 3.0 / 4.0}
    linear = ("linear", "sigmoid", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)))
    if nonlinearity not in gains and nonlinearity not in linear:
        raise ValueError(f"calculate_gain: unknown nonlinearity {nonlinearity!r}; it may be {(*gains, *linear)}")
    return gains.get(nonlinearity, 1.0)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"init: mode must be 'fan_in' or 'fan_out', not {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan(tensor)[mode == "fan_out"], 1))


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """U(-b, b) with b = gain sqrt(3 / fan) (He et al., ICCV 2015); `a` is the slope of a leaky ReLU."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """N(0, gain² / fan) (He et al., ICCV 2015); `a` is the slope of a leaky ReLU."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010)."""
    bound = gain * math.sqrt(6.0 / max(sum(fan(tensor)), 1))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """N(0, 2 gain² / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(sum(fan(tensor)), 1)))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """A random matrix with orthonormal rows or columns (whichever are fewer), times `gain` (Saxe et al., 2014).

    More than two dimensions count as rows (the first) and columns (the others). Computed on the host; raises ValueError
    for fewer than two.
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: needs two or more dimensions, not shape {tensor.shape}")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    normal = Tensor.normal(max(rows, columns), min(rows, columns)).numpy().astype(np.float64)
    q, r = np.linalg.qr(normal)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # the sign makes the distribution uniform
    return _fill(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def _fill(tensor: Tensor, array: Any) -> Tensor:
    with Tensor.no_grad():
        return tensor.assign(Tensor(array.astype(tensor.dtype), device=tensor.device))
