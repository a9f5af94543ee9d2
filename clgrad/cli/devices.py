"""`clgrad devices`: what there is to run on, which one is the default, and a small kernel on each to prove it works."""

from __future__ import annotations

import os

import numpy as np

from .. import Device, DeviceError, Tensor
from .errors import UsageError

NUMBERS = 1000


def choose_device(name: str) -> str:
    """A usable device's name; "auto" is the default device. Raises UsageError that lists the valid ones."""
    try:
        return Device.DEFAULT if name == "auto" else Device[name].name
    except DeviceError as error:
        raise UsageError(
            f"--device {name}: {str(error).rstrip('.')}. Valid here: auto, {', '.join(Device.names())}"
        ) from error


def environment(device: str) -> dict[str, str]:
    """What the last digits of a run's numbers depend on, beside its configuration."""
    named = (os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    return {
        "device": Device[device].describe().description,
        "numpy": np.__version__,
        "blas_threads": next(filter(None, named), str(os.cpu_count())),
    }


def print_devices() -> None:
    try:
        default, reason = Device.DEFAULT, f"{Device.DEFAULT}, because {Device.default_reason()}"
    except DeviceError as error:  # CLGRAD_DEVICE names one that is not there
        default, reason = "", f"none: {error}"
    for name in Device.names():
        print("\n".join(describe(name, default)), end="\n\n")
    print(f"default: {reason}")
    missing = why_no_opencl()
    if missing:
        print(f"OpenCL:  {missing}")


def describe(name: str, default: str) -> list[str]:
    """A few lines on one device, the last of them on whether a kernel runs there."""
    try:
        info = Device[name].describe()
    except Exception as error:  # a driver may fail in any way, and the others must still be listed
        return [name, f"  fails     {first_line(error)}"]
    mark = "  (default)" if name == default else ""
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
    from ..backends.opencl.device import device_count, open_backend

    try:
        if not device_count():
            open_backend()
    except DeviceError as error:
        return str(error)
    return ""


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
