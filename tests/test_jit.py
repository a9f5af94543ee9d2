"""jit: the same numbers as the plain function, a plan that is made once, and errors that say what to do."""

import gc

import numpy as np
import pytest

from clgrad import Device, Tensor, jit, nn
from clgrad.engine import random
from clgrad.engine.node import Node


def mlp(device, seed=0):
    Tensor.manual_seed(seed)
    with_device = dict(device=device, requires_grad=True)
    return [
        Tensor.randn(6, 16, **with_device).realize(),
        Tensor.zeros(16, **with_device),
        Tensor.randn(16, 1, **with_device),
    ]


def make_step(parameters, learning_rate=0.05):
    optimizer = nn.optim.AdamW(parameters, lr=learning_rate)

    def step(x, y):
        optimizer.zero_grad()
        w, b, v = parameters
        loss = (((x @ w + b).tanh() @ v) - y).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss

    return step


def batches(device, count=12, rows=10):
    rng = np.random.default_rng(7)
    for _ in range(count):
        x = rng.standard_normal((rows, 6)).astype(np.float32)
        yield Tensor(x, device=device), Tensor(np.sin(x.sum(1, keepdims=True)), device=device)


def test_a_jitted_step_gives_the_numbers_of_the_plain_one(device):
    plain, traced = mlp(device), mlp(device)
    plain_step, jitted = make_step(plain), jit(make_step(traced))
    a = [plain_step(x, y).item() for x, y in batches(device)]
    b = [jitted(x, y).item() for x, y in batches(device)]
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for p, q in zip(plain, traced, strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-3, atol=1e-6)
    assert jitted.traces == 1


def test_a_replay_builds_no_node_compiles_nothing_and_allocates_what_it_returns(device):
    step = jit(make_step(mlp(device)))
    pairs = list(batches(device, 8))
    step(*pairs[0])
    for x, y in pairs[1:]:
        gc.collect()  # what other tests left is not to be freed meanwhile
        counters = Device[device].counters
        before = counters.allocations, counters.builds, counters.live_bytes, Node.created
        loss = step(x, y)
        after = counters.allocations, counters.builds, counters.live_bytes, Node.created
        # one allocation, and one leaf for it: the loss
        assert (after[0] - before[0], after[1] - before[1], after[3] - before[3]) == (1, 0, 1)
        assert after[2] - before[2] == 4
        del loss


def test_what_a_caller_keeps_survives_ten_replays(device):
    parameters = mlp(device)
    step = jit(make_step(parameters))
    pairs = list(batches(device, 14))
    step(*pairs[0])
    step(*pairs[1])
    kept_weight, kept_grad = parameters[0].detach(), parameters[0].grad
    view = parameters[2].detach().reshape(4, 4)
    losses = [step(x, y) for x, y in pairs[2:3]]
    expected = kept_weight.numpy(), kept_grad.numpy(), view.numpy(), [loss.item() for loss in losses]
    fresh = []
    for x, y in pairs[3:13]:
        losses.append(step(x, y))
        fresh.append(losses[-1].item())
    assert np.array_equal(kept_weight.numpy(), expected[0])
    assert np.array_equal(kept_grad.numpy(), expected[1])
    assert np.array_equal(view.numpy(), expected[2])
    assert [loss.item() for loss in losses] == expected[3] + fresh
    assert not np.array_equal(parameters[0].numpy(), expected[0])


def test_a_new_shape_a_new_dtype_and_a_new_python_argument_trace_again(device):
    @jit
    def scale(x, factor):
        return x * factor

    a = Tensor([1.0, 2.0], device=device)
    assert scale(a, 2).tolist() == [2.0, 4.0] and scale(a, 2).tolist() == [2.0, 4.0]
    assert scale.traces == 1
    assert scale(a, 3).tolist() == [3.0, 6.0] and scale.traces == 2
    assert scale(Tensor([[1.0, 2.0, 3.0]], device=device), 2).tolist() == [[2.0, 4.0, 6.0]] and scale.traces == 3
    assert scale(Tensor([1, 2], device=device), 2).tolist() == [2, 4] and scale.traces == 4
    assert scale(a, 2.0).tolist() == [2.0, 4.0] and scale.traces == 5


def test_two_arguments_that_are_one_tensor_are_told_from_two(device):
    @jit
    def subtract(x, y):
        return x - y

    a, b = Tensor([5.0], device=device), Tensor([3.0], device=device)
    assert subtract(a, a).item() == 0.0
    assert subtract(a, b).item() == 2.0


@pytest.mark.parametrize("read", ["item", "numpy", "tolist"])
def test_reading_a_value_while_tracing_says_what_to_do(read):
    @jit
    def bad(x):
        getattr(x.sum(), read)()
        return x

    x = Tensor([1.0])
    with pytest.raises(RuntimeError, match="while jit traces bad.*return the Tensor"):
        bad(x)
    assert x.item() == 1.0  # the trace put everything back


def test_branching_on_a_value_while_tracing_says_what_to_do():
    @jit
    def bad(x):
        return x if (x.sum() > 0) else -x

    with pytest.raises(RuntimeError, match="there are no values yet"):
        bad(Tensor([1.0]))


@pytest.mark.parametrize("result", [1.5, "text", np.ones(2)])
def test_returning_something_that_is_no_tensor_says_what_to_do(result):
    @jit
    def bad(x):
        return x, result

    with pytest.raises(TypeError, match="can only return Tensors"):
        bad(Tensor([1.0]))


def test_an_argument_that_cannot_be_part_of_a_signature_is_refused():
    @jit
    def function(x, y):
        return x

    with pytest.raises(TypeError, match="cannot be part of a signature"):
        function(Tensor([1.0]), np.ones(2))


def test_results_keep_their_structure(device):
    @jit
    def several(x):
        return {"double": x * 2, "pair": (x + 1, [x - 1, None])}

    for value in (1.0, 5.0):
        result = several(Tensor([value], device=device))
        assert result["double"].tolist() == [2 * value]
        assert result["pair"][0].tolist() == [value + 1]
        assert result["pair"][1][0].tolist() == [value - 1] and result["pair"][1][1] is None


def test_an_argument_returned_as_it_is_is_a_copy(device):
    state = Tensor([1.0], device=device)

    @jit
    def old_and_new(x):
        before = state * 1
        state.assign(state + x)
        return x, before, state

    one = Tensor([1.0], device=device)
    results = [old_and_new(one) for _ in range(3)]
    assert [[t.item() for t in r] for r in results] == [[1.0, 1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 3.0, 4.0]]


def test_captured_names_are_read_afresh(device):
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.assign(Tensor([[1.0, 1.0]]))
    if layer.weight.device != device:
        layer.to(device)

    @jit
    def forward(x):
        return layer(x)

    x = Tensor([[2.0, 3.0]], device=device)
    assert forward(x).item() == 5.0
    layer.load_state_dict({"weight": np.array([[10.0, 1.0]], np.float32)})
    assert forward(x).item() == 23.0
    layer.weight.assign(Tensor([[0.0, 1.0]], device=device))
    assert forward(x).item() == 3.0
    assert forward.traces == 1


def test_train_and_eval_are_two_traces(device):
    Tensor.manual_seed(3)
    drop = nn.Dropout(0.5)

    @jit
    def forward(x):
        return drop(x)

    x = Tensor.ones(1000, device=device).realize()
    first, second = forward(x).numpy(), forward(x).numpy()
    assert 300 < (first == 0).sum() < 700 and not np.array_equal(first, second)
    drop.eval()
    assert np.array_equal(forward(x).numpy(), np.ones(1000, np.float32))
    drop.train()
    assert (forward(x).numpy() == 0).any() and forward.traces == 2


def test_random_numbers_of_replays_are_those_of_plain_calls(device):
    def draw():
        return Tensor.rand(5, device=device), Tensor.randint(3, low=0, high=100, device=device)

    Tensor.manual_seed(11)
    plain = [[t.tolist() for t in draw()] for _ in range(4)]
    Tensor.manual_seed(11)
    traced = jit(draw)
    mixed = [[t.tolist() for t in traced()] for _ in range(2)]
    mixed.append([t.tolist() for t in draw()])  # plain calls between replays take their own range
    mixed.append([t.tolist() for t in traced()])
    assert mixed == plain


def test_gradients_accumulate_in_a_replay_as_in_plain_calls(device):
    w = Tensor([1.0, 2.0], device=device, requires_grad=True)

    @jit
    def accumulate(x):
        loss = (w * x).sum()
        loss.backward()
        return loss

    x = Tensor([3.0, 4.0], device=device)
    for count in (1, 2, 3):
        accumulate(x)
        assert w.grad.tolist() == [3.0 * count, 4.0 * count]
    w.grad = None
    accumulate(x)
    assert w.grad.tolist() == [3.0, 4.0]


def test_a_number_given_as_a_tensor_is_no_reason_to_trace_again(device):
    rate = Tensor(0.5, device=device)

    @jit
    def scaled(x):
        return x * rate

    x = Tensor([2.0], device=device)
    assert scaled(x).item() == 1.0
    for value in (0.25, 2.0):
        rate.assign(value)
        assert scaled(x).item() == 2 * value
    assert scaled.traces == 1


def test_a_state_read_after_it_was_written_elsewhere_keeps_its_order(device):
    """The new value must not reach the old one's memory before every reader of the old one has run."""
    a, b = Tensor([1.0, 2.0, 3.0], device=device), Tensor([10.0, 20.0, 30.0], device=device)

    @jit
    def swap_and_mix():
        old_a, old_b = a * 1, b * 1
        a.assign(old_b.flip(0))
        b.assign(old_a + old_b)
        return old_a.sum()

    x, y = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])
    for _ in range(4):
        assert swap_and_mix().item() == pytest.approx(x.sum())
        x, y = y[::-1].copy(), x + y
        assert a.tolist() == x.tolist() and b.tolist() == y.tolist()


def test_a_state_that_reads_itself_moved_is_not_overwritten_in_place(device):
    state = Tensor(np.arange(5.0, dtype=np.float32), device=device)

    @jit
    def turn():
        state.assign(Tensor.cat(state[1:], state[:1]) + 1)
        return state.sum()

    expected = np.arange(5.0)
    for _ in range(3):
        turn()
        expected = np.roll(expected, -1) + 1
        assert state.tolist() == expected.tolist()


def test_an_error_while_tracing_leaves_everything_as_it_was(device):
    w = Tensor([1.0], device=device, requires_grad=True)

    @jit
    def fails(x):
        w.assign(w * 5)
        raise KeyError("on purpose")

    with pytest.raises(KeyError):
        fails(Tensor([1.0], device=device))
    assert w.tolist() == [1.0] and w.requires_grad
    (w * 2).sum().backward()
    assert w.grad.tolist() == [2.0]


def test_a_captured_history_is_refused():
    w = Tensor([1.0], requires_grad=True)
    hidden = w * 2

    @jit
    def uses(x):
        return hidden * x

    with pytest.raises(RuntimeError, match="detach\\(\\) it, or compute it inside"):
        uses(Tensor([1.0]))


def test_a_jitted_method_belongs_to_its_instance(device):
    class Counter:
        def __init__(self, start):
            self.value = Tensor([start], device=device)

        @jit
        def add(self, x):
            self.value.assign(self.value + x)
            return self.value * 1

    a, b = Counter(0.0), Counter(100.0)
    one = Tensor([1.0], device=device)
    assert [a.add(one).item(), b.add(one).item(), a.add(one).item()] == [1.0, 101.0, 2.0]


def test_a_function_jitted_inside_another_is_part_of_it(device):
    @jit
    def inner(x):
        return x + 1

    @jit
    def outer(x):
        return inner(x) * 2

    assert [outer(Tensor([v], device=device)).item() for v in (1.0, 2.0)] == [4.0, 6.0]
    assert inner.traces == 0


def test_two_states_change_places(device):
    a, b = Tensor([1, 2, 3], device=device), Tensor([4, 5, 6], device=device)

    @jit
    def swap():
        old = a.detach()
        a.assign(b)
        b.assign(old)

    for _ in range(3):
        swap()
    assert (a.tolist(), b.tolist()) == ([4, 5, 6], [1, 2, 3])


def test_replacing_rows_of_state_writes_those_rows_and_allocates_nothing(device):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    cache = Tensor(np.zeros((64, 2, 32), np.float32), device=device)
    want = torch.zeros(64, 2, 32)

    @jit
    def write(rows, at):
        cache.assign(cache.index_copy(0, at, rows * 2))
        return cache.sum()

    rng = np.random.default_rng(0)
    for call in range(6):
        rows, at = rng.integers(-9, 9, (3, 2, 32)).astype(np.float32), rng.permutation(64)[:3].astype(np.int64)
        arguments = Tensor(rows, device=device), Tensor(at, device=device)
        before, memory = Device[device].counters.allocations, cache.node.buffer.handle
        total = write(*arguments)
        if call:
            assert Device[device].counters.allocations - before == 1  # the sum
            assert cache.node.buffer.handle is memory
        want.index_copy_(0, torch.tensor(at), torch.tensor(rows * 2))
        np.testing.assert_array_equal(cache.numpy(), want.numpy())
        assert total.item() == want.sum().item()


def test_rows_of_state_that_somebody_holds_are_replaced_in_a_copy(device):
    cache = Tensor(np.zeros((4, 64), np.float32), device=device)

    @jit
    def write(value, at):
        cache.assign(cache.index_copy(0, at, value.expand(1, 64)))

    kept = []
    for call in range(4):
        kept.append(cache.detach())
        write(Tensor([[float(call + 1)]], device=device), Tensor([call], device=device))
    for call, old in enumerate([*kept, cache]):
        np.testing.assert_array_equal(old.numpy()[:, 0], [i + 1.0 if i < call else 0.0 for i in range(4)])


def test_a_generator_that_is_first_needed_inside_a_trace_still_moves_on(device, monkeypatch):
    monkeypatch.setattr(random, "_generators", {})

    @jit
    def draw():
        return Tensor.rand(8, device=device)

    first, second, third = (draw().tolist() for _ in range(3))
    assert len({*first, *second, *third}) > 16 and draw.traces == 1
