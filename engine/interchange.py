"""Interchange: values that leave as something other than a NumPy array of their own, and come in from other libraries.

DLPack goes both ways with whoever speaks it on the CPU: `np.from_dlpack(t)`, `torch.from_dlpack(t)`, and
`Tensor.from_dlpack(x)`. What leaves NUMPY is the Tensor's own memory, read-only, and while anybody has it nothing
overwrites it; a reader whose protocol cannot say "read-only" gets a copy, and so does every reader of another device
and of what is flipped, since PyTorch cannot bear a negative stride.
(PyTorch is told, but lets one write all the same: clone before writing.) What comes in is copied.

>>> import numpy as np
>>> from clgrad import Tensor
>>> x = Tensor([[1.0, 2.0], [3.0, 4.0]], device="NUMPY")
>>> np.from_dlpack(x.T).tolist(), np.frombuffer(x.data(), np.float32).tolist()
([[1.0, 3.0], [2.0, 4.0]], [1.0, 2.0, 3.0, 4.0])
>>> Tensor.from_dlpack(np.arange(3)).tolist()
[0, 1, 2]
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ..backends import dtypes
from ..backends.dtypes import is_float
from . import realize as realizing
from . import trace

if TYPE_CHECKING:
    from .tensor import Tensor

CPU = (1, 0)  # DLPack's name of the host's memory
UNSIGNED, BFLOAT = 1, 4  # and of two kinds of numbers
# NumPy can tell its readers that an array is read-only from this version on.
TELLS_READ_ONLY = np.lib.NumpyVersion(np.__version__) >= "2.1.0"
# Where a capsule's tensor says what kind of numbers it has: after a pointer to the data, the device, and the rank.
_POINTER = ctypes.sizeof(ctypes.c_void_p)
KIND = {b"dltensor": _POINTER + 12, b"dltensor_versioned": 16 + 2 * _POINTER + _POINTER + 12}


def data(self: Tensor) -> memoryview:
    """A copy of the value as a memoryview of this shape, as in tinygrad.

    Raises TypeError for bfloat16, which Python has no format for.
    """
    if dtypes.is_half(self.dtype) and self.dtype != dtypes.float16:
        raise TypeError("data: Python's memoryviews have no bfloat16; cast first, or bitcast to uint16")
    return self.numpy().data


def array(self: Tensor, dtype=None, copy: Optional[bool] = None) -> np.ndarray:
    """What `np.asarray(tensor, dtype)` gives: a new array. With copy=False the memory itself, read-only.

    Raises ValueError for copy=False where there is no way but to copy: on other devices, and for another dtype.
    """
    if copy is False:
        value = shared(self)
        if value is None or (dtype is not None and value.dtype != dtype):
            raise ValueError(f"a {self.dtype} Tensor on {self.device} cannot be read as {dtype} without a copy")
        return value
    value = self.numpy()
    return value if dtype is None else value.astype(dtype, copy=False)


def shared(self: Tensor) -> Optional[np.ndarray]:
    """The value where it lies, as a read-only array that keeps it there; None where the host cannot see it."""
    trace.forbid("sharing memory")
    return realizing.shared(self._node)


def to_dlpack(self: Tensor, *, stream=None, max_version=None, dl_device=None, copy: Optional[bool] = None):
    """The capsule that `from_dlpack` functions ask for. Raises BufferError for what the protocol has no way to do."""
    if stream is not None or dl_device not in (None, CPU):
        raise BufferError(f"a Tensor is handed over in the host's memory, without a stream, not to device {dl_device}")
    says_read_only = TELLS_READ_ONLY and max_version is not None and max_version[0] >= 1
    value = shared(self) if says_read_only and not copy else None
    if value is None or min(value.strides, default=0) < 0:  # PyTorch, given a negative stride, ends the process
        if copy is False:
            raise BufferError(f"a Tensor on {self.device} cannot be handed to this reader without a copy")
        value = self.numpy()
    options: dict[str, Any] = dict(max_version=max_version) if says_read_only else {}
    if is_float(value.dtype) and value.dtype.kind != "f":  # NumPy hands over no bfloat16: as bits, then by its name
        capsule = value.view(np.uint16).__dlpack__(**options)
        _kind(capsule).value = BFLOAT
        return capsule
    return value.__dlpack__(**options)


def dlpack_device(self: Tensor) -> tuple[int, int]:
    """The CPU: what lies on another device is copied to the host first."""
    return CPU


def from_dlpack(cls: type[Tensor], source: Any, device: Optional[str] = None) -> Tensor:
    """A Tensor with a copy of an array of any library that speaks DLPack, in its dtype.

    Raises TypeError for what does not speak it and for dtypes that there are not, and what `source` raises.
    """
    return cls(array_from(source), device=device)


def array_from(source: Any) -> np.ndarray:
    """An array over the memory of whatever speaks DLPack."""
    if not hasattr(source, "__dlpack__"):
        raise TypeError(f"from_dlpack: {type(source).__name__} does not speak DLPack")
    reader = _Reader(source)
    value = np.from_dlpack(reader)
    return value.view(dtypes.as_dtype("bfloat16")) if reader.bfloat else value


class _Reader:
    """Shows NumPy a bfloat16, which it refuses, as an unsigned integer."""

    def __init__(self, source: Any):
        self.source, self.bfloat = source, False

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.source.__dlpack_device__()

    def __dlpack__(self, **options):
        try:
            capsule = self.source.__dlpack__(**options)
        except TypeError:  # of a library with an older protocol
            capsule = self.source.__dlpack__()
        kind = _kind(capsule)
        self.bfloat = kind.value == BFLOAT
        if self.bfloat:
            kind.value = UNSIGNED
        return capsule


def _kind(capsule) -> ctypes.c_uint8:
    """The byte of a capsule that says what kind of numbers it holds."""
    python = ctypes.pythonapi
    python.PyCapsule_GetName.restype, python.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    name = python.PyCapsule_GetName(capsule)
    return ctypes.c_uint8.from_address(python.PyCapsule_GetPointer(capsule, name) + KIND[name])
