"""Sampling: permutations, and draws from a row of weights.

All of it is done in integers, or in sums and products of float32 that every device rounds alike, so that the same seed
gives the same sample on each.

>>> from clgrad import Tensor
>>> sorted(Tensor.randperm(4).tolist()), Tensor([0.0, 1.0, 0.0]).multinomial(2, replacement=True).tolist()
([0, 1, 2, 3], [1, 1])
"""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING, Optional

import numpy as np

from ..backends import dtypes
from . import trace
from .creation import ArgumentError, device_name
from .ops import ShapeError
from .random import below, bits, long_bits
from .scan import rank
from .sort import order_of

if TYPE_CHECKING:
    from .tensor import Tensor

TINY = float(np.finfo(np.float32).tiny)
LARGEST_WEIGHT = 40  # the largest weight of a row becomes an integer of so many bits


def randperm(
    cls: type[Tensor], n: int, dtype=None, device: Optional[str] = None, requires_grad: bool = False
) -> Tensor:
    """0 to n - 1 in a random order, int64 unless `dtype` says otherwise. ArgumentError if n < 0."""
    if n < 0:
        raise ArgumentError(f"randperm: n must not be negative, and is {n}")
    words = long_bits(cls, (n,), device_name(device))  # two are equal once in 2^64 pairs
    order = cls._wrap(order_of(words.node)) if n else words
    return _wanting(order.cast(dtype or dtypes.default_int), requires_grad)


def _wanting(x: Tensor, requires_grad: bool) -> Tensor:
    return x.requires_grad_() if requires_grad else x


def multinomial(self: Tensor, num_samples: int = 1, replacement: bool = False) -> Tensor:
    """Positions (int64) drawn with probabilities in proportion to the weights of each row: (n,) or (rows, n).

    The result is (num_samples,) or (rows, num_samples). Without `replacement` no position comes twice; they come as
    drawn one after another. Raises ShapeError for other shapes, and ArgumentError if fewer samples than one are wanted,
    if a weight is negative, infinite or NaN, or if too few are above 0. Under jit the weights are not looked at: where
    they are wrong, so are the samples. With replacement it takes num_samples times n comparisons a row.
    """
    if self.ndim not in (1, 2):
        raise ShapeError(f"multinomial: weights are of shape (n,) or (rows, n), not {self.shape}")
    n = self.shape[-1]
    if not 0 < num_samples <= (num_samples if replacement else n) or not n:
        raise ArgumentError(f"multinomial: {num_samples} samples of {n} weights, {replacement=}, cannot be drawn")
    weights = self.detach().cast(dtypes.float32).reshape(-1, n)
    if trace.active() is None:
        _check(weights, 1 if replacement else num_samples)
    # As good as 0, and devices may take them for 0.
    weights = (weights < TINY).where(0, weights)
    if replacement or num_samples == 1:
        drawn = _with_replacement(weights, num_samples)
    else:
        drawn = _without_replacement(weights, num_samples)
    return drawn.cast(dtypes.default_int).reshape((*self.shape[:-1], num_samples))


def _check(weights: Tensor, least: int) -> None:
    if not weights.numel():
        return
    if not ((weights >= 0) & (weights < inf)).all().item():
        raise ArgumentError("multinomial: a weight is negative, infinite or NaN")
    fewest = (weights > 0).sum(1).min().item()
    if fewest < least:
        raise ArgumentError(f"multinomial: a row has {fewest} weights above 0, and needs {least}")


def _with_replacement(weights: Tensor, count: int) -> Tensor:
    """For each sample, the number of positions of which all weights up to them lie at or below a random point.

    The weights become integers, so that the sums are exact in whatever order they are made.
    """
    exponent = weights.max(1, keepdim=True).bitcast(dtypes.int32) >> 23
    scale = ((2 * 127 + LARGEST_WEIGHT - 1 - exponent).clip(1, 254) << 23).bitcast(dtypes.float32)
    sums = (weights * scale).cast(dtypes.int64).cumsum(1).cast(dtypes.uint64)
    words = long_bits(type(weights), (len(weights), count), weights.device)
    points = below(words, sums[:, -1:].expand(words.shape))
    return (sums.unsqueeze(1) <= points.unsqueeze(2)).sum(2)


def _without_replacement(weights: Tensor, count: int) -> Tensor:
    """The first to happen, where each happens after an exponentially distributed time, at the rate of its weight.

    That is the order in which they would be drawn one after another (Efraimidis and Spirakis, 2006).
    """
    words = bits(type(weights), weights.shape, weights.device)
    chance = (words.cast(dtypes.float32) + 0.5) * 2.0**-32
    chance = (chance < 1).where(chance, 1 - 2.0**-24)
    small = chance < 0.25
    time = small.where(-_log1p(-small.where(chance, 0.25)), -_log(1 - small.where(0.25, chance)))
    score = (weights > 0).where(_log((weights > 0).where(weights, 1)) - _log(time), -inf)
    order = type(weights)._wrap(order_of((~rank(score)).node))
    return order[:, :count]


# A least-squares fit to log(1 + x) / x at Chebyshev points of [1/sqrt(2) - 1, sqrt(2) - 1]: within 2e-7.
_LOG1P = (
    1.0, -0.4999998807907104, 0.3333332240581512, -0.2500161826610565, 0.2000216841697693, -0.1660833358764648,
    0.1417758911848068, -0.1324539184570312, 0.1293306052684784, -0.0765064209699631,
)  # fmt: skip


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x) near 0, by sums and products alone: the same on every device, which its own log would not be."""
    total = x.full_like(_LOG1P[-1])
    for coefficient in _LOG1P[-2::-1]:
        total = total * x + coefficient
    return total * x


def _log(x: Tensor) -> Tensor:
    """The logarithm of normal float32 numbers above 0, as that of 2^k m with m from 1/sqrt(2) to sqrt(2)."""
    number = x.bitcast(dtypes.int32)
    exponent = (number - 0x3F3504F3) >> 23
    return exponent.cast(dtypes.float32) * log(2) + _log1p((number - (exponent << 23)).bitcast(dtypes.float32) - 1)
