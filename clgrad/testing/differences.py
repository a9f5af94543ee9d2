"""The slope of a function along a line, measured, with what is known about how good the measurement is.

Central differences at h and h/2 are combined (Richardson) to be exact up to the fourth power of h. They are compared
with the expected slope at once; only if they disagree, or if the slopes of the two sides do, h is made smaller, down to
where the rounding of float64 takes over. What is left then is told apart:

- *smooth*: successive steps agree with one another, and the expected slope is wrong
- *kink*: the slopes from the left and from the right differ however small the step; there is no right answer here
- *jump*: they even grow as the step gets smaller
- *edge*: a side is not finite: the function ends here
- *stairs*: large steps agree with the expected slope, small ones see only the rounding inside the function
- *rough*: the values jump about more than float64 rounds, so parts of the function are not computed in float64

>>> slope(lambda t: np.array([(2 + t) ** 3]), 12.0, 1e-6).kind
'agrees'
>>> found = slope(lambda t: np.array([(2 + t) ** 3]), 6.0, 1e-6)
>>> found.kind, round(found.value, 9)
('smooth', 12.0)
>>> slope(lambda t: np.array([abs(t)]), 0.0, 1e-6).kind
'kink'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

EPS = float(np.finfo(np.float64).eps)
FIRST, SMALLER, LEVELS = 2.0**-9, 8, 14  # steps 2^-9, 2^-12, ... until rounding is all that is seen
ROUNDING = 16  # how many roundings an output may carry


class Slope(NamedTuple):
    """`kind` is "agrees" or as above; `error` bounds that of `value`; `sides` are the slopes from left and right."""

    kind: str
    value: float
    error: float
    sides: tuple[float, float]


class _Level(NamedTuple):
    value: float
    bend: float  # how much the slopes of the two sides differ
    noise: float  # what of all this may be rounding
    still: float  # the slope of outputs that do not move, if they do so by one rounding
    straightens: bool  # whether the bend goes with the step
    sides: tuple[float, float]


def slope(along: Callable[[float], np.ndarray], expected: float, tolerance: float) -> Slope:
    """The derivative of `along(t).sum()` at t = 0, where `along` gives the terms of a sum, of size about 1 in t.

    "agrees" if it is `expected` within `tolerance` of the larger of the two, and the rounding of float64.
    """
    with np.errstate(all="ignore"):
        return _slope(along, expected, tolerance)


def _slope(along: Callable[[float], np.ndarray], expected: float, tolerance: float) -> Slope:
    here = along(0.0)
    levels: list[_Level] = []
    known = expected if np.isfinite(expected) else 0.0
    for number in range(LEVELS):
        level = _level(along, here, FIRST / SMALLER**number)
        if level is None:
            continue
        size = max(abs(level.value), abs(known))
        smooth = level.straightens or level.bend <= tolerance * size + level.noise
        # Rounding is granted to the first step, where it is least; smaller ones count as long as it does not matter.
        granted = level.noise + level.still if not levels else 0.0 if level.noise <= tolerance * size else -np.inf
        if smooth and abs(level.value - expected) <= tolerance * size + granted:
            return Slope("agrees", level.value, tolerance * size + max(granted, 0.0), level.sides)
        if levels and level.noise > 1e-4 * size:
            break
        levels.append(level)
        if len(levels) > 3 and not level.straightens and _alike(levels[-3:]):
            break  # a kink, and not merely nearby
    if len(levels) < 2:
        return Slope("edge", np.nan, np.inf, (np.nan, np.nan))
    first, last = levels[0], levels[-1]
    stairs = last.value == 0 != known and first.value != 0
    if stairs or _is_rough(along, FIRST / SMALLER**3):
        coarse = _level(along, here, FIRST * SMALLER)
        if coarse and coarse.straightens and abs(coarse.value - expected) <= tolerance * abs(expected):
            return Slope("agrees", coarse.value, tolerance * abs(expected), coarse.sides)
        return Slope("rough", last.value, np.inf, last.sides)
    if not last.straightens and last.bend > tolerance * max(abs(last.value), abs(known)) + last.noise:
        return Slope("jump" if last.bend > 4 * first.bend else "kink", last.value, np.inf, last.sides)
    differences = [abs(a.value - b.value) for a, b in zip(levels, levels[1:])]
    best = int(np.argmin(differences))
    value, error = levels[best + 1].value, 4 * differences[best] + levels[best + 1].noise
    # Nothing is called wrong that the measurement cannot tell from right. Where rounding inside the function makes
    # stairs of it (1 - tanh(x)**2 for large x), small steps agree on the slope of a stair.
    wrong = abs(value - expected)
    nearest = min(abs(level.value - expected) for level in levels)
    kind = "rough" if error > wrong / 4 else "stairs" if nearest < wrong / 4 else "smooth"
    return Slope(kind, value, error, levels[best + 1].sides)


def _level(along: Callable[[float], np.ndarray], here: np.ndarray, h: float) -> _Level | None:
    """What steps of h and h/2 tell, or None where the function is not finite."""
    far = along(h), along(-h)
    near = along(h / 2), along(-h / 2)
    moved = far[0] != far[1]
    magnitude = sum(float(np.abs(part[moved]).sum()) for part in (*far, here)) / 3
    still = EPS * float((np.abs(here) + np.abs(far[0]))[~moved].sum()) / h  # the square of 1e-150 goes there and back
    pairs = ((far, h), (near, h / 2))
    central = [float((plus - minus).sum()) / (2 * step) for (plus, minus), step in pairs]
    sides = float((here - near[1]).sum()) * 2 / h, float((near[0] - here).sum()) * 2 / h
    bends = [abs(float(((plus - here) - (here - minus)).sum())) / step for (plus, minus), step in pairs]
    value = (4 * central[1] - central[0]) / 3
    if not np.isfinite([value, magnitude, *bends]).all():
        return None
    noise = ROUNDING * EPS * magnitude / h
    return _Level(value, bends[1], noise, still, bends[1] <= 0.6 * bends[0] + noise, sides)


def _alike(levels: list[_Level]) -> bool:
    bends = [level.bend for level in levels]
    values = [level.value for level in levels]
    return max(bends) - min(bends) < 1e-2 * min(bends) and max(values) - min(values) < 1e-2 * min(bends)


def _is_rough(along: Callable[[float], np.ndarray], h: float) -> bool:
    """Whether the values jump about on both sides: what a polynomial of the third degree leaves over is not small."""
    left_over = []
    for side in (h, -h):
        values = np.array([along(side * k / 8) for k in range(2, 9)])
        fourth = np.diff(values, 4, axis=0)
        magnitude = np.abs(values).max(0)
        rough = np.abs(fourth).max(0) > 1e4 * EPS * magnitude
        left_over.append(bool(rough.any()) and np.isfinite(values).all())
    return all(left_over)
