"""The OpenCL backend: memory, launches, and programs built once.

`lower` renders each Kernel (`render.py`), and kernels whose sources are equal share one function. The sources that no
program holds yet are compiled together as one program: building many small kernels one by one costs twice the time.
Built programs are kept on disk, by the runtime or by `cache.py`. Everything runs on one in-order queue.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Optional, Union
from weakref import WeakValueDictionary

import numpy as np
import pyopencl as cl
from pyopencl.characterize import has_src_build_cache

from ..base import Backend, Buffer, DeviceError, DeviceInfo, Executable
from ..dtypes import DType, float64, is_half
from ..kernel import Kernel
from . import cache, functions
from .chain import chain_lengths, chained, is_alone, is_short
from .device import describe, lanes
from .progress import Progress
from .render import render
from .shapes import Shapes, limited, shapes_for, within
from .sort import runs
from .tuning import tuned
from .writer import NAME, Rendered

HEADER = "#pragma OPENCL FP_CONTRACT OFF\n"
HEADER_WIDE = """\
#ifdef __has_attribute
#if __has_attribute(min_vector_width)  /* a Clang: registers of 512 bits where they are halved by default */
#define WIDE_VECTORS __attribute__((min_vector_width(512)))
#endif
#endif
#ifndef WIDE_VECTORS
#define WIDE_VECTORS
#endif
"""
HEADER_FP64 = "#ifdef cl_khr_fp64\n#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n#endif\n"
OPTIONS = ("-cl-std=CL1.2",)  # of every build
KERNELS_A_PROGRAM = 64  # more in one program only make the failure of one harder to read
SMALL = 1 << 16  # bytes: what is uploaded from a copy, without waiting for it
KEPT = 2048  # executables that nobody uses at the moment
MEBIBYTE = 2**20


class Function:
    """A compiled kernel function, shared by all Kernels with its source."""

    def __init__(self, program: cl.Program, name: str):
        self.program, self.name = program, name
        self.launched = False  # PoCL compiles a function when it is first launched


class OpenCLBackend(Backend):
    """One OpenCL device. `shapes` overrides the block sizes that its kind of device gets from the table."""

    def __init__(self, device, name: str = "CL", shapes: Shapes | None = None):
        super().__init__()
        self.name = name
        self.device = device
        try:
            self.context = cl.Context([device])
            profiling = [cl.command_queue_properties.PROFILING_ENABLE] if self.keeps_times else []
            self.queue = cl.CommandQueue(self.context, None, *profiling)
            self._clock_offset = (0, 0)  # device's clock to the host's, in ns, and when that was measured
        except cl.Error as error:
            raise DeviceError(f"{name} ({device.name.strip()}) cannot be opened: {error}") from error
        index = int(name.partition(":")[2] or 0)
        self.info = describe(device, index)
        self.table = shapes_for(
            self.info.kind, lanes(self.context, device), self.info.compute_units, device.local_mem_size,
            device.vendor, device.max_work_group_size,
        )  # fmt: skip
        self.shapes = shapes or tuned(device, self.table)
        if shapes is None and self.shapes != self.table:  # a run's record has it from here
            self.info = replace(self.info, description=f"{self.info.description}, tuned {_digest(str(self.shapes))}")
        self.vectors_aligned = device.mem_base_addr_align // 8 >= 128 or self.shapes.dot_vector * 4 <= 16
        self.options = list(OPTIONS)
        if device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT:
            self.options.append("-cl-fp32-correctly-rounded-divide-sqrt")
        self.lock = threading.RLock()
        self.executables: OrderedDict[Any, OpenCLExecutable] = OrderedDict()  # the last used last
        self.functions: WeakValueDictionary[str, Function] = (
            WeakValueDictionary()
        )  # by source, while executables use them
        self.progress = Progress(name)
        self.keeps_programs = bool(has_src_build_cache(device))
        self.report_messages: list[str] = [""]  # by report code
        self.report = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, 4)
        cl.enqueue_copy(self.queue, self.report, np.zeros(1, np.int32))
        self.copies: deque[cl.Event] = deque(maxlen=32)  # the last that nobody waited for
        self.may_report = False  # whether a kernel that can report has run since the report was last read

    # -- memory ---------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Buffer:
        largest, total, used = self.info.largest_allocation, self.info.memory, self.counters.live_bytes
        if nbytes > largest:
            raise DeviceError(
                f"{self.name}: {_size(nbytes)} in one buffer, and the device allows at most {_size(largest)}. "
                "Use a smaller batch, split the tensor, or use the NUMPY device"
            )
        if used + nbytes > total:  # drivers hand out memory that they do not have
            raise DeviceError(
                f"{self.name}: out of memory: {_size(nbytes)} wanted, {_size(used)} of {_size(total)} in use. "
                "Free tensors, use a smaller batch, or use the NUMPY device"
            )
        try:
            handle = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, max(nbytes, 1))
        except cl.Error as error:
            raise DeviceError(
                f"{self.name}: the driver refused {_size(nbytes)} ({error}); {_size(used)} of {_size(total)} in use. "
                "Free tensors, use a smaller batch, or use the NUMPY device"
            ) from error
        return Buffer(self, handle, nbytes)

    def upload(self, buffer: Buffer, array: np.ndarray) -> None:
        # The queue is in order, so earlier readers are done first. The caller may change `array` once this returns.
        array = array.view(_plain(array.dtype))
        if 0 < buffer.nbytes <= SMALL:
            event = cl.enqueue_copy(
                self.queue, buffer.handle, array.copy(), dst_offset=buffer.offset, is_blocking=False
            )
            self.copies.append(event)  # it holds the copy, and waits when it goes
        elif buffer.nbytes:
            cl.enqueue_copy(self.queue, buffer.handle, array, dst_offset=buffer.offset, is_blocking=True)

    def download(self, buffer: Buffer, dtype: DType, count: int) -> np.ndarray:
        out = np.empty(count, dtype)
        report = np.zeros(1, np.int32)
        if self.may_report and count:  # asked for first, so that one wait is enough for both
            self.copies.append(cl.enqueue_copy(self.queue, report, self.report, is_blocking=False))
        if count:
            target = out.view(_plain(dtype))
            cl.enqueue_copy(self.queue, target, buffer.handle, src_offset=buffer.offset, is_blocking=True)
        self._check_report(report if self.may_report and count else None)
        return out

    def synchronize(self) -> None:
        self.queue.finish()
        self._check_report()

    def clock(self, launch: Callable[[], Any]) -> Union[tuple[int, int], Callable[[], tuple[int, int]]]:
        if not self.queue.properties & cl.command_queue_properties.PROFILING_ENABLE:
            return super().clock(launch)
        began = time.perf_counter_ns()
        event = launch()
        if not isinstance(event, cl.Event):  # the host did it itself
            self.queue.finish()
            return began, time.perf_counter_ns()

        def times() -> tuple[int, int]:
            event.wait()
            offset = self._offset()
            return event.profile.start + offset, event.profile.end + offset

        return times

    def _offset(self) -> int:
        """What to add to the device's clock to have time.perf_counter_ns(): measured each second, as clocks drift."""
        offset, measured = self._clock_offset
        now = time.perf_counter_ns()
        if not measured or now - measured > 10**9:
            self.queue.finish()
            tightest = None
            for _ in range(5):  # a marker begins after it is asked for and ends before it has been waited for
                before = time.perf_counter_ns()
                marker = cl.enqueue_marker(self.queue)
                marker.wait()
                least, most = before - marker.profile.submit, time.perf_counter_ns() - marker.profile.end
                if tightest is None or most - least < tightest:
                    tightest, offset = most - least, (least + most) // 2
            self._clock_offset = offset, now
        return offset

    def _check_report(self, code: Optional[np.ndarray] = None) -> None:
        """Raise the IndexError that a gather or scatter left on the device, once. `code`: the report, if known."""
        if self.progress.total:
            self.progress.end()
        if not self.may_report:
            return
        self.may_report = False
        if code is None:
            code = np.zeros(1, np.int32)
            cl.enqueue_copy(self.queue, code, self.report, is_blocking=True)
        if code[0]:
            cl.enqueue_copy(self.queue, self.report, np.zeros(1, np.int32), is_blocking=True)
            raise IndexError(self.report_messages[int(code[0])])

    # -- kernels --------------------------------------------------------------------------------------------------

    def describe(self) -> DeviceInfo:
        return self.info

    def supports(self, dtype: DType) -> bool:
        return dtype != float64 or self.info.features["fp64"]

    def can_use(self, shapes: Shapes) -> bool:
        """Whether the device has work-groups and local memory as large as `shapes` wants."""
        device = self.device
        fits = shapes.dot_tile == (0, 0) or within(shapes, device.local_mem_size) == shapes
        return fits and limited(shapes, device.max_work_group_size) == shapes

    def sorted_runs(self, length: int) -> list[int]:
        return runs(length)

    def chains(self, kernels: Sequence[Kernel]) -> list[int]:
        if self.info.kind != "cpu":
            return super().chains(kernels)
        processors = self.info.compute_units
        return chain_lengths(kernels, [is_short(k, processors) and is_alone(self._render(k, True)) for k in kernels])

    def lower(self, kernels: Sequence[Union[Kernel, tuple[Kernel, ...]]], specialise: bool = False) -> list[Executable]:
        with self.lock:
            keys = [_key(kernel, specialise) for kernel in kernels]
            missing = {key: kernel for key, kernel in zip(keys, kernels) if key not in self.executables}
            rendered = {key: self._render(kernel, specialise) for key, kernel in missing.items()}
            built = self._functions([(rendered[key], _name(kernel)) for key, kernel in missing.items()])
            for key, kernel in missing.items():
                function = built[rendered[key].source]
                self.executables[key] = OpenCLExecutable(self, _dtypes(kernel), rendered[key], function)
            result: list[Executable] = [self.executables[key] for key in keys]
            for key in keys:
                self.executables.move_to_end(key)
            while len(self.executables) > KEPT:
                self.executables.popitem(last=False)
            return result

    def _functions(self, wanted: list[tuple[Rendered, str]]) -> dict[str, Function]:
        """The function of each source, those that do not exist yet built together. The strings name the kernels."""
        found: dict[str, Function] = {}
        unbuilt: dict[str, tuple[Rendered, str]] = {}
        for rendered, name in wanted:
            function = self.functions.get(rendered.source)
            if function is None:
                unbuilt.setdefault(rendered.source, (rendered, name))
            else:
                found[rendered.source] = function
        if unbuilt:
            batch = list(unbuilt.values())
            self.progress.begin(len(batch))
            try:
                for start in range(0, len(batch), KERNELS_A_PROGRAM):
                    found |= self._build(batch[start : start + KERNELS_A_PROGRAM])
            except BaseException:
                self.progress.end()
                raise
            self.functions.update(found)
        return found

    def _render(self, kernel: Union[Kernel, tuple[Kernel, ...]], specialise: bool) -> Rendered:
        if isinstance(kernel, tuple):
            return chained([self._render(part, specialise) for part in kernel])
        dtypes = {instr.dtype for instr in kernel.body} | {*kernel.inputs, *kernel.output_dtypes}
        for dtype in dtypes:
            if not self.supports(dtype):
                raise DeviceError(
                    f"{self.name} ({self.info.description}) has no {dtype.name}, which kernel {kernel.name} needs: "
                    f'use the NUMPY device for it (.to("NUMPY")), or cast to float32'
                )
        rendered = render(kernel, self.shapes, specialise, self.vectors_aligned)
        buffers = len(kernel.inputs) + len(kernel.output_dtypes) + 1
        if 8 * (2 * buffers + len(rendered.arguments)) > self.device.max_parameter_size and not specialise:
            return render(kernel, self.shapes, True, self.vectors_aligned)
        return rendered

    def _build(self, batch: list[tuple[Rendered, str]]) -> dict[str, Function]:
        """Compile the sources of `batch` as one program: the function of each source."""
        names = [f"{_identifier(name)}_{_digest(rendered.source)}" for rendered, name in batch]
        helpers = frozenset().union(*(rendered.helpers for rendered, _ in batch))
        body = [rendered.source.replace(NAME, name) for (rendered, _), name in zip(batch, names)]
        text = functions.definitions(helpers) + "\n".join(body)
        source = (
            HEADER + (HEADER_FP64 if "double" in text else "") + (HEADER_WIDE if "WIDE_VECTORS" in text else "") + text
        )
        try:
            program = self._compile(source)
        except cl.RuntimeError as error:
            if len(batch) > 1:  # find the kernel at fault
                return {source: function for one in batch for source, function in self._build([one]).items()}
            log = "\n".join(str(error).splitlines()[:30])
            raise DeviceError(
                f"{self.name}: kernel {names[0]} does not build{_blamed(helpers)}:\n{log}\n--- source ---\n{source}"
            ) from error
        self.counters.builds += len(batch)
        return {rendered.source: Function(program, name) for (rendered, _), name in zip(batch, names)}

    def _compile(self, source: str) -> cl.Program:
        """The built program, from the disk if it was built before. pyopencl's own cache waits for dead processes."""
        device, platform = self.device, self.device.platform
        key = repr((source, self.options, platform.version, device.name, device.version, device.driver_version))
        binary = None if self.keeps_programs else cache.read_program(key)
        with warnings.catch_warnings():
            # Some compilers always say something. This hides the hint that there is a text, not the text itself, which
            # PYOPENCL_COMPILER_OUTPUT=1 still shows.
            warnings.filterwarnings("ignore", "Non-empty compiler output", cl.CompilerWarning)
            if binary is not None:
                try:
                    return cl.Program(self.context, [device], [binary]).build(self.options)
                except cl.Error:  # the driver knows what it no longer understands
                    pass
            program = cl.Program(self.context, source).build(self.options, cache_dir=False)  # type: ignore[arg-type]
        if not self.keeps_programs:
            cache.write_program(key, program.get_info(cl.program_info.BINARIES)[0])
        return program


class OpenCLExecutable(Executable):
    """A Kernel's compiled function together with the sizes that it is launched with."""

    def __init__(self, backend: OpenCLBackend, dtypes: tuple[DType, ...], rendered: Rendered, function: Function):
        self.backend, self.function = backend, function
        self.source = rendered.source.replace(NAME, function.name)
        self.dtypes = dtypes  # of its buffers
        self.global_size, self.local_size = rendered.global_size, rendered.local_size
        self.arguments, self.bases = rendered.arguments, rendered.bases
        self.reports = bool(rendered.reports)
        self.report_code = 0
        if rendered.reports:
            self.report_code = len(backend.report_messages)
            backend.report_messages.append(f"{rendered.reports[0]} (in kernel {function.name} on {backend.name})")
        self.idle: list[tuple[cl.Kernel, list[int]]] = []  # made for launches that are gone: a new one takes 100 us

    def bind(self, buffers: Sequence[Buffer]) -> Callable[[], Any]:
        # A launch has a kernel of its own: setting arguments is not safe between threads.
        kernel, starts = self.idle.pop() if self.idle else (self._new_kernel(), [-1] * len(self.dtypes))
        self._set_buffers(kernel, buffers, starts)
        # The memory objects, not the Buffers: whoever counts references to a Buffer must not find this launch in it.
        return self._launcher(kernel, (Loan(self.idle, kernel, starts), *[buffer.handle for buffer in buffers]))

    def _new_kernel(self) -> cl.Kernel:
        kernel = cl.Kernel(self.function.program, self.function.name)
        position = 2 * len(self.dtypes)
        for value in self.arguments:
            kernel.set_arg(position, value)
            position += 1
        if self.reports:
            kernel.set_arg(position, self.backend.report)
            kernel.set_arg(position + 1, np.int32(self.report_code))
        return kernel

    def _set_buffers(self, kernel: cl.Kernel, buffers: Sequence[Buffer], starts: list[int]) -> None:
        """`starts` are the element offsets that `kernel` has now, -1 where it has none yet."""
        for i, (buffer, dtype, base) in enumerate(zip(buffers, self.dtypes, self.bases, strict=True)):
            kernel.set_arg(2 * i, buffer.handle)
            start = buffer.offset // dtype.itemsize + base
            if (
                starts[i] != start
            ):  # an integer takes pyopencl 10 us to set, a buffer 0.2, and most starts are 0 for ever
                kernel.set_arg(2 * i + 1, np.uint64(start))
                starts[i] = start

    def _launcher(self, kernel: cl.Kernel, keep: tuple) -> Callable[[], Any]:
        """The launch alone. `keep` holds the memory, and the kernel, for as long as it may be called."""
        if 0 in self.global_size:
            return lambda: None
        backend, queue, counters = self.backend, self.backend.queue, self.backend.counters
        global_size, local_size, enqueue = self.global_size, self.local_size, cl.enqueue_nd_range_kernel

        def launch(keep=keep) -> cl.Event:
            counters.kernels += 1
            return enqueue(queue, kernel, global_size, local_size)

        def launch_reporting(keep=keep) -> cl.Event:
            backend.may_report = True
            return launch()

        usual = launch_reporting if self.reports else launch
        return usual if self.function.launched else self._first(usual)

    def _first(self, launch: Callable[[], Any]) -> Callable[[], Any]:
        """The same launch, waited for if it is the function's first: what compiles then is part of building it."""
        function, backend = self.function, self.backend

        def first() -> Any:
            event = launch()
            if not function.launched:
                function.launched = True
                backend.queue.finish()
                backend.progress.built()
            return event

        return first


class Loan:
    """A kernel and the offsets set in it, which go back to the `idle` ones when the launch that holds this goes."""

    def __init__(self, idle: list[tuple[cl.Kernel, list[int]]], kernel: cl.Kernel, starts: list[int]):
        self.idle, self.kernel, self.starts = idle, kernel, starts

    def __del__(self):
        self.idle.append((self.kernel, self.starts))


def _blamed(helpers) -> str:
    """Whose OpenCL text is in the kernel, besides ours."""
    users = sorted({functions.CUSTOM[name] for name, _ in helpers if name in functions.CUSTOM})
    return f"; look first at the OpenCL text of operation {', '.join(map(repr, users))}" if users else ""


def _name(kernel: Union[Kernel, tuple[Kernel, ...]]) -> str:
    return kernel.name if isinstance(kernel, Kernel) else f"chain_of_{len(kernel)}"


def _dtypes(kernel: Union[Kernel, tuple[Kernel, ...]]) -> tuple[DType, ...]:
    parts = (kernel,) if isinstance(kernel, Kernel) else kernel
    return tuple(dtype for part in parts for dtype in (*part.inputs, *part.output_dtypes))


def _key(kernel: Union[Kernel, tuple[Kernel, ...]], specialise: bool) -> tuple:
    """Constants go in by type and spelling: 0.0 equals -0.0, and no NaN equals itself."""
    if isinstance(kernel, tuple):
        return tuple(_key(part, specialise) for part in kernel)
    constants = tuple(repr(instr.arg) for instr in kernel.body if instr.op == "const")
    return kernel, specialise, constants


def _identifier(name: str) -> str:
    """A kernel's name as C can spell it."""
    return re.sub(r"\W+|^(?=\d)", "_", name, flags=re.ASCII)[:60]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _plain(dtype: DType) -> DType:
    """A dtype as wide that pyopencl knows."""
    return np.dtype(np.uint16) if is_half(dtype) else dtype


def _size(nbytes: int) -> str:
    return f"{nbytes / MEBIBYTE:,.1f} MiB" if nbytes < 2**40 else f"{nbytes / 2**40:,.1f} TiB"
