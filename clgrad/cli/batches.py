"""Batches of texts of different lengths: those of about the same length together, in few shapes.

A text goes into the first bucket that is wide enough; a batch holds texts of one bucket, padded to its width, and all
batches have about as many tokens. An epoch is all batches once, in an order drawn for it: so a batch is a function of
(seed, its number), and each of the few shapes is traced and compiled once.

>>> buckets = Buckets([3, 9, 4, 16, 2], batch_size=1, block_size=16, seed=1)
>>> sorted((width, sorted(set(rows.tolist()))) for rows, width in map(buckets.batch, [1, 2, 3]))
[(4, [0, 2, 4]), (12, [1]), (16, [3])]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

EIGHTHS = (2, 3, 4, 6, 8)  # of block_size: the buckets' widths


class Buckets:
    """Row numbers 0 to len(lengths) - 1 in batches of `batch_size` texts of `block_size`, or more that are shorter."""

    def __init__(self, lengths: Sequence[int], *, batch_size: int, block_size: int, seed: int):
        """Every length must be at most `block_size`, and there must be one at least."""
        self.seed = seed
        width_of = np.array(sorted({-(-block_size * part // 8) for part in EIGHTHS}))
        bucket = np.searchsorted(width_of, np.asarray(lengths))
        self.members = [(np.flatnonzero(bucket == i), int(width)) for i, width in enumerate(width_of)]
        self.members = [(rows, width) for rows, width in self.members if len(rows)]
        self.sizes = [max(1, batch_size * block_size // width) for _, width in self.members]
        self.chunks = [
            (i, chunk)
            for i, ((rows, _), size) in enumerate(zip(self.members, self.sizes, strict=True))
            for chunk in range(-(-len(rows) // size))
        ]
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    @property
    def batches(self) -> int:
        """How many an epoch has."""
        return len(self.chunks)

    def _epoch(self, number: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The order of the chunks, and that of the rows of each bucket."""
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number])))
        return generator.permutation(self.batches), [generator.permutation(rows) for rows, _ in self.members]

    def batch(self, number: int) -> tuple[np.ndarray, int]:
        """The rows of batch `number`, counted from 1, and their width. The last of a bucket begins it again."""
        epoch, place = divmod(number - 1, self.batches)
        order, shuffled = self.epoch(epoch)
        bucket, chunk = self.chunks[order[place]]
        size = self.sizes[bucket]
        return shuffled[bucket].take(np.arange(chunk * size, (chunk + 1) * size), mode="wrap"), self.members[bucket][1]

    def once(self) -> Iterator[tuple[np.ndarray, int, int]]:
        """(rows, how many there should be, width): every row once, in order; the last rows of a bucket are fewer."""
        for bucket, chunk in self.chunks:
            size, (rows, width) = self.sizes[bucket], self.members[bucket]
            yield rows[chunk * size : (chunk + 1) * size], size, width


def padded(rows: Sequence[Sequence[int]], count: int, width: int, fill: int) -> np.ndarray:
    """Lists of ids as int32 (count, width), `fill` after their ends and in rows that are missing."""
    array = np.full((count, width), fill, np.int32)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return array
