"""What the benchmarks share: taking turns, the limits of the machine, tables."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Only the installed package will do: the folder above holds the front door alone.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent.parent]


def use_threads(threads: int) -> None:
    """How many threads each may use, unless the environment says so already. Call before NumPy is imported."""
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "POCL_MAX_PTHREAD_COUNT"):
        os.environ.setdefault(variable, str(threads))


def names(text: str) -> list[str]:
    """What stands between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def seconds(run: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# How long the threads of a participant go on spinning for work after its turn, in seconds, and take the processor from
# the next one: OpenBLAS' for some 130 ms (whatever they yield, OpenMP's threads get into each other's way meanwhile),
# OpenMP's in torch for 15. OpenCL's sleep at once.
SPINS = {"blas": 0.18, "NUMPY": 0.18, "torch": 0.03}


def settle(last: str | None, now: str) -> None:
    """Wait until the threads of the participant before sleep, unless its turn was of the same kind."""
    before, after = (str(name).split()[0].rstrip(",") for name in (last, now))
    if before in SPINS and SPINS[before] != SPINS.get(after):
        time.sleep(SPINS[before])


def in_turns(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each of `runs` returns in each of `rounds`, one after another, so that a busy machine slows all of them."""
    results: dict[str, list[float]] = {name: [] for name in runs}
    last = None
    for _ in range(rounds):
        for name, run in runs.items():
            settle(last, name)
            results[name].append(run())
            last = name
    return results


def timer(run: Callable[[], Any], least: float, measured: Callable[[], float] | None = None) -> Callable[[], float]:
    """A turn: the seconds of one call of `run`, or what `measured`, which calls it, gives.

    It begins with calls that do not count, for `least` seconds: threads that were asleep may first all wake up on one
    core. Then it is the median of as many as take `least` seconds. Calls `run` now, so that it is built.
    """
    run()
    times = max(1, round(least / max(min(seconds(measured or run) for _ in range(3)), 1e-7)))

    def turn() -> float:
        start = time.perf_counter()
        while time.perf_counter() - start < least:
            run()
        return median([measured() if measured else seconds(run) for _ in range(times)])

    return turn


def copier(nbytes: int, threads: int) -> Callable[[], None]:
    """Reads nbytes / 2 and writes as many, with so many threads."""
    import numpy as np

    half = max(nbytes // 2, threads)
    source, target = np.zeros(half, np.uint8), np.ones(half, np.uint8)
    if threads == 1:
        return lambda: np.copyto(target, source)
    bounds = [half * i // threads for i in range(threads + 1)]
    parts = [(target[a:b], source[a:b]) for a, b in zip(bounds, bounds[1:])]
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        list(pool.map(lambda part: np.copyto(*part), parts))

    return run


def matmul_timers(least: float, shapes: Iterable[tuple[int, int, int]] = ((768, 512, 128), (1024, 1024, 1024))) -> Any:
    """(name, FLOPs, turn) of products of (M, K) and (K, N) in NumPy's BLAS, for shapes (M, N, K)."""
    import numpy as np

    for M, N, K in shapes:
        a, b, out = np.ones((M, K), np.float32), np.ones((K, N), np.float32), np.empty((M, N), np.float32)
        yield f"{M}x{K} @ {K}x{N}", 2 * M * N * K, timer(lambda a=a, b=b, out=out: np.matmul(a, b, out=out), least)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as they need, the first to the left, numbers to the right. None shows as a dash."""
    lines = [[str(h) for h in header]] + [["-" if c is None else str(c) for c in row] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown = []
    for line in lines:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def described(devices: Iterable[str]) -> dict[str, str]:
    """What each of clgrad's devices is."""
    from clgrad import Device

    return {name: Device[name].describe().description for name in devices}


def write_json(path: str | None, report: dict[str, Any]) -> None:
    """All that was measured, for programs. Nothing without a path."""
    if path:
        Path(path).write_text(json.dumps(report, indent=1) + "\n")
