"""Activations: the elementwise functions between the layers of a network."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as TF

from .entry import FLOATS, INTS, Entry

# fmt: off
ENTRIES = [
    Entry("sigmoid", "Tensor.sigmoid", lambda x: x.sigmoid()),
    Entry("relu", "Tensor.relu", lambda x: x.relu(), dtypes=FLOATS + INTS, kinks=lambda x: x == 0),
    Entry("silu", ("Tensor.silu", "Tensor.swish"), lambda x: x.silu(), TF.silu),
    Entry("gelu", "Tensor.gelu", lambda x: x.gelu(), lambda x: TF.gelu(x, approximate="tanh"), special="mild"),
    # torch's gelu of infinity is NaN
    Entry("gelu(none)", "Tensor.gelu", lambda x: x.gelu("none"), lambda x: x * (0.5 * (1 + (x * 0.5**0.5).erf())),
          special="mild"),
    Entry("quick_gelu", "Tensor.quick_gelu", lambda x: x.quick_gelu(), lambda x: x * (1.702 * x).sigmoid()),
    Entry("mish", "Tensor.mish", lambda x: x.mish(), TF.mish),
    Entry("softplus", "Tensor.softplus", lambda x: x.softplus(), lambda x: TF.softplus(x, threshold=100)),
    Entry("softplus(beta)", "Tensor.softplus", lambda x: x.softplus(2.0), lambda x: TF.softplus(x, 2.0, threshold=100)),
    Entry("leaky_relu", "Tensor.leaky_relu", lambda x: x.leaky_relu(0.1), lambda x: TF.leaky_relu(x, 0.1),
          kinks=lambda x: x == 0),
    Entry("logsigmoid", "Tensor.logsigmoid", lambda x: x.logsigmoid(), TF.logsigmoid),
    Entry("relu6", "Tensor.relu6", lambda x: x.relu6() + (x * 3).relu6(), lambda x: TF.relu6(x) + TF.relu6(x * 3),
          kinks=lambda x: (x == 0) | (x == 2), special="mild"),
    Entry("relu6 of integers", "Tensor.relu6", lambda x: x.relu6(), TF.relu6, dtypes=INTS[:4], derivatives=0),
    Entry("hardtanh", "Tensor.hardtanh", lambda x: x.hardtanh(), TF.hardtanh, kinks=lambda x: abs(x) == 1),
    Entry("hardtanh(min, max)", "Tensor.hardtanh", lambda x: x.hardtanh(-0.5, 2), lambda x: TF.hardtanh(x, -0.5, 2),
          kinks=lambda x: (x == -0.5) | (x == 2)),
    # torch has no second derivative of its own
    Entry("hardsigmoid", "Tensor.hardsigmoid", lambda x: x.hardsigmoid() + (x * 2).hardsigmoid(),
          lambda x: (x + 3).clamp(0, 6) / 6 + (x * 2 + 3).clamp(0, 6) / 6,
          kinks=lambda x: (abs(x) == 3) | (abs(x) == 1.5), special="mild"),
    Entry("hardsigmoid(alpha, beta)", "Tensor.hardsigmoid", lambda x: x.hardsigmoid(0.25, 0.75) - x.hardsigmoid(-1, 0),
          lambda x: (x * 0.25 + 0.75).clamp(0, 1) - (-x).clamp(0, 1), kinks=lambda x: x == np.round(x),
          special="mild"),
    Entry("hardswish", "Tensor.hardswish", lambda x: x.hardswish() + (x * 2).hardswish(),
          lambda x: TF.hardswish(x) + TF.hardswish(x * 2), kinks=lambda x: (abs(x) == 3) | (abs(x) == 1.5),
          special="mild"),
    Entry("elu", "Tensor.elu", lambda x: x.elu(), TF.elu, kinks=lambda x: x == 0),
    Entry("elu(alpha)", "Tensor.elu", lambda x: x.elu(0.5), lambda x: TF.elu(x, 0.5), kinks=lambda x: x == 0),
    Entry("celu", "Tensor.celu", lambda x: x.celu(), TF.celu, kinks=lambda x: x == 0),
    Entry("celu(alpha)", "Tensor.celu", lambda x: x.celu(2.0), lambda x: TF.celu(x, 2.0), kinks=lambda x: x == 0),
    Entry("selu", "Tensor.selu", lambda x: x.selu(), TF.selu, kinks=lambda x: x == 0),
    Entry("selu(alpha, gamma)", "Tensor.selu", lambda x: x.selu(2.0, 0.5), lambda x: TF.elu(x, 2.0) * 0.5,
          kinks=lambda x: x == 0),
    Entry("softsign", "Tensor.softsign", lambda x: x.softsign(), TF.softsign, kinks=lambda x: x == 0),
    Entry("softmin", "Tensor.softmin", lambda x: x.softmin(), lambda x: TF.softmin(x, -1), special="mild"),
    Entry("softmin(axis)", "Tensor.softmin", lambda x: x.softmin(0), lambda x: TF.softmin(x, 0), special="mild"),
    Entry("softmin(dtype)", "Tensor.softmin", lambda x: x.softmin(0, dtype="float64"),
          lambda x: TF.softmin(x, 0, dtype=torch.float64), special="mild"),
]
