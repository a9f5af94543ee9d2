"""`clgrad devices`: what there is to run on, which one is the default, and a small kernel on each to prove it works."""

from __future__ import annotations

from .. import Device, DeviceError, Tensor
from .errors import UsageError

NUMBERS = 1000


def choose_device(name: str) -> str:
    """A usable device's name; "auto" is the default device. Raises UsageError that lists the valid ones."""
    if name == "auto":
        return Device.DEFAULT
    try:
        return Device[name].name
    except (DeviceError, KeyError, ValueError) as error:
        reason = why_no_opencl()
        hint = f" ({reason})" if reason else ""
        raise UsageError(f"unknown device {name!r}. Valid: auto, {', '.join(Device.names())}{hint}") from error


def print_devices() -> None:
    for name in Device.names():
        print("\n".join(describe(name)), end="\n\n")
    print(f"default: {Device.DEFAULT}, because {Device.default_reason()}")
    reason = why_no_opencl()
    if reason:
        print(f"OpenCL: none. {reason}")


def describe(name: str) -> list[str]:
    """A few lines on one device, the last of them on whether a kernel runs there."""
    try:
        info = Device[name].describe()
    except Exception as error:  # a driver may fail in any way, and the others must still be listed
        return [name, f"  fails     {first_line(error)}"]
    mark = "  (default)" if name == Device.DEFAULT else ""
    features = ", ".join(feature for feature, there in info.features.items() if there) or "none"
    missing = ", ".join(feature for feature, there in info.features.items() if not there)
    lines = [
        f"{name}{mark}",
        f"  device    {info.description} ({info.kind})",
        f"  memory    {info.memory / 2**30:.1f} GiB",
        f"  units     {info.compute_units} compute units",
        f"  optional  {features}" + (f"; not there: {missing}" if missing else ""),
    ]
    return [*lines, f"  kernel    {try_kernel(name)}"]


def try_kernel(name: str) -> str:
    """Sum the first odd numbers, which makes a square: "ok", or what went wrong."""
    try:
        total = (Tensor.arange(NUMBERS, device=name) * 2 + 1).sum().item()
    except Exception as error:  # as above
        return f"fails: {first_line(error)}"
    return "ok" if total == NUMBERS**2 else f"wrong: the sum of {NUMBERS} odd numbers is {NUMBERS**2}, not {total}"


def why_no_opencl() -> str:
    """Why there is no OpenCL device here, and what to do; empty where there is one."""
    if any(name.startswith("CL") for name in Device.names()):
        return ""
    install = 'on Linux x86-64, pip install "clgrad[pocl]" brings one that runs on the CPU'
    try:
        import pyopencl
    except ImportError as error:
        return f"pyopencl cannot be imported ({first_line(error)}): pip install pyopencl"
    try:
        platforms = pyopencl.get_platforms()
    except pyopencl.Error as error:
        return f"No OpenCL driver is installed ({first_line(error)}): install your GPU vendor's; {install}"
    names = ", ".join(platform.name for platform in platforms)
    return f"The drivers that are installed ({names}) have no device: check your GPU's driver; {install}"


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
