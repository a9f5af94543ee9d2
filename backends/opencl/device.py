"""Finding OpenCL devices, and saying clearly why there is none.

GPUs come first, then everything else, each in the order in which the platforms list them: the first is "CL", the next
"CL:1". pyopencl is imported here and in `backend.py` only, when a device is first asked for.
"""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import DeviceError, DeviceInfo
from . import cache

if TYPE_CHECKING:
    from .backend import OpenCLBackend

INSTALL = (
    "Install a driver for your GPU, or a CPU runtime: pip install 'clgrad[pocl]' on Linux x86-64, "
    "your distribution's pocl-opencl-icd elsewhere. The NUMPY device needs none of this."
)

POCL = "Portable Computing Language"
PROBE = """
#if defined(__AVX__) && !defined(__AVX512F__)
__kernel void eight() {}
#else
__kernel void as_told() {}
#endif
"""


def device_name(index: int) -> str:
    return "CL" if index == 0 else f"CL:{index}"


def device_count() -> int:
    """How many OpenCL devices there are; 0, not an error, where OpenCL cannot be used at all."""
    return len(_find()[0])


def list_devices() -> list[DeviceInfo]:
    """What each device is, in the order of their names."""
    return [describe(device, index) for index, device in enumerate(_find()[0])]


def missing_reason() -> str:
    """Why there is no OpenCL device, or "" if there is one."""
    devices, reason = _find()
    return "" if devices else reason


def open_backend(index: int = 0) -> OpenCLBackend:
    """The backend of device number `index`. Raises DeviceError when there is no such device, and says why."""
    devices, reason = _find()
    if not devices:
        raise DeviceError(f"no OpenCL device: {reason}")
    if not 0 <= index < len(devices):
        raise DeviceError(
            f"there is no OpenCL device number {index}: {len(devices)} found, "
            f"{', '.join(f'{device_name(i)} ({d.name.strip()})' for i, d in enumerate(devices))}"
        )
    if devices[index].platform.name == POCL:
        cache.mend_pocl()
    from .backend import OpenCLBackend

    return OpenCLBackend(devices[index], device_name(index))


@lru_cache(maxsize=1)
def _find() -> tuple[list[Any], str]:
    """The devices, and why there are none when there are none."""
    if not _writable(cache.base_folder()):
        os.environ.setdefault("PYOPENCL_NO_CACHE", "1")  # pyopencl would end with a KeyError or FileNotFoundError
    try:
        import pyopencl as cl
    except Exception as error:  # a broken installation shows itself in many ways; none may break `import clgrad` users
        return [], f"pyopencl could not be imported ({type(error).__name__}: {error}). {INSTALL}"
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        return [], f"no OpenCL platform was found ({error}). {_home_hint()}{INSTALL}"
    devices = []
    for platform in platforms:
        try:
            devices += platform.get_devices()
        except cl.Error:  # a platform whose devices are all absent raises
            continue
    if not devices:
        return [], f"{len(platforms)} OpenCL platform(s), none with a device. {_home_hint()}{INSTALL}"
    return sorted(devices, key=lambda device: kind_of(device) != "gpu"), ""


def _home_hint() -> str:
    """PoCL shows no device when it cannot write its cache, which lies below HOME."""
    folder = cache.pocl_folder()
    if _writable(folder):
        return ""
    return (
        f"The folder {folder} cannot be written, and PoCL needs it for its cache: set POCL_CACHE_DIR to one that can. "
    )


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, itself made if need be."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def kind_of(device) -> str:
    """ "cpu", "gpu" or "accelerator"."""
    import pyopencl as cl

    kinds = cl.device_type
    return "gpu" if device.type & kinds.GPU else "cpu" if device.type & kinds.CPU else "accelerator"


def lanes(context, device) -> int:
    """The floats of a register, as the device's compiler uses them.

    PoCL says what the processor has. Where its compiler is older than the processor (3.0, with LLVM 14, on AMD's
    Zen 4) it writes AVX2 for an ancestor, yet links functions of float16 that are written for AVX-512: calling them
    kills the process. So the compiler is asked, once, and the answer kept.
    """
    import pyopencl as cl

    told = device.native_vector_width_float
    if device.platform.name != POCL or told <= 8:
        return told
    key = repr(("lanes", PROBE, device.platform.version, device.name, device.driver_version))
    answer = cache.read_program(key)
    if answer is None:
        try:
            answer = cl.Program(context, PROBE).build(cache_dir=False).kernel_names.encode()  # type: ignore[arg-type]
        except cl.Error:
            return told  # what comes next will say what is wrong
        cache.write_program(key, answer)
    return 8 if answer == b"eight" else told


def describe(device, index: int) -> DeviceInfo:
    extensions = set(device.extensions.split())
    return DeviceInfo(
        name=device_name(index),
        description=f"{device.name.strip()} ({device.platform.name.strip()}, {device.version.strip()})",
        kind=kind_of(device),
        memory=device.global_mem_size,
        compute_units=device.max_compute_units,
        features={
            "fp16": "cl_khr_fp16" in extensions,
            "fp64": bool("cl_khr_fp64" in extensions or device.double_fp_config),
            "subgroups": "cl_khr_subgroups" in extensions,
        },
        largest_allocation=device.max_mem_alloc_size,
        shares_host_memory=bool(device.host_unified_memory),
    )
