"""Conditions between numbers: what a kernel computes with bools that it neither reads nor writes."""

from __future__ import annotations

import torch

from .entry import Entry

CONDITIONS = (
    lambda p, q: p & q,
    lambda p, q: p | q,
    lambda p, q: p ^ q,
    lambda p, q: p + q,
    lambda p, q: p * q,
    lambda p, q: p == q,
    lambda p, q: p < q,
)


def ours(a, b):
    p, q, r = a < 0, b < 0, a < b
    conditions = [*(condition(p, q) for condition in CONDITIONS), p.maximum(q), p.where(q, r)]
    return *(condition.where(a, b) for condition in conditions), (a == b).where(a + 1, b)


def theirs(a, b):
    p, q, r = a < 0, b < 0, a < b
    conditions = [*(condition(p, q) for condition in CONDITIONS), torch.maximum(p, q), torch.where(p, q, r)]
    return *(torch.where(condition, a, b) for condition in conditions), torch.where(a == b, a + 1, b)


ENTRIES = [
    Entry("choices", (), ours, theirs, operands=2, dtypes=("float32", "int32", "float64"), derivatives=0),
]
