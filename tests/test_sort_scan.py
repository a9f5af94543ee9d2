"""Sorting and scans beyond the table of the surface: long rows, every integer, under jit, what torch leaves open."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import elements, pooled

from clgrad import Device, Tensor, jit
from clgrad.backends import dtypes

LONG = 50_000  # a vocabulary


def ordered(array: np.ndarray, descending: bool) -> np.ndarray:
    """The stable order of the last axis by Python's own sort: NaN above all, the zeros equal."""

    def key(value):
        return (True, 0.0) if value != value else (False, value)

    def row(values):
        return sorted(range(len(values)), key=lambda i: key(values[i]), reverse=descending)  # stable in reverse too

    rows = [row(values.tolist()) for values in array.reshape(-1, array.shape[-1])]
    return np.array(rows, np.int64).reshape(array.shape)


@pytest.mark.parametrize("dtype", [d.name for d in dtypes.ALL])
@given(data=st.data(), descending=st.booleans())
def test_sort_is_stable_in_every_dtype_on_numpy(dtype, data, descending):
    shape = data.draw(st.sampled_from([(1,), (9,), (3, 20), (2, 3, 7)]))
    array = data.draw(pooled(dtypes.as_dtype(dtype), shape, elements(dtypes.as_dtype(dtype))))
    values, indices = Tensor(array, dtype=array.dtype, device="NUMPY").sort(-1, descending)
    want = ordered(array, descending)
    np.testing.assert_array_equal(indices.numpy(), want)
    assert values.numpy().tobytes() == np.take_along_axis(array, want, -1).tobytes()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "int64", "float16", "float32", "float64"])
def test_long_rows_are_sorted_under_jit_and_without(device, dtype):
    rng = np.random.default_rng(0)
    if dtype == "bool":
        array = rng.random((2, 3000)) < 0.5
    elif "int" in dtype:
        info = np.iinfo(dtype)
        array = rng.integers(info.min, info.max, (2, 3000), dtype, endpoint=True)
        array[:, :20] = array[:, 40:60] = np.resize(np.array([info.min, info.max, 0], dtype), 20)
    else:
        array = rng.standard_normal((2, 3000)).astype(dtype)
        array[:, ::7] = np.resize(np.array([np.nan, -np.inf, 0.0, -0.0, np.inf, -np.nan], dtype), array[:, ::7].shape)

    def both(x):
        return *x.sort(), x.sort(-1, True)[1], x.topk(7)[1], x.transpose(0, 1).argsort(0)

    x = Tensor(array, dtype=array.dtype, device=device)
    jitted = jit(both)
    want, backwards = ordered(array, False), ordered(array, True)
    for found in (both(x), jitted(x), jitted(x)):
        Tensor.realize_all(found)
        np.testing.assert_array_equal(found[1].numpy(), want)
        np.testing.assert_array_equal(found[0].numpy(), np.take_along_axis(array, want, -1))
        np.testing.assert_array_equal(found[2].numpy(), backwards)
        np.testing.assert_array_equal(found[3].numpy(), backwards[:, :7])
        np.testing.assert_array_equal(found[4].numpy(), want.T)


def test_a_vocabulary_is_sorted_summed_and_cut_as_sampling_does(device):
    logits = np.random.default_rng(1).standard_normal((2, LONG)).astype(np.float32) * 3
    x = Tensor(logits, device=device)
    values, indices = x.sort(-1, descending=True)
    order = np.argsort(-logits, axis=-1, kind="stable")
    np.testing.assert_array_equal(indices.numpy(), order)
    sums = values.softmax(-1).cumsum(-1).numpy()
    sorted_logits = np.take_along_axis(logits, order, -1).astype(np.float64)
    shares = np.exp(sorted_logits - sorted_logits.max(-1, keepdims=True))
    want = np.cumsum(shares / shares.sum(-1, keepdims=True), -1)
    np.testing.assert_allclose(sums, want, rtol=2e-6)
    top, where = x.topk(40)
    np.testing.assert_array_equal(where.numpy(), order[:, :40])
    np.testing.assert_array_equal(top.numpy(), np.take_along_axis(logits, order[:, :40], -1))


def test_sorting_on_opencl_is_shared_by_many_work_items_in_few_launches(cl):
    x = Tensor(np.random.default_rng(2).permutation(LONG).astype(np.int32), device=cl).realize()
    before = Device[cl].counters.kernels
    order = x.argsort().numpy()
    assert Device[cl].counters.kernels - before <= 2 + math.ceil(math.log2(LONG / 16))
    np.testing.assert_array_equal(x.numpy()[order], np.arange(LONG))
    runs = Device[cl].sorted_runs(LONG)
    assert runs[-1] >= LONG > runs[-2] and all(b == 2 * a for a, b in zip(runs, runs[1:]))


def test_a_scan_keeps_a_few_rows_and_no_matrix(device):
    n = 20_000
    x = Tensor(np.ones(n, np.float32), device=device).realize()
    gc.collect()  # what other tests left is not to be freed meanwhile
    before = Device[device].counters.live_bytes
    Device[device].counters.peak_bytes = before
    np.testing.assert_array_equal(x.cumsum(0).numpy(), np.arange(1, n + 1))
    assert Device[device].counters.peak_bytes - before < 40 * 4 * n


SEQUENCES = {
    "plain": [0.5, -1.5, 2.0, 1.0, -0.25],
    "zeros": [2.0, 0.0, 3.0, 0.0, 5.0],
    "one zero": [2.0, 3.0, 0.0, 4.0, 5.0],
}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("op", ["cumsum", "cumprod", "logcumsumexp", "prod"])
def test_scans_have_torchs_derivatives_to_third_order_on_numpy(op, name):
    ours = Tensor(SEQUENCES[name], dtype="float64", device="NUMPY", requires_grad=True)
    theirs = torch.tensor(SEQUENCES[name], dtype=torch.float64, requires_grad=True)
    # The third derivative of torch's own logcumsumexp is NaN.
    prefixes = {"logcumsumexp": lambda x: torch.stack([x[: i + 1].logsumexp(0) for i in range(5)])}
    y, t = getattr(ours, op)(0), prefixes.get(op, lambda x: getattr(x, op)(0))(theirs)
    for order in range(3):
        weights = np.roll(np.arange(1.0, 6.0), order) if y.ndim else np.array(1.0)
        (y,) = (y * Tensor(weights, dtype="float64", device="NUMPY")).sum().gradient(ours)
        (t,) = torch.autograd.grad((t * torch.tensor(weights)).sum(), theirs, create_graph=True)
        np.testing.assert_allclose(y.numpy(), t.detach().numpy(), rtol=1e-9, atol=1e-9)
        if op == "cumsum":  # linear
            break


def test_nothing_flows_to_minus_infinity_in_logcumsumexp(device):
    """Where torch says NaN: its gradient is exp(-inf - -inf)."""
    x = Tensor([-math.inf, -math.inf, 0.0, -math.inf, 1.0], dtype="float64", device=device, requires_grad=True)
    y = x.logcumsumexp(0)
    sums = [-math.inf, -math.inf, 0.0, 0.0, math.log(1 + math.e)]
    np.testing.assert_allclose(y.numpy(), sums, rtol=1e-14)
    (g,) = y[2:].sum().gradient(x)
    share = math.e / (1 + math.e)
    np.testing.assert_allclose(g.numpy(), [0, 0, 2 + (1 - share), 0, share], rtol=1e-14)
    (h,) = g[4].gradient(x)
    np.testing.assert_allclose(h.numpy(), [0, 0, -share * (1 - share), 0, share * (1 - share)], rtol=1e-12)


def test_the_gradient_of_sorted_values_goes_where_they_came_from(device):
    x = Tensor([3.0, 1.0, 3.0, 2.0], device=device, requires_grad=True)
    weights = Tensor([1.0, 10.0, 100.0, 1000.0], device=device)
    assert (x.sort()[0] * weights).sum().gradient(x)[0].tolist() == [100, 1, 1000, 10]
    assert (x.topk(2)[0] * weights[:2]).sum().gradient(x)[0].tolist() == [1, 0, 10, 0]
    assert (x.cummax(0)[0] * weights).sum().gradient(x)[0].tolist() == [11, 0, 1100, 0]


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda x: x.sort(2), IndexError),
        (lambda x: x.argsort(-3), IndexError),
        (lambda x: x.topk(1, 5), IndexError),
        (lambda x: x.topk(4), RuntimeError),
        (lambda x: x.topk(-1), RuntimeError),
        (lambda x: x.cumsum(2), IndexError),
        (lambda x: x.cummax(-3), IndexError),
        (lambda x: x.sum(2), IndexError),
        (lambda x: x.max((0, 0)), RuntimeError),
        (lambda x: x.mean((0, -2)), RuntimeError),
        (lambda x: x[:0].max(), RuntimeError),
        (lambda x: x[:0].min(0), IndexError),
        (lambda x: x[:, :0].argmax(1), IndexError),
        (lambda x: x[:0].argmin(), RuntimeError),
        (lambda x: x.softmax(7), IndexError),
        (lambda x: x.logsumexp(-3), IndexError),
        (lambda x: Tensor(1.0).sum(1), IndexError),
        (lambda x: Tensor(1.0).argmax(-2), IndexError),
        (lambda x: Tensor([1.0]).normalize(), IndexError),
    ],
)
def test_impossible_calls_raise_torchs_kind_of_error(call, error):
    with pytest.raises(error):
        call(Tensor.ones(2, 3, device="NUMPY"))


def test_without_dimensions_everything_has_one_element(device):
    x = Tensor(2.5, device=device)
    assert [x.sum(0).item(), x.prod(-1).item(), x.max(0).item(), x.cumsum(0).item(), x.cumprod(-1).item()] == [2.5] * 5
    assert [x.argmax().item(), x.argmin(-1).item(), x.argsort().item()] == [0, 0, 0]
    for values, indices in (x.sort(), x.topk(1), x.cummax(0), x.cummin(-1)):
        assert values.item() == 2.5 and indices.item() == 0 and values.shape == indices.shape == ()
    assert x.softmax().item() == 1.0 and x.log_softmax().item() == 0.0 and x.logsumexp().item() == 2.5
    assert math.isnan(x.var().item()) and x.var(correction=0).item() == 0


def test_sums_of_halves_are_formed_in_float32_and_rounded_once(device):
    for dtype, part in (("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        x = Tensor([1.0] + [part] * 100, dtype=dtype, device=device)  # each alone would be lost beside 1
        exact = 1 + 100 * part
        for found in (x.sum(), x.cumsum(0)[-1]):
            assert abs(found.item() / exact - 1) <= part, (dtype, found.item(), exact)
        large = Tensor([300.0] * 400, dtype=dtype, device=device)  # the sum is beyond float16
        assert large.mean().item() == 300
        assert large.var().item() == 0
    product = Tensor([2.0**14, 2.0**14, 2.0**-14], dtype="float16", device=device)
    assert product.prod().item() == 2.0**14 and product.cumprod(0).tolist()[-1] == 2.0**14
