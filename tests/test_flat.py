"""Bundles: parameters that are updated as one value, wherever they lie and whoever else looks at them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clgrad import Device, Tensor, jit, nn
from clgrad.nn.flat import bundles, join, parts

SHAPES = [(64,), (8, 8), (2, 64), (128, 3), (1, 64), (4, 4, 4)]


def test_matrices_come_first_and_what_would_leave_the_next_unaligned_is_alone():
    small, vector, matrix, double = Tensor.ones(3), Tensor.ones(64), Tensor.ones(16, 8), Tensor.ones(64).cast("float64")
    found = bundles([small, vector, matrix, double])
    assert [[id(t) for t in bundle] for bundle in found] == [
        [id(matrix), id(vector)], [id(double)], [id(small)]
    ]  # fmt: skip


def test_join_and_parts_are_inverse(device):
    arrays = [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(SHAPES)]
    tensors = [Tensor(a, device=device) for a in arrays]
    flat = join(tensors)
    np.testing.assert_array_equal(flat.numpy(), np.concatenate([a.ravel() for a in arrays]))
    for part, want in zip(parts(flat, tensors), arrays, strict=True):
        np.testing.assert_array_equal(part.numpy(), want)


@st.composite
def histories(draw):
    """Shapes of some state, and what happens to it from call to call."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    number = st.integers(0, len(shapes) - 1)
    event = st.one_of(
        st.just(("step",)),
        st.just(("step",)),
        st.tuples(st.just("replace"), number),  # by a value from outside
        st.tuples(st.just("hold"), number),  # keep a view of what it is now
        st.tuples(st.just("swap"), number),  # bind it to a computed value
        st.just(("hold all",)),
    )
    return shapes, draw(st.lists(event, min_size=2, max_size=7)), draw(st.booleans())


def run_history(history, device: str) -> None:
    shapes, events, jitted = history
    rng = np.random.default_rng(len(events))
    wanted = [rng.integers(-8, 8, shape).astype(np.float32) for shape in shapes]
    states = [Tensor(w, device=device) for w in wanted]
    momentum, expected = Tensor(np.zeros(sum(w.size for w in wanted), np.float32), device=device), 0.0

    def step(x):
        seen = sum((state.sum() for state in states), x)  # each part is read by itself, too
        flat = join(states)
        momentum.assign(momentum * 0.5 + flat)
        for state, part in zip(states, parts(flat + momentum * 2 - x, states), strict=True):
            state.assign(part)
        return seen

    call = jit(step) if jitted else step
    held: list[tuple[Tensor, np.ndarray]] = []
    for number, event in enumerate(events):
        kind, at = event[0], event[-1]
        if kind == "step":
            before = sum(float(w.sum()) for w in wanted) + number
            got = call(Tensor(np.float32(number), device=device))
            old = np.concatenate([w.ravel() for w in wanted])
            expected = expected * 0.5 + old
            new = old + expected * 2 - number
            ends = np.cumsum([w.size for w in wanted])[:-1]
            wanted = [part.reshape(w.shape) for part, w in zip(np.split(new, ends), wanted, strict=True)]
            assert got.item() == before
        elif kind == "replace":
            wanted[at] = rng.integers(-8, 8, shapes[at]).astype(np.float32)
            states[at].assign(Tensor(wanted[at], device=device))
        elif kind == "swap":
            wanted[at] = wanted[at] * 2
            states[at].assign(states[at] * 2)
        else:
            held += [(states[i].detach(), wanted[i]) for i in ([at] if kind == "hold" else range(len(states)))]
    for tensor, want in [*held, *zip(states, wanted, strict=True)]:
        np.testing.assert_array_equal(tensor.numpy(), want)


@given(histories())
def test_state_updated_as_one_value_is_what_it_should_be(history):
    run_history(history, "NUMPY")


@settings(max_examples=max(2, settings().max_examples // 8))
@given(histories())
def test_state_updated_as_one_value_is_what_it_should_be_on_opencl(cl, history):
    run_history(history, cl)


@pytest.mark.parametrize("jitted", [False, True])
def test_a_bundle_is_updated_by_one_kernel_and_moves_nothing(device, jitted):
    """Ten parameters cost as many kernels as two, and a step copies none of them."""

    def count(layers: int) -> int:
        Tensor.manual_seed(0)
        weights = [Tensor.randn(16, 16, device=device, requires_grad=True).realize() for _ in range(layers)]
        optimizer = nn.optim.AdamW(weights, lr=1e-2)

        def step():
            for w in weights:
                w.grad = Tensor.ones(16, 16, device=device)
            optimizer.step()

        call = jit(step) if jitted else step
        for _ in range(2):
            call()
        before = Device[device].counters.kernels
        call()
        return Device[device].counters.kernels - before

    assert count(10) == count(2)


def test_parameters_share_memory_after_a_step_and_come_apart_again(device):
    weights = [Tensor.ones(8, 8, device=device, requires_grad=True) for _ in range(3)]
    optimizer = nn.optim.SGD(weights, lr=1.0)
    for w in weights:
        w.grad = Tensor.ones(8, 8, device=device)
    optimizer.step()
    base = weights[0].node.buffer.base
    assert base is not None and all(w.node.buffer.base is base for w in weights)
    live = Device[device].counters.live_bytes
    del optimizer, base
    for w in weights:
        w.assign(Tensor.zeros(8, 8, device=device).realize())
        w.grad = None
    Tensor.realize_all(weights)
    assert Device[device].counters.live_bytes <= live


def test_a_parameter_without_a_gradient_keeps_its_value_and_its_state(device):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((8, 8)).astype(np.float32) for _ in range(3)]
    ours = [Tensor(a, device=device, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    optimizers = nn.optim.SGD(ours, lr=0.1, momentum=0.9), torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for live in ([0, 1, 2], [0, 2], [1], [0, 1, 2]):
        for optimizer in optimizers:
            optimizer.zero_grad()
        for i in live:
            g = rng.standard_normal((8, 8)).astype(np.float32)
            ours[i].grad, theirs[i].grad = Tensor(g, device=device), torch.tensor(g)
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-5, atol=1e-6)
