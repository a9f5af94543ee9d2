"""The keys and values of the tokens read so far, written in place, so that a new token costs one pass over itself.

All rows of a batch write at one place: column c of the cache holds the token number c of each row, the shorter prompts
being padded on the left. Where attention slides, the columns are a ring a little longer than the window.

Shapes in comments: B rows, T tokens read now, S columns, H heads of keys, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import Any, Optional

import numpy as np

from ..engine.tensor import Tensor
from ..nn.attention import Past


class KVCache:
    """For each layer two Tensors (B * H * S, D) that passes traced by jit write in place: what a head reads of a row of
    the batch lies together.

    Args:
        shape: (layers, heads, channels of a head).
        length: how many columns there must be room for.
        chunk: the most tokens that are read at once.
        window: how many tokens back, itself included, a token sees; all unless given.
        padding: how many columns at the start of each row hold no token, (B) int32; none unless given.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        length: int,
        chunk: int,
        batch: int = 1,
        window: Optional[int] = None,
        padding: Optional[Tensor] = None,
        dtype: Any = None,
        device: Optional[str] = None,
    ):
        layers, heads, channels = shape
        self.window, self.padding = window, padding
        self.ring = window is not None and window + chunk < length
        # In a ring a whole chunk must find room beside the window of its first token.
        self.length = window + chunk if self.ring else -(-length // chunk) * chunk  # type: ignore[operator]
        self.shape = batch, heads, self.length, channels
        zeros = np.zeros((batch * heads * self.length, channels), np.float32)
        self.layers = [tuple(Tensor(zeros, dtype=dtype, device=device) for _ in "kv") for _ in range(layers)]

    def pasts(self, start: Tensor, tokens: int) -> Iterator[Past]:
        """For each layer, what writes keys and values of `tokens` that stand at column `start` (0-d) and after, and
        gives all of them and a mask."""
        steps = Tensor.arange(tokens, dtype="int32", device=start.device)  # (T)
        queries, columns = start + steps, Tensor.arange(self.length, dtype="int32", device=start.device)  # (T), (S)
        here = queries
        if self.ring:  # a column holds the newest token that is written to it
            here = queries % self.length
            last = start + (tokens - 1)
            columns = last - (last - columns) % self.length
        mask = self._visible(queries.unsqueeze(-1), columns)  # (T, S) or (B, 1, T, S)
        heads = Tensor.arange(prod(self.shape[:2]), dtype="int32", device=start.device)
        places = (heads.unsqueeze(-1) * self.length + here).flatten()  # (B * H * T)
        return (partial(self._extend, keys, values, places, mask) for keys, values in self.layers)

    def _visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Which tokens (S) the queries (T, 1) see. Each sees itself at least: even padding must not become NaN, as 0
        times that would reach everybody."""
        mask = keys <= queries  # (T, S)
        if self.window is not None:
            mask = mask & (keys > queries - self.window)
        if self.ring:
            mask = mask & (keys >= 0)
        if self.padding is None:
            return mask
        real = keys >= self.padding.reshape(-1, 1, 1, 1)  # (B, 1, 1, S)
        return mask & (real | (keys == queries))  # (B, 1, T, S)

    def _extend(
        self, keys: Tensor, values: Tensor, places: Tensor, mask: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        for cache, new in ((keys, k), (values, v)):  # (B, H, T, D)
            cache.assign(cache.index_copy(0, places, new.flatten(0, 2).cast(cache.dtype).to(cache.device)))
        return keys.reshape(self.shape).to(k.device), values.reshape(self.shape).to(k.device), mask.to(k.device)

    def reorder(self, rows: Tensor) -> None:
        """Row b becomes what row rows[b] was: (B) integers."""
        for layer in self.layers:
            for cache in layer:
                cache.assign(cache.reshape(self.shape[0], -1).take(rows).reshape(cache.shape))

    def copy_from(self, other: KVCache) -> None:
        """Take over the columns of a shorter cache."""
        for own, theirs in zip(self.layers, other.layers, strict=True):
            for cache, source in zip(own, theirs, strict=True):
                longer = source.reshape(other.shape).pad((0, 0, 0, self.length - other.length))
                cache.assign(longer.reshape(cache.shape)).realize()
