"""LoRA: fine-tuning by small matrices beside frozen layers.

A layer's weight W stays as it is, and what is trained is a product of two thin matrices that is added to it:
y = x Wᵀ + b + (alpha / rank) x Aᵀ Bᵀ, with A (rank, in) random and B (out, rank) zero at first, so that the model
starts as it was. (Hu et al., arXiv 2106.09685; the names are those of their program.)

>>> from clgrad import nn
>>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
>>> layers = nn.lora.wrap(model, rank=2)
>>> sorted(name for name, _ in model.named_parameters())
['0.lora_A', '0.lora_B', '2.lora_A', '2.lora_B']
>>> nn.lora.merge(model)
Sequential(
  (0): Linear(in_features=64, out_features=64, bias=True)
  (1): ReLU()
  (2): Linear(in_features=64, out_features=8, bias=True)
)
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TypeVar, Union

from ..engine.tensor import Tensor
from . import functional as F
from . import init
from .layers import Conv1D, Dropout, Linear
from .module import Module, parameter
from .quantized import QuantizedLinear, replace

T = TypeVar("T", bound=Module)
Layer = Union[Linear, Conv1D, QuantizedLinear]


class LoRA(Module):
    """A frozen `layer` and the two matrices beside it: (..., in_features) to (..., out_features)."""

    def __init__(self, layer: Layer, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0):
        if rank < 1:
            raise ValueError(f"LoRA: rank must be at least 1, not {rank}")
        self.rank, self.alpha = rank, alpha
        self.lora_dropout = Dropout(dropout)
        device = layer.weight.device
        bound = 1 / math.sqrt(layer.in_features)
        self.lora_A = init.uniform_(parameter(rank, layer.in_features, device=device), -bound, bound)
        self.lora_B = parameter(layer.out_features, rank, device=device)
        self.base = layer.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(self.lora_dropout(x), self.lora_A)  # (..., rank)
        return self.base(x) + F.linear(low, self.lora_B) * (self.alpha / self.rank)

    @Tensor.no_grad()
    def merged(self) -> Layer:
        """The layer itself, with the product added to its weight. Raises TypeError for a packed weight."""
        layer = self.base
        if isinstance(layer, QuantizedLinear):
            raise TypeError("LoRA: nothing can be added to a packed weight; keep the LoRA layer, or unpack first")
        change = (self.lora_B @ self.lora_A) * (self.alpha / self.rank)  # (out, in)
        layer.weight.assign(layer.weight + (change.T if isinstance(layer, Conv1D) else change))
        return layer

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}"


def wrap(model: Module, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, names: str = "") -> list[LoRA]:
    """Freeze `model` and put a LoRA around its linear layers, in place. Returns those made.

    `names` is a regular expression searched in the dotted names of layers ("attn|mlp"); empty: every Linear, Conv1D and
    QuantizedLinear. A layer whose weight has another name too (a tied head) stays as it is, because merging would
    change both. Raises ValueError if no layer is left.
    """
    shared = Counter(id(tensor) for tensor in model.state_dict().values())
    found = []
    for prefix, module in list(model.named_modules()):
        for name, layer in list(module.named_children()):
            full = f"{prefix}.{name}" if prefix else name
            if isinstance(module, LoRA) or not isinstance(layer, (Linear, Conv1D, QuantizedLinear)):
                continue
            if re.search(names, full) and shared[id(layer.weight)] == 1:
                found.append((module, name, layer))
    if not found:
        raise ValueError(
            f"lora.wrap: {type(model).__name__} has no linear layer with a name that fits {names!r}, or all have a LoRA"
        )
    made = [LoRA(layer, rank, alpha, dropout).train(layer.training) for _, _, layer in found]
    model.requires_grad_(False)
    for (module, name, _), lora in zip(found, made, strict=True):
        replace(module, name, lora)
    return made


def merge(model: T) -> T:
    """Replace every LoRA by its layer with the product added, in place; gives the model back, still frozen."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoRA):
                replace(module, name, child.merged())
    return model


def state_dict(model: Module) -> dict[str, Tensor]:
    """What was trained: the thin matrices alone, for `nn.state.safe_save`.

    `model.load_state_dict(state, strict=False)` puts them into a model that was wrapped in the same way.
    """
    return {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in f".{name}"}
