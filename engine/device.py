"""Devices by name: NUMPY, CL, CL:1, ... and which one is used when none is named.

Comes in: a name, as users write it. Goes out: the one `Backend` for it, opened at first use. The default is the
environment variable CLGRAD_DEVICE; else the first OpenCL GPU; else NUMPY. It never depends on a timing.

>>> from clgrad import Device
>>> Device.canonical("numpy"), Device.canonical("cl:0")
('NUMPY', 'CL')
"""

from __future__ import annotations

import os
import re
from typing import Optional

from ..backends.base import Backend, DeviceError


class Devices:
    """The devices of this machine, as a mapping from name to backend. `Device` is the one instance."""

    def __init__(self) -> None:
        self._open: dict[str, Backend] = {}
        self._default: Optional[tuple[str, str]] = None

    def canonical(self, name: str) -> str:
        """The one spelling of a device's name. Raises DeviceError for something that cannot be one."""
        upper = str(name).upper()
        match = re.fullmatch(r"CL(?::(\d+))?", upper)
        if match:
            return f"CL:{int(match[1])}" if match[1] and int(match[1]) else "CL"
        if upper == "NUMPY":
            return upper
        raise DeviceError(
            f"there is no device {name!r}; names are NUMPY, CL, CL:1, ... and `clgrad devices` lists them"
        )

    def __getitem__(self, name: str) -> Backend:
        """The backend of that name, opened if it is not yet. Raises DeviceError if it cannot be."""
        backend = self._open.get(name)
        if backend is None:
            canonical = self.canonical(name)
            backend = self._open.get(canonical) or self._start(canonical)
            self._open[canonical] = self._open[name] = backend
        return backend

    def _start(self, name: str) -> Backend:
        if name == "NUMPY":
            from ..backends.numpy.backend import NumpyBackend

            return NumpyBackend()
        from ..backends.opencl.device import open_backend

        return open_backend(int(name[3:] or 0))

    @property
    def DEFAULT(self) -> str:
        """The device of Tensors that name none."""
        return self._choose()[0]

    @DEFAULT.setter
    def DEFAULT(self, name: str) -> None:
        canonical = self.canonical(name)
        self[canonical]
        self._default = (canonical, "the program set it")

    def default_reason(self) -> str:
        """Why `DEFAULT` is what it is, in words."""
        return self._choose()[1]

    def _choose(self) -> tuple[str, str]:
        if self._default is None:
            named = os.environ.get("CLGRAD_DEVICE")
            if named:
                self[named]  # a device that does not exist is an error now, not at the first kernel
                self._default = (self.canonical(named), "the environment variable CLGRAD_DEVICE names it")
            else:
                self._default = self._best()
        return self._default

    def _best(self) -> tuple[str, str]:
        from ..backends.opencl.device import list_devices, missing_reason

        infos = list_devices()
        if not infos:
            return "NUMPY", f"there is no OpenCL here: {missing_reason()}"
        for info in infos:
            if info.kind == "gpu":
                return info.name, "it is the first OpenCL GPU"
        return "NUMPY", "there is no OpenCL GPU; name an OpenCL device with CLGRAD_DEVICE or device="

    def names(self) -> list[str]:
        """NUMPY, and every OpenCL device there is."""
        from ..backends.opencl.device import list_devices

        return ["NUMPY", *(info.name for info in list_devices())]


Device = Devices()
