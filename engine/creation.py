"""Creation: Tensors from numbers, lists, arrays and rules.

>>> from clgrad import Tensor
>>> Tensor.arange(3).tolist(), Tensor.full((2,), 7).tolist(), Tensor.eye(2).tolist()
([0, 1, 2], [7, 7], [[1.0, 0.0], [0.0, 1.0]])
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ..backends import dtypes
from ..backends.dtypes import DType, is_float, is_int
from . import interchange, movement
from . import node as nodes
from . import realize as realizing
from .device import Device
from .node import Node
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor


class ArgumentError(ValueError, RuntimeError):
    """A number out of the range that a function takes: a ValueError, as in NumPy, and a RuntimeError, as in PyTorch."""


def checked_shape(op: str, shape: tuple) -> tuple[int, ...]:
    """(2, 3) and ((2, 3),) as a shape; a ShapeError where a size is negative."""
    sizes = movement.as_shape(shape)
    if any(n < 0 for n in sizes):
        raise ShapeError(f"{op}: {sizes} has a negative size")
    return sizes


def device_name(device: Optional[str]) -> str:
    return Device.canonical(device) if device else Device.DEFAULT


def full(
    cls: type[Tensor], shape, fill_value, dtype=None, device: Optional[str] = None, requires_grad: bool = False
) -> Tensor:
    """`fill_value` everywhere. Without `dtype`, as a Tensor of that number would have.

    Raises ArgumentError for an integer that the dtype does not hold; an unsigned one takes -n for 2^bits - n.
    """
    sizes = checked_shape("full", (shape,) if isinstance(shape, int) else tuple(shape))
    value = fill_value.item() if hasattr(fill_value, "item") else fill_value
    wanted = _scalar_dtype(value) if dtype is None else dtypes.as_dtype(dtype)
    _check_held("full", value, wanted)
    return _wanting(cls._wrap(nodes.constant(value, wanted, sizes, device_name(device))), requires_grad)


def _check_held(op: str, value: Any, dtype: DType) -> None:
    if not (isinstance(value, int) and is_int(dtype)):
        return
    most = int(np.iinfo(dtype).max)
    least = int(np.iinfo(dtype).min) or -most
    if not least <= value <= most:
        raise ArgumentError(f"{op}: {dtype} does not hold {value}")


def _wanting(x: Tensor, requires_grad: bool) -> Tensor:
    return x.requires_grad_() if requires_grad else x


def zeros(cls: type[Tensor], *shape, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """0 everywhere, float32 unless `dtype` says otherwise."""
    return cls.full(checked_shape("zeros", shape), 0, dtype or dtypes.default_float, device, requires_grad)


def ones(cls: type[Tensor], *shape, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """1 everywhere, float32 unless `dtype` says otherwise."""
    return cls.full(checked_shape("ones", shape), 1, dtype or dtypes.default_float, device, requires_grad)


def empty(cls: type[Tensor], *shape, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """Zeros: a value that is never computed costs nothing, so there is no need for rubbish."""
    return cls.full(checked_shape("empty", shape), 0, dtype or dtypes.default_float, device, requires_grad)


def full_like(
    self: Tensor, fill_value, dtype=None, device: Optional[str] = None, requires_grad: bool = False
) -> Tensor:
    """`fill_value` everywhere, in this Tensor's shape, dtype and device."""
    return type(self).full(self.shape, fill_value, dtype or self.dtype, device or self.device, requires_grad)


def zeros_like(self: Tensor, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """0 everywhere, in this Tensor's shape, dtype and device."""
    return self.full_like(0, dtype, device, requires_grad)


def ones_like(self: Tensor, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """1 everywhere, in this Tensor's shape, dtype and device."""
    return self.full_like(1, dtype, device, requires_grad)


def empty_like(self: Tensor, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """Zeros, like `empty`, in this Tensor's shape, dtype and device."""
    return self.full_like(0, dtype, device, requires_grad)


def _wide_float(device: str) -> DType:
    """What numbers of 32 bits are computed in before they are rounded: float64 where the device has it."""
    return dtypes.float64 if Device[device].supports(dtypes.float64) else dtypes.float32


def arange(
    cls: type[Tensor],
    start,
    stop=None,
    step=1,
    dtype=None,
    device: Optional[str] = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... before stop; from 0 if only one bound is given; nothing if step leads away from stop.

    int64, or float32 if a bound is a float, unless `dtype` says otherwise. Floats are start + i step, rounded once on a
    device that has float64. As in PyTorch, an integer `dtype` truncates start and step. Raises ArgumentError for a step
    of 0 and for bounds that are not finite.
    """
    if stop is None:
        start, stop = 0, start
    start, stop, step = (v.item() if hasattr(v, "item") else v for v in (start, stop, step))
    whole = all(isinstance(v, int) for v in (start, stop, step))
    wanted = dtypes.as_dtype(dtype) if dtype is not None else dtypes.default_int if whole else dtypes.default_float
    if not np.isfinite([float(start), float(stop), float(step)]).all():
        raise ArgumentError(f"arange: bounds and step must be finite, not {start}, {stop} and {step}")
    if wanted == dtypes.int64:
        start, stop, step = int(start), int(stop), int(step)
    if step == 0:
        raise ArgumentError(f"arange: the step must not be 0 (as {wanted})")
    length = max(0, -((start - stop) // step) if whole or wanted == dtypes.int64 else ceil((stop - start) / step))
    name = device_name(device)
    steps = cls._wrap(nodes.iota(length, name))
    if is_float(wanted) and not whole:
        wide = dtypes.float32 if wanted.itemsize < 4 else wanted if wanted.itemsize > 4 else _wide_float(name)
        steps = steps.cast(wide) * float(step) + float(start)
    elif (start, step) != (0, 1):
        steps = steps.cast(dtypes.int64) * int(step) + int(start)
    return _wanting(steps.cast(wanted), requires_grad)


def linspace(
    cls: type[Tensor],
    start: float,
    stop: float,
    steps: int,
    dtype=None,
    device: Optional[str] = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` numbers evenly spaced from start to stop, both included and exact; float32 unless `dtype` says otherwise.

    The first half is counted from start and the second from stop, with bounds and step rounded to `dtype`, as in
    PyTorch. Integers are rounded towards 0. Raises ArgumentError for less than 0 steps.
    """
    if steps < 0:
        raise ArgumentError(f"linspace: the number of steps must not be negative, and is {steps}")
    wanted, name = dtypes.as_dtype(dtype or dtypes.default_float), device_name(device)
    half = is_float(wanted) and wanted.itemsize < 4
    wide = dtypes.float32 if half else wanted if wanted == dtypes.float64 else _wide_float(name)

    def rounded(x: Tensor) -> Tensor:
        """Halves are rounded at each step, and others at the end."""
        return x.cast(wanted).cast(wide) if half else x

    def bound(value: float) -> float:
        return float(np.asarray(value).astype(wanted))

    low, high = bound(start), bound(stop)
    step = (bound(high - low) if half else high - low) / max(steps - 1, 1)
    step = bound(step) if is_float(wanted) else step
    index = cls._wrap(nodes.iota(steps, name))
    upwards, downwards = (rounded(rounded(i.cast(wide)) * step) for i in (index, steps - 1 - index))
    result = (index < max(steps // 2, steps == 1)).where(upwards + low, high - downwards)  # a single one is the start
    return _wanting(result.cast(wanted), requires_grad)


def eye(
    cls: type[Tensor],
    n: int,
    m: Optional[int] = None,
    dtype=None,
    device: Optional[str] = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix, zeros elsewhere; square without m; float32 unless `dtype` differs."""
    sizes = checked_shape("eye", (n, n if m is None else m))
    rows, columns = (cls._wrap(nodes.iota(size, device_name(device))) for size in sizes)
    return _wanting((rows.unsqueeze(1) == columns).cast(dtype or dtypes.default_float), requires_grad)


def _scalar_dtype(value) -> DType:
    if isinstance(value, (bool, np.bool_)):
        return dtypes.bool_
    return dtypes.default_int if isinstance(value, (int, np.integer)) else dtypes.default_float


def leaf_from(data: Any, wanted: Optional[DType], device: str) -> Node:
    """A node for data from outside. Numbers become constants; arrays and lists are copied to the device."""
    if isinstance(data, (bool, int, float)):
        Device[device]
        dtype = wanted or _scalar_dtype(data)
        _check_held("Tensor", data, dtype)
        return nodes.constant(data, dtype, (), device)
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
    elif isinstance(data, (bytes, bytearray, memoryview)):
        array = np.asarray(memoryview(data))
    elif hasattr(data, "__dlpack__"):
        array = interchange.array_from(data)
    elif hasattr(data, "__array__"):
        array = np.asarray(data)
    else:
        try:
            array = np.array(_numbers(data))
        except ValueError as error:
            raise ShapeError(f"Tensor: the nested lists do not form a rectangle ({error})") from None
        if wanted is None and (array.dtype.kind == "f" or array.size == 0):
            wanted = dtypes.default_float
        elif wanted is None and array.dtype.kind == "i":  # what is too large for that is uint64
            wanted = dtypes.default_int
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"Tensor: {type(data).__name__} of {array.dtype} is not numbers")
    dtype = wanted or dtypes.as_dtype(array.dtype)
    return nodes.leaf(array.shape, dtype, device, realizing.write(array.astype(dtype, copy=False), dtype, device))


def _numbers(data: Any) -> Any:
    """Nested lists, with the Tensors and arrays in them read."""
    if hasattr(data, "tolist"):
        return data.tolist()
    return [_numbers(item) for item in data] if isinstance(data, (list, tuple)) else data
