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
from math import pi, prod, sqrt
from operator import index
from typing import TYPE_CHECKING, Optional, Union

import numpy as np

from ..backends import dtypes
from ..backends.dtypes import DType, is_float, is_int
from . import node as nodes
from . import trace
from .creation import ArgumentError, checked_shape, device_name
from .device import Device
from .ops import ShapeError

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


def manual_seed(tensor_type: type[Tensor], seed: int = 0) -> None:
    """Start every device's generator from `seed` (any integer, taken modulo 2**64). TypeError for what is none."""
    set_state(tensor_type, index(seed), 0)


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


def unit(tensor_type: type[Tensor], shape: tuple[int, ...], device: str, dtype: DType = dtypes.float32) -> Tensor:
    """Uniform in [0, 1): as many random bits as a float of `dtype` has digits, so that each value is exact.

    The result is of the dtype that is computed in: float32 for halves.
    """
    if dtype == dtypes.float64:
        return (long_bits(tensor_type, shape, device) >> 11).cast(dtype) * 2.0**-53
    digits = {"float16": 11, "bfloat16": 8}.get(dtype.name, 24)  # by name: few programs have bfloat16 at all
    return (bits(tensor_type, shape, device) >> (32 - digits)).cast(dtypes.float32) * 2.0**-digits


def long_bits(tensor_type: type[Tensor], shape: tuple[int, ...], device: str) -> Tensor:
    """Uniform 64-bit words."""
    high, low = bits(tensor_type, (2, *shape), device).cast(dtypes.uint64).split(1)
    return ((high << 32) | low).reshape(shape)


def below(words: Tensor, limit: Union[int, Tensor]) -> Tensor:
    """Uniform in 0 <= i < limit from uint64 words: the high half of word times limit, which is uint64 too."""
    if isinstance(limit, int):
        limit = words.full_like(limit)
    mask = 2**32 - 1
    high, low = words >> 32, words & mask
    limit_high, limit_low = limit >> 32, limit & mask
    middle = high * limit_low + ((low * limit_low) >> 32)
    other = low * limit_high + (middle & mask)
    return high * limit_high + (middle >> 32) + (other >> 32)


def _float_dtype(op: str, dtype) -> DType:
    wanted = dtypes.as_dtype(dtype or dtypes.default_float)
    if not is_float(wanted):
        raise ArgumentError(f"{op}: gives floats, not {wanted}; use randint, or cast")
    return wanted


def _finish(x: Tensor, dtype: DType, requires_grad: bool) -> Tensor:
    x = x.cast(dtype)
    return x.requires_grad_() if requires_grad else x


def rand(cls: type[Tensor], *shape, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1), in steps of the dtype's precision. ArgumentError for a dtype that is not a float."""
    wanted = _float_dtype("rand", dtype)
    return _finish(unit(cls, checked_shape("rand", shape), device_name(device), wanted), wanted, requires_grad)


def uniform(
    cls: type[Tensor], *shape, low: float = 0.0, high: float = 1.0, dtype=None, device=None, requires_grad: bool = False
) -> Tensor:
    """Uniform in [low, high), but for rounding. Integers are rounded towards `low`. ArgumentError if low > high."""
    if not low <= high:
        raise ArgumentError(f"uniform: low must not be above high, and [{low}, {high}) is no range")
    wanted = dtypes.as_dtype(dtype or dtypes.default_float)
    u = unit(cls, checked_shape("uniform", shape), device_name(device), wanted) * (high - low)
    return _finish(u + low if is_float(wanted) else u.cast(wanted) + low, wanted, requires_grad)


def _standard(cls: type[Tensor], sizes: tuple[int, ...], device: str, dtype: DType) -> Tensor:
    """Normal with mean 0 and variance 1, in float32 or float64."""
    both = unit(cls, (2, *sizes), device, dtypes.float64 if dtype == dtypes.float64 else dtypes.float32)
    radius = ((1.0 - both[0]).log() * -2.0).sqrt()  # 1 - u is in (0, 1], so the logarithm is finite
    return (both[1] * (2 * pi)).cos() * radius


def randn(cls: type[Tensor], *shape, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Normal with mean 0 and variance 1 (Box and Muller, 1958). ArgumentError for a dtype that is not a float."""
    wanted = _float_dtype("randn", dtype)
    return _finish(_standard(cls, checked_shape("randn", shape), device_name(device), wanted), wanted, requires_grad)


def normal(
    cls: type[Tensor], *shape, mean: float = 0.0, std: float = 1.0, dtype=None, device=None, requires_grad: bool = False
) -> Tensor:
    """Normal with the given mean and standard deviation. ArgumentError if std < 0, or for a dtype that is no float."""
    if not std >= 0:
        raise ArgumentError(f"normal: the standard deviation must not be negative, and is {std}")
    wanted = _float_dtype("normal", dtype)
    z = _standard(cls, checked_shape("normal", shape), device_name(device), wanted)
    return _finish(z * std + mean, wanted, requires_grad)


def randint(
    cls: type[Tensor], *shape, low: int = 0, high: int = 10, dtype=None, device=None, requires_grad: bool = False
) -> Tensor:
    """Integers in [low, high), int64 unless `dtype` says otherwise: the high half of a random word times the range.

    The word has 32 bits for up to 2^32 integers, else 64. Raises ArgumentError if there is none in the range, or one
    that `dtype` does not hold.
    """
    wanted = dtypes.as_dtype(dtype or dtypes.default_int)
    info = np.iinfo(wanted if is_int(wanted) else dtypes.int64)
    least, most = (0, 1) if wanted == dtypes.bool_ else (int(info.min), int(info.max))
    if not low < high:
        raise ArgumentError(f"randint: low must be below high, and [{low}, {high}) holds no integer")
    if low < least or high - 1 > most:
        raise ArgumentError(f"randint: [{low}, {high}) is not within [{least}, {most}], what {wanted} holds")
    sizes, name, count = checked_shape("randint", shape), device_name(device), high - low
    if count <= 2**32:
        offset = (bits(cls, sizes, name).cast(dtypes.uint64) * count) >> 32
    elif count < 2**64:
        offset = below(long_bits(cls, sizes, name), count)
    else:
        offset = long_bits(cls, sizes, name)
    result = offset + low % 2**64  # modulo 2^64, as a cast to a signed integer is
    return _finish(result if wanted == dtypes.uint64 else result.cast(dtypes.int64), wanted, requires_grad)


def rand_like(self: Tensor, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """`rand` of this Tensor's shape, dtype and device."""
    return type(self).rand(
        self.shape, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad
    )


def randn_like(self: Tensor, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """`randn` of this Tensor's shape, dtype and device."""
    return type(self).randn(
        self.shape, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad
    )


def randint_like(self: Tensor, low: int = 0, high: int = 10, dtype=None, device: Optional[str] = None) -> Tensor:
    """`randint` of this Tensor's shape, dtype and device."""
    return type(self).randint(self.shape, low=low, high=high, dtype=dtype or self.dtype, device=device or self.device)


def scaled_uniform(cls: type[Tensor], *shape, **options) -> Tensor:
    """Uniform in [-1, 1) divided by the square root of the number of elements; `options` as `uniform`'s."""
    bound = max(1, prod(checked_shape("scaled_uniform", shape))) ** -0.5
    return cls.uniform(*shape, low=-bound, high=bound, **options)


def _fans(op: str, shape: tuple) -> tuple[int, int]:
    """(inputs, outputs) of a weight of shape (outputs, inputs, ...)."""
    sizes = checked_shape(op, shape)
    if not sizes:
        raise ShapeError(f"{op}: a weight has a dimension at least, and () has none")
    return max(1, prod(sizes[1:])), sizes[0]


def glorot_uniform(cls: type[Tensor], *shape, **options) -> Tensor:
    """Uniform in [-b, b) with b = sqrt(6 / (inputs + outputs)) for shape (outputs, inputs, ...).

    (Glorot and Bengio, 2010.) `options` as `uniform`'s.
    """
    bound = sqrt(6 / sum(_fans("glorot_uniform", shape)))
    return cls.uniform(*shape, low=-bound, high=bound, **options)


def kaiming_uniform(cls: type[Tensor], *shape, a: float = 0.01, **options) -> Tensor:
    """Uniform in [-b, b) with b = sqrt(6 / ((1 + a^2) inputs)) for shape (outputs, inputs, ...).

    `a` is the slope of the leaky ReLU that follows (He et al., 2015). `options` as `uniform`'s.
    """
    bound = sqrt(6 / ((1 + a * a) * _fans("kaiming_uniform", shape)[0]))
    return cls.uniform(*shape, low=-bound, high=bound, **options)


def kaiming_normal(cls: type[Tensor], *shape, a: float = 0.01, **options) -> Tensor:
    """Normal with mean 0 and variance 2 / ((1 + a^2) inputs) for shape (outputs, inputs, ...).

    `a` is the slope of the leaky ReLU that follows (He et al., 2015). `options` as `normal`'s.
    """
    return cls.normal(*shape, std=sqrt(2 / ((1 + a * a) * _fans("kaiming_normal", shape)[0])), **options)


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
