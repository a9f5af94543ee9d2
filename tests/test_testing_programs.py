"""Random programs are varied and well-typed, agree however they are computed, and show the faults that there are."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings

from clgrad import Tensor, testing
from clgrad.engine.gradient import GRADIENTS
from clgrad.engine.methods import Methods
from clgrad.engine.node import make
from clgrad.testing import fuzz
from clgrad.testing.__main__ import main
from clgrad.testing.modes import unfused
from clgrad.testing.steps import STEPS

# Methods that no program calls, and why.
NOT_IN_PROGRAMS = {
    "from outside the graph": "full zeros ones empty full_like zeros_like ones_like empty_like arange linspace eye "
    "from_dlpack data",
    "random, so never twice the same": "rand randn uniform normal randint rand_like randn_like randint_like "
    "scaled_uniform glorot_uniform kaiming_uniform kaiming_normal randperm multinomial manual_seed get_rng_state "
    "set_rng_state dropout",
    "the shape of the result depends on values, so not under jit": "masked_select nonzero",
    "reads values": "allclose is_floating_point",
    "rounds so coarsely that a last digit before it decides": "half bfloat16",
}


def test_300_programs_agree_on_numpy():
    assert fuzz.fuzz(300, ["NUMPY"], seed=1) == []


def test_50_programs_agree_on_both_devices(cl):
    assert fuzz.fuzz(50, ["NUMPY", cl], seed=1) == []


@settings(max_examples=50, database=None)
@given(testing.programs())
def test_a_printed_program_can_be_run_and_gives_the_same(program):
    names: dict = {}
    exec(repr(program), names)
    mine = program.function(*(sample.tensor("NUMPY") for sample in program.samples))
    theirs = names["program"](*names["inputs"])
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (mine, theirs)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_programs_are_varied():
    uses: Counter = Counter()
    seen: Counter = Counter()

    @settings(max_examples=300, database=None)
    @given(testing.programs())
    def collect(program):
        uses.update(program.uses)
        seen["long"] += len(program.uses) > 5
        seen["several outputs"] += "," in program.source.rpartition("return")[2]
        seen["several inputs"] += len(program.samples) > 1
        seen["layouts"] += any(sample.steps for sample in program.samples)
        seen["shared"] += any(program.source.count(f"v{i}.") > 1 for i in range(9))

    collect()
    assert len(uses) > 100 and min(seen.values()) > 15 and len(seen) == 5, seen


def test_every_method_is_a_step_or_has_a_reason_not_to_be():
    texts = " ".join(step.text for step in STEPS.values())
    words = set("".join(c if c.isalnum() or c == "_" else " " for c in texts).split())
    excused = {name for names in NOT_IN_PROGRAMS.values() for name in names.split()}
    methods = {name for name in vars(Methods) if not name.startswith("_")}
    assert not excused & words
    missing = methods - words - excused
    assert not missing, f"no step of clgrad.testing.steps calls {sorted(missing)}"


@pytest.mark.parametrize("name", STEPS)
def test_a_step_alone_is_what_torch_makes_of_it_and_the_same_node_by_node(name):
    length, names = (3, (name, "less")) if STEPS[name].kind == "b" else (1, (name,))  # no program starts with bools
    failed = fuzz.search(lambda p: fuzz.agree(p, ("torch", "fusion")), testing.programs(length, names), 5, seed=3)
    assert failed is None, f"{failed.message}\n{fuzz.text(failed)}"


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_drawn_where_it_fits(name):
    before = ("less",) if STEPS[name].kind == "b" else ()
    first = settings(phases=[Phase.generate], database=None, max_examples=1000)  # any will do, not the smallest
    assert find(testing.programs(3, (name, *before)), lambda program: name in program.uses, settings=first)


def test_a_wrong_gradient_of_the_engine_is_found_and_shrunk_to_one_step():
    wrong = {"sin": lambda g, y, x: (g * make("cos", (x,)) * 1.001,)}
    with patch.dict(GRADIENTS, wrong):
        found = fuzz.fuzz(250, ["NUMPY"], seed=5, report=lambda line: None)
        [program] = found
        assert "def program(a):\n    v0 = a.sin()\n    return v0" in program
        with pytest.raises(AssertionError):
            exec(compile(program, "pasted", "exec"), {})


def test_what_raises_is_a_disagreement_too():
    def refuses(self):
        if self.ndim > 1:
            raise ZeroDivisionError("as a fault would")
        return self * 1

    with patch.object(Tensor, "clone", refuses):
        found = fuzz.fuzz(250, ["NUMPY"], seed=5, report=lambda line: None)
    assert len(found) == 1 and ".clone()" in found[0]


def test_integers_are_compared_exactly():
    program = find(testing.programs(2, ("int arithmetic", "add")), lambda p: p.uses == ("int arithmetic", "add"))
    with patch.object(fuzz.checking, "unfused", lambda tensors: [a + 1 for a in unfused(tensors)]):
        with pytest.raises(fuzz.Failed):
            fuzz.agree(program, ("fusion",))


def test_the_command_prints_what_it_did(capsys):
    assert main(["--programs", "20", "--devices", "NUMPY", "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    assert "20 of 20 programs on NUMPY: 0 disagreements" in printed
    assert "20 programs on NUMPY, seed 4: no disagreements in" in printed
    with patch.dict(GRADIENTS, {"sin": lambda g, y, x: (g * 2.0,)}):
        assert main(["--programs", "250", "--seed", "5"]) == 1
    assert "v0 = a.sin()" in capsys.readouterr().out
