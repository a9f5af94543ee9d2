"""Hypothesis strategies for Tensors: shapes, dtypes, axes, indices, and values in every layout.

Each draws little, in well under a millisecond, and shrinks to what is simplest: no axes rather than four, 1 rather than
17, float32 rather than uint8, memory as it lies rather than a view of something.

>>> from hypothesis import find
>>> from clgrad.testing import tensors
>>> find(tensors(special=True), lambda x: "flipped" in x.features)
Sample(np.full((2,), 0.0, "float32"), (('flip', (0,)),))
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from itertools import permutations
from math import prod
from typing import Any, Optional, Union

import numpy as np
from hypothesis import strategies as st

from ..backends import dtypes as all_dtypes
from ..backends.dtypes import DType, as_dtype, is_bool, is_float
from ..engine.device import Device
from . import values
from .sample import Sample, Steps
from .values import integers, pick

Shape = tuple[int, ...]

# The simplest first, and what should be common more than once: Hypothesis prefers the first of any list.
SIZES = (1, 2, 3, 0, 4, 5, 8, 17, 2, 3, 4, 2, 3, 2, 3, 1)
DIMS = (0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 2, 3, 1, 2)
STEPS = (0, 1, 2, 1, 2, 1, 2, 3)
LAYOUTS = ("permute", "flip", "shrink", "stride", "expand", "reshape", "pad", "window")


@cache
def _within(options: tuple[int, ...], low: int, high: int) -> tuple[int, ...]:
    return tuple(n for n in options if low <= n <= high) or (low,)


def _shape(draw, min_dims: int, max_dims: int, min_size: int, max_size: int, max_elements: int) -> Shape:
    dims, options = pick(draw, _within(DIMS, min_dims, max_dims)), _within(SIZES, min_size, max_size)
    result: list[int] = []
    for _ in range(dims):
        n = pick(draw, options)
        result.append(n if n * prod(result) <= max_elements else max(min_size, min(n, 1)))
    return tuple(result)


@st.composite
def shapes(
    draw, min_dims: int = 0, max_dims: int = 4, min_size: int = 0, max_size: int = 17, max_elements: int = 300
) -> Shape:
    """Shapes with ones and zeros in them, of at most `max_elements` elements."""
    return _shape(draw, min_dims, max_dims, min_size, max_size, max_elements)


@st.composite
def broadcastable_shapes(
    draw,
    count: int = 2,
    min_dims: int = 0,
    max_dims: int = 4,
    min_size: int = 0,
    max_size: int = 17,
    max_elements: int = 300,
) -> tuple[Shape, ...]:
    """`count` shapes that broadcast together: axes of some are 1, and leading axes of some are missing."""
    full = _shape(draw, min_dims, max_dims, min_size, max_size, max_elements)
    result: list[Shape] = []
    for number in range(count):
        # One bit an axis. Some shape keeps each axis: the last one that could.
        ones = draw(integers(0, 2 ** len(full) - 1))
        if number == count - 1:
            ones &= ~sum(2**a for a, n in enumerate(full) if n != 1 and all(_lost(full, s, a) for s in result))
        shape = tuple(1 if ones >> a & 1 else n for a, n in enumerate(full))
        missing = next((a for a, n in enumerate(shape) if n != 1), len(shape))
        result.append(shape[max(0, min(missing, len(full) - min_dims) - draw(integers(0, len(full)))) :])
    return tuple(result)


def _lost(full: Shape, shape: Shape, axis: int) -> bool:
    """Whether `shape` has 1 or nothing where `full` has `axis`."""
    at = axis - (len(full) - len(shape))
    return at < 0 or shape[at] != full[axis]


KINDS = {"float": is_float, "int": lambda d: d.kind == "i", "uint": lambda d: d.kind == "u", "bool": is_bool}


@cache
def _dtypes(kinds: tuple[str, ...], device: Optional[str]) -> tuple[DType, ...]:
    first = [all_dtypes.float32, all_dtypes.float64, all_dtypes.int32, all_dtypes.int64, all_dtypes.bool_]
    found = [d for d in dict.fromkeys([*first, *all_dtypes.ALL]) if any(KINDS[kind](d) for kind in kinds)]
    return tuple(d for d in found if device is None or Device[device].supports(d))


@st.composite
def dtypes(draw, *kinds: str, device: Optional[str] = None) -> DType:
    """Element types of the given kinds ("float", "int", "uint", "bool"; all by default) that `device` computes with."""
    return pick(draw, _dtypes(kinds or tuple(KINDS), device))


@st.composite
def axes(draw, shape: Union[int, Sequence[int]], none: bool = True, several: bool = True) -> Any:
    """An argument `axis` for a Tensor of that shape (or number of dimensions): an int, a tuple of different ones, None.

    Some are negative. Without dimensions only None and () are left, or 0 if both are unwanted.
    """
    rank = shape if isinstance(shape, int) else len(shape)
    forms = ["int"] * (rank > 0) + ["None"] * none + ["tuple"] * several
    form = pick(draw, forms) if forms else "zero"
    if form == "int":
        return draw(integers(-rank, rank - 1))
    if form == "tuple":
        chosen = draw(integers(0, 2**rank - 1))
        negative = draw(integers(0, 1)) * rank
        return tuple(a - negative for a in range(rank) if chosen >> a & 1)
    return 0 if form == "zero" else None


# --- layouts ------------------------------------------------------------------------------------------------------


@cache
def _orders(rank: int) -> tuple[tuple[int, ...], ...]:
    return tuple(permutations(range(rank)))


@st.composite
def reshaped(draw, shape: Shape) -> Shape:
    """Another shape of the same size: neighbours merged, sizes split into factors, ones put in."""
    return _reshaped(draw, shape)


def _reshaped(draw, shape: Shape) -> Shape:
    new = list(shape)
    for _ in range(draw(integers(0, 3))):
        choice, at = draw(integers(0, 3)), draw(integers(0, max(len(new) - 1, 0)))
        if choice == 0 and at + 2 <= len(new):
            new[at : at + 2] = [new[at] * new[at + 1]]
        elif choice == 1 and new and new[at]:
            factor = pick(draw, [d for d in range(1, new[at] + 1) if new[at] % d == 0])
            new[at : at + 1] = [factor, new[at] // factor]
        elif choice == 2 and len(new) < 6:
            new.insert(at, 1)
        elif choice == 3 and 1 in new:
            new.remove(1)
    return tuple(new)


def _widths(draw, rank: int, most: int = 2) -> list[tuple[int, int]]:
    """A pair of widths for each axis, from one draw."""
    code, base = draw(integers(0, (most + 1) ** (2 * rank) - 1)), most + 1
    digits = [code // base**i % base for i in range(2 * rank)]
    return list(zip(digits[::2], digits[1::2], strict=True))


def _step_before(draw, op: str, shape: Shape) -> tuple[Shape, Steps]:
    """A shape from which steps of the kind `op` lead to `shape`."""
    rank = len(shape)
    if op == "permute":
        order = pick(draw, _orders(rank)[::-1])
        return tuple(shape[order.index(a)] for a in range(rank)), ((op, order),)
    if op == "flip":
        chosen = 2**rank - 1 - draw(integers(0, max(2**rank - 2, 0)))
        return shape, ((op, tuple(a for a in range(rank) if chosen >> a & 1)),)
    if op == "shrink":
        widths = _widths(draw, rank)
        before = tuple(lo + n + hi for (lo, hi), n in zip(widths, shape, strict=True))
        return before, ((op, tuple((lo, lo + n) for (lo, _), n in zip(widths, shape, strict=True))),)
    if op == "stride":  # every second or third element of an axis, as slices with steps make it
        axis, step, rest = draw(integers(0, max(rank - 1, 0))), draw(integers(2, 3)), draw(integers(0, 1))
        if not rank or not shape[axis]:
            return shape, ()
        n = (shape[axis] - 1) * step + 1 + rest * (step - 1)
        return (*shape[:axis], n, *shape[axis + 1 :]), (("window", (axis, 1, step)), ("reshape", shape))
    if op == "window":  # windows that overlap, along an axis; the last axis is inside them
        axis, step = draw(integers(0, max(rank - 2, 0))), draw(integers(1, 2))
        if rank < 2 or not shape[axis] or not shape[-1]:
            return shape, ()
        n = (shape[axis] - 1) * step + shape[-1]
        return (*shape[:axis], n, *shape[axis + 1 : -1]), ((op, (axis, shape[-1], step)),)
    if op == "expand":
        kept = draw(integers(0, max(2**rank - 2, 0)))
        return tuple(n if kept >> a & 1 else 1 for a, n in enumerate(shape)), ((op, shape),)
    if op == "reshape":
        return _reshaped(draw, shape), ((op, shape),)
    widths = [(lo, hi) if n > lo + hi else (0, 0) for (lo, hi), n in zip(_widths(draw, rank), shape, strict=True)]
    return tuple(n - lo - hi for (lo, hi), n in zip(widths, shape, strict=True)), (("pad", tuple(widths)),)


def _layout(draw, shape: Shape, kinds: Sequence[str]) -> tuple[Shape, Steps]:
    """A few steps of movement that lead to `shape`, and the shape from which they do."""
    steps: Steps = ()
    for _ in range(pick(draw, STEPS) if kinds else 0):
        shape, before = _step_before(draw, pick(draw, kinds), shape)
        steps = before + steps
    return shape, steps


@st.composite
def layouts(draw, shape: Shape, kinds: Sequence[str] = LAYOUTS) -> tuple[Shape, Steps]:
    """(base shape, steps): movement primitives that lead from the base shape to `shape`."""
    return _layout(draw, shape, kinds)


@st.composite
def tensors(
    draw,
    shape: Any = None,
    dtype: Any = "float32",
    *,
    low: float = -3,
    high: float = 3,
    special: bool = False,
    subnormals: bool = False,
    distinct: bool = False,
    layouts: Union[bool, Collection[str]] = True,
) -> Sample:
    """Samples: values in [low, high] in some layout. `shape` and `dtype` may be strategies; `shapes()` by default.

    special     NaN, infinities, -0.0, the ends of the dtype's range and values of any magnitude among them
    subnormals  and numbers below the smallest normal one, which devices may take for zero
    distinct    no two equal (which leaves out layouts that repeat elements)
    layouts     permuted, flipped, cut, strided, expanded, reshaped and padded views, and overlapping windows, composed;
                False for none, or the names of those wanted out of `LAYOUTS`. Padding puts zeros around, so there is
                none unless low <= 0 <= high.
    """
    size = _shape(draw, 0, 4, 0, 17, 300) if shape is None else draw(shape) if _is_strategy(shape) else tuple(shape)
    kind = as_dtype(draw(dtype) if _is_strategy(dtype) else dtype)
    wanted = LAYOUTS if layouts is True else tuple(layouts or ())
    if distinct or not low <= 0 <= high:
        wanted = tuple(op for op in wanted if op != "pad" and not (distinct and op in ("expand", "window")))
    whole, (size, steps) = size, _layout(draw, size, wanted)
    if distinct and not is_float(kind) and prod(size) > high - low + 1:  # more around it than there are numbers
        size, steps = whole, ()
    return Sample(values.array(draw, kind, size, low, high, special, subnormals, distinct), steps)


def _is_strategy(value: Any) -> bool:
    return isinstance(value, st.SearchStrategy)


@st.composite
def operands(
    draw, count: int = 1, broadcast: bool = False, shape: Any = None, max_elements: int = 300, **options
) -> tuple[Sample, ...]:
    """`count` samples of one shape, or of shapes that broadcast together; options as for `tensors`."""
    if broadcast:
        drawn = draw(broadcastable_shapes(count, max_elements=max_elements))
        return tuple(draw(tensors(each, **options)) for each in drawn)
    size = _shape(draw, 0, 4, 0, 17, max_elements) if shape is None else draw(shape) if _is_strategy(shape) else shape
    return tuple(draw(tensors(size, **options)) for _ in range(count))


# --- indices ------------------------------------------------------------------------------------------------------


@st.composite
def indices(draw, shape: Shape, *, arrays: bool = True, masks: bool = True, newaxis: bool = True) -> tuple:
    """Anything that may stand between the brackets of `x[...]` for an x of that shape, as a tuple.

    Integers, slices with bounds beyond the ends and negative steps, `...`, and with the options None (`newaxis`), lists
    and arrays of integers that broadcast together (`arrays`), and one bool array for one or more axes (`masks`).
    """
    kinds = ["slice", "all", "int", "step"] + ["array"] * arrays
    items: list[Any] = []
    together: Shape = _shape(draw, 0, 2, 1, 3, 6) if arrays else ()
    advanced = 0
    axis, stop = 0, len(shape) - draw(integers(0, len(shape)))  # the axes after `stop` are not mentioned
    while axis < stop:
        n, kind = shape[axis], pick(draw, kinds)
        if masks and not advanced and draw(integers(0, 11)) == 11:
            over = shape[axis : axis + 1 + draw(integers(0, stop - axis - 1))]
            items.append(values.array(draw, np.dtype(bool), over))
            kinds = [k for k in kinds if k != "array"]
            advanced, axis = 1, axis + len(over)
            continue
        if kind == "int" and n:
            items.append(draw(integers(-n, n - 1)))
        elif kind == "array" and n:
            own = tuple(1 if draw(integers(0, 3)) == 3 else m for m in together)
            found = values.array(draw, np.dtype(np.int64), own, -n, n - 1)
            items.append(found if draw(integers(0, 1)) or not own else found.tolist())
            advanced += 1
        elif kind == "step":
            items.append(slice(None, None, (-1, 2, -2, 3)[draw(integers(0, 3))]))
        elif kind == "slice":
            lo, hi = draw(integers(-n - 1, n + 1)), draw(integers(-n - 1, n + 1))
            items.append(slice(lo, hi, (None, -1, 2)[draw(integers(0, 2))]))
        else:
            items.append(slice(None))
        axis += 1
    if draw(integers(0, 3)) == 3:  # the axes after `stop` need not be the last: ... takes their place
        at = draw(integers(0, len(items)))
        items.insert(at, Ellipsis)
        tail = sum(i.ndim if isinstance(i, np.ndarray) and i.dtype == bool else 1 for i in items[at + 1 :])
        items[at + 1 :] = _fitted(items[at + 1 :], shape[len(shape) - tail :])
    if newaxis and draw(integers(0, 3)) == 3:
        items.insert(draw(integers(0, len(items))), None)
    return tuple(items)


def _fitted(items: list, shape: Shape) -> list:
    """Index items that were drawn for other axes, made to fit these."""
    result: list[Any] = []
    axis = 0
    for item in items:
        if isinstance(item, np.ndarray) and item.dtype == bool:
            over = shape[axis : axis + item.ndim]
            result.append(np.resize(item, over) if item.size else np.ones(over, bool))
            axis += item.ndim
            continue
        n = shape[axis]
        if not isinstance(item, (slice, int)):
            wrapped = np.mod(item, n) if n else None
            item = slice(None) if wrapped is None else wrapped if isinstance(item, np.ndarray) else wrapped.tolist()
        elif isinstance(item, int):
            item = item % n if n else slice(None)
        result.append(item)
        axis += 1
    return result
