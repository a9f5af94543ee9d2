"""Graphs of one structure are scheduled once; whatever a schedule depends on makes another structure."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from clgrad import Device, Tensor, nn
from clgrad.engine import node as nodes
from clgrad.engine import program, realize


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    """A cache of its own for each test."""
    fresh = program.Programs()
    monkeypatch.setattr(realize, "PROGRAMS", fresh)
    return fresh


def leaf(*shape, dtype=np.float32, start=0):
    return Tensor((np.arange(start, start + np.prod(shape, dtype=int)) % 7).reshape(shape).astype(dtype))


def test_the_second_graph_of_a_structure_hits_and_gives_its_own_values(device, programs):
    for i in range(3):
        x, y = (leaf(4, 6, start=i + k).to(device).realize() for k in (0, 3))
        expected = ((x.numpy() + y.numpy()) * 2).sum(1)
        misses = programs.misses
        np.testing.assert_allclose(((x + y) * 2).sum(1).numpy(), expected, rtol=1e-6)
        assert programs.misses == misses + (i == 0)


DIFFERENT = {
    "a leaf read twice": (lambda a, b: a * b, lambda a, b: a * a),
    "the order of the leaves in a difference": (lambda a, b: (a - b) * a, lambda a, b: (a - b) * b),
    "a constant": (lambda a, b: a * 2, lambda a, b: a * 3),
    "the sign of zero": (lambda a, b: a + 0.0, lambda a, b: a + (-0.0)),
    "an argument": (lambda a, b: a.sum(0), lambda a, b: a.sum(1)),
    "the axes of a movement": (lambda a, b: a.flip(0) + b, lambda a, b: a.flip(1) + b),
    "the operation": (lambda a, b: a + b, lambda a, b: a * b),
    "the dtype": (lambda a, b: a + b, lambda a, b: a.half().realize() + b.half().realize()),
    "the shape": (lambda a, b: a + b, lambda a, b: a[:2].contiguous().realize() + b[:2].contiguous().realize()),
    "what lies in memory": (lambda a, b: (a + b).exp(), lambda a, b: (a + b).realize().exp()),
    "that a gradient is wanted": (lambda a, b: (a @ b).sum(), lambda a, b: (a.detach().requires_grad_() @ b).sum()),
    "a second barrier": (lambda a, b: _barrier(a * 2, 1), lambda a, b: _barrier(a * 2, 2)),
    "a value in memory that is a constant": (lambda a, b: a * b, lambda a, b: a * Tensor.ones(4, 4).realize()),
}


def _barrier(x, count):
    parts = [Tensor._wrap(nodes.make("barrier", (x.node,))) for _ in range(2)]
    return parts[0] + parts[count - 1]


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_difference_that_a_schedule_may_see_is_another_structure(what, programs):
    def run(which):
        a, b = leaf(4, 4), leaf(4, 4, start=2)
        y = DIFFERENT[what][which](a, b)
        misses = programs.misses
        return y.numpy(), programs.misses - misses

    first, second = run(0), run(1)
    again = run(0), run(1)
    assert (first[1], second[1]) == (1, 1)
    assert (again[0][1], again[1][1]) == (0, 0)
    for cold, warm in zip((first, second), again, strict=True):
        assert cold[0].tobytes() == warm[0].tobytes()


def test_what_is_wanted_is_part_of_the_structure(programs):
    def ask(*which):
        x = leaf(8)
        y = x.exp()
        values = [y, y * 2, y.sum()]
        misses = programs.misses
        Tensor.realize_all([values[i] for i in which])
        assert all(realize.is_view_of_memory(values[i].node) == (i in which) for i in range(3))
        return programs.misses - misses

    assert [ask(0), ask(1), ask(0, 1), ask(1, 0), ask(2), ask(0), ask(0, 1), ask(2)] == [1, 1, 1, 1, 1, 0, 0, 0]


def test_a_cached_step_keeps_for_the_gradient_what_an_uncached_one_keeps(device, programs):
    """A loss that was read leaves its forward products in memory, on a hit too: the backward pass has three dots."""
    kernels = Device[device].counters

    def step():
        w, v = (leaf(6, 6, start=i).to(device).requires_grad_() for i in (1, 4))
        x = leaf(5, 6).to(device)
        Tensor.realize_all([w, v, x])
        loss = ((x @ w).softmax() @ v).square().mean()
        loss.item()
        before = kernels.kernels
        loss.backward()
        Tensor.realize_all([w.grad, v.grad])
        return kernels.kernels - before, w.grad.numpy(), v.grad.numpy()

    cold = step()
    misses = programs.misses
    warm = step()
    assert programs.misses == misses and warm[0] == cold[0]
    assert warm[1].tobytes() == cold[1].tobytes() and warm[2].tobytes() == cold[2].tobytes()


def train(steps, programs=None):
    Tensor.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    optimizer = nn.optim.AdamW(model.parameters(), lr=0.05)
    losses = []
    for i in range(steps):
        if programs is None:
            realize.PROGRAMS.clear()
        x, y = leaf(5, 6, start=i), Tensor((np.arange(5) + i) % 3)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x).dropout(0.1), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.numpy() for p in model.parameters()]


def test_a_training_has_the_same_bits_with_and_without_the_cache(programs):
    without, cached = train(6), train(6, programs)
    assert programs.hits >= 4
    assert without[0] == cached[0]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(without[1], cached[1], strict=True))


def test_a_training_settles_into_hits_alone(programs):
    train(4, programs)
    misses = programs.misses
    train(4, programs)
    assert programs.misses == misses


def test_a_program_keeps_neither_nodes_nor_memory(device, programs):
    gc.collect()
    before = Device[device].counters.live_bytes, nodes.live_nodes()

    def step():
        x = leaf(64, 64).to(device).requires_grad_()
        y = (x @ x).softmax().sum()
        y.backward()
        Tensor.realize_all([y, x.grad])
        return weakref.ref(y.node), weakref.ref(x.node), weakref.ref(x.node.buffer)

    held = step() + step()
    gc.collect()
    assert programs.hits > 0 and all(reference() is None for reference in held)
    assert (Device[device].counters.live_bytes, nodes.live_nodes()) == before


def test_a_program_that_met_a_value_of_another_graph_is_not_kept(programs):
    """`deep` simplifies to the node of `named`, which has a value and, for its gradient's sake, its sources."""
    x = leaf(2, 3).realize().requires_grad_()
    named = (x + x).realize()
    deep = x * 1 + x
    kept = len(programs._known)
    np.testing.assert_array_equal((deep * 2).numpy(), x.numpy() * 4)
    assert len(programs._known) == kept and named is not None
    other = leaf(2, 3, start=5).realize().requires_grad_()
    np.testing.assert_array_equal(((other * 1 + other) * 2).numpy(), other.numpy() * 4)


def test_the_cache_is_bounded_and_the_newest_program_stays():
    few = program.Programs(most_nodes=100)
    sizes = []
    for i in range(1, 12):
        x = leaf(2).realize()
        y = x
        for k in range(i):
            y = y + k
        order, key = program.structure([y.node])
        image, plan, retained = realize.plan_for([y.node])
        few.keep(key, program.Program(order, image, plan, retained, realize.lower(plan.steps, False)))
        sizes.append(few.nodes)
        assert few.nodes <= 100
    assert few.find(key) is not None  # the newest is there
    assert sizes != sorted(sizes)  # some were forgotten


def test_an_error_in_a_cached_run_leaves_the_cache_usable(programs):
    table = leaf(4, 2)

    def take(*index):
        return table.take(Tensor(np.array(index, np.int32))).numpy()

    np.testing.assert_array_equal(take(0, 3), table.numpy()[[0, 3]])
    with pytest.raises(IndexError):
        take(0, 9)
    np.testing.assert_array_equal(take(1, 2), table.numpy()[[1, 2]])
    assert programs.hits >= 2


def test_threads_that_share_a_cache_leave_its_account_right():
    few = program.Programs(most_nodes=50)

    def work(i):
        for k in range(2000):
            key = (i * 7 + k) % 13
            if few.find(key) is None:
                few.keep(key, SimpleNamespace(size=key, foreign={}))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert few.hits + few.misses == 16000
    assert few.nodes == sum(kept.size for kept in few._known.values()) <= 50
