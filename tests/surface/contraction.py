"""Contraction: einsum, convolutions, pooling, interpolation, attention. Plain products are in `products`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch.nn import functional as TF

from .entry import FLOATS, INTS, WIDE, Entry, Operand, constant

SQUARE = Operand(st.sampled_from([(3, 3, 2), (2, 2, 4), (0, 0, 3), (1, 1, 2)]))
LINES, IMAGES = st.sampled_from([(2, 4, 7), (3, 4, 6), (0, 4, 5)]), st.sampled_from([(2, 4, 5, 6), (1, 4, 6, 5)])
VOLUMES = st.sampled_from([(1, 4, 3, 4, 3), (2, 4, 4, 3, 3)])
HEADS = (Operand((2, 4, 3, 4)), Operand((2, 2, 5, 4)), Operand((2, 2, 5, 3)))
SEEN = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], bool)  # the second query sees nothing


def conv(rank: int, image: Any, weight: tuple[int, ...], bias: bool = False, **options: Any) -> Entry:
    shapes = ", ".join(f"{name}={value}" for name, value in options.items())
    function = (TF.conv1d, TF.conv2d, TF.conv3d)[rank - 1]
    return Entry(
        f"conv{rank}d {weight} {shapes}",
        "Tensor.conv2d",
        lambda x, *w: x.conv2d(*w, **options),
        lambda x, *w: function(x, *w, **options),
        operands=(Operand(image), Operand(weight), *([Operand(weight[:1])] if bias else [])),
        special=False,
        ulp=16,
    )


def conv_transpose(rank: int, image: Any, weight: tuple[int, ...], **options: Any) -> Entry:
    shapes = ", ".join(f"{name}={value}" for name, value in options.items())
    function = (TF.conv_transpose1d, TF.conv_transpose2d, TF.conv_transpose3d)[rank - 1]
    return Entry(
        f"conv_transpose{rank}d {weight} {shapes}",
        "Tensor.conv_transpose2d",
        lambda x, w: x.conv_transpose2d(w, **options),
        lambda x, w: function(x, w, **options),
        operands=(Operand(image), Operand(weight)),
        special=False,
        ulp=16,
    )


def average(size: Any, *rest: Any) -> Any:
    """stride, padding, ceil_mode, count_include_pad: the order in which PyTorch has them."""
    stride, padding, ceil, count = (*rest, None, 0, False, True)[: len(rest)] + (None, 0, False, True)[len(rest) :]
    return lambda x: x.avg_pool2d(size, stride, 1, padding, ceil, count)


def largest(size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
    return lambda x: x.max_pool2d(size, stride, dilation, padding, ceil, True)


def unpooled(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        values, places = TF.max_pool2d(x, (2, 3), return_indices=True)
        return TF.max_unpool2d(values, places, (2, 3), output_size=x.shape[-2:])
    values, places = x.max_pool2d((2, 3), return_indices=True)
    return values.max_unpool2d(places, (2, 3), output_size=x.shape[-2:])


def attention(name: str, mask: Any = None, **options: Any) -> Entry:
    def call(function: Any, q: Any, k: Any, v: Any) -> Any:
        own = mask.astype(q.detach().numpy().dtype) if mask is not None and mask.dtype != bool else mask
        return function(q, k, v, None if own is None else constant(q, own), enable_gqa=True, **options)

    return Entry(
        f"attention of grouped heads, {name}",
        "Tensor.scaled_dot_product_attention",
        lambda q, k, v: call(type(q).scaled_dot_product_attention, q, k, v),
        lambda q, k, v: call(TF.scaled_dot_product_attention, q, k, v),
        operands=HEADS,
        dtypes=WIDE,
        special=False,
        ulp=16,
    )


def einsum(formula: str, *operands: Any, **options: Any) -> Entry:
    return Entry(
        f"einsum {formula}",
        "Tensor.einsum",
        lambda *x: type(x[0]).einsum(formula, *x),
        lambda *x: torch.einsum(formula, *x),
        operands=tuple(o if isinstance(o, Operand) else Operand(o) for o in operands),
        special=False,
        **{"ulp": 16, **options},
    )


# fmt: off
ENTRIES = [
    einsum("iij,jk->k", SQUARE, lambda draw, first: (first[2], 3)),
    einsum("ii...->...i", SQUARE, dtypes=FLOATS + INTS),
    einsum("bij,bjk,lk", (2, 3, 4), (2, 4, 2), (5, 2), dtypes=WIDE),
    einsum("...ij,...kj->...", (2, 1, 3, 4), (3, 2, 4), dtypes=WIDE),
    einsum("i,j,i->ji", (3,), (4,), (3,)),
    einsum("ij,ij->", Operand(min_dims=2, max_dims=2), Operand(), dtypes=WIDE + INTS, ulp=512,
           why="a sum of some 200 products of up to 9 each, which may cancel to nothing"),
    conv(1, LINES, (6, 2, 3), bias=True, groups=2, stride=2, padding=1),
    conv(2, IMAGES, (3, 4, 3, 2), bias=True, padding=(1, 2)),
    conv(2, IMAGES, (3, 4, 2, 3), padding="same", dilation=2),
    conv(2, IMAGES, (8, 1, 3, 3), groups=4, stride=(2, 3)),
    conv(3, VOLUMES, (2, 4, 2, 2, 3), stride=2, padding=1),
    Entry("conv2d with asymmetric padding", "Tensor.conv2d", lambda x, w: x.conv2d(w, padding=(1, 0, 2, 3)),
          lambda x, w: TF.conv2d(TF.pad(x, (1, 0, 2, 3)), w), operands=(Operand(IMAGES), Operand((2, 4, 3, 3))),
          special=False, ulp=16),
    conv_transpose(1, LINES, (4, 3, 3), stride=2, padding=1, output_padding=1, groups=2),
    conv_transpose(2, IMAGES, (4, 3, 3, 2), stride=(1, 3), dilation=(2, 1), padding=(1, 0)),
    conv_transpose(3, VOLUMES, (4, 2, 2, 2, 1), stride=2),
    Entry("avg_pool2d", "Tensor.avg_pool2d", average(2), lambda x: TF.avg_pool2d(x, 2), operands=(Operand(IMAGES),),
          special="mild"),
    Entry("avg_pool2d of overlapping windows", "Tensor.avg_pool2d", average((3, 2), (2, 1), (1, 1), True, False),
          lambda x: TF.avg_pool2d(x, (3, 2), (2, 1), (1, 1), True, False), operands=(Operand(IMAGES),), special="mild"),
    Entry("avg_pool2d of windows that end outside", "Tensor.avg_pool2d", average(3, 2, 1, True),
          lambda x: TF.avg_pool2d(x, 3, 2, 1, True), operands=(Operand(IMAGES),), special="mild"),
    Entry("max_pool2d", "Tensor.max_pool2d", largest(2), lambda x: TF.max_pool2d(x, 2, return_indices=True),
          operands=(Operand(IMAGES),)),
    Entry("max_pool2d of overlapping windows", "Tensor.max_pool2d", largest(3, 2, 1, ceil=True),
          lambda x: TF.max_pool2d(x, 3, 2, 1, ceil_mode=True, return_indices=True), operands=(Operand(IMAGES),)),
    Entry("max_pool2d with ties", "Tensor.max_pool2d", lambda x: largest((3, 2), 1, (1, 0), (1, 2))(x.trunc()),
          lambda x: TF.max_pool2d(x.trunc(), (3, 2), 1, (1, 0), (1, 2), return_indices=True),
          operands=(Operand(IMAGES),), derivatives=1),
    Entry("max_unpool2d", "Tensor.max_unpool2d", unpooled, operands=(Operand(IMAGES),), dtypes=WIDE, special="mild"),
    *(Entry(f"interpolate {mode}", "Tensor.interpolate", lambda x, mode=mode: x.interpolate((7, 4), mode),
            lambda x, mode=mode: TF.interpolate(x, (7, 4), mode=mode), operands=(Operand(IMAGES),), special=False)
      for mode in ("nearest", "nearest-exact", "bilinear")),
    Entry("interpolate to the corners", "Tensor.interpolate", lambda x: x.interpolate((9,), align_corners=True),
          lambda x: TF.interpolate(x, (9,), mode="linear", align_corners=True), operands=(Operand(LINES),),
          special=False),
    attention("plain"),
    attention("causal", is_causal=True),
    attention("masked", SEEN),
    attention("masked by floats", np.where(SEEN, 0.5, -np.inf)),
]
