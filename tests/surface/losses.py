"""Losses."""

from __future__ import annotations

from hypothesis import strategies as st
from torch.nn import functional as TF

from clgrad.nn import functional as F

from .entry import Entry, Operand

LOGITS = Operand((3, 4))
CLASSES = Operand((3,), dtype="int64", low=0, high=3)
WEIGHT = Operand((4,), low=0.25, constant=True)
IMAGE = Operand(st.sampled_from([(2, 4), (2, 4, 3), (1, 4, 2, 2)]))
PIXELS = Operand(lambda draw, first: first[:1] + first[2:], dtype="int64", low=-1, high=3)


def regression(name, reduction):
    return Entry(
        f"{name} {reduction}",
        f"nn.functional.{name}",
        lambda x, y: getattr(F, name)(x, y, reduction=reduction),
        lambda x, y: getattr(TF, name)(x, y, reduction=reduction),
        operands=2,
        special="mild",
        ulp=16,
        kinks=(lambda x, y: x == y) if name == "l1_loss" else None,
    )


def cross_entropy(function, **options):
    return lambda x, y, *weight: function.cross_entropy(x, y, *weight, **options)


def nll(function, **options):
    return lambda x, y, *weight: function.nll_loss(x, y, *weight, **options)


# fmt: off
ENTRIES = [
    *(Entry(f"cross_entropy {r} {s}", "nn.functional.cross_entropy",
            cross_entropy(F, reduction=r, label_smoothing=s, ignore_index=-1),
            cross_entropy(TF, reduction=r, label_smoothing=s, ignore_index=-1), operands=(IMAGE, PIXELS),
            special=False, ulp=16) for r, s in (("mean", 0.0), ("sum", 0.1), ("none", 0.3))),
    Entry("cross_entropy weights", "nn.functional.cross_entropy", cross_entropy(F, label_smoothing=0.3),
          cross_entropy(TF, label_smoothing=0.3), operands=(LOGITS, CLASSES, WEIGHT), special=False, ulp=16),
    *(Entry(f"nll_loss {r}", "nn.functional.nll_loss", nll(F, reduction=r), nll(TF, reduction=r),
            operands=(LOGITS, CLASSES, WEIGHT), special="mild", ulp=16) for r in ("mean", "sum", "none")),
    *(regression(name, r) for name in ("mse_loss", "l1_loss", "binary_cross_entropy_with_logits")
      for r in ("mean", "sum", "none")),
]
