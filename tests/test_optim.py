"""Optimisers walk the same path as PyTorch's, jitted or not, and exchange state dicts with them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nn_helpers import normal, ours

from clgrad import Device, Tensor, jit, nn
from clgrad.nn import optim, schedule

SHAPES = [(4, 3), (3,), ()]
STEPS = 20
SEEDS = st.integers(0, 999)


def parameters(device="NUMPY"):
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    return [ours(a, device, requires_grad=True) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]


def gradients(step):
    return [normal(*shape, seed=100 * step + i) for i, shape in enumerate(SHAPES)]


def set_gradients(mine, other, step):
    for p, q, g in zip(mine, other, gradients(step), strict=True):
        p.grad, q.grad = ours(g, p.device), torch.tensor(g)


def assert_close(mine, other):
    for p, q in zip(mine, other, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=2e-5, atol=2e-6)


NUMBERS = {
    "lr": [1e-3, 0.05, 0.0],
    "momentum": [0.0, 0.9],
    "dampening": [0.0, 0.5],
    "weight_decay": [0.0, 0.1],
    "nesterov": [False, True],
    "maximize": [False, True],
    "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.0)],
    "eps": [1e-8, 1e-3],
    "amsgrad": [False, True],
    "alpha": [0.99, 0.5],
    "centered": [False, True],
    "lr_decay": [0.0, 0.2],
    "initial_accumulator_value": [0.0, 0.3],
    "ns_steps": [5, 2],
    "ns_coefficients": [(3.4445, -4.775, 2.0315), (2.0, -1.5, 0.5)],
    "adjust_lr_fn": [None, "original", "match_rms_adamw"],
}
OPTIONS = {
    "SGD": ["lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"],
    "Adam": ["lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"],
    "AdamW": ["lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"],
    "RMSprop": ["lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"],
    "Adagrad": ["lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps", "maximize"],
    "Muon": ["lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "ns_steps", "eps", "adjust_lr_fn"],
}
OF_MUON = [(4, 3), (3, 4), (8, 8), (1, 5), (4, 4)]
OF_OTHERS = [(4, 3), (3,), (), (0, 2), (2, 3, 2), (64,), (8, 8), (16, 4)]


@st.composite
def runs(draw, name):
    """[(options, shapes) of each group], learning rates of each step or None, the step before which states change
    sides, whether ours is jitted, a seed."""

    def some_options():
        wanted = draw(st.lists(st.sampled_from(OPTIONS[name]), unique=True, max_size=5))
        found = {option: draw(st.sampled_from(NUMBERS[option])) for option in wanted}
        if found.get("nesterov") and name == "SGD":  # which wants both
            found |= {"momentum": 0.9, "dampening": 0.0}
        elif name == "SGD":
            found["nesterov"] = False
        return found

    shapes = st.lists(st.sampled_from(OF_MUON if name == "Muon" else OF_OTHERS), min_size=1, max_size=3)
    groups = [(some_options(), draw(shapes)) for _ in range(draw(st.integers(1, 3)))]
    for options, _ in groups[1:]:
        options.pop("initial_accumulator_value", None)
    rates = draw(st.lists(st.none() | st.sampled_from([0.01, 0.1]), min_size=1, max_size=4))
    return groups, rates, draw(st.integers(1, 4)), draw(st.booleans()), draw(st.integers(0, 999))


def follow(name, run, device):
    """The parameters of ours and of torch's stay equal, step by step, and through an exchange of states."""
    groups, rates, swap, jitted, seed = run
    rng = np.random.default_rng(seed)
    arrays = [[rng.standard_normal(shape).astype(np.float32) for shape in shapes] for _, shapes in groups]
    mine = [[ours(a, device, requires_grad=True) for a in group] for group in arrays]
    other = [[torch.tensor(a, requires_grad=True) for a in group] for group in arrays]

    # torch takes this one from the constructor alone, whatever a group says
    start = {key: groups[0][0][key] for key in ("initial_accumulator_value",) if key in groups[0][0]}

    def build(package, params):
        own = [{"params": p, **options, **start} for p, (options, _) in zip(params, groups, strict=True)]
        return getattr(package, name)(own, lr=0.02, **start)

    optimizer, reference = build(optim, mine), build(torch.optim, other)
    step = jit(optimizer.step) if jitted else optimizer.step
    for number, rate in enumerate(rates):
        if number == swap:
            to_torch = optimizer.state_dict()
            to_torch["state"] = {
                i: {key: torch.tensor(t.numpy()) for key, t in known.items()} for i, known in to_torch["state"].items()
            }
            to_us = reference.state_dict()
            optimizer, reference = build(optim, mine), build(torch.optim, other)
            optimizer.load_state_dict(to_us)
            reference.load_state_dict(to_torch)
            step = jit(optimizer.step) if jitted else optimizer.step
        if rate is not None:
            for o in (optimizer, reference):
                o.param_groups[0]["lr"] = rate
        for p, q in zip(sum(mine, []), sum(other, []), strict=True):
            g = rng.standard_normal(p.shape).astype(np.float32)
            p.grad, q.grad = ours(g, device), torch.tensor(g)
        step()
        reference.step()
        assert_close(sum(mine, []), sum(other, []))


@pytest.fixture
def exact_muon(monkeypatch):
    """torch's Muon orthogonalises in bfloat16; in the dtype of the parameters it can be compared."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", OPTIONS)
@given(data=st.data())
def test_steps_equal_torchs_and_states_change_sides(exact_muon, name, data):
    follow(name, data.draw(runs(name)), "NUMPY")


@settings(
    max_examples=max(3, settings().max_examples // 4), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_steps_equal_torchs_on_opencl(cl, exact_muon, data):
    name = data.draw(st.sampled_from(list(OPTIONS)))
    follow(name, data.draw(runs(name)), cl)


def lamb_step(p, g, state, t, lr, betas, eps, weight_decay):
    """One step of the paper's algorithm 2 in float64, with 1 for a ratio of norms that is not defined."""
    m, v = state
    m[...] = betas[0] * m + (1 - betas[0]) * g
    v[...] = betas[1] * v + (1 - betas[1]) * g * g
    r = (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + weight_decay * p
    size, length = np.linalg.norm(p), np.linalg.norm(r)
    return p - lr * (size / length if size > 0 and length > 0 else 1.0) * r


@given(
    st.lists(st.sampled_from(OF_OTHERS), min_size=1, max_size=4),
    st.sampled_from(NUMBERS["betas"]),
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
    SEEDS,
)
def test_lamb_does_what_the_paper_says(shapes, betas, weight_decay, jitted, seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays[0] *= seed % 2  # a parameter that starts at 0 has no size
    options = dict(lr=0.05, betas=betas, eps=1e-6, weight_decay=weight_decay)
    mine = [ours(a, requires_grad=True) for a in arrays]
    optimizer = optim.LAMB(mine, **options)
    step = jit(optimizer.step) if jitted else optimizer.step
    expected = [a.astype(np.float64) for a in arrays]
    states = [(np.zeros_like(p), np.zeros_like(p)) for p in expected]
    for t in range(1, 4):
        for i, p in enumerate(mine):
            g = rng.standard_normal(p.shape).astype(np.float32)
            p.grad = ours(g)
            expected[i] = lamb_step(expected[i], g.astype(np.float64), states[i], t, **options)
        step()
        for p, want in zip(mine, expected, strict=True):
            np.testing.assert_allclose(p.numpy(), want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", [*OPTIONS, "LAMB"])
@pytest.mark.parametrize("jitted", [False, True])
def test_ten_parameters_cost_as_many_kernels_as_two(device, name, jitted):
    def count(layers):
        weights = [Tensor.ones(16, 16, device=device, requires_grad=True) for _ in range(layers)]
        optimizer = getattr(optim, name)(weights, lr=1e-2, weight_decay=0.1)

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


def test_groups_have_their_own_options_and_can_be_added():
    mine, other = parameters()
    pairs = []
    for package, p in ((optim, mine), (torch.optim, other)):
        optimizer = package.AdamW([{"params": p[:1], "weight_decay": 0.5}, {"params": p[1:2], "lr": 0.2}], lr=0.1)
        optimizer.add_param_group({"params": p[2], "betas": (0.5, 0.5)})
        pairs.append(optimizer)
    optimizer, reference = pairs
    for step in range(STEPS):
        set_gradients(mine, other, step)
        optimizer.step()
        reference.step()
    assert_close(mine, other)


def test_a_parameter_without_gradient_is_left_alone():
    mine, _ = parameters()
    optimizer = optim.AdamW(mine, lr=0.1)
    before = mine[0].numpy()
    mine[1].grad = Tensor.ones(3)
    optimizer.step()
    np.testing.assert_array_equal(mine[0].numpy(), before)
    assert not optimizer.state[mine[0]]["exp_avg"].numpy().any()


@pytest.mark.parametrize("name", [*OPTIONS, "LAMB"])
def test_a_loaded_state_is_a_copy_and_goes_on_where_the_other_was(name):
    options = {"lr": 0.1, "weight_decay": 0.1, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {})}
    first, second = ([ours(normal(4, 3), requires_grad=True)] for _ in range(2))
    optimizer = getattr(optim, name)(first, **options)
    grads = [ours(normal(4, 3, seed=i)) for i in range(5)]
    for g in grads[:3]:
        first[0].grad = g
        optimizer.step()
    again = getattr(optim, name)(second, lr=1.0)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr"] == 0.1
    second[0].assign(first[0].detach())
    before = {name: t.numpy() for name, t in optimizer.state_dict()["state"][0].items()}
    for g in grads[3:]:
        second[0].grad = g
        again.step()
    for name, t in optimizer.state_dict()["state"][0].items():  # which has not moved on with the other
        np.testing.assert_array_equal(t.numpy(), before[name])
    for g in grads[3:]:
        first[0].grad = g
        optimizer.step()
    np.testing.assert_array_equal(first[0].numpy(), second[0].numpy())


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    mine, _ = parameters()
    optimizer = optim.AdamW(mine)
    state = optimizer.state_dict()
    state["state"][1]["exp_avg"] = np.ones((5, 5))
    state["state"][0]["exp_avg"] = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"exp_avg of parameter 1 has shape \(5, 5\).*\(3,\)"):
        optimizer.load_state_dict(state)
    assert not optimizer.state[mine[0]]["exp_avg"].numpy().any()
    with pytest.raises(ValueError, match="decoupled in AdamW"):
        optim.Adam(mine).load_state_dict(torch.optim.AdamW(parameters()[1]).state_dict())
    with pytest.raises(ValueError, match=r"groups of \[3\] .* groups of \[1\]"):
        optim.AdamW(mine[:1]).load_state_dict(optimizer.state_dict())


def test_a_jitted_step_equals_the_plain_one_and_obeys_a_changed_learning_rate(device):
    results = []
    for wrap in (lambda f: f, jit):
        (p, *_), _ = parameters(device)
        target = ours(normal(4, 3, seed=7), device)
        optimizer = optim.AdamW([p], lr=0.1)

        def step(target, optimizer=optimizer, p=p):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(p, target)
            loss.backward()
            nn.utils.clip_grad_norm_([p], 0.5)
            optimizer.step()
            return loss

        step = wrap(step)
        losses = []
        for iteration in range(8):
            optimizer.param_groups[0]["lr"] = 0.1 / (iteration + 1) if iteration != 5 else 0.0
            losses.append(step(target).item())
        assert losses[4] != losses[5] == losses[6] != losses[7]
        results.append((losses, p.numpy()))
        if wrap is jit:
            assert step.traces == 1
            assert optimizer.state_dict()["state"][0]["step"].item() == 8
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5)


def test_a_jitted_step_obeys_every_changed_option_and_an_added_group():
    p, q = (Tensor(np.ones(2, np.float32), requires_grad=True) for _ in range(2))
    optimizer = optim.SGD([p], lr=0.5)

    @jit
    def step():
        optimizer.zero_grad()
        loss = (p + q).sum()
        loss.backward()
        optimizer.step()
        return loss

    step()
    assert p.tolist() == [0.5, 0.5]
    optimizer.param_groups[0]["weight_decay"] = 1.0
    step()
    assert p.tolist() == [-0.25, -0.25] and q.tolist() == [1.0, 1.0]
    optimizer.add_param_group({"params": [q], "lr": 1.0})
    step()
    assert q.tolist() == [0.0, 0.0]


def test_a_tensor_as_learning_rate_is_read_at_every_step():
    p = Tensor(np.zeros(2, np.float32), requires_grad=True)
    lr = Tensor(np.array(1.0, np.float32))
    optimizer = optim.SGD([p], lr=lr)
    for value, expected in ((1.0, -1.0), (0.5, -1.5)):
        lr.assign(Tensor(np.array(value, np.float32)))
        p.grad = Tensor.ones(2)
        optimizer.step()
        assert p.tolist() == [expected, expected]
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert p.tolist() == [-1.5, -1.5]


def test_zero_grad_forgets_or_zeroes():
    mine, _ = parameters()
    optimizer = optim.SGD(mine)
    mine[1].grad = Tensor.ones(3)
    optimizer.zero_grad(set_to_none=False)
    assert mine[0].grad is None and mine[1].grad.tolist() == [0, 0, 0]
    optimizer.zero_grad()
    assert mine[1].grad is None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: optim.SGD([]), ValueError, "empty"),
        (lambda p: optim.SGD(p[0]), TypeError, "list of Tensors"),
        (lambda p: optim.SGD([np.zeros(3)]), TypeError, "not ndarray"),
        (lambda p: optim.SGD([Tensor.zeros(3)]), ValueError, "requires_grad=False"),
        (lambda p: optim.SGD([p[0], p[0]]), ValueError, "twice"),
        (lambda p: optim.SGD([{"params": p}, {"params": p[0]}]), ValueError, "twice"),
        (lambda p: optim.SGD(p, lr=-1.0), ValueError, "-1.0"),
        (lambda p: optim.SGD(p, nesterov=True), ValueError, "nesterov"),
        (lambda p: optim.Adam(p, betas=(0.9, 1.0)), ValueError, "betas"),
        (lambda p: optim.AdamW(p, weight_decay=-0.1), ValueError, "weight_decay"),
        (lambda p: optim.AdamW(p, lr=Tensor([0.1, 0.2])), ValueError, r"shape \(2,\)"),
        (lambda p: optim.RMSprop(p, alpha=-0.5), ValueError, "alpha must not be negative, got -0.5"),
        (lambda p: optim.RMSprop(p, momentum=-0.5), ValueError, "momentum"),
        (lambda p: optim.Adagrad(p, lr_decay=-0.5), ValueError, "lr_decay"),
        (lambda p: optim.Adagrad(p, initial_accumulator_value=-0.5), ValueError, "initial_accumulator_value"),
        (lambda p: optim.LAMB(p, betas=(1.0, 0.9)), ValueError, "betas"),
        (lambda p: optim.LAMB(p, eps=-1.0), ValueError, "eps"),
        (lambda p: optim.Muon(p), ValueError, r"shape \(3,\), no matrix"),
        (lambda p: optim.Muon(p[:1], adjust_lr_fn="x"), ValueError, "'x'"),
        (lambda p: optim.Muon(p[:1], ns_coefficients=(1.0, 2.0)), ValueError, "three numbers"),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(parameters()[0])


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clip_grad_norm_equals_torchs(norm_type, max_norm):
    mine, other = parameters()
    set_gradients(mine, other, 0)
    mine[1].grad = other[1].grad = None
    total = nn.utils.clip_grad_norm_(mine, max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(other, max_norm, norm_type)
    np.testing.assert_allclose(total.item(), expected.item(), rtol=1e-5)
    for i in (0, 2):
        np.testing.assert_allclose(mine[i].grad.numpy(), other[i].grad.numpy(), rtol=1e-5)


def test_clip_grad_value_equals_torchs():
    values = np.array([-3.0, -0.5, 0.0, 2.0, np.inf, np.nan], "float32")
    p, without = Tensor(values, requires_grad=True), Tensor([1.0], requires_grad=True)
    t = torch.tensor(values, requires_grad=True)
    p.grad, t.grad = Tensor(values), torch.tensor(values)
    nn.utils.clip_grad_value_([p, without], 1.5)
    torch.nn.utils.clip_grad_value_([t], 1.5)
    np.testing.assert_array_equal(p.grad.numpy(), t.grad.numpy())
    assert without.grad is None
    with pytest.raises(ValueError, match="-1"):
        nn.utils.clip_grad_value_(p, -1)


def test_clip_grad_norm_without_gradients_is_zero():
    assert nn.utils.clip_grad_norm_(parameters()[0], 1.0).item() == 0.0


def test_the_cosine_schedule_meets_its_corners():
    options = dict(max_lr=1e-3, min_lr=1e-4, warmup_iters=100, decay_iters=2000)
    rate = lambda i: schedule.cosine_with_warmup(i, **options)  # noqa: E731
    assert rate(0) == pytest.approx(1e-3 / 101)
    assert rate(100) == pytest.approx(1e-3)
    assert rate(1050) == pytest.approx(5.5e-4)
    assert rate(2000) == rate(5000) == pytest.approx(1e-4)
    rates = [rate(i) for i in range(2001)]
    assert all(a < b for a, b in zip(rates[:100], rates[1:101], strict=True))
    assert all(a > b for a, b in zip(rates[100:-1], rates[101:], strict=True))


def test_schedulers_set_every_group_and_resume():
    mine, other = parameters()
    optimizer = optim.SGD([{"params": mine[:1]}, {"params": mine[1:], "lr": 0.5}], lr=1.0)
    reference = torch.optim.SGD([{"params": other[:1]}, {"params": other[1:], "lr": 0.5}], lr=1.0)
    decay = lambda epoch: 0.5**epoch  # noqa: E731
    scheduler, expected = schedule.LambdaLR(optimizer, decay), torch.optim.lr_scheduler.LambdaLR(reference, decay)
    for _ in range(3):
        for p in other:
            p.grad = torch.zeros_like(p)
        reference.step()
        scheduler.step()
        expected.step()
        assert scheduler.get_last_lr() == expected.get_last_lr() == [g["lr"] for g in optimizer.param_groups]
    fresh = schedule.LambdaLR(optim.SGD([{"params": mine[:1]}, {"params": mine[1:]}], lr=3.0), decay)
    fresh.load_state_dict(scheduler.state_dict())
    assert fresh.get_last_lr() == scheduler.get_last_lr()
    cosine = schedule.CosineWithWarmup(optim.SGD(mine, lr=1.0), warmup_iters=1, decay_iters=3, min_lr=0.5)
    seen = [cosine.get_last_lr()[0]]
    for _ in range(3):
        cosine.step()
        seen += cosine.get_last_lr()
    assert seen == pytest.approx([0.5, 1.0, 0.75, 0.5])


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_half_precision_is_updated_in_float32_and_rounded_once(name):
    values = normal(64, seed=3).astype(np.float16)
    grads = [normal(64, seed=4 + i).astype(np.float16) * (np.arange(64) > 9) for i in range(3)]
    half, single = (Tensor(values, dtype=d, requires_grad=True) for d in ("float16", "float32"))
    lr = 1e-2
    steps = [getattr(optim, name)([p], lr=lr) for p in (half, single)]
    for g in grads:
        half.grad, single.grad = Tensor(g), Tensor(g.astype(np.float32))
        for optimizer in steps:
            optimizer.step()
    assert half.dtype == "float16"
    # One rounding a step, of the parameter and of each moment: a few units in the last place of the larger numbers.
    np.testing.assert_allclose(half.numpy(), single.numpy(), rtol=2e-3, atol=1e-4)
    assert np.abs(half.numpy() - values)[10:].max() > lr
