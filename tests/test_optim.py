"""Optimisers walk the same path as PyTorch's, jitted or not, and exchange state dicts with them."""

import math

import numpy as np
import pytest
import torch
from nn_helpers import normal, ours

from clgrad import Tensor, jit, nn
from clgrad.nn import optim, schedule

SHAPES = [(4, 3), (3,), ()]
STEPS = 20

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "betas": (0.0, 0.0)}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "betas": (0.9, 0.99), "weight_decay": 0.3}),
    ("AdamW", {"lr": 0.05, "maximize": True}),
]


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


@pytest.mark.parametrize(("name", "options"), CASES)
def test_twenty_steps_equal_torchs(name, options):
    mine, other = parameters()
    optimizer, reference = getattr(optim, name)(mine, **options), getattr(torch.optim, name)(other, **options)
    for step in range(STEPS):
        set_gradients(mine, other, step)
        optimizer.step()
        reference.step()
        assert_close(mine, other)


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


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_state_dicts_pass_between_here_and_torch(name):
    options = {"lr": 0.1, "weight_decay": 0.1} | ({"momentum": 0.9} if name == "SGD" else {"betas": (0.8, 0.9)})
    mine, other = parameters()
    reference = getattr(torch.optim, name)(other, **options)
    for step in range(3):
        set_gradients(mine, other, step)
        reference.step()
    # torch -> here
    with Tensor.no_grad():
        for p, q in zip(mine, other, strict=True):
            p.assign(ours(q.detach().numpy()))
    optimizer = getattr(optim, name)(mine, lr=1.0)
    optimizer.load_state_dict(reference.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1
    # here -> here
    again = getattr(optim, name)(mine, **options)
    again.load_state_dict(optimizer.state_dict())
    for step in range(3, 6):
        set_gradients(mine, other, step)
        again.step()
        reference.step()
    assert_close(mine, other)
    # loading copied: the first optimiser has not moved on with the second
    assert optimizer.state_dict()["state"][0]["step"].item() == (1 if name == "SGD" else 3)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    mine, _ = parameters()
    optimizer = optim.AdamW(mine)
    state = optimizer.state_dict()
    state["state"][1]["exp_avg"] = np.ones((5, 5))
    state["state"][0]["exp_avg"] = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"exp_avg of parameter 1 has shape \(5, 5\).*\(3,\)"):
        optimizer.load_state_dict(state)
    assert not optimizer.state[mine[0]]["exp_avg"].numpy().any()
    with pytest.raises(ValueError, match="amsgrad"):
        optimizer.load_state_dict(torch.optim.AdamW(parameters()[1], amsgrad=True).state_dict())
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
