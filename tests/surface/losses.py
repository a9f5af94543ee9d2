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

SHARE = Operand(low=0, high=1, constant=True)


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


def near_one(x, y):
    """Where the losses that are squares near 0 and straight further out go from one to the other, and where d is 0."""
    return (abs(abs(x - y) - 1) < 1e-6) | (x == y)


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
    # losses as methods
    Entry("x.cross_entropy", "Tensor.cross_entropy", lambda x, y: x.cross_entropy(y, "sum", 0.1, -1),
          lambda x, y: TF.cross_entropy(x, y, reduction="sum", label_smoothing=0.1, ignore_index=-1),
          operands=(IMAGE, PIXELS), special=False, ulp=16),
    Entry("x.cross_entropy of shares", "Tensor.cross_entropy", lambda x, y: x.cross_entropy(y, "none", 0.2),
          lambda x, y: TF.cross_entropy(x, y, reduction="none", label_smoothing=0.2), special=False, ulp=16,
          operands=(IMAGE, Operand(lambda draw, first: first, low=0, high=1))),
    Entry("sparse_categorical_crossentropy", "Tensor.sparse_categorical_crossentropy",
          lambda x, y: x.sparse_categorical_crossentropy(y, label_smoothing=0.1),
          lambda x, y: TF.cross_entropy(x.flatten(0, 1), y.flatten(), ignore_index=-1, label_smoothing=0.1),
          operands=(Operand((2, 3, 4)), Operand((2, 3), dtype="int64", low=0, high=3)), special=False, ulp=16),
    Entry("x.nll_loss", "Tensor.nll_loss", lambda x, y, w: x.nll_loss(y, w, 1, "sum"),
          lambda x, y, w: TF.nll_loss(x, y, w, ignore_index=1, reduction="sum"), operands=(LOGITS, CLASSES, WEIGHT),
          special="mild", ulp=16),
    Entry("binary_crossentropy", ("Tensor.binary_crossentropy", "nn.functional.binary_cross_entropy"),
          lambda x, y: (x.binary_crossentropy(y), F.binary_cross_entropy(x, y, reduction="none")),
          lambda x, y: (TF.binary_cross_entropy(x, y), TF.binary_cross_entropy(x, y, reduction="none")),
          operands=(Operand(low=0.01, high=0.99), SHARE), special=False, ulp=16),
    Entry("binary_crossentropy_logits", ("Tensor.binary_crossentropy_logits",
                                         "nn.functional.binary_cross_entropy_with_logits"),
          lambda x, y, p: (x.binary_crossentropy_logits(y), x.binary_crossentropy_logits(y, "none", p)),
          lambda x, y, p: (TF.binary_cross_entropy_with_logits(x, y),
                           TF.binary_cross_entropy_with_logits(x, y, reduction="none", pos_weight=p)),
          operands=(Operand(), SHARE, Operand(low=0.5, constant=True)), special=False, ulp=16),
    Entry("smooth_l1_loss", "nn.functional.smooth_l1_loss", lambda x, y: F.smooth_l1_loss(x, y, "none"),
          lambda x, y: TF.smooth_l1_loss(x, y, reduction="none"), operands=2, special="mild", kinks=near_one),
    Entry("huber_loss", "nn.functional.huber_loss", lambda x, y: F.huber_loss(x, y, "sum"),
          lambda x, y: TF.huber_loss(x, y, reduction="sum"), operands=2, special="mild", kinks=near_one, ulp=16),
    Entry("kl_div", "nn.functional.kl_div", lambda x, y: F.kl_div(x, y, "batchmean"),
          lambda x, y: TF.kl_div(x, y, reduction="batchmean"), special=False, ulp=16,
          operands=(Operand(min_dims=1, min_size=1), SHARE)),
    Entry("kl_div of logarithms", "nn.functional.kl_div", lambda x, y: F.kl_div(x, y, "none", log_target=True),
          lambda x, y: TF.kl_div(x, y, reduction="none", log_target=True), operands=2, special=False, ulp=16),
    Entry("binary_crossentropy of certainties", "Tensor.binary_crossentropy",
          lambda x, y: x.round().binary_crossentropy(y, "none"),
          lambda x, y: TF.binary_cross_entropy(x.round(), y, reduction="none"),
          operands=(Operand((3, 4), low=0, high=1), Operand((3, 4), low=0, high=1)), special=False, ulp=16,
          derivatives=0),
    Entry("x.cross_entropy of shares, weighted", "Tensor.cross_entropy", lambda x, y, w: x.cross_entropy(y, weight=w),
          lambda x, y, w: TF.cross_entropy(x, y, w),
          operands=(LOGITS, Operand((3, 4), low=0, high=1), WEIGHT), special=False, ulp=16),
]
