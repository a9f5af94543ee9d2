"""`clgrad tune`: times candidates for the numbers of `shapes.py` on the device at hand, and keeps the winners on disk.

A backend reads them when it is opened. They change nothing by themselves: only the command writes them. Each family
of kernels has a few fields with a few values each; one field after the other takes its fastest value. A value whose
kernels do not build, or give other results than the table's, is passed over.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import DeviceError
from ..dtypes import float32
from ..kernel import Instr, Kernel, Output
from ..view import View
from . import cache
from .shapes import Shapes

if TYPE_CHECKING:
    from .backend import OpenCLBackend

GAIN = 0.95  # of the best time so far: less is noise
ROUNDS = 7


@dataclass(frozen=True)
class Family:
    """Kernels that depend on the same fields, and what is tried for each."""

    kernels: Callable[[int], list[Kernel]]
    cpu: dict[str, tuple]
    gpu: dict[str, tuple]


def path_of(device) -> Path:
    """Where the winners for a device of this model and driver are kept."""
    identity = repr((device.platform.name, device.platform.version, device.name, device.driver_version))
    return cache.folder() / "tuned" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def tuned(device, shapes: Shapes) -> Shapes:
    """`shapes` with the winners kept for this device, if there are any. A file that is not whole is passed over."""
    path = path_of(device)
    try:
        text = path.read_text()
    except OSError:
        return shapes
    try:
        return replace(shapes, **{name: _checked(name, value) for name, value in json.loads(text)["shapes"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        warnings.warn(f"{path} is no whole table of clgrad tune: ignored. Run clgrad tune again", stacklevel=2)
        return shapes


def _checked(name: str, value: Any) -> Any:
    """A field's value as read from JSON, if it is one that the field can have."""
    default = getattr(Shapes(), name)
    value = tuple(value) if isinstance(value, list) else value
    numbers, like = (v if isinstance(v, tuple) else (v,) for v in (value, default))
    right = type(value) is type(default) and len(numbers) == len(like)
    if not right or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"{name} = {value}")
    return value


def tune(backend: OpenCLBackend, size: int = 512, say: Callable[[str], None] = lambda text: None) -> Shapes:
    """The fastest shapes for the backend's device; they are kept, and used by backends opened from now on.

    Each candidate is tried on kernels of about `size` x `size` elements. Raises DeviceError if they cannot be kept.
    """
    shapes = backend.shapes
    random = np.random.default_rng(0)
    for name, family in FAMILIES.items():
        kernels = family.kernels(size)
        arrays = [[random.normal(size=_elements(k)).astype(np.float32) for _ in k.inputs] for k in kernels]
        best, wanted = _time(backend, shapes, kernels, arrays)
        say(f"{name:<6} the table: {best * 1e6:,.0f} us")
        for field, values in (family.cpu if backend.info.kind == "cpu" else family.gpu).items():
            for value in values:
                candidate = replace(shapes, **{field: value})
                if candidate == shapes or not backend.can_use(candidate):
                    continue
                try:
                    seconds, results = _time(backend, candidate, kernels, arrays)
                except DeviceError:
                    continue
                right = all(np.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(results, wanted))
                say(f"{name:<6} {field} = {value}: {seconds * 1e6:,.0f} us{'' if right else ', and wrong'}")
                if right and seconds < GAIN * best:
                    best, shapes = seconds, candidate
    _keep(backend, shapes)
    return shapes


def _keep(backend: OpenCLBackend, shapes: Shapes) -> None:
    before, after = asdict(backend.table), asdict(shapes)
    changes = {name: value for name, value in after.items() if value != before[name]}
    path = path_of(backend.device)
    text = json.dumps({"device": backend.info.description, "shapes": changes}, indent=1) + "\n"
    cache.write(path, text.encode())
    if not path.exists() or path.read_text() != text:
        raise DeviceError(
            f"{path} cannot be written: the winners are not kept. Set XDG_CACHE_HOME to a folder that can"
        )


def _time(backend: OpenCLBackend, shapes: Shapes, kernels: list[Kernel], arrays: list[list[np.ndarray]]):
    """Seconds for all the kernels once, and their results."""
    trial = type(backend)(backend.device, backend.name, shapes)
    launches, outputs = [], []
    for kernel, inputs, executable in zip(kernels, arrays, trial.lower(kernels, specialise=True)):
        buffers = [trial.allocate(array.nbytes) for array in inputs]
        for buffer, array in zip(buffers, inputs):
            trial.upload(buffer, array)
        outputs.append(trial.allocate(4 * kernel.outputs[0].view.size))
        launches.append(executable.bind([*buffers, outputs[-1]]))
    times = []
    for _ in range(ROUNDS + 1):  # the first builds
        trial.synchronize()
        start = time.perf_counter()
        for launch in launches:
            launch()
        trial.synchronize()
        times.append(time.perf_counter() - start)
    sizes = [_extent(kernel.outputs[0].view) for kernel in kernels]
    results = [trial.download(buffer, float32, size) for buffer, size in zip(outputs, sizes)]
    return statistics.median(times[1:]), results


def _elements(kernel: Kernel) -> int:
    """Enough for every input."""
    views = [view for instr in kernel.body for view in (instr.arg or ()) if isinstance(view, View)]
    return max(view.size for view in views)


def _extent(view: View) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(view.shape, view.strides))


def _loops(n: int) -> list[Kernel]:
    """x * tanh(x), in one dimension."""
    view = View.contiguous((4 * n * n,))
    body = (_load(view), Instr("tanh", (0,), None, float32), Instr("mul", (0, 1), None, float32))
    return [Kernel("loop", view.shape, (), body, (Output(2, view),), (float32,), (float32,), name="tune_loop")]


def _rows(n: int) -> list[Kernel]:
    """Softmax over rows, and sums down columns."""
    view = View.contiguous((4 * n, n))
    softmax = (
        _load(view), Instr("reduce_max", (0,), None, float32), Instr("sub", (0, 1), None, float32),
        Instr("exp", (2,), None, float32), Instr("reduce_sum", (3,), None, float32),
        Instr("div", (3, 4), None, float32),
    )  # fmt: skip
    columns = (_load(view), Instr("reduce_sum", (0,), None, float32))
    down = View(view.shape, (0, 1))
    return [
        Kernel("row", view.shape, (1,), softmax, (Output(5, view),), (float32,), (float32,), name="tune_softmax"),
        Kernel("row", view.shape, (0,), columns, (Output(1, down),), (float32,), (float32,), name="tune_columns"),
    ]


def _dots(n: int) -> list[Kernel]:
    """Products with the right operand as it lies, and transposed."""
    plain = View.contiguous((n, n))
    out = (Output(0, plain),)
    return [
        Kernel("dot", plain.shape, (), (Instr("dot", (), (0, plain, 1, right), float32),), out, (float32,) * 2,
               (float32,), name=f"tune_{name}")
        for name, right in (("dot", plain), ("dot_transposed", plain.permute((1, 0))))
    ]  # fmt: skip


def _load(view: View) -> Instr:
    return Instr("load", (), (0, view), float32)


FAMILIES = {
    "loops": Family(
        _loops,
        cpu={"vector_group": (16, 64, 256)},
        gpu={"loop_group": ((64, 1), (128, 1), (256, 1), (512, 1))},
    ),
    "rows": Family(
        _rows,
        cpu={"row_group": (1, 8, 32)},
        gpu={"row_team": (32, 64, 128, 256), "row_group": (32, 64, 128)},
    ),
    "dots": Family(
        _dots,
        cpu={"dot_tile": ((96, 192), (192, 384), (384, 512)), "dot_slice": (64, 128, 256)},
        gpu={
            "dot_vector": (4, 8),
            "dot_outer": ((4, 4), (8, 4), (8, 8)),
            "dot_inner": ((2, 4), (4, 4), (8, 4)),
            "dot_group": ((8, 8), (16, 8), (16, 16), (32, 8)),
        },
    ),
}
