"""Random Tensors: the same bits on every device.

The generator is Philox4x32-10 (Salmon et al., 2011), a function from (key, counter) to four words: nothing is drawn
from a hidden stream, and a kernel that needs the numbers again computes them again. The key is the seed. Each
call reserves its own range of counters when it is made, whether or not it is ever computed. Key and counter are
Tensors, so a replayed step draws new numbers each time.

>>> from clgrad import Tensor
>>> Tensor.manual_seed(1); a = Tensor.rand(3).tolist()
>>> Tensor.manual_seed(1); a == Tensor.rand(3).tolist()
True
"""

from __future__ import annotations

import os
from math import pi, prod
from typing import TYPE_CHECKING, Optional

from ..backends import dtypes
from . import node as nodes
from . import trace
from .device import Device
from .movement import as_shape

if TYPE_CHECKING:
    from .tensor import Tensor

WORDS = 4  # in a block of Philox4x32


class Generator:
    """The state of one device: key and counter as uint64 scalars, and the blocks reserved beyond the counter."""

    def __init__(self, tensor_type: type[Tensor], device: str, seed: int, counter: int = 0):
        self.key = tensor_type._from_scalar(seed, dtypes.uint64, device)
        self.counter = tensor_type._from_scalar(counter, dtypes.uint64, device)
        self.key._born = self.counter._born = 0  # outside of any trace, even if one is what first needed them
        self.pending = 0

    def reserve(self, words: int) -> tuple[nodes.Node, nodes.Node]:
        """Key and counter nodes for a call that needs so many words."""
        counter = self.counter.node
        if self.pending and trace.active() is not None:
            counter = counter + self.pending
        elif self.pending:  # a value rather than a constant, or every step of a loop would be a schedule of its own
            offset = type(self.counter)._from_scalar(self.pending, dtypes.uint64, self.counter.device)
            counter = counter + offset.node
        self.pending += -(-words // WORDS)
        return self.key.node, counter

    def settle(self) -> None:
        """Move what is reserved into the counter itself."""
        if self.pending:
            self.counter.assign(self.counter + self.pending)
            self.pending = 0


_generators: dict[str, Generator] = {}
_seed: Optional[int] = None


def generator(tensor_type: type[Tensor], device: str) -> Generator:
    """The generator of a device, made at first use: from the seed, or from the system's entropy if there was none."""
    global _seed
    found = _generators.get(device)
    if found is None:
        if _seed is None:
            _seed = int.from_bytes(os.urandom(8), "little")
        found = _generators[device] = Generator(tensor_type, device, _seed)
    return found


def generators() -> list[Generator]:
    return list(_generators.values())


def manual_seed(tensor_type: type[Tensor], seed: int) -> None:
    """Start every device's generator from `seed` (any integer, taken modulo 2**64)."""
    set_state(tensor_type, seed, 0)


def get_state(tensor_type: type[Tensor], device: Optional[str] = None) -> tuple[int, int]:
    """(seed, counter) of a device's generator: what `set_state` needs to go on from here."""
    state = generator(tensor_type, Device.canonical(device or Device.DEFAULT))
    return int(state.key.item()), int(state.counter.item()) + state.pending


def set_state(tensor_type: type[Tensor], seed: int, counter: int) -> None:
    """Make every device's generator go on from (seed, counter)."""
    global _seed
    _seed = seed % 2**64
    for device, state in _generators.items():
        # The Tensors stay the same ones: a jitted step has captured them.
        state.key.assign(tensor_type._from_scalar(_seed, dtypes.uint64, device))
        state.counter.assign(tensor_type._from_scalar(counter, dtypes.uint64, device))
        state.pending = 0
    if not _generators and counter:
        generator(tensor_type, Device.DEFAULT)
        set_state(tensor_type, seed, counter)


def bits(tensor_type: type[Tensor], shape: tuple[int, ...], device: str) -> Tensor:
    """Uniform 32-bit words."""
    key, counter = generator(tensor_type, device).reserve(prod(shape))
    return tensor_type._wrap(nodes.random_bits(key, counter, shape))


def _shape_device(shape: tuple, device: Optional[str]) -> tuple[tuple[int, ...], str]:
    return as_shape(shape), Device.canonical(device) if device else Device.DEFAULT


def _finish(x: Tensor, dtype, requires_grad: bool) -> Tensor:
    x = x.cast(dtype or dtypes.default_float)
    return x.requires_grad_() if requires_grad else x


def unit(tensor_type: type[Tensor], shape: tuple[int, ...], device: str) -> Tensor:
    """float32 in [0, 1): 24 random bits, each value exact."""
    return (bits(tensor_type, shape, device) >> 8).cast(dtypes.float32) * 2.0**-24


def rand(cls: type[Tensor], *shape, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1)."""
    sizes, name = _shape_device(shape, device)
    return _finish(unit(cls, sizes, name), dtype, requires_grad)


def uniform(
    cls: type[Tensor], *shape, low: float = 0.0, high: float = 1.0, dtype=None, device=None, requires_grad: bool = False
) -> Tensor:
    """Uniform in [low, high)."""
    sizes, name = _shape_device(shape, device)
    return _finish(unit(cls, sizes, name) * (high - low) + low, dtype, requires_grad)


def randn(cls: type[Tensor], *shape, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Normal with mean 0 and variance 1 (Box and Muller, 1958)."""
    sizes, name = _shape_device(shape, device)
    both = unit(cls, (2, *sizes), name)
    radius = ((1.0 - both[0]).log() * -2.0).sqrt()  # 1 - u is in (0, 1], so the logarithm is finite
    return _finish((both[1] * (2 * pi)).cos() * radius, dtype, requires_grad)


def normal(
    cls: type[Tensor], *shape, mean: float = 0.0, std: float = 1.0, dtype=None, device=None, requires_grad: bool = False
) -> Tensor:
    """Normal with the given mean and standard deviation."""
    return _finish(randn(cls, *shape, device=device) * std + mean, dtype, requires_grad)


def randint(cls: type[Tensor], *shape, low: int = 0, high: int = 10, dtype=None, device=None) -> Tensor:
    """Integers in [low, high), int64 unless `dtype` says otherwise: the high half of word times range."""
    if not 0 < high - low <= 2**32:
        raise ValueError(f"randint: [{low}, {high}) must hold between 1 and 2**32 integers")
    sizes, name = _shape_device(shape, device)
    wide = bits(cls, sizes, name).cast(dtypes.uint64) * (high - low)
    return ((wide >> 32).cast(dtypes.int64) + low).cast(dtype or dtypes.default_int)


def dropout(self: Tensor, p: float = 0.5) -> Tensor:
    """Each element 0 with probability p, else divided by 1 - p (Srivastava et al., 2014). The mask is never stored."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must lie in [0, 1], not {p}")
    if p == 0:
        return self
    if p == 1:
        return self * 0
    keep = bits(type(self), self.shape, self.device) >= int(p * 2**32)
    return keep.where(self * (1 / (1 - p)), 0)
