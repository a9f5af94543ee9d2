"""Layers: each an `__init__` that makes Tensors and a `forward` that uses them. Names and defaults are PyTorch's."""

from __future__ import annotations

import math
from typing import Optional

from ..engine.tensor import Tensor
from . import functional as F
from . import init
from .module import Module, parameter


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
        self.weight = init.uniform_(parameter(out_features, in_features, dtype=dtype, device=device), -bound, bound)
        self.bias: Optional[Tensor] = None
        if bias:
            self.bias = init.uniform_(parameter(out_features, dtype=dtype, device=device), -bound, bound)

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
        self.weight = init.normal_(parameter(in_features, out_features, dtype=dtype, device=device), 0.0, 0.02)
        self.bias = parameter(out_features, dtype=dtype, device=device) if bias else None

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
        self.weight = init.normal_(parameter(num_embeddings, embedding_dim, dtype=dtype, device=device))
        if self.padding_idx is not None:
            with Tensor.no_grad():
                rows = Tensor.arange(num_embeddings, dtype="int32", device=device).unsqueeze(-1)
                self.weight.assign((rows == self.padding_idx).where(0.0, self.weight))

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


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


class Flatten(Module):
    """Joins dimensions start_dim to end_dim into one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)
