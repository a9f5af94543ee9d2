"""Casts one way, whose derivatives come back the other way, and bits read as something else."""

from __future__ import annotations

import torch

from .entry import WIDE, Entry


def through_unsigned(x):
    """Between bool, int32, uint32 and float32, inside one kernel."""
    bits = x.cast("uint32")
    truth = (x > 3).cast("uint32") + 1
    kept = (bits - 1).cast("bool").where(x, 7)
    return bits.cast("float32"), truth.cast("float32"), kept, (bits + 1).cast("int32"), (x > 3).cast("float32") + 1


def through_long(x):
    bits = x.long() & 0xFFFFFFFF
    kept = torch.where((bits - 1) & 0xFFFFFFFF != 0, x, 7)
    return bits.float(), (x > 3).float() + 1, kept, x + 1, (x > 3).float() + 1


def to_bool_and_int(x):
    """Between bool, int32 and float32, inside one kernel."""
    sign = (x > 0).cast("int32") * 3
    return x.cast("bool").where(x, 1), sign, sign.cast("float32"), sign.cast("bool").where(x, 2)


def theirs_to_bool_and_int(x):
    sign = (x > 0).int() * 3
    return torch.where(x.bool(), x, 1), sign, sign.float(), torch.where(sign.bool(), x, 2)


# fmt: off
ENTRIES = [
    Entry("cast to float32", "Tensor.cast", lambda x: x.cast("float32") ** 2, lambda x: x.float() ** 2, dtypes=WIDE,
          tolerance=1e-5),
    # no gradient flows through, in torch's words by detach()
    Entry("bitcast of floats", "Tensor.bitcast", lambda x: x.cast("float16").bitcast("bfloat16").cast(x.dtype) * x,
          lambda x: x.detach().half().view(torch.bfloat16).to(x.dtype) * x, dtypes=WIDE),
    Entry("casts of integers", "Tensor.cast", through_unsigned, through_long, dtypes=("int32",), derivatives=0),
    Entry("casts of floats", "Tensor.cast", to_bool_and_int, theirs_to_bool_and_int, dtypes=WIDE, derivatives=0),
]
