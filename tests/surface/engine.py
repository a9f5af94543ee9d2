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


def on_the_way(x):
    """The gradient of exp(x)^2 x for exp(x)."""
    e = x.exp()
    return (e * e * x).sum().gradient(e)[0]


# fmt: off
ENTRIES = [
    Entry("contiguous", "Tensor.contiguous", lambda x: x.contiguous() * x, dtypes=ALL),
    Entry("barrier", (), lambda x: Tensor._make("barrier", x) ** 2, lambda x: x**2),
    Entry("to", "Tensor.to", lambda x: x.to(elsewhere(x)) ** 2, lambda x: x**2),
    Entry("to and back", "Tensor.to", lambda x: x.to(elsewhere(x)).to(x.device) ** 2, lambda x: x**2),
    Entry("clone, squared", "Tensor.clone", lambda x: x.clone() ** 2),
    Entry("detach", "Tensor.detach", lambda x: x.detach() * x),
    Entry("gradient", "Tensor.gradient", lambda x: (x * x * x).sum().gradient(x)[0], lambda x: 3 * x * x,
          special="mild"),
    Entry("gradient for a value on the way", (), on_the_way, lambda x: 2 * x.exp() * x, special="mild"),
    Entry("gradient times a given one", (), lambda x, g: (x * x).gradient(x, gradient=g)[0], lambda x, g: 2 * x * g,
          operands=2, special="mild"),
]
