"""What the generated functions call that is not a plain ufunc: reductions, contractions, masked reads, gathers."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..base import Buffer
from ..dtypes import DType, accumulator, is_half
from ..kernel import Custom
from ..packing import Packing, numpy_arrays
from ..view import View
from .functions import FUNCTIONS
from .philox import philox4x32

UNPACKED = 131072  # numbers of a packed weight that are unpacked at once: with their temporaries they fit a cache
SMALL = 65536  # numberings of up to so many elements are kept as constants

# Bytes. Vectors that cross cache lines take twice as long, and NumPy's own allocations are aligned to 16 bytes only.
ALIGNMENT = 64

_scratch: dict[tuple[int, int], np.ndarray] = {}  # by slot and thread


def aligned(nbytes: int) -> np.ndarray:
    """Uninitialised memory that starts at a multiple of ALIGNMENT."""
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes]


def scratch(slot: int, shape: tuple[int, ...], dtype: DType, thread: int = 0) -> np.ndarray:
    """Temporary memory number `slot` of a thread. Every kernel uses the same slots, so they stay in cache."""
    nbytes = prod(shape) * dtype.itemsize
    memory = _scratch.get((slot, thread))
    if memory is None or memory.nbytes < nbytes:
        # Kernels keep what they were bound to, so a slot had better not grow often; pages never touched cost nothing.
        memory = _scratch[slot, thread] = aligned(1 << max(20, (nbytes - 1).bit_length()))
    return memory[:nbytes].view(dtype).reshape(shape)


def flat(buffer: Buffer, dtype: DType) -> np.ndarray:
    return buffer.handle[buffer.offset : buffer.offset + buffer.nbytes].view(dtype)


def _reduce(ufunc: np.ufunc):
    def reduce(x: np.ndarray, axes: tuple[int, ...], out: np.ndarray) -> None:
        if is_half(x.dtype) and ufunc is not np.maximum:  # accumulate in float32, round once
            np.copyto(out, ufunc.reduce(x, axis=axes, keepdims=True, dtype=np.float32), casting="same_kind")
        else:
            ufunc.reduce(x, axis=axes, keepdims=True, dtype=x.dtype, out=out)

    return reduce


def half_matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """a @ b of half precision, through float32, as a device without half arithmetic does."""
    np.copyto(out, np.matmul(a.astype(np.float32), b.astype(np.float32)), casting="same_kind")


def packed_matmul(packing: Packing, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """a @ b of packed columns (bytes, N), unpacked so many at a time that they stay in cache until they are used."""
    blocks = b.T
    step = max(1, UNPACKED // a.shape[1])
    for start in range(0, len(blocks), step):
        part = blocks[start : start + step]
        weight = packing.unpack(part.reshape(len(part), -1, packing.nbytes), numpy_arrays).reshape(len(part), -1)
        np.matmul(a, weight.T, out=out[:, start : start + len(part)])


def custom(operation: Custom, *arrays: np.ndarray) -> None:
    """A function of the user's, of all arrays but the last, which takes the result; halves go through float32."""
    *operands, out = arrays
    wide = [x.astype(accumulator(x.dtype), copy=False).view() for x in operands]
    for x in wide:  # it may be a Tensor's memory, and a function that writes into it would change that Tensor
        x.flags.writeable = False
    result = np.asarray(operation.numpy(*wide))
    expected = np.broadcast_shapes(*(x.shape for x in operands))
    if result.shape != expected:
        raise ValueError(
            f"operation {operation.name!r}: its NumPy function made {result.shape} of operands that broadcast to "
            f"{expected}; it has to work element by element"
        )
    np.copyto(out, result, casting="same_kind")


def sum_product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = sum(a * b) along the last axis, as NumPy has it itself from version 2 on."""
    np.einsum("...i,...i->...", a, b, out=out)


def blas_reads(view: View) -> bool:
    """Whether BLAS takes a matrix so strided as it lies: one axis is the unit step, the other long enough."""
    (rows, columns), (down, right) = view.shape[-2:], view.strides[-2:]
    by_rows = (right == 1 or columns == 1) and (down >= columns or rows == 1)
    by_columns = (down == 1 or rows == 1) and (right >= rows or columns == 1)
    return by_rows or by_columns


def positions(view: View, shape: tuple[int, ...], dtype: DType, start: int = 0) -> np.ndarray:
    """The flat position of every point of `view` in its natural shape, 0 outside its mask."""
    total: Any = np.full((1,) * len(shape), view.offset, np.int64)
    for axis, (size, stride) in enumerate(zip(shape, view.strides, strict=True)):
        if size > 1 or (axis == 0 and start):
            first = start if axis == 0 else 0
            steps = np.arange(first, first + size, dtype=np.int64) * stride
            total = total + steps.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    result = np.broadcast_to(total, shape).astype(dtype)
    if view.mask is not None:
        result[~inside(view, shape, start)] = 0
    return result


def inside(view: View, shape: tuple[int, ...], start: int = 0) -> np.ndarray:
    """Which points of `view` lie inside its mask."""
    result: Any = np.ones((1,) * len(shape), bool)
    for axis, (lo, hi) in enumerate(view.mask or ()):
        first = start if axis == 0 else 0
        index = np.arange(first, first + shape[axis])
        within = (index >= lo) & (index < hi)
        result = result & within.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.broadcast_to(result, shape).copy()


def number(view: View, i: int, j: int, out: np.ndarray) -> None:
    """A block of a numbering."""
    out[...] = positions(view, (j - i, *out.shape[1:]), out.dtype, i)


def load_masked(source: np.ndarray, region: tuple, i: int, j: int, out: np.ndarray) -> None:
    """Rows i to j of a padded value: zeros, and inside `region` the source."""
    out[...] = 0
    (lo, hi), rest = region[0], region[1:]
    first, last = max(lo, i), min(hi, j)
    if first < last and source.size:
        inner = (slice(first - i, last - i), *(slice(a, b) for a, b in rest))
        out[inner] = source[first - lo : last - lo]


def random_bits(key: np.ndarray, counter: np.ndarray, view: View, i: int, j: int, out: np.ndarray) -> None:
    """Words of Philox4x32-10 at the flat positions of rows i to j of `view`."""
    k, c = int(key.reshape(-1)[0]), int(counter.reshape(-1)[0])
    if view.is_contiguous():
        width = prod(out.shape[1:])
        out[...] = philox4x32(k, c, i * width, (j - i) * width).reshape(out.shape)
        return
    where = positions(view, out.shape, np.dtype(np.int64), i)
    low, high = int(where.min()), int(where.max())
    out[...] = philox4x32(k, c, low, high - low + 1)[where - low]
    if view.mask is not None:
        out[~inside(view, out.shape, i)] = 0


def _check_rows(op: str, index: np.ndarray, rows: int) -> None:
    if index.size:
        few = index.reshape(-1).tolist() if index.size <= 16 else (int(index.min()), int(index.max()))
        low, high = min(few), max(few)
        if low < 0 or high >= rows:
            raise IndexError(f"{op}: index {low if low < 0 else high} is out of range for {rows} rows")


def gather(
    table: np.ndarray, view: View, stride: int, rows: int, index: np.ndarray, i: int, j: int, out: np.ndarray
) -> None:
    """out = table[position(view) + index * stride], after a check that every index is a row."""
    _check_rows("gather", index, rows)
    steps, shape = view.strides, out.shape
    if view.mask is None and steps[-1] == 1 and not any(steps[:-1]) and stride == shape[-1] and index.shape[-1] == 1:
        first = view.offset
        block = table[first : first + rows * stride].reshape(rows, stride)
        if index.size == prod(shape[:-1]) == 1:
            np.copyto(out, block[int(index.item())])
            return
        if index.size == prod(shape[:-1]) and out.flags.c_contiguous:
            np.take(block, index.reshape(-1), axis=0, out=out.reshape(-1, stride), mode="clip")
            return
    # Without the mask, which tells rows apart that lie at the same place.
    varies = tuple(n if s else 1 for n, s in zip(shape, steps, strict=True))
    where = positions(view._replace(mask=None), varies, np.dtype(np.int64), i) + index.astype(np.int64) * stride
    if view.mask is not None:
        valid = inside(view, shape, i)
        out[...] = np.where(valid, table[np.where(valid, where, 0)], 0)
    else:
        out[...] = table[where]


def scatter_add(values: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """Row index[i] of `out` gains values[i], in the order of i."""
    rows = len(out)
    _check_rows("scatter_add", index, rows)
    order = np.argsort(index, kind="stable")
    sorted_index = index[order]
    starts = np.flatnonzero(np.concatenate(([True], sorted_index[1:] != sorted_index[:-1])))
    gathered = values[order]
    out[...] = 0
    out[sorted_index[starts]] = np.add.reduceat(gathered, starts, axis=0, dtype=values.dtype)


def scatter_set(values: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """Row index[i] of `out` becomes values[i], in the order of i."""
    rows = index.tolist() if 0 < len(index) <= 16 else [-1]
    first, last, step = rows[0], rows[-1] + 1, rows[1] - rows[0] if len(rows) > 1 else 1
    if first >= 0 and last <= len(out) and step > 0 and rows == list(range(first, last, step)):
        out[first:last:step] = values  # a token's keys and values, a row a head: no more than a copy
        return
    _check_rows("scatter_set", index, len(out))
    out[index] = values  # of an index that occurs again, NumPy keeps the last


def argsort(keys: np.ndarray, run: int, out: np.ndarray) -> None:
    """The positions that sort each run of `run` neighbours in each row of `keys`; equal keys stay in order."""
    length = keys.shape[1]
    for start in range(0, length, run):
        part = slice(start, min(start + run, length))
        np.copyto(out[:, part], np.argsort(keys[:, part], axis=1, kind="stable") + start, casting="same_kind")


NAMES: dict[str, Any] = {
    **{f"{op}_": function for op, function in FUNCTIONS.items()},
    "reduce_sum": _reduce(np.add),
    "reduce_max": _reduce(np.maximum),
    "reduce_prod": _reduce(np.multiply),
    "copyto": np.copyto,
    "broadcast_to": np.broadcast_to,
    "array": np.ascontiguousarray,
    "matmul": np.matmul,
    "half_matmul": half_matmul,
    "packed_matmul": packed_matmul,
    "sum_product": getattr(np, "vecdot", sum_product),
    "number": number,
    "load_masked": load_masked,
    "random_bits": random_bits,
    "gather": gather,
    "scatter_add": scatter_add,
    "scatter_set": scatter_set,
    "argsort": argsort,
}
