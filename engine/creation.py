"""Creation: Tensors from numbers, lists, arrays and rules.

>>> from clgrad import Tensor
>>> Tensor.arange(3).tolist(), Tensor.full((2,), 7).tolist(), Tensor.eye(2).tolist()
([0, 1, 2], [7, 7], [[1.0, 0.0], [0.0, 1.0]])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ..backends import dtypes
from ..backends.dtypes import DType
from . import movement
from . import node as nodes
from . import realize as realizing
from .device import Device
from .node import Node
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor


def full(
    cls: type[Tensor], shape, value, dtype=None, device: Optional[str] = None, requires_grad: bool = False
) -> Tensor:
    """`value` everywhere. Without `dtype`, as a Tensor of that number would have."""
    sizes = movement.as_shape((shape,) if isinstance(shape, int) else tuple(shape))
    if any(n < 0 for n in sizes):
        raise ShapeError(f"full: {sizes} has a negative size")
    wanted = _scalar_dtype(value) if dtype is None else dtypes.as_dtype(dtype)
    name = Device.canonical(device) if device else Device.DEFAULT
    result = cls._wrap(nodes.constant(value, wanted, sizes, name))
    return result.requires_grad_() if requires_grad else result


def zeros(cls: type[Tensor], *shape, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """0.0 everywhere."""
    return cls.full(movement.as_shape(shape), 0, dtype or dtypes.default_float, device, requires_grad)


def ones(cls: type[Tensor], *shape, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """1.0 everywhere."""
    return cls.full(movement.as_shape(shape), 1, dtype or dtypes.default_float, device, requires_grad)


def empty(cls: type[Tensor], *shape, dtype=None, device: Optional[str] = None, requires_grad: bool = False) -> Tensor:
    """Zeros: a value that is never computed costs nothing, so there is no need for rubbish."""
    return cls.zeros(*shape, dtype=dtype, device=device, requires_grad=requires_grad)


def full_like(self: Tensor, value, dtype=None) -> Tensor:
    """`value` everywhere, in this Tensor's shape, dtype and device."""
    return type(self).full(self.shape, value, dtype or self.dtype, self.device)


def zeros_like(self: Tensor, dtype=None) -> Tensor:
    """0 everywhere, in this Tensor's shape, dtype and device."""
    return self.full_like(0, dtype)


def ones_like(self: Tensor, dtype=None) -> Tensor:
    """1 everywhere, in this Tensor's shape, dtype and device."""
    return self.full_like(1, dtype)


def arange(cls: type[Tensor], start, stop=None, step=1, dtype=None, device: Optional[str] = None) -> Tensor:
    """start, start + step, ... before stop; from 0 if only one bound is given. int64 unless a bound is a float."""
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ValueError("arange: the step must not be 0")
    length = max(0, int(np.ceil((stop - start) / step)))
    name = Device.canonical(device) if device else Device.DEFAULT
    whole = all(isinstance(v, int) for v in (start, stop, step))
    wanted = dtypes.as_dtype(dtype) if dtype is not None else dtypes.default_int if whole else dtypes.default_float
    steps = cls._wrap(nodes.iota(length, name))
    if whole and wanted == steps.dtype and (start, step) == (0, 1):
        return steps
    if whole:
        return (steps.cast(dtypes.int64) * step + start).cast(wanted) if (start, step) != (0, 1) else steps.cast(wanted)
    return steps.cast(dtypes.default_float if wanted != dtypes.float64 else wanted).mul(step).add(start).cast(wanted)


def linspace(
    cls: type[Tensor], start: float, stop: float, steps: int, dtype=None, device: Optional[str] = None
) -> Tensor:
    """`steps` numbers evenly spaced from start to stop, both included."""
    index = cls.arange(steps, dtype=dtypes.int32, device=device).cast(dtypes.default_float)
    return (index * ((stop - start) / max(steps - 1, 1)) + start).cast(dtype or dtypes.default_float)


def eye(cls: type[Tensor], n: int, m: Optional[int] = None, dtype=None, device: Optional[str] = None) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix, zeros elsewhere; square without m."""
    rows, columns = (cls.arange(size, dtype=dtypes.int32, device=device) for size in (n, n if m is None else m))
    return (rows.unsqueeze(1) == columns).cast(dtype or dtypes.default_float)


def _scalar_dtype(value) -> DType:
    if isinstance(value, (bool, np.bool_)):
        return dtypes.bool_
    return dtypes.default_int if isinstance(value, (int, np.integer)) else dtypes.default_float


def leaf_from(data: Any, wanted: Optional[DType], device: str) -> Node:
    """A node for data from outside. Numbers become constants; arrays and lists are copied to the device."""
    if isinstance(data, (bool, int, float)):
        Device[device]
        return nodes.constant(data, wanted or _scalar_dtype(data), (), device)
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
    else:
        try:
            array = np.array(_numbers(data))
        except ValueError as error:
            raise ShapeError(f"Tensor: the nested lists do not form a rectangle ({error})") from None
        if wanted is None and array.dtype.kind in "fiu":
            wanted = dtypes.default_float if array.dtype.kind == "f" or array.size == 0 else _int_dtype(array)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Tensor: {type(data).__name__} of {array.dtype} is not numbers")
    dtype = wanted or dtypes.as_dtype(array.dtype)
    return nodes.leaf(array.shape, dtype, device, realizing.write(array.astype(dtype, copy=False), dtype, device))


def _int_dtype(array: np.ndarray) -> DType:
    fits = array.size == 0 or (int(array.min()) >= -(2**31) and int(array.max()) < 2**31)
    return dtypes.default_int if fits else dtypes.as_dtype(array.dtype)


def _numbers(data: Any) -> Any:
    """Nested lists, with the Tensors and arrays in them read."""
    if hasattr(data, "tolist"):
        return data.tolist()
    return [_numbers(item) for item in data] if isinstance(data, (list, tuple)) else data
