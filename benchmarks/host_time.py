"""What a training step costs the host: everything but the kernels' own work.

    python benchmarks/host_time.py --devices NUMPY,CL --steps 50 --json out.json

Kernels are replaced by ones that do nothing: on NUMPY a function that returns, on OpenCL a kernel with the same
arguments and an empty body, really launched, with one work-group. What is left is Python and, on OpenCL, the driver:

    replay       a jitted step, until the call returns; and until the device says that it is done
    plain        the same step without jit, with its loss read: graph, gradient, schedule from the cache, launches
    new          a plain step of a structure that was not seen before: simplified, scheduled and lowered as well

Then, with the real kernels and each in a process of its own, from the start of the process to the first loss, and what
that time went to; and what `import clgrad` adds to `import numpy`. Milliseconds, the median of the steps and the best.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from common import described, median, names, table, use_threads, write_json
from train_step import CONFIGS, training_step

STAGES = ("import", "model", "trace", "gradient", "simplify", "schedule", "build", "run")


def kernels_that_do_nothing() -> None:
    """From now on whatever is built, on any device, returns at once."""
    from clgrad.backends.numpy.backend import NumpyExecutable

    made = NumpyExecutable.__init__

    def empty(self, *args, **kwargs):
        made(self, *args, **kwargs)
        sections = [(nothing(function), arguments) for function, arguments in self.rendered.sections]
        self.rendered = self.rendered._replace(sections=sections)

    NumpyExecutable.__init__ = empty
    try:
        from clgrad.backends.opencl.backend import OpenCLBackend, OpenCLExecutable
    except ImportError:  # without pyopencl there is nothing to empty
        return
    compiled, prepared = OpenCLBackend._compile, OpenCLExecutable.__init__

    def one_group(self, *args, **kwargs):
        prepared(self, *args, **kwargs)
        if 0 not in self.global_size:
            self.global_size = self.local_size or (1,) * len(self.global_size)

    OpenCLBackend._compile = lambda self, source: compiled(self, without_bodies(source))
    OpenCLExecutable.__init__ = one_group


def nothing(function: Callable) -> Callable:
    """A function of that name that takes what it is given."""

    def empty(*arguments):
        pass

    empty.__name__ = function.__name__
    return empty


def without_bodies(source: str) -> str:
    """OpenCL C in which every kernel has its arguments and does nothing."""
    result, rest = "", source
    while "__kernel" in rest:
        head, rest = rest.split("__kernel", 1)
        signature, rest = rest.split("{", 1)
        depth, end = 1, 0
        while depth:
            depth += {"{": 1, "}": -1}.get(rest[end], 0)
            end += 1
        result += f"{head}__kernel{signature}{{}}"
        rest = rest[end:]
    return result + rest


def training(device: str, config: str) -> tuple[Any, Any, Any]:
    """(step of (x, y) giving the loss as a Tensor, x, y)."""
    import numpy as np

    from clgrad import Tensor
    from clgrad.models import GPT, GPTConfig

    sizes = dict(CONFIGS[config])
    batch = sizes.pop("batch")
    Tensor.manual_seed(0)
    model = GPT(GPTConfig(**sizes, dropout=0.0, bias=True)).to(device)
    data = np.random.default_rng(0).integers(0, sizes["vocab_size"], (batch, sizes["block_size"] + 1)).astype(np.int32)

    return training_step(model), Tensor(data[:, :-1], device=device), Tensor(data[:, 1:], device=device)


def host_time(device: str, config: str, steps: int) -> dict[str, list[float]]:
    """Milliseconds of every measured step on `device`, by kind of step."""
    from clgrad import Device, jit
    from clgrad.engine.program import PROGRAMS

    step, x, y = training(device, config)
    replay, backend = jit(step), Device[device]
    found: dict[str, list[float]] = {"replay": [], "replay, done": [], "plain": [], "new": []}

    def timed(kind: str, run) -> None:
        start = time.perf_counter()
        run()
        found[kind].append((time.perf_counter() - start) * 1e3)

    for _ in range(3):
        replay(x, y).item()
    for _ in range(steps):
        start = time.perf_counter()
        timed("replay", lambda: replay(x, y))
        backend.synchronize()
        found["replay, done"].append((time.perf_counter() - start) * 1e3)
    for _ in range(3):
        step(x, y).item()
    for _ in range(max(3, steps // 5)):
        timed("plain", lambda: step(x, y).item())
        PROGRAMS.clear()
        timed("new", lambda: step(x, y).item())
    return found


def first_step(device: str, config: str, started: float) -> dict[str, float]:
    """Seconds from `started` (as time.time() gives them) to the first loss, and those of each stage."""
    spent = {"interpreter": time.time() - started}

    def measured(name: str, function):
        def call(*args, **kwargs):
            start, inner = time.perf_counter(), sum(spent.values())
            result = function(*args, **kwargs)  # stages within this one count as their own
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start - (sum(spent.values()) - inner)
            return result

        return call

    def load() -> None:
        import numpy  # noqa: F401

        import clgrad.models  # noqa: F401

    measured("import", load)()
    from clgrad import jit
    from clgrad.engine import jit as jitting
    from clgrad.engine import realize, tensor

    for module in (jitting, realize):
        module.simplify = measured("simplify", module.simplify)
        module.schedule = measured("schedule", module.schedule)
    realize.lower = measured("build", realize.lower)
    tensor.gradients = measured("gradient", tensor.gradients)
    jitting.Plan.run = measured("run", jitting.Plan.run)
    step, x, y = measured("model", training)(device, config)
    loss = measured("trace", jit(step))(x, y)
    measured("run", loss.item)()
    return {"total": time.time() - started} | spent


def in_a_process(*arguments: str) -> Any:
    """What this script prints as JSON when it is run with `arguments`."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--started", repr(time.time())], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def import_time() -> float:
    """Seconds that `import clgrad` adds to `import numpy`, in this process."""
    import numpy  # noqa: F401

    start = time.perf_counter()
    import clgrad  # noqa: F401

    return time.perf_counter() - start


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--devices", default="NUMPY,CL", help="clgrad devices")
    result.add_argument("--config", default="nanogpt-cpu", choices=CONFIGS)
    result.add_argument("--steps", type=int, default=50, help="steps that are measured")
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--processes", type=int, default=3, help="processes for each first step")
    result.add_argument("--json", metavar="FILE", help="write all times there")
    result.add_argument("--child", choices=("import", "first"), help=argparse.SUPPRESS)
    result.add_argument("--started", type=float, help=argparse.SUPPRESS)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    use_threads(options.threads)
    if options.child == "import":
        print(json.dumps(import_time()))
        return
    if options.child == "first":
        print(json.dumps(first_step(options.devices, options.config, options.started)))
        return
    devices = names(options.devices)
    imports = [in_a_process("--child", "import") for _ in range(5)]
    first = {
        device: [
            in_a_process("--child", "first", "--devices", device, "--config", options.config)
            for _ in range(options.processes)
        ]
        for device in devices
    }
    kernels_that_do_nothing()
    steps = {device: host_time(device, options.config, options.steps) for device in devices}
    for name, text in described(devices).items():
        print(f"{name}: {text}")
    print(f"\nimport clgrad adds {median(imports) * 1e3:.0f} ms to import numpy (best {min(imports) * 1e3:.0f})\n")
    rows = [
        (f"{kind}, {device}", f"{median(times):.2f}", f"{min(times):.2f}")
        for device in devices
        for kind, times in steps[device].items()
    ]
    print(table(("host time of a step, ms", "median", "best"), rows))
    print("\nfrom the start of the process to the first loss, s (the first process may find an empty cache)")
    columns = ("total", "interpreter", *STAGES)
    rows = [
        (f"{device}, process {i}", *(f"{run.get(c, 0):.2f}" for c in columns))
        for device in devices
        for i, run in enumerate(first[device])
    ]
    print(table(("", *columns), rows))
    write_json(options.json, {"import": imports, "steps": steps, "first": first})


if __name__ == "__main__":
    main()
