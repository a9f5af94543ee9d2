"""Chains: short kernels that follow one another are one launch on a CPU, and do what they do by themselves."""

import numpy as np
import pytest

from clgrad import Device, Tensor, jit


def launches(function, *arguments):
    """How many launches a replay makes."""
    function(*arguments)
    counters = Device[arguments[0].device].counters
    before = counters.kernels
    function(*arguments)
    return counters.kernels - before


@jit
def small(x, w):
    y = (x @ w).relu()
    y = (y - y.mean(-1, keepdim=True)) @ w
    return (y @ w).softmax()


def test_short_kernels_are_one_launch_and_give_the_same(cl):
    if Device[cl].describe().kind != "cpu":
        pytest.skip("chains are for CPUs")
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 40)).astype(np.float32), rng.standard_normal((40, 40)).astype(np.float32)
    arguments = Tensor(x, device=cl), Tensor(w, device=cl)
    got = small(*arguments).numpy()
    assert len(small.last.schedule.steps) > 3 and launches(small, *arguments) == 1
    y = np.maximum(x.astype(np.float64) @ w, 0)
    y = (y - y.mean(-1, keepdims=True)) @ w @ w
    e = np.exp(y - y.max(-1, keepdims=True))
    np.testing.assert_allclose(got, e / e.sum(-1, keepdims=True), rtol=1e-3, atol=1e-5)


def test_large_kernels_keep_a_launch_of_their_own(cl):
    x, w = Tensor.ones(512, 256, device=cl).realize(), Tensor.ones(256, 256, device=cl).realize()
    small(x, w)
    assert launches(small, x, w) == len(small.last.schedule.steps)


def test_an_index_out_of_range_in_a_chain_is_reported_and_touches_nothing(cl):
    table = Tensor(np.arange(12, dtype=np.float32).reshape(4, 3), device=cl)

    @jit
    def look_up(index):
        rows = table.take(index)
        return (rows @ rows.T).sum(0) @ rows

    def numbers(*values):
        return Tensor(np.array(values, np.int32), device=cl)

    want = table.numpy()[[0, 3]]
    np.testing.assert_allclose(look_up(numbers(0, 3)).numpy(), (want @ want.T).sum(0) @ want)
    with pytest.raises(IndexError, match="gather: an index lies outside 0 <= index < 4"):
        look_up(numbers(0, 4)).numpy()
    np.testing.assert_allclose(look_up(numbers(0, 3)).numpy(), (want @ want.T).sum(0) @ want)
