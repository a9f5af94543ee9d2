"""Attention, feed-forward, positions and the transformer's layers, against torch's or against their formula in torch.

Inputs are drawn, parameters are fixed numbers of the names and shapes that both sides must have. Their gradients, all
masks, decoders and whole stacks are in tests/test_nn_transformer.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn as torch_nn
from torch.nn import functional as TF

from clgrad import nn
from clgrad.nn.positions import rotate

from .entry import WIDE, Entry, Operand, constant

SHAPE = (3, 2, 4)  # time, batch, channels
POSITIONS = Operand(st.sampled_from([(3,), (1, 5), (2, 4), (0,)]), dtype="int64", low=0, high=40)


def layer(
    name: str,
    build: Callable[[Any], Any],
    *operands: Operand,
    note: str = "",
    call: Callable | None = None,
    formula: Callable | None = None,
    dtypes: tuple[str, ...] = WIDE,
) -> Entry:
    """What `build` makes of nn, against what it makes of torch.nn, or against formula(parameters, *inputs).

    call(layer, *inputs) is what is compared, the layer's own call unless given.
    """
    call = call or (lambda made, *xs: made(*xs))
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(t.shape) / 2 for key, t in build(nn).state_dict().items()}
    if formula is None:
        shapes = {key: tuple(t.shape) for key, t in build(torch_nn).state_dict().items()}
        assert shapes == {key: array.shape for key, array in state.items()}

    def ours(*xs):
        made, dtype = build(nn).eval(), xs[0].dtype if xs[0].is_floating_point() else "float32"
        for name, array in state.items():
            *path, last = name.split(".")
            owner = made
            for part in path:
                owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
            setattr(owner, last, constant(xs[0], array).cast(dtype))
        return call(made, *xs)

    def theirs(*xs):
        dtype = xs[0].dtype if xs[0].is_floating_point() else torch.float32
        parameters = {key: torch.tensor(array, dtype=dtype) for key, array in state.items()}
        if formula is not None:
            return formula(parameters, *xs)
        made = build(torch_nn).to(dtype).train()  # dropout is 0: in evaluation PyTorch takes another path
        made.load_state_dict(parameters)
        return call(made, *xs)

    return Entry(f"nn.{name}{note and ' '}{note}", f"nn.{name}", ours, theirs, operands or (Operand(st.just(SHAPE)),),
                 dtypes=dtypes, derivatives=0, special=False, ulp=64)  # fmt: skip


def grouped(p, x):
    q, k, v = (TF.linear(x, p[f"{name}_proj.weight"]).unflatten(-1, (-1, 2)).transpose(1, 2) for name in "qkv")
    y = TF.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return TF.linear(y.transpose(1, 2).flatten(2), p["o_proj.weight"])


def gated(activation):
    def formula(p, x):
        hidden = activation(TF.linear(x, p["gate_proj.weight"])) * TF.linear(x, p["up_proj.weight"])
        return TF.linear(hidden, p["down_proj.weight"])

    return formula


def sinusoids(p, positions):
    angles = positions.float().unsqueeze(-1) * 100.0 ** (-torch.arange(0, 6, 2) / 6)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


def turned(p, x, positions):
    """Pairs of channels i and i + 2 as complex numbers, multiplied by exp(i angle)."""
    angles = positions.float().unsqueeze(-1) * 10000.0 ** (-torch.arange(0, 4, 2) / 4)
    unit = torch.complex(angles.cos().to(x.dtype), angles.sin().to(x.dtype))
    y = torch.complex(*x.chunk(2, -1)) * unit
    return torch.cat([y.real, y.imag], -1)


def alibi(p, queries, keys):
    slopes = torch.tensor([1 / 16, 1 / 256, 1 / 4])  # of two heads, and the first of those between
    return -slopes[:, None, None] * (queries.unsqueeze(-1) - keys.unsqueeze(-2)).abs().float()


def relative(p, queries, keys):
    """T5's buckets 0 to 7: four of keys before the query and its own, four of keys after it."""
    distance = keys.unsqueeze(-2) - queries.unsqueeze(-1)
    far = 2 + (torch.log(distance.abs().clamp(min=2).double() / 2) / math.log(20 / 2) * 2).long().clamp(max=1)
    bucket = torch.where(distance.abs() < 2, distance.abs(), far) + 4 * (distance > 0)
    return p["weight"][bucket].movedim(-1, 0)


ONE_AXIS = (Operand((4,), dtype="int64", low=0, high=40), Operand((7,), dtype="int64", low=0, high=40))

ENTRIES = [
    layer("MultiheadAttention", lambda m: m.MultiheadAttention(4, 2), call=lambda made, x: made(x, x, x)),
    layer("MultiheadAttention", lambda m: m.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True,
          add_zero_attn=True, batch_first=True), Operand(st.just((2, 3, 4))), Operand(st.just((2, 6, 3))),
          Operand(st.just((2, 6, 5))), note="across", call=lambda made, *xs: made(*xs, average_attn_weights=False)),
    layer("TransformerEncoderLayer", lambda m: m.TransformerEncoderLayer(4, 2, 6, dropout=0.0)),
    layer("GroupedQueryAttention", lambda m: m.GroupedQueryAttention(4, 4, 2, head_dim=2),
          Operand(st.just((2, 3, 4))), formula=grouped),
    layer("FeedForward", lambda m: m.FeedForward(4, 6), formula=lambda p, x: TF.linear(
          TF.linear(x, p["linear1.weight"], p["linear1.bias"]).relu(), p["linear2.weight"], p["linear2.bias"])),
    layer("GatedFeedForward", lambda m: m.GatedFeedForward(4, 6, "sigmoid"), formula=gated(torch.sigmoid)),
    layer("SwiGLU", lambda m: m.SwiGLU(4, 6), formula=gated(TF.silu)),
    layer("GeGLU", lambda m: m.GeGLU(4, 6, approximate="tanh"), formula=gated(
          lambda x: TF.gelu(x, approximate="tanh"))),
    layer("SinusoidalPositions", lambda m: m.SinusoidalPositions(6, base=100.0), POSITIONS, formula=sinusoids),
    layer("LearnedPositions", lambda m: m.LearnedPositions(41, 3, offset=2), POSITIONS,
          formula=lambda p, positions: p["weight"][positions + 2]),
    layer("RotaryEmbedding", lambda m: m.RotaryEmbedding(4), Operand(st.just((2, 3, 5, 4))),
          Operand((5,), dtype="int64", low=0, high=40), formula=turned, dtypes=("float32",),
          call=lambda made, x, positions: rotate(x, *made(positions))),
    layer("ALiBi", lambda m: m.ALiBi(3), *ONE_AXIS, formula=alibi),
    layer("RelativePositionBias", lambda m: m.RelativePositionBias(3, 8, 20), *ONE_AXIS, formula=relative),
]  # fmt: skip
