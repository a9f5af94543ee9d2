"""Elementwise functions."""

from __future__ import annotations

from torch.nn import functional as TF

from .entry import Entry

ENTRIES = [
    Entry("exp", "Tensor.exp", lambda x: x.exp(), special=True),
    Entry("softplus(beta)", "Tensor.softplus", lambda x: x.softplus(2.0), lambda x: TF.softplus(x, 2.0, threshold=100)),
    Entry("relu", "Tensor.relu", lambda x: x.relu(), kinks=lambda x: x == 0),
    Entry("+", ("Tensor.add", "Tensor.__add__"), lambda a, b: a + b, operands=2, broadcast=True),
    Entry("softmax", "Tensor.softmax", lambda x: x.softmax(-1), special="mild"),
]
