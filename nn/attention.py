"""Attention as layers: PyTorch's MultiheadAttention, and grouped-query attention.

Shapes in comments: B sequences, T queries, S keys, E channels, H heads of D = E / H channels.

>>> from clgrad import Tensor, nn
>>> attention = nn.MultiheadAttention(8, num_heads=2, batch_first=True)
>>> x, memory = Tensor.ones(3, 4, 8), Tensor.ones(3, 6, 8)
>>> output, weights = attention(x, memory, memory)
>>> output.shape, weights.shape
((3, 4, 8), (3, 4, 6))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Optional

from ..backends.dtypes import is_bool, is_float
from ..engine.ops import ShapeError
from ..engine.products import attention_weights
from ..engine.tensor import Tensor
from . import functional as F
from . import init
from .layers import Linear
from .module import Module, parameter
from .positions import rotate

# What an attention does with its new keys and values (B, H, T, D) where earlier ones are kept: it gives back all keys
# and values (B, H, S, D), and a bool mask, broadcastable to (B, 1, T, S), of what each query may see.
Past = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class MultiheadAttention(Module):
    """softmax(Q Kᵀ / sqrt(D)) V for each head, Q, K and V being projections, and the heads projected together.

    Vaswani et al., arXiv 1706.03762; names, shapes, defaults and initial values are torch.nn.MultiheadAttention's.

    Args:
        embed_dim: E, a multiple of `num_heads`.
        dropout: the share of attention weights that is dropped in training.
        bias: whether the projections have biases.
        add_bias_kv: a learned key and value stand behind the others (`bias_k`, `bias_v`).
        add_zero_attn: a key and value of zeros stand behind all.
        kdim, vdim: channels of keys and of values, E unless given.
        batch_first: inputs are (B, T, E), not (T, B, E).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: Optional[int] = None,
        vdim: Optional[int] = None,
        batch_first: bool = False,
        device: Optional[str] = None,
        dtype=None,
    ):
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj_weight: Optional[Tensor] = None
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = init.xavier_uniform_(parameter(3 * embed_dim, embed_dim, **options))
        else:
            self.q_proj_weight = init.xavier_uniform_(parameter(embed_dim, embed_dim, **options))
            self.k_proj_weight = init.xavier_uniform_(parameter(embed_dim, self.kdim, **options))
            self.v_proj_weight = init.xavier_uniform_(parameter(embed_dim, self.vdim, **options))
        self.in_proj_bias = parameter(3 * embed_dim, **options) if bias else None
        self.bias_k = init.xavier_normal_(parameter(1, 1, embed_dim, **options)) if add_bias_kv else None
        self.bias_v = init.xavier_normal_(parameter(1, 1, embed_dim, **options)) if add_bias_kv else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, **options)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Optional[Tensor] = None,
        need_weights: bool = True,
        attn_mask: Optional[Tensor] = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        past: Optional[Past] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """query (T, B, E), key (S, B, kdim), value (S, B, vdim) to the output (T, B, E) and the weights (B, T, S).

        With `batch_first` the first two axes are exchanged; without a batch there is no B anywhere.

        Masks mean what they mean in PyTorch, the contrary of scaled_dot_product_attention's: a bool one is True where
        a key must NOT be seen, a float one is added to the scores. `key_padding_mask` (B, S); `attn_mask` (T, S) or
        (B H, T, S). `is_causal` says that `attn_mask` is the causal one, query t seeing keys 0 to t, and need not be
        given. A query that sees nothing gets zeros before the output projection (PyTorch: NaN or zeros).

        The weights, those before dropout, are averaged over the heads, or (B, H, T, S) without
        `average_attn_weights`, and None without `need_weights`; they cost nothing until they are read.
        `past`, for self-attention, keeps earlier keys and values; its mask takes the place of all others.

        Raises ShapeError for shapes that do not fit, TypeError for masks of integers.
        """
        batched = query.ndim == 3
        if query.ndim not in (2, 3) or not query.ndim == key.ndim == value.ndim:
            raise ShapeError(
                f"MultiheadAttention: query {query.shape}, key {key.shape} and value {value.shape} must all have "
                "three axes, with a batch, or all two"
            )
        batch = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (batched and query.shape[batch] != key.shape[batch]):
            raise ShapeError(
                f"MultiheadAttention: query {query.shape}, key {key.shape} and value {value.shape} must be of one "
                f"batch (axis {batch}), and as many keys as values"
            )
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self.project(query, key, value)
        if past is None:
            mask = both(None if is_causal else self._mask(attn_mask, q, k), self._padding(key_padding_mask, q, k))
        else:
            (k, v, mask), is_causal = past(k, v), False
        k, v, mask, is_causal = self._with_extra_keys(k, v, mask, is_causal, q.shape[2])
        output = self.attend(q, k, v, mask, is_causal)  # (B, T, E)
        weights = attention_weights(q, k, mask, is_causal) if need_weights else None  # (B, H, T, S)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, E), (B, S, kdim), (B, S, vdim) to the heads' queries (B, H, T, D), keys and values (B, H, S, D)."""
        if query is key is value and self.in_proj_weight is not None:
            q, k, v = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)  # one product
            return self._heads(q), self._heads(k), self._heads(v)
        return (self.project_query(query), *self.project_memory(key, value))

    def project_query(self, query: Tensor) -> Tensor:
        """(B, T, E) to the heads' queries (B, H, T, D)."""
        return self._project(0, query)

    def project_memory(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, kdim) and (B, S, vdim) to the heads' keys and values (B, H, S, D), once for many queries."""
        key, value = self._moved((key, value))  # one may lie on the device of an encoder's last layer
        return self._project(1, key), self._project(2, value)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None, is_causal: bool = False) -> Tensor:
        """The output (B, T, E) from heads (B, H, T, D) and (B, H, S, D); `mask` is scaled_dot_product_attention's."""
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)  # (B, H, T, D)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _project(self, number: int, x: Tensor) -> Tensor:
        """Queries (0), keys (1) or values (2): (B, T, channels) to (B, H, T, D)."""
        rows = slice(number * self.embed_dim, (number + 1) * self.embed_dim)
        if self.in_proj_weight is not None:
            weight = self.in_proj_weight[rows]
        else:
            weight = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)[number]
        return self._heads(F.linear(x, weight, None if self.in_proj_bias is None else self.in_proj_bias[rows]))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, H, T, D)

    def _mask(self, mask: Optional[Tensor], q: Tensor, k: Tensor) -> Optional[Tensor]:
        """`attn_mask` (T, S) or (B H, T, S) as one that broadcasts to (B, H, T, S), True where a key is seen."""
        (B, H, T, _), S = q.shape, k.shape[2]
        if mask is not None and mask.shape not in ((T, S), (B * H, T, S)):
            raise ShapeError(f"MultiheadAttention: attn_mask {mask.shape} must be {(T, S)} or {(B * H, T, S)}")
        mask = visible(mask, "attn_mask", q)
        return mask.reshape(B, H, T, S) if mask is not None and mask.ndim == 3 else mask

    def _padding(self, mask: Optional[Tensor], q: Tensor, k: Tensor) -> Optional[Tensor]:
        """`key_padding_mask` (B, S) as one that broadcasts to (B, H, T, S), True where a key is seen."""
        B, S = q.shape[0], k.shape[2]
        if mask is not None and mask.shape != (B, S):
            raise ShapeError(f"MultiheadAttention: key_padding_mask {mask.shape} must be {(B, S)}, one bool a key")
        mask = visible(mask, "key_padding_mask", q)
        return None if mask is None else mask.reshape(B, 1, 1, S)

    def _with_extra_keys(
        self, k: Tensor, v: Tensor, mask: Optional[Tensor], is_causal: bool, queries: int
    ) -> tuple[Tensor, Tensor, Optional[Tensor], bool]:
        """Keys and values with the learned one and the zero one behind them, which every query sees."""
        extra = (self.bias_k is not None) + self.add_zero_attn
        if is_causal and (extra or mask is not None):
            mask, is_causal = both(mask, causal(queries, k.shape[2], k.device)), False
        if self.bias_k is not None and self.bias_v is not None:
            one = (*k.shape[:2], 1, k.shape[3])
            k = k.cat(self._heads(self.bias_k).broadcast_to(one), dim=2)
            v = v.cat(self._heads(self.bias_v).broadcast_to(one), dim=2)
        if self.add_zero_attn:
            k, v = (x.pad((0, 0, 0, 1)) for x in (k, v))
        if mask is not None and extra:
            mask = mask.pad((0, extra), value=is_bool(mask.dtype))
        return k, v, mask, is_causal

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}"


class GroupedQueryAttention(Module):
    """Causal self-attention whose heads share keys and values in groups (Ainslie et al., arXiv 2305.13245).

    The projections have Llama's names (q_proj, k_proj, v_proj, o_proj). With num_kv_heads = 1 it is multi-query
    attention (Shazeer, arXiv 1911.02150), with num_heads of them the usual one.

    Args:
        num_kv_heads: heads of keys and values, which must divide num_heads.
        head_dim: D, embed_dim / num_heads unless given.
        interleaved: which channels make a pair where the input is turned; see `positions.rotate`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: Optional[int] = None,
        bias: bool = False,
        dropout: float = 0.0,
        interleaved: bool = False,
        device: Optional[str] = None,
        dtype=None,
    ):
        if num_kv_heads < 1 or num_heads % num_kv_heads or (head_dim is None and embed_dim % num_heads):
            raise ValueError(
                f"GroupedQueryAttention: num_heads {num_heads} must be a multiple of num_kv_heads {num_kv_heads}, and "
                f"embed_dim {embed_dim} of num_heads unless head_dim is given"
            )
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim, self.dropout, self.interleaved = head_dim or embed_dim // num_heads, dropout, interleaved
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.q_proj = Linear(embed_dim, num_heads * self.head_dim, bias, **options)
        self.k_proj = Linear(embed_dim, num_kv_heads * self.head_dim, bias, **options)
        self.v_proj = Linear(embed_dim, num_kv_heads * self.head_dim, bias, **options)
        self.o_proj = Linear(num_heads * self.head_dim, embed_dim, bias, **options)

    def forward(
        self,
        x: Tensor,
        rotation: Optional[tuple[Tensor, Tensor]] = None,
        mask: Optional[Tensor] = None,
        past: Optional[Past] = None,
        is_causal: bool = True,
    ) -> Tensor:
        """(B, T, embed_dim) to the same.

        `rotation` is what RotaryEmbedding gave for the positions. `mask` broadcasts to (B, H, T, S): bool, True where
        a key is seen, or a float that is added (ALiBi). `past` keeps earlier keys and values; its mask then takes the
        place of `is_causal`.
        """
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if rotation is not None:
            q, k = rotate(q, *rotation, self.interleaved), rotate(k, *rotation, self.interleaved)
        if past is not None:
            k, v, seen = past(k, v)  # (B, kv_heads, S, D)
            mask, is_causal = both(mask, seen), False
        if is_causal and mask is not None:
            mask, is_causal = both(mask, causal(q.shape[2], k.shape[2], x.device)), False
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, enable_gqa=True)  # (B, H, T, D)
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"{self.num_heads} heads, {self.num_kv_heads} of keys and values"


# --- masks ------------------------------------------------------------------------------------------------------------
# Here as in scaled_dot_product_attention: bool, True where a key is seen, or floats that are added to the scores.


def causal(queries: int, keys: int, device: Optional[str] = None, window: Optional[int] = None) -> Tensor:
    """(queries, keys) bool: query t sees keys 0 to t, or the last `window` of them."""
    where = Tensor.arange(queries, dtype="int32", device=device).unsqueeze(-1)
    place = Tensor.arange(keys, dtype="int32", device=device)
    return place <= where if window is None else (place <= where) & (place > where - window)


def padding(mask: Optional[Tensor]) -> Optional[Tensor]:
    """Which keys (B, S) are real, bools or the ones and zeros of tokenizers, as a bool mask (B, 1, 1, S)."""
    if mask is None:
        return None
    return (mask if is_bool(mask.dtype) else mask.ne(0)).unsqueeze(1).unsqueeze(1)


def visible(mask: Optional[Tensor], name: str, like: Tensor) -> Optional[Tensor]:
    """A mask as PyTorch's layers take it, bool ones turned around, floats in the dtype of `like`."""
    if mask is None or is_bool(mask.dtype):
        return None if mask is None else mask.logical_not()
    if not is_float(mask.dtype):
        raise TypeError(f"{name} must be bool, or floats that are added to the scores, not {mask.dtype}")
    return mask.cast(like.dtype)


def both(a: Optional[Tensor], b: Optional[Tensor]) -> Optional[Tensor]:
    """What two masks say together: a sum where one of them is of floats."""
    if a is None or b is None:
        return b if a is None else a
    if is_bool(a.dtype) and is_bool(b.dtype):
        return a & b
    if is_bool(a.dtype):
        a, b = b, a
    return b.where(a, -math.inf) if is_bool(b.dtype) else a + b
