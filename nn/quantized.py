"""Layers whose weights stay packed: blocks of a few bits a number, as GGUF files have them.

The kernel that multiplies by such a weight unpacks it on the way (`engine/packed.py`). `Q8_0` has 8.5 bits a number,
`Q4_0` 4.5 and `Q4_1` 5; `quantize` replaces the layers of a trained model.

>>> from clgrad import nn
>>> from clgrad.nn.quantized import quantize
>>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
>>> quantize(model, "Q8_0")
Sequential(
  (0): QuantizedLinear(in_features=64, out_features=32, bias=True, packing='Q8_0')
  (1): ReLU()
  (2): QuantizedLinear(in_features=32, out_features=10, bias=True, packing='Q8_0')
)
>>> {name: (tensor.shape, tensor.dtype.name) for name, tensor in model[0].state_dict().items()}
{'weight': ((32, 68), 'uint8'), 'bias': ((32,), 'float32')}

Packed weights are buffers: nothing trains them, but gradients go through the layer to what comes before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional, TypeVar, Union

import numpy as np

from ..backends.packing import pack
from ..engine.packed import linear, packing_of, unpack
from ..engine.tensor import Tensor
from .layers import Conv1D, Embedding, Linear
from .module import Module

T = TypeVar("T", bound=Module)


def padded(columns: int, packing: str) -> int:
    """The columns of a packed row of so many: rows are whole blocks, the last of which zeros fill."""
    elements = packing_of(packing).elements
    return -(-columns // elements) * elements


def packed(array: np.ndarray, packing: str) -> np.ndarray:
    """A matrix of numbers as uint8 (rows, bytes of a row), its rows filled up with zeros to whole blocks."""
    filled = np.pad(array, ((0, 0), (0, padded(array.shape[1], packing) - array.shape[1])))
    return pack(np.ascontiguousarray(filled), packing)


class QuantizedLinear(Module):
    """x Wᵀ + b, (..., in_features) to (..., out_features), with W packed: weight is uint8 (out_features, bytes).

    `weight` is taken as it is; without it, it is zero until a state dict is loaded. Raises ValueError for bytes that
    are not those of such a matrix.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        packing: str = "Q8_0",
        weight: Optional[Tensor] = None,
        bias: Optional[Tensor] = None,
        device: Optional[str] = None,
    ):
        self.in_features, self.out_features, self.packing = in_features, out_features, packing
        self.weight = _weight(out_features, in_features, packing, weight, device)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        extra = padded(self.in_features, self.packing) - self.in_features
        if extra:
            x = x.pad(((0, 0),) * (x.ndim - 1) + ((0, extra),))
        y = linear(x, self.weight, self.packing)
        return y if self.bias is None else y + self.bias

    @classmethod
    def of(cls, layer: Linear | Conv1D, packing: str = "Q8_0") -> QuantizedLinear:
        """A trained layer with its weight rounded to `packing`. The bias is shared."""
        matrix = layer.weight.numpy()
        if isinstance(layer, Conv1D):
            matrix = matrix.T
        weight = Tensor(packed(matrix, packing), device=layer.weight.device)
        return cls(layer.in_features, layer.out_features, packing, weight, layer.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"packing={self.packing!r}"
        )


class QuantizedEmbedding(Module):
    """Row i of a packed matrix (num_embeddings, embedding_dim) for each integer i: (...) to (..., embedding_dim)."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        packing: str = "Q8_0",
        weight: Optional[Tensor] = None,
        device: Optional[str] = None,
    ):
        self.num_embeddings, self.embedding_dim, self.packing = num_embeddings, embedding_dim, packing
        self.weight = _weight(num_embeddings, embedding_dim, packing, weight, device)

    def forward(self, index: Tensor) -> Tensor:
        rows = unpack(self.weight.take(index), self.packing)
        return rows[..., : self.embedding_dim]

    @classmethod
    def of(cls, layer: Embedding, packing: str = "Q8_0") -> QuantizedEmbedding:
        """A trained embedding with its rows rounded to `packing`."""
        weight = Tensor(packed(layer.weight.numpy(), packing), device=layer.weight.device)
        return cls(layer.num_embeddings, layer.embedding_dim, packing, weight)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, packing={self.packing!r}"


def _weight(rows: int, columns: int, packing: str, weight: Optional[Tensor], device: Optional[str]) -> Tensor:
    shape = rows, packing_of(packing).row_bytes(padded(columns, packing))
    if weight is None:
        return Tensor(np.zeros(shape, np.uint8), device=device)
    if weight.shape != shape or weight.dtype != np.uint8:
        raise ValueError(
            f"a {packing} weight of {rows} rows of {columns} is uint8 {shape}, not {weight.dtype} {weight.shape}"
        )
    return weight


def quantize(model: T, packing: str = "Q8_0", skip: Callable[[str, Module], bool] = lambda name, layer: False) -> T:
    """Replace every Linear, Conv1D and Embedding below `model` by its packed form, in place; gives the model back.

    `skip(name, layer)` says which stay as they are. Layers that share a weight (a tied head) share the packed one.
    Raises ValueError for a packing that is only read, and weights that are not finite.
    """
    done: dict[int, Tensor] = {}
    for prefix, module in list(model.named_modules()):
        for name, layer in list(module.named_children()):
            full = f"{prefix}.{name}" if prefix else name
            if type(layer) not in (Linear, Conv1D, Embedding) or skip(full, layer):
                continue
            assert isinstance(layer, (Linear, Conv1D, Embedding))
            new: Union[QuantizedEmbedding, QuantizedLinear]
            if isinstance(layer, Embedding):
                new = QuantizedEmbedding.of(layer, packing)
            else:
                new = QuantizedLinear.of(layer, packing)
            new.weight = done.setdefault(id(layer.weight), new.weight)
            new.training = layer.training
            replace(module, name, new)
    return model


def replace(module: Module, name: str, new: Module) -> None:
    """Put `new` in the place of the child called `name`, which may be an entry of a ModuleList."""
    modules = vars(module).get("_modules", [])
    names = vars(module).get("_names", [str(i) for i in range(len(modules))])
    if name in names:
        modules[names.index(name)] = new
    else:
        setattr(module, name, new)
