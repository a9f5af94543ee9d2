"""Activations: the elementwise functions between the layers of a network."""

from __future__ import annotations

from torch.nn import functional as TF

from .entry import FLOATS, INTS, Entry

# fmt: off
ENTRIES = [
    Entry("sigmoid", "Tensor.sigmoid", lambda x: x.sigmoid()),
    Entry("relu", "Tensor.relu", lambda x: x.relu(), dtypes=FLOATS + INTS, kinks=lambda x: x == 0),
    Entry("silu", ("Tensor.silu", "Tensor.swish"), lambda x: x.silu(), TF.silu),
    Entry("gelu", "Tensor.gelu", lambda x: x.gelu(), lambda x: TF.gelu(x, approximate="tanh"), special="mild"),
    Entry("gelu(none)", "Tensor.gelu", lambda x: x.gelu("none"), TF.gelu, special="mild"),
    Entry("softplus", "Tensor.softplus", lambda x: x.softplus(), lambda x: TF.softplus(x, threshold=100)),
    Entry("softplus(beta)", "Tensor.softplus", lambda x: x.softplus(2.0), lambda x: TF.softplus(x, 2.0, threshold=100)),
    Entry("leaky_relu", "Tensor.leaky_relu", lambda x: x.leaky_relu(0.1), lambda x: TF.leaky_relu(x, 0.1),
          kinks=lambda x: x == 0),
    Entry("elu", "Tensor.elu", lambda x: x.elu(), TF.elu, kinks=lambda x: x == 0),
]
