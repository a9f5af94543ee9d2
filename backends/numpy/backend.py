"""The NumPy backend: a Kernel becomes a Python function that calls ufuncs block by block.

Comes in: Kernels. Goes out: `Executable`s whose `source` is the Python text that runs. The readable reference, and a
real backend: a contraction is one BLAS call, and a fused loop is evaluated over blocks of the first axis, small enough
that all its temporaries stay in the processor's cache.
"""

from __future__ import annotations

import contextvars
import os
import platform
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Optional, Union

import numpy as np

from ..base import Backend, Buffer, DeviceError, DeviceInfo, Executable
from ..dtypes import DType
from ..kernel import Kernel
from . import blas, runtime, sharing
from .arguments import Argument
from .render import render


def _quiet_context() -> Optional[contextvars.Context]:
    """A context in which NumPy says nothing of overflow and the like; before NumPy 2 that was not the context's."""
    if int(np.__version__.split(".")[0]) < 2:
        return None
    context = contextvars.Context()
    context.run(np.seterr, all="ignore")
    return context


_QUIET = _quiet_context()


Call = tuple[Callable[..., None], list[Any]]


class NumpyExecutable(Executable):
    """The functions that `source` defines, and how to make their arguments from buffers."""

    def __init__(self, kernel: Kernel):
        self.rendered = render(kernel)
        self.source = self.rendered.source
        uses_blas = any(name in self.source for name in ("matmul(", "sum_product(", "run("))
        others = any(instr.op == "custom" for instr in kernel.body)  # functions of the user's
        # Whether BLAS gets one thread for it or all that it had; None where it makes no difference.
        self._one_thread = not blas.is_large(kernel) if uses_blas else False if others else None

    def bind(self, buffers: Sequence[Buffer]) -> Launch:
        return Launch(self._calls(buffers), self._one_thread, buffers[-1].backend.counters)

    def _calls(self, buffers: Sequence[Buffer]) -> list[Call]:
        """What a launch does: each function with its arguments, "block" once for each block."""
        rendered = self.rendered
        arguments = rendered.arguments
        values = {name: argument.make(buffers) for name, argument in arguments.items()}
        calls: list[Call] = []
        for function, names in rendered.sections:
            if function.__name__ != "block":
                calls.append((function, [values[name] for name in names]))
                continue
            threads = min(max(blas.threads(), 1), sharing.MOST) if rendered.shared else 1
            parts = [
                self._blocks([(arguments[n], arguments[n].of(thread, values[n])) for n in names])
                for thread in range(threads)
            ]
            if threads > 1:
                calls.append((_share, [function, parts]))
            else:
                calls += [(function, part) for part in parts[0]]
        return calls

    def _blocks(self, own: list[tuple[Argument, Any]]) -> list[list[Any]]:
        """The arguments of each block, from those of the whole."""
        rows, step = self.rendered.rows, self.rendered.step
        return [[argument.part(value, i, min(i + step, rows)) for argument, value in own] for i in range(0, rows, step)]


def _share(function: Callable[..., None], parts: list[list[list[Any]]]) -> None:
    """Call the function for all blocks; `parts` are their arguments, for each thread."""

    def piece(number: int, thread: int) -> None:
        function(*parts[thread][number])

    sharing.share([partial(piece, number) for number in range(len(parts[0]))], len(parts))


class Launch:
    """A kernel bound to its buffers."""

    __slots__ = ("calls", "one_thread", "counters")

    def __init__(self, calls: list[Call], one_thread: Optional[bool], counters):
        self.calls, self.one_thread, self.counters = calls, one_thread, counters

    def __call__(self) -> None:
        _in_turn((self,))


def _in_turn(launches: Sequence[Callable[[], Any]]) -> None:
    """Call one after another, while NumPy keeps quiet about overflow and the like.

    What that takes (entering a context costs a tenth of entering np.errstate) is done once for all of them.
    """
    with _RUNNING:
        if _QUIET is not None:
            _QUIET.copy().run(_run, launches)  # a copy, because none is entered twice
        else:
            with np.errstate(all="ignore"):
                _run(launches)


def _run(launches: Sequence[Callable[[], Any]]) -> None:
    before = now = blas.threads()
    outside, blas.allowed = blas.allowed, max(before, blas.allowed)  # one kernel may be inside another
    try:
        for launch in launches:
            one_thread = launch.one_thread if isinstance(launch, Launch) else False
            if one_thread is not None and now != (1 if one_thread else before):
                now = 1 if one_thread else before
                blas.use(now)
            if isinstance(launch, Launch):
                launch.counters.kernels += 1
                for function, arguments in launch.calls:
                    function(*arguments)
            else:
                launch()
    finally:
        blas.allowed = outside
        if now != before:
            blas.use(before)


MOST_KEPT = 4096  # executables

# Held while kernels run: scratch memory, and how many threads BLAS has, belong to the process. Python's other threads
# wait. A user's own function may start a kernel inside one.
_RUNNING = threading.RLock()


class NumpyBackend(Backend):
    """The host's memory and NumPy's functions. Runs everything at once, so there is nothing to wait for."""

    name = "NUMPY"
    alignment = runtime.ALIGNMENT

    def __init__(self) -> None:
        super().__init__()
        self._lowered: dict[Kernel, NumpyExecutable] = {}

    def allocate(self, nbytes: int) -> Buffer:
        try:
            memory = runtime.aligned(nbytes)
        except (MemoryError, ValueError) as error:
            raise DeviceError(
                f"NUMPY: no memory for {nbytes:,} bytes ({self.counters.live_bytes:,} are in use); "
                "use smaller batches or a smaller model"
            ) from error
        return Buffer(self, memory, nbytes)

    def memory(self, buffer: Buffer) -> np.ndarray:
        return buffer.handle[buffer.offset : buffer.offset + buffer.nbytes]

    def upload(self, buffer: Buffer, array: np.ndarray) -> None:
        self.memory(buffer)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def download(self, buffer: Buffer, dtype: DType, count: int) -> np.ndarray:
        return self.memory(buffer)[: count * dtype.itemsize].view(dtype).copy()

    def lower(self, kernels: Sequence[Union[Kernel, tuple[Kernel, ...]]], specialise: bool = False) -> list[Executable]:
        """Sizes are part of the text either way: there is no compiler to spare."""
        single = [kernel for kernel in kernels if isinstance(kernel, Kernel)]  # all of them: `chains` makes none
        found: list[Executable] = []
        for kernel in single:
            executable = self._lowered.get(kernel)
            if executable is None:
                if len(self._lowered) >= MOST_KEPT:  # a program that never repeats a shape must not grow for ever
                    self._lowered.clear()
                executable = self._lowered[kernel] = NumpyExecutable(kernel)
                self.counters.builds += 1
            found.append(executable)
        return found

    def launch_all(self, launches: Sequence[Callable[[], Any]]) -> None:
        _in_turn(launches)

    def synchronize(self) -> None:
        pass

    def describe(self) -> DeviceInfo:
        try:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):  # not every system tells
            memory = 0
        processor = platform.processor() or platform.machine()
        return DeviceInfo(
            "NUMPY",
            f"NumPy {np.__version__} on {processor}",
            "cpu",
            memory,
            os.cpu_count() or 1,
            {"fp16": True, "fp64": True},
        )
