"""What `python -m clgrad.testing` and `check` found, each as the shrunk example that found it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from clgrad import Tensor
from clgrad.testing import NotDifferentiable, Sample, check, fuzz, gradcheck, gradgradcheck
from clgrad.testing.checking import Case, Failed, compare
from clgrad.testing.modes import computed, distance, values_and_gradients
from clgrad.testing.reference import weights


def test_the_step_of_differences_does_not_vanish_with_the_input():
    gradcheck(lambda x: x * 2 + 1, np.array([[1.1754943508222875e-38]]), fast=True)


def test_what_should_be_zero_and_is_not_is_far_away():
    assert distance(np.array([1.0, 1.0], "float32"), np.zeros(2, "float32")) == 1.0


def test_rounding_inside_a_function_is_no_wrong_gradient():
    with pytest.raises(NotDifferentiable, match="rounding inside fn"):
        gradgradcheck(lambda x, w: (x * w.exp()).tanh(), np.array(2.0), np.array(2.0))


def test_a_failure_that_does_not_come_again_is_reported():
    calls = []

    def fails_once(number: int) -> None:
        calls.append(number)
        if len(calls) == 1:
            raise fuzz.Failed("fusion", "differs", None, [])

    failed = fuzz.search(fails_once, st.integers(), 5, seed=0)
    assert failed is not None and failed.message == "differs (but not when it was tried again)"


def test_padding_of_which_nothing_is_seen_is_zero_in_every_row():
    def program(a: Tensor) -> Tensor:
        once = a.sin().sin().flatten()
        return once.meshgrid(once)[1]

    x = Tensor(np.full((2, 1, 1), 0.5), device="NUMPY").pad(((0, 0), (1, 0), (0, 0))).unfold(1, 1, 2)
    run = values_and_gradients(program)
    value, gradient = computed(run(x.reshape((2, 1, 1)).permute((2, 0, 1))))
    np.testing.assert_array_equal(value, np.zeros((2, 2)))
    np.testing.assert_allclose(gradient.ravel(), weights((2, 2)).sum(0), rtol=1e-6)  # cos(0) = 1


def test_values_that_no_longer_move_have_the_slopes_that_their_last_place_allows():
    gradcheck(lambda x: x.tanh(), np.array([17.0, 18.0, 19.5, 40.0]))


def test_check_draws_again_where_rounding_inside_a_function_hides_its_slope():
    check(lambda x, w: (x * w.exp()).tanh(), examples=10, devices=["NUMPY"], parts=("gradient", "second"))


def test_a_result_is_as_exact_as_the_coarsest_floats_that_it_is_made_of():
    def program(a: Tensor) -> Tensor:
        return a.float().log1p().double()

    case = Case(program, (Sample(np.array([0.75, 3.0])),))
    exact = np.log1p(np.array([0.75, 3.0]))
    names = ("one device", "another")
    compare("devices", case, [exact * (1 + 2.0**-22), np.ones(2)], [exact, np.ones(2)], names, [])
    with pytest.raises(Failed):
        compare("devices", case, [exact * (1 + 2.0**-14), np.ones(2)], [exact, np.ones(2)], names, [])
    with pytest.raises(Failed):
        plain = Case(lambda a: a.log1p(), (Sample(np.array([0.75, 3.0])),))
        compare("devices", plain, [exact * (1 + 2.0**-22), np.ones(2)], [exact, np.ones(2)], names, [])
