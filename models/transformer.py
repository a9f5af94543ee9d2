"""The encoder-decoder of "Attention Is All You Need" (Vaswani et al., arXiv 1706.03762).

Source and target share one table of embeddings, which is the output projection as well; embeddings are multiplied by
sqrt(C), and sinusoids tell them where they stand. Each sublayer's output is dropped out, added and normalised. Dropout
is where the paper has it: on what each sublayer adds, and on the sums of embeddings and positions.

Its layers are those of `nn.Transformer`, and so are the names of its weights (encoder.layers.0.linear1.weight).

Shapes in comments: B sequences, S source tokens, T target tokens, C = d_model channels, H heads of D = C / H channels,
V the vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

from .. import nn
from ..engine.products import attention_weights
from ..engine.tensor import Tensor
from ..nn import functional as F
from ..nn.attention import Past, padding
from .seq2seq import EncoderDecoder, Memory


@dataclass
class TransformerConfig:
    """The sizes and rates of training; the defaults are the paper's base model (65 million parameters)."""

    vocab_size: int = 37000  # of source and target together
    d_model: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_heads: int = 8
    d_ff: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.0  # of the attention's probabilities, which the paper does not have
    activation_dropout: float = 0.0  # inside the feed-forward layers, which the paper does not have
    label_smoothing: float = 0.1  # in training
    norm_first: bool = False  # pre-LN: normalise what goes into a sublayer, and the end of each stack
    pad_token_id: int = 0
    decoder_start_token_id: int = 1
    eos_token_id: int = 2

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "encoder_layers", "decoder_layers", "num_heads", "d_ff"):
            if getattr(self, name) < 1:
                raise ValueError(f"TransformerConfig: {name} must be at least 1, not {getattr(self, name)}")
        if self.d_model % self.num_heads or self.d_model % 2:
            raise ValueError(
                f"TransformerConfig: d_model {self.d_model} must be a multiple of num_heads {self.num_heads}, and even"
            )
        for name in ("dropout", "attention_dropout", "activation_dropout", "label_smoothing"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"TransformerConfig: {name} must be in [0, 1), not {getattr(self, name)}")
        for name in ("pad_token_id", "decoder_start_token_id", "eos_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"TransformerConfig: {name} {getattr(self, name)} is no token of {self.vocab_size}")


class SharedEmbedding(nn.Embedding):
    """What tokens become, and its transpose the output projection: (..., C) to (..., V).

    A layer of its own kind, which `nn.quantize` leaves whole: a packed table has no product with features.
    """

    def logits(self, features: Tensor) -> Tensor:
        return F.linear(features.to(self.weight.device), self.weight)


class DecoderLayer(nn.TransformerDecoderLayer):
    """nn's, of which generation asks more: to keep keys and values of the target, and to make the source's once."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        memory: Memory,
        memory_mask: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        past: Optional[Past] = None,
    ) -> Tensor:
        """x (B, T, C) to the same. Real tokens: mask (B, T), memory_mask (B, 1, 1, S)."""
        x = self.attend(x, mask, past)
        x = self.branch(2, x, lambda x: self.multihead_attn.attend(self._queries(x), *memory, memory_mask))
        return self.branch(3, x, self.feed_forward)

    def attend(self, x: Tensor, mask: Optional[Tensor] = None, past: Optional[Past] = None) -> Tensor:
        """The first sublayer, causal self-attention."""
        unreal = None if mask is None else mask.logical_not()
        return self.branch(1, x, lambda x: self.self_attn(x, x, x, unreal, False, is_causal=True, past=past)[0])

    def weights(self, x: Tensor, memory: Memory, memory_mask: Optional[Tensor], mask: Optional[Tensor]) -> Tensor:
        """How much each token of the target looks at each of the source: (B, H, T, S)."""
        x = self.attend(x, mask)
        return attention_weights(self._queries(self.norm2(x) if self.norm_first else x), memory[0], memory_mask)

    def _queries(self, x: Tensor) -> Tensor:
        return self.multihead_attn.project_query(x)  # (B, H, T, D)


class Transformer(EncoderDecoder):
    """The 2017 model, post-LN as in the paper or pre-LN. It has no longest sequence.

    The paper counts 65 and 213 million parameters for base and big, of "about 37000" tokens: with 37,000 they are 63.1
    and 214.2 million.
    """

    Config = TransformerConfig
    model_type = "transformer-2017"
    architectures = ("Transformer2017",)
    fields: ClassVar = {field.name: (field.name, field.default) for field in dataclasses.fields(TransformerConfig)}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "transformer-base": dict(d_model=512, num_heads=8, d_ff=2048, dropout=0.1),
        "transformer-big": dict(d_model=1024, num_heads=16, d_ff=4096, dropout=0.3),
    }

    def __init__(self, config: TransformerConfig):
        self.config = config
        self.embedding = SharedEmbedding(config.vocab_size, config.d_model)
        self.positions = nn.SinusoidalPositions(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        sizes = (config.d_model, config.num_heads, config.d_ff, config.dropout)
        options: dict[str, Any] = dict(batch_first=True, norm_first=config.norm_first)
        norms = [nn.LayerNorm(config.d_model) if config.norm_first else None for _ in range(2)]
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(*sizes, **options), config.encoder_layers, norms[0]
        )
        self.decoder = nn.TransformerDecoder(DecoderLayer(*sizes, **options), config.decoder_layers, norms[1])
        layer: Any
        for layer in (*self.encoder.layers, *self.decoder.layers):
            layer.dropout.p = config.activation_dropout
            for name in layer.attentions:
                getattr(layer, name).dropout = config.attention_dropout
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.embedding.weight, 0.0, config.d_model**-0.5)

    def forward(
        self,
        source: Tensor,
        target_in: Optional[Tensor] = None,
        targets: Optional[Tensor] = None,
        source_mask: Optional[Tensor] = None,
        target_mask: Optional[Tensor] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """As `EncoderDecoder.forward`; in training the loss is that of smoothed targets."""
        logits, loss = super().forward(source, target_in, targets, source_mask, target_mask)
        if targets is not None and self.training and self.config.label_smoothing:
            rows = logits.reshape(-1, logits.shape[-1])
            loss = F.cross_entropy(rows, targets.reshape(-1), label_smoothing=self.config.label_smoothing)
        return logits, loss

    def _embed(self, tokens: Tensor, positions: Optional[Tensor] = None) -> Tensor:
        """(B, T) integers, at positions (T) or (B, T), 0 to T - 1 unless given, to (B, T, C)."""
        if positions is None:
            positions = Tensor.arange(tokens.shape[1], dtype="int32", device=tokens.device)
        x = self.embedding(tokens) * math.sqrt(self.config.d_model)
        return self.dropout(x + self.positions(positions).cast(x.dtype))

    def encode(self, tokens: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        return self.encoder(self._embed(tokens), src_key_padding_mask=None if mask is None else mask.logical_not())

    def memories(self, encoded: Tensor) -> list[Memory]:
        layers: list[Any] = list(self.decoder.layers)
        return [layer.multihead_attn.project_memory(encoded, encoded) for layer in layers]

    def decode(self, tokens, positions, given, mask, memory_mask) -> Tensor:
        x = self._embed(tokens, positions)  # (B, T, C)
        for layer, (memory, past) in zip(self.decoder.layers, given):
            x = layer(x, memory, memory_mask, mask, past)
        return x if self.decoder.norm is None else self.decoder.norm(x)

    def logits(self, features: Tensor) -> Tensor:
        return self.embedding.logits(features)

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        return self.config.decoder_layers, self.config.num_heads, self.config.d_model // self.config.num_heads

    def cross_attention(
        self, source: Tensor, target_in: Tensor, layer: int = -1, source_mask: Optional[Tensor] = None
    ) -> Tensor:
        """What a layer of the decoder looks at: (B, H, T, S), each row the shares of the source's tokens, sum 1.

        source (B, S), target_in (B, T) the decoder's input, source_mask (B, S) bool of real tokens. Row t is of the
        step that reads target_in[t] and writes the token after it. Raises IndexError for a layer that there is not.
        """
        layers: list[Any] = list(self.decoder.layers)
        chosen = range(len(layers))[layer]
        memories, mask = self.memories(self.encode(source, source_mask)), padding(source_mask)
        x = self._embed(target_in)
        for block, memory in zip(layers[:chosen], memories):
            x = block(x, memory, mask)
        return layers[chosen].weights(x, memories[chosen], mask, None)
