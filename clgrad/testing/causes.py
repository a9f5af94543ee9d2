"""What a wrong gradient looks like: hypotheses about its cause, each tried on the numbers.

Given the gradients that backward gives and those that differences give, the first hypothesis that turns the right ones
into the wrong ones is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import permutations
from typing import TYPE_CHECKING, Optional

import numpy as np

if TYPE_CHECKING:
    from .gradients import Function

Index = tuple[int, ...]


def likely(
    function: Function,
    weights: Sequence[np.ndarray],
    analytic: Sequence[np.ndarray],
    numeric: Sequence[np.ndarray],
    number: int,
    wrong: Sequence[Index],
) -> str:
    """The likely cause of the wrong gradient of input `number`, wrong in the elements `wrong`; or ""."""
    given, right = analytic[number], numeric[number]
    if not np.isfinite(right).all():
        return _pattern(function.values[number], wrong)
    for cause in _hypotheses(function, weights, analytic, numeric, number):
        if cause:
            return cause
    return _pattern(function.values[number], wrong) if np.isfinite(given).all() else "the gradient is not finite"


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-7 * float(np.abs(b).max(initial=0.0)))


def _hypotheses(function, weights, analytic, numeric, number) -> Iterator[Optional[str]]:
    given, right = analytic[number], numeric[number]
    position = function.floats[number]
    if not given.any():
        yield "zero: no gradient arrives (a detach, a comparison, a cast to integers, or values read with numpy()?)"
    if _same(given, -right):
        yield "the sign: backward gives minus the right gradient"
    for other, (theirs, at) in enumerate(zip(numeric, function.floats)):
        if other != number and not _same(right, theirs) and _same(given, theirs) and _same(analytic[other], right):
            yield f"swapped inputs: the gradients of inputs {position} and {at} are each other's"
    yield _moved(given, right)
    yield _unsummed(function, weights, number, given, right)
    yield _factor(function, weights, number, given, right)
    for other, (value, at) in enumerate(zip(function.values, function.floats)):
        yield _times(given, right, value, f"input {at}" if other != number else f"input {at} itself")
    for other, y in enumerate(function(function.values)):
        yield _times(given, right, y, f"output {other}")


def _moved(given: np.ndarray, right: np.ndarray) -> Optional[str]:
    """Whether the right values stand in the wrong places."""
    rank = given.ndim
    for order in list(permutations(range(rank)))[1:] if rank <= 5 else []:
        if _same(given, right.transpose(order)):
            axes = [a for a, b in enumerate(order) if a != b]
            return f"a transposed axis: the right gradient with axes {axes} in another order, permute{order}"
    for axis in range(rank):
        if _same(given, np.flip(right, axis)):
            return f"a reversed axis: the right gradient flipped along axis {axis}"
        for shift in range(1, min(given.shape[axis], 8)):
            if _same(given, np.roll(right, shift, axis)):
                return f"a shifted axis: the right gradient rolled by {shift} along axis {axis}"
    if rank and given.size > 1 and _same(np.sort(given, None), np.sort(right, None)):
        return "the right values in the wrong places: a reshape where axes should have been permuted?"
    return None


def _unsummed(function: Function, weights, number: int, given: np.ndarray, right: np.ndarray) -> Optional[str]:
    """Whether the gradient is that of one slice of an output along which the input was broadcast."""
    for which, weight in enumerate(weights):
        extra = weight.ndim - given.ndim
        for axis, n in enumerate(weight.shape):
            own = given.shape[axis - extra] if axis >= extra else 1
            if n < 2 or own != 1 or extra < 0:
                continue
            total = (
                f"a missing broadcast sum: input {function.floats[number]} is broadcast along axis {axis} of output "
            )
            total += f"{which}, of size {n}, and the gradient should be summed over it; "
            if _same(given * n, right):
                return total + "backward gives the mean"
            for place in (0, n - 1):
                only = [np.zeros(w.shape) for w in weights]
                at = (slice(None),) * axis + (slice(place, place + 1),)
                only[which][at] = weight[at]
                if _same(given, _differences(function, only, number)):
                    return total + f"backward gives only the part of index {place}"
    return None


def _differences(function: Function, weights, number: int) -> np.ndarray:
    """Plain central differences of sum(weights * outputs) for each element of an input."""
    result = np.zeros(function.values[number].shape)
    for index in np.ndindex(result.shape):
        sides = []
        for h in (2.0**-17, -(2.0**-17)):
            values = list(function.values)
            values[number] = values[number].copy()
            values[number][index] += h
            outputs = function(values)
            sides.append(sum(float((w * y).sum()) for w, y in zip(weights, outputs, strict=True)))
        result[index] = (sides[0] - sides[1]) / 2.0**-16
    return result


def _factor(function: Function, weights, number: int, given: np.ndarray, right: np.ndarray) -> Optional[str]:
    norm = float((right * right).sum())
    factor = float((given * right).sum()) / norm if norm else 0.0
    if not factor or not _same(given, factor * right):
        return None
    fraction = Fraction(factor).limit_denominator(64)
    exact = abs(float(fraction) - factor) < 1e-6 * abs(factor)
    times = "twice" if fraction == 2 else f"{fraction if exact else f'{factor:.6g}'} {'times' if factor > 1 else 'of'}"
    result = f"a constant factor: backward gives {times} the right gradient"
    size = fraction if fraction > 1 else 1 / fraction if fraction > 0 else Fraction(0)
    named = [(f"input {p}", v.shape) for p, v in zip(function.floats, function.values)]
    named += [(f"output {i}", w.shape) for i, w in enumerate(weights)]
    places = [f"axis {a} of {what}" for what, shape in named for a, n in enumerate(shape) if n == size and n > 1]
    if exact and places:
        result += f" ({size} is the size of {places[0]})"
    return result + ("; is something counted twice?" if fraction == 2 else "")


def _times(given: np.ndarray, right: np.ndarray, other: np.ndarray, name: str) -> Optional[str]:
    """Whether multiplying or dividing by some value of the computation makes it right."""
    try:
        values = np.broadcast_to(other, given.shape)
    except ValueError:
        return None
    if values.size < 2 or not np.isfinite(values).all():
        return None
    if _same(given * values, right):
        return f"a missing factor: it is right when multiplied with {name}"
    if _same(given, right * values):
        return f"a factor too many: it is right when divided by {name}"
    return None


def _pattern(value: np.ndarray, wrong: Sequence[Index]) -> str:
    """Where the wrong elements are, if that says something."""
    if len(wrong) == value.size or not wrong:
        return ""
    for axis, n in enumerate(value.shape):
        places = {i[axis] for i in wrong}
        if len(places) == 1 and len(wrong) == value.size // n and n > 2 and (value.ndim > 1 or places <= {0, n - 1}):
            return f"a boundary: it is wrong at index {places.pop()} of axis {axis}, and only there"
    mask = np.zeros(value.shape, bool)
    mask[tuple(np.array(wrong).T)] = True
    for name, part in (("negative", value < 0), ("positive", value > 0), ("zero", value == 0)):
        if (mask == part).all():
            return f"a branch: it is wrong where the input is {name}, and only there"
    low, high = value[mask].min(), value[mask].max()
    if not ((value >= low) & (value <= high) & ~mask).any():
        return f"a branch: it is wrong where the input is between {low:.4g} and {high:.4g}, and only there"
    return ""
