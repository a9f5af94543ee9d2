"""clgrad: a small lazy tensor and autograd engine with NumPy and OpenCL backends.

>>> from clgrad import Tensor
>>> (Tensor([1.0, 2.0]) * 3).tolist()
[3.0, 6.0]
"""

from .backends import dtypes
from .backends.base import DeviceError
from .engine.custom import operation
from .engine.device import Device
from .engine.functional import grad, hessian, hvp, jacrev, jvp, value_and_grad, vjp
from .engine.jit import jit
from .engine.tensor import Tensor

__all__ = [
    "Device",
    "DeviceError",
    "Tensor",
    "dtypes",
    "grad",
    "hessian",
    "hvp",
    "jacrev",
    "jit",
    "jvp",
    "nn",
    "operation",
    "value_and_grad",
    "vjp",
]


def __getattr__(name: str):
    """`nn` and `models` are imported when they are first named."""
    if name in ("nn", "models"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
