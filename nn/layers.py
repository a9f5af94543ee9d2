"""Layers: each an `__init__` that makes Tensors and a `forward` that uses them. Names and defaults are PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional, Union

from ..engine.tensor import Tensor
from . import functional as F
from . import init
from .module import Module


def _parameter(*shape: int, value: float = 0.0, dtype: Any = None, device: Optional[str] = None) -> Tensor:
    return Tensor.full(shape, value, dtype=dtype or "float32", device=device, requires_grad=True)


class Identity(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Linear(Module):
    """x Wᵀ + b, (..., in_features) to (..., out_features), with weight (out_features, in_features).

    Both start uniform in ±1/sqrt(in_features).
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Optional[str] = None, dtype=None
    ):
        self.in_features, self.out_features = in_features, out_features
        bound = 1.0 / math.sqrt(max(in_features, 1))
        self.weight = init.uniform_(_parameter(out_features, in_features, dtype=dtype, device=device), -bound, bound)
        self.bias: Optional[Tensor] = None
        if bias:
            self.bias = init.uniform_(_parameter(out_features, dtype=dtype, device=device), -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Conv1D(Module):
    """x W + b with weight (in_features, out_features): GPT-2's linear layer, the transpose of Linear's.

    The arguments come in GPT-2's order, outputs first. The weight starts N(0, 0.02²), the bias zero.
    """

    def __init__(
        self, out_features: int, in_features: int, bias: bool = True, device: Optional[str] = None, dtype=None
    ):
        self.in_features, self.out_features = in_features, out_features
        self.weight = init.normal_(_parameter(in_features, out_features, dtype=dtype, device=device), 0.0, 0.02)
        self.bias = _parameter(out_features, dtype=dtype, device=device) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return x.linear(self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Row i of weight (num_embeddings, embedding_dim) for each integer i: (...) to (..., embedding_dim).

    Rows start N(0, 1); the row `padding_idx` starts zero and gets no gradient.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: Optional[int] = None,
        device: Optional[str] = None,
        dtype=None,
    ):
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx {padding_idx} is no row of {num_embeddings}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx if padding_idx is None else padding_idx % num_embeddings
        self.weight = init.normal_(_parameter(num_embeddings, embedding_dim, dtype=dtype, device=device))
        if self.padding_idx is not None:
            with Tensor.no_grad():
                rows = Tensor.arange(num_embeddings, dtype="int32", device=device).unsqueeze(-1)
                self.weight.assign((rows == self.padding_idx).where(0.0, self.weight))

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) over the last dimensions, scaled and shifted (Ba et al., arXiv 1607.06450)."""

    def __init__(
        self,
        normalized_shape: Union[int, Sequence[int]],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Optional[str] = None,
        dtype=None,
    ):
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        affine = elementwise_affine
        self.weight = _parameter(*self.normalized_shape, value=1.0, dtype=dtype, device=device) if affine else None
        self.bias = _parameter(*self.normalized_shape, dtype=dtype, device=device) if affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class Dropout(Module):
    """Zeroes each element with probability p while training and scales the others by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5):
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: p must be a probability in [0, 1], not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class ReLU(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class GELU(Module):
    """x Φ(x); approximate="tanh" for 0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))."""

    def __init__(self, approximate: str = "none"):
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate must be 'none' or 'tanh', not {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return x.gelu(self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class QuickGELU(Module):
    """x σ(1.702 x), the cheap approximation of GELU that some published models were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class SiLU(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.silu()


class Tanh(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


class Sigmoid(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class Softmax(Module):
    def __init__(self, dim: int = -1):
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Flatten(Module):
    """Joins dimensions start_dim to end_dim into one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)


class CrossEntropyLoss(Module):
    """functional.cross_entropy as a layer."""

    def __init__(
        self,
        weight: Optional[Tensor] = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        self.weight, self.ignore_index = weight, ignore_index
        self.reduction, self.label_smoothing = reduction, label_smoothing

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(x, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class MSELoss(Module):
    """functional.mse_loss as a layer."""

    def __init__(self, reduction: str = "mean"):
        self.reduction = reduction

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(x, target, self.reduction)
