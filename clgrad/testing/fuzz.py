"""Random programs by the thousand: each is computed in several ways, and every disagreement is shrunk and printed.

Comes in: how many programs, a seed, one device or two. Goes out: a report. The programs come in batches, each with a
seed of its own made of the run's seed and its number, so a batch can be run again by itself.

    fusion   all results and gradients at once, against every node realised by itself
    layout   the samples as they lie in memory, against contiguous copies
    jit      a replay, and one with other values, against a plain call
    torch    float64 results and gradients against torch's, if it is installed and understands every step
    devices  the second device against the first, plain and jitted, for many programs at once
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Optional

import hypothesis
import numpy as np
from hypothesis import strategies as st

from ..backends.dtypes import is_float
from ..engine.jit import jit
from ..engine.tensor import Tensor
from . import checking
from .checking import Case, Failed
from .modes import computed, values_and_gradients
from .program import Program, programs
from .sample import Sample, code

BATCH = 250  # programs in one search by Hypothesis
TOGETHER = 8  # programs that are computed at once on the second device


def agree(program: Program, ways: Sequence[str] = ("fusion", "layout", "jit", "torch")) -> None:
    """Raise AssertionError if ways of computing a program disagree, or if one of them raises."""
    case = Case(program.function, program.samples)
    tests: dict[str, Callable[[Case], None]] = {
        "fusion": checking.fusion,
        "layout": checking.layout,
        "jit": checking.jitted,
        "torch": lambda case: _on_torch(program, case),
    }
    for way in ways:
        _attempt(way, case, lambda: tests[way](case))  # noqa: B023


def agree_on_devices(many: Sequence[Program], device: str, other: str) -> None:
    """Raise AssertionError if two devices disagree about programs, plain or jitted. One build serves all of them."""
    cases = [Case(p.function, p.samples, device) for p in many]
    whole = Case(many[0].function, many[0].samples, device)

    def all_of_them(*arguments: list[Tensor]) -> list[list[Tensor]]:
        return [values_and_gradients(p.function)(*each) for p, each in zip(many, arguments)]

    for way, run in ((other, all_of_them), (f"{other}, jitted", jit(all_of_them))):
        results: list[list[Tensor]] = []
        _attempt(way, whole, lambda: results.extend(run(*(c.tensors(device=other) for c in cases))))  # noqa: B023
        _attempt(way, whole, lambda: Tensor.realize_all([t for each in results for t in each]))  # noqa: B023
        for case, each in zip(cases, results):
            lines = [f"got = computed(run(*each(lambda x: x.to({other!r}))))", "want = computed(run(*inputs))"]
            checking.compare("devices", case, [t.numpy() for t in each], computed(case.run()), (way, device), lines)


def _attempt(way: str, case: Case, test: Callable[[], Any]) -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        checking.attempt(way, case, test, checking.CALL)


def _on_torch(program: Program, case: Case) -> None:
    """Against torch, where every step means the same to it, in float64 throughout."""
    if any(is_float(s.dtype) and s.dtype != np.float64 for s in program.samples) or "float" in program.uses:
        return
    try:
        function = program.on_torch()
    except ImportError:
        return
    if function is None:
        return
    want = _torch_results(function, program.samples)
    if want is not None:
        lines = ["got = computed(run(*inputs))", f"want = {code(want)}  # torch"]
        checking.compare("torch", case, computed(case.run()), want, ("clgrad", "torch"), lines, roundings=2.0**20)


def _torch_results(function: Callable, samples: Sequence[Sample]) -> Optional[list[np.ndarray]]:
    """What `values_and_gradients` gives, by torch; None where it cannot say."""
    import torch

    from .reference import weights

    arguments = [torch.tensor(s.numpy()) for s in samples]
    leaves = [a.requires_grad_() for a in arguments if a.is_floating_point()]
    result = function(*arguments)
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    terms = [(y * torch.tensor(weights(y.shape)).to(y.dtype)).sum() for y in outputs if y.requires_grad]
    found = torch.autograd.grad(sum(terms[1:], terms[0]), leaves, allow_unused=True) if terms else [None] * len(leaves)
    gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found)]
    return [t.detach().numpy() for t in (*outputs, *gradients)]


# --- a run --------------------------------------------------------------------------------------------------------


def search(test: Callable[[Any], None], strategy: st.SearchStrategy, examples: int, seed: int) -> Optional[Failed]:
    """The smallest failure of `test` among so many examples, or None."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(strategy)
    def run(example) -> None:
        try:
            test(example)
        except Failed as failed:
            seen.append(failed)
            raise

    seen: list[Failed] = []
    try:
        run()
    except Failed as failed:
        return failed
    except hypothesis.errors.Flaky:  # what came before had a part in it
        seen[0].message += " (but not when it was tried again)"
        return seen[0]
    return None


def fuzz(count: int, devices: Sequence[str], seed: int = 0, report: Callable[[str], None] = print) -> list[str]:
    """Run `count` programs; returns the disagreements, each a program that can be pasted and run."""
    start, done, found, uses = time.perf_counter(), 0, [], Counter[str]()
    batch = BATCH if len(devices) < 2 else max(BATCH // 5, TOGETHER)
    while done < count:
        size, number = min(batch, count - done), done // batch
        tried = Counter[str]()

        def one(program: Program) -> None:
            tried["programs"] += 1  # noqa: B023
            uses.update(program.uses)
            agree(program)

        def several(many: list[Program]) -> None:
            tried["programs"] += len(many)  # noqa: B023
            for program in many:
                uses.update(program.uses)
            agree_on_devices(many, *devices[:2])

        if len(devices) < 2:
            failed = search(one, programs(), size, seed * 100_003 + number)
        else:
            many = st.lists(programs(), min_size=min(TOGETHER, size), max_size=min(TOGETHER, size))
            failed = search(several, many, max(1, size // TOGETHER), seed * 100_003 + number)
            if failed is not None:  # shrunk alone, if it fails alone
                alone = search(lambda p: agree_on_devices([p], *devices[:2]), programs(), size, seed * 100_003 + number)
                failed = alone or failed
        if failed is not None:
            found.append(text(failed))
            report(f"--- batch {number}, {failed.part}: {failed.message}\n{found[-1]}")
        done += size
        spent = time.perf_counter() - start
        report(f"{done} of {count} programs on {', '.join(devices)}: {len(found)} disagreements, {spent:.0f} s")
    report(f"{len(uses)} kinds of steps, {sum(uses.values())} in all; seed {seed}")
    return found


def text(failed: Failed) -> str:
    """A disagreement as a program."""
    return checking.program(failed.case.fn, failed.case.arguments, failed.case.device, failed.lines, failed.dtype)
