"""Products with packed weights: blocks of a few bits a number (`backends/packing.py`) that stay so in memory.

The kernel that multiplies unpacks what it needs as it goes; the weight as floats is never in memory, and for one token
an eighth of the bytes are read. In the graph it is a `dot` whose right operand is bytes and whose `arg` is the packing.
Everything else (rows of an embedding, the gradient for the input) is `unpack`, a graph of ordinary operations.

>>> import numpy as np
>>> from clgrad import Tensor
>>> from clgrad.backends.packing import pack
>>> from clgrad.engine.packed import linear
>>> weight = Tensor(pack(np.eye(32, dtype=np.float32) * 3, "Q8_0"))
>>> weight.shape, weight.dtype.name
((32, 34), 'uint8')
>>> x = Tensor(np.ones((1, 32), np.float32), requires_grad=True)
>>> y = linear(x, weight, "Q8_0")
>>> y.sum().backward()
>>> round(y[0, 0].item(), 2), round(x.grad[0, 0].item(), 2)
(3.0, 3.0)
"""

from __future__ import annotations

from math import prod
from types import SimpleNamespace

from ..backends.dtypes import float32, is_float, uint8
from ..backends.packing import PACKINGS, Packing
from .composite import composite
from .node import Node, make
from .ops import ShapeError
from .pieces import cat
from .tensor import Tensor

tensor_arrays = SimpleNamespace(
    cast=lambda x, dtype: x.cast(dtype),
    bits=lambda x, dtype: x.bitcast(dtype),
    join=lambda parts: cat(parts, dim=-1),
)


def packing_of(name: str) -> Packing:
    """The packing of that name. Raises ValueError for another, and says which there are."""
    if name not in PACKINGS:
        raise ValueError(f"there is no packing {name!r}; known: {', '.join(PACKINGS)}")
    return PACKINGS[name]


def linear(x: Tensor, weight: Tensor, packing: str) -> Tensor:
    """x Wᵀ for floats x (..., in) and W (out, in) packed as uint8 (out, bytes of a row): (..., out) in x's dtype.

    Computed in float32. The gradient goes to x alone. Raises ShapeError where sizes do not fit, TypeError for dtypes
    that do not.
    """
    kind, columns = _checked("linear", weight, packing)
    if not is_float(x.dtype):
        raise TypeError(f"linear: x must be floats, not {x.dtype}; cast it first")
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != columns:
        shape = (*weight.shape[:-1], columns)
        raise ShapeError(f"linear: {x.shape} and a weight {shape} in {packing} do not fit; wanted (..., in), (out, in)")
    flat = x.reshape(prod(x.shape[:-1]), columns).cast(float32)._source()
    blocks = make("contiguous", (weight._source(),))
    product = make("dot", (flat, blocks.transpose()), kind)
    y = composite("packed_linear", kind, _gradient, product, flat, blocks)
    return Tensor._wrap(y).reshape(*x.shape[:-1], weight.shape[0]).cast(x.dtype)


def _checked(op: str, weight: Tensor, packing: str) -> tuple[Packing, int]:
    """The packing, and how many numbers a row holds."""
    kind = packing_of(packing)
    if weight.dtype != uint8 or not weight.ndim:
        raise TypeError(f"{op}: a packed weight is uint8 of one dimension or more, not {weight.dtype} {weight.shape}")
    return kind, kind.columns(weight.shape[-1])


def _gradient(kind: Packing, g: Node, y: Node, x: Node, blocks: Node) -> tuple[Node, None]:
    return make("dot", (g, unpack(Tensor._wrap(blocks), kind.name).node)), None


def unpack(weight: Tensor, packing: str) -> Tensor:
    """The numbers of packed rows: uint8 (..., bytes of a row) to float32 (..., columns)."""
    kind, columns = _checked("unpack", weight, packing)
    blocks = weight.reshape(*weight.shape[:-1], -1, kind.nbytes)
    return kind.unpack(blocks, tensor_arrays).reshape(*weight.shape[:-1], columns)
