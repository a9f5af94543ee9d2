"""Hypothesis strategies that several test files draw from: shapes, movement, arrays with awkward values."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

MOVES = ("reshape", "permute", "expand", "pad", "shrink", "flip", "window")
SIZES = st.sampled_from([0, 1, 1, 2, 2, 3, 4, 5, 8, 17])


def shapes(max_dims: int = 4, max_size: int = 300, sizes=SIZES):
    """Shapes with ones and zeros in them, small enough to loop over."""
    return st.lists(sizes, max_size=max_dims).map(tuple).filter(lambda shape: prod(shape) <= max_size)


@st.composite
def movement(draw, shape: tuple[int, ...], ops=MOVES, limit=2000):
    """One movement primitive that fits `shape`: (name, argument) as `View.apply` and the graph take them.

    Where there is no axis to see through a window, one that does nothing.
    """
    op = draw(st.sampled_from(ops))
    if op == "reshape":
        return op, draw(reshaped(shape))
    if op == "permute":
        return op, tuple(draw(st.permutations(range(len(shape)))))
    if op == "expand":
        bigger = tuple(draw(st.sampled_from([1, 2, 3])) if n == 1 else n for n in shape)
        return op, bigger if prod(bigger) <= limit else shape
    if op == "pad":
        widths = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape)
        grown = prod(n + before + after for n, (before, after) in zip(shape, widths, strict=True))
        return op, widths if grown <= limit else tuple((0, 0) for _ in shape)
    if op == "shrink":
        bounds = []
        for n in shape:
            lo = draw(st.integers(0, n))
            hi = draw(st.integers(lo, n))
            keep_empty = draw(st.integers(0, 9)) == 0  # parts that hold something tell more
            bounds.append((lo, hi) if lo < hi or keep_empty else (0, n))
        return op, tuple(bounds)
    if op == "window" and shape:
        axis = draw(st.integers(0, len(shape) - 1))
        size, step = draw(st.sampled_from([0, 1, 1, 1, 2, 3])), draw(st.integers(1, 4))
        return op, (axis, min(size, shape[axis]), step) if prod(shape) * size <= limit else (axis, 0, 1)
    return "flip", tuple(a for a in range(len(shape)) if draw(st.booleans()))


@st.composite
def reshaped(draw, shape: tuple[int, ...]):
    """Another shape of the same size: neighbours merged, sizes split into factors, ones put in."""
    new = list(shape)
    for _ in range(draw(st.integers(0, 3))):
        choice = draw(st.sampled_from(["merge", "split", "one", "drop"]))
        if choice == "merge" and len(new) >= 2:
            at = draw(st.integers(0, len(new) - 2))
            new[at : at + 2] = [new[at] * new[at + 1]]
        elif choice == "split" and new:
            at = draw(st.integers(0, len(new) - 1))
            factors = [d for d in range(1, new[at] + 1) if new[at] % d == 0]
            if factors:
                factor = draw(st.sampled_from(factors))
                new[at : at + 1] = [factor, new[at] // factor]
        elif choice == "one" and len(new) < 6:
            new.insert(draw(st.integers(0, len(new))), 1)
        elif choice == "drop" and 1 in new:
            new.remove(1)
    return tuple(new)


def move(array: np.ndarray, op: str, arg) -> np.ndarray:
    """What a movement primitive means, in NumPy."""
    if op == "reshape":
        return array.reshape(arg)
    if op == "permute":
        return array.transpose(arg)
    if op == "expand":
        return np.broadcast_to(array, arg)
    if op == "pad":
        return np.pad(array, arg) if arg else array
    if op == "shrink":
        return array[tuple(slice(lo, hi) for lo, hi in arg)]
    if op == "window":
        axis, size, step = arg
        places = (array.shape[axis] - size) // step + 1
        windows = [array.take(range(i * step, i * step + size), axis) for i in range(places)]
        return np.moveaxis(np.stack(windows, axis), axis + 1, -1)
    return np.flip(array, arg)


def elements(dtype: np.dtype, special: bool = True):
    """Values of `dtype`: with `special`, the ends of its range, both zeros, infinities and NaN among them."""
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        near = st.integers(max(info.min, -20), 20)
        ends = st.sampled_from([info.min, info.max, info.min + 1, info.max - 1, 0, 1])
        return st.one_of(near, ends) if special else near
    info = np.finfo(dtype)

    def flush(value: float) -> float:
        """Devices may flush subnormals, so none is drawn."""
        return value if value == 0 or not abs(value) < info.tiny else 0.0

    plain = st.floats(-8, 8, width=8 * dtype.itemsize).map(flush)
    if not special:
        return plain
    extremes = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, info.eps]
    anything = st.floats(width=8 * dtype.itemsize).map(flush)
    return st.one_of(plain, anything, st.sampled_from([float(v) for v in extremes]))


def arrays(dtype, shape, special: bool = True):
    dtype = np.dtype(dtype)
    return hnp.arrays(dtype, shape, elements=elements(dtype, special), fill=st.nothing())


@st.composite
def pooled(draw, dtype: np.dtype, shape: tuple[int, ...], pool):
    """An array of a few drawn values, mixed by a drawn seed: large arrays cost no more draws than small ones."""
    few = draw(st.lists(pool, min_size=1, max_size=8))
    if len(few) == 1:
        return np.full(shape, few[0], dtype)
    return np.random.default_rng(draw(st.integers(0, 99))).choice(np.array(few, dtype), shape)


@st.composite
def laid_out(draw, dtype: np.dtype, shape: tuple[int, ...], pool):
    """(base, steps): an array from `pool`, and up to two movement primitives that lead from it to `shape`.

    So what is read at `shape` lies permuted, reversed, repeated, cut out of something larger, or has zeros around it.
    """
    steps = []
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        op = draw(st.sampled_from(["permute", "flip", "shrink", "expand", "reshape", "pad"]))
        widths = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 1))) for _ in shape)
        before = shape
        if op == "permute":
            arg = tuple(draw(st.permutations(range(len(shape)))))
            before = tuple(shape[arg.index(a)] for a in range(len(shape)))
        elif op == "flip":
            arg = tuple(a for a in range(len(shape)) if draw(st.booleans()))
        elif op == "shrink":
            before = tuple(lo + n + hi for (lo, hi), n in zip(widths, shape, strict=True))
            arg = tuple((lo, lo + n) for (lo, _), n in zip(widths, shape, strict=True))
        elif op == "expand":
            before, arg = tuple(1 if draw(st.booleans()) else n for n in shape), shape
        elif op == "reshape":
            before, arg = draw(reshaped(shape)), shape
        else:
            arg = tuple((lo, hi) if n >= lo + hi else (0, 0) for (lo, hi), n in zip(widths, shape, strict=True))
            before = tuple(n - lo - hi for (lo, hi), n in zip(arg, shape, strict=True))
        steps.append((op, arg))
        shape = before
    return draw(pooled(dtype, shape, pool)), tuple(reversed(steps))
