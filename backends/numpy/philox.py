"""Random bits on NumPy: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), a function from (key, counter) to four words, so any part of a stream can be made by itself and again.

>>> from clgrad.backends.numpy.philox import philox4x32
>>> philox4x32(key=1, counter=0, start=0, count=6)[4:].tolist() == philox4x32(1, 0, 4, 2).tolist()
True
>>> philox4x32(key=1, counter=1, start=0, count=2).tolist() == philox4x32(1, 0, 4, 2).tolist()
True
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, as fractions of 2**32
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_BLOCKS = 8192  # in one go: the temporaries stay in the second-level cache


def philox4x32(key: int, counter: int, start: int, count: int) -> np.ndarray:
    """Words `start` to `start + count` (uint32) of the stream that instruction "random" reads (see `kernel.py`).

    Word w is word w % 4 of the block with counter `counter + w // 4` (modulo 2**64) under the 64-bit `key`.
    """
    first, last = start // 4, -(-(start + count) // 4)
    words = np.empty((max(last - first, 0), 4), np.uint32)
    counters = np.zeros((4, min(len(words), _BLOCKS)), np.uint64)
    for done in range(0, len(words), _BLOCKS):
        part = words[done : done + _BLOCKS]
        position = np.arange(len(part), dtype=np.uint64) + np.uint64((counter + first + done) % 2**64)
        np.bitwise_and(position, _LOW, counters[0, : len(part)])
        np.right_shift(position, _HALF, counters[1, : len(part)])
        philox_blocks(counters[:, : len(part)], key, part)
    return words.reshape(-1)[start - 4 * first :][:count]


def philox_blocks(counters: np.ndarray, key: int, out: np.ndarray) -> None:
    """The four words of each block into `out` (n, 4) uint32, from the counters' words (4, n), kept in uint64.

    A round takes (c0, c1, c2, c3) to (high(M1*c2) ^ c1 ^ k0, low(M1*c2), high(M0*c0) ^ c3 ^ k1, low(M0*c0)), and then
    steps the key. The even words of all blocks are one array (2, n) and so are the odd ones; the odd words stay inside
    the 64-bit products that they are the low halves of.
    """
    even, odd = counters[0::2].copy(), counters[1::2]
    products = np.empty((2, *even.shape), np.uint64)
    for step in range(_ROUNDS):
        np.multiply(even, _MULTIPLIERS, products[step % 2])
        swapped = products[step % 2][::-1]
        keys = [[(word + step * bump) % 2**32] for word, bump in zip((key, key >> 32), _KEY_STEPS)]
        np.right_shift(swapped, _HALF, even)
        np.bitwise_xor(even, odd, even)
        np.bitwise_xor(even, np.array(keys, np.uint64), even)
        np.bitwise_and(even, _LOW, even)
        odd = swapped
    np.copyto(out.T[0::2], even, casting="unsafe")
    np.copyto(out.T[1::2], odd, casting="unsafe")
