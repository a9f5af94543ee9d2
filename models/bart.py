"""BART: an encoder-decoder trained to restore damaged text (Lewis et al., arXiv 1910.13461).

It is the transformer of 2017, normalised after each layer, with three changes: learned positions, a normalisation of
the embeddings, and GELU. The encoder, the decoder and the head share one table of token embeddings.

The modules carry the names of the published checkpoints (model.encoder.layers.0.self_attn.q_proj.weight, ...).

Shapes in comments: B sequences, S source tokens (or keys), T target tokens (or queries), C = d_model channels,
H heads of D = C / H channels, V the vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Optional, Union

from .. import nn
from ..engine.tensor import Tensor
from ..nn import functional as F
from ..nn.attention import Past, both, causal, padding
from .gpt import ACTIVATIONS
from .seq2seq import EncoderDecoder, Memory


@dataclass
class BartConfig:
    """The sizes of a BART under the names of config.json; the defaults are those of bart-large (406 million)."""

    vocab_size: int = 50265
    d_model: int = 1024
    encoder_layers: int = 12
    decoder_layers: int = 12
    encoder_attention_heads: int = 16
    decoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    decoder_ffn_dim: int = 4096
    max_position_embeddings: int = 1024  # the most tokens of a source or a target
    activation_function: str = "gelu"
    scale_embedding: bool = False  # whether token embeddings are multiplied by sqrt(C)
    dropout: float = 0.1  # of the embeddings and of what each sublayer adds
    attention_dropout: float = 0.0  # of the attention's probabilities
    activation_dropout: float = 0.0  # inside the feed-forward layers
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2
    decoder_start_token_id: int = 2
    forced_bos_token_id: Optional[int] = None  # what every text begins with, in generation
    forced_eos_token_id: Union[int, list[int], None] = None  # what it ends with where its length ends it

    def __post_init__(self) -> None:
        sizes = [f.name for f in dataclasses.fields(self) if f.name.endswith(("_size", "_layers", "_heads", "_dim"))]
        for name in (*sizes, "d_model", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"BartConfig: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, name):
                raise ValueError(
                    f"BartConfig: d_model {self.d_model} must be a multiple of {name}, {getattr(self, name)}"
                )
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"BartConfig: {name} must be in [0, 1), not {getattr(self, name)}")
        for name in ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"BartConfig: {name} {getattr(self, name)} is no token of {self.vocab_size}")
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            value = getattr(self, name)
            tokens = [] if value is None else value if isinstance(value, list) else [value]
            if any(type(token) is not int or not 0 <= token < self.vocab_size for token in tokens):
                raise ValueError(f"BartConfig: {name} {value!r} is no token of {self.vocab_size}")
        if self.activation_function not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"BartConfig: unknown activation_function {self.activation_function!r}; known: {known}")


class Attention(nn.Module):
    """Multi-head attention, to x itself or to a memory."""

    def __init__(self, config: BartConfig, heads: int):
        self.num_heads, self.dropout = heads, config.attention_dropout
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, H, T, D)"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def memory(self, x: Tensor) -> Memory:
        """Keys and values (B, H, S, D) of x (B, S, C)."""
        return self._heads(self.k_proj(x)), self._heads(self.v_proj(x))

    def forward(self, x: Tensor, memory: Memory, mask: Optional[Tensor]) -> Tensor:
        """x (B, T, C) looks at the memory (B, H, S, D), where the mask, bool (..., T, S), lets it."""
        q = self._heads(self.q_proj(x))  # (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, *memory, mask, dropout)  # (B, H, T, D)
        return self.out_proj(y.transpose(1, 2).flatten(2))  # (B, T, C)


class Layer(nn.Module):
    """What a layer of the encoder and one of the decoder have in common."""

    def __init__(self, config: BartConfig, heads: int, ffn_dim: int):
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.act = ACTIVATIONS[config.activation_function]()
        self.self_attn = Attention(config, heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def attend(self, x: Tensor, mask: Optional[Tensor], past: Optional[Past] = None) -> Tensor:
        """The sublayer of self-attention: (B, T, C) to (B, T, C)."""
        k, v = self.self_attn.memory(x)  # (B, H, T, D) each
        if past is not None:
            k, v, mask = past(k, v)  # (B, H, S, D), (B, H, S, D), (..., T, S)
        return self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, (k, v), mask)))

    def feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.activation_dropout(self.act(self.fc1(x)))  # (B, T, ffn_dim)
        return self.final_layer_norm(x + self.dropout(self.fc2(hidden)))


class EncoderLayer(Layer):
    def __init__(self, config: BartConfig):
        super().__init__(config, config.encoder_attention_heads, config.encoder_ffn_dim)

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        return self.feed_forward(self.attend(x, mask))


class DecoderLayer(Layer):
    def __init__(self, config: BartConfig):
        super().__init__(config, config.decoder_attention_heads, config.decoder_ffn_dim)
        self.encoder_attn = Attention(config, config.decoder_attention_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, x: Tensor, mask: Optional[Tensor], past: Optional[Past], memory: Memory, memory_mask: Optional[Tensor]
    ) -> Tensor:
        x = self.attend(x, mask, past)
        x = self.encoder_attn_layer_norm(x + self.dropout(self.encoder_attn(x, memory, memory_mask)))
        return self.feed_forward(x)


class Stack(nn.Module):
    """The encoder or the decoder: embeddings, then layers."""

    def __init__(self, config: BartConfig, shared: nn.Embedding, layers: Iterable[Layer]):
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.embed_tokens = shared
        self.embed_positions = nn.LearnedPositions(config.max_position_embeddings, config.d_model, offset=2)
        self.layers = nn.ModuleList(layers)
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def embed(self, tokens: Tensor, positions: Optional[Tensor] = None) -> Tensor:
        """(B, T) integers, at positions (T) or (B, T), 0 to T - 1 unless given, to (B, T, C)."""
        table, length = self.embed_positions, tokens.shape[1]
        if length > table.num_embeddings - table.offset:
            most = table.num_embeddings - table.offset
            raise ValueError(f"Bart: {length} tokens are more than max_position_embeddings {most}; shorten them")
        where = table.first(length) if positions is None else table(positions)  # (T, C) or (B, T, C)
        return self.dropout(self.layernorm_embedding(self.embed_tokens(tokens) * self.scale + where))


class BartModel(nn.Module):
    """Everything but the head."""

    def __init__(self, config: BartConfig):
        self.shared = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder = Stack(config, self.shared, (EncoderLayer(config) for _ in range(config.encoder_layers)))
        self.decoder = Stack(config, self.shared, (DecoderLayer(config) for _ in range(config.decoder_layers)))


class Bart(EncoderDecoder):
    """BART with its language-model head, which is the table of token embeddings.

    Checkpoints whose layers are dropped in training (LayerDrop) are read; to train on, all layers are kept.
    """

    Config = BartConfig
    model_type = "bart"
    architectures = ("BartForConditionalGeneration", "BartModel")
    fields: ClassVar = {field.name: (field.name, field.default) for field in dataclasses.fields(BartConfig)}
    fixed: ClassVar = {
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "normalize_before": False,
        "normalize_embedding": True,
        "add_final_layer_norm": False,
        "static_position_embeddings": False,
    }
    prefix = "model."
    ignored = re.compile(r"(encoder|decoder)\.version$")
    fresh = re.compile(r"final_logits_bias$")  # a bare BartModel has none
    buffer_names = ("final_logits_bias",)
    presets: ClassVar = {
        "bart-base": dict(
            d_model=768,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=12,
            decoder_attention_heads=12,
            encoder_ffn_dim=3072,
            decoder_ffn_dim=3072,
            attention_dropout=0.1,
            activation_dropout=0.1,
        ),
        "bart-large": dict(attention_dropout=0.1, activation_dropout=0.1),
    }

    def __init__(self, config: BartConfig):
        self.config = config
        self.model = BartModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.lm_head.weight = self.model.shared.weight
        self.final_logits_bias = Tensor.zeros(1, config.vocab_size)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, 0.0, 0.02)
            elif "norm" not in name:
                nn.init.zeros_(parameter)

    def encode(self, tokens: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        x = self.model.encoder.embed(tokens)  # (B, S, C)
        for layer in self.model.encoder.layers:
            x = layer(x, padding(mask))
        return x

    def memories(self, encoded: Tensor) -> list[Memory]:
        return [layer.encoder_attn.memory(encoded) for layer in self.model.decoder.layers]

    def decode(self, tokens, positions, given, mask, memory_mask) -> Tensor:
        x = self.model.decoder.embed(tokens, positions)  # (B, T, C)
        seen = both(causal(tokens.shape[1], tokens.shape[1], tokens.device), padding(mask))  # (..., T, T)
        for layer, (memory, past) in zip(self.model.decoder.layers, given):
            x = layer(x, seen, past, memory, memory_mask)
        return x

    def logits(self, features: Tensor) -> Tensor:
        return self.lm_head(features) + self.final_logits_bias.squeeze(0).cast(features.dtype)

    @classmethod
    def config_from(cls, content: dict[str, Any]) -> BartConfig:
        return super().config_from({"forced_eos_token_id": 2} | content)  # what holds if it is left out

    @property
    def context_length(self) -> int:  # type: ignore[override]
        return self.config.max_position_embeddings

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        heads = self.config.decoder_attention_heads
        return self.config.decoder_layers, heads, self.config.d_model // heads
