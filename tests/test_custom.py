"""Operations of the user's: they are what their parts say, wherever they stand, and say what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from surface.arithmetic import swiglu

from clgrad import Device, DeviceError, Tensor, jit, operation
from clgrad.engine import profile
from clgrad.engine.ops import ShapeError
from clgrad.testing import check

RNG = np.random.default_rng(7)


def tensor(device, shape, **options):
    return Tensor(RNG.normal(size=shape).astype(np.float32), device=device, **options)


def kernels(*results: Tensor) -> list[str]:
    """The names of the kernels that compute these."""
    with profile.recording() as log:
        Tensor.realize_all(results)
    return [launch.kernel.name for launch in log.finished()]


def close(ours, theirs):
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=2e-5, atol=2e-5)


def test_it_is_held_to_everything_that_a_built_in_function_is():
    check(swiglu, reference=lambda gate, up: gate / (1 + np.exp(-gate)) * up, examples=40)


@pytest.mark.parametrize(
    ("inner", "outer", "kind"),
    [
        (lambda x: x * 2 + 1, lambda y, x: y - x.exp(), "loop"),
        (lambda x: x.flip((0, 1)).pad(((2, 0), (0, 0))).shrink(((0, 16), (0, 8))), lambda y, x: (y + 1).tanh(), "loop"),
        (lambda x: x + 1, lambda y, x: y.softmax(-1), "row"),
        (lambda x: x.softmax(-1), lambda y, x: y.sum(-1), "row"),
    ],
)
def test_it_is_one_kernel_with_what_is_around_it(device, inner, outer, kind):
    x, up = tensor(device, (16, 8)), tensor(device, (1, 8))
    result = outer(swiglu(inner(x), up), x)
    (name,) = kernels(result)
    assert name.startswith(f"{kind}_swiglu") or "_swiglu_" in name
    close(result, outer(inner(x).silu() * up, x))


def test_after_a_product_it_is_done_where_the_product_is_stored(device):
    x, a, b = tensor(device, (32, 24)), tensor(device, (24, 64)), tensor(device, (24, 64))
    result = swiglu(x @ a, x @ b)
    assert [name.split("_")[0] for name in kernels(result)] == ["dot", "dot"]
    close(result, (x @ a).silu() * (x @ b))


def test_it_replays(device):
    step = jit(lambda x, up: swiglu(x, up).sum())
    for _ in range(3):
        x, up = tensor(device, (6, 5)), tensor(device, (5,))
        close(step(x, up), (x.silu() * up).sum())


def test_training_through_it_is_training_through_its_parts(device):
    def losses(function):
        w = Tensor(np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4), device=device, requires_grad=True)
        x = Tensor(np.linspace(-2, 2, 18, dtype=np.float32).reshape(3, 6), device=device)

        def step(x):
            loss = (function(x @ w, x.sum(-1, keepdim=True)) - 1).square().mean()
            [g] = loss.gradient(w)
            w.assign(w - 0.1 * g)
            return loss

        replayed = jit(step)
        return [replayed(x).item() for _ in range(5)]

    np.testing.assert_allclose(losses(swiglu), losses(lambda gate, up: gate.silu() * up), rtol=1e-4)


def test_statements_integers_and_other_dtypes_of_results(device):
    gcd = operation(
        "gcd",
        numpy=np.gcd,
        operands=("a", "b"),
        opencl="while (b != 0) { T rest = a % b; a = b; b = rest; }\nreturn a < 0 ? -a : a;",
        dtype=lambda dtype: dtype,
    )
    found = gcd(Tensor([12, -18, 7, 0], device=device), 6)
    assert found.dtype == np.int64 and found.tolist() == [6, 6, 1, 6]
    near = operation("near", numpy=lambda x, y: abs(x - y) < 1, opencl="fabs(x - y) < 1", dtype="bool")
    found = near(Tensor([0.5, 1.5, 3.0], device=device), Tensor(1.0, device=device))
    assert found.dtype == np.bool_ and found.tolist() == [True, True, False]
    half = swiglu(Tensor([1, 2], device=device), 2)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half.numpy(), [2 / (1 + np.exp(-1)), 4 / (1 + np.exp(-2))], rtol=1e-6)


def test_half_precision_is_rounded_once(device):
    third = operation("third", numpy=lambda x: x * x / 3, opencl="x * x / 3")
    x = np.array([1, 1000, 0.01, 65504], np.float16)
    with np.errstate(over="ignore"):
        want = (x.astype(np.float32) ** 2 / 3).astype(np.float16)
    np.testing.assert_array_equal(third(Tensor(x, device=device)).numpy(), want)


def test_one_text_is_built_once_and_one_name_may_mean_two(cl):
    x = tensor(cl, (7,))

    def power(text, function):
        return operation("power", numpy=function, opencl=text)(x)

    power("x * x", lambda x: x * x).realize()
    before = Device[cl].counters.builds
    power("x * x", lambda x: x * x).realize()
    assert Device[cl].counters.builds == before
    squares, cubes = power("x * x", lambda x: x * x), power("x * x * x", lambda x: x**3)
    Tensor.realize_all([squares, cubes])
    close(squares, x.square())
    close(cubes, x**3)


def test_a_text_that_does_not_compile_names_its_operation(cl):
    bad = operation("misspelt", numpy=lambda x: x, opencl="return ecks + 1;")
    with pytest.raises(DeviceError, match="operation 'misspelt'(?s:.)*ecks"):
        bad(tensor(cl, (3,))).realize()
    close(swiglu(tensor(cl, (3,)), 0), tensor(cl, (3,)) * 0)  # and the device is well


def test_names_are_any_text_and_functions_must_be_functions(cl):
    doubled = operation("2x, or x+x", numpy=lambda x: x * 2, opencl="x * 2")
    assert doubled(Tensor([1.0, 2.0], device=cl)).tolist() == [2.0, 4.0]
    with pytest.raises(TypeError, match="numpy= must be a function"):
        operation("none", numpy="x * 2", operands=("x",))


def test_a_function_cannot_write_into_its_operands():
    doubled = operation("doubled", numpy=lambda x: np.multiply(x, 2, out=x))
    x = Tensor(np.ones(2, np.float32), device="NUMPY")
    with pytest.raises(ValueError, match="read-only"):
        doubled(x).realize()
    assert x.tolist() == [1.0, 1.0]


def test_without_text_it_runs_on_numpy_only(cl):
    plain = operation("plain", numpy=lambda x: x + 1)
    assert plain(Tensor([1.0], device="NUMPY")).tolist() == [2.0]
    with pytest.raises(NotImplementedError, match="plain: has no OpenCL text.*opencl="):
        plain(Tensor([1.0], device=cl))
    assert plain(Tensor([1.0], device=cl).to("NUMPY")).to(cl).tolist() == [2.0]


@pytest.mark.parametrize(
    ("gradient", "error", "message"),
    [
        (None, RuntimeError, "has no gradient"),
        (lambda g, y, x, w: g * w, ValueError, "1 results for 2 operands"),
        (
            lambda g, y, x, w: (g * w, (g * x).sum(0)),
            ShapeError,
            r"the gradient of w has shape \(3,\), and w has \(2, 3\)",
        ),
        (lambda g, y, x, w: (g * w, 0), TypeError, "the gradient of w must be a Tensor or None, not int"),
    ],
)
def test_a_gradient_that_cannot_be_one_says_so(gradient, error, message):
    product = operation("product", numpy=lambda x, w: x * w, gradient=gradient)
    x = Tensor(np.ones((2, 3), np.float32), device="NUMPY", requires_grad=True)
    y = product(x, Tensor(np.ones(3, np.float32), device="NUMPY", requires_grad=True)).sum()
    with pytest.raises(error, match=f"product: .*{message}"):
        y.backward()


def test_a_function_that_is_not_elementwise_and_impossible_calls_say_so():
    x = Tensor(np.ones((2, 3), np.float32), device="NUMPY")
    with pytest.raises(ValueError, match=r"'total'.*made \(\) of operands"):
        operation("total", numpy=lambda x: x.sum())(x).numpy()
    with pytest.raises(TypeError, match="takes gate, up, but got 1"):
        swiglu(x)
    with pytest.raises(TypeError, match="must be a Tensor"):
        swiglu(1.0, 2.0)
    with pytest.raises(ShapeError, match="swiglu: shapes"):
        swiglu(x, Tensor(np.ones((2, 2), np.float32), device="NUMPY"))
    with pytest.raises(TypeError, match="operands="):
        operation("nameless", numpy=lambda *x: x)
    with pytest.raises(TypeError, match="not T"):
        operation("reserved", numpy=lambda T: T)
