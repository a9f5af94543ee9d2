"""Drawing examples of an entry: few kernels, many sizes and values.

On OpenCL what costs is a kernel that has to be built, and its source depends on the operations, the dtypes, the number
of axes and which strides are 0 or 1, but on no size. So an entry gets a few *patterns* (a dtype, a rank, a layout an
operand), and each pattern many examples that differ in sizes, offsets and values. The patterns are dealt, not drawn, so
that every layout and dtype occurs; all else is drawn from a seed that Hypothesis draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from hypothesis.strategies import SearchStrategy

from clgrad import dtypes
from clgrad.testing import Sample

from .entry import Entry, Operand

LAYOUTS = (("permute", "flip", "shrink"), (), ("expand", "pad"), ("scalar",))  # the last: as few axes as there may be
SAME_SIZE = 4  # examples in a row of the same size, with other values
MOST_ELEMENTS = 120
SPECIAL = (np.nan, np.inf, -np.inf, -0.0)
MOST_DTYPES = 6  # of one entry in one run
TRIES = 12  # at drawing operands away from kinks

Draw = Callable[[SearchStrategy], Any]


@dataclass(frozen=True)
class Pattern:
    """What the source of a kernel depends on. `seed` chooses axes: to permute, to expand, to broadcast."""

    dtype: str
    rank: int
    layouts: tuple[tuple[str, ...], ...]
    seed: int
    derivative: bool


@dataclass
class Example:
    pattern: Pattern
    samples: list[Sample]
    seed: int  # of cotangents

    @property
    def features(self) -> frozenset[str]:
        shapes = {sample.shape for sample in self.samples}
        return frozenset().union(*(s.features for s in self.samples), {"broadcast"} if len(shapes) > 1 else ())


def wanted_features(entry: Entry) -> set[str]:
    """What the examples of an entry must contain, as its declarations say."""
    wanted = {"broadcast"} if entry.broadcast else set()
    first = entry.operands[0]
    drawn = [o for o in entry.operands if o.shape is None]
    if drawn and first.max_dims:
        if first.min_size == 0:
            wanted.add("zero-size")
        if first.min_size <= 1:
            wanted.add("one-size")
    for operand in entry.operands:
        rank = first.max_dims if operand.shape is None else _known_rank(operand)
        if rank >= 1:
            wanted |= {"flipped", "strided"}
            if not operand.distinct:
                wanted.add("expanded")
            if _holds_zero(operand):
                wanted.add("padded")
        if rank >= 2:
            wanted.add("permuted")
        names = entry.dtypes if operand.dtype is None else (operand.dtype,)
        if entry.special and any(dtypes.is_float(dtypes.as_dtype(name)) for name in names):
            wanted |= {"nan", "inf", "negative-zero"}
    return wanted


def _known_rank(operand: Operand) -> int:
    """The number of axes that are longer than 1, as far as an operand declares a shape; 0 where a function draws it."""
    return sum(n > 1 for n in operand.shape) if isinstance(operand.shape, tuple) else 0


def _holds_zero(operand: Operand) -> bool:
    """Whether padding with zeros leaves the operand within its range."""
    if operand.distinct or callable(operand.low) or operand.low > 0:
        return False
    return callable(operand.high) or operand.high >= 0


def patterns(entry: Entry, rng: np.random.Generator, values: int, derivatives: int, free: bool) -> list[Pattern]:
    """`values` patterns of value examples, then those of derivatives. With `free` every layout and up to six dtypes.

    Of more dtypes or layouts than patterns some are left out, others in each run.
    """
    count = len(entry.dtypes)
    if free:
        values = max(values, min(count, MOST_DTYPES), len(LAYOUTS))
    offset, shift = int(rng.integers(len(LAYOUTS))), int(rng.integers(count))
    result, first = [], entry.operands[0]
    for i in range(values + (derivatives if entry.derivatives else 0)):
        derivative = i >= values
        number = i + offset if not derivative else int(rng.integers(3))
        layouts = [LAYOUTS[number % 4], *(LAYOUTS[(number + j) % 3] for j in range(1, len(entry.operands)))]
        least = min(first.max_dims, len(layouts[0]) or 1)
        rank = int(rng.integers(max(first.min_dims, least), first.max_dims + 1))
        if layouts[0] == ("scalar",):
            layouts[0], rank = (), first.min_dims
        dtype = (
            "float64" if derivative else entry.dtypes[((i if values >= count else i * count // values) + shift) % count]
        )
        result.append(Pattern(dtype, rank, tuple(layouts), int(rng.integers(1 << 30)), derivative))
    return result


def shape_of(
    operand: Operand, pattern: Pattern, axes: np.random.Generator, vary: np.random.Generator, number: int, free: bool
) -> tuple[int, ...]:
    """The common shape of the examples `number` of a pattern.

    An axis of 0 or 1 changes a kernel's source, and so does padding that leaves one: unless `free`, a pattern always
    has the latter or never, and only what lies contiguously, as one axis, has the former.
    """
    least = max(2 if free or "pad" not in pattern.layouts[0] else 3, operand.min_size)
    sizes = [int(n) for n in vary.integers(least, least + 4, pattern.rank)]
    ones, one = axes.random(pattern.rank) < 0.4, axes.random()
    plain = not pattern.layouts[0]
    if operand.min_size <= 1 and (vary.random() < 0.25 if free else plain and pattern.rank > 1):
        ones = vary.random(pattern.rank) < 0.5 if free else ones | (np.arange(pattern.rank) == int(one * pattern.rank))
        sizes = [1 if single else n for n, single in zip(sizes, ones)]
    if sizes and plain and number % 3 == 2:  # long enough for vectors, and for what remains after them
        sizes = [*(min(n, 2) for n in sizes[:-1]), int(vary.integers(17, 36))]
    if sizes and operand.min_size == 0 and (number == 1 if plain else free and vary.random() < 0.06):
        sizes[vary.integers(len(sizes))] = 0
    while prod(sizes) > MOST_ELEMENTS and max(sizes[:-1], default=0) > least:
        largest = max(range(len(sizes) - 1), key=sizes.__getitem__)
        sizes[largest] -= 1
    return tuple(sizes)


def _part_of(shape: tuple[int, ...], number: int, count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The shape of operand `number` of `count` that broadcast to `shape`: each axis is whole in one at least."""
    keepers = rng.integers(count, size=len(shape))
    kept = rng.random((len(shape), count)) < 0.5
    own = [n if keepers[a] == number or kept[a, number] else 1 for a, n in enumerate(shape)]
    drop = rng.random(count)[number] < 0.5
    while drop and own and own[0] == 1 and shape[0] != 1:
        own, shape = own[1:], shape[1:]
    return tuple(own)


def laid_out(
    shape: tuple[int, ...], ops: tuple[str, ...], axes: np.random.Generator, vary: np.random.Generator, free: bool
):
    """(shape of a base, steps that lead from it to `shape`): `axes` chooses what a kernel's source depends on."""
    steps: list[tuple[str, Any]] = []
    for op in reversed(ops):
        arg: Any
        if not shape:
            break
        chosen = [a for a in range(len(shape)) if axes.random() < 0.5] or [int(axes.integers(len(shape)))]
        if op == "permute":
            order = axes.permutation(len(shape))
            arg = tuple(int(a) for a in (order[::-1] if (order[:-1] < order[1:]).all() else order))
            shape = tuple(shape[arg.index(a)] for a in range(len(shape)))
        elif op == "flip":
            arg = tuple(chosen)
        elif op == "expand":
            arg, shape = shape, tuple(1 if a in chosen and n else n for a, n in enumerate(shape))
        elif op == "pad":
            sides = (vary if free else axes).integers(0, 3, len(shape))  # both, before, after
            arg = tuple(_padding(n, sides[a], free) if a in chosen else (0, 0) for a, n in enumerate(shape))
            shape = tuple(n - lo - hi for n, (lo, hi) in zip(shape, arg))
        else:  # every second element along one axis, and a part of the others
            axis, odd = chosen[0], int(vary.integers(2))
            whole = (*shape[: axis + 1], 2, *shape[axis + 1 :])
            halved = tuple((odd, odd + 1) if a == axis + 1 else (0, n) for a, n in enumerate(whole))
            steps += [("reshape", shape), ("shrink", halved), ("reshape", whole)]
            shape = tuple(2 * n if a == axis else n for a, n in enumerate(shape))
            low = [int(vary.integers(3)) if a in chosen else 0 for a in range(len(shape))]
            arg = tuple((lo, lo + n) for lo, n in zip(low, shape))
            shape = tuple(n + lo + (a in chosen) for a, (n, lo) in enumerate(zip(shape, low)))
        steps.append((op, arg))
    return shape, tuple(reversed(steps))


def _padding(size: int, side: int, free: bool) -> tuple[int, int]:
    """Widths before and after. Unless `free`, two elements or more stay."""
    if not free:
        return (0, 0) if size < 3 else (0, 1) if side else (1, 0)
    before, after = int(side != 2), int(side != 1)
    return min(before, size), min(after, size - min(before, size))


def finfo(name: str) -> torch.finfo:
    return torch.finfo(getattr(torch, name))


def plain_floats(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float, ties: bool) -> np.ndarray:
    values = rng.uniform(low, high, shape)
    if ties and rng.random() < 0.5:  # quarters are exact in every dtype
        values = np.clip(np.round(values * 4) / 4, low, high)
    return np.asarray(values)


def distinct_values(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float, whole: bool):
    count = prod(shape)
    if whole:
        return rng.permutation(count).reshape(shape) - (count // 2 if low < 0 else 0)
    steps = np.linspace(low, high, max(count, 2))[:count]
    return rng.permutation(steps).reshape(shape)


def fill(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: str,
    operand: Operand,
    bounds: tuple,
    special: bool | str,
    ties: bool,
) -> np.ndarray:
    """An array for `operand`, awkward values among them where `special` asks for them."""
    target, (low, high) = dtypes.as_dtype(dtype), bounds
    if dtypes.is_bool(target):
        return np.asarray(rng.random(shape) < 0.5)
    if dtypes.is_int(target):
        info = np.iinfo(target)
        if operand.distinct:
            return np.asarray(distinct_values(rng, shape, info.min, info.max, True)).astype(target)
        if operand.dtype or operand.bounded:
            least, most = max(int(np.ceil(low)), info.min), min(int(high), info.max)
            return rng.integers(least, most + 1, shape).astype(target) if prod(shape) else np.zeros(shape, target)
        values = rng.integers(max(info.min, -20), 21, shape).astype(target)
        if special is True and rng.random() < 0.6:
            ends = np.array([info.min, info.max, info.min + 1, info.max - 1, 0, 1], target)
            values = np.where(rng.random(shape) < 0.3, rng.choice(ends, shape), values)
        return np.asarray(values, target)
    if operand.distinct:
        values = distinct_values(rng, shape, low, high, False)
    else:
        values = plain_floats(rng, shape, low, high, ties)
    values = values.astype(np.float64)
    if special is True and not operand.distinct and rng.random() < 0.7:
        limits = finfo(dtype)
        ends = np.array([*SPECIAL, 0.0, 1.0, -1.0, limits.max, -limits.max, limits.tiny, limits.eps])
        wide = rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.uniform(np.log2(limits.tiny), np.log2(limits.max) - 1, shape)
        kind = rng.random(shape)
        values = np.where(kind < 0.3, rng.choice(ends, shape), np.where(kind < 0.5, wide, values))
    elif special and values.size and rng.random() < 0.6:
        some = rng.choice(SPECIAL, min(int(rng.integers(1, 4)), values.size), replace=False)
        values = np.array(values)
        values.ravel()[rng.choice(values.size, len(some), replace=False)] = some
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(target)


@dataclass(frozen=True)
class Place:
    """Where an operand lies: the shape and dtype of its base, the steps to what is read, and the range of values."""

    operand: Operand
    base: tuple[int, ...]
    dtype: str
    steps: tuple[tuple[str, Any], ...]
    bounds: tuple[Any, Any]


def places(entry: Entry, pattern: Pattern, draw: Draw, vary: np.random.Generator, number: int, free: bool, tame: bool):
    """Places for the operands of one pattern. `tame`: where no value is repeated and no zero is put in."""
    axes = np.random.default_rng(pattern.seed)
    common = shape_of(entry.operands[0], pattern, axes, vary, number, free)
    found: list[Place] = []
    first = common
    for place, operand in enumerate(entry.operands):
        if isinstance(operand.shape, tuple):
            shape = operand.shape
        elif isinstance(operand.shape, SearchStrategy):
            shape = draw(operand.shape)
        elif operand.shape is not None:
            shape = operand.shape(draw, first)
        elif entry.broadcast:
            shape = _part_of(common, place, len(entry.operands), np.random.default_rng(pattern.seed))
        else:
            shape = common
        if not place:
            first = tuple(shape)
        barred = {"expand", "pad"} if tame else {"expand"} if operand.distinct else set()
        if not _holds_zero(operand):
            barred.add("pad")
        layout = tuple(op for op in pattern.layouts[place] if op not in barred)
        base, steps = laid_out(tuple(shape), layout or ("flip",) * bool(barred), axes, vary, free)
        found.append(Place(operand, base, operand.dtype or pattern.dtype, steps, operand.range(first)))
    return found


def filled(entry: Entry, placed: list[Place], pattern: Pattern, vary: np.random.Generator, ties: bool) -> list[Sample]:
    special = False if pattern.derivative else entry.special
    return [Sample(fill(vary, p.base, p.dtype, p.operand, p.bounds, special, ties), p.steps) for p in placed]


def examples_in_place(
    entry: Entry, pattern: Pattern, draw: Draw, seed: int, number: int, free: bool
) -> Iterator[Example]:
    """Examples of a pattern of one size: a graph of the same structure needs no new schedule."""
    vary = np.random.default_rng(seed)
    kinks = entry.kinks if pattern.derivative else None
    placed = places(entry, pattern, draw, vary, number, free, tame=False)
    for again in range(SAME_SIZE):
        for attempt in range(TRIES):
            if attempt == TRIES // 2:  # zeros put in by padding stay whatever is drawn
                placed = places(entry, pattern, draw, vary, number, free, tame=True)
            samples = filled(entry, placed, pattern, vary, ties=attempt == 0)
            if kinks is None or not np.any(kinks(*(sample.numpy() for sample in samples))):
                break
        else:
            raise AssertionError(f"{entry.name}: {TRIES} draws of operands in a row lie on one of its `kinks`")
        yield Example(pattern, samples, seed + again)


def examples(
    entry: Entry, draw: Draw, seed: int, least: int, values: int, derivatives: int, free: bool
) -> Iterator[list[Example]]:
    """Rounds of at least `least` examples of all patterns, without end; a third is of derivatives if there are any.

    With `free`, all that changes a kernel's source varies within a pattern too.
    """
    rng = np.random.default_rng(seed)
    dealt = patterns(entry, rng, values, derivatives, free)
    shares = {True: 0.34, False: 0.66} if entry.derivatives else {True: 0.0, False: 1.0}
    kinds = Counter(pattern.derivative for pattern in dealt)
    counts = [ceil(least * shares[p.derivative] / kinds[p.derivative] / SAME_SIZE) for p in dealt]
    while True:
        yield [
            example
            for pattern, count in zip(dealt, counts)
            for number in range(count)
            for example in examples_in_place(entry, pattern, draw, int(rng.integers(1 << 30)), number, free)
        ]
