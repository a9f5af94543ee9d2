"""What the table of the surface does not say of elementwise methods: operators as Python calls them, errors, edges."""

from __future__ import annotations

import numpy as np
import pytest

from clgrad import Tensor


def test_an_assignment_with_an_operator_rebinds_the_name(device):
    x = y = Tensor([5, 6, 7], device=device)
    x += 1
    assert x.tolist() == [6, 7, 8] and y.tolist() == [5, 6, 7]
    x **= 2
    x //= 5
    x %= 4
    x <<= 3
    x |= 1
    assert x.tolist() == [25, 9, 1]
    x /= 2
    assert x.dtype == np.float32 and x.tolist() == [12.5, 4.5, 0.5]


def test_arrays_and_scalars_of_numpy_on_the_left_leave_the_operation_to_the_tensor(device):
    x, array = Tensor([1.0, 2.0], device=device), np.array([3.0, 5.0], np.float32)
    found = [array + x, array - x, array * x, array / x, array // x, array % x, array**x, array < x, array == x,
             np.float32(3) - x, array.reshape(1, 2) @ x]  # fmt: skip
    assert all(isinstance(y, Tensor) and y.device == x.device for y in found)
    own = x.numpy()
    wanted = [array + own, array - own, array * own, array / own, array // own, array % own, array**own, array < own,
              array == own, 3 - own, array.reshape(1, 2) @ own]  # fmt: skip
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


def test_what_is_no_operand_is_left_to_python():
    class Other:
        def __radd__(self, x):
            return "its own sum"

        def __eq__(self, x):
            return "its own equality"

    x = Tensor([1.0, 2.0], device="NUMPY")
    assert (x == None, x != None, x == "x") == (False, True, False)  # noqa: E711
    assert x in [None, x] and None not in [x]
    assert x + Other() == "its own sum" and (x == Other()) == "its own equality"


def test_integers_are_divided_as_floats_whatever_dtype_they_meet_in():
    narrow = Tensor([100, 200], dtype="uint8", device="NUMPY")
    for whole in (-1, -(2**40)):
        x = Tensor(whole, device="NUMPY")  # without dimensions it would become uint8
        np.testing.assert_allclose((x / narrow).numpy(), [whole / 100, whole / 200], rtol=1e-6)
        np.testing.assert_allclose((narrow / x).numpy(), [100 / whole, 200 / whole], rtol=1e-6)
        assert narrow.copysign(x).tolist() == [-100, -200]


def test_a_bound_that_is_nan_gives_nan_as_in_torch(device):
    x, nan = Tensor([1.0, 5.0, 3.0], device=device), float("nan")
    assert np.isnan(x.clip(nan, 2).numpy()).all() and np.isnan(x.clip(max_=nan).numpy()).all()
    y = x.clip(Tensor([0.0, nan, 4.0], device=device), Tensor([nan, 9.0, 5.0], device=device)).numpy()
    np.testing.assert_array_equal(y, [nan, nan, 4])


@pytest.mark.parametrize("power", [-1, -2, -3, -4])
def test_a_negative_power_of_zero_has_an_infinite_derivative(power):
    x = Tensor([0.0, 2.0], dtype="float64", device="NUMPY", requires_grad=True)
    y = x**power
    (g,) = y.sum().gradient(x)
    np.testing.assert_allclose(y.numpy(), [np.inf, 2.0**power])
    np.testing.assert_allclose(g.numpy(), [-np.inf, power * 2.0 ** (power - 1)])


def test_integers_by_zero_are_zero_and_wrap(device):
    x = Tensor([5, -5, -(2**31)], dtype="int32", device=device)
    for y in (
        x // 0,
        x % 0,
        x.fmod(0),
        x.div(0, rounding_mode="trunc"),
        Tensor([0], dtype="int32", device=device) ** -x,
    ):
        assert set(y.tolist()) <= {0, 1}
    assert (x // -1).tolist() == x.div(-1, rounding_mode="trunc").tolist() == [-5, 5, -(2**31)]
    assert (x % -1).tolist() == x.fmod(-1).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x.int() ** -1, RuntimeError, "pow: int32 to the power of -1 is not an integer"),
        (lambda x: x.div(2, rounding_mode="up"), RuntimeError, "rounding_mode"),
        (lambda x: x.clip(), RuntimeError, "min_, max_ or both"),
        (lambda x: x.gelu("sigmoid"), RuntimeError, '"tanh" or "none"'),
        (lambda x: x.bool().relu(), RuntimeError, "relu: needs numbers"),
        (lambda x: x.isclose(x, rtol=-1), RuntimeError, "tolerances"),
        (lambda x: x.hardsigmoid(alpha=0), ValueError, "alpha"),
        (lambda x: x & 1, TypeError, "integers or bool"),
        (lambda x: x << 1, TypeError, "integers"),
        (lambda x: x.bool() - x.bool(), TypeError, "not bool"),
        (lambda x: x.add("1"), TypeError, "cannot combine"),
        (lambda x: x + "1", TypeError, "'Tensor' and 'str'"),
        (lambda x: x @ None, TypeError, "'Tensor' and 'NoneType'"),
        (lambda x: x < None, TypeError, "'Tensor' and 'NoneType'"),
        (lambda x: None in x, TypeError, "cannot combine"),
        (lambda x: pow(x, 2, 5), TypeError, "arguments"),
        (lambda x: x.long() + 2**64, OverflowError, "64 bits"),
        (lambda x: x + x.reshape(3, 1).expand(3, 2), RuntimeError, r"\(3,\) and \(3, 2\) do not broadcast"),
        (lambda x: x @ 2, TypeError, "a scalar"),
        (lambda x: x.expand(4, 5, 3) @ x.expand(2, 3, 3), RuntimeError, r"\(4, 5, 3\) @ \(2, 3, 3\), .*not broadcast"),
    ],
)
def test_impossible_calls_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call(Tensor([1.0, 2.0, 3.0], device="NUMPY"))


INF = float("inf")
# value and derivative at a point, from the limits of the functions
EDGES = {
    "sigmoid": [(-INF, 0, 0), (-90.0, 0, 0), (INF, 1, 0)],
    "silu": [(-100.0, 0, 0), (0.0, 0, 0.5), (INF, INF, 1)],
    "softplus": [(-INF, 0, 0), (INF, INF, 1), (1e30, 1e30, 1)],
    "gelu": [(-1e30, 0, 0), (0.0, 0, 0.5), (1e30, 1e30, 1), (INF, INF, 1)],
    "mish": [(-100.0, 0, 0), (1e30, 1e30, 1)],
    "elu": [(-INF, -1, 0), (INF, INF, 1)],
    "atan": [(-INF, -np.pi / 2, 0), (1e30, np.pi / 2, 0)],
    "tanh": [(-INF, -1, 0), (50.0, 1, 0)],
    "asinh": [(0.0, 0, 1), (1e30, np.log(2e30), 1e-30)],
    "acosh": [(1.0, 0, INF), (1e30, np.log(2e30), 1e-30)],
    "asin": [(1.0, np.pi / 2, INF), (-1.0, -np.pi / 2, INF)],
    "atanh": [(0.0, 0, 1), (1.0, INF, INF)],
    "sqrt": [(0.0, 0, INF), (INF, INF, 0)],
    "rsqrt": [(0.0, INF, -INF), (INF, 0, 0)],
    "log": [(0.0, -INF, INF), (INF, INF, 0)],
    "log1p": [(-1.0, -INF, INF), (0.0, 0, 1)],
    "expm1": [(-INF, -1, 0), (0.0, 0, 1)],
    "abs": [(0.0, 0, 0), (-INF, INF, -1)],
    "relu": [(0.0, 0, 0), (INF, INF, 1), (-INF, 0, 0)],
    "hardtanh": [(1.0, 1, 0), (-INF, -1, 0)],
}


def test_values_and_derivatives_are_right_at_the_edges(device):
    found = {}
    for name, rows in EDGES.items():
        x = Tensor(np.array([point for point, _, _ in rows], np.float32), device=device, requires_grad=True)
        y = getattr(x, name)()
        found[name] = (y, *y.gradient(x, gradient=Tensor.ones(*x.shape, device=device)))
    Tensor.realize_all([t for pair in found.values() for t in pair])  # all kernels are built as one program
    for name, rows in EDGES.items():
        _, values, slopes = (np.array(column, np.float32) for column in zip(*rows))
        np.testing.assert_allclose(found[name][0].numpy(), values, rtol=2e-6, atol=1e-30, err_msg=name)
        np.testing.assert_allclose(found[name][1].numpy(), slopes, rtol=1e-4, atol=1e-35, err_msg=name)


@pytest.mark.parametrize("name", ["silu", "gelu", "asinh", "sigmoid", "softplus"])
def test_half_precision_is_computed_in_single(device, name):
    x = np.array([-12.0, -5.0, 0.1, 300.0, 60000.0], np.float16)
    half = getattr(Tensor(x, device=device), name)()
    single = getattr(Tensor(x.astype(np.float32), device=device), name)()
    assert half.dtype == np.float16
    np.testing.assert_array_almost_equal_nulp(half.numpy(), single.numpy().astype(np.float16), nulp=1)
