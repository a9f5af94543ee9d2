"""Values to draw: small ones that read well, the special ones of a dtype, and many at once from a seed.

Hypothesis shrinks what it draws, one choice after another, and each choice costs some microseconds. So the first few
elements of an array are drawn one by one, out of a table that begins with the simplest value, and the others are made
of these by a drawn seed. A failure that needs few elements ends up with few, and those as simple as they can be.

>>> import numpy as np
>>> table(np.dtype("float32"), -1, 1)[:5].tolist(), special(np.dtype("int8")).tolist()
([0.0, 1.0, -1.0, 0.5, -0.5], [-128, 127, -127, 126])
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any, Optional

import numpy as np
from hypothesis import strategies as st

from ..backends.dtypes import is_bool, is_float

DRAWN = 6  # elements that are drawn one by one
GRID = {8: 8, 4: 8, 2: 4}  # by a float's width: the table's steps in 1


@cache
def integers(low: int, high: int) -> st.SearchStrategy[int]:
    """`st.integers`, built once for each range."""
    return st.integers(low, high)


def pick(draw, options):
    """One of a sequence; what comes first is simpler. (As `st.sampled_from`, built once for each length.)"""
    return options[draw(integers(0, len(options) - 1))]


@cache
def table(dtype: np.dtype, low: float = -3, high: float = 3) -> np.ndarray:
    """Ordinary values of `dtype` in [low, high], the simplest first."""
    if is_bool(dtype):
        return np.array([False, True])
    if not is_float(dtype):
        lowest, highest = _range(dtype)
        low, high = max(int(np.ceil(low)), lowest), min(int(np.floor(high)), highest)
        near = range(max(low, -100), min(high, 100) + 1) or range(low, min(high, low + 100) + 1)
        return np.array(sorted(near, key=lambda v: (abs(v), v < 0)), dtype)
    grid = GRID[dtype.itemsize]
    steps = range(int(np.ceil(max(low, -8) * grid)), int(np.floor(min(high, 8) * grid)) + 1)
    points = [i / grid for i in steps] or [(low + high) / 2]
    denominator = {v: v.as_integer_ratio()[1] for v in points}
    values = np.array(sorted(points, key=lambda v: (denominator[v], abs(v), v < 0)))
    return values.astype(dtype)


def _range(dtype: np.dtype) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _float_info(dtype: np.dtype) -> Any:
    if dtype.kind == "f":
        return np.finfo(dtype)
    import ml_dtypes  # bfloat16 is its dtype, so it is there

    return ml_dtypes.finfo(dtype)


@cache
def special(dtype: np.dtype, subnormals: bool = False) -> np.ndarray:
    """The values of `dtype` that break things: NaN, infinities, -0.0 and the ends of its range."""
    if is_bool(dtype):
        return np.array([False, True])
    if not is_float(dtype):
        low, high = _range(dtype)
        return np.array([v for v in (low, high, low + 1, high - 1) if v], dtype)
    info = _float_info(dtype)
    largest, tiny, eps = float(info.max), float(info.tiny), float(info.eps)
    values = [np.nan, -0.0, np.inf, -np.inf, -0.0, np.nan, largest, -largest, tiny, -tiny, eps, 1 + eps]
    return np.array(values + [tiny / 2, -tiny * eps] * subnormals).astype(dtype)


@cache
def _wide(dtype: np.dtype) -> np.ndarray:
    """Floats of any magnitude that the dtype has."""
    if not is_float(dtype):
        return special(dtype)[:0]
    info, rng = _float_info(dtype), np.random.default_rng(0)
    exponents = np.linspace(np.log2(float(info.tiny)), np.log2(float(info.max)), 24, endpoint=False)
    return (np.exp2(exponents) * rng.uniform(1, 1.25, 24) * rng.choice([-1.0, 1.0], 24)).astype(dtype)


@cache
def _pool(dtype: np.dtype, low: float, high: float, with_special: bool, subnormals: bool) -> np.ndarray:
    """What elements are drawn from: half of it special, if any is wanted."""
    plain = table(dtype, low, high)
    if not with_special or is_bool(dtype):
        return plain
    unusual = np.concatenate([special(dtype, subnormals), _wide(dtype)])
    return np.concatenate([plain, np.resize(unusual, max(len(unusual), len(plain)))])


def array(
    draw,
    dtype: np.dtype,
    shape: tuple[int, ...],
    low: float = -3,
    high: float = 3,
    special: bool = False,
    subnormals: bool = False,
    distinct: bool = False,
    pool: Optional[np.ndarray] = None,
) -> np.ndarray:
    """An array: as many draws for a large one as for a small one, so that shrinking its shape leaves the rest alone."""
    values = _pool(dtype, low, high, special, subnormals) if pool is None else pool
    seed = draw(integers(0, 63))
    few = np.array([values[draw(integers(0, len(values) - 1))] for _ in range(DRAWN)], values.dtype)
    size = prod(shape)
    if size <= DRAWN:
        result = few[:size]
    else:
        rng = np.random.default_rng(seed)
        result = np.concatenate([few, few[rng.integers(0, DRAWN, size - DRAWN)]])
        if seed and is_float(dtype) and pool is None:
            # What repeats is moved a little towards 0, or towards the end of the range that is nearest to it.
            nearest = min(max(low, 0), high)
            with np.errstate(invalid="ignore"):
                moved = nearest + (result[DRAWN:].astype("float64") - nearest) * (
                    rng.integers(32, 65, size - DRAWN) / 64
                )
            result[DRAWN:] = np.where(result[DRAWN:] == 0, result[DRAWN:], moved.astype(dtype))
    if distinct:
        result = _told_apart(result, dtype, low, high)
    return result.reshape(shape).astype(dtype, copy=False)


def _told_apart(values: np.ndarray, dtype: np.dtype, low: float, high: float) -> np.ndarray:
    """The same with each value that came before replaced by the simplest one that is free."""
    seen: set = set()
    free = iter(np.concatenate([table(dtype, low, high), np.linspace(low, high, 4 * len(values) + 64).astype(dtype)]))
    result = []
    for value in values.tolist():
        while value in seen:
            replacement = next(free, None)
            if replacement is None:
                raise ValueError(f"tensors: {len(values)} distinct {dtype} do not fit into [{low}, {high}]")
            value = replacement.item()
        seen.add(value)
        result.append(value)
    return np.array(result, dtype)
