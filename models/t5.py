"""T5: an encoder-decoder that is told positions only as distances (Raffel et al., arXiv 1910.10683).

What differs from the transformer of 2017: normalisation before each layer, by RMSNorm; no biases anywhere; no position
embedding, but a number that each head adds to the score of a query and a key, chosen by the bucket that their distance
falls into, and shared by all layers; scores that are not divided by sqrt(D), which the initial weights make up for.
Version 1.1 (also Flan-T5) gates its feed-forward layer with GELU and has a head of its own.

The modules carry the names of the published checkpoints (encoder.block.0.layer.0.SelfAttention.q.weight, ...).

Shapes in comments: B sequences, S source tokens (or keys), T target tokens (or queries), C = d_model channels,
H heads of D = d_kv channels, V the vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, Optional

from .. import nn
from ..engine.tensor import Tensor
from ..nn import functional as F
from ..nn.attention import Past, both, causal, padding
from .base import PretrainedModel
from .gpt import ACTIVATIONS
from .seq2seq import EncoderDecoder, Memory


@dataclass
class T5Config:
    """The sizes of a T5; the defaults are those of t5-small (60 million parameters)."""

    d_model: int = 512
    d_ff: int = 2048
    d_kv: int = 64
    num_heads: int = 8
    num_layers: int = 6
    num_decoder_layers: int = 0  # 0: as many as the encoder's
    vocab_size: int = 32128
    feed_forward_proj: str = "relu"  # an activation, or gated- and an activation
    tie_word_embeddings: bool = True
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self) -> None:
        self.num_decoder_layers = self.num_decoder_layers or self.num_layers
        for name in ("d_model", "d_ff", "d_kv", "num_heads", "num_layers", "num_decoder_layers", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"T5Config: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"T5Config: {name} {getattr(self, name)} is no token of {self.vocab_size}")
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ValueError(f"T5Config: dropout_rate must be in [0, 1), not {self.dropout_rate}")
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(
                f"T5Config: unknown feed_forward_proj {self.feed_forward_proj!r}; known, also with gated-: {known}"
            )

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.gated and name == "gelu" else name


def _preset(d_model: int, d_ff: int, d_kv: int, num_heads: int, num_layers: int, **options: Any) -> dict[str, Any]:
    return dict(d_model=d_model, d_ff=d_ff, d_kv=d_kv, num_heads=num_heads, num_layers=num_layers, **options)


_V1_1 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
PRESETS = {
    "t5-small": _preset(512, 2048, 64, 8, 6),
    "t5-base": _preset(768, 3072, 64, 12, 12),
    "t5-large": _preset(1024, 4096, 64, 16, 24),
    "t5-3b": _preset(1024, 16384, 128, 32, 24),
    "t5-11b": _preset(1024, 65536, 128, 128, 24),
    "t5-v1_1-small": _preset(512, 1024, 64, 6, 8, **_V1_1),
    "t5-v1_1-base": _preset(768, 2048, 64, 12, 12, **_V1_1),
    "t5-v1_1-large": _preset(1024, 2816, 64, 16, 24, **_V1_1),
    "t5-v1_1-xl": _preset(2048, 5120, 64, 32, 24, **_V1_1),
    "t5-v1_1-xxl": _preset(4096, 10240, 64, 64, 24, **_V1_1),
}


NOTHING_GIVEN = repeat((None, None))  # to the layers of an encoder


class Attention(nn.Module):
    """Multi-head attention without biases, whose scores are not divided by sqrt(D)."""

    relative_attention_bias: nn.RelativePositionBias  # in the first self-attention of a stack

    def __init__(self, config: T5Config):
        self.num_heads, self.dropout = config.num_heads, config.dropout_rate
        inner = config.num_heads * config.d_kv
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H D) -> (B, H, T, D)"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def memory(self, x: Tensor) -> Memory:
        """Keys and values (B, H, S, D) of x (B, S, C)."""
        return self._heads(self.k(x)), self._heads(self.v(x))

    def forward(self, x: Tensor, memory: Memory, mask: Optional[Tensor]) -> Tensor:
        """x (B, T, C) looks at the memory (B, H, S, D), as the mask, bool or added, (..., T, S), says."""
        q = self._heads(self.q(x))  # (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, *memory, mask, dropout, scale=1.0)  # (B, H, T, D)
        return self.o(y.transpose(1, 2).flatten(2))  # (B, T, C)


class SelfAttentionLayer(nn.Module):
    """x + attention(norm(x)). Of a stack, the first layer has the table of biases; the others use what it computes."""

    def __init__(self, config: T5Config, first: bool, decoder: bool):
        self.SelfAttention = Attention(config)
        if first:
            self.SelfAttention.relative_attention_bias = nn.RelativePositionBias(
                config.num_heads,
                config.relative_attention_num_buckets,
                config.relative_attention_max_distance,
                bidirectional=not decoder,
            )
        self.layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self, x: Tensor, bias: Optional[Tensor], seen: Optional[Tensor], past: Optional[Past]
    ) -> tuple[Tensor, Tensor]:
        """(B, T, C), and what is added to the scores (..., H, T, S), which the first layer makes: -inf if not seen."""
        normed = self.layer_norm(x)
        k, v = self.SelfAttention.memory(normed)  # (B, H, T, D) each
        keys = queries = Tensor.arange(x.shape[1], dtype="int32", device=x.device)  # (T)
        if past is not None:
            k, v, seen = past(k, v)  # (B, H, S, D), (B, H, S, D), (..., T, S)
            keys = Tensor.arange(k.shape[2], dtype="int32", device=x.device)  # (S)
            # a query stands at the last key that it sees: (T)
            queries = seen.where(keys, 0).reshape(-1, x.shape[1], k.shape[2]).max((0, 2))
        if bias is None:
            bias = self.SelfAttention.relative_attention_bias(queries, keys)  # (H, T, S)
            bias = bias if seen is None else seen.where(bias, -math.inf)
        return x + self.dropout(self.SelfAttention(normed, (k, v), bias)), bias


class CrossAttentionLayer(nn.Module):
    def __init__(self, config: T5Config):
        self.EncDecAttention = Attention(config)
        self.layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, memory: Memory, mask: Optional[Tensor]) -> Tensor:
        return x + self.dropout(self.EncDecAttention(self.layer_norm(x), memory, mask))


class Dense(nn.Module):
    """act(x Wi) Wo."""

    def __init__(self, config: T5Config):
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.act = ACTIVATIONS[config.activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.dropout(self.act(self.wi(x))))


class GatedDense(nn.Module):
    """(act(x W0) * x W1) Wo (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: T5Config):
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.act = ACTIVATIONS[config.activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.dropout(self.act(self.wi_0(x)) * self.wi_1(x)))


class FeedForwardLayer(nn.Module):
    def __init__(self, config: T5Config):
        self.DenseReluDense = GatedDense(config) if config.gated else Dense(config)
        self.layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class Block(nn.Module):
    """Self-attention, cross-attention (in a decoder), feed-forward."""

    def __init__(self, config: T5Config, first: bool, decoder: bool):
        cross = [CrossAttentionLayer(config)] if decoder else []
        self.layer = nn.ModuleList([SelfAttentionLayer(config, first, decoder), *cross, FeedForwardLayer(config)])


class Stack(nn.Module):
    """The encoder, or the decoder."""

    def __init__(self, config: T5Config, shared: nn.Embedding, decoder: bool):
        self.decoder = decoder
        self.embed_tokens = shared
        layers = config.num_decoder_layers if decoder else config.num_layers
        self.block = nn.ModuleList(Block(config, index == 0, decoder) for index in range(layers))
        self.final_layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        tokens: Tensor,
        mask: Optional[Tensor] = None,
        given: Iterable[tuple[Optional[Memory], Optional[Past]]] = NOTHING_GIVEN,
        memory_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """(B, T) to (B, T, C); the arguments are those of `EncoderDecoder.decode`."""
        seen, bias = padding(mask), None  # (B, 1, 1, T)
        if self.decoder:
            seen = both(causal(tokens.shape[1], tokens.shape[1], tokens.device), seen)  # (T, T) or (B, 1, T, T)
        x = self.dropout(self.embed_tokens(tokens))  # (B, T, C)
        for block, (memory, past) in zip(self.block, given):
            attention, *cross, feed_forward = block.layer
            x, bias = attention(x, bias, seen, past)
            for layer in cross:
                x = layer(x, memory, memory_mask)
            x = feed_forward(x)
        return self.dropout(self.final_layer_norm(x))


class _T5(PretrainedModel):
    """What a whole T5 and its encoder alone have in common."""

    Config = T5Config
    fields: ClassVar = {field.name: (field.name, field.default) for field in dataclasses.fields(T5Config)}
    presets: ClassVar = PRESETS

    @classmethod
    def config_from(cls, content: dict[str, Any]) -> T5Config:
        # later versions of transformers always write that the head is tied, and mean it if they scale what it gets
        tied = content.get("scale_decoder_outputs", content.get("tie_word_embeddings", True))
        layers, start = content.get("num_decoder_layers") or 0, content.get("decoder_start_token_id")
        if start is None:
            start = content.get("pad_token_id", 0)  # as all published ones have it
        changed = {"tie_word_embeddings": tied, "num_decoder_layers": layers, "decoder_start_token_id": start}
        return super().config_from(content | changed)


class T5(_T5, EncoderDecoder):
    """T5 with its language-model head."""

    model_type = "t5"
    architectures = ("T5ForConditionalGeneration", "T5Model")
    ignored = re.compile(r"EncDecAttention\.relative_attention_bias")  # in the first published files, and not used

    def __init__(self, config: T5Config):
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, self.shared, decoder=False)
        self.decoder = Stack(config, self.shared, decoder=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.shared.weight
        _initialise(self, config)

    def _load(self, shapes: dict[str, tuple[int, ...]], arrays: Any) -> None:
        if "lm_head.weight" not in shapes:  # a bare T5Model; transformers takes the embedding then, unscaled or not
            self.lm_head.weight = self.shared.weight
        super()._load(shapes, arrays)

    def encode(self, tokens: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        return self.encoder(tokens, mask)

    def memories(self, encoded: Tensor) -> list[Memory]:
        return [block.layer[1].EncDecAttention.memory(encoded) for block in self.decoder.block]

    def decode(self, tokens, positions, given, mask, memory_mask) -> Tensor:
        return self.decoder(tokens, mask, given, memory_mask)  # whatever the positions: T5 knows distances alone

    def logits(self, features: Tensor) -> Tensor:
        # the embeddings have a scale of 1, which would be too large for a head
        return self.lm_head(features * self.config.d_model**-0.5 if self.config.tie_word_embeddings else features)

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        return self.config.num_decoder_layers, self.config.num_heads, self.config.d_kv


class T5Encoder(_T5):
    """The encoder alone: tokens to features, as `T5.encode`. Reads checkpoints of whole T5s too."""

    model_type = "t5"
    architectures = ("T5EncoderModel",)
    ignored = re.compile(r"^decoder\.|^lm_head\.")

    def __init__(self, config: T5Config):
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, self.shared, decoder=False)
        _initialise(self, config)

    def forward(self, tokens: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Tokens (B, S), and which of them are real, bool (B, S), to features (B, S, C)."""
        return self.encoder(tokens, mask)


def _initialise(model: nn.Module, config: T5Config) -> None:
    """T5's initial values: N(0, 1 / inputs), the queries' divided by sqrt(D) too; embeddings and a head N(0, 1)."""
    for name, parameter in model.named_parameters():
        layer = name.split(".")[-2]
        inputs = {
            "q": config.d_model * config.d_kv,
            "o": config.num_heads * config.d_kv,
            "wo": config.d_ff,
            "shared": 1,
            "lm_head": 1,
        }.get(layer, config.d_model)
        if parameter.ndim == 2:
            nn.init.normal_(parameter, 0.0, inputs**-0.5)
