"""Casts one way, whose derivatives come back the other way, and bits read as something else."""

from __future__ import annotations

import torch

from .entry import WIDE, Entry

# fmt: off
ENTRIES = [
    Entry("cast to float32", "Tensor.cast", lambda x: x.cast("float32") ** 2, lambda x: x.float() ** 2, dtypes=WIDE,
          tolerance=1e-5),
    # no gradient flows through, in torch's words by detach()
    Entry("bitcast of floats", "Tensor.bitcast", lambda x: x.cast("float16").bitcast("bfloat16").cast(x.dtype) * x,
          lambda x: x.detach().half().view(torch.bfloat16).to(x.dtype) * x, dtypes=WIDE),
]
