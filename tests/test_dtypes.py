"""Dtypes: how they meet, what Python's numbers and lists become, casts, halves, and bfloat16 on both backends."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

from clgrad import Tensor, dtypes, jit, nn

NAMES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NAMES += ("float16", "bfloat16", "float32", "float64")
BFLOAT = np.dtype(ml_dtypes.bfloat16)
rng = np.random.default_rng(0)


def theirs(name: str) -> torch.dtype:
    return getattr(torch, name)


def torch_of(array: np.ndarray) -> torch.Tensor:
    """A torch tensor of the array's values and dtype."""
    return (
        torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        if array.dtype == BFLOAT
        else (torch.from_numpy(array.copy()))
    )


def array_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.int16).numpy().view(BFLOAT) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def bits(array: np.ndarray) -> np.ndarray:
    """Elements as integers, every NaN alike."""
    with np.errstate(all="ignore"):
        nan = np.isnan(array) if array.dtype.kind in "fV" else np.zeros(array.shape, bool)
    return np.where(nan, 0, np.ascontiguousarray(array).view(f"u{array.itemsize}"))


# --- promotion ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", NAMES)
def test_dtypes_meet_as_in_torch_whatever_the_dimensions(a):
    shapes, wide = ((), (2,), (2, 2)), {"uint16", "uint32", "uint64"}
    for b in NAMES:
        for p in shapes:
            for q in shapes:
                try:
                    want = torch.result_type(torch.zeros(p, dtype=theirs(a)), torch.zeros(q, dtype=theirs(b)))
                except RuntimeError:  # wide unsigned integers: the test after the next
                    assert wide & {a, b}
                    continue
                x, y = Tensor.zeros(*p, dtype=a), Tensor.zeros(*q, dtype=b)
                assert x.mul(y).dtype == y.mul(x).dtype == Tensor.ones(2, 2, dtype="bool").where(x, y).dtype
                assert x.mul(y).dtype.name == str(want).removeprefix("torch."), (a, p, b, q)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [True, 2, 1.5])
def test_python_numbers_meet_tensors_as_in_torch(name, number):
    for shape in ((), (2,)):
        want = torch.result_type(torch.zeros(shape, dtype=theirs(name)), number)
        x = Tensor.zeros(*shape, dtype=name)
        assert (x * number).dtype.name == (number * x).dtype.name == str(want).removeprefix("torch.")


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        ("uint16", "int8", "int32"), ("uint16", "uint8", "uint16"), ("uint32", "int32", "int64"),
        ("uint32", "uint16", "uint32"), ("uint64", "uint8", "uint64"), ("uint64", "int64", "float32"),
        ("uint64", "bool", "uint64"),
    ],
)  # fmt: skip
def test_where_torch_refuses_unsigned_integers_meet_in_what_holds_both(a, b, want):
    assert dtypes.promote(dtypes.as_dtype(a), dtypes.as_dtype(b)) == dtypes.promote(*map(np.dtype, (b, a))) == want


@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_a_number_without_dimensions_does_not_widen_a_jitted_step(device, wide):
    """A learning rate is a 0-d float32; parameters keep their dtype, jitted or not."""
    for narrow in ("float16", "bfloat16"):
        p, rate = Tensor([1.0, 2.0], dtype=narrow, device=device), Tensor(np.array(0.5, wide), device=device)
        step = jit(lambda p, rate: p - rate * p)
        for _ in range(3):
            got = step(p, rate)
            assert got.dtype.name == narrow and got.tolist() == [0.5, 1.0]


# --- what Python's numbers become ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [3, True, 1.5, [1, 2], [True, False], [1, 2.5], [[True, 2]], [], [[], []], range(3), (1, 2), [-(2**40)]]
)
def test_numbers_and_lists_have_torchs_dtype_and_shape(data):
    want = torch.tensor(list(data) if isinstance(data, range) else data)
    got = Tensor(data)
    assert (got.dtype.name, got.shape) == (str(want.dtype).removeprefix("torch."), tuple(want.shape))
    np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_integers_that_int64_cannot_hold_are_uint64():
    assert Tensor([2**64 - 1]).dtype == "uint64" and Tensor([2**64 - 1]).tolist() == [2**64 - 1]


@pytest.mark.parametrize("bad", [None, "1", [1, "b"], 1j, object(), [2**64], {1}, [None]])
def test_what_is_no_number_is_a_type_error(bad):
    with pytest.raises(TypeError, match="Tensor: "):
        Tensor(bad)


def test_ragged_lists_are_a_shape_error():
    with pytest.raises(ValueError, match="rectangle"):
        Tensor([[1], [1, 2]])


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("float", "bfloat"))])
def test_sums_and_products_of_integers_are_int64_and_indices_too(device, name):
    def of(x):
        return x.sum(), x.sum(0), x.prod(1), x.cumsum(0), x.cumprod(1)

    x, t = Tensor([[1, 0], [1, 1]], dtype=name, device=device), torch.tensor([[1, 0], [1, 1]]).to(theirs(name))
    ours = of(x)
    Tensor.realize_all(ours)
    for got, want in zip(ours, of(t), strict=True):
        assert got.dtype.name == str(want.dtype).removeprefix("torch.") == "int64"
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert x.argmax(1).dtype == x.argmin().dtype == Tensor.arange(3).dtype == Tensor.randint(2).dtype == "int64"


def test_arange_has_torchs_dtype():
    for args in ((3,), (1, 4), (0, 10, 3), (3.0,), (0, 1, 0.25), (5, 0, -2)):
        want, got = torch.arange(*args), Tensor.arange(*args)
        assert got.dtype.name == str(want.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(got.numpy(), want.numpy())


# --- casts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", NAMES)
def test_bitcasts_are_torchs_views_between_all_widths(device, source):
    """Floats are read from random bits, which NaNs and subnormals are among."""
    raw = rng.integers(0, 2 if source == "bool" else 256, (3, 64), dtype=np.uint8)
    # On OpenCL each is a kernel to be built: some for each source, of every width.
    targets = NAMES if device == "NUMPY" else NAMES[NAMES.index(source) % 3 :: 3]
    given = {target: raw & 1 if target == "bool" else raw for target in targets}
    found = {target: Tensor(a, device=device).bitcast(source).bitcast(target) for target, a in given.items()}
    Tensor.realize_all(found.values())
    for target, got in found.items():
        want = torch.from_numpy(given[target].copy()).view(theirs(source)).view(theirs(target))
        assert got.dtype.name == target and got.shape == tuple(want.shape)
        np.testing.assert_array_equal(bits(got.numpy()), bits(array_of(want)))


@pytest.mark.parametrize(("shape", "source", "target"), [((3,), "int16", "int32"), ((), "int32", "int16")])
def test_a_bitcast_that_does_not_divide_is_torchs_kind_of_error(shape, source, target):
    with pytest.raises(RuntimeError):
        torch.zeros(shape, dtype=theirs(source)).view(theirs(target))
    with pytest.raises(RuntimeError, match=f"bitcast: {source} of shape"):
        Tensor.zeros(*shape, dtype=source).bitcast(target)


def test_casts_by_name_are_casts(device):
    x = Tensor([0.0, 1.5, -2.5], device=device)
    by_name = {
        "half": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64", "short": "int16",
        "int": "int32", "long": "int64", "bool": "bool",
    }  # fmt: skip
    for method, name in by_name.items():
        got, want = getattr(x, method)(), getattr(torch.tensor([0.0, 1.5, -2.5]), method)()
        assert got.dtype.name == name == str(want.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(got.numpy(), array_of(want))
        assert got.is_floating_point() == want.is_floating_point()


def test_a_cast_of_a_cast_keeps_what_the_first_did(device):
    x = Tensor([300.0, -1.0, 70000.0, 1e10], device=device)
    np.testing.assert_array_equal(x.cast("uint8").cast("int64").cast("float32").numpy(), [255, 0, 255, 255])
    np.testing.assert_array_equal(x.half().float().numpy(), [300, -1, np.inf, np.inf])
    big = Tensor([2**31 + 5, -(2**40)], device=device)
    np.testing.assert_array_equal(big.cast("int32").cast("int64").numpy(), [-(2**31) + 5, 0])
    np.testing.assert_array_equal(big.cast("float64").cast("int32").numpy(), [2**31 - 1, -(2**31)])


@pytest.mark.parametrize("bad", ["complex64", "U3", object, "float8"])
def test_a_dtype_that_there_is_not_is_a_type_error_with_those_that_are(bad):
    with pytest.raises(TypeError, match="use one of bool, .* bfloat16"):
        Tensor([1.0]).cast(bad)


# --- halves -------------------------------------------------------------------------------------------------------

HALVES = ("float16", "bfloat16")


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("shape", [(5000,), (70, 130), (3, 4097), (200000,)])
def test_sums_of_halves_are_formed_in_float32_and_rounded_once(device, name, shape):
    """However a sum is cut: the distance to the exact one is that of one rounding, and of float32 sums."""
    array = rng.uniform(-1, 1, shape).astype(dtypes.as_dtype(name)) + dtypes.as_dtype(name).type(0.125)
    x = Tensor(array, device=device)
    eps = 2.0**-11 if name == "float16" else 2.0**-8
    for axis in (None, 0, -1):
        exact = array.astype(np.float64).sum(axis)
        slack = np.abs(exact) * eps + np.abs(array.astype(np.float64)).sum(axis) * 2.0**-23 * 20
        assert x.sum(axis).dtype.name == name
        assert np.all(np.abs(x.sum(axis).numpy().astype(np.float64) - exact) <= slack)


@pytest.mark.parametrize("name", HALVES)
def test_products_of_matrices_of_halves_are_summed_in_float32(device, name):
    a, b = (rng.uniform(-1, 1, s).astype(dtypes.as_dtype(name)) for s in ((9, 300), (300, 40)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    got = (Tensor(a, device=device) @ Tensor(b, device=device)).numpy()
    slack = np.abs(exact) * (2.0**-11 if name == "float16" else 2.0**-8) + 300 * 2.0**-22
    assert got.dtype.name == name and np.all(np.abs(got.astype(np.float64) - exact) <= slack)


# --- bfloat16 -----------------------------------------------------------------------------------------------------

EVERY = np.arange(2**16, dtype=np.uint16).view(BFLOAT)


def test_every_bfloat16_comes_back_and_widens_exactly(device):
    x = Tensor(EVERY, device=device)
    assert x.dtype == dtypes.bfloat16 and x.element_size() == 2
    np.testing.assert_array_equal(bits(x.numpy()), bits(EVERY))
    np.testing.assert_array_equal(bits(x.flip(0).contiguous().numpy()), bits(EVERY[::-1]))
    wide = (EVERY.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(bits(x.float().numpy()), bits(wide))


def test_floats_round_to_bfloat16_to_nearest_even_as_in_torch(device):
    """All upper halves with the lower halves around a tie, and random bits."""
    upper = np.arange(0, 2**16, 7, dtype=np.uint32) << 16
    near = np.concatenate([upper | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    for x in (near.view(np.float32), rng.integers(0, 2**32, 10000, dtype=np.uint32).view(np.float32)):
        got = Tensor(x, device=device).bfloat16().numpy()
        want = array_of(torch.from_numpy(x).bfloat16())
        np.testing.assert_array_equal(bits(got), bits(want))
        assert np.array_equal(np.isnan(got), np.isnan(x)), "a NaN stays a NaN"


@pytest.mark.parametrize("source", NAMES)
def test_casts_to_and_from_bfloat16_are_torchs(device, source):
    values = rng.normal(0, 1e4, 500) if source in ("float64", "int64", "int32", "int16") else rng.integers(0, 100, 500)
    array = np.asarray(values).astype(dtypes.as_dtype(source))
    got = Tensor(array, device=device).bfloat16()
    np.testing.assert_array_equal(bits(got.numpy()), bits(array_of(torch_of(array).bfloat16())))
    back = torch_of(got.numpy()).to(theirs(source))
    np.testing.assert_array_equal(got.cast(source).numpy(), array_of(back))


UNARY = ("exp", "log", "sin", "cos", "tanh", "sqrt", "reciprocal", "sigmoid", "relu", "neg", "abs", "floor", "square")


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_bfloat16_are_within_a_unit_in_the_last_place(device, name):
    x = np.concatenate([rng.normal(0, 3, 400), [0.0, -0.0, np.inf, -np.inf, np.nan]]).astype(BFLOAT)
    got = getattr(Tensor(x, device=device), name)().numpy()
    want = getattr(torch.from_numpy(x.astype(np.float64)), name)().bfloat16().float().numpy()
    assert got.dtype == BFLOAT
    with np.errstate(all="ignore"):
        near = np.abs(got.astype(np.float32) - want) <= np.abs(want) * 2.0**-7
    assert np.all(near | (got.astype(np.float32) == want) | (np.isnan(want) & np.isnan(got.astype(np.float32))))


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "maximum", "minimum"])
def test_arithmetic_of_bfloat16_is_rounded_once_as_in_torch(device, op):
    a, b = (np.concatenate([rng.normal(0, 3, 400), [0.0, np.inf, np.nan, 1.0]]).astype(BFLOAT) for _ in range(2))
    b = b[::-1].copy()
    got = getattr(Tensor(a, device=device), op)(Tensor(b, device=device)).numpy()
    want = getattr(torch_of(a), op)(torch_of(b))
    np.testing.assert_array_equal(bits(got), bits(array_of(want)))


def test_comparisons_movement_indexing_and_attention_of_bfloat16(device):
    a = rng.normal(0, 1, (4, 6)).astype(BFLOAT)
    x, t = Tensor(a, device=device), torch_of(a)
    for f in (
        lambda x: x < 0.5, lambda x: x.T, lambda x: x.reshape(3, 8), lambda x: x[1:, ::2], lambda x: x[[0, 2], [1, 1]],
        lambda x: x.max(1)[0] if isinstance(x, torch.Tensor) else x.max(1), lambda x: x.argmax(1),
        lambda x: x.unsqueeze(0).expand(2, 4, 6),
    ):  # fmt: skip
        np.testing.assert_array_equal(f(x).numpy(), array_of(f(t).contiguous()))
    q = rng.normal(0, 1, (3, 2, 5, 8)).astype(BFLOAT)
    got = Tensor(q[0], device=device).scaled_dot_product_attention(*(Tensor(k, device=device) for k in q[1:]))
    want = torch.nn.functional.scaled_dot_product_attention(*(torch_of(k).double() for k in q))
    np.testing.assert_allclose(got.numpy().astype(np.float64), want.numpy(), rtol=2.0**-7, atol=2.0**-7)


def test_bfloat16_is_drawn_read_and_printed(device):
    x = Tensor.randn(1000, dtype="bfloat16", device=device)
    assert x.dtype.name == "bfloat16" and 0.8 < x.float().std().item() < 1.2
    y = Tensor([1.5, -2.0], dtype=dtypes.bfloat16, device=device)
    assert y.tolist() == [1.5, -2.0] and y[0].item() == 1.5 and "bfloat16" in repr(y) and "1.5" in repr(y)


def test_a_model_in_bfloat16_learns(device):
    """The gradient, the optimiser's state and a jitted step are all in it."""
    Tensor.manual_seed(0)
    x, w = rng.normal(0, 1, (32, 4)), rng.normal(0, 1, (4, 2))
    inputs, wanted = (Tensor(v.astype(BFLOAT), device=device) for v in (x, x @ w))
    weight = Tensor.zeros(4, 2, dtype="bfloat16", device=device, requires_grad=True)
    optimizer = nn.optim.AdamW([weight], lr=0.05, weight_decay=0.0)

    @jit
    def step():
        optimizer.zero_grad()
        loss = ((inputs @ weight - wanted) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    losses = [step().item() for _ in range(100)]
    assert weight.dtype == BFLOAT and weight.grad.dtype == BFLOAT
    assert all(state.dtype == BFLOAT for name, state in optimizer.state[weight].items() if name != "step")
    assert losses[-1] < losses[0] / 100


def test_importing_clgrad_does_not_import_ml_dtypes_and_without_it_the_error_names_the_extra():
    program = """
import sys
from clgrad import Tensor, dtypes
assert "ml_dtypes" not in sys.modules
sys.modules["ml_dtypes"] = None
for ask in (lambda: dtypes.bfloat16, lambda: Tensor([1.0]).bfloat16(), lambda: Tensor([1.0], dtype="bfloat16")):
    try:
        ask()
    except ImportError as error:
        assert "clgrad[bf16]" in str(error), error
    else:
        raise AssertionError
assert Tensor([1.0]).half().tolist() == [1.0]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_model_trains_and_generates_without_the_packages_that_only_tests_bring(tmp_path):
    data = tmp_path / "text.txt"
    data.write_text("To be, or not to be, that is the question. " * 40)
    program = f"""
import sys
for name in ("hypothesis", "ml_dtypes", "torch", "transformers"):
    sys.modules[name] = None
from clgrad.cli.main import main
small = ["--n-layer", "1", "--n-head", "1", "--n-embd", "8", "--block-size", "8", "--batch-size", "2"]
short = ["--max-iters", "2", "--dropout", "0.1", "--device", "NUMPY"]
sys.exit(main(["train", "--data", {str(data)!r}, "--out", {str(tmp_path / "run")!r}, *small, *short]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_number_that_halves_do_not_hold_meets_them_in_float32(device, dtype):
    x = Tensor([0.5, -3.0, 1000.0], dtype=dtype, device=device)
    t = torch.tensor([0.5, -3.0, 1000.0], dtype=getattr(torch, dtype))
    for number in (70_000.0, 70_000, 0.1, 3.3, 2.0, float("inf"), True):
        got, want = (x * number, number * x, x / number), (t * number, number * t, t / number)
        got += (x // number, x * Tensor(number, device=device), x / Tensor(number, device=device))
        want += (t // number, t * torch.tensor(number), t / torch.tensor(number))
        Tensor.realize_all(got)
        assert [y.tolist() for y in got] == [y.tolist() for y in want]
        assert {y.dtype.name for y in got} == {dtype}
    x.requires_grad_()
    (x * 0.1).sum().backward()
    assert x.grad.dtype.name == dtype and x.grad.tolist() == torch.full((3,), 0.1).to(t.dtype).tolist()
