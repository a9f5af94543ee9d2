"""Losses of classification: how unlikely the truth is, according to logits, log-probabilities or probabilities.

They have tinygrad's names and arguments, and PyTorch's values. A class is found by comparing its number with that of
every class rather than by a gather, so that softmax, choice and sum are reductions over one row: one kernel, and one
more for the gradient.

>>> from clgrad import Tensor
>>> logits, classes = Tensor([[0.0, 0.0], [0.0, 0.0]]), Tensor([1, 0])
>>> round(logits.cross_entropy(classes).item(), 4), logits.sigmoid().binary_crossentropy(Tensor.ones(2, 2)).shape
(0.6931, ())
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Optional

from ..backends.dtypes import is_bool, is_int
from .composite import composite
from .node import Node, constant, make
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

REDUCTIONS = ("mean", "sum", "none")


def reduced(name: str, loss: Tensor, reduction: str) -> Tensor:
    """The loss of each element, or their mean or sum. Raises ValueError for another word."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def same_shape(name: str, x: Tensor, target: Tensor) -> None:
    """Raises ShapeError unless they have one shape."""
    if x.shape != target.shape:
        raise ShapeError(f"{name}: input {x.shape} and target {target.shape} must have one shape; reshape one of them")


# --- of several classes -----------------------------------------------------------------------------------------------


def cross_entropy(
    self: Tensor,
    Y: Tensor,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    weight: Optional[Tensor] = None,
) -> Tensor:
    """-log softmax(self) at the target's class, or the mean of that over the target's probabilities.

    Args:
        self: logits, (C), (N, C) or (N, C, ...): classes along dimension 1, as in PyTorch.
        Y: integer classes, of self's shape without C; or the probability of each class, of self's shape.
        reduction: "mean" (over what counts: NaN where nothing does), "sum" or "none".
        label_smoothing: the share of each target that is spread evenly over all classes.
        ignore_index: rows with this class count for nothing, in the mean neither.
        weight: (C), how much each class counts.

    A class outside 0 <= Y < C that is not `ignore_index` makes the loss and its gradient NaN: no device has to be
    asked, and nothing wrong is learnt. Raises ShapeError for shapes that do not fit, TypeError for classes that are no
    integers.
    """
    name = "cross_entropy"
    _check_smoothing(name, label_smoothing)
    if self.ndim and Y.shape == self.shape:
        return _loss_of_shares(name, _classes_last(self), _classes_last(Y), weight, reduction, label_smoothing)
    x = _classes_last(self)
    return _class_loss(name, x, Y, weight, ignore_index, reduction, label_smoothing, logits=True)


def sparse_categorical_crossentropy(
    self: Tensor, Y: Tensor, ignore_index: int = -1, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """`cross_entropy` of logits (..., C), classes last, and integer classes (...)."""
    name = "sparse_categorical_crossentropy"
    _check_smoothing(name, label_smoothing)
    return _class_loss(name, self, Y, None, ignore_index, reduction, label_smoothing, logits=True)


def nll_loss(
    self: Tensor,
    Y: Tensor,
    weight: Optional[Tensor] = None,
    ignore_index: Optional[int] = None,
    reduction: str = "mean",
) -> Tensor:
    """-self at the target's class, self being log-probabilities. Shapes and errors are those of `cross_entropy`."""
    return _class_loss("nll_loss", _classes_last(self), Y, weight, ignore_index, reduction, 0.0, logits=False)


def _classes_last(x: Tensor) -> Tensor:
    """(N, C, ...) -> (N, ..., C)"""
    return x.permute(0, *range(2, x.ndim), 1) if x.ndim > 2 else x


def _check_smoothing(name: str, label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{name}: label_smoothing must be in [0, 1], not {label_smoothing}")


def _check_weight(name: str, weight: Optional[Tensor], classes: int) -> None:
    if weight is not None and weight.shape != (classes,):
        raise ShapeError(f"{name}: weight must have one value a class, shape ({classes},), not {weight.shape}")


def _class_loss(
    name: str,
    x: Tensor,
    target: Tensor,
    weight: Optional[Tensor],
    ignore_index: Optional[int],
    reduction: str,
    label_smoothing: float,
    logits: bool,
) -> Tensor:
    """The loss for one class a row of x (..., C)."""
    if reduction not in REDUCTIONS:
        reduced(name, x, reduction)
    if not is_int(target.dtype):
        raise TypeError(f"{name}: target must hold integer classes, not {target.dtype}; cast it with .int()")
    if x.ndim == 0 or target.shape != x.shape[:-1]:
        raise ShapeError(
            f"{name}: target {target.shape} does not fit input with classes last {x.shape}; for logits (B, T, C) "
            "pass logits.reshape(-1, C) and target.reshape(-1)"
        )
    classes = x.shape[-1]
    _check_weight(name, weight, classes)
    if target.dtype.itemsize < 4 or target.dtype.kind == "u":
        target = target.cast("int32" if target.dtype.itemsize < 4 else "int64")  # ignore_index must be representable

    log_prob = x.log_softmax(-1) if logits else x  # (..., C)
    known = (target >= 0) & (target < classes)  # (...)
    counted = None if ignore_index is None else target != ignore_index  # (...)
    known = known if counted is None else known | ~counted
    chosen = type(x).arange(classes, dtype=target.dtype, device=x.device) == target.unsqueeze(-1)  # (..., C)
    chosen = chosen | ~known.unsqueeze(-1)  # the factor NaN below must reach every logit of such a row

    weighted = log_prob if weight is None else log_prob * weight
    loss = -chosen.where(weighted, 0.0).sum(-1)  # (...)
    if label_smoothing > 0:
        loss = loss * (1 - label_smoothing) - weighted.sum(-1) * (label_smoothing / classes)
    one = type(x)(1.0, dtype=x.dtype, device=x.device)
    loss = loss * known.where(one, math.nan)
    loss = loss if counted is None else counted.where(loss, 0.0)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    share = one.expand(target.shape) if weight is None else chosen.where(weight, 0.0).sum(-1)
    return loss.sum() / (share if counted is None else counted.where(share, 0.0)).sum()


def _loss_of_shares(
    name: str, x: Tensor, target: Tensor, weight: Optional[Tensor], reduction: str, label_smoothing: float
) -> Tensor:
    """The loss for a probability of every class of x (..., C)."""
    _check_weight(name, weight, x.shape[-1])
    target = target.cast(x.dtype) if is_int(target.dtype) or is_bool(target.dtype) else target
    if label_smoothing > 0:
        target = target * (1 - label_smoothing) + label_smoothing / x.shape[-1]
    log_prob = x.log_softmax(-1)
    return reduced(name, -((log_prob if weight is None else log_prob * weight) * target).sum(-1), reduction)


# --- of yes and no ----------------------------------------------------------------------------------------------------

LEAST_LOG, LEAST_SLOPE = -100.0, 1e-12


def binary_crossentropy(self: Tensor, Y: Tensor, reduction: str = "mean") -> Tensor:
    """-(Y log(self) + (1 - Y) log(1 - self)), with self and the target Y in [0, 1] and of one shape.

    No logarithm counts for less than -100, and in the gradient self (1 - self) for no less than 1e-12, as in PyTorch.
    """
    name = "binary_crossentropy"
    same_shape(name, self, Y)
    x, target = self._source(), Y.cast(self.dtype)._source()
    yes, no = _logs(x)
    expansion = -(target * yes + (1.0 - target) * no)
    node = composite(name, None, _binary_gradient, expansion, x, target)
    return reduced(name, type(self)._wrap(node), reduction)


def _logs(x: Node) -> tuple[Node, Node]:
    least = constant(LEAST_LOG, x.dtype, x.shape, x.device)
    return make("max", (make("log", (x,)), least)), make("max", (make("log1p", (-x,)), least))


def _binary_gradient(arg: None, g: Node, y: Node, x: Node, target: Node):
    yes, no = _logs(x)
    slope = make("max", (x * (1.0 - x), constant(LEAST_SLOPE, x.dtype, x.shape, x.device)))
    return g * (x - target) / slope, g * (no - yes)


def binary_crossentropy_logits(
    self: Tensor, Y: Tensor, reduction: str = "mean", pos_weight: Optional[Tensor] = None
) -> Tensor:
    """-(p Y log σ(self) + (1 - Y) log(1 - σ(self))), with the target Y in [0, 1] and p `pos_weight`, or 1.

    Written with softplus, so that no logit, however large, overflows.
    """
    name = "binary_crossentropy_logits"
    same_shape(name, self, Y)
    target = Y.cast(self.dtype)
    share = 1.0 if pos_weight is None else (pos_weight - 1) * target + 1
    loss = (1 - target) * self + share * (-self).softplus()  # -log σ(x) is softplus(-x), and -log(1 - σ(x)) is x more
    return reduced(name, loss, reduction)
