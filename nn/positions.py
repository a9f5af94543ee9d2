"""Where a token stands: what is added to embeddings, turned in queries and keys, or added to scores.

- added to the embeddings (B, T, C): `SinusoidalPositions`, `LearnedPositions`: positions (T) or (B, T) -> (..., T, C);
- turning pairs of channels of queries and keys: `RotaryEmbedding` gives the angles' cosines and sines, `rotate` turns;
- added to the scores (B, H, T, S): `ALiBi`, `RelativePositionBias`: positions of queries (T) and of keys (S), or
  (B, T) and (B, S), -> (..., H, T, S), which is what the float mask of an attention is.

Positions are Tensors of integers; those of a sequence read whole are `Tensor.arange(T, dtype="int32")`.

>>> from clgrad import Tensor, nn
>>> where = Tensor.arange(5, dtype="int32")
>>> nn.SinusoidalPositions(8)(where).shape, nn.ALiBi(4)(where, where).shape
((5, 8), (4, 5, 5))
>>> cos, sin = nn.RotaryEmbedding(8)(where)
>>> rotate(Tensor.ones(2, 4, 5, 8), cos, sin).shape
(2, 4, 5, 8)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from ..engine.ops import ShapeError
from ..engine.tensor import Tensor
from .layers import Embedding
from .module import Module

# --- added to embeddings ----------------------------------------------------------------------------------------------


class SinusoidalPositions(Module):
    """PE(p, 2i) = sin(p / base^(2i/C)), PE(p, 2i+1) = cos of the same (Vaswani et al., arXiv 1706.03762).

    Integers (...) to float32 (..., C). Has no parameters and no longest sequence. Raises ValueError for an odd C.
    """

    def __init__(self, embed_dim: int, base: float = 10000.0):
        _even("SinusoidalPositions", "embed_dim", embed_dim)
        self.embed_dim, self.frequencies = embed_dim, _frequencies(embed_dim, base)

    def forward(self, positions: Tensor) -> Tensor:
        angles = _angles(positions, self.frequencies)  # (..., C/2)
        return Tensor.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}"


class LearnedPositions(Embedding):
    """A learned vector for each position (Gehring et al., arXiv 1705.03122): integers (...) to (..., embed_dim).

    `weight` has `offset` rows before that of position 0 (BART's has two), offset + num_positions in all. Raises
    IndexError for a position outside 0 <= p < num_positions, as the device finds it. `first(count)` gives the vectors
    of positions 0 to count - 1 as a view, (count, embed_dim).
    """

    def __init__(self, num_positions: int, embed_dim: int, offset: int = 0, device: Optional[str] = None, dtype=None):
        super().__init__(offset + num_positions, embed_dim, device=device, dtype=dtype)
        self.offset = offset

    def forward(self, index: Tensor) -> Tensor:
        return super().forward(index + self.offset if self.offset else index)

    def first(self, count: int) -> Tensor:
        return self.weight[self.offset : self.offset + count]


# --- turning queries and keys -----------------------------------------------------------------------------------------


class RotaryEmbedding(Module):
    """Cosines and sines of the angles p base^(-2i/D) that RoPE turns pairs by (Su et al., arXiv 2104.09864).

    Integers (T) to two of float32 (T, D/2); integers (B, T) to two of (B, 1, T, D/2), which broadcast over heads. Both
    are made once for all layers; `rotate` applies them to queries and keys.

    `scaling` stretches the context of a trained model, in the words of Hugging Face's config.json:
    {"rope_type": "linear", "factor": f} divides all frequencies by f; {"rope_type": "llama3", "factor": f,
    "low_freq_factor": a, "high_freq_factor": b, "original_max_position_embeddings": n} divides by f those that turn
    fewer than a times in n tokens, leaves those that turn more than b times, and goes over smoothly between.
    Raises ValueError for an odd D and for any other rope_type.
    """

    def __init__(self, head_dim: int, base: float = 10000.0, scaling: Optional[Mapping[str, Any]] = None):
        _even("RotaryEmbedding", "head_dim", head_dim)
        self.head_dim, self.base = head_dim, base
        self.frequencies = _scaled(_frequencies(head_dim, base), scaling or {})

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        if positions.ndim == 2:
            positions = positions.unsqueeze(1)  # (B, 1, T)
        angles = _angles(positions, self.frequencies)
        return angles.cos(), angles.sin()

    def extra_repr(self) -> str:
        return f"{self.head_dim}, base={self.base}"


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn pair i of x (B, H, T, D) at position t by the angle of cosine cos[..., t, i] and sine sin[..., t, i].

    Pair i is the channels i and i + D/2, as in Hugging Face's Llama, or if `interleaved` 2i and 2i + 1, as in the paper
    and in GGUF files. cos and sin (T, D/2) or (B, 1, T, D/2) come from `RotaryEmbedding`.

    Raises ShapeError where they have not half the channels of x.
    """
    half = x.shape[-1] // 2
    if x.shape[-1] % 2 or cos.shape[-1] != half:
        raise ShapeError(f"rotate: cosines {cos.shape} must end in half of the channels of {x.shape}")
    pairs, axis = ((half, 2), -1) if interleaved else ((2, half), -2)
    a, b = (part.squeeze(axis) for part in x.unflatten(-1, pairs).split(1, axis))  # 2 x (B, H, T, D/2)
    cos, sin = cos.cast(x.dtype), sin.cast(x.dtype)
    return Tensor.stack([a * cos - b * sin, b * cos + a * sin], dim=axis).flatten(-2)


def _scaled(frequencies: np.ndarray, scaling: Mapping[str, Any]) -> np.ndarray:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind != "llama3":
        raise ValueError(f"RotaryEmbedding: unknown rope_type {kind!r}; known: default, linear, llama3")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)  # the share of each that is not slowed down
    return frequencies * (kept + (1 - kept) / scaling["factor"])


# --- added to scores --------------------------------------------------------------------------------------------------


class ALiBi(Module):
    """-slope |query - key| for each head, instead of position embeddings (Press et al., arXiv 2108.12409).

    Positions of queries (..., T) and keys (..., S) to float32 (..., num_heads, T, S). The slopes of H = 2^n heads are
    2^(-8/H), 2^(-16/H), ..., 2^-8; where H is no power of two, those of the next lower one, then every other one of the
    next higher.
    """

    def __init__(self, num_heads: int):
        lower = 2 ** int(math.log2(num_heads))
        slopes = [2.0 ** (-8 * (i + 1) / lower) for i in range(lower)]
        slopes += [2.0 ** (-4 * (2 * i + 1) / lower) for i in range(num_heads - lower)]
        self.num_heads, self.slopes = num_heads, np.array(slopes, np.float32).reshape(-1, 1, 1)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        distance = _relative(queries, keys).abs().cast("float32").unsqueeze(-3)  # (..., 1, T, S)
        return distance * -Tensor(self.slopes, device=queries.device)

    def extra_repr(self) -> str:
        return f"{self.num_heads}"


class RelativePositionBias(Embedding):
    """A learned bias for each head and bucket of distances: T5's (Raffel et al., arXiv 1910.10683).

    Positions of queries (..., T) and keys (..., S) to (..., num_heads, T, S). `weight` is (num_buckets, num_heads), as
    T5's relative_attention_bias. Half of the buckets hold one distance each, the others ever wider ranges up to
    max_distance, the last one all beyond. If `bidirectional`, half of all are for keys before the query and half for
    keys after it; if not, keys after the query count as distance 0.
    """

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        device: Optional[str] = None,
        dtype=None,
    ):
        super().__init__(num_buckets, num_heads, device=device, dtype=dtype)
        self.max_distance, self.bidirectional = max_distance, bidirectional
        self.buckets = num_buckets // 2 if bidirectional else num_buckets  # of one direction
        if self.buckets < 2 or max_distance <= self.buckets // 2:
            raise ValueError(f"RelativePositionBias: {num_buckets} buckets cannot reach max_distance {max_distance}")

    def bucket(self, relative: Tensor) -> Tensor:
        """The bucket of key - query, integers to int32 of the same shape."""
        exact = self.buckets // 2
        distance = relative.abs() if self.bidirectional else -relative.minimum(0)
        # Bucket exact + k holds the distances n with k <= wide log(n / exact) / log(max_distance / exact) < k + 1. The
        # least of them are found in whole numbers, which no device rounds.
        wide, bucket = self.buckets - exact, distance.minimum(exact)
        for k in range(1, wide):
            bound = self.max_distance**k * exact ** (wide - k)  # n^wide reaches it
            least = next(n for n in range(exact, self.max_distance + 1) if n**wide >= bound)
            bucket = bucket + (distance >= least).cast("int32")
        return bucket + (relative > 0).cast("int32") * self.buckets if self.bidirectional else bucket

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:  # type: ignore[override]
        biases = super().forward(self.bucket(_relative(queries, keys)))  # (..., T, S, H)
        return biases.transpose(-1, -2).transpose(-2, -3)


# --- shared -----------------------------------------------------------------------------------------------------------


def _even(layer: str, name: str, size: int) -> None:
    if size % 2:
        raise ValueError(f"{layer}: {name} must be even, for pairs of channels, not {size}")


def _frequencies(dim: int, base: float) -> np.ndarray:
    """base^(-2i/dim) for the dim/2 pairs, in float64."""
    return base ** (-np.arange(0, dim, 2) / dim)


def _angles(positions: Tensor, frequencies: np.ndarray) -> Tensor:
    """(...) integers to float32 (..., pairs)."""
    table = Tensor(frequencies.astype(np.float32), device=positions.device)
    return positions.cast("float32").unsqueeze(-1) * table


def _relative(queries: Tensor, keys: Tensor) -> Tensor:
    """key - query: (..., T) and (..., S) to int32 (..., T, S)."""
    return keys.cast("int32").unsqueeze(-2) - queries.cast("int32").unsqueeze(-1)
