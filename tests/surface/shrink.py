"""A smaller example that fails as well: axes cut, operands laid out plainly, values made ones and whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from clgrad.testing import Sample

from .examples import Example

MOST_TRIES = {"NUMPY": 400, "CL": 60}  # each may have kernels to build there


def shrunk(example: Example, fails: Callable[[Example], bool], device: str) -> Example:
    """The smallest example that is found by going from one that fails to a smaller one that does, again and again."""
    tries = MOST_TRIES[device.partition(":")[0]]
    found = True
    while found:
        found = False
        for candidate in _smaller(example):
            tries -= 1
            if tries < 0:
                return example
            if fails(candidate):
                example, found = candidate, True
                break
    return example


def _smaller(example: Example) -> Iterator[Example]:
    size = _size(example)
    for samples in _changed(example.samples):
        candidate = replace(example, samples=samples)
        if _size(candidate) < size:
            yield candidate


def _size(example: Example) -> tuple[float, ...]:
    """Elements and axes first, then layouts, then how odd the values are."""
    shapes = [s.shape for s in example.samples]
    values = [v for s in example.samples for v in s.base.astype(np.float64).ravel()]
    odd = sum(0 if v == 1 else 1 if v == 0 else 2 if np.isfinite(v) and v == np.round(v) else 3 for v in values)
    elements = sum(int(np.prod(shape)) for shape in shapes)
    return elements, sum(map(len, shapes)), sum(len(s.steps) for s in example.samples), odd


def _changed(samples: list[Sample]) -> Iterator[list[Sample]]:
    """All operands with an axis cut or left out, and each with fewer elements, without its layout, of other values."""
    for axis in range(1, max((len(s.shape) for s in samples), default=0) + 1):  # from the last, as shapes broadcast
        for part in (0, 1, 2):
            yield [_cut(s, axis, part) for s in samples]
            for number, sample in enumerate(samples):
                yield [*samples[:number], _cut(sample, axis, part), *samples[number + 1 :]]
    rank = max((len(s.shape) for s in samples), default=0)
    yield [_without_first(s) if len(s.shape) == rank else s for s in samples]
    for number, sample in enumerate(samples):
        for other in (sample.contiguous(), *_simpler(sample)):
            yield [*samples[:number], other, *samples[number + 1 :]]


def _cut(sample: Sample, axis: int, part: int) -> Sample:
    """One element of an axis, its first half, or its second."""
    if axis > len(sample.shape) or sample.shape[-axis] < 2:
        return sample
    size = sample.shape[-axis]
    bounds = [(0, n) for n in sample.shape]
    bounds[-axis] = ((0, 1), (0, size // 2), (size // 2, size))[part]
    return Sample(sample.base, (*sample.steps, ("shrink", tuple(bounds))))


def _without_first(sample: Sample) -> Sample:
    if sample.shape[:1] != (1,):
        return sample
    return Sample(sample.base, (*sample.steps, ("reshape", sample.shape[1:])))


def _simpler(sample: Sample) -> Iterator[Sample]:
    base = sample.base
    yield sample.with_base(np.ones_like(base))
    if base.dtype.kind not in "biu":
        with np.errstate(all="ignore"):
            yield sample.with_base(np.round(base.astype(np.float64)).astype(base.dtype))
    for place in range(min(base.size, 24)):
        for value in (1, 0):
            other = np.array(base)
            other.ravel()[place] = value
            yield sample.with_base(other)
