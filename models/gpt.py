"""GPT-2: a decoder-only transformer (Radford et al., 2019), in its published layout.

The modules and their weights carry the names of the published checkpoints (transformer.h.0.attn.c_attn.weight, ...),
so `GPT.from_pretrained` reads what Hugging Face's transformers saves, and `save_pretrained` writes it.

Shapes in comments: B sequences, T tokens, C = n_embd channels, H heads of D = C / H channels, V the vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Optional

from .. import nn
from ..engine.tensor import Tensor
from ..nn import functional as F
from ..nn.attention import Past
from .decoder import LanguageModel

# config.json's activation_function -> layer
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu_new": lambda: nn.GELU("tanh"),
    "gelu_pytorch_tanh": lambda: nn.GELU("tanh"),
    "gelu_fast": lambda: nn.GELU("tanh"),
    "gelu": nn.GELU,
    "quick_gelu": nn.QuickGELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}


@dataclass
class GPTConfig:
    """The sizes of a GPT; the defaults are those of the smallest GPT-2 (124 million parameters)."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024  # the most tokens that it can look back on
    vocab_size: int = 50257
    dropout: float = 0.0
    bias: bool = True
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"GPTConfig: {name} must be at least 1, not {getattr(self, name)}")
        if self.n_embd % self.n_head:
            raise ValueError(f"GPTConfig: n_embd {self.n_embd} must be a multiple of n_head {self.n_head}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"GPTConfig: dropout must be in [0, 1), not {self.dropout}")
        if self.activation_function not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"GPTConfig: unknown activation_function {self.activation_function!r}; known: {known}")


# published name -> n_layer, n_head, n_embd, block_size. GPT-2's are of Radford et al., 2019, GPT-3's of table 2.1 of
# Brown et al., arXiv 2005.14165, where two rows contradict themselves: XL's 24 heads of 128 are not its 2048 channels,
# which 16 heads are, and 13B's 40 heads of 128 are 5120 channels and not 5140. GPT-3's locally banded attention in
# every other layer, which has no parameters, is not computed.
SIZES = {
    "gpt2": (12, 12, 768, 1024),
    "gpt2-medium": (24, 16, 1024, 1024),
    "gpt2-large": (36, 20, 1280, 1024),
    "gpt2-xl": (48, 25, 1600, 1024),
    "gpt3-small": (12, 12, 768, 2048),
    "gpt3-medium": (24, 16, 1024, 2048),
    "gpt3-large": (24, 16, 1536, 2048),
    "gpt3-xl": (24, 16, 2048, 2048),
    "gpt3-2.7b": (32, 32, 2560, 2048),
    "gpt3-6.7b": (32, 32, 4096, 2048),
    "gpt3-13b": (40, 40, 5120, 2048),
    "gpt3-175b": (96, 96, 12288, 2048),
}


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig):
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Conv1D(3 * config.n_embd, config.n_embd, bias=config.bias)
        self.c_proj = nn.Conv1D(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, past: Optional[Past] = None, mask: Optional[Tensor] = None) -> Tensor:
        """(B, T, C) to (B, T, C). `mask` (..., T, T) says what each query may see, where that is not all before it."""
        B, T, C = x.shape
        q, k, v = (
            t.reshape(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
            for t in self.c_attn(x).split(C, dim=2)  # 3 × (B, T, C)
        )
        if past is not None:
            k, v, mask = past(k, v)  # (B, H, S, D), (B, H, S, D), (..., T, S)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, T, C)
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        self.c_fc = nn.Conv1D(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.act = ACTIVATIONS[config.activation_function]()
        self.c_proj = nn.Conv1D(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))  # (B, T, 4 C) inside


class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=config.bias)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, past: Optional[Past] = None, mask: Optional[Tensor] = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), past, mask)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Everything but the head: tokens to features."""

    def __init__(self, config: GPTConfig):
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.LearnedPositions(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=config.bias)

    def forward(
        self, tokens: Tensor, positions: Optional[Tensor], pasts: Iterable[Optional[Past]], seen: Optional[Tensor]
    ) -> Tensor:
        """(B, T) integers to (B, T, C); see `LanguageModel`."""
        where = self.wpe.first(tokens.shape[1]) if positions is None else self.wpe(positions)  # (T, C) or (B, T, C)
        x = self.drop(self.wte(tokens) + where)  # (B, T, C)
        for block, past in zip(self.h, pasts):
            x = block(x, past, seen)
        return self.ln_f(x)


class GPT(LanguageModel):
    """GPT-2 with its language-model head, which shares its weight with the token embedding."""

    Config = GPTConfig
    model_type = "gpt2"
    architectures = ("GPT2LMHeadModel", "GPT2Model")
    prefix = "transformer."
    longest = "block_size"
    ignored = re.compile(r"\.attn\.(bias|masked_bias)$")  # causal masks, which old checkpoints hold
    fields = {
        "n_layer": ("n_layer", 12),
        "n_head": ("n_head", 12),
        "n_embd": ("n_embd", 768),
        "block_size": ("n_positions", 1024),
        "vocab_size": ("vocab_size", 50257),
        "dropout": ("resid_pdrop", 0.1),
        "activation_function": ("activation_function", "gelu_new"),
        "layer_norm_epsilon": ("layer_norm_epsilon", 1e-5),
    }
    fixed = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }
    presets = {
        name: dict(zip(("n_layer", "n_head", "n_embd", "block_size"), numbers)) for name, numbers in SIZES.items()
    }

    def __init__(self, config: GPTConfig):
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        for name, parameter in self.named_parameters():
            # GPT-2's initial values: the residual stream is the sum of 2 n_layer projections, hence their scale
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * config.n_layer))
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, 0.0, 0.02)

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        return self.config.n_layer, self.config.n_head, self.config.n_embd // self.config.n_head

    slides = True  # where the context is full, generation goes on with the newer half of it

    # -- checkpoints

    @classmethod
    def config_from(cls, content: dict[str, Any]) -> GPTConfig:
        config = super().config_from(content)
        if content.get("n_inner") not in (None, 4 * config.n_embd):
            raise ValueError(f"n_inner is {content['n_inner']}, and GPT's MLP is always 4 n_embd wide")
        return config

    @classmethod
    def config_to(cls, config: GPTConfig) -> dict[str, Any]:
        # GPT-2's first and last token are of its vocabulary of 50257, which another vocabulary does not have
        special = {"bos_token_id": None, "eos_token_id": None}
        dropout = {"embd_pdrop": config.dropout, "attn_pdrop": config.dropout}
        return super().config_to(config) | {"n_inner": None} | dropout | special

    def saved_state(self) -> dict[str, Tensor]:
        state = super().saved_state()
        if self.config.bias:
            return state
        for name, weight in list(state.items()):  # GPT-2 always has biases
            if not name.endswith(("wte.weight", "wpe.weight")):
                state[name.removesuffix("weight") + "bias"] = Tensor.zeros(weight.shape[-1])
        return state
