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

from .entry import ALL, Entry, Operand
from .sample import Sample

LAYOUTS = (("permute", "flip"), ("shrink",), ("expand",), ("pad",), ())
MOST_ELEMENTS = 120
SPECIAL = (np.nan, np.inf, -np.inf, -0.0)
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
        shapes = {sample.numpy().shape for sample in self.samples}
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
        if entry.special and any(name not in ALL or dtypes.is_float(dtypes.NAMES[name]) for name in names):
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


def patterns(entry: Entry, rng: np.random.Generator, values: int, derivatives: int) -> list[Pattern]:
    """`values` patterns of value examples or one a dtype, if those are more, then those of derivatives."""
    values = max(values, len(entry.dtypes))
    offset, result = int(rng.integers(len(LAYOUTS))), []
    for i in range(values + (derivatives if entry.derivatives else 0)):
        derivative = i >= values
        layouts = tuple(LAYOUTS[(i + offset + 2 * j) % len(LAYOUTS)] for j in range(len(entry.operands)))
        if entry.broadcast and len(entry.operands) == 2 and i % 2:
            layouts = ((), layouts[1])
        first = entry.operands[0]
        least = min(first.max_dims, 2 if layouts[0] else 0)
        rank = int(rng.integers(max(first.min_dims, least), first.max_dims + 1))
        dtype = "float64" if derivative else entry.dtypes[(i + offset) % len(entry.dtypes)]
        result.append(Pattern(dtype, rank, layouts, int(rng.integers(1 << 30)), derivative))
    return result


def shape_of(operand: Operand, pattern: Pattern, rng: np.random.Generator, free: bool) -> tuple[int, ...]:
    """A common shape. Only where `free` are there axes of 1, which change a kernel's source."""
    sizes = [int(n) for n in rng.integers(max(2, operand.min_size), max(2, operand.min_size) + 4, pattern.rank)]
    if sizes and free and rng.random() < 0.25:
        for axis in range(len(sizes)):
            if rng.random() < 0.5:
                sizes[axis] = max(1, operand.min_size)
    if sizes and operand.min_size == 0 and rng.random() < 0.06:
        sizes[rng.integers(len(sizes))] = 0
    while prod(sizes) > MOST_ELEMENTS and max(sizes) > max(2, operand.min_size):
        sizes[sizes.index(max(sizes))] -= 1
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


def laid_out(shape: tuple[int, ...], ops: tuple[str, ...], rng: np.random.Generator, vary: np.random.Generator):
    """(shape of a base, steps that lead from it to `shape`): `rng` chooses axes, `vary` amounts."""
    steps: list[tuple[str, Any]] = []
    for op in reversed(ops):
        arg: Any
        if not shape:
            break
        chosen = [a for a in range(len(shape)) if rng.random() < 0.5] or [int(rng.integers(len(shape)))]
        if op == "permute":
            order = rng.permutation(len(shape))
            if len(shape) > 1 and (order[:-1] < order[1:]).all():
                order = order[::-1]
            arg = tuple(int(a) for a in order)
            shape = tuple(shape[arg.index(a)] for a in range(len(shape)))
        elif op == "flip":
            arg = tuple(chosen)
        elif op == "expand":
            arg, shape = shape, tuple(1 if a in chosen and n else n for a, n in enumerate(shape))
        elif op == "pad":
            widths = {a: _split(int(vary.integers(1, 3)), shape[a], vary) for a in chosen}
            arg = tuple(widths.get(a, (0, 0)) for a in range(len(shape)))
            shape = tuple(n - lo - hi for n, (lo, hi) in zip(shape, arg))
        else:  # every second element along one axis, and a part of the others
            axis = chosen[0]
            doubled = (*shape[: axis + 1], 2, *shape[axis + 1 :])
            odd = int(vary.integers(2))
            steps.append(("reshape", shape))
            steps.append(("shrink", tuple((odd, odd + 1) if a == axis + 1 else (0, n) for a, n in enumerate(doubled))))
            steps.append(("reshape", doubled))
            shape = tuple(2 * n if a == axis else n for a, n in enumerate(shape))
            low = tuple(int(vary.integers(3)) if a in chosen else 0 for a in range(len(shape)))
            arg = tuple((lo, lo + n) for lo, n in zip(low, shape))
            shape = tuple(n + lo + (a in chosen) for a, (n, lo) in enumerate(zip(shape, low)))
        steps.append((op, arg))
    return shape, tuple(reversed(steps))


def _split(width: int, most: int, rng: np.random.Generator) -> tuple[int, int]:
    """A width of padding before and after, together at most `most`."""
    before = int(rng.integers(width + 1))
    return min(before, most), min(width - before, most - min(before, most))


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
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, operand: Operand, bounds: tuple, special: bool | str
) -> np.ndarray:
    """An array for `operand`, awkward values among them where `special` asks for them."""
    target, (low, high) = dtypes.NAMES[dtype], bounds
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
        values = plain_floats(rng, shape, low, high, ties=True)
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


def example(entry: Entry, pattern: Pattern, draw: Draw, seed: int, free: bool) -> Example:
    """One example of a pattern."""
    vary = np.random.default_rng(seed)
    special = False if pattern.derivative else entry.special
    common = shape_of(entry.operands[0], pattern, vary, free or not any(pattern.layouts))
    for attempt in range(TRIES if pattern.derivative and entry.kinks else 1):
        axes = np.random.default_rng(pattern.seed)
        samples: list[Sample] = []
        for number, operand in enumerate(entry.operands):
            first = samples[0].numpy().shape if samples else common
            if isinstance(operand.shape, tuple):
                shape = operand.shape
            elif isinstance(operand.shape, SearchStrategy):
                shape = draw(operand.shape)
            elif operand.shape is not None:
                shape = operand.shape(draw, first)
            elif entry.broadcast:
                own = np.random.default_rng(pattern.seed)
                shape = _part_of(common, number, len(entry.operands), own)
            else:
                shape = common
            layout = pattern.layouts[number]
            repeats = "expand" in layout and operand.distinct
            if repeats or ("pad" in layout and not _holds_zero(operand)) or attempt > 2:
                layout = ("permute", "flip")
            base, steps = laid_out(tuple(shape), layout, axes, vary)
            dtype = operand.dtype or pattern.dtype
            array = fill(vary, base, dtype, operand, operand.range(first), special)
            if attempt and dtypes.is_float(array.dtype) and not operand.distinct:
                array = plain_floats(vary, base, *operand.range(first), ties=False).astype(array.dtype)
            samples.append(Sample(array, steps))
        if not (pattern.derivative and entry.kinks) or not np.any(entry.kinks(*(s.numpy() for s in samples))):
            return Example(pattern, samples, seed)
    raise AssertionError(f"{entry.name}: {TRIES} draws of operands in a row lie on a kink of `kinks`")


def examples(
    entry: Entry, draw: Draw, seed: int, least: int, values: int, derivatives: int, free: bool
) -> Iterator[list[Example]]:
    """Examples for each pattern without end, `least` a round: two fifths of them derivatives, where there are any."""
    rng = np.random.default_rng(seed)
    dealt = patterns(entry, rng, values, derivatives)
    shares = {True: 0.4, False: 0.6} if entry.derivatives else {True: 0.0, False: 1.0}
    kinds = Counter(pattern.derivative for pattern in dealt)
    counts = [ceil(least * shares[p.derivative] / kinds[p.derivative]) for p in dealt]
    while True:
        yield [
            example(entry, pattern, draw, int(rng.integers(1 << 30)), free)
            for pattern, count in zip(dealt, counts)
            for _ in range(count)
        ]
