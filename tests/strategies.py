"""What several test files draw beside the public strategies: movement, and arrays of any floats there are."""

from __future__ import annotations

from math import prod

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clgrad import testing
from clgrad.testing.sample import move as move  # what a movement primitive means, for the tests to import from here
from clgrad.testing.strategies import layouts, reshaped

MOVES = ("reshape", "permute", "expand", "pad", "shrink", "flip", "window")


def shapes(max_dims: int = 4, max_size: int = 300, sizes=None):
    """Shapes with ones and zeros in them, small enough to loop over; or made of `sizes`."""
    if sizes is None:
        return testing.shapes(max_dims=max_dims, max_elements=max_size)
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


def finfo(dtype):
    """The limits of a floating dtype; NumPy does not know bfloat16's."""
    return ml_dtypes.finfo(np.dtype(dtype))


def elements(dtype: np.dtype, special: bool = True):
    """Values of `dtype`: with `special`, the ends of its range, both zeros, infinities and NaN among them."""
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        near = st.integers(max(info.min, -20), 20)
        ends = st.sampled_from([info.min, info.max, info.min + 1, info.max - 1, 0, 1])
        return st.one_of(near, ends) if special else near
    info = finfo(dtype)

    def flush(value: float) -> float:
        """Devices may flush subnormals, so none is drawn."""
        return value if value == 0 or not abs(value) < info.tiny else 0.0

    width = 8 * dtype.itemsize if dtype.kind == "f" else 32  # what is no bfloat16 is rounded to one
    plain = st.floats(-8, 8, width=width).map(flush)
    if not special:
        return plain
    extremes = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, info.eps]
    anything = st.floats(width=width).map(flush)
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
    """(base, steps): an array from `pool`, and the movement primitives that lead from it to `shape`."""
    before, steps = draw(layouts(shape))
    return draw(pooled(dtype, before, pool)), steps
