"""Packed weights: what blocks mean against the gguf package, products against float64, packing, and the layers."""

from __future__ import annotations

import dataclasses

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clgrad import Tensor, jit, nn
from clgrad.backends.dtypes import float32, uint8
from clgrad.backends.kernel import Instr, Kernel, Output
from clgrad.backends.opencl.shapes import TABLE
from clgrad.backends.packing import PACKINGS, numpy_arrays, pack
from clgrad.backends.view import View
from clgrad.engine import profile
from clgrad.engine.packed import linear, unpack
from clgrad.models import GPT, GPTConfig
from clgrad.nn.quantized import QuantizedEmbedding, QuantizedLinear, quantize

# Where a block has halves: their scales have to be numbers, the rest may be any bytes.
HALVES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}
WRITTEN = [name for name, packing in PACKINGS.items() if packing.pack]


def random_rows(name: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Rows of blocks with random bits: uint8 (rows, bytes)."""
    packing, rng = PACKINGS[name], np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows, columns // packing.elements, packing.nbytes), dtype=np.uint8)
    for at in HALVES.get(name, range(0, packing.nbytes, 2)):
        numbers = rng.normal(0, 0.05, blocks.shape[:2])
        halves = numbers.astype(np.float32).view(np.uint32) >> 16 if name == "BF16" else numbers.astype(np.float16)
        blocks[..., at : at + 2] = halves.astype(np.uint16 if name == "BF16" else np.float16)[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def reference(raw: np.ndarray, name: str) -> np.ndarray:
    """What the gguf package takes the bytes for."""
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])


@pytest.mark.parametrize("name", PACKINGS)
def test_blocks_mean_what_the_gguf_package_takes_them_for(name):
    raw = random_rows(name, 5, 512)
    packing = PACKINGS[name]
    found = packing.unpack(raw.reshape(5, -1, packing.nbytes), numpy_arrays).reshape(5, 512)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, reference(raw, name))


def test_every_half_is_read_right():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 64)
    found = PACKINGS["F16"].unpack(halves, numpy_arrays)
    np.testing.assert_array_equal(found.reshape(-1), np.arange(1 << 16, dtype=np.uint16).view(np.float16))


def test_products_read_every_half_right(device):
    """As the scale of a block, whose first integer is 1: infinities and NaNs are such products too."""
    halves = np.arange(1 << 16, dtype=np.uint16)
    raw = np.zeros((1 << 16, 34), np.uint8)
    raw[:, :2], raw[:, 2] = halves.view(np.uint8).reshape(-1, 2), 1
    one = np.eye(1, 32, dtype=np.float32)
    wanted = halves.view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore"):
        found = linear(Tensor(one, device=device), Tensor(raw, device=device), "Q8_0").numpy()[0]
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[finite], wanted[finite])
    assert not np.isfinite(found[~finite]).any()


def test_unpacking_is_a_graph_that_gives_the_same(device):
    names = list(PACKINGS)
    raw = {name: random_rows(name, 3, 256) for name in names}
    found = [unpack(Tensor(raw[name], device=device), name) for name in names]
    Tensor.realize(*found)  # OpenCL builds them as one program
    for name, tensor in zip(names, found):
        np.testing.assert_allclose(tensor.numpy(), reference(raw[name], name), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("name", PACKINGS)
def test_products_agree_with_float64(device, name, everything):
    """One row, a few, and as many as are computed in panels; columns that fill no block; a strided left operand."""
    all_forms = everything or device == "NUMPY" or name == "Q4_K"  # a form takes OpenCL's compilers seconds
    rng = np.random.default_rng(1)
    raw = random_rows(name, 37, 768)
    weight, exact = Tensor(raw, device=device), reference(raw, name).astype(np.float64)
    for rows in (1, 3, 21) if all_forms else (1,):
        x = rng.normal(size=(rows, 768)).astype(np.float32)
        wanted = x.astype(np.float64) @ exact.T
        scale = np.abs(x).astype(np.float64) @ np.abs(exact).T
        found = linear(Tensor(x, device=device), weight, name).numpy()
        assert (np.abs(found - wanted) <= 4e-6 * scale).all()
    if not all_forms:
        return
    turned = Tensor(np.ascontiguousarray(x.T), device=device).T
    assert (np.abs(linear(turned, weight, name).numpy() - wanted) <= 4e-6 * scale).all()


def test_products_of_a_team_as_on_a_gpu(backend):
    """Work-items that share a row of blocks, more of them than it has groups, and fewer."""
    packing, rng = PACKINGS["Q4_1"], np.random.default_rng(2)
    for k, team in ((96, 8), (320, 4)):
        raw, x = random_rows("Q4_1", 5, k), rng.normal(size=(6, k)).astype(np.float32)
        dot = Instr("dot", (), (0, View.contiguous(x.shape), 1, View.contiguous(raw.shape).permute((1, 0))), float32)
        kernel = Kernel(
            "dot", (6, 5), (), (dot,), (Output(0, View.contiguous((6, 5))),), (float32, uint8), (float32,),
            packing=packing,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "shapes", dataclasses.replace(TABLE["gpu"], packed_team=team))
            patch.setattr(backend, "executables", type(backend.executables)())
            (executable,) = backend.lower([kernel])
        buffers = [backend.allocate(n) for n in (x.nbytes, raw.nbytes, 6 * 5 * 4)]
        backend.upload(buffers[0], x)
        backend.upload(buffers[1], raw)
        executable.run(buffers)
        wanted = x.astype(np.float64) @ reference(raw, "Q4_1").astype(np.float64).T
        np.testing.assert_allclose(backend.download(buffers[2], float32, 30).reshape(6, 5), wanted, atol=1e-4)
        assert "barrier" in executable.source


def test_what_follows_a_product_is_in_its_kernel_and_the_weight_stays_packed(device):
    weight = Tensor(random_rows("Q4_1", 64, 96), device=device)
    x, bias = (Tensor(np.ones(shape, np.float32), device=device) for shape in ((1, 96), (64,)))
    weight.realize(), x.realize(), bias.realize()
    with profile.recording() as log:
        y = (linear(x, weight, "Q4_1") + bias).relu().realize()
    (launch,) = log.finished()
    assert launch.kernel.packing is PACKINGS["Q4_1"]
    wanted = np.maximum(np.ones((1, 96)) @ reference(weight.numpy(), "Q4_1").T.astype(np.float64) + 1, 0)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_jit_reads_the_current_weight(device):
    first, second = (random_rows("Q8_0", 16, 64, seed) for seed in (1, 2))
    weight = Tensor(first, device=device)
    x = Tensor(np.ones((1, 64), np.float32), device=device)
    run = jit(lambda: linear(x, weight, "Q8_0"))
    for raw in (first, second):
        weight.assign(raw)
        wanted = reference(raw, "Q8_0").astype(np.float64).sum(1)
        np.testing.assert_allclose(run().numpy()[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K"])
def test_gradients_go_to_the_input_and_twice(name):
    raw = random_rows(name, 7, 256)
    exact = reference(raw, name).astype(np.float64)
    x = Tensor(np.random.default_rng(3).normal(size=(2, 256)).astype(np.float32), device="NUMPY", requires_grad=True)
    y = linear(x, Tensor(raw, device="NUMPY"), name)
    [slope] = (y * y).sum().gradient(x)
    [curvature] = (slope * slope).sum().gradient(x)
    product = exact.T @ exact
    np.testing.assert_allclose(slope.numpy(), 2 * x.numpy() @ product, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(curvature.numpy(), 8 * x.numpy() @ product @ product, rtol=1e-3, atol=1e-2)


# --- packing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, 1.0, 1e3]), zeros=st.booleans())
def test_packed_numbers_are_as_near_as_the_gguf_package_packs_them(name, seed, scale, zeros):
    numbers = (np.random.default_rng(seed).standard_t(4, (4, 64)) * scale).astype(np.float32)
    if zeros:
        numbers[1] = 0
    kind = gguf.GGMLQuantizationType[name]
    ours, theirs = (
        np.square(gguf.quants.dequantize(raw, kind).astype(np.float64) - numbers).sum()
        for raw in (pack(numbers, name), gguf.quants.quantize(numbers, kind))
    )
    assert ours <= theirs * 1.02 + 1e-12
    if zeros:
        assert not gguf.quants.dequantize(pack(numbers, name), kind)[1].any()


def test_what_cannot_be_packed_says_why():
    with pytest.raises(ValueError, match="packs as Q8_0, Q4_0, Q4_1, F16, not as 'Q6_K'"):
        pack(np.zeros((1, 256), np.float32), "Q6_K")
    with pytest.raises(ValueError, match="rows of 33 are not whole blocks of 32"):
        pack(np.zeros((1, 33), np.float32), "Q8_0")
    for bad in (np.inf, np.nan, 1e6):
        with pytest.raises(ValueError, match="must be finite and at most 65504"):
            pack(np.full((1, 32), bad, np.float32), "Q8_0")


def test_operands_that_do_not_fit_say_why():
    x, weight = Tensor.ones(2, 64), Tensor(random_rows("Q8_0", 4, 64))
    with pytest.raises(ValueError, match=r"linear: \(2, 32\) and a weight \(4, 64\) in Q8_0 do not fit"):
        linear(x[:, :32], weight, "Q8_0")
    with pytest.raises(TypeError, match="x must be floats, not int32"):
        linear(x.cast("int32"), weight, "Q8_0")
    with pytest.raises(TypeError, match="a packed weight is uint8"):
        linear(x, x, "Q8_0")
    with pytest.raises(ValueError, match="no packing 'Q5_0'; known: Q8_0"):
        linear(x, weight, "Q5_0")
    with pytest.raises(ValueError, match="68 bytes are not whole blocks"):
        linear(x, Tensor(random_rows("Q8_0", 4, 64)), "Q4_1")
    with pytest.raises(ValueError, match=r"of 4 rows of 64 is uint8 \(4, 68\), not uint8 \(4, 36\)"):
        QuantizedLinear(64, 4, "Q8_0", Tensor(random_rows("Q4_0", 4, 64)))


# --- layers -----------------------------------------------------------------------------------------------------------


def test_layers_are_those_that_they_come_from_but_for_rounding(device):
    """Also where rows are no whole blocks, and for halves."""
    rng = np.random.default_rng(5)
    x = Tensor(rng.normal(size=(2, 3, 40)).astype(np.float32), device=device)
    precisions = (("Q8_0", 1e-2), ("F16", 1e-3), ("Q4_0", 0.2))
    for layer in (nn.Linear(40, 24, device=device), nn.Conv1D(24, 40, device=device)):
        exact = layer(x).numpy()
        for name, off in precisions if device == "NUMPY" else precisions[:1]:
            found = QuantizedLinear.of(layer, name)(x).numpy()
            assert found.shape == exact.shape
            assert 0 < np.abs(found - exact).max() <= off * np.abs(exact).max(), name
    assert QuantizedLinear.of(nn.Linear(40, 24, bias=False, device=device))(x.cast("float16")).dtype == np.float16
    table = nn.Embedding(10, 40, device=device)
    index = Tensor(np.array([[0, 9], [3, 3]], np.int32), device=device)
    rows, found = table(index).numpy(), QuantizedEmbedding.of(table)(index).numpy()
    assert found.shape == (2, 2, 40) and 0 < np.abs(found - rows).max() <= 0.01 * np.abs(rows).max()


def test_quantize_packs_a_model_and_keeps_ties_names_and_state():
    config = GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=8, vocab_size=20)
    model = GPT(config).eval()
    tokens = Tensor(np.arange(8, dtype=np.int32).reshape(1, 8))
    exact = model(tokens)[0].numpy()
    names = set(model.state_dict())
    assert quantize(model) is model
    assert model.lm_head.weight is model.transformer.wte.weight
    assert type(model.transformer.wpe) is nn.LearnedPositions and not model.lm_head.training
    assert set(model.state_dict()) == names
    packed = model(tokens)[0].numpy()
    assert 0 < np.abs(packed - exact).max() < 0.02 * np.abs(exact).max()
    other = quantize(GPT(config))
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other(tokens)[0].numpy(), packed)


def test_a_list_of_layers_is_quantised_in_its_places():
    model = quantize(nn.Sequential({"a": nn.Linear(32, 32), "b": nn.ModuleList([nn.Linear(32, 32)])}), "Q4_0")
    assert isinstance(model.a, QuantizedLinear) and isinstance(model.b[0], QuantizedLinear)
    assert repr(model.a) == "QuantizedLinear(in_features=32, out_features=32, bias=True, packing='Q4_0')"
