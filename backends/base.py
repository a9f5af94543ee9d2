"""The interface between the engine and a device: allocate, move bytes, lower a Kernel, run it.

The engine looks a backend up by device name (`engine/device.py`) and uses nothing but this class. A backend
is told Kernels (`kernel.py`) and Buffers; it never sees a graph.

Out-of-range indices of `gather` and `scatter` never touch memory. A backend that finds one raises IndexError naming the
operation: at once where it can (NUMPY), otherwise at the next `download` or `synchronize` (CL).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import numpy as np

from .dtypes import DType
from .kernel import Kernel

ALIGNMENT = 256  # bytes: what the offset of a part of a buffer is a multiple of, on every device


class DeviceError(RuntimeError):
    """A device that does not exist, cannot do what was asked, or has no memory left. The message says what to do."""


@dataclass
class Counters:
    """What a backend has done so far; tests and benchmarks read differences."""

    kernels: int = 0  # launches
    allocations: int = 0  # calls for memory
    builds: int = 0  # kernels lowered (compiled), not served from memory
    live_bytes: int = 0
    peak_bytes: int = 0


class Buffer:
    """`nbytes` of device memory starting `offset` bytes into `handle`. Freed when the last reference goes.

    `base` is the Buffer that a part was cut from; `parts` counts the living ones that `divide` made of this one.
    """

    __slots__ = ("backend", "handle", "nbytes", "offset", "base", "parts", "divided", "__weakref__")

    def __init__(self, backend: Backend, handle: Any, nbytes: int, offset: int = 0, base: Optional[Buffer] = None):
        self.backend, self.handle, self.nbytes, self.offset, self.base = backend, handle, nbytes, offset, base
        self.parts, self.divided = 0, False
        if base is None:
            counters = backend.counters
            counters.allocations += 1
            counters.live_bytes += nbytes
            counters.peak_bytes = max(counters.peak_bytes, counters.live_bytes)

    def slice(self, offset: int, nbytes: int) -> Buffer:
        """A part of this buffer, sharing its memory and keeping it alive."""
        return Buffer(self.backend, self.handle, nbytes, self.offset + offset, self.base or self)

    def divide(self, places: Sequence[tuple[int, int]]) -> list[Buffer]:
        """Parts at (offset, nbytes) that do not overlap. Each may be overwritten by whoever is its only holder, as
        long as nobody but such parts holds this buffer."""
        result = []
        for offset, nbytes in places:
            part = self.slice(offset, nbytes)
            part.divided = True
            (self.base or self).parts += 1
            result.append(part)
        return result

    def __del__(self):
        if self.base is None:
            self.backend.counters.live_bytes -= self.nbytes
        elif self.divided:
            self.base.parts -= 1


def adjacent(buffers: Sequence[Buffer]) -> Optional[Buffer]:
    """One Buffer over memory in which `buffers` lie one after another without gaps, or None."""
    first = buffers[0]
    end = first.offset
    for buffer in buffers:
        if buffer.base is None or buffer.base is not first.base or buffer.offset != end:
            return None
        end += buffer.nbytes
    assert first.base is not None
    return first.base.slice(first.offset, end - first.offset)


class Executable(ABC):
    """A lowered Kernel, ready to run on any buffers of the right dtypes and sizes."""

    source: str  # the text that runs: OpenCL C, or Python on NUMPY

    @abstractmethod
    def bind(self, buffers: Sequence[Buffer]) -> Callable[[], Any]:
        """A function of no arguments that launches the kernel on `buffers`: the Kernel's inputs, then its outputs.

        A bound launch may be called any number of times; all preparation that can be done once belongs here.
        """

    def run(self, buffers: Sequence[Buffer]) -> None:
        self.bind(buffers)()


@dataclass(frozen=True)
class DeviceInfo:
    """What `clgrad devices` prints. Sizes in bytes."""

    name: str  # "NUMPY", "CL", "CL:1"
    description: str
    kind: str  # "cpu", "gpu" or "accelerator"
    memory: int
    compute_units: int
    features: dict[str, bool] = field(default_factory=dict)  # fp16, fp64, ...
    largest_allocation: int = 2**62
    shares_host_memory: bool = True


class Backend(ABC):
    """One device. `alignment` is what sub-buffers' offsets must be a multiple of, in bytes."""

    name: str
    alignment: int = ALIGNMENT
    keeps_times: bool = False  # set on the class: devices opened from then on tell the times of launches, if they can

    def __init__(self) -> None:
        self.counters = Counters()

    @abstractmethod
    def allocate(self, nbytes: int) -> Buffer:
        """Uninitialised memory (0 bytes is allowed). Raises DeviceError, with sizes, when there is not enough."""

    @abstractmethod
    def upload(self, buffer: Buffer, array: np.ndarray) -> None:
        """Copy a C-contiguous array of `buffer.nbytes` bytes into the buffer. The array may change afterwards."""

    @abstractmethod
    def download(self, buffer: Buffer, dtype: DType, count: int) -> np.ndarray:
        """A new one-dimensional host array of the first `count` elements, after all earlier work."""

    def launch_all(self, launches: Sequence[Callable[[], Any]]) -> None:
        """Call what `Executable.bind` made, one after another, and what is launched between on other devices."""
        for launch in launches:
            launch()

    def memory(self, buffer: Buffer) -> Optional[np.ndarray]:
        """The bytes of the buffer where the host can read them in place; None where it cannot."""
        return None

    def sorted_runs(self, length: int) -> list[int]:
        """The runs in which one sort kernel after another leaves rows of `length`, the last of them all of the row."""
        return [length]

    def chains(self, kernels: Sequence[Kernel]) -> list[int]:
        """How many of `kernels`, which follow one another, each launch should do: 1 for each unless that is slow."""
        return [1] * len(kernels)

    @abstractmethod
    def lower(self, kernels: Sequence[Union[Kernel, tuple[Kernel, ...]]], specialise: bool = False) -> list[Executable]:
        """Make kernels runnable, those not seen before together in one build.

        A tuple of kernels, as long as `chains` said, is one launch that does all of them in order; it takes their
        buffers one after another.

        With `specialise` the sizes, strides and constants may be literals in the source; without it the source may
        depend on structure alone (ops, dtypes, rank, which strides are 0 or 1), so that many kernels share one build.
        Both sum in the same order.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all earlier work, and raise what it reported."""

    def clock(self, launch: Callable[[], Any]) -> Union[tuple[int, int], Callable[[], tuple[int, int]]]:
        """Run a bound launch and tell its start and end, in ns of time.perf_counter_ns().

        A device that keeps times by itself gives a function that tells them, to be called later, and does not wait.
        """
        self.synchronize()
        start = time.perf_counter_ns()
        launch()
        self.synchronize()
        return start, time.perf_counter_ns()

    @abstractmethod
    def describe(self) -> DeviceInfo:
        """What the device is and can do."""

    def supports(self, dtype: DType) -> bool:
        """Whether kernels may compute with `dtype` (float64 is optional in OpenCL)."""
        return True
