"""clgrad: a small lazy tensor and autograd engine with NumPy and OpenCL backends.

>>> from clgrad import Tensor
>>> (Tensor([1.0, 2.0]) * 3).tolist()
[3.0, 6.0]
"""

from .backends import dtypes
from .backends.base import DeviceError
from .engine.device import Device
from .engine.tensor import Tensor

__all__ = ["Device", "DeviceError", "Tensor", "dtypes"]
