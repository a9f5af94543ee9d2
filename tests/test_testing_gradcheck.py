"""gradcheck: right gradients pass, every kind of wrong one is found and named, kinks are neither."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clgrad import Tensor, testing
from clgrad.engine.composite import composite
from clgrad.engine.node import make
from clgrad.testing import GradientError, NotCheckable, NotDifferentiable, Sample, gradcheck, gradgradcheck

RNG = np.random.default_rng(7)
X, Y, SQUARE = (RNG.uniform(-2, 2, shape) for shape in ((2, 3), (2, 3), (3, 3)))


def with_gradient(expansion, rule):
    """A function of Tensors whose value is `expansion` of nodes, and whose gradient is `rule` of (g, *inputs)."""

    def fn(*tensors):
        inputs = [t.node for t in tensors]
        return Tensor._wrap(composite("wrong", None, lambda arg, g, y, *xs: rule(g, *xs), expansion(*inputs), *inputs))

    return fn


def along_rows(b):
    return make("expand", (make("reshape", (b,), (1, 3)),), (2, 3))


def summed(g):
    return make("reshape", (make("reduce_sum", (g,), (0,)),), (3,))


def first_row(g):
    return make("reshape", (make("shrink", (g,), ((0, 1), (0, 3))),), (3,))


def square(a):
    return a * a


WRONG = {
    "constant factor": (square, lambda g, a: (g * a,), (X,)),
    "counted twice": (square, lambda g, a: (g * a * 4.0,), (X,)),
    "sign": (square, lambda g, a: (g * a * -2.0,), (X,)),
    "swapped inputs": (lambda a, b: a * b, lambda g, a, b: (g * a, g * b), (X, Y)),
    "transposed axis": (square, lambda g, a: (make("permute", (g * a * 2.0,), (1, 0)),), (SQUARE,)),
    "reversed axis": (square, lambda g, a: (make("flip", (g * a * 2.0,), (1,)),), (X,)),
    "wrong places": (
        lambda a: make("permute", (a * a,), (1, 0)),
        lambda g, a: (make("reshape", (g,), (2, 3)) * make("reshape", (make("permute", (a,), (1, 0)),), (2, 3)) * 2.0,),
        (X,),
    ),
    "zero": (square, lambda g, a: (g * 0.0,), (X,)),
    "missing factor": (square, lambda g, a: (g * 2.0,), (X,)),
    "missing broadcast sum": (
        lambda a, b: a * along_rows(b),
        lambda g, a, b: (g * along_rows(b), first_row(g * a)),
        (X, Y[0]),
    ),
    "missing broadcast sum: mean": (
        lambda a, b: a * along_rows(b),
        lambda g, a, b: (g * along_rows(b), summed(g * a) * 0.5),
        (X, Y[0]),
    ),
    "branch": (square, lambda g, a: (g * make("where", (make("lt", (a, a * 0.0)), a, a * 2.0)),), (X,)),
}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gradient_is_found_and_its_cause_is_named(name, fast):
    expansion, rule, inputs = WRONG[name]
    with pytest.raises(GradientError) as found:
        gradcheck(with_gradient(expansion, rule), *inputs, fast=fast)
    named = {"counted twice": "twice", "wrong places": "wrong places", "missing broadcast sum: mean": "the mean"}
    assert named.get(name, name) in found.value.cause
    error, at = found.value, found.value.element
    assert inputs[error.input].shape == error.analytic.shape == error.numeric.shape
    told = re.search(r"at \[(.*)\]: backward gives (.*), central differences give (.*)\n", str(error))
    assert told is not None and told[1] == ", ".join(map(str, at))
    np.testing.assert_allclose([float(told[2]), float(told[3])], [error.analytic[at], error.numeric[at]], rtol=1e-6)
    assert abs(error.analytic[at] - error.numeric[at]) > 1e-3


def test_both_values_in_a_report_are_those_of_calculus():
    with pytest.raises(GradientError) as found:
        gradcheck(with_gradient(square, lambda g, a: (g * 3.0,)), np.array([1.0, 2.0, 5.0]))
    assert found.value.element == (2,)
    np.testing.assert_allclose(found.value.analytic, [3.0, 3.0, 3.0])
    np.testing.assert_allclose(found.value.numeric, [2.0, 4.0, 10.0], rtol=1e-9)


RIGHT = {
    "smooth": (lambda x, y: (x * y).tanh().exp(), (X, Y)),
    "steep": (lambda x: (x * 1000).sin(), (X,)),
    "small and large inputs": (lambda x: x.log(), (np.array([1.0, 1e-3, 1e-9, 1e6]),)),
    "beside a kink": (lambda x: x.relu(), (np.array([1.0, 1e-6, -1e-7]),)),
    "steps, between them": (lambda x: x.floor() * x, (np.array([1.5, -1e-3]),)),
    "cancelled": (lambda x: x.softmax().sum(), (X,)),
    "constant": (lambda x: Tensor([1.0, 2.0], device=x.device), (X,)),
    "0-d": (lambda x: x * x * x, (np.array(2.0),)),
    "empty": (lambda x: x.exp(), (np.zeros((0, 3)),)),
    "several outputs": (lambda x, i: (x.exp(), x.argmax(1), x[i].sum()), (X, np.array([1, 0]))),
    "losing digits": (lambda x: (x + 1e6) - 1e6, (X,)),
    "a layout": (lambda x: x.sum(0) * x, (Sample(X, (("permute", (1, 0)), ("flip", (0,)))),)),
    "other arguments": (lambda x, n: x**n, (X, 3)),
}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_gradient_passes(name, fast):
    fn, inputs = RIGHT[name]
    gradcheck(fn, *inputs, fast=fast)


KINKS = {
    "relu": (lambda x: x.relu(), np.array([1.0, 0.0]), (1,), "kink"),
    "abs, where both sides cancel": (lambda x: x.abs(), np.array([0.0]), (0,), "kink"),
    "a tie": (lambda x: x.max(), np.array([1.0, 1.0, -1.0]), (0,), "kink"),
    "a jump": (lambda x: x.floor(), np.array([0.5, 1.0]), (1,), "jump"),
    "an edge": (lambda x: x.sqrt(), np.array([1.0, 0.0]), (1,), "not finite"),
}


@pytest.mark.parametrize("name", KINKS)
def test_a_kink_is_reported_as_one_with_its_place(name):
    fn, x, at, word = KINKS[name]
    with pytest.raises(NotDifferentiable, match=word) as found:
        gradcheck(fn, x)
    assert at in found.value.elements
    with pytest.raises(NotDifferentiable):
        gradcheck(fn, x, fast=True)


def test_the_sides_of_a_kink_are_in_the_message():
    with pytest.raises(NotDifferentiable, match=r"from the left is -1\.0, from the right 1\.0"):
        gradcheck(lambda x: x.abs(), np.array([0.0]))


def test_what_is_not_finite_has_no_derivative():
    with pytest.raises(NotDifferentiable, match="output 0 is nan"):
        gradcheck(lambda x: x.log(), np.array([1.0, -1.0]))


@pytest.mark.parametrize("fn", [lambda x: x.float().exp(), lambda x: x.half()])
def test_what_is_not_computed_in_float64_says_so(fn):
    with pytest.raises(NotCheckable, match="float32"):
        gradcheck(fn, X)


def test_what_is_random_says_so():
    with pytest.raises(NotCheckable, match="dropout"):
        gradcheck(lambda x: x.dropout(0.5), RNG.uniform(1, 2, 40))


def test_the_tolerance_cannot_be_made_loose():
    with pytest.raises(ValueError, match="1e-4"):
        gradcheck(lambda x: x, X, tolerance=1e-2)


def test_an_error_just_above_the_tolerance_is_found():
    wrong = with_gradient(square, lambda g, a: (g * a * (2 + 1e-5),))
    with pytest.raises(GradientError):
        gradcheck(wrong, X)
    gradcheck(wrong, X, tolerance=1e-4)


def test_an_input_on_a_device_stays_there(device):
    from clgrad import Device

    if not Device[device].supports(np.dtype("float64")):
        pytest.skip(f"{device} has no float64")
    seen = []

    def fn(x):
        seen.append(x.device)
        return x.exp()

    gradcheck(fn, Tensor(X, device=device))
    assert set(seen) == {Tensor([0.0], device=device).device}


@settings(max_examples=20)
@given(testing.operands(2, broadcast=True, max_elements=30))
def test_second_derivatives_of_a_function_of_two(inputs):
    gradgradcheck(lambda x, y: (x * y).sin() + x * x * y, *inputs, fast=True)


def test_a_gradient_that_is_right_with_a_wrong_gradient_of_its_own_is_found():
    fn = with_gradient(square, lambda g, a: (g * make("detach", (a,)) * 2.0,))
    gradcheck(fn, X)
    with pytest.raises(GradientError, match="second derivative"):
        gradgradcheck(fn, X)


@given(st.floats(-3, 3), st.floats(0.01, 2))
def test_a_measured_slope_is_that_of_calculus(x, k):
    from clgrad.testing.differences import slope

    want = k * np.cos(k * x) + 3 * x * x
    found = slope(lambda t: np.array([np.sin(k * (x + t)) + (x + t) ** 3]), want, 1e-6)
    assert found.kind == "agrees" and abs(found.value - want) < 1e-6 * max(1.0, abs(want))
    off = slope(lambda t: np.array([np.sin(k * (x + t)) + (x + t) ** 3]), want + 1e-4 + abs(want) * 1e-4, 1e-6)
    assert off.kind == "smooth" and abs(off.value - want) <= off.error


def test_the_gradient_of_a_square_of_something_tiny_is_right():
    for fast in (False, True):
        gradcheck(lambda x: x * x, np.array([[1e-150, -3e-150], [2e-9, 1.0]]), fast=fast)


def test_without_floats_there_is_nothing_to_check_and_that_is_said():
    for check in (gradcheck, gradgradcheck):
        with pytest.raises(ValueError, match="none of the inputs is an array or a Tensor of floats"):
            check(lambda x: x * x, np.array([1, 2]))
