"""Attention on NumPy: blocks of queries of a few heads, whose scores stay in cache.

A block holds the scores of some heads and some rows of queries, against all the keys that those may see. They lie
transposed, (heads, keys, rows), so that the softmax reduces along an outer axis, which ufuncs do a row at a time.

    forward                                  backward
    S = k (scale q)^T                        P = exp([k 1] [scale q  -logsumexp]^T)
    P = exp(S - max over keys)               dS = P * ([v 1] [scale grad  -scale sum(grad output)]^T)
    output = P^T v / (sum over keys)         query = dS^T k, key += dS q, value += P grad

Subtracting a number a row is an added column of a product. Forward nothing is subtracted where no score of the block is
far from 0, which takes one look at its least and largest. Where queries come in several blocks, the last is taken first
on the way back: with `causal` it sees the most keys, and the others add to what it has written.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from math import prod
from typing import Any, Optional

import numpy as np

from ..dtypes import DType, accumulator, is_bool
from ..kernel import Kernel
from .sharing import MOST, share

# Elements of a block of scores; rows of queries of one head in a block, at least (there may be fewer) and, where causal
# rows see fewer keys, at most.
SCORES, LEAST_ROWS, CAUSAL_ROWS = 1 << 17, 32, 32
SHARED = 1 << 21  # scores from which on several threads compute them, in blocks twice as large and as high
NEAR = 30.0  # exp(30) and exp(-30) leave sums of products ample room in float32

Block = tuple[Any, ...]  # an index of the batch axes
Ranges = list[tuple[int, int]]


_memory = threading.local()


def run(kernel: Kernel, arrays: dict[str, np.ndarray], results: dict[str, np.ndarray]) -> None:
    """Fill `results` from the operands, both by name, as (*batch, rows, columns) arrays strided as they lie."""
    attention = kernel.attention
    assert attention is not None
    *batch, queries, keys = kernel.shape
    larger = 2 if prod(kernel.shape) >= SHARED else 1
    rows = min(queries, max(LEAST_ROWS, larger * SCORES // keys))
    if attention.causal:
        rows = min(rows, larger * CAUSAL_ROWS)
    ranges = [(i, min(i + rows, queries)) for i in range(0, queries, rows)]

    def work(block: Block, thread: int) -> None:
        one = _Head(arrays, attention.scale, attention.causal)
        if "grad" in arrays:
            one.backward(block, ranges[::-1], results)
        else:
            for i, j in ranges:
                one.forward(block, i, j, results)

    pieces = [partial(work, block) for block in _blocks(tuple(batch), max(1, larger * SCORES // (rows * keys)))]
    share(pieces, MOST if larger > 1 else 1)


def _blocks(batch: tuple[int, ...], heads: int) -> Iterator[Block]:
    """Indices that cut the batch axes into pieces of about `heads` elements."""
    axis, inner = len(batch), 1
    while axis and inner * batch[axis - 1] <= heads:
        axis -= 1
        inner *= batch[axis]
    if not axis:
        yield (...,)
        return
    step = max(1, heads // inner)
    for outer in np.ndindex(*batch[: axis - 1]):
        for i in range(0, batch[axis - 1], step):
            yield (*(slice(o, o + 1) for o in outer), slice(i, i + step), ...)


class _Head:
    """The operands, and what is done to a block of them."""

    def __init__(self, arrays: dict[str, np.ndarray], scale: float, causal: bool):
        self.arrays, self.causal = arrays, causal
        self.dtype: DType = accumulator(arrays["q"].dtype)
        self.scale = self.dtype.type(scale)
        self.slots = 0

    def scratch(self, shape: tuple[int, ...]) -> np.ndarray:
        """Temporary memory, the same for the same step of every block."""
        nbytes = prod(shape) * self.dtype.itemsize
        slots = vars(_memory)
        self.slots += 1
        memory = slots.get(str(self.slots))
        if memory is None or memory.nbytes < nbytes:
            memory = slots[str(self.slots)] = np.empty(nbytes, np.uint8)
        return memory[:nbytes].view(self.dtype).reshape(shape)

    def plain(self, x: np.ndarray) -> np.ndarray:
        """An operand that BLAS takes as it is: halves and strange strides are copied."""
        (rows, columns), (down, right) = x.shape[-2:], (s // x.itemsize for s in x.strides[-2:])
        by_rows, by_columns = right == 1 and down >= columns, down == 1 and right >= rows
        if x.dtype == self.dtype and (by_rows or by_columns):
            return x
        copy = self.scratch(x.shape)
        np.copyto(copy, x)
        return copy

    def with_ones(self, x: np.ndarray) -> np.ndarray:
        """[x 1]"""
        out = self.scratch((*x.shape[:-1], x.shape[-1] + 1))
        np.copyto(out[..., :-1], x)
        out[..., -1] = 1
        return out

    def scaled(self, x: np.ndarray, column: Optional[np.ndarray] = None) -> np.ndarray:
        """[scale x  column]^T, which BLAS multiplies by faster than by what it has to transpose."""
        *lead, rows, width = x.shape
        out = self.scratch((*lead, width + (column is not None), rows))
        np.multiply(x.swapaxes(-1, -2), self.scale, out=out[..., :width, :], dtype=self.dtype)
        if column is not None:
            out[..., width:, :] = column.swapaxes(-1, -2)
        return out

    def seen(self, shape: tuple[int, ...], block: Block, i: int, j: int, yes: float, no: float) -> Iterator[tuple]:
        """(index, array) pairs that say which of the last axes (keys, rows) of scores count, of queries i to j."""
        keys, mask = shape[-2], self.arrays.get("mask")
        if mask is not None and is_bool(mask.dtype):
            part = mask[block][..., i:j, :keys].swapaxes(-1, -2)
            once = part[tuple(slice(None) if s else slice(1) for s in part.strides)]
            yield (...,), np.where(once, self.dtype.type(yes), self.dtype.type(no))
        if self.causal and i < keys:
            before = np.arange(i, keys)[:, None] <= np.arange(i, j)
            yield (..., slice(i, None), slice(None)), np.where(before, self.dtype.type(yes), self.dtype.type(no))

    def hide(self, scores: np.ndarray, block: Block, i: int, j: int) -> None:
        """Apply the mask, and causality, to scores (..., keys, rows) of queries i to j. NaN stays NaN."""
        mask = self.arrays.get("mask")
        if mask is not None and not is_bool(mask.dtype):
            np.add(scores, mask[block][..., i:j, : scores.shape[-2]].swapaxes(-1, -2), out=scores)
        for where, limit in self.seen(scores.shape, block, i, j, np.inf, -np.inf):
            np.minimum(scores[where], limit, out=scores[where])

    def near(self, scores: np.ndarray) -> bool:
        """Whether the exponentials of all scores may be added up as they are."""
        if "mask" in self.arrays and not is_bool(self.arrays["mask"].dtype):
            return False
        return -NEAR < scores.min() and scores.max() < NEAR  # not if one is NaN

    def end(self, j: int) -> int:
        """How many keys the queries before j see."""
        keys = self.arrays["k"].shape[-2]
        return min(keys, j) if self.causal else keys

    def forward(self, block: Block, i: int, j: int, results: dict[str, np.ndarray]) -> None:
        self.slots = 0
        end = self.end(j)
        q, k, v = (self.arrays[name][block] for name in "qkv")
        p = self.scratch((*q.shape[:-2], end, j - i))
        np.matmul(self.plain(k[..., :end, :]), self.scaled(q[..., i:j, :]), out=p)
        top: Any = 0
        if self.near(p):
            np.exp(p, out=p)
            for where, factor in self.seen(p.shape, block, i, j, 1, 0):
                np.multiply(p[where], factor, out=p[where])
        else:
            self.hide(p, block, i, j)
            top = np.maximum.reduce(p, axis=-2, keepdims=True)
            top[top == -np.inf] = 0
            np.subtract(p, top, out=p)
            np.exp(p, out=p)
        total = np.matmul(np.ones((1, end), self.dtype), p)
        total[total == 0] = 1  # nothing seen at all
        if "output" in results:
            out = self.scratch((*q.shape[:-2], j - i, v.shape[-1]))
            np.matmul(p.swapaxes(-1, -2), self.plain(v[..., :end, :]), out=out)
            target = results["output"][block][..., i:j, :]
            np.divide(out, total.swapaxes(-1, -2), out=target, casting="same_kind")
        if "logsumexp" in results:
            np.add(top, np.log(total), out=results["logsumexp"][block][..., i:j, :].swapaxes(-1, -2))

    def backward(self, block: Block, ranges: Ranges, results: dict[str, np.ndarray]) -> None:
        self.slots = 0
        q, k, v, grad, output = (self.arrays[name][block] for name in ("q", "k", "v", "grad", "output"))
        total = self.arrays["logsumexp"][block]
        scores = "query" in results or "key" in results
        keys, plain = self.with_ones(k), self.plain(k)
        values = self.with_ones(v) if scores else v
        sums = {name: self.wide(results[name][block]) for name in ("key", "value") if name in results}
        kept = self.slots
        for number, (i, j) in enumerate(ranges):
            self.slots, end = kept, self.end(j)
            rows_q, rows_grad = q[..., i:j, :], grad[..., i:j, :]
            p = self.scratch((*q.shape[:-2], end, j - i))
            np.matmul(keys[..., :end, :], self.scaled(rows_q, -total[..., i:j, :]), out=p)
            self.hide(p, block, i, j)
            np.exp(p, out=p)
            if "value" in sums:
                self.accumulate(sums["value"], p, rows_grad, first=number == 0)
            if not scores:
                continue
            along = np.einsum("...d,...d->...", rows_grad, output[..., i:j, :], dtype=self.dtype)[..., None]
            d = self.scratch(p.shape)
            np.matmul(values[..., :end, :], self.scaled(rows_grad, -self.scale * along), out=d)
            np.multiply(d, p, out=d)
            if "query" in results:
                target = results["query"][block][..., i:j, :]
                np.matmul(d.swapaxes(-1, -2), plain[..., :end, :], out=target, casting="same_kind")
            if "key" in sums:
                self.accumulate(sums["key"], d, rows_q, first=number == 0)
        for name, value in sums.items():
            if value.dtype != results[name].dtype:
                np.copyto(results[name][block], value, casting="same_kind")

    def wide(self, result: np.ndarray) -> np.ndarray:
        """Where to add up a result: in itself, if it is wide enough."""
        return result if result.dtype == self.dtype else self.scratch(result.shape)

    def accumulate(self, into: np.ndarray, weights: np.ndarray, rows: np.ndarray, first: bool) -> None:
        """into += weights rows; `first` overwrites, with zeros for the keys that no query sees."""
        end = weights.shape[-2]
        rows = self.plain(rows)
        if first:
            into[..., end:, :] = 0
            np.matmul(weights, rows, out=into[..., :end, :])
        else:
            part = self.scratch((*weights.shape[:-1], rows.shape[-1]))
            np.matmul(weights, rows, out=part)
            into[..., :end, :] += part
