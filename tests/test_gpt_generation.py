"""Generation gives the same tokens with a cache and without, samples as asked, and traces twice."""

import numpy as np
import pytest
import torch
from gpt_helpers import BLOCK, SIZES, config, ours, reference

from clgrad import Device, Tensor
from clgrad.models import GPT, decoding, generate
from clgrad.models.sampling import Sampling

PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def gpt():
    return ours(reference(std=1.0)).eval()


def decoder(model):
    """What holds the jitted passes of a model that has generated and is not generating now."""
    (only,) = model._idle_decoders
    return only


def traces(model, cached):
    """How often the passes with the cache, or without, have been traced."""
    return sum(run.traces for name, run in decoder(model).passes.items() if name.startswith("_extend") == cached)


@pytest.mark.parametrize("chunk", [64, 5, 1])
@pytest.mark.parametrize("prompt", [[2], PROMPT, list(range(BLOCK)), list(range(BLOCK + 8))])
def test_with_and_without_the_cache_the_tokens_are_the_same(chunk, prompt, monkeypatch, device="NUMPY"):
    monkeypatch.setattr(decoding, "CHUNK", chunk)  # 64 is more than the block, 5 does not divide it
    model = ours(reference(std=1.0), device)
    options = dict(max_tokens=3 * BLOCK, temperature=1.0, seed=1)
    cached = list(generate(model, prompt, **options))
    assert len(cached) == 3 * BLOCK and len(set(cached)) > 3
    assert cached == list(generate(model, prompt, **options, use_cache=False))


def test_with_and_without_the_cache_the_tokens_are_the_same_on_opencl(device, monkeypatch):
    test_with_and_without_the_cache_the_tokens_are_the_same(5, PROMPT, monkeypatch, device)


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_tokens_are_transformers(gpt, use_cache):
    count = BLOCK - len(PROMPT) + 1
    theirs = reference(std=1.0).generate(
        torch.tensor([PROMPT]), max_new_tokens=count - 1, do_sample=False, pad_token_id=0
    )
    mine = list(generate(gpt, PROMPT, count, temperature=0, use_cache=use_cache))
    assert mine[:-1] == theirs[0, len(PROMPT) :].tolist()
    # the token after a full block is that of the whole block
    logits, _ = gpt(Tensor([PROMPT + mine[:-1]]))
    assert mine[-1] == logits.numpy()[0, -1].argmax()


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_full_block_drops_its_older_half(gpt, use_cache):
    tokens = list(generate(gpt, PROMPT, 2 * BLOCK, temperature=0, use_cache=use_cache))
    window = list(PROMPT)
    for token in tokens:
        assert token == gpt(Tensor([window]))[0].numpy()[0, -1].argmax()
        window.append(token)
        if len(window) > BLOCK:
            window = window[-(BLOCK - BLOCK // 2) :]


def test_two_signatures_and_no_kernel_after_the_second_token():
    model = ours(reference())
    tokens = generate(model, PROMPT, 300, seed=0)
    for _ in range(2):
        next(tokens)
    builds = Device["NUMPY"].counters.builds
    assert len(list(tokens)) == 298
    list(generate(model, [1] * BLOCK, 5, seed=0))  # another prompt length
    assert Device["NUMPY"].counters.builds == builds
    assert traces(model, cached=True) == 2 and traces(model, cached=False) == 0
    list(generate(model, PROMPT, 30, seed=0, use_cache=False))
    assert traces(model, cached=False) == 1


def test_two_generators_of_one_model_do_not_disturb_each_other(gpt):
    alone = [list(generate(gpt, prompt, 20, seed=3)) for prompt in ([1, 2], [7])]
    together = list(zip(generate(gpt, [1, 2], 20, seed=3), generate(gpt, [7], 20, seed=3), strict=True))
    assert [list(tokens) for tokens in zip(*together, strict=True)] == alone


def test_generation_reads_the_weights_that_the_model_has_now():
    model, other = GPT(config()), ours(reference(seed=5, std=1.0))
    list(generate(model, PROMPT, 3, temperature=0))
    model.load_state_dict(other.state_dict())
    assert list(generate(model, PROMPT, 20, temperature=0)) == list(generate(other, PROMPT, 20, temperature=0))


def test_weights_that_diverged_leave_nothing_behind():
    model, other = GPT(config()), ours(reference(seed=5, std=1.0))
    good = other.state_dict()
    model.load_state_dict(good | {"transformer.wpe.weight": np.full((BLOCK, SIZES["n_embd"]), np.nan)})
    with pytest.raises(ValueError, match="diverged"):
        list(generate(model, PROMPT, 3))
    model.load_state_dict(good)
    assert list(generate(model, PROMPT, 5, seed=0)) == list(generate(other, PROMPT, 5, seed=0))


def test_a_stream_that_is_left_early_leaves_its_passes_for_the_next():
    model = ours(reference())
    for _ in range(3):
        next(generate(model, PROMPT, 10))
    assert traces(model, cached=True) == 1


def test_generation_drops_nothing_and_leaves_the_mode_alone():
    model = ours(reference(std=1.0), dropout=0.5).train()
    model.transformer.drop.eval()
    tokens = generate(model, PROMPT, 20, temperature=0)
    first = next(tokens)
    assert model.training and model.transformer.h[0].mlp.dropout.training and not model.transformer.drop.training
    assert [first, *tokens] == list(generate(ours(reference(std=1.0)), PROMPT, 20, temperature=0))


def test_a_seed_repeats_and_no_seed_varies(gpt):
    assert list(generate(gpt, PROMPT, 30, seed=1)) == list(generate(gpt, PROMPT, 30, seed=1))
    assert list(generate(gpt, PROMPT, 30, seed=1)) != list(generate(gpt, PROMPT, 30, seed=2))
    assert list(generate(gpt, PROMPT, 30)) != list(generate(gpt, PROMPT, 30))
    assert list(generate(gpt, Tensor(PROMPT), 3, seed=1)) == list(generate(gpt, np.array(PROMPT), 3, seed=1))


# -- sampling

LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.3, 0.15], np.float32))


def frequencies(draws=8000, temperature=1.0, top_k=None, top_p=None):
    rng = np.random.default_rng(0)
    sampling = Sampling(temperature, top_k, top_p)
    tokens = [sampling.choose(LOGITS, (), rng) for _ in range(draws)]
    return np.bincount(tokens, minlength=len(LOGITS)) / draws


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.05, 0.4, 0.1, 0.3, 0.15]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 99}, [0.05, 0.4, 0.1, 0.3, 0.15]),
        ({"top_p": 0.65}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.75}, [0, 8 / 17, 0, 6 / 17, 3 / 17]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 0.5}, np.array([0.05, 0.4, 0.1, 0.3, 0.15]) ** 2 / 0.285),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-300}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_the_probabilities_asked_for(options, expected):
    np.testing.assert_allclose(frequencies(**options), expected, atol=0.02)


def test_top_p_stops_as_soon_as_the_probability_is_reached():
    rng = np.random.default_rng(0)
    even = np.zeros(4, np.float32)
    assert {Sampling(top_p=0.5).choose(even, (), rng) for _ in range(50)} == {0, 1}


def test_logits_that_are_not_finite_are_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="diverged"):
            Sampling().choose(np.array([0.0, bad], np.float32), (), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], 3), {}, "empty"),
        (([0, SIZES["vocab_size"]], 3), {}, "outside 0 to 22"),
        (([-1], 3), {}, "outside 0 to 22"),
        ((PROMPT, -1), {}, "max_tokens"),
        ((PROMPT, 3), {"temperature": -0.1}, "temperature"),
        ((PROMPT, 3), {"temperature": float("nan")}, "temperature"),
        ((PROMPT, 3), {"top_k": 0}, "top_k"),
        ((PROMPT, 3), {"top_p": 0.0}, "top_p"),
        ((PROMPT, 3), {"top_p": 1.1}, "top_p"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(gpt, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        generate(gpt, *arguments, **options)
