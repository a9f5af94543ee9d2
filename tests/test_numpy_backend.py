"""The NumPy backend's blocks: with blocks of a few elements, small Tensors cross every boundary that large ones do."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from clgrad import Device, DeviceError, Tensor
from clgrad.backends.numpy import backend as numpy_backend
from clgrad.backends.numpy import blas, render
from clgrad.engine.explain import plan_of
from clgrad.engine.realize import lower


@pytest.fixture(autouse=True)
def tiny_blocks(monkeypatch, new_kernels):
    monkeypatch.setattr(render, "BLOCK", 6)
    monkeypatch.setattr(render, "PLAIN", 1)
    monkeypatch.setattr(render, "SPREAD", 2)  # so that broadcast operands are laid out in full, too


SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(1, 4))


def arrays(shape, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(2)] + [
        rng.standard_normal((shape[0], 1, 1)).astype(np.float32),
        rng.standard_normal(shape[1:]).astype(np.float32),
    ]


def check(*pairs):
    Tensor.realize_all([t for t, _ in pairs])
    for got, expected in pairs:
        np.testing.assert_allclose(got.numpy(), expected, rtol=2e-4, atol=2e-5)


@given(SHAPES, st.integers(0, 99))
def test_elementwise_work_with_broadcasting_padding_and_flipping(shape, seed):
    a, b, column, plane = arrays(shape, seed)
    x, y, c, p = map(Tensor, (a, b, column, plane))
    padded = np.pad(np.exp(a), ((1, 2), (0, 1), (2, 0)))
    check(
        ((x * c + p).tanh() - y, np.tanh(a * column + plane) - b),
        (x.exp().pad(((1, 2), (0, 1), (2, 0))) + 1, padded + 1),
        (x.flip(0, 2) * y, a[::-1, :, ::-1] * b),
        (x.permute(2, 0, 1).exp(), np.exp(a.transpose(2, 0, 1))),
    )


@given(SHAPES, st.integers(0, 99))
def test_several_reductions_over_the_blocked_axis_at_once(shape, seed):
    a, b, column, plane = arrays(shape, seed)
    x, y, c, p = map(Tensor, (a, b, column, plane))
    check(
        ((x * y * c).sum(0), (a * b * column).sum(0)),
        (x.sum(0), a.sum(0)),
        ((x + p).max(0), (a + plane).max(0)),
        (x.sum((0, 1)) * 2 + 1, a.sum((0, 1)) * 2 + 1),
        (x.prod(0), a.prod(0)),
    )


@given(SHAPES, st.integers(0, 99))
def test_rows_with_reductions_that_depend_on_one_another(shape, seed):
    a, _, _, plane = arrays(shape, seed)
    x = Tensor(a)
    e = np.exp(a - a.max(-1, keepdims=True))
    e0 = np.exp(a - a.max(0, keepdims=True))
    centred = a - a.mean((1, 2), keepdims=True)
    check(
        (x.softmax(-1), e / e.sum(-1, keepdims=True)),
        (x.softmax(0), e0 / e0.sum(0, keepdims=True)),
        (x.layernorm((1, 2)), centred / np.sqrt((centred**2).mean((1, 2), keepdims=True) + 1e-5)),
    )


@given(SHAPES, st.integers(0, 99))
def test_dots_with_work_on_their_results(shape, seed):
    a, b, column, _ = arrays(shape, seed)
    x, y, c = map(Tensor, (a, b, column))
    product = a @ b.transpose(0, 2, 1)
    check(((x @ y.transpose(1, 2)) * c + 1, product * column + 1), (x @ y.transpose(1, 2), product))


@given(SHAPES, st.integers(0, 99))
def test_gathers_and_random_bits_do_not_depend_on_the_blocks(shape, seed):
    a, _, _, _ = arrays(shape, seed)
    index = np.random.default_rng(seed).integers(0, shape[0], (5, 2)).astype(np.int32)
    check((Tensor(a).take(Tensor(index)) + 1, a[index] + 1))
    Tensor.manual_seed(seed)
    whole = Tensor.rand(*shape).numpy()
    Tensor.manual_seed(seed)
    np.testing.assert_array_equal((Tensor.rand(*shape).flip(0) * 1).numpy(), whole[::-1])


def sources(t):
    return "".join(executable.source for executable in lower(plan_of(t.node).steps, specialise=False))


@given(SHAPES, st.integers(0, 2), st.integers(0, 99))
def test_concatenations_are_written_where_they_belong(shape, axis, seed):
    a, b, _, _ = arrays(shape, seed)
    joined = Tensor.cat(Tensor(a), Tensor(b), Tensor(-a), dim=axis)
    if axis and shape[0] > 1:  # blocks are cut along the first axis
        assert "load_masked" not in sources(joined)
    check((joined, np.concatenate([a, b, -a], axis)), (joined.sum(0) + 1, np.concatenate([a, b, -a], axis).sum(0) + 1))


def test_pads_that_overlap_are_added_and_gaps_are_zero():
    a = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    left, right = np.pad(a, ((0, 0), (0, 2))), np.pad(a, ((0, 0), (2, 0)))
    check((Tensor(a).pad(((0, 0), (0, 2))) + Tensor(a).pad(((0, 0), (2, 0))), left + right))
    apart = Tensor(a).pad(((0, 0), (0, 5))) + Tensor(-a).pad(((0, 0), (5, 0)))
    assert "load_masked" not in sources(apart)
    check((apart, np.pad(a, ((0, 0), (0, 5))) + np.pad(-a, ((0, 0), (5, 0)))))


def test_a_zero_that_is_padded_and_added_loses_its_sign():
    a = np.full((3, 2), -0.0, np.float32)
    total = Tensor(a).pad(((0, 0), (0, 2))) + Tensor(a).pad(((0, 0), (2, 0)))
    assert "load_masked" not in sources(total)
    assert not np.signbit(total.numpy()).any()


@given(SHAPES, st.integers(0, 99))
def test_products_are_summed_along_rows_without_being_stored(shape, seed):
    a, b, column, _ = arrays(shape, seed)
    x, y, c = map(Tensor, (a, b, column))
    square = x * x
    check(
        ((x * y).sum(-1), (a * b).sum(-1)),
        ((x * c).sum(-1), (a * column).sum(-1)),  # a column is not as long as the rows
        (square.sum(-1), (a * a).sum(-1)),
        (square + 1, a * a + 1),  # read again: stored after all
    )
    if shape[-1] > 1 and shape[0] * shape[1] > 1:
        assert "sum_product" in sources((Tensor(a) * Tensor(b)).sum(-1))


def test_a_sum_over_the_first_axis_in_several_blocks_keeps_two_others():
    x = np.random.default_rng(0).normal(size=(8, 12, 8)).astype(np.float32)
    row = x[:, :1]  # repeated along the second axis, so that it does not become one with the third
    mine = Tensor(x, device="NUMPY")
    total = ((mine - Tensor(row, device="NUMPY")).exp() * mine).sum(0)
    np.testing.assert_allclose(total.numpy(), (np.exp(x - row) * x).sum(0), rtol=1e-4, atol=1e-4)


def test_nan_and_infinity_reach_their_own_sums_only():
    a = np.ones((4, 3), np.float32)
    a[0, 1], a[2, 2] = np.nan, np.inf
    check((Tensor(a).sum(1), a.sum(1)), (Tensor(a).sum(0), a.sum(0)), ((Tensor(a) * Tensor(a)).sum(1), (a * a).sum(1)))


def test_numpy_keeps_quiet_in_kernels_and_is_as_loud_as_before_afterwards():
    with np.errstate(all="raise"):
        assert (Tensor([[3e38, 1.0]] * 4) * 10).sum(0).tolist() == [np.inf, 40.0]
        with pytest.raises(FloatingPointError):
            np.float32(3e38) * np.float32(10)


def test_blas_has_one_thread_for_small_products_and_afterwards_what_it_had(monkeypatch):
    threads, seen = [4], []
    monkeypatch.setattr(blas, "_FUNCTIONS", (lambda: threads[0], lambda n: threads.__setitem__(0, n)))
    counters = Device["NUMPY"].counters

    def launch(one_thread, result=0):
        return numpy_backend.Launch([(lambda: seen.append(threads[0]) or 1 / result, [])], one_thread, counters)

    Device["NUMPY"].launch_all(
        [launch(None, 1), launch(True, 1), launch(None, 1), lambda: seen.append(threads[0]), launch(False, 1)]
    )
    assert seen == [4, 1, 1, 4, 4] and threads == [4]
    with pytest.raises(ZeroDivisionError):
        launch(True)()
    assert seen[5:] == [1] and threads == [4]
    monkeypatch.setattr(blas, "_FUNCTIONS", None)
    launch(True, 1)()
    assert seen[6:] == [4]


def test_memory_that_is_not_there_is_an_error_and_not_the_end():
    with pytest.raises(DeviceError, match="no memory for .* bytes.*smaller"):
        Device["NUMPY"].allocate(2**60)
    assert (Tensor([1.0]) + 1).item() == 2.0


def test_a_full_table_of_executables_is_emptied_and_loses_none_of_those_asked_for(monkeypatch):
    monkeypatch.setattr(numpy_backend, "MOST_KEPT", 1)
    x = Tensor(np.arange(6.0, dtype=np.float32).reshape(2, 3), device="NUMPY")
    assert (x @ x.T).sum(0).exp().log().tolist() == pytest.approx([19.0, 64.0])
