"""Losses as layers, under torch.nn's names: each is the function of `functional` with its options."""

from __future__ import annotations

from typing import Any, Optional

from ..engine.tensor import Tensor
from . import functional as F
from .module import Module


class _Loss(Module):
    """A function of `functional` of (input, target), with the options that `__init__` sets."""

    function: str
    options: tuple[str, ...] = ("reduction",)

    def _set(self, **options: Any) -> None:
        self.options = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return getattr(F, self.function)(x, target, **{name: getattr(self, name) for name in self.options})


class MSELoss(_Loss):
    """(x - target)²."""

    function = "mse_loss"

    def __init__(self, reduction: str = "mean"):
        self._set(reduction=reduction)


class L1Loss(MSELoss):
    """|x - target|."""

    function = "l1_loss"


class SmoothL1Loss(_Loss):
    """Squares near 0, |x - target| away from it: where they meet is `beta`."""

    function = "smooth_l1_loss"

    def __init__(self, reduction: str = "mean", beta: float = 1.0):
        self._set(reduction=reduction, beta=beta)


class HuberLoss(_Loss):
    """Half a square near 0, delta |x - target| away from it: where they meet is `delta`."""

    function = "huber_loss"

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        self._set(reduction=reduction, delta=delta)


class KLDivLoss(_Loss):
    """Divergence of the target's distribution from the one whose logarithms are the input."""

    function = "kl_div"

    def __init__(self, reduction: str = "mean", log_target: bool = False):
        self._set(reduction=reduction, log_target=log_target)


class CrossEntropyLoss(_Loss):
    """-log softmax(x) at the target's class. Arguments are those of `functional.cross_entropy`."""

    function = "cross_entropy"

    def __init__(
        self,
        weight: Optional[Tensor] = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        self._set(weight=weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)


class NLLLoss(_Loss):
    """-x at the target's class, x being log-probabilities."""

    function = "nll_loss"

    def __init__(self, weight: Optional[Tensor] = None, ignore_index: int = -100, reduction: str = "mean"):
        self._set(weight=weight, ignore_index=ignore_index, reduction=reduction)


class BCELoss(_Loss):
    """Cross-entropy of probabilities x and targets in [0, 1]."""

    function = "binary_cross_entropy"

    def __init__(self, weight: Optional[Tensor] = None, reduction: str = "mean"):
        self._set(weight=weight, reduction=reduction)


class BCEWithLogitsLoss(_Loss):
    """Cross-entropy of the logistic function of x and targets in [0, 1]."""

    function = "binary_cross_entropy_with_logits"

    def __init__(self, weight: Optional[Tensor] = None, reduction: str = "mean", pos_weight: Optional[Tensor] = None):
        self._set(weight=weight, reduction=reduction, pos_weight=pos_weight)
