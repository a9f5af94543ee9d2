"""check: right functions pass, every part finds what it is for, and what is printed can be pasted and fails."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from clgrad import Tensor, testing
from clgrad.engine import realize as realizing
from clgrad.engine import trace
from clgrad.engine.composite import composite
from clgrad.engine.jit import jit as jitted
from clgrad.engine.node import make
from clgrad.testing import PARTS, CheckFailure, Sample, check, checking
from clgrad.testing.source import function_source

HERE = {"devices": ["NUMPY"], "examples": 25}
FACTOR = 3


def scaled(x):
    return x * FACTOR


RIGHT = {
    "one of any shape": (lambda x: x * x.sigmoid(), (), {}),
    "two of one shape": (lambda a, b: (a - b) * a.exp(), (), {}),
    "with kinks, which are drawn again": (lambda x: x.relu() + x.abs(), (), {}),
    "two that broadcast": (lambda a, b: (a + b).tanh(), (testing.operands(2, broadcast=True, max_elements=40),), {}),
    "an operand of its own shape": (lambda a, b: a @ b, (testing.tensors((2, 3)), testing.tensors((3, 2))), {}),
    "an index": (lambda x, i: x[i], (testing.tensors((3, 2)), testing.tensors((4,), "int64", low=0, high=2)), {}),
    "a plain value": (lambda x, n: x**n, (testing.tensors((3,)), 2), {}),
    "slices": (lambda x, i: x[i], (testing.tensors((3, 2)), testing.indices((3, 2), arrays=False, masks=False)), {}),
    "integers": (lambda x: x // 3 + x, (testing.tensors(dtype="int32"),), {}),
    "several outputs": (lambda x: (x.exp(), x.sum(), x > 0), (), {}),
    "a reference of arrays": (lambda x: x.exp() * x, (), {"reference": lambda x: np.exp(x) * x}),
    "a reference of torch's": (lambda x: x.sigmoid(), (), {"reference": torch.sigmoid}),
    "a reference that only tensors have": (lambda x: x.tanh(), (), {"reference": lambda x: x.tanh()}),
    "awkward values": (lambda x: x * 2 + 1, (testing.tensors(special=True),), {}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_function_passes(name):
    fn, operands, options = RIGHT[name]
    check(fn, *operands, **HERE, **options)


WRONG = {
    "gradient": (lambda x: scaled(x) * x.detach(), {}),
    "second": (lambda x: x.detach().square() * x - x.detach() ** 3 + (x * x).detach(), {"skip": ("gradient",)}),
    "reference": (lambda x: x.exp() * 1.001, {"reference": np.exp}),
    # rounding by 1e-10 shows in differences of float64 too, where x is small
    "precision": (lambda x: (x / 3 + 1e6) - 1e6, {"skip": ("gradient", "second")}),
}


@pytest.mark.parametrize("part", WRONG)
def test_a_part_finds_what_it_is_for_and_its_program_fails_when_it_is_run(part):
    fn, options = WRONG[part]
    with pytest.raises(CheckFailure) as found:
        check(fn, testing.operands(max_elements=6), **HERE, **options)
    assert found.value.part == part
    fails_when_pasted(found.value.program)


def fails_when_pasted(program):
    with pytest.raises(AssertionError):
        exec(compile(program, "pasted", "exec"), {"__name__": "pasted"})


def test_the_counterexample_of_a_wrong_gradient_is_the_smallest():
    with pytest.raises(CheckFailure) as found:
        check(lambda x: x * x.detach(), **HERE)
    [x] = found.value.arguments
    assert x.shape == () and x.steps == () and abs(x.numpy()) == 1
    assert "1/2 of the right gradient" in str(found.value)


def test_what_needs_an_axis_is_shrunk_to_one_axis():
    def fn(x):
        return x.detach().flip(0) * 0 + (x.detach() if x.ndim and x.shape[0] > 1 else x)

    with pytest.raises(CheckFailure) as found:
        check(fn, testing.operands(max_elements=6), parts=("gradient",), **HERE)
    assert found.value.arguments[0].shape == (2,)


def test_the_gradient_of_a_reference_is_held_too():
    for reference in (np.exp, torch.exp):
        with pytest.raises(CheckFailure, match="reference: the gradient of input 0") as found:
            check(lambda x: x.exp().detach(), reference=reference, parts=("reference",), **HERE)
        fails_when_pasted(found.value.program)


def faulty(fn, when):
    """`fn` with results that are off by one where `when()` says so: a fault of the engine, not of the function."""

    def wrapped(*arrays, **options):
        result = fn(*arrays, **options)
        return [a + 1 if when() else a for a in result] if isinstance(result, list) else result

    return wrapped


def test_a_layout_that_changes_the_result_is_found(monkeypatch):
    # As if the engine forgot to flip.
    real = Sample.tensor

    def forgetful(self, *args, **options):
        kept = tuple((op, arg) for op, arg in self.steps if op != "flip")
        return real(Sample(self.base, kept), *args, **options)

    monkeypatch.setattr(Sample, "tensor", forgetful)
    with pytest.raises(CheckFailure, match="layout: ") as found:
        check(lambda x: x * 2, parts=("layout",), **HERE)
    assert [op for op, _ in found.value.arguments[0].steps] == ["flip"]


@pytest.mark.parametrize("part, name", [("fusion", "unfused"), ("jit", "jit")])
def test_an_engine_that_computes_something_else_is_found(part, name, monkeypatch):
    if part == "fusion":
        monkeypatch.setattr(checking, "unfused", faulty(checking.unfused, lambda: True))
    else:

        class Off(jitted):
            def __call__(self, *args):
                return [t + 1 for t in super().__call__(*args)]

        monkeypatch.setattr(checking, "jit", Off)
    with pytest.raises(CheckFailure, match=f"{part}: ") as found:
        check(lambda x: x * 2, parts=(part,), **HERE)
    assert "want = " in found.value.program


def test_a_function_that_does_something_else_when_it_is_traced_is_found():
    def fn(x):
        return x * 2 if trace.active() is None else x * 2 + 1

    with pytest.raises(CheckFailure, match="jit: "):
        check(fn, parts=("jit",), **HERE)


def test_a_replay_that_keeps_the_values_of_the_first_call_is_found(monkeypatch):
    class Keeps(jitted):
        def __call__(self, *args):
            self.first = getattr(self, "first", None) or super().__call__(*args)
            return self.first

    monkeypatch.setattr(checking, "jit", Keeps)
    with pytest.raises(CheckFailure, match="a replay with other values"):
        check(lambda x: x * 2, parts=("jit",), **HERE)


def test_a_function_that_reads_values_cannot_be_traced_and_says_so():
    with pytest.raises(CheckFailure, match=r"skip=\('jit',\)"):
        check(lambda x: x * float(x.sum().item()), parts=("jit",), **HERE)


def test_the_devices_are_compared(cl, monkeypatch):
    check(lambda x: x.exp() + x, parts=("devices",), devices=["NUMPY", cl], examples=8)

    def differs(x):
        return x + 1 if x.device != "NUMPY" else x

    with pytest.raises(CheckFailure, match="devices: ") as found:
        check(differs, testing.tensors((2,)), parts=("devices",), devices=["NUMPY", cl], examples=8)
    fails_when_pasted(found.value.program)


def test_a_function_without_a_smooth_point_does_not_pass_in_silence():
    with pytest.raises(CheckFailure, match="no differentiable point"):
        check(lambda x: x.abs(), testing.tensors((2,), low=0, high=0, layouts=False), parts=("gradient",), **HERE)


def test_random_functions_are_failures():
    with pytest.raises(CheckFailure):
        check(lambda x: x.dropout(0.5), testing.tensors((20,), low=1, high=2), **HERE)


def test_the_same_seed_checks_the_same_examples():
    seen: list[list] = [[], []]
    for values in seen:
        check(lambda x, v=values: v.append(x.shape) or x, testing.tensors(), parts=("gradient",), seed=5, **HERE)
    assert seen[0] == seen[1] and len(set(seen[0])) > 3


def test_parts_are_asked_for_by_name():
    with pytest.raises(ValueError, match="smoothness"):
        check(lambda x: x, parts=("smoothness",))
    assert set(checking.__doc__.split()) >= set(PARTS)


@pytest.mark.parametrize("strategy", [st.just(np.ones(3)), np.ones(3), Sample(np.ones(3))])
def test_operands_may_be_given_as_arrays_samples_or_strategies(strategy):
    check(lambda x: x * x, strategy, **HERE)


def test_sources_carry_what_they_name():
    lines, name = function_source(lambda x: scaled(x) + np.pi)
    names = {"np": np, "Tensor": Tensor}
    exec("\n".join(lines), names)
    assert names[name](2.0) == 6.0 + np.pi
    assert function_source(Tensor.exp) == ([], "Tensor.exp")


def test_unfused_realises_nodes_one_by_one(monkeypatch):
    from clgrad.testing.modes import unfused

    sizes = []
    real = realizing.realize
    monkeypatch.setattr(realizing, "realize", lambda nodes: sizes.append(len(nodes)) or real(nodes))
    x = Tensor([1.0, 2.0], device="NUMPY")
    [got] = unfused([(x + 1).exp() * 2])
    np.testing.assert_allclose(got, 2 * np.exp([2.0, 3.0]), rtol=1e-6)
    assert set(sizes) == {1} and len(sizes) >= 3


# Faults that need no axes, no elements, or that are none of the engine's: (function, operands, part, what is said).
def shapeless(x):
    """Its gradient is right, but where there are no elements it has another shape."""

    def rule(arg, g, y, x):
        return (g * 2 if prod(x.shape) else make("reshape", (g,), (*x.shape, 1)),)

    return Tensor._wrap(composite("shapeless", None, rule, x.node + x.node, x.node))


def assigns(x):
    x.assign(x * 2)
    return x * x


def raises(x):
    if x.shape[:1] == (3,):
        raise ValueError("three rows are too many")
    return x * 2


AWKWARD = {
    "a shape that is wrong without elements": (shapeless, "has shape (0, 1), and the input has (0,)"),
    "an input that is changed": (assigns, "fn assigns to input 0"),
    "an error": (raises, "gradient: raises ValueError: three rows are too many"),
    "no results at all": (lambda x: x * float("nan"), "no differentiable point was found"),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_what_is_no_wrong_number_is_found_and_shown_too(name):
    fn, message = AWKWARD[name]
    with pytest.raises(CheckFailure) as found:
        check(fn, testing.tensors(), **HERE)
    assert message in str(found.value)
    if name == "an error":
        assert isinstance(found.value.__cause__, ValueError) and found.value.arguments[0].shape == (3,)
    with pytest.raises((AssertionError, ValueError)):
        exec(compile(found.value.program, "pasted", "exec"), {"__name__": "pasted"})


def test_programs_of_functions_with_integers_values_and_several_outputs_fail_as_they_should():
    operands = Sample(np.array([0.7, 1.5], "float32")), Sample(np.array([1, 0])), 2
    wrong = {
        "gradient": lambda x, i, n: (x > 0, x.detach()[i] * x[i] * n),
        "precision": lambda x, i, n: (x[i] * n / 3 + 1e6) - 1e6,
    }
    for part, fn in wrong.items():
        with pytest.raises(CheckFailure, match=f"{part}: ") as found:
            check(fn, *operands, parts=(part,), **HERE)
        fails_when_pasted(found.value.program)


def test_a_name_inside_a_function_is_not_taken_from_around_it():
    def fn(x):
        FACTOR = 2
        return x * FACTOR

    lines, _ = function_source(fn)
    assert not any(line.startswith("FACTOR") for line in lines)
