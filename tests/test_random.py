"""Random numbers: how they are distributed, that they repeat, and that every device draws the same.

Statistics are held to five standard deviations of what chance does, so that a wrong distribution fails and a right one
does not; each begins from a seed of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from clgrad import Tensor, jit

SIGMAS = 5
MANY = 40_000


def counted_like(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Counts of draws that fall into each case with the given probabilities (Pearson's chi-squared)."""
    counts, probabilities = np.ravel(counts), np.ravel(probabilities)
    assert counts[probabilities == 0].sum() == 0
    possible = probabilities > 0
    expected = probabilities[possible] / probabilities.sum() * counts.sum()
    statistic, freedom = ((counts[possible] - expected) ** 2 / expected).sum(), possible.sum() - 1
    assert statistic < freedom + SIGMAS * math.sqrt(2 * freedom), (statistic, freedom, counts, expected)


def distributed_like(values: np.ndarray, cumulative: Callable[[np.ndarray], np.ndarray]) -> None:
    """Draws from a continuous distribution (Kolmogorov and Smirnov)."""
    ordered = np.sort(values.astype(np.float64), axis=None)
    ranks = np.arange(ordered.size + 1) / ordered.size
    exact = cumulative(ordered)
    distance = max(np.abs(exact - ranks[:-1]).max(), np.abs(exact - ranks[1:]).max())
    assert distance * math.sqrt(ordered.size) < 2.3, distance  # exceeded once in 20,000 times


def normal_cumulative(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])


@pytest.mark.parametrize("wrong", [lambda u: u * 0.98, lambda u: u**1.05, lambda u: np.round(u * 16) / 16])
def test_the_statistics_notice_numbers_that_are_not_uniform(wrong):
    u = wrong(np.random.default_rng(0).random(MANY))
    with pytest.raises(AssertionError):
        distributed_like(u, lambda x: x)
    with pytest.raises(AssertionError):
        counted_like(np.histogram(u, 64, (0, 1))[0], np.ones(64))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_rand_is_uniform_and_below_one(device, dtype):
    Tensor.manual_seed(11)
    u = Tensor.rand(MANY, dtype=dtype, device=device).numpy().astype(np.float64)
    assert 0 <= u.min() and u.max() < 1
    counted_like(np.histogram(u, 64, (0, 1))[0], np.ones(64))
    neighbours = np.histogram2d(u[:-1:2], u[1::2], 8, [(0, 1), (0, 1)])[0]
    counted_like(neighbours, np.ones((8, 8)))
    if dtype in ("float32", "float64"):
        distributed_like(u, lambda x: x)
        digits = 2.0 ** (24 if dtype == "float32" else 53)
        assert np.all(u * digits == np.floor(u * digits)), "a multiple of the last digit"
        assert np.any(u * digits % 2 == 1), "the last digit is used"


def test_uniform_normal_and_initial_weights_have_their_moments(device):
    Tensor.manual_seed(12)
    u = Tensor.uniform(MANY, low=-3, high=7, device=device).numpy()
    distributed_like(u, lambda x: (x + 3) / 10)
    whole = Tensor.uniform(MANY, low=-3, high=7, dtype="int32", device=device).numpy()
    counted_like(np.bincount(whole + 3, minlength=10), np.ones(10))
    for z in (Tensor.randn(MANY, device=device), Tensor.randn(200, 100, dtype="float64", device=device)):
        distributed_like(z.numpy(), normal_cumulative)
    distributed_like((Tensor.normal(MANY, mean=2, std=3, device=device).numpy() - 2) / 3, normal_cumulative)
    weights = Tensor.kaiming_normal(200, 20, 10, a=0.5, device=device).numpy()
    distributed_like(weights * math.sqrt(1.25 * 200 / 2), normal_cumulative)
    for made, bound in (
        (Tensor.kaiming_uniform, math.sqrt(6 / 1.0001 / 200)),
        (Tensor.glorot_uniform, math.sqrt(6 / 400)),
        (Tensor.scaled_uniform, math.sqrt(1 / 40000)),
    ):
        distributed_like(made(200, 20, 10, device=device).numpy(), lambda x, bound=bound: (x + bound) / (2 * bound))


@pytest.mark.parametrize(
    "low, high", [(0, 10), (-3, 4), (0, 2**32), (-5, 2**40), (-(2**63), 2**63 - 1), (-(2**63), 2**63)]
)
def test_randint_is_uniform_over_its_range(device, low, high):
    Tensor.manual_seed(13)
    drawn = [int(v) for v in Tensor.randint(MANY, low=low, high=high, device=device).numpy()]
    assert low <= min(drawn) and max(drawn) < high
    cases = min(high - low, 64)
    which = [(v - low) * cases // (high - low) for v in drawn]
    counted_like(np.bincount(which, minlength=cases), np.ones(cases))
    if high - low > 64:  # and the last digits, of as many as a word can tell apart
        counted_like(np.bincount([v % 16 for v in drawn], minlength=16), np.ones(16))


def test_randint_fills_the_dtype_that_is_asked_for(device):
    Tensor.manual_seed(14)
    drawn = Tensor.randint(MANY, low=0, high=256, dtype="uint8", device=device).numpy()
    counted_like(np.bincount(drawn, minlength=256), np.ones(256))
    large = Tensor.randint(MANY, low=2**63, high=2**64, dtype="uint64", device=device).numpy()
    counted_like(np.bincount((large >> np.uint64(57)).astype(np.intp) - 64, minlength=64), np.ones(64))


def test_randperm_takes_every_order_alike(device):
    Tensor.manual_seed(15)
    orders = {order: 0 for order in itertools.permutations(range(4))}
    draw = jit(lambda: Tensor.randperm(4, device=device))
    for _ in range(1500):
        orders[tuple(draw().tolist())] += 1
    counted_like(np.array(list(orders.values())), np.ones(24))
    order = Tensor.randperm(5000, device=device).numpy()
    assert order.dtype == np.int64 and np.array_equal(np.sort(order), np.arange(5000))
    assert abs(np.corrcoef(order, np.arange(5000))[0, 1]) < SIGMAS / math.sqrt(5000)


WEIGHTS = np.array([1.0, 0.0, 2.0, 3.0, 0.5], np.float32)


def test_multinomial_draws_in_proportion_to_the_weights(device):
    Tensor.manual_seed(16)
    weights = Tensor(WEIGHTS, device=device)
    drawn = weights.multinomial(MANY, replacement=True).numpy()
    counted_like(np.bincount(drawn, minlength=5), WEIGHTS)
    rows = Tensor(np.stack([WEIGHTS, WEIGHTS[::-1] * 1e-30]), device=device).multinomial(MANY, True).numpy()
    for row, share in zip(rows, (WEIGHTS, WEIGHTS[::-1])):
        counted_like(np.bincount(row, minlength=5), share)
    assert abs(np.corrcoef(rows[0] - 2, 2 - rows[1])[0, 1]) < SIGMAS / math.sqrt(MANY), "rows are independent"
    one = Tensor(np.tile(WEIGHTS, (MANY, 1)), device=device).multinomial().numpy()
    counted_like(np.bincount(one[:, 0], minlength=5), WEIGHTS)


def test_multinomial_without_replacement_draws_one_after_another(device):
    Tensor.manual_seed(17)
    pairs = Tensor(np.tile(WEIGHTS, (MANY, 1)), device=device).multinomial(2).numpy()
    share = WEIGHTS / WEIGHTS.sum()
    expected = share[:, None] * share / (1 - share[:, None])
    np.fill_diagonal(expected, 0)
    counts = np.zeros((5, 5))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    counted_like(counts, expected)
    all_of_them = Tensor(WEIGHTS, device=device).multinomial(4).numpy()
    assert sorted(all_of_them) == [0, 2, 3, 4]


def test_multinomial_of_many_weights_finds_the_rare_ones_too(device):
    Tensor.manual_seed(18)
    weights = np.random.default_rng(0).random(3000).astype(np.float32) ** 8
    drawn = Tensor(weights, device=device).multinomial(MANY, replacement=True).numpy()
    order = np.argsort(weights)
    shares = np.array([part.sum() for part in np.split(weights[order].astype(np.float64), 30)])
    counts = np.array([part.sum() for part in np.split(np.bincount(drawn, minlength=3000)[order], 30)])
    common = shares * MANY > 5 * shares.sum()
    counted_like(counts[common], shares[common])
    few = Tensor(weights, device=device).multinomial(3000)
    assert sorted(few.tolist()) == list(range(3000))


def test_dropout_keeps_as_many_as_it_says_and_their_sum(device):
    Tensor.manual_seed(19)
    kept = Tensor.ones(MANY, device=device).dropout(0.3).numpy()
    counted_like(np.array([(kept == 0).sum(), (kept != 0).sum()]), np.array([0.3, 0.7]))
    np.testing.assert_allclose(kept[kept != 0], 1 / 0.7, rtol=1e-6)


def draws(device: str) -> list[Tensor]:
    """Some of everything that is the same to the last bit on every device."""
    weights = np.random.default_rng(1).random((3, 700)).astype(np.float32) ** 4
    w = Tensor(weights, device=device)
    on = {"device": device}
    return [
        Tensor.rand(7, 5, **on), Tensor.rand(33, dtype="float64", **on), Tensor.rand(33, dtype="float16", **on),
        Tensor.uniform(50, low=-3, high=7, **on), Tensor.randint(40, low=-5, high=1000, **on),
        Tensor.randint(40, low=-(2**62), high=2**63 - 1, **on), Tensor.randperm(999, **on),
        w.multinomial(300), w.multinomial(300, replacement=True), w.multinomial(), w[0].dropout(0.4),
    ]  # fmt: skip


def test_the_same_seed_draws_the_same_and_another_does_not(device):
    found = []
    for seed in (20, 20, 21):
        Tensor.manual_seed(seed)
        found.append([t.numpy().tobytes() for t in draws(device)])
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2]))
    Tensor.manual_seed(20)
    again = [t.numpy().tobytes() for _ in range(2) for t in draws(device)]
    assert again[: len(found[0])] == found[0], "each call has numbers of its own"
    assert all(a != b for a, b in zip(again, again[len(found[0]) :]))


def test_both_backends_draw_the_same_bits(cl):
    found = []
    for name in ("NUMPY", cl):
        Tensor.manual_seed(22)
        found.append(draws(name))
    for ours, theirs in zip(*found):
        assert ours.dtype == theirs.dtype and ours.numpy().tobytes() == theirs.numpy().tobytes()


def test_the_state_of_the_generator_is_where_it_goes_on(device):
    Tensor.manual_seed(23)
    Tensor.rand(5, device=device).realize()
    state = Tensor.get_rng_state(device)
    first = Tensor.randperm(50, device=device).tolist()
    Tensor.set_rng_state(*state)
    assert Tensor.randperm(50, device=device).tolist() == first


def test_replays_of_a_jitted_function_draw_new_numbers(device):
    weights = Tensor(np.arange(1, 60, dtype=np.float32), device=device)

    @jit
    def sample(w):
        return w.multinomial(8), w.multinomial(8, replacement=True), Tensor.randperm(40, device=device)

    Tensor.manual_seed(24)
    traced = [[t.tolist() for t in sample(weights)] for _ in range(4)]
    for one in zip(*traced):
        assert len({tuple(v) for v in one}) == 4
    Tensor.manual_seed(24)
    plain = []
    for _ in range(4):
        w = weights.detach()
        now = [w.multinomial(8), w.multinomial(8, replacement=True), Tensor.randperm(40, device=device)]
        plain.append([t.tolist() for t in now])
    assert traced == plain


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Tensor([1.0, -1.0]).multinomial(), "negative"),
        (lambda: Tensor([1.0, math.nan]).multinomial(), "NaN"),
        (lambda: Tensor([1.0, math.inf]).multinomial(), "infinite"),
        (lambda: Tensor([0.0, 0.0]).multinomial(), "0 weights above 0"),
        (lambda: Tensor([[0.5, 0.5], [0.0, 1.0]]).multinomial(2), "1 weights above 0"),
        (lambda: Tensor([1.0]).multinomial(2), "2 samples of 1"),
        (lambda: Tensor([1.0]).multinomial(0), "0 samples"),
        (lambda: Tensor.ones(1, 2, 3).multinomial(), r"\(1, 2, 3\)"),
        (lambda: Tensor.randint(2, low=3, high=3), r"\[3, 3\)"),
        (lambda: Tensor.randint(2, low=0, high=300, dtype="uint8"), "uint8"),
        (lambda: Tensor.randint(2, low=-1, high=3, dtype="uint32"), "uint32"),
        (lambda: Tensor.normal(2, std=-1), "-1"),
        (lambda: Tensor.uniform(2, low=2, high=1), r"\[2, 1\)"),
        (lambda: Tensor.rand(2, dtype="int32"), "int32"),
        (lambda: Tensor.rand(2, -1), r"\(2, -1\)"),
        (lambda: Tensor.randint(-1), r"\(-1,\)"),
        (lambda: Tensor.randperm(-1), "-1"),
        (lambda: Tensor.kaiming_uniform(), r"\(\)"),
        (lambda: Tensor.zeros(-1), r"zeros: \(-1,\)"),
        (lambda: Tensor.full((2, -3), 1), r"full: \(2, -3\)"),
        (lambda: Tensor.eye(-2), "eye"),
        (lambda: Tensor.linspace(0, 1, -1), "-1"),
        (lambda: Tensor.arange(0, 5, 0), "step"),
        (lambda: Tensor.arange(0, 5, 0.5, dtype="int64"), "int64"),
        (lambda: Tensor.arange(0, math.inf), "inf"),
        (lambda: Tensor.full((2,), 300, dtype="uint8"), "uint8 does not hold 300"),
        (lambda: Tensor.full((2,), -129, dtype="int8"), "int8 does not hold -129"),
        (lambda: Tensor(2**70), "int64"),
    ],
)
def test_what_cannot_be_made_raises_what_torch_and_numpy_would(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_may_be_tensors_and_arrays_of_one():
    for three in (Tensor(3), np.int16(3), np.array(3)):
        assert Tensor.arange(three).tolist() == [0, 1, 2]
        assert Tensor.full((1,), three).dtype == "int64"
    assert Tensor.full((1,), -1, dtype="uint8").tolist() == [255]  # as in PyTorch


def test_a_seed_is_an_integer_and_0_if_none_is_given():
    Tensor.manual_seed(0)
    first = Tensor.rand(3).tolist()
    Tensor.manual_seed()
    assert Tensor.rand(3).tolist() == first
    for seed in ("0", 1.5):
        with pytest.raises(TypeError, match="integer"):
            Tensor.manual_seed(seed)


def test_what_is_made_may_want_a_gradient():
    on = {"device": "NUMPY", "requires_grad": True}
    made = [
        Tensor.full((2, 3), 1.5, **on), Tensor.zeros(2, **on), Tensor.ones(2, **on), Tensor.empty(2, **on),
        Tensor.eye(2, **on), Tensor.linspace(0, 1, 3, **on), Tensor.arange(0.0, 3.0, **on), Tensor.rand(3, **on),
        Tensor.randn(3, **on), Tensor.uniform(3, **on), Tensor.normal(3, **on), Tensor.scaled_uniform(3, **on),
        Tensor.glorot_uniform(3, 2, **on), Tensor.kaiming_uniform(3, 2, **on), Tensor.kaiming_normal(3, 2, **on),
        Tensor.ones(2, device="NUMPY").rand_like(requires_grad=True), Tensor.randperm(3, dtype="float32", **on),
    ]  # fmt: skip
    for x in made:
        (x * x).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), 2 * x.numpy())
