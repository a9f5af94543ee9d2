"""Every public function of Tensors, on both backends, against PyTorch: the table in `tests/surface`.

    python -m pytest -n 0 tests/test_surface.py -k softplus

Each entry gets 100 examples and more on each backend; `surface/entry.py` says what an entry promises. On OpenCL every
example is a kernel or more to be built, so there a run takes a sixteenth of the entries, another one each day;
`--table` takes all, and `--long` all of them in every layout.
"""

from __future__ import annotations

import inspect
import time
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from surface import judge, table
from surface.elsewhere import ELSEWHERE
from surface.entry import Entry
from surface.examples import Draw, Example, examples, wanted_features
from surface.judge import Answer, Refused, describe, ours, read, theirs
from surface.shrink import shrunk

from clgrad import Device, Tensor, nn
from clgrad.engine.methods import Methods
from clgrad.engine.realize import is_view_of_memory, lower, plan_for
from clgrad.nn import functional, optim
from clgrad.nn.module import Module

ENTRIES = table()
LEAST = 100  # examples an entry and backend
SHARE = 16  # on OpenCL one entry of so many a day
TODAY = int(time.time()) // 86400
ROUNDS = 3
PATIENCE = 50  # rounds after which a feature counts as one that never occurs: after 12, one entry in 700 lacked one
PATTERNS = {"NUMPY": (6, 3), "CL": (1, 1)}  # of values and of derivatives: on OpenCL each is kernels to be built

# The examples of an entry are drawn in one go, from one seed; and Hypothesis' first would always be the same one.
FEW = settings(max_examples=1, phases=[Phase.explicit, Phase.generate])


def run(entry: Entry, device: str, draw: Draw, seed: int, everything: bool = False) -> tuple[int, Counter[str]]:
    """Hold `device` to `entry`: how many examples torch accepted, and in how many each feature occurred."""
    values, derivatives = PATTERNS["NUMPY" if everything else device.partition(":")[0]]
    count, features = 0, Counter[str]()
    thrifty = examples(entry, draw, seed, LEAST, values, derivatives, free=False)  # with few kernels, for OpenCL
    free = examples(entry, draw, seed, LEAST, values, derivatives, free=True)
    for batch in chain(() if device == "NUMPY" else islice(thrifty, ROUNDS), islice(free, PATIENCE)):
        accepted = []
        for example in batch:
            try:
                accepted.append((example, theirs(entry, example)))
            except Refused as refused:
                check_refused(entry, example, device, refused)
        if device != "NUMPY":
            build([ours(entry, example, device) for example in firsts([example for example, _ in accepted])])
        for example, want in accepted:
            check(entry, example, device, want)
            features.update(example.features)
        count += len(accepted)
        if count >= LEAST and (wanted_features(entry) <= set(features) or not (everything or device == "NUMPY")):
            break
    return count, features


def check(entry: Entry, example: Example, device: str, want: Answer) -> None:
    try:
        judge.hold(entry, example, device, want)
    except Exception:
        small = shrunk(example, lambda candidate: judge.fails(entry, candidate, device), device)
        try:
            judge.hold(entry, small, device)
        except Exception as error:
            raise AssertionError(f"{describe(entry, small, device)}\n{type(error).__name__}: {error}") from error
        raise


def check_refused(entry: Entry, example: Example, device: str, refused: Refused) -> None:
    """Where torch raises, so do we; at the latest when the value is read."""
    try:
        read(ours(entry, example, device))
    except Exception:
        return
    raise AssertionError(f"{describe(entry, example, device)}\nno error; torch's is {refused.__cause__!r}")


def firsts(batch: list[Example]) -> list[Example]:
    """The first example of each pattern, and the first that is empty."""
    found: dict[tuple[int, bool], Example] = {}
    for example in batch:
        found.setdefault((id(example.pattern), "zero-size" in example.features), example)
    return list(found.values())


def build(computed: list[list[Tensor]]) -> None:
    """Build the kernels of many examples as one program: a quarter of a second each, however short it is."""
    steps = []
    for results in computed:
        pending = [t.node for t in results if not is_view_of_memory(t.node)]
        if pending:
            steps += plan_for(pending)[1].steps
    lower(steps, specialise=False)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_what_torch_says(device, everything, name, request):
    if device != "NUMPY" and not Device[device].info.features["fp64"]:
        pytest.skip(f"{device} has no float64")
    whole = device == "NUMPY" or everything or request.config.getoption("--table")
    if not whole and (list(ENTRIES).index(name) + TODAY) % SHARE:
        pytest.skip("OpenCL compiles every example: a sixteenth of the table a day, all of it with --table")
    hold(device, everything, name)


@FEW
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def hold(device, everything, name, data, seed):
    assume(seed)
    entry, seed = ENTRIES[name], seed ^ crc32(name.encode())  # the same examples for all entries would be a pity
    count, features = run(entry, device, data.draw, seed, everything)
    assert count >= LEAST, f"{name}: torch refused all but {count} examples"
    # On OpenCL a short run has one of the layouts, another each time; all features are as many kernels more.
    missing = wanted_features(entry) - set(features) if everything or device == "NUMPY" else ()
    assert not missing, f"{name}: {sorted(missing)} never occurred in {count} examples: {dict(features)}"


# --- what the table holds ---------------------------------------------------------------------------------------------

OPERATORS = {name for name in vars(Methods) if name.startswith("__") and callable(getattr(Methods, name))} - {
    "__hash__"
}


def classes(module, base: type) -> set[str]:
    """The public classes of a module that are a `base`, without that itself."""
    found = {name for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)}
    return {name for name in found if not name.startswith("_") and getattr(module, name) is not base}


def surface() -> set[str]:
    """Every public name that an entry must cover."""
    methods = {name for name in dir(Tensor) if not name.startswith("_")} | OPERATORS
    functions = {name for name, value in vars(functional).items() if inspect.isfunction(value)}
    return {
        *(f"Tensor.{name}" for name in methods),
        *(f"nn.{name}" for name in classes(nn, Module)),
        *(f"nn.functional.{name}" for name in functions if not name.startswith("_")),
        *(f"nn.optim.{name}" for name in classes(optim, optim.Optimizer)),
    }


def test_every_public_name_is_in_the_table():
    covered = {name for entry in ENTRIES.values() for name in entry.covers}
    missing = surface() - covered - set(ELSEWHERE)
    assert not missing, (
        f"no entry of tests/surface covers {sorted(missing)}: write one, or name the test in tests/surface/elsewhere.py"
    )


def test_the_table_covers_nothing_that_is_not_public_and_nothing_twice():
    covered = {name for entry in ENTRIES.values() for name in entry.covers}
    assert covered <= surface(), f"there is no {sorted(covered - surface())}"
    assert not covered & set(ELSEWHERE), f"{sorted(covered & set(ELSEWHERE))} need no excuse"
    assert set(ELSEWHERE) <= surface(), f"there is no {sorted(set(ELSEWHERE) - surface())}"


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_what_is_tested_elsewhere_is(test):
    file, _, function = test.partition("::")
    text = (Path(__file__).parent / file).read_text()
    assert f"def {function}(" in text


def test_a_tolerance_above_the_usual_has_a_reason():
    for entry in ENTRIES.values():
        assert entry.tolerance <= 1e-4 or entry.why, entry.name
