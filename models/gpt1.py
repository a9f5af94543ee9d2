"""GPT-1: the decoder-only transformer that began the line (Radford et al., 2018), in its published layout.

Against GPT-2: a block normalises after each of its sums instead of before (post-LN), and nothing is normalised at the
end. The attention and the feed-forward are GPT-2's.

The modules carry the names of the published checkpoints (transformer.h.0.attn.c_attn.weight, ...).

Shapes in comments: B sequences, T tokens, C = n_embd channels, V the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

from .. import nn
from ..engine.tensor import Tensor
from ..nn.attention import Past
from .decoder import LanguageModel
from .gpt import GPT, MLP, Attention, GPTConfig

# transformers' names of GPT-1's activations -> those of GPT-2's that compute the same
ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "swish": "swish"}


@dataclass
class GPT1Config(GPTConfig):
    """The sizes of a GPT-1; the defaults are those of the published one (117 million parameters)."""

    block_size: int = 512
    vocab_size: int = 40478


class Block(nn.Module):
    def __init__(self, config: GPT1Config):
        self.attn = Attention(config)
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=config.bias)
        self.mlp = MLP(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon, bias=config.bias)

    def forward(self, x: Tensor, past: Optional[Past] = None, mask: Optional[Tensor] = None) -> Tensor:
        x = self.ln_1(x + self.attn(x, past, mask))
        return self.ln_2(x + self.mlp(x))


class Transformer(nn.Module):
    """Everything but the head: tokens to features."""

    def __init__(self, config: GPT1Config):
        self.tokens_embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions_embed = nn.LearnedPositions(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))

    def forward(
        self, tokens: Tensor, positions: Optional[Tensor], pasts: Iterable[Optional[Past]], seen: Optional[Tensor]
    ) -> Tensor:
        """(B, T) integers to (B, T, C); see `LanguageModel`."""
        table = self.positions_embed
        where = table.first(tokens.shape[1]) if positions is None else table(positions)  # (T, C) or (B, T, C)
        x = self.drop(self.tokens_embed(tokens) + where)  # (B, T, C)
        for block, past in zip(self.h, pasts):
            x = block(x, past, seen)
        return x


class GPT1(LanguageModel):
    """GPT-1 with its language-model head, which shares its weight with the token embedding."""

    Config = GPT1Config
    model_type = "openai-gpt"
    architectures = ("OpenAIGPTLMHeadModel", "OpenAIGPTModel")
    prefix = "transformer."
    longest = "block_size"
    ignored = re.compile(r"\.attn\.bias$|(^|\.)position_ids$")
    fields = {
        "n_layer": ("n_layer", 12),
        "n_head": ("n_head", 12),
        "n_embd": ("n_embd", 768),
        "block_size": ("n_positions", 512),
        "vocab_size": ("vocab_size", 40478),
        "dropout": ("resid_pdrop", 0.1),
        "activation_function": ("afn", "gelu"),
        "layer_norm_epsilon": ("layer_norm_epsilon", 1e-5),
    }
    fixed = {"tie_word_embeddings": True}
    presets = {"gpt1": {}}

    def __init__(self, config: GPT1Config):
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.tokens_embed.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, 0.0, 0.02)

    cache_shape = GPT.cache_shape

    # -- checkpoints

    @classmethod
    def config_from(cls, content: dict[str, Any]) -> GPT1Config:
        config = super().config_from(content)
        if config.activation_function not in ACTIVATIONS:
            raise ValueError(f"afn is {config.activation_function!r}, and GPT1 computes {', '.join(ACTIVATIONS)}")
        config.activation_function = ACTIVATIONS[config.activation_function]
        return config

    @classmethod
    def config_to(cls, config: GPT1Config) -> dict[str, Any]:
        names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
        if not config.bias or config.activation_function not in names:
            raise ValueError(f"GPT1: a checkpoint must have biases and one of {', '.join(names)}")
        dropout = {"embd_pdrop": config.dropout, "attn_pdrop": config.dropout}
        return super().config_to(config) | dropout | {"afn": names[config.activation_function]}
