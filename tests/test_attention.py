"""Attention in one kernel: its exact meaning on both backends, its derivatives, and the memory that it takes."""

from __future__ import annotations

import dataclasses
import gc
import tracemalloc
from math import prod, sqrt

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from clgrad import Device, Tensor
from clgrad.backends.kernel import Attention, Kernel, Output
from clgrad.backends.numpy import attention as on_numpy
from clgrad.backends.numpy.backend import NumpyBackend
from clgrad.backends.view import View
from clgrad.engine.explain import plan_of
from clgrad.engine.realize import plan_for

FEW = settings(max_examples=max(2, settings().max_examples // 8), phases=[Phase.explicit, Phase.reuse, Phase.generate])
NAMES = ("output", "logsumexp", "query", "key", "value")
INFINITY = float("inf")


def reference(q, k, v, grad, scale: float, causal: bool, mask=None) -> dict[str, np.ndarray]:
    """All results in float64, from the definition."""
    q, k, v, grad = (x.astype(np.float64) for x in (q, k, v, grad))
    scores = q @ k.swapaxes(-1, -2) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    with np.errstate(invalid="ignore"):
        top = scores.max(-1, keepdims=True)
        top[top == -np.inf] = 0
        weights = np.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        total[total == 0] = 1  # a query that sees nothing
        logsumexp = top + np.log(total)
        p = weights / total
        output = p @ v
        of_scores = p * (grad @ v.swapaxes(-1, -2) - (grad * output).sum(-1, keepdims=True)) * scale
        gradients = of_scores @ k, of_scores.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ grad
    return dict(zip(NAMES, (output, logsumexp, *gradients), strict=True))


# --- kernels ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Case:
    """A forward kernel and its gradient, with what they read and what they should give."""

    kernels: list[Kernel]
    arrays: dict[str, np.ndarray]  # flat, as they lie
    want: list[dict[str, np.ndarray]]
    tolerance: float


@st.composite
def placed(draw, shape: tuple[int, ...]) -> tuple[View, int]:
    """A View of `shape` over a buffer, and its size: some axes lie exchanged, reversed, with gaps, or repeat."""
    order = draw(st.permutations(range(len(shape))))
    strides, step, offset = [0] * len(shape), 1, draw(st.integers(0, 2))
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis] + draw(st.sampled_from([0, 0, 1]))
    for axis in range(len(shape)):
        way = draw(st.sampled_from(["forward", "forward", "forward", "backward", "repeated"]))
        if way == "backward":
            offset += strides[axis] * (shape[axis] - 1)
            strides[axis] = -strides[axis]
        elif way == "repeated" and axis < len(shape) - 2:
            strides[axis] = 0
    strides = [0 if n == 1 else s for n, s in zip(shape, strides, strict=True)]
    return View(shape, tuple(strides), offset), step + offset + 1


def look(flat: np.ndarray, view: View) -> np.ndarray:
    steps = tuple(s * flat.itemsize for s in view.strides)
    return np.ndarray(view.shape, flat.dtype, flat, view.offset * flat.itemsize, steps)


@st.composite
def kernels(draw) -> Case:
    dtype = np.dtype(draw(st.sampled_from(["float32", "float32", "float64", "float16"])))
    wide = np.dtype("float32") if dtype == np.float16 else dtype
    size = st.sampled_from([1, 1, 2, 3, 4, 5, 8, 17, 33])
    batch = draw(st.sampled_from([(), (1,), (2,), (3, 2), (17,)]))
    queries, keys, width, other = (draw(size) for _ in range(4))
    causal, masked = draw(st.booleans()), draw(st.sampled_from(["", "", "bool", "float"]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shapes = {
        "q": (*batch, queries, width), "k": (*batch, keys, width), "v": (*batch, keys, other),
        "mask": (*batch, queries, keys), "grad": (*batch, queries, other),
    }  # fmt: skip
    if not masked:
        del shapes["mask"]
    views, flats = {}, {}
    for name, shape in shapes.items():
        views[name], length = draw(placed(shape))
        flats[name] = (rng.standard_normal(length) * draw(st.sampled_from([0.1, 1, 4]))).astype(dtype)
    if masked == "bool":
        flats["mask"] = rng.random(len(flats["mask"])) < 0.7
    x = {name: look(flats[name], view) for name, view in views.items()}
    scale = draw(st.sampled_from([1.0, 0.3, 1 / sqrt(width)]))
    want = reference(x["q"], x["k"], x["v"], x["grad"], scale, causal, x.get("mask"))
    # The gradient is tested by itself: it reads the exact output and logsumexp, rounded.
    for name, exact in (("output", want["output"].astype(dtype)), ("logsumexp", want["logsumexp"].astype(wide))):
        views[name], length = View.contiguous(exact.shape), exact.size
        flats[name] = exact.reshape(-1)
    size_of_scores = float(np.abs(x["q"]).max() * np.abs(x["k"]).max()) * width * scale
    largest = max(float(np.abs(x[name]).max()) for name in x if x[name].dtype != bool)
    tolerance = float(np.finfo(dtype).eps) * (8 + size_of_scores) * max(1.0, largest) ** 3 * (width + other + keys)
    results = [
        draw(st.sampled_from([("output", "logsumexp"), ("output",), ("logsumexp",)])),
        draw(st.sampled_from([("query", "key", "value"), ("key", "query"), ("value",), ("query",), ("key",)])),
    ]
    made = []
    for number, chosen in enumerate(results):
        reads = [n for n in ("q", "k", "v", "mask") if n in views] + ["grad", "output", "logsumexp"] * number
        attention = Attention(tuple((n, i, views[n]) for i, n in enumerate(reads)), chosen, scale, causal)
        outputs = tuple(Output(i, View.contiguous(want[n].shape)) for i, n in enumerate(chosen))
        dtypes = tuple(wide if n == "logsumexp" else dtype for n in chosen)
        made.append(
            Kernel("attention", (*batch, queries, keys), (), (), outputs, tuple(flats[n].dtype for n in reads), dtypes,
                   attention=attention)
        )  # fmt: skip
    return Case(made, flats, [{n: want[n] for n in chosen} for chosen in results], tolerance)


def check(backend, cases: list[Case], specialise: bool) -> None:
    """Run the kernels of all cases, built together."""
    executables = iter(backend.lower([kernel for case in cases for kernel in case.kernels], specialise))
    for case in cases:
        for kernel, want in zip(case.kernels, case.want, strict=True):
            executable = next(executables)
            assert kernel.attention is not None
            arrays = [case.arrays[name] for name, _, _ in kernel.attention.operands]
            arrays += [np.full(want[n].size, 77, d) for n, d in zip(want, kernel.output_dtypes, strict=True)]
            buffers = []
            for array in arrays:
                buffers.append(backend.allocate(array.nbytes))
                backend.upload(buffers[-1], array)
            executable.run(buffers)
            for number, (name, exact) in enumerate(want.items()):
                buffer, dtype = buffers[len(kernel.inputs) + number], kernel.output_dtypes[number]
                got = backend.download(buffer, dtype, exact.size).reshape(exact.shape)
                np.testing.assert_allclose(
                    got.astype(np.float64), exact, rtol=case.tolerance, atol=case.tolerance, err_msg=f"{name}\n{kernel}"
                )


@pytest.mark.parametrize("block", ["small", "as they are"])
@given(case=kernels(), data=st.data())
def test_kernels_on_numpy_are_the_definition(block, case, data):
    backend = NumpyBackend()
    with pytest.MonkeyPatch.context() as patch:
        if block == "small":
            for name, sizes in (("SCORES", (4, 30)), ("LEAST_ROWS", (1, 3)), ("CAUSAL_ROWS", (1, 4))):
                patch.setattr(on_numpy, name, data.draw(st.sampled_from(sizes)))
        check(backend, [case], specialise=False)


SMALL = {"attention_lanes": 4, "attention_step": 2, "attention_block": 4}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("cpu", {}), ("cpu", SMALL), ("cpu", SMALL | {"attention_heads": 1}), ("gpu", {"attention_group": 4})],
    ids=["cpu", "small blocks", "whole heads", "gpu"],
)
@FEW
@given(cases=st.lists(kernels(), min_size=4, max_size=6), specialise=st.booleans())
def test_kernels_on_opencl_are_the_definition(backend, kind, changes, cases, specialise):
    from clgrad.backends.opencl.shapes import TABLE

    with pytest.MonkeyPatch.context() as patch:
        own = kind == backend.info.kind == "cpu"  # whose compiler may have narrower vectors than the table's first row
        patch.setattr(backend, "shapes", dataclasses.replace(backend.table if own else TABLE[kind], **changes))
        patch.setattr(backend, "executables", type(backend.executables)())
        check(backend, cases, specialise)


# --- Tensors ---------------------------------------------------------------------------------------------------------


def tensors(rng, device: str, *shapes, dtype="float32") -> list[Tensor]:
    return [Tensor(rng.standard_normal(s).astype(dtype), device=device, requires_grad=True) for s in shapes]


def in_parts(q, k, v, mask=None, causal=False):
    """The same in primitives, scores and all."""
    scores = q @ k.transpose(-2, -1) * (1 / sqrt(q.shape[-1]))
    if causal:
        mask = Tensor(np.tri(*scores.shape[-2:], dtype=bool), device=q.device)
    if mask is not None:
        scores = mask.where(scores, -INFINITY) if mask.dtype == bool else scores + mask
    return scores.softmax(-1) @ v


HEADS, ONE, BROADCAST = [(2, 3, 5, 4)] * 3, [(7, 3), (4, 3), (4, 5)], [(2, 1, 3, 4), (1, 2, 6, 4), (6, 2)]


@pytest.mark.parametrize(
    ("form", "shapes"),
    [("plain", ONE), ("causal", HEADS), ("causal", ONE), ("bool", BROADCAST), ("float", BROADCAST)],
    ids=["plain", "causal heads", "causal", "bool broadcast", "float broadcast"],
)
@pytest.mark.sweep_on_opencl
def test_derivatives_of_both_orders_are_those_of_the_parts(device, shapes, form):
    rng = np.random.default_rng(3)
    operands = tensors(rng, device, *shapes, dtype="float64")
    queries, keys = shapes[0][-2], shapes[1][-2]
    causal, mask = form == "causal", None
    if form == "bool":
        mask = Tensor(rng.random((queries, keys)) < 0.7, device=device)
    elif form == "float":
        (mask,) = tensors(rng, device, (queries, keys), dtype="float64")
        operands.append(mask)
    found = []
    for function in (Tensor.scaled_dot_product_attention, in_parts):
        y = function(*operands[:3], mask, **({"causal" if function is in_parts else "is_causal": causal}))
        first = (y * y).sum().gradient(*operands)
        second = sum(((g * g).sum() for g in first[1:]), (first[0] * first[0]).sum()).gradient(*operands)
        found.append([y, *first, *second])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-9, atol=1e-9)


def test_it_is_what_torch_computes(device):
    torch = pytest.importorskip("torch", reason="compares with PyTorch where that is installed")
    rng = np.random.default_rng(4)
    for shape, keys, causal in (((2, 3, 40, 8), 40, True), ((3, 20, 5), 33, False), ((2, 50, 4), 20, True)):
        q, k, v = ours = tensors(rng, device, shape, (*shape[:-2], keys, shape[-1]), (*shape[:-2], keys, 7))
        theirs = [torch.tensor(x.numpy(), requires_grad=True) for x in ours]
        weight = rng.standard_normal((*shape[:-1], 7)).astype(np.float32)
        y = q.scaled_dot_product_attention(k, v, is_causal=causal)
        want = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=causal)
        np.testing.assert_allclose(y.numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-5)
        (y * Tensor(weight, device=device)).sum().backward()
        (want * torch.tensor(weight)).sum().backward()
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-5)


def kinds(steps) -> list[str]:
    return [step.kernel.kind for step in steps]


def test_heads_inside_a_larger_tensor_are_read_and_joined_without_a_copy(device):
    x = Tensor(np.random.default_rng(5).standard_normal((2, 5, 24)).astype(np.float32), device=device)
    q, k, v = (t.reshape(2, 5, 2, 4).transpose(1, 2) for t in x.split(8, dim=2))
    joined = q.scaled_dot_product_attention(k, v, is_causal=True).transpose(1, 2).reshape(2, 5, 8)
    assert kinds(plan_of(joined.node).steps) == ["attention"]
    one_head = [t.shrink(((0, 2), (0, 1), (0, 5), (0, 4))).expand(2, 2, 5, 4) for t in (k, v)]  # grouped queries
    (step,) = plan_of(q.scaled_dot_product_attention(*one_head).node).steps
    assert len(step.inputs) == 1 and prod(step.inputs[0].shape) == 2 * 5 * 24


def test_loss_and_gradient_are_one_kernel_each_and_forward_runs_once(device):
    q, k, v = tensors(np.random.default_rng(6), device, *[(2, 3, 5, 4)] * 3)
    y = q.scaled_dot_product_attention(k, v)
    loss = y.sum()
    loss.item()
    loss.backward()
    steps = plan_for([x.grad.node for x in (q, k, v)])[1].steps
    assert kinds(steps).count("attention") == 1
    (step,) = (s for s in steps if s.kernel.kind == "attention")
    assert step.kernel.attention.results == ("query", "key", "value")


@pytest.mark.parametrize("causal", [False, True])
def test_memory_grows_with_the_length_not_with_its_square(device, causal):
    backend = Device[device]

    def peak(length: int) -> tuple[int, int]:
        q, k, v = tensors(np.random.default_rng(7), device, *[(length, 4)] * 3)
        Tensor.realize_all([q, k, v])
        gc.collect()  # what other tests left is not to be freed meanwhile
        backend.counters.peak_bytes = before = backend.counters.live_bytes
        tracemalloc.start()
        q.scaled_dot_product_attention(k, v, is_causal=causal).sum().backward()
        Tensor.realize_all([q.grad, k.grad, v.grad])
        host = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return backend.counters.peak_bytes - before, host

    peak(1024)  # what is built once is not counted
    (device_half, _), (device_full, host_full) = peak(1024), peak(2048)
    assert device_full <= 2.2 * device_half < 1024 * 1024 * 4
    assert host_full < 2048 * 2048 * 4 / 2, "not even half of the scores are ever on the host"


def test_a_query_that_sees_nothing_gets_and_gives_nothing(device):
    q, k, v = tensors(np.random.default_rng(8), device, (3, 4), (5, 4), (5, 2))
    mask = np.ones((3, 5), bool)
    mask[1] = False
    y = q.scaled_dot_product_attention(k, v, Tensor(mask, device=device))
    others = q.take(Tensor([0, 2], device=device)).scaled_dot_product_attention(k, v)
    np.testing.assert_allclose(y.numpy()[[0, 2]], others.numpy(), rtol=1e-5, atol=1e-6)
    assert not y.numpy()[1].any()


def test_nan_and_infinity_reach_what_they_would_reach_in_parts(device):
    values = np.random.default_rng(9).standard_normal((3, 4, 4)).astype(np.float32)
    for place, value in (((0, 1, 2), np.nan), ((0, 2, 0), np.inf), ((1, 3, 1), np.nan), ((2, 0, 0), np.inf)):
        changed = values.copy()
        changed[place] = value
        q, k, v = (Tensor(x, device=device) for x in changed)
        for mask in (None, Tensor(np.tri(4, dtype=np.float32), device=device)):
            got, want = q.scaled_dot_product_attention(k, v, mask).numpy(), in_parts(q, k, v, mask).numpy()
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_what_no_kernel_takes_is_computed_in_parts(device):
    rng = np.random.default_rng(10)
    q, k, v = tensors(rng, device, (3, 4), (5, 4), (5, 2))
    wide = tensors(rng, device, (2, 300), (2, 300), (2, 300))
    integers = Tensor(np.arange(6).reshape(2, 3), device=device)
    empty = Tensor(np.zeros((0, 3, 4), np.float32), device=device)
    cases = [(q, k, v, 0.5), (*wide, 0.0), (integers, integers, integers.float(), 0.0), (empty, empty, empty, 0.0)]
    for a, b, c, dropout in cases:
        y = a.scaled_dot_product_attention(b, c, dropout_p=dropout)
        assert "attention" not in kinds(plan_of(y.node).steps)
        assert y.numpy().shape == (*a.shape[:-1], c.shape[-1])
    with pytest.raises(ValueError, match="does not contract"):
        q.scaled_dot_product_attention(v, v)
