"""Layers and losses as functions, under torch.nn.functional's names and defaults.

Most are one Tensor method; they are here so that code written for PyTorch finds them. The losses of regression live
only here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional

from ..engine.losses import reduced as _reduced
from ..engine.losses import same_shape as _same_shape
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
    scale: Optional[float] = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale Q Kᵀ) V over (..., T, D), with scale 1 / sqrt(D) (Vaswani et al., arXiv 1706.03762)."""
    if scale is not None:
        query = query * (scale * math.sqrt(query.shape[-1]))
    return query.scaled_dot_product_attention(key, value, attn_mask, dropout_p, is_causal, enable_gqa)


def one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    """(...) integers to (..., num_classes) int64: 1 at the index, 0 elsewhere. See `Tensor.one_hot`."""
    return index.one_hot(num_classes)


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: Optional[float] = None) -> Tensor:
    """`pad` holds the widths of the last axes, the last first: (left, right, top, bottom, ...). See `Tensor.pad`."""
    return x.pad(tuple(pad), mode, 0.0 if value is None else value)


# -- losses


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)²."""
    _same_shape("mse_loss", x, target)
    return _reduced("mse_loss", (x - target).square(), reduction)


def l1_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|x - target|."""
    _same_shape("l1_loss", x, target)
    return _reduced("l1_loss", (x - target).abs(), reduction)


def smooth_l1_loss(x: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d²/(2 beta) where d = |x - target| is below beta, d - beta/2 elsewhere (Girshick, arXiv 1504.08083)."""
    if beta == 0:
        return l1_loss(x, target, reduction)
    _same_shape("smooth_l1_loss", x, target)
    d = (x - target).abs()
    return _reduced("smooth_l1_loss", (d < beta).where(d * d * (0.5 / beta), d - 0.5 * beta), reduction)


def huber_loss(x: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d²/2 where d = |x - target| is at most delta, delta (d - delta/2) elsewhere (Huber, 1964)."""
    _same_shape("huber_loss", x, target)
    d = (x - target).abs()
    return _reduced("huber_loss", (d <= delta).where(d * d * 0.5, (d - 0.5 * delta) * delta), reduction)


def kl_div(x: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (log target - x), x being log-probabilities; with `log_target` the target is one too.

    `reduction` may also be "batchmean", the sum over the number of rows, which is what the divergence is.
    """
    if log_target:
        loss = target.exp() * (target - x)
    else:
        loss = target * (target == 0).where(1.0, target).log() - target * x
    if reduction == "batchmean":
        return loss.sum() / x.shape[0] if x.ndim else loss
    return _reduced("kl_div", loss, reduction)


def binary_cross_entropy(x: Tensor, target: Tensor, weight: Optional[Tensor] = None, reduction: str = "mean") -> Tensor:
    """-(t log x + (1 - t) log(1 - x)) with the target t and x in [0, 1]; see `Tensor.binary_crossentropy`."""
    loss = x.binary_crossentropy(target, "none")
    return _reduced("binary_cross_entropy", loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    x: Tensor,
    target: Tensor,
    weight: Optional[Tensor] = None,
    reduction: str = "mean",
    pos_weight: Optional[Tensor] = None,
) -> Tensor:
    """-(p t log σ(x) + (1 - t) log(1 - σ(x))); see `Tensor.binary_crossentropy_logits`."""
    loss = x.binary_crossentropy_logits(target, "none", pos_weight)
    return _reduced("binary_cross_entropy_with_logits", loss if weight is None else loss * weight, reduction)


def cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Optional[Tensor] = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(x) at the target's class, or for its probabilities; see `Tensor.cross_entropy`."""
    return x.cross_entropy(target, reduction, label_smoothing, ignore_index, weight)


def nll_loss(
    x: Tensor, target: Tensor, weight: Optional[Tensor] = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-x at the target's class, x being log-probabilities; see `Tensor.nll_loss`."""
    return x.nll_loss(target, weight, ignore_index, reduction)
