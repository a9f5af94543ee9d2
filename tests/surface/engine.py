"""What changes no value: copies, barriers, other devices."""

from __future__ import annotations

from clgrad import Device, DeviceError, Tensor

from .entry import ALL, Entry


def elsewhere(x):
    """The name of another device than that of `x`, if there is one."""
    if x.device != "NUMPY":
        return "NUMPY"
    try:
        Device["CL"]
    except DeviceError:
        return "NUMPY"
    return "CL"


# fmt: off
ENTRIES = [
    Entry("contiguous", "Tensor.contiguous", lambda x: x.contiguous() * x, dtypes=ALL),
    Entry("barrier", (), lambda x: Tensor._make("barrier", x) ** 2, lambda x: x**2),
    Entry("to", "Tensor.to", lambda x: x.to(elsewhere(x)) ** 2, lambda x: x**2),
    Entry("to and back", "Tensor.to", lambda x: x.to(elsewhere(x)).to(x.device) ** 2, lambda x: x**2),
    Entry("clone, squared", "Tensor.clone", lambda x: x.clone() ** 2),
    Entry("detach", "Tensor.detach", lambda x: x.detach() * x),
]
