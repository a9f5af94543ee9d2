"""The layers of "Attention Is All You Need" (Vaswani et al., arXiv 1706.03762) under PyTorch's names; feed-forward.

A layer is attention and feed-forward, each added to its input. Post-LN, as in the paper, normalises the sum:
x = norm(x + f(x)); pre-LN (`norm_first`; Xiong et al., arXiv 2002.04745) what goes in: x = x + f(norm(x)).

Masks mean what they mean in PyTorch: a bool one is True where a key must NOT be seen, a float one is added to scores.
Shapes: B sequences, T tokens of the target, S of the source, E = d_model; (T, B, E) unless `batch_first`.

>>> from clgrad import Tensor, nn
>>> net = nn.Transformer(d_model=8, nhead=2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=16)
>>> source, target = Tensor.ones(6, 3, 8), Tensor.ones(4, 3, 8)
>>> net(source, target, tgt_mask=net.generate_square_subsequent_mask(4)).shape
(4, 3, 8)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Optional, Union

from ..engine.ops import ShapeError
from ..engine.tensor import Tensor
from . import functional as F
from . import init
from .attention import MultiheadAttention
from .layers import Dropout, Linear
from .module import Module, ModuleList
from .normalization import LayerNorm

Activation = Union[str, Callable[[Tensor], Tensor]]
ACTIVATIONS = ("relu", "gelu", "quick_gelu", "silu", "mish", "tanh", "sigmoid")


def activation_function(activation: Activation) -> Callable[[Tensor], Tensor]:
    """The function of `functional` of that name; a function is itself. Raises ValueError for an unknown name."""
    if not isinstance(activation, str):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} must be a function or one of {', '.join(ACTIVATIONS)}")
    return getattr(F, activation)


# --- feed-forward -----------------------------------------------------------------------------------------------------


class FeedForward(Module):
    """W2 f(W1 x + b1) + b2 for each token, (..., dim) to the same, with `hidden_dim` channels between.

    f is the paper's ReLU or any other activation. `dropout` acts on the hidden channels.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        activation: Activation = "relu",
        bias: bool = True,
        dropout: float = 0.0,
        device: Optional[str] = None,
        dtype=None,
    ):
        self.activation = activation_function(activation)
        self.linear1 = Linear(dim, hidden_dim, bias, device, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(hidden_dim, dim, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class GatedFeedForward(Module):
    """down(f(gate x) * up x) for each token, (..., dim) to the same (Shazeer, arXiv 2002.05202).

    The projections have Llama's names. `SwiGLU` and `GeGLU` are those with f = silu and gelu.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        activation: Activation = "silu",
        bias: bool = False,
        dropout: float = 0.0,
        device: Optional[str] = None,
        dtype=None,
    ):
        self.activation = activation_function(activation)
        self.gate_proj = Linear(dim, hidden_dim, bias, device, dtype)
        self.up_proj = Linear(dim, hidden_dim, bias, device, dtype)
        self.dropout = Dropout(dropout)
        self.down_proj = Linear(hidden_dim, dim, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.dropout(self.activation(self.gate_proj(x)) * self.up_proj(x)))


class SwiGLU(GatedFeedForward):
    """down(silu(gate x) * up x): Llama's feed-forward."""

    def __init__(self, dim: int, hidden_dim: int, bias: bool = False, dropout: float = 0.0, **options: Any):
        super().__init__(dim, hidden_dim, "silu", bias, dropout, **options)


class GeGLU(GatedFeedForward):
    """down(gelu(gate x) * up x), with the gelu whose `approximate` is given; that of T5 v1.1 is "tanh"."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        bias: bool = False,
        dropout: float = 0.0,
        approximate: str = "none",
        **options: Any,
    ):
        super().__init__(dim, hidden_dim, lambda x: F.gelu(x, approximate), bias, dropout, **options)


# --- layers -----------------------------------------------------------------------------------------------------------


class _Layer(Module):
    """Attentions of the names in `attentions`, then feed-forward, each a branch beside which its input goes on.

    Branch i has norm{i} and dropout{i}. What is said of the arguments at TransformerEncoderLayer holds for all.
    """

    attentions: tuple[str, ...]
    self_attn: MultiheadAttention
    norm1: LayerNorm
    norm2: LayerNorm

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Optional[str] = None,
        dtype=None,
    ):
        self.norm_first, self.activation = norm_first, activation_function(activation)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        for name in self.attentions:
            attention = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **options)
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **options)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **options)
        branches = range(1, len(self.attentions) + 2)
        for i in branches:
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, **options))
        for i in branches:
            setattr(self, f"dropout{i}", Dropout(dropout))

    def branch(self, i: int, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """x and what branch i makes of it: norm(x + f(x)), or x + f(norm(x)) with `norm_first`."""
        norm, dropout = getattr(self, f"norm{i}"), getattr(self, f"dropout{i}")
        return x + dropout(f(norm(x))) if self.norm_first else norm(x + dropout(f(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention and feed-forward; torch.nn.TransformerEncoderLayer's names, defaults and results.

    Args:
        d_model, nhead: channels and heads.
        dim_feedforward: channels inside the feed-forward.
        dropout: of attention weights, of hidden channels, and of what is added.
        activation: the name of a function of `functional`, or a function of Tensors.
        norm_first: pre-LN rather than post-LN.
        bias: whether projections and norms have biases.
    """

    attentions = ("self_attn",)

    def forward(
        self,
        src: Tensor,
        src_mask: Optional[Tensor] = None,
        src_key_padding_mask: Optional[Tensor] = None,
        is_causal: bool = False,
    ) -> Tensor:
        """src (S, B, E) to the same; src_mask (S, S) or (B H, S, S), src_key_padding_mask (B, S).

        `is_causal` says that src_mask is the causal one, which then need not be given.
        """
        x = self.branch(
            1, src, lambda x: self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)[0]
        )
        return self.branch(2, x, self.feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output, feed-forward; torch.nn.TransformerDecoderLayer's.

    The arguments are TransformerEncoderLayer's.
    """

    attentions = ("self_attn", "multihead_attn")
    multihead_attn: MultiheadAttention

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Optional[Tensor] = None,
        memory_mask: Optional[Tensor] = None,
        tgt_key_padding_mask: Optional[Tensor] = None,
        memory_key_padding_mask: Optional[Tensor] = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """tgt (T, B, E) and memory (S, B, E) to (T, B, E).

        tgt_mask (T, T), memory_mask (T, S), or either with B H in front; padding masks (B, T) and (B, S). The causal
        flags say that a mask is the causal one, which then need not be given.
        """

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal)[0]

        def look(x: Tensor) -> Tensor:
            masks = (memory_key_padding_mask, False, memory_mask)
            return self.multihead_attn(x, memory, memory, *masks, is_causal=memory_is_causal)[0]

        x = self.branch(1, tgt, attend)
        x = self.branch(2, x, look)
        return self.branch(3, x, self.feed_forward)


# --- stacks -----------------------------------------------------------------------------------------------------------


def _copies(layer: Module, count: int) -> ModuleList:
    """Copies that start equal and learn apart. No value is computed for it, as deepcopy by itself would."""

    def copied() -> Module:
        own = {id(t): t.detach().requires_grad_(t.requires_grad) for t in layer.state_dict().values()}
        return copy.deepcopy(layer, own)

    return ModuleList(copied() for _ in range(count))


class TransformerEncoder(Module):
    """`num_layers` copies of a layer, which start equal, and perhaps a norm; torch.nn.TransformerEncoder's names.

    `enable_nested_tensor` and `mask_check` are PyTorch's and change nothing here.
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Optional[Module] = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ):
        self.layers = _copies(encoder_layer, num_layers)
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self,
        src: Tensor,
        mask: Optional[Tensor] = None,
        src_key_padding_mask: Optional[Tensor] = None,
        is_causal: Optional[bool] = None,
    ) -> Tensor:
        """src (S, B, E) to the same; masks as in TransformerEncoderLayer."""
        x = src
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask, bool(is_causal))
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(Module):
    """`num_layers` copies of a layer, which start equal, and perhaps a norm; torch.nn.TransformerDecoder's names."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Optional[Module] = None):
        self.layers = _copies(decoder_layer, num_layers)
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Optional[Tensor] = None,
        memory_mask: Optional[Tensor] = None,
        tgt_key_padding_mask: Optional[Tensor] = None,
        memory_key_padding_mask: Optional[Tensor] = None,
        tgt_is_causal: Optional[bool] = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """tgt (T, B, E) and memory (S, B, E) to (T, B, E); masks as in TransformerDecoderLayer."""
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        x = tgt
        for layer in self.layers:
            x = layer(x, memory, *masks, bool(tgt_is_causal), memory_is_causal)
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """Encoder and decoder without embeddings; torch.nn.Transformer's names, defaults and results.

    Both end in a norm, in post-LN as well. All matrices start uniform as Glorot and Bengio have it. `custom_encoder`
    and `custom_decoder` are used in place of those that the other arguments describe.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        custom_encoder: Optional[Module] = None,
        custom_decoder: Optional[Module] = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Optional[str] = None,
        dtype=None,
    ):
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        sizes = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)

        def norm() -> Module:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*sizes, device, dtype), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*sizes, device, dtype), num_decoder_layers, norm()
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Optional[Tensor] = None,
        tgt_mask: Optional[Tensor] = None,
        memory_mask: Optional[Tensor] = None,
        src_key_padding_mask: Optional[Tensor] = None,
        tgt_key_padding_mask: Optional[Tensor] = None,
        memory_key_padding_mask: Optional[Tensor] = None,
        src_is_causal: Optional[bool] = None,
        tgt_is_causal: Optional[bool] = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """src (S, B, E) and tgt (T, B, E) to (T, B, E); masks as in the layers. Raises ShapeError for other shapes."""
        batch = 0 if self.batch_first else 1
        if src.ndim != tgt.ndim or src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ShapeError(f"Transformer: src {src.shape} and tgt {tgt.shape} must both end in {self.d_model}")
        if src.ndim == 3 and src.shape[batch] != tgt.shape[batch]:
            raise ShapeError(f"Transformer: src {src.shape} and tgt {tgt.shape} must be of one batch (axis {batch})")
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        return self.decoder(tgt, memory, *masks, tgt_is_causal, memory_is_causal)

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Optional[str] = None, dtype=None) -> Tensor:
        """(sz, sz) floats to be added to scores: -inf where a key stands behind its query, else 0."""
        return Tensor.full((sz, sz), -math.inf, dtype=dtype or "float32", device=device).triu(1)
