"""Learning rates over time: the corners of each schedule, and PyTorch's or transformers' where they have it."""

import pytest

from clgrad import Tensor
from clgrad.nn import optim, schedule

OPTIONS = dict(max_lr=1e-3, min_lr=1e-4, warmup_iters=10, decay_iters=110)


@pytest.mark.parametrize("name", ["cosine_with_warmup", "linear_with_warmup"])
def test_a_decaying_schedule_meets_its_corners(name):
    rate = lambda i: getattr(schedule, name)(i, **OPTIONS)  # noqa: E731
    assert rate(0) == pytest.approx(1e-3 / 11) and rate(10) == pytest.approx(1e-3)
    assert rate(60) == pytest.approx(5.5e-4)  # half-way down, for a line and for half a cosine
    assert rate(110) == rate(500) == pytest.approx(1e-4)
    rates = [rate(i) for i in range(111)]
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_the_linear_schedule_is_a_line():
    rates = [schedule.linear_with_warmup(i, **OPTIONS) for i in range(10, 111)]
    assert [b - a for a, b in zip(rates, rates[1:])] == pytest.approx([-9e-6] * 100)


@pytest.mark.parametrize("d_model, warmup", [(512, 4000), (64, 1), (128, 37)])
def test_the_inverse_square_root_is_the_formula_of_the_paper(d_model, warmup):
    peak = schedule.noam_peak(d_model, warmup)
    for iteration in (0, 1, warmup - 1, warmup, 10 * warmup):
        step = iteration + 1
        paper = d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
        ours = schedule.inverse_sqrt_with_warmup(iteration, max_lr=peak, warmup_iters=warmup)
        assert ours == pytest.approx(paper, rel=1e-12)


def test_without_warm_up_a_schedule_begins_at_its_peak():
    assert schedule.inverse_sqrt_with_warmup(0, max_lr=2.0, warmup_iters=0) == 2.0
    assert schedule.inverse_sqrt_with_warmup(3, max_lr=2.0, warmup_iters=0) == 1.0
    assert schedule.linear_with_warmup(0, **OPTIONS | {"warmup_iters": 0}) == 1e-3


def test_the_schedulers_follow_their_functions_and_resume():
    optimizer = optim.SGD([Tensor([1.0], requires_grad=True)], lr=0.5)
    made = [
        lambda: schedule.LinearWithWarmup(optimizer, 2, 6, min_lr=0.1),
        lambda: schedule.InverseSqrtWithWarmup(optimizer, 2),
    ]
    expected = [[0.5 / 3, 1.0 / 3, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1], [0.25, 0.5, 0.5 * (2 / 3) ** 0.5]]
    for make, rates in zip(made, expected):
        optimizer.param_groups[0]["lr"] = 0.5
        scheduler = make()
        for i, rate in enumerate(rates):
            assert scheduler.get_last_lr() == pytest.approx([rate]), i
            scheduler.step()
        optimizer.param_groups[0]["lr"] = 0.5
        again = make()
        again.load_state_dict(scheduler.state_dict())
        assert again.get_last_lr() == scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
