"""Movement: the same elements elsewhere."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch.nn import functional as TF

from clgrad import Tensor

from .entry import ALL, FLOATS, Entry, Operand, constant

MATRIX = (Operand(min_dims=2, max_dims=2),)
ROWS = (Operand(min_dims=1),)
BLOCK = (Operand(min_dims=3, max_dims=3),)
PAIR = (Operand(min_dims=1), Operand())
VECTOR = Operand(min_dims=1, max_dims=1)
OTHER = Operand(lambda draw, first: (draw(st.integers(0, 4)),))


def _pads(mode: str, *widths: int):
    return (lambda x: x.pad(widths, mode) ** 2), (lambda x: TF.pad(x, widths, mode) ** 2)


# fmt: off
ENTRIES = [
    Entry("reshape", ("Tensor.reshape", "Tensor.view"), lambda x: (x.reshape(-1) ** 2, x.view(1, -1, 1)), dtypes=ALL),
    Entry("reshape, sizes kept", "Tensor.reshape", lambda x: x.reshape(None, -1, None) ** 2,
          lambda x: x.reshape(x.shape[0], -1, x.shape[2]) ** 2, operands=BLOCK, dtypes=ALL),
    Entry("permute", "Tensor.permute", lambda x: x.permute(1, 2, 0) ** 2, operands=BLOCK, dtypes=ALL),
    Entry("T", "Tensor.T", lambda x: x.T, operands=MATRIX, dtypes=ALL),
    Entry("transpose", "Tensor.transpose", lambda x: x.transpose(0, -1) ** 2, operands=ROWS, dtypes=ALL),
    Entry("squeeze", "Tensor.squeeze", lambda x: (x.squeeze(), x.squeeze(-1)), dtypes=ALL),
    Entry("squeeze of two", "Tensor.squeeze", lambda x: x.squeeze((0, -1)) ** 2, operands=(Operand(min_dims=2),),
          dtypes=ALL),
    Entry("unsqueeze", "Tensor.unsqueeze", lambda x: (x.unsqueeze(-1), x.unsqueeze(0)), dtypes=ALL),
    Entry("flatten", "Tensor.flatten", lambda x: (x.flatten(1), x.flatten(0, 1)), operands=BLOCK, dtypes=ALL),
    Entry("unflatten", "Tensor.unflatten", lambda x: x.unflatten(1, (-1, 1, 2)) ** 2,
          operands=(Operand(st.tuples(st.integers(0, 3), st.sampled_from([2, 4]), st.integers(0, 3))),), dtypes=ALL),
    Entry("rearrange", "Tensor.rearrange",
          lambda x: (x.rearrange("b (h w) c -> h (b c) 1 w", w=2) ** 2, x.rearrange("a ... -> (...) a")),
          lambda x: (x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2]).permute(1, 0, 3, 2).reshape(
                         x.shape[1] // 2, x.shape[0] * x.shape[2], 1, 2) ** 2, x.flatten(1).T),
          operands=(Operand(st.tuples(st.integers(0, 3), st.sampled_from([2, 4, 6]), st.integers(0, 3))),), dtypes=ALL),
    Entry("flip", "Tensor.flip", lambda x: x.flip((0, -1)) * x, operands=(Operand(min_dims=2),), dtypes=ALL),
    Entry("roll", "Tensor.roll", lambda x: (x.roll((1, -2), (0, -1)) ** 2, x.roll(5)), operands=(Operand(min_dims=2),),
          dtypes=ALL),
    Entry("expand", ("Tensor.expand", "Tensor.broadcast_to"),
          lambda x: (x.unsqueeze(0).expand(3, *x.shape) ** 3, x.expand(2, *(-1 for _ in x.shape))), dtypes=ALL),
    Entry("repeat", "Tensor.repeat", lambda x: x.repeat(2, 1, 3) ** 2, operands=MATRIX, dtypes=ALL),
    Entry("repeat_interleave", "Tensor.repeat_interleave",
          lambda x: (x.repeat_interleave(2, -1) ** 2, x.repeat_interleave(3)), operands=ROWS, dtypes=ALL),
    Entry("repeat_interleave(counts)", "Tensor.repeat_interleave",
          lambda x: x.repeat_interleave(constant(x, [2, 0, 3]), 1) ** 2,
          operands=(Operand(st.integers(0, 3).map(lambda n: (n, 3))),), dtypes=ALL),
    Entry("unfold", "Tensor.unfold", lambda x: (x.unfold(0, 2, 1) ** 2, x.unfold(-1, 1, 2)),
          operands=(Operand(min_dims=1, min_size=2),), dtypes=ALL),
    Entry("unfold, steps", "Tensor.unfold", lambda x: (x.unfold(1, 3, 2) ** 2, x.unfold(-1, 2, 3) ** 2),
          operands=(Operand(min_dims=2, max_dims=3, min_size=3),), dtypes=ALL),
    Entry("meshgrid", "Tensor.meshgrid", lambda a, b: (*a.meshgrid(b), *a.meshgrid(b, indexing="xy")),
          lambda a, b: (*torch.meshgrid(a, b, indexing="ij"), *torch.meshgrid(a, b, indexing="xy")),
          operands=(VECTOR, OTHER), dtypes=ALL),
    Entry("pad, pairs", "Tensor.pad", lambda x: x.pad(((1, 2), (0, 1)), value=2.0) ** 2,
          lambda x: TF.pad(x, (0, 1, 1, 2), value=2.0) ** 2, operands=MATRIX, dtypes=ALL),
    Entry("pad, flat", "Tensor.pad", lambda x: (x.pad((1, 2)) ** 2, x.pad((0, 1, -1, 2))),
          lambda x: (TF.pad(x, (1, 2)) ** 2, TF.pad(x, (0, 1, -1, 2))),
          operands=(Operand(min_dims=2, max_dims=3, min_size=1),), dtypes=ALL),
    Entry("pad(reflect)", "Tensor.pad", *_pads("reflect", 1, 2), dtypes=FLOATS,
          operands=(Operand(min_dims=2, max_dims=3, min_size=3),)),
    Entry("pad(replicate)", "Tensor.pad", *_pads("replicate", 2, 1), dtypes=FLOATS,
          operands=(Operand(min_dims=2, max_dims=3, min_size=1),)),
    Entry("pad(circular)", "Tensor.pad", *_pads("circular", 2, 1), dtypes=FLOATS,
          operands=(Operand(min_dims=2, max_dims=3, min_size=2),)),
    Entry("shrink", "Tensor.shrink", lambda x: x.shrink(((0, 1), None, (1, 3))) ** 2, lambda x: x[0:1, :, 1:3] ** 2,
          operands=(Operand(min_dims=3, max_dims=3, min_size=3),), dtypes=ALL),
    Entry("split", "Tensor.split", lambda x: x.split(2, 1), operands=(Operand(min_dims=2, min_size=1),), dtypes=ALL),
    Entry("split(sizes)", "Tensor.split", lambda x: tuple(part ** 2 for part in x.split([1, 0, 2], -1)),
          operands=(Operand(st.integers(0, 3).map(lambda n: (n, 3))),), dtypes=ALL),
    Entry("chunk", "Tensor.chunk", lambda x: x.chunk(2, -1), operands=(Operand(min_dims=1, min_size=1),), dtypes=ALL),
    Entry("cat", "Tensor.cat", lambda a, b: Tensor.cat(a, b, dim=-1) ** 2, lambda a, b: torch.cat([a, b], -1) ** 2,
          operands=PAIR, dtypes=ALL),
    Entry("cat, a method", "Tensor.cat", lambda a, b: a.cat(b, a, dim=0) ** 2, lambda a, b: torch.cat([a, b, a]) ** 2,
          operands=(VECTOR, OTHER), dtypes=ALL),
    Entry("stack", "Tensor.stack", lambda a, b: (Tensor.stack([a, b], dim=1) ** 2, a.stack(b, dim=-1)),
          lambda a, b: (torch.stack([a, b], 1) ** 2, torch.stack([a, b], -1)), operands=PAIR, dtypes=ALL),
    Entry("tril triu", ("Tensor.tril", "Tensor.triu"), lambda x: (x.tril(), x.triu(1), x.tril(-1)),
          operands=(Operand(min_dims=2),), dtypes=ALL),
    Entry("diag", "Tensor.diag", lambda x: (x.diag(), x.diag(1) ** 2, x.diag(-2)), operands=(VECTOR,), dtypes=ALL),
    Entry("diag of a matrix", "Tensor.diag", lambda x: (x.diag() ** 2, x.diag(1), x.diag(-1)), operands=MATRIX,
          dtypes=ALL),
    Entry("diagonal", "Tensor.diagonal", lambda x: (x.diagonal() ** 2, x.diagonal(1, -1, 0), x.diagonal(-1, 1, 2)),
          operands=BLOCK, dtypes=ALL),
]
