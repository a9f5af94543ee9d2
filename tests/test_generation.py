"""Generation from every architecture: transformers' tokens, greedy and by beam search, alone and in batches."""

import functools
import itertools

import numpy as np
import pytest
import torch
import transformers
from transformers.generation import logits_process

from clgrad import Device, Tensor, nn
from clgrad.models import GPT, GPTConfig, beam_search, decoding, from_pretrained, generate, generate_batch, stop_at
from clgrad.models.beam import _Search
from clgrad.models.sampling import Sampling, penalised

V, END, NEW = 31, 7, 16
PROMPTS = [[3, 11, 4, 12, 5], [9], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 3, 4]]

SPECIAL = dict(vocab_size=V, bos_token_id=None, eos_token_id=END, pad_token_id=0)
LLAMA = SPECIAL | dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)
REFERENCES = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**SPECIAL, n_layer=2, n_head=4, n_embd=32, n_positions=64)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**LLAMA, max_position_embeddings=64, tie_word_embeddings=False)
    ),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(
            **LLAMA, max_position_embeddings=400, sliding_window=8, tie_word_embeddings=False,
            attn_implementation="eager",
        )
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            **SPECIAL, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
            tie_word_embeddings=False, decoder_start_token_id=0,
        )
    ),
    "bart": lambda: transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            **SPECIAL | {"bos_token_id": 0}, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
            forced_eos_token_id=None, decoder_start_token_id=END,
        )
    ),
}  # fmt: skip


SEEDS = {"gpt2": 8, "llama": 8, "mistral": 5, "t5": 29, "bart": 33}


@functools.cache
def reference(name):
    """A tiny model with random weights so large that its tokens vary, of a seed with which no two nearly tie."""
    torch.manual_seed(SEEDS[name])
    model = REFERENCES[name]().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.ndim > 1:
                p.add_(torch.randn_like(p) * 1.5 / p.shape[-1] ** 0.5)
            if "wpe" in key or "embed_positions" in key:
                p.mul_(12 if name == "bart" else 4)
    return model


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The same model here, by its name and device."""

    @functools.cache
    def load(name, device="NUMPY"):
        folder = tmp_path_factory.mktemp(name)
        reference(name).save_pretrained(folder)
        return from_pretrained(folder).to(device)

    return load


def produced(name, prompt, **options):
    """What transformers' generate gives for a prompt."""
    ids = torch.tensor([prompt])
    options = dict(max_new_tokens=NEW, do_sample=False) | options
    return reference(name).generate(ids, attention_mask=torch.ones_like(ids), **options)


def texts(name, prompt, sequences, ends=(END,)):
    """Sequences without the prompt, each cut before its end token."""
    start = 1 if reference(name).config.is_encoder_decoder else len(prompt)
    return [list(itertools.takewhile(lambda token: token not in ends, text[start:].tolist())) for text in sequences]


def theirs(name, prompt, ends=(END,), **options):
    """transformers' texts after the prompt."""
    return texts(name, prompt, produced(name, prompt, **options), ends)


def padded(texts):
    """Texts followed by transformers' padding."""
    return [[*text, *[0] * NEW][:NEW] for text in texts]


# -- against transformers


@pytest.mark.parametrize("name", REFERENCES)
def test_greedy_and_beam_search_give_transformers_tokens(ours, name):
    model = ours(name)
    for prompt in PROMPTS:
        assert list(generate(model, prompt, NEW, temperature=0, end=END)) == theirs(name, prompt)[0]
        options = dict(num_beams=3, length_penalty=1.2)
        found = beam_search(model, prompt, NEW, **options, end=END, num_return=3)
        assert padded(text.tokens for text in found) == padded(theirs(name, prompt, **options, num_return_sequences=3))


def test_greedy_tokens_are_the_same_on_opencl(ours, device):
    found = list(generate(ours("llama", device), PROMPTS[0], NEW, temperature=0, end=END))
    assert found == theirs("llama", PROMPTS[0])[0]


@pytest.mark.sweep
@pytest.mark.parametrize("name", REFERENCES)
def test_opencl_gives_transformers_tokens(ours, name):
    model = ours(name, "CL")
    assert list(generate(model, PROMPTS[0], NEW, temperature=0, end=END)) == theirs(name, PROMPTS[0])[0]
    (found,) = beam_search(model, PROMPTS[2], NEW, num_beams=3, end=END)
    assert padded([found.tokens]) == padded(theirs(name, PROMPTS[2], num_beams=3))
    assert generate_batch(model, PROMPTS, NEW, temperature=0, end=END) == [theirs(name, p)[0] for p in PROMPTS]


@pytest.mark.parametrize("name", REFERENCES)
def test_the_texts_of_the_references_are_worth_comparing(name):
    """They vary, and neither rounding nor the order of a sum decides a token."""
    found = produced(name, PROMPTS[0], output_logits=True, return_dict_in_generate=True)
    best = torch.stack(found.logits).topk(2).values  # (T, 1, 2)
    assert (best[..., 0] - best[..., 1]).min() > 1e-3
    assert len({token for prompt in PROMPTS for token in theirs(name, prompt)[0]}) >= 5


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -1.0, 2.0])
def test_beam_search_obeys_the_settings_as_transformers_does(ours, early, penalty):
    for repetition, beams in ((1.0, 2), (1.4, 4)):
        options = dict(num_beams=beams, length_penalty=penalty, early_stopping=early, repetition_penalty=repetition)
        wanted = produced(
            "gpt2", PROMPTS[0], num_return_sequences=beams, return_dict_in_generate=True, output_scores=True, **options
        )
        found = beam_search(ours("gpt2"), PROMPTS[0], NEW, **options, end=END, num_return=beams)
        assert padded(text.tokens for text in found) == padded(texts("gpt2", PROMPTS[0], wanted.sequences))
        scores = wanted.sequences_scores.numpy()
        np.testing.assert_allclose([text.score for text in found], scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ends", [(END,), (END, 11)])
def test_several_end_tokens_end_a_text_as_in_transformers(ours, ends):
    for prompt in PROMPTS:
        (wanted,) = theirs("llama", prompt, ends, num_beams=3, eos_token_id=list(ends))
        assert beam_search(ours("llama"), prompt, NEW, num_beams=3, end=ends)[0].tokens == wanted


def test_a_repetition_penalty_gives_transformers_tokens(ours):
    for name in ("llama", "t5"):
        wanted = theirs(name, PROMPTS[0], repetition_penalty=1.5)[0]
        assert list(generate(ours(name), PROMPTS[0], NEW, temperature=0, repetition_penalty=1.5, end=END)) == wanted
        assert wanted != theirs(name, PROMPTS[0])[0]


@pytest.mark.parametrize(
    ("ours_", "warpers"),
    [
        ({"top_k": 4}, [logits_process.TopKLogitsWarper(4)]),
        ({"top_p": 0.7}, [logits_process.TopPLogitsWarper(0.7)]),
        ({"min_p": 0.2}, [logits_process.MinPLogitsWarper(0.2)]),
        (
            {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.3},
            [
                logits_process.RepetitionPenaltyLogitsProcessor(1.3),
                logits_process.TemperatureLogitsWarper(0.7),
                logits_process.TopKLogitsWarper(9),
                logits_process.TopPLogitsWarper(0.9),
                logits_process.MinPLogitsWarper(0.1),
            ],
        ),
    ],
    ids=["top_k", "top_p", "min_p", "all"],
)
def test_tokens_are_drawn_from_transformers_distributions(ours_, warpers):
    rng = np.random.default_rng(0)
    for seen in ([3, 3, 8], list(range(0, V, 2))):
        logits = (3 * rng.normal(size=V)).astype(np.float32)
        scores = torch.tensor(logits)[None]
        for warper in warpers:
            scores = warper(torch.tensor([seen]), scores)
        sampling = Sampling(**ours_)
        found = sampling.probabilities(penalised(logits, seen, sampling.repetition_penalty))
        np.testing.assert_allclose(found, scores.double().softmax(-1)[0].numpy(), rtol=1e-5, atol=1e-9)
        assert 0 < np.count_nonzero(found) < V


# -- batches, caches, ends


@pytest.mark.parametrize("name", REFERENCES)
def test_a_row_of_a_batch_gives_what_it_gives_alone(ours, name):
    model = ours(name)
    alone = [list(generate(model, prompt, NEW, temperature=0, end=END)) for prompt in PROMPTS]
    assert generate_batch(model, PROMPTS, NEW, temperature=0, end=END) == alone
    options = dict(temperature=0.8, top_k=10, end=END, repetition_penalty=1.2)
    alone = [list(generate(model, prompt, NEW, seed=5 + row, **options)) for row, prompt in enumerate(PROMPTS)]
    assert generate_batch(model, PROMPTS, NEW, seed=5, **options) == alone


@pytest.mark.parametrize("name", ["llama", "mistral", "t5", "bart"])
def test_a_cache_changes_no_token(ours, name):
    options = dict(seed=3, end=END)
    for prompt in PROMPTS:
        cached = list(generate(ours(name), prompt, 40, **options))
        assert cached == list(generate(ours(name), prompt, 40, **options, use_cache=False))


def test_a_sliding_window_keeps_no_more_than_the_window(ours):
    model, prompt = ours("mistral"), np.random.default_rng(0).integers(8, V, 100).tolist()
    found = list(generate(model, prompt, 200, temperature=0))  # what is written first is overwritten four times
    wanted = produced("mistral", prompt, max_new_tokens=200, eos_token_id=None)
    assert found == wanted[0, 100:].tolist()
    assert model._idle_decoders[-1].cache.length == model.window + decoding.CHUNK


def test_a_cache_grows_and_the_tokens_stay_the_same(ours, monkeypatch):
    model = ours("t5")
    whole = list(generate(model, PROMPTS[0], 100, seed=1, end=()))
    together = generate_batch(ours("llama"), PROMPTS, 45, temperature=0)
    monkeypatch.setattr(decoding, "LEAST", 8)
    monkeypatch.setattr(decoding, "CHUNK", 8)
    assert list(generate(model, PROMPTS[0], 100, seed=1, end=())) == whole
    assert [decoder.sizes.length for decoder in model._idle_decoders][-2:] == [64, 128]
    assert generate_batch(ours("llama"), PROMPTS, 45, temperature=0) == together
    long = beam_search(ours("t5"), PROMPTS[0], 20, num_beams=2, end=())[0].tokens
    assert len(long) == 20
    monkeypatch.undo()
    assert beam_search(ours("t5"), PROMPTS[0], 20, num_beams=2, end=())[0].tokens == long


def test_an_end_token_is_not_given_and_nothing_follows_it(ours):
    model = ours("llama")
    text = list(generate(model, PROMPTS[0], NEW, temperature=0))
    assert len(text) == NEW
    for end in (text[4], [text[4], V - 1], {text[4]}):
        assert list(generate(model, PROMPTS[0], NEW, temperature=0, end=end)) == text[: text.index(text[4])]


def test_nothing_is_traced_or_built_for_a_second_text(ours):
    for name in ("llama", "bart"):
        model = ours(name)
        for options in (dict(temperature=0), dict(seed=0)):
            list(generate(model, PROMPTS[0], 20, **options))
        builds = Device["NUMPY"].counters.builds
        traces = [run.traces for decoder in model._idle_decoders for run in decoder.passes.values()]
        list(generate(model, PROMPTS[2], 30, temperature=0.5))
        assert Device["NUMPY"].counters.builds == builds
        assert [run.traces for decoder in model._idle_decoders for run in decoder.passes.values()] == traces


def test_layers_replaced_after_a_text_are_those_of_the_next():
    """LoRA layers around the old ones, their merging into them, and another head."""
    Tensor.manual_seed(0)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=16, vocab_size=11)).eval()

    def tokens():
        return list(generate(model, [1, 2], 8, temperature=0))

    texts = [tokens()]
    for lora in nn.lora.wrap(model, rank=2):
        lora.lora_B.assign(Tensor.randn(*lora.lora_B.shape))
    texts.append(tokens())
    nn.lora.merge(model)
    texts.append(tokens())
    likeliest = model(Tensor([[1, 2, *texts[2][:-1]]]))[0].argmax(-1)[0, 1:].tolist()
    assert texts[0] != texts[1] == texts[2] == likeliest
    head = model.lm_head
    model.lm_head = nn.Linear(32, 11)
    model.lm_head.weight.assign(-head.weight)
    assert tokens() != texts[2]


def test_a_model_that_is_frozen_as_a_whole_gives_the_same_tokens():
    """Such as a teacher, or one whose LoRA was merged: none of its Tensors is a parameter."""
    trained, frozen = (GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=16, vocab_size=11)) for _ in range(2))
    frozen.load_state_dict(trained.state_dict())
    frozen.requires_grad_(False)
    for tokens in (
        lambda model: list(generate(model, [1, 2], 6, temperature=0)),
        lambda model: beam_search(model, [1, 2], 6),
    ):
        assert tokens(frozen) == tokens(trained)


def test_one_seed_a_row(ours):
    model = ours("llama")
    same = generate_batch(model, [PROMPTS[0]] * 3, NEW, seed=[1, 1, 2])
    assert same[0] == same[1] != same[2]
    assert len({tuple(text) for text in generate_batch(model, [PROMPTS[0]] * 3, NEW, seed=1)}) == 3
    assert generate_batch(model, [], NEW) == []
    assert generate_batch(model, [Tensor(PROMPTS[0])], 0) == [[]]


# -- strings


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["ab", "cd", "ef"], ["xy"], ["ab", "cd", "ef"]),
        (["ab", "cSTO", "P", "more"], ["STOP"], ["ab", "c"]),
        (["ab", "cST", "x"], ["STOP"], ["ab", "c", "STx"]),
        (["aST"], ["STOP"], ["a", "ST"]),
        (["abc"], ["c", "b"], ["a"]),
        (["aaa", "ab"], ["aab"], ["a", "a"]),
        ([], ["x"], []),
        (["ab"], [], ["ab"]),
        (["User:"], "User:", []),
    ],
)
def test_text_stops_at_strings_and_holds_their_beginnings_back(pieces, stops, expected):
    assert list(stop_at(pieces, stops)) == expected


def test_no_token_is_made_after_a_string_that_stops(ours):
    asked = []

    def letters():
        for token in generate(ours("llama"), PROMPTS[0], NEW, seed=0):
            asked.append(token)
            yield chr(65 + token)

    whole = "".join(chr(65 + token) for token in generate(ours("llama"), PROMPTS[0], NEW, seed=0))
    stop = whole[5:7]
    assert "".join(stop_at(letters(), [stop])) == whole[: whole.index(stop)]
    assert len(asked) == whole.index(stop) + 2
    with pytest.raises(ValueError, match="empty string"):
        stop_at(["a"], ["a", ""])


# -- bad arguments


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "error", "message"),
    [
        ([[1, 2], [3, 4]], 3, ValueError, "more than one prompt"),
        ([1.5], 3, TypeError, "token ids, not float"),
        ("text", 3, TypeError, "token ids, not <U4"),
        ([], 3, ValueError, "empty"),
        ([1], 2.5, TypeError, "integer"),
    ],
)
def test_what_is_no_prompt_or_length_is_refused_at_the_call(ours, prompt, max_tokens, error, message):
    with pytest.raises(error, match=message):
        generate(ours("llama"), prompt, max_tokens)


def test_penalties_of_any_size_give_tokens(ours):
    logits = np.array([2, -2, 0, -1], np.float32)
    for penalty in (1e-320, 1e-300, 1e300):
        changed = penalised(logits, [0, 1], penalty)
        assert np.isfinite(changed).all() and (changed[:2] == logits[:2]).sum() == 0
        assert Sampling(repetition_penalty=penalty).choose(logits, [0, 1, 2], np.random.default_rng(0)) in range(4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": float("inf")}, "temperature"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"seed": -1}, "seed must not be negative"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ],
)
def test_bad_sampling_is_refused_at_the_call(ours, options, message):
    with pytest.raises(ValueError, match=message):
        generate(ours("llama"), PROMPTS[0], 3, **options)


def test_prompts_longer_than_the_context_are_refused(ours):
    for name in ("llama", "bart"):
        with pytest.raises(ValueError, match="65 tokens, and the context 64"):
            generate(ours(name), [1] * 65, 3)
    for function in (beam_search, lambda *a: generate_batch(a[0], [a[1]], a[2])):
        with pytest.raises(ValueError, match="more than the context of 64"):
            function(ours("gpt2"), [1] * 60, 6)
    assert len(generate_batch(ours("gpt2"), [[1] * 60, [2]], 5)[0]) == 5
    assert len(list(generate(ours("llama"), [1] * 60, 100))) == 5  # the text ends where the context is full


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams"),
        ({"num_return": 5}, "num_return"),
        ({"early_stopping": "often"}, "early_stopping"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"length_penalty": 1000.0}, "length_penalty"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
    ],
)
def test_bad_settings_of_beam_search_are_refused(ours, options, message):
    with pytest.raises(ValueError, match=message):
        beam_search(ours("llama"), PROMPTS[0], 3, **options)


def test_a_vocabulary_smaller_than_the_beams_still_gives_texts():
    search = _Search(beams=4, max_tokens=2, length_penalty=1.0, early_stopping=False, ends=frozenset())
    scores = np.log(np.full((4, 2), 0.5, np.float32))
    parents, tokens = search.step(scores, [[]] * 4)
    assert not search.is_over and len(parents) == len(tokens) == 4 and parents[:2] == [0, 0]
    search.step(scores, [[token] for token in tokens])
    assert search.is_over and len(search.done) == 4
