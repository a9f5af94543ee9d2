"""`clgrad tune`: find the fastest block sizes for an OpenCL device, and keep them."""

from __future__ import annotations

from dataclasses import asdict

from .. import Device
from .devices import choose_device
from .errors import UsageError


def tune_device(name: str) -> None:
    """Time candidates on device `name`, keep the winners, and say what they are."""
    device = choose_device(name)
    if not device.startswith("CL"):
        raise UsageError(f"clgrad tune is for OpenCL devices; {device} has nothing to tune")
    from ..backends.opencl.tuning import path_of, tune

    backend = Device[device]
    print(f"{device}: {backend.describe().description}")
    winners = tune(backend, say=print)  # type: ignore[arg-type]  # a device named CL is an OpenCLBackend
    before, after = asdict(backend.table), asdict(winners)  # type: ignore[attr-defined]
    changed = [f"{field} = {after[field]} (was {before[field]})" for field in before if before[field] != after[field]]
    print("\n".join(["winners:", *(changed or ["the table, as it is"])]))
    print(f"kept in {path_of(backend.device)}")  # type: ignore[attr-defined]
