"""What `python -m clgrad.testing` and `check` found, each as the shrunk example that found it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from clgrad.testing import NotDifferentiable, fuzz, gradcheck, gradgradcheck
from clgrad.testing.modes import distance


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
