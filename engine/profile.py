"""Where the time goes: each kernel on its device, and what the engine does on the host, as they happen.

Two readers share one record. CLGRAD_PROFILE=FILE (or `start(FILE)`) writes a trace in Chrome's event format, which
https://ui.perfetto.dev opens: the host's spans (trace, gradient, simplify, schedule, build, replay, download) on one
track, the kernels of each device on another, both on the host's clock. CLGRAD_DEBUG=1 prints a summary after each
step (`debug.py`). While neither is wanted nothing is recorded, and a span costs one comparison.

A device that tells the times of its launches by itself (OpenCL's profiling events) is asked to when it is opened under
CLGRAD_PROFILE, CLGRAD_DEBUG or `start`; nothing is then waited for. On others each kernel is waited for and timed.

>>> from clgrad import Tensor
>>> from clgrad.engine import profile
>>> with profile.recording() as log:
...     _ = (Tensor([3.0, 4.0], device="NUMPY") ** 2).sum().item()
>>> [launch.kernel.name for launch in log.finished()], sorted({span.name for span in log.spans})
(['row_sum_2'], ['build', 'download', 'read', 'realize', 'run', 'schedule', 'simplify', 'upload'])
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, TextIO

from ..backends.base import Backend
from ..backends.kernel import Kernel
from . import debug

if TYPE_CHECKING:
    from .schedule import Step

MOST_PENDING = 4096  # launches whose times have not been asked for: their events hold memory of the driver


class Launch(NamedTuple):
    """A kernel that ran on a device, from `start` to `end` in ns of time.perf_counter_ns(), and the user's lines."""

    kernel: Kernel
    device: str
    start: int
    end: int
    lines: tuple[tuple[str, int], ...] = ()


class Span(NamedTuple):
    """What the host did from `start` to `end`, in ns; `own` leaves out the spans and the waited-for kernels inside."""

    name: str
    start: int
    end: int
    own: int


class Log:
    """What has happened since the last report. `file` is the trace that it goes to, if there is one."""

    def __init__(self, file: Optional[TraceFile] = None):
        self.file = file
        self.spans: list[Span] = []
        self.notes: list[str] = []  # what the engine has to say about a step
        self._launches: list[Launch] = []
        self._pending: list[tuple[Launch, Callable[[], tuple[int, int]]]] = []
        self._last_end: dict[str, int] = {}
        self._inside: list[int] = []  # for each open span, the ns of it that belong to others

    def launch(self, step: Step, launch: Callable[[], Any], backend: Backend) -> None:
        """Run one bound kernel and note its times, or how to ask for them."""
        assert step.kernel is not None
        times = backend.clock(launch)
        if callable(times):
            self._pending.append((Launch(step.kernel, backend.name, 0, 0, step.lines), times))
        else:
            self._add(Launch(step.kernel, backend.name, *times, step.lines))
            if self._inside:
                self._inside[-1] += times[1] - times[0]
        if debug.level() >= 2:
            done = self.finished()[-1]
            debug.say(debug.line(done.kernel, done.device, 1e-9 * (done.end - done.start)))

    def _add(self, launch: Launch) -> None:
        """Queues are in order, so a kernel does not begin before the end of the one before it."""
        start = max(launch.start, self._last_end.get(launch.device, 0))
        self._last_end[launch.device] = launch.end
        self._launches.append(launch._replace(start=min(start, launch.end)))

    def finished(self) -> list[Launch]:
        """Every launch since the last report, with its times. Waits for those that still run."""
        for launch, times in self._pending:
            start, end = times()
            self._add(launch._replace(start=start, end=end))
        self._pending.clear()
        return self._launches

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        start = time.perf_counter_ns()
        self._inside.append(0)
        try:
            yield
        finally:
            end = time.perf_counter_ns()
            self.spans.append(Span(name, start, end, end - start - self._inside.pop()))
            if self._inside:
                self._inside[-1] += end - start
            else:
                self._end_of_step(waited=name == "read")

    def _end_of_step(self, waited: bool) -> None:
        """The outermost span has ended. Reports if anything ran, and goes easy on events that may still be running."""
        reporting = debug.level() > 0 and bool(self._pending or self._launches)
        if reporting:
            debug.say(debug.summary(self.finished(), self.spans, self.notes))
        if self.file is not None and (reporting or waited or len(self._pending) >= MOST_PENDING):
            self.hand_over()
        elif reporting:
            self._clear()
        if self.file is None and not debug.level():
            _stop_debugging()

    def hand_over(self) -> None:
        """Write to the trace file all that is known."""
        assert self.file is not None
        self.file.add(self.finished(), self.spans)
        self._clear()

    def _clear(self) -> None:
        self._launches, self.spans, self.notes = [], [], []


class _Recording(Log):
    """A log that keeps everything, for whoever asked for it."""

    def _end_of_step(self, waited: bool) -> None:
        pass


class TraceFile:
    """A growing JSON array of Chrome trace events. `path` appears when it is whole: at `flush` and at `close`."""

    HOST, DEVICES = 1, 2  # the two groups of tracks

    def __init__(self, path: str):
        """Raises ValueError, saying what to do, if there can be no such file."""
        self.path, self.partial = os.path.abspath(path), os.path.abspath(path) + ".part"
        if os.path.isdir(self.path):
            raise ValueError(f"a profile cannot be written to {path}: it is a folder; name a file in it")
        try:
            self._out: TextIO = open(self.partial, "w+")
        except OSError as error:
            raise ValueError(
                f"a profile cannot be written to {path}: {error.strerror}; name a file in a folder that exists and "
                "can be written"
            ) from error
        self._zero = time.perf_counter_ns()
        self._tracks: dict[str, int] = {}
        self._out.write("[")
        self._separator = "\n"
        for number, name in ((self.HOST, "host"), (self.DEVICES, "devices")):
            self._event(name="process_name", ph="M", pid=number, args={"name": name})
        self._event(name="thread_name", ph="M", pid=self.HOST, tid=0, args={"name": "Python"})

    def add(self, launches: list[Launch], spans: list[Span]) -> None:
        for span in sorted(spans, key=lambda s: s.start):
            self._slice(span.name, span.start, span.end, self.HOST, 0, cat="host")
        for launch in launches:
            if launch.device not in self._tracks:
                self._tracks[launch.device] = len(self._tracks)
                track = {"pid": self.DEVICES, "tid": self._tracks[launch.device]}
                self._event(name="thread_name", ph="M", **track, args={"name": launch.device})
            kernel, ns = launch.kernel, max(launch.end - launch.start, 1)
            operations, nbytes = debug.work(kernel)
            about = {
                "kind": kernel.kind,
                "shape": list(kernel.shape),
                "GFLOP/s": round(operations / ns, 3),
                "GB/s": round(nbytes / ns, 3),
                "FLOP": operations,
                "bytes": nbytes,
                "lines": debug.quoted(launch.lines),
            }
            where = (self.DEVICES, self._tracks[launch.device])
            self._slice(kernel.name, launch.start, launch.end, *where, cat=kernel.kind, args=about)

    def _slice(self, name: str, start: int, end: int, pid: int, tid: int, **more) -> None:
        times = {"ts": round((start - self._zero) / 1e3, 3), "dur": round((end - start) / 1e3, 3)}
        self._event(name=name, ph="X", **times, pid=pid, tid=tid, **more)

    def _event(self, **event) -> None:
        self._out.write(self._separator + json.dumps(event))
        self._separator = ",\n"

    def flush(self) -> None:
        """Make `path` a whole file of what there is so far."""
        end = self._out.tell()
        self._out.write("\n]\n")
        self._out.flush()
        copy = self.partial + "2"
        shutil.copyfile(self.partial, copy)
        os.replace(copy, self.path)
        self._out.seek(end)
        self._out.truncate()

    def close(self) -> None:
        self._out.write("\n]\n")
        self._out.close()
        os.replace(self.partial, self.path)


_log: Optional[Log] = None


def log() -> Optional[Log]:
    """Where to record launches and notes; None while nobody wants to know."""
    return _log


def tracing() -> bool:
    """Whether a trace is being written, and the lines that kernels come from are of interest."""
    return _log is not None and _log.file is not None


ENTRANCES = ("realize", "read", "call")  # where a program enters the engine to have something run


def span(name: str) -> Callable[[Callable], Callable]:
    """Decorator: calls of the function are a span of that name on the host's track."""
    entrance = name in ENTRANCES

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def recorded(*args, **kwargs):
            if _log is None and not (entrance and _debugging()):
                return function(*args, **kwargs)
            assert _log is not None
            with _log.span(name):
                return function(*args, **kwargs)

        return recorded

    return decorate


def _debugging() -> bool:
    """Whether CLGRAD_DEBUG has been set meanwhile; begins a log if so."""
    global _log
    if debug.level():
        _log = Log()
    return _log is not None


def _stop_debugging() -> None:
    global _log
    _log = None


@contextmanager
def recording() -> Iterator[Log]:
    """A log of all that happens inside; a trace that is being written misses it."""
    global _log
    before, _log = _log, _Recording()
    try:
        yield _log
    finally:
        _log.finished()
        _log = before


def start(path: str) -> None:
    """Write a trace to `path` from now on, until `stop` or the end of the process.

    Start before a device is used for the first time: one that is open already has to wait for each kernel to time it.
    Raises ValueError if the file cannot be written.
    """
    global _log
    if tracing():
        stop()
    Backend.keeps_times = True
    _log = Log(TraceFile(path))


def flush() -> None:
    """Bring the file up to date now. It is a whole trace at any time."""
    if _log is not None and _log.file is not None:
        _log.hand_over()
        _log.file.flush()


def stop() -> None:
    """Finish the file. Nothing happens if no trace is being written."""
    global _log
    closing = _log
    if closing is not None and closing.file is not None:
        _log = None
        try:
            closing.hand_over()
        finally:
            closing.file.close()


def _obey_environment() -> None:
    path = os.environ.get("CLGRAD_PROFILE")
    if path:
        try:
            start(path)
        except ValueError as error:
            raise SystemExit(f"clgrad: CLGRAD_PROFILE: {error}") from None
    if debug.level():
        Backend.keeps_times = True


_obey_environment()
atexit.register(stop)  # also after an exception and after Ctrl-C
