"""Products of matrices, and attention, which is two of them with a softmax between.

>>> from clgrad import Tensor
>>> (Tensor([[1.0, 2.0]]) @ Tensor([[3.0], [4.0]])).tolist()
[[11.0]]
"""

from __future__ import annotations

from math import inf, prod, sqrt
from typing import TYPE_CHECKING, Optional

from ..backends import dtypes
from ..backends.dtypes import is_bool, is_float, is_int
from . import attention
from .elementwise import broadcast_shape
from .ops import ShapeError
from .reduction import masked_softmax

if TYPE_CHECKING:
    from .tensor import Tensor


def matmul(self: Tensor, other: Tensor, dtype=None) -> Tensor:
    """The matrix product over the last axis of self and the second to last of other; other axes broadcast.

    (..., M, K) @ (..., K, N) -> (..., M, N); a vector stands for a row on the left and for a column on the right.
    Operands meet in one dtype, or in `dtype`, and the result has it: integers wrap, bool is an "or" of "and"s, half
    precision is summed in float32 and rounded once. Raises TypeError for a Python number, and ShapeError for a scalar
    and for sizes that do not fit.
    """
    if isinstance(other, (int, float)):
        raise TypeError(f"matmul: {self.shape} @ {other} has a scalar; use * to scale")
    if not isinstance(other, type(self)):
        other = type(self)(other, device=self.device)
    if self.ndim == 0 or other.ndim == 0:
        raise ShapeError(f"matmul: {self.shape} @ {other.shape} has a scalar; use * to scale")
    met = dtypes.promote(self.dtype, other.dtype) if dtype is None else dtypes.as_dtype(dtype)
    if is_bool(met):
        return matmul(self, other, dtypes.int32) != 0
    a, b = self.cast(met), other.cast(met)
    row, column = a.ndim == 1, b.ndim == 1
    a, b = (a.unsqueeze(0) if row else a), (b.unsqueeze(-1) if column else b)
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"matmul: {self.shape} @ {other.shape} does not contract: "
            f"the last size {a.shape[-1]} of the left must equal the {b.shape[-2]} of the right"
        )
    if a.shape[:-2] != b.shape[:-2]:
        broadcast_shape(f"matmul: {self.shape} @ {other.shape}, before the last two", a.shape[:-2], b.shape[:-2])
    result = _contract(a, b)
    if row:
        result = result.squeeze(-2)
    return result.squeeze(-1) if column else result


def _contract(a: Tensor, b: Tensor) -> Tensor:
    """(..., M, K) and (..., K, N) of one dtype -> (..., M, N)."""
    tensor_type = type(a)
    if a.shape[-2] == b.shape[-1] == 1:  # a sum of products: there is no tile to fill
        return _inner(a, b.transpose(-2, -1))
    if b.ndim == 2:  # one matrix for all rows: a single product of two matrices
        rows = prod(a.shape[:-1])
        return tensor_type._make("dot", a.reshape(rows, a.shape[-1]), b).reshape((*a.shape[:-1], b.shape[-1]))
    batch = broadcast_shape("matmul", a.shape[:-2], b.shape[:-2])
    return tensor_type._make("dot", a.broadcast_to(batch + a.shape[-2:]), b.broadcast_to(batch + b.shape[-2:]))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The sums over the last axis of the products of two rows."""
    wide = dtypes.float32 if is_float(a.dtype) and a.dtype.itemsize < 4 else a.dtype
    return (a.cast(wide) * b.cast(wide)).sum(-1, keepdim=True, dtype=wide).cast(a.dtype)


def rmatmul(self: Tensor, other) -> Tensor:
    return type(self)(other, device=self.device) @ self


def linear(self: Tensor, weight: Tensor, bias: Optional[Tensor] = None, dtype=None) -> Tensor:
    """self @ weight + bias, with `weight` of shape (in, out), or self * weight + bias with one of shape (in).

    With `dtype`, all operands are cast to it first.
    """
    if dtype is not None:
        return linear(self.cast(dtype), weight.cast(dtype), None if bias is None else bias.cast(dtype))
    y = self * weight if weight.ndim == 1 else matmul(self, weight)
    return y if bias is None else y + bias


def scaled_dot_product_attention(
    self: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Optional[Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q K^T / sqrt(D) + mask) V (Vaswani et al., 2017).

    self (..., T, D), key (..., S, D), value (..., S, E) -> (..., T, E). `attn_mask` broadcasts to (..., T, S): bool
    (True takes part) or a float added to the scores. `is_causal` lets query t see keys 0 to t. One that sees nothing
    gets zeros. `dropout_p` is the share of probabilities that are dropped, in training and outside. With `enable_gqa`
    the keys and values may have fewer heads (axis -3): as many queries' heads in a row share one (arXiv 2305.13245).

    Raises ShapeError for shapes that do not fit, TypeError for a mask of integers.
    """
    op = "scaled_dot_product_attention"
    if is_causal and attn_mask is not None:
        raise ShapeError(f"{op}: give attn_mask or is_causal, not both")
    if attn_mask is not None and is_int(attn_mask.dtype):
        raise TypeError(f"{op}: attn_mask must be bool, or floats that are added, not {attn_mask.dtype}")
    if enable_gqa:
        return _grouped_heads(self, key, value, attn_mask, dropout_p, is_causal)
    if not dropout_p:
        result = _attention_in_one(self, key, value, attn_mask, is_causal)
        if result is not None:
            return result
    return attention_weights(self, key, attn_mask, is_causal).dropout(dropout_p) @ value


def attention_weights(q: Tensor, k: Tensor, mask: Optional[Tensor] = None, is_causal: bool = False) -> Tensor:
    """softmax(Q K^T / sqrt(D) + mask): (..., T, D) and (..., S, D) to (..., T, S). Zeros for what sees nothing."""
    scores = (q @ k.transpose(-2, -1)) * (1 / sqrt(q.shape[-1]) if q.shape[-1] else 1.0)
    if is_causal:
        queries, keys = (type(q).arange(n, dtype="int32", device=q.device) for n in scores.shape[-2:])
        scores = (queries.unsqueeze(-1) >= keys).where(scores, -inf)  # every query sees the first key
    if mask is None:
        return scores.softmax(-1)
    return masked_softmax(mask.where(scores, -inf) if is_bool(mask.dtype) else scores + mask)


def _grouped_heads(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], dropout: float, causal: bool) -> Tensor:
    """The heads of queries as (groups, heads of one group): what a group shares is repeated as a view."""
    if min(q.ndim, k.ndim, v.ndim) < 3 or k.shape[-3] != v.shape[-3] or q.shape[-3] % max(k.shape[-3], 1):
        raise ShapeError(
            f"scaled_dot_product_attention: with enable_gqa the heads (axis -3) of key {k.shape} and value {v.shape} "
            f"must be as many, and divide those of the query {q.shape}"
        )
    groups = k.shape[-3]
    if mask is not None and mask.ndim > 2:
        mask = mask.unflatten(-3, (groups, -1) if mask.shape[-3] > 1 else (1, 1))
    q, k, v = q.unflatten(-3, (groups, -1)), k.unsqueeze(-3), v.unsqueeze(-3)
    return scaled_dot_product_attention(q, k, v, mask, dropout, causal).flatten(-4, -3)


def _attention_in_one(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], causal: bool) -> Optional[Tensor]:
    """The attention of one kernel, if there is one for these operands."""
    if min(q.ndim, k.ndim, v.ndim) < 2 or not q.dtype == k.dtype == v.dtype:
        return None
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        return None
    masks = [] if mask is None else [mask.shape[:-2]]
    batch = broadcast_shape("scaled_dot_product_attention", *(x.shape[:-2] for x in (q, k, v)), *masks)
    queries, keys, values = (x.broadcast_to(batch + x.shape[-2:])._source() for x in (q, k, v))
    bias = None if mask is None else mask.broadcast_to((*batch, q.shape[-2], k.shape[-2]))._source()
    if not attention.takes(queries, keys, values, bias):
        return None
    return type(q)._wrap(attention.attention(queries, keys, values, bias, 1 / sqrt(q.shape[-1]), causal))
