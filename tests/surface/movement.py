"""Movement: the same elements elsewhere."""

from __future__ import annotations

import torch
from torch.nn import functional as TF

from clgrad import Tensor

from .entry import ALL, Entry, Operand

MATRIX = (Operand(min_dims=2, max_dims=2),)
ROWS = (Operand(min_dims=1),)
PAIR = (Operand(min_dims=1), Operand())


# fmt: off
ENTRIES = [
    Entry("reshape", ("Tensor.reshape", "Tensor.view"), lambda x: x.reshape(-1) ** 2, dtypes=ALL),
    Entry("permute", "Tensor.permute", lambda x: x.permute(1, 2, 0) ** 2, operands=(Operand(min_dims=3, max_dims=3),),
          dtypes=ALL),
    Entry("T", "Tensor.T", lambda x: x.T, operands=MATRIX, dtypes=ALL),
    Entry("transpose", "Tensor.transpose", lambda x: x.transpose(0, -1) ** 2, operands=ROWS, dtypes=ALL),
    Entry("squeeze", "Tensor.squeeze", lambda x: x.squeeze(), dtypes=ALL),
    Entry("unsqueeze", "Tensor.unsqueeze", lambda x: x.unsqueeze(-1), dtypes=ALL),
    Entry("flatten", "Tensor.flatten", lambda x: x.flatten(1), operands=MATRIX, dtypes=ALL),
    Entry("flip", "Tensor.flip", lambda x: x.flip((0, -1)) * x, operands=(Operand(min_dims=2),), dtypes=ALL),
    Entry("expand", ("Tensor.expand", "Tensor.broadcast_to"), lambda x: x.unsqueeze(0).expand(3, *x.shape) ** 3,
          dtypes=ALL),
    Entry("pad", "Tensor.pad", lambda x: x.pad(((1, 2), (0, 1)), value=2.0) ** 2,
          lambda x: TF.pad(x, (0, 1, 1, 2), value=2.0) ** 2, operands=MATRIX, dtypes=ALL[1:]),
    Entry("shrink", "Tensor.shrink", lambda x: x.shrink(((0, 1), (1, 3))) ** 2, lambda x: x[0:1, 1:3] ** 2,
          operands=(Operand((3, 4)),), dtypes=ALL),
    Entry("repeat", "Tensor.repeat", lambda x: x.repeat(2, 1, 3) ** 2, operands=MATRIX, dtypes=ALL),
    Entry("split", "Tensor.split", lambda x: x.split(2, 1), operands=(Operand(min_dims=2, min_size=1),), dtypes=ALL),
    Entry("chunk", "Tensor.chunk", lambda x: x.chunk(2, -1), operands=(Operand(min_dims=1, min_size=1),), dtypes=ALL),
    Entry("cat", "Tensor.cat", lambda a, b: Tensor.cat(a, b, dim=-1) ** 2, lambda a, b: torch.cat([a, b], -1) ** 2,
          operands=PAIR, dtypes=ALL),
    Entry("stack", "Tensor.stack", lambda a, b: Tensor.stack(a, b, dim=1) ** 2,
          lambda a, b: torch.stack([a, b], 1) ** 2, operands=PAIR, dtypes=ALL),
    Entry("tril triu", ("Tensor.tril", "Tensor.triu"), lambda x: (x.tril(), x.triu(1), x.tril(-1)),
          operands=(Operand(min_dims=2),), dtypes=ALL),
]
