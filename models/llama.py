"""Llama: the decoder-only transformer of today (Touvron et al., 2023, arXiv 2302.13971), in its published layout.

Against GPT-2: positions turn queries and keys (RoPE) rather than being added, RMSNorm takes the place of LayerNorm, the
feed-forward is gated (SwiGLU), heads share keys and values in groups, and there are no biases. Mistral, SmolLM2 and
TinyLlama are of this layout too; Mistral's tokens look back on the last `sliding_window` alone.

The modules carry the names of the published checkpoints (model.layers.0.self_attn.q_proj.weight, ...).

Shapes in comments: B sequences, T tokens, C = hidden_size channels, H heads of D = head_dim channels, V the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional, Union

from .. import nn
from ..engine.tensor import Tensor
from ..nn.attention import Past
from .decoder import LanguageModel
from .gpt import ACTIVATIONS

# rope_type -> the numbers that config.json's rope_scaling must have with it
ROPE_SCALING = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


@dataclass
class LlamaConfig:
    """The sizes of a Llama under the names of config.json; the defaults are those of the first, of 7 billion."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: Optional[int] = None  # None: as many as num_attention_heads
    head_dim: Optional[int] = None  # None: hidden_size / num_attention_heads
    max_position_embeddings: int = 2048  # the most tokens of a sequence
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Optional[dict[str, Any]] = None  # see nn.RotaryEmbedding
    rope_interleaved: bool = False  # pairs of neighbouring channels, as in GGUF files, not of the two halves
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    sliding_window: Optional[int] = None  # how many tokens back, itself included, each sees; None: all
    tie_word_embeddings: bool = False
    bos_token_id: Optional[int] = None  # what stands before a text
    eos_token_id: Union[int, list[int], None] = None  # what ends one

    def __post_init__(self) -> None:
        heads = self.num_attention_heads
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"LlamaConfig: {name} must be an integer of at least 1, not {value!r}")
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"LlamaConfig: hidden_size {self.hidden_size} must be a multiple of the {heads} heads")
        self.head_dim = self.head_dim or self.hidden_size // heads
        self.num_key_value_heads = self.num_key_value_heads or heads
        if heads % self.num_key_value_heads or self.head_dim % 2:
            raise ValueError(
                f"LlamaConfig: num_attention_heads {heads} must be a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}, and head_dim {self.head_dim} even"
            )
        if not 0.0 <= self.attention_dropout < 1.0:
            raise ValueError(f"LlamaConfig: attention_dropout must be in [0, 1), not {self.attention_dropout}")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"LlamaConfig: unknown hidden_act {self.hidden_act!r}; known: {', '.join(ACTIVATIONS)}")
        _check_scaling(self.rope_scaling)


def _check_scaling(scaling: Optional[dict[str, Any]]) -> None:
    """Raise ValueError for a rope_scaling that nn.RotaryEmbedding does not know."""
    if scaling is None:
        return
    if not isinstance(scaling, dict):
        raise ValueError(f"LlamaConfig: rope_scaling must be a dict, not {scaling!r}")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(kind, str) or kind not in ROPE_SCALING:
        raise ValueError(f"LlamaConfig: unknown rope_type {kind!r}; known: {', '.join(ROPE_SCALING)}")
    for key in ROPE_SCALING[kind]:
        if type(scaling.get(key)) not in (int, float) or scaling[key] <= 0:
            raise ValueError(f"LlamaConfig: rope_scaling of rope_type {kind!r} needs a positive {key}")


def _preset(hidden, feed_forward, layers, heads, kv_heads, vocabulary, longest, eps=1e-5, **others) -> dict[str, Any]:
    return dict(
        hidden_size=hidden, intermediate_size=feed_forward, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, max_position_embeddings=longest, rms_norm_eps=eps,
        **others,
    )  # fmt: skip


def _llama3(factor: float) -> dict[str, Any]:
    """RoPE of Llama 3.1 and later, whose context was stretched from 8192."""
    scaling = dict(low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    return dict(rope_theta=500000.0, rope_scaling={"rope_type": "llama3", "factor": factor} | scaling)


# Touvron et al., arXiv 2302.13971 and 2307.09288; Grattafiori et al., arXiv 2407.21783; Jiang et al., arXiv 2310.06825;
# Zhang et al., arXiv 2401.02385; Allal et al., arXiv 2502.02737; and the config.json of each
PRESETS = {
    "llama-7b": _preset(4096, 11008, 32, 32, 32, 32000, 2048, 1e-6),
    "llama-13b": _preset(5120, 13824, 40, 40, 40, 32000, 2048, 1e-6),
    "llama-30b": _preset(6656, 17920, 60, 52, 52, 32000, 2048, 1e-6),
    "llama-65b": _preset(8192, 22016, 80, 64, 64, 32000, 2048, 1e-6),
    "llama-2-7b": _preset(4096, 11008, 32, 32, 32, 32000, 4096),
    "llama-2-13b": _preset(5120, 13824, 40, 40, 40, 32000, 4096),
    "llama-2-70b": _preset(8192, 28672, 80, 64, 8, 32000, 4096),
    "llama-3-8b": _preset(4096, 14336, 32, 32, 8, 128256, 8192, rope_theta=500000.0),
    "llama-3-70b": _preset(8192, 28672, 80, 64, 8, 128256, 8192, rope_theta=500000.0),
    "llama-3.1-8b": _preset(4096, 14336, 32, 32, 8, 128256, 131072, **_llama3(8.0)),
    "llama-3.1-70b": _preset(8192, 28672, 80, 64, 8, 128256, 131072, **_llama3(8.0)),
    "llama-3.1-405b": _preset(16384, 53248, 126, 128, 8, 128256, 131072, **_llama3(8.0)),
    "llama-3.2-1b": _preset(2048, 8192, 16, 32, 8, 128256, 131072, tie_word_embeddings=True, **_llama3(32.0)),
    "llama-3.2-3b": _preset(3072, 8192, 28, 24, 8, 128256, 131072, tie_word_embeddings=True, **_llama3(32.0)),
    "mistral-7b": _preset(4096, 14336, 32, 32, 8, 32000, 32768, sliding_window=4096),
    "tinyllama-1.1b": _preset(2048, 5632, 22, 32, 4, 32000, 2048),
    "smollm2-135m": _preset(576, 1536, 30, 9, 3, 49152, 8192, rope_theta=100000.0, tie_word_embeddings=True),
    "smollm2-360m": _preset(960, 2560, 32, 15, 5, 49152, 8192, rope_theta=100000.0, tie_word_embeddings=True),
    "smollm2-1.7b": _preset(2048, 8192, 24, 32, 32, 49152, 8192, rope_theta=130000.0, tie_word_embeddings=True),
}


class MLP(nn.Module):
    """down(act(gate(x)) up(x)): a feed-forward whose second half is let through by its first (arXiv 2002.05202)."""

    def __init__(self, config: LlamaConfig):
        wide, narrow, bias = config.intermediate_size, config.hidden_size, config.mlp_bias
        self.gate_proj = nn.Linear(narrow, wide, bias=bias)
        self.up_proj = nn.Linear(narrow, wide, bias=bias)
        self.down_proj = nn.Linear(wide, narrow, bias=bias)
        self.act_fn = ACTIVATIONS[config.hidden_act]()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))  # (B, T, C)


class Block(nn.Module):
    def __init__(self, config: LlamaConfig):
        self.self_attn = nn.GroupedQueryAttention(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads or config.num_attention_heads,
            head_dim=config.head_dim,
            bias=config.attention_bias,
            dropout=config.attention_dropout,
            interleaved=config.rope_interleaved,
        )
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Optional[Tensor] = None, past: Optional[Past] = None
    ) -> Tensor:
        """(B, T, C) to (B, T, C). `mask` (..., T, T) says what each token may see, where that is not all before it."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, past, is_causal=mask is None)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Everything but the head: tokens to features."""

    def __init__(self, config: LlamaConfig):
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        self.rotary_emb = nn.RotaryEmbedding(head_dim, config.rope_theta, config.rope_scaling)

    def forward(
        self, tokens: Tensor, positions: Optional[Tensor], pasts: Iterable[Optional[Past]], seen: Optional[Tensor]
    ) -> Tensor:
        """(B, T) integers to (B, T, C); see `LanguageModel`."""
        if positions is None:
            positions = Tensor.arange(tokens.shape[1], dtype="int32", device=tokens.device)
        rotation = self.rotary_emb(positions)  # 2 x (T, D/2) or (B, 1, T, D/2)
        x = self.embed_tokens(tokens)  # (B, T, C)
        for block, past in zip(self.layers, pasts):
            x = block(x, rotation, seen, past)
        return self.norm(x)


class Llama(LanguageModel):
    """Llama with its language-model head, which shares its weight with the embedding if `tie_word_embeddings`."""

    Config = LlamaConfig
    model_type = ("llama", "mistral")
    architectures = ("LlamaForCausalLM", "LlamaModel", "MistralForCausalLM", "MistralModel")
    prefix = "model."
    longest = "max_position_embeddings"
    ignored = re.compile(r"rotary_emb\.inv_freq$")
    fields = {
        "vocab_size": ("vocab_size", 32000),
        "hidden_size": ("hidden_size", 4096),
        "intermediate_size": ("intermediate_size", 11008),
        "num_hidden_layers": ("num_hidden_layers", 32),
        "num_attention_heads": ("num_attention_heads", 32),
        "num_key_value_heads": ("num_key_value_heads", None),
        "head_dim": ("head_dim", None),
        "max_position_embeddings": ("max_position_embeddings", 2048),
        "hidden_act": ("hidden_act", "silu"),
        "rms_norm_eps": ("rms_norm_eps", 1e-6),
        "rope_theta": ("rope_theta", 10000.0),
        "rope_scaling": ("rope_scaling", None),
        "attention_bias": ("attention_bias", False),
        "mlp_bias": ("mlp_bias", False),
        "attention_dropout": ("attention_dropout", 0.0),
        "sliding_window": ("sliding_window", None),
        "tie_word_embeddings": ("tie_word_embeddings", False),
        "bos_token_id": ("bos_token_id", None),
        "eos_token_id": ("eos_token_id", None),
    }

    presets = PRESETS

    def __init__(self, config: LlamaConfig):
        self.config = config
        self.model = Transformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, 0.0, 0.02)

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        attention = self.model.layers[0].self_attn
        return self.config.num_hidden_layers, attention.num_kv_heads, attention.head_dim

    @property
    def window(self) -> Optional[int]:
        return self.config.sliding_window

    # -- checkpoints

    @classmethod
    def config_from(cls, content: dict[str, Any]) -> LlamaConfig:
        if content.get("model_type") == "mistral":  # what holds there if it is left out
            content = {"num_key_value_heads": 8, "sliding_window": 4096, "intermediate_size": 14336} | content
        rope = content.get("rope_parameters")  # where newer versions of transformers keep both
        if isinstance(rope, dict):
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            content = content | {"rope_theta": rope.get("rope_theta", 10000.0), "rope_scaling": scaling}
        if isinstance(content.get("rope_scaling"), dict) and "default" in content["rope_scaling"].values():
            content = content | {"rope_scaling": None}
        return super().config_from(content)

    @classmethod
    def config_to(cls, config: LlamaConfig) -> dict[str, Any]:
        content = super().config_to(config)
        if config.sliding_window is None:
            return content
        if config.attention_bias or config.mlp_bias:
            raise ValueError("Llama: no published layout has both a sliding_window and biases, so none can be written")
        return content | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}

    def saved_state(self) -> dict[str, Tensor]:
        state = super().saved_state()
        if not self.config.rope_interleaved:
            return state
        halves = self.cache_shape[2] // 2
        for name, tensor in state.items():  # the first of all pairs, then the second of all, as files have them
            if ".q_proj." in name or ".k_proj." in name:
                state[name] = tensor.unflatten(0, (-1, halves, 2)).transpose(1, 2).flatten(0, 2)
        return state
