"""Layers and losses as functions, under torch.nn.functional's names and defaults.

Most are one Tensor method; they are here so that code written for PyTorch finds them. The losses live only here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional

from ..engine.tensor import Tensor
from .convolution import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d  # noqa: F401
from .normalization import batch_norm, group_norm, instance_norm, layer_norm, rms_norm  # noqa: F401
from .pooling import (  # noqa: F401
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    interpolate,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)

# -- activations


def relu(x: Tensor) -> Tensor:
    return x.relu()


def relu6(x: Tensor) -> Tensor:
    return x.relu6()


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return x.leaky_relu(negative_slope)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x above 0, weight x below: one weight, or one for each channel along axis 1 (He et al., ICCV 2015)."""
    if weight.numel() != 1:
        if x.ndim < 2 or weight.shape != (x.shape[1],):
            raise ValueError(f"prelu: weight {weight.shape} must be one number, or one for each channel of {x.shape}")
        weight = weight.reshape(1, -1, *[1] * (x.ndim - 2))
    return (x > 0).where(x, x * weight.reshape(()) if weight.numel() == 1 else x * weight)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return x.elu(alpha)


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return x.celu(alpha)


def selu(x: Tensor) -> Tensor:
    return x.selu()


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x) (Hendrycks and Gimpel, arXiv 1606.08415), exact or by its "tanh" approximation."""
    return x.gelu(approximate)


def quick_gelu(x: Tensor) -> Tensor:
    return x.quick_gelu()


def silu(x: Tensor) -> Tensor:
    return x.silu()


def mish(x: Tensor) -> Tensor:
    return x.mish()


def tanh(x: Tensor) -> Tensor:
    return x.tanh()


def tanhshrink(x: Tensor) -> Tensor:
    return x - x.tanh()


def sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


def logsigmoid(x: Tensor) -> Tensor:
    return x.logsigmoid()


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x is above the threshold."""
    return (x * beta > threshold).where(x, x.softplus(beta))


def softsign(x: Tensor) -> Tensor:
    return x.softsign()


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    return x.hardtanh(min_val, max_val)


def hardsigmoid(x: Tensor) -> Tensor:
    return x.hardsigmoid()


def hardswish(x: Tensor) -> Tensor:
    return x.hardswish()


def softmax(x: Tensor, dim: int = -1, dtype=None) -> Tensor:
    return x.softmax(dim, dtype)


def softmin(x: Tensor, dim: int = -1, dtype=None) -> Tensor:
    return x.softmin(dim, dtype)


def log_softmax(x: Tensor, dim: int = -1, dtype=None) -> Tensor:
    return x.log_softmax(dim, dtype)


def normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x divided by its p-norm along `dim`, or by eps if that is larger."""
    return x.normalize(p, dim, eps)


# -- layers


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x Wᵀ + b: (..., in) with weight (out, in) to (..., out)."""
    if x.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"linear: input {x.shape} must end in {weight.shape[-1]}, the columns of weight {weight.shape}"
        )
    return x.linear(weight.transpose(), bias)


def embedding(index: Tensor, weight: Tensor, padding_idx: Optional[int] = None) -> Tensor:
    """Rows of weight (num, dim) at integers of any shape: (...) to (..., dim). The row `padding_idx` gets no gradient.

    Raises IndexError for an index outside 0 <= index < num, as the device finds it.
    """
    rows = weight.take(index)
    if padding_idx is None:
        return rows
    return (index == padding_idx).unsqueeze(-1).where(rows.detach(), rows)


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zeroes each element with probability p and scales the others by 1 / (1 - p); the identity unless `training`."""
    return x.dropout(p) if training and p > 0 else x


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Optional[Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """softmax(Q Kᵀ / sqrt(D)) V over (..., T, D) (Vaswani et al., arXiv 1706.03762)."""
    return query.scaled_dot_product_attention(key, value, attn_mask, dropout_p, is_causal)


def one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    """(...) integers to (..., num_classes) int64: 1 at the index, 0 elsewhere. See `Tensor.one_hot`."""
    return index.one_hot(num_classes)


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: Optional[float] = None) -> Tensor:
    """`pad` holds the widths of the last axes, the last first: (left, right, top, bottom, ...). See `Tensor.pad`."""
    return x.pad(tuple(pad), mode, 0.0 if value is None else value)


# -- losses


def _reduce(name: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _same_shape(name: str, x: Tensor, target: Tensor) -> None:
    if x.shape != target.shape:
        raise ValueError(f"{name}: input {x.shape} and target {target.shape} must have one shape; reshape one of them")


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)²."""
    _same_shape("mse_loss", x, target)
    return _reduce("mse_loss", (x - target).square(), reduction)


def l1_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|x - target|."""
    _same_shape("l1_loss", x, target)
    return _reduce("l1_loss", (x - target).abs(), reduction)


def binary_cross_entropy_with_logits(
    x: Tensor,
    target: Tensor,
    weight: Optional[Tensor] = None,
    reduction: str = "mean",
    pos_weight: Optional[Tensor] = None,
) -> Tensor:
    """-(p t log σ(x) + (1 - t) log(1 - σ(x))) with t the target in [0, 1] and p `pos_weight`, or 1.

    Written with softplus, so that no x, however large, overflows.
    """
    _same_shape("binary_cross_entropy_with_logits", x, target)
    target = target.cast(x.dtype)
    share = 1.0 if pos_weight is None else (pos_weight - 1) * target + 1
    loss = (1 - target) * x + share * (-x).softplus()  # -log σ(x) is softplus(-x), and -log(1 - σ(x)) is x more
    loss = loss if weight is None else loss * weight
    return _reduce("binary_cross_entropy_with_logits", loss, reduction)


def cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Optional[Tensor] = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(x) at the target's class.

    Args:
        x: logits, (C), (N, C) or (N, C, ...): classes along dimension 1, as in PyTorch.
        target: integer classes, of x's shape without C.
        weight: (C), how much each class counts.
        ignore_index: rows with this target count for nothing, in the mean neither.
        reduction: "mean" (over what counts: NaN where nothing does), "sum" or "none".
        label_smoothing: the share of each target that is spread evenly over all classes.

    A target outside 0 <= target < C that is not `ignore_index` makes the loss and its gradient NaN: no device has to
    be asked, and nothing wrong is learnt. Raises ValueError for shapes that do not fit, TypeError for a target that is
    not of integers.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], not {label_smoothing}")
    return _class_loss("cross_entropy", x, target, weight, ignore_index, reduction, label_smoothing, logits=True)


def nll_loss(
    x: Tensor, target: Tensor, weight: Optional[Tensor] = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-x at the target's class, x being log-probabilities. Arguments and errors are cross_entropy's."""
    return _class_loss("nll_loss", x, target, weight, ignore_index, reduction, 0.0, logits=False)


def _class_loss(
    name: str,
    x: Tensor,
    target: Tensor,
    weight: Optional[Tensor],
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    logits: bool,
) -> Tensor:
    """The target's class is found by comparing it with every class rather than by a gather, so that the softmax, the
    choice and the sum are reductions over one row: one kernel, and one more for the gradient."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    if target.dtype.kind not in "iu":
        raise TypeError(f"{name}: target must hold integer classes, not {target.dtype}; cast it with .int()")
    if x.ndim > 2:  # (N, C, ...) -> (N, ..., C)
        x = x.permute(0, *range(2, x.ndim), 1)
    if x.ndim == 0 or target.shape != x.shape[:-1]:
        raise ValueError(
            f"{name}: target {target.shape} does not fit input with classes last {x.shape}; for logits (B, T, C) "
            "pass logits.reshape(-1, C) and target.reshape(-1)"
        )
    classes = x.shape[-1]
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"{name}: weight must have one value a class, shape ({classes},), not {weight.shape}")
    if target.dtype.itemsize < 4 or target.dtype.kind == "u":
        target = target.cast("int32" if target.dtype.itemsize < 4 else "int64")  # ignore_index must be representable

    log_prob = x.log_softmax(-1) if logits else x  # (..., C)
    counted = target != ignore_index  # (...)
    known = (target >= 0) & (target < classes) | ~counted  # (...)
    chosen = Tensor.arange(classes, dtype=target.dtype, device=x.device) == target.unsqueeze(-1)  # (..., C)
    chosen = chosen | ~known.unsqueeze(-1)  # the factor NaN below must reach every logit of such a row

    weighted = log_prob if weight is None else log_prob * weight
    loss = -chosen.where(weighted, 0.0).sum(-1)  # (...)
    if label_smoothing > 0:
        loss = loss * (1 - label_smoothing) - weighted.sum(-1) * (label_smoothing / classes)
    one = Tensor(1.0, dtype=x.dtype, device=x.device)
    loss = counted.where(loss * known.where(one, math.nan), 0.0)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    share = one.expand(target.shape) if weight is None else chosen.where(weight, 0.0).sum(-1)
    return loss.sum() / counted.where(share, 0.0).sum()
