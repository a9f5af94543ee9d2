"""Llama and GPT-1 compute what transformers' models compute, and exchange checkpoints with them."""

import re

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)
from transformers import (
    LlamaConfig as TheirConfig,
)

from clgrad import Tensor, models
from clgrad.models import GPT1, Llama, LlamaConfig

SIZES = dict(
    vocab_size=29,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=3.0,
    original_max_position_embeddings=16,
)
# what is special -> transformers' model class, its configuration's class, and the options of it
VARIANTS = {
    "grouped heads": (LlamaForCausalLM, TheirConfig, {}),
    "tied, biases, another head_dim": (
        LlamaForCausalLM,
        TheirConfig,
        dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=10),
    ),
    "llama3's positions": (LlamaForCausalLM, TheirConfig, dict(rope_parameters=LLAMA3)),
    "linear positions": (
        LlamaForCausalLM,
        TheirConfig,
        dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=100.0), hidden_act="gelu"),
    ),
    "a sliding window": (MistralForCausalLM, MistralConfig, dict(sliding_window=3, head_dim=None)),
    "GPT-1": (
        OpenAIGPTLMHeadModel,
        OpenAIGPTConfig,
        dict(n_layer=2, n_head=2, n_embd=16, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    ),
}


def reference(variant):
    """transformers' model with random weights, large enough for the attention to matter."""
    model, config, options = VARIANTS[variant]
    torch.manual_seed(0)
    sizes = dict(vocab_size=29) if config is OpenAIGPTConfig else SIZES
    model = model(config(**sizes | options, attn_implementation="eager")).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.4 * torch.randn_like(p) / (p.shape[0] ** 0.5 if p.ndim > 1 else 1))
    return model


def tokens(batch=3, length=12):
    return np.random.default_rng(0).integers(0, SIZES["vocab_size"], (batch, length + 1))


# The others have few kernels of their own, and compiling is what takes the time
FIRST = ("llama3's positions",)


@pytest.mark.parametrize(
    ("device", "variant"),
    [
        pytest.param(device, variant, marks=[pytest.mark.sweep] * (device == "CL" and variant not in FIRST))
        for device in ("NUMPY", "CL")
        for variant in VARIANTS
    ],
    indirect=["device"],
)
def test_logits_and_gradients_equal_transformers_and_checkpoints_go_both_ways(variant, tmp_path, device):
    theirs = reference(variant)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = models.from_pretrained(tmp_path / "theirs").to(device)
    assert isinstance(ours, GPT1 if variant == "GPT-1" else Llama)
    x, y = tokens()[:, :-1], tokens()[:, 1:]
    logits, loss = ours(Tensor(x, device=device), Tensor(y, device=device))
    expected = theirs(torch.tensor(x)).logits
    np.testing.assert_allclose(logits.numpy(), expected.detach().numpy(), rtol=0, atol=1e-4)
    loss.backward()
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(y).flatten()).backward()
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    largest = max(np.linalg.norm(g) for g in gradients.values())
    parameters = dict(ours.named_parameters())
    assert parameters.keys() == gradients.keys()
    assert ours.num_parameters() == theirs.num_parameters()
    for name, g in gradients.items():
        difference = np.linalg.norm(parameters[name].grad.numpy() - g)
        assert difference <= 1e-3 * np.linalg.norm(g) + 1e-6 * largest, name

    ours.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert type(again) is type(theirs)
    np.testing.assert_allclose(again(torch.tensor(x)).logits.detach(), expected.detach(), rtol=0, atol=1e-5)
    assert models.from_pretrained(tmp_path / "ours").config == ours.config


@pytest.mark.parametrize("variant", ["grouped heads", "a sliding window", "GPT-1"])
def test_padding_on_the_left_changes_no_logits(variant, tmp_path):
    theirs = reference(variant)
    theirs.save_pretrained(tmp_path)
    ours = models.from_pretrained(tmp_path)
    x = tokens(batch=1, length=9)[:, :-1]
    alone = ours(Tensor(x))[0].numpy()
    padded = np.concatenate([np.zeros((1, 3), x.dtype), x], axis=1)
    mask = np.arange(12) >= 3
    positions = np.maximum(np.arange(12) - 3, 0).astype(np.int32)
    features = ours.features(Tensor(padded), Tensor(positions[None]), mask=Tensor(mask[None]))
    np.testing.assert_allclose(ours.logits(features).numpy()[:, 3:], alone, rtol=0, atol=1e-5)


def test_what_a_checkpoint_of_old_says_about_rope_is_read(tmp_path):
    """Before version 5 transformers wrote rope_theta and rope_scaling, and its key for the type was `type`."""
    old = dict(model_type="llama", rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.0})
    config = Llama.config_from(old)
    assert (config.rope_theta, config.rope_scaling) == (500.0, {"type": "linear", "factor": 2.0})
    assert Llama.config_from(dict(model_type="llama", rope_scaling={"rope_type": "default"})).rope_scaling is None
    assert Llama.config_from(dict(model_type="mistral")).sliding_window == MistralConfig().sliding_window
    assert Llama.config_from(dict(model_type="mistral", sliding_window=None)).sliding_window is None


def test_interleaved_pairs_are_written_as_halves(tmp_path):
    options = {name: value for name, value in SIZES.items() if name != "pad_token_id"}
    ours = Llama(LlamaConfig(**options, rope_interleaved=True)).eval()
    ours.save_pretrained(tmp_path)
    x = tokens()
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    expected = theirs(torch.tensor(x)).logits.detach().numpy()
    np.testing.assert_allclose(ours(Tensor(x))[0].numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_attention_heads=5), "hidden_size 4096 must be a multiple of the 5 heads"),
        (dict(num_key_value_heads=5), "num_key_value_heads 5"),
        (dict(head_dim=7), "head_dim 7 even"),
        (dict(num_hidden_layers=0), "num_hidden_layers must be an integer of at least 1, not 0"),
        (dict(sliding_window="all"), "sliding_window must be an integer"),
        (dict(attention_dropout=1.0), "attention_dropout"),
        (dict(hidden_act="mish"), "hidden_act 'mish'"),
        (dict(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "rope_type 'yarn'; known: default, linear, llama3"),
        (dict(rope_scaling={"rope_type": "llama3", "factor": 2.0}), "needs a positive low_freq_factor"),
        (dict(rope_scaling={"rope_type": "linear", "factor": "two"}), "needs a positive factor"),
        (dict(rope_scaling="linear"), "must be a dict, not 'linear'"),
    ],
)
def test_options_that_are_not_computed_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LlamaConfig(**options)


def test_more_tokens_than_the_context_and_what_cannot_be_written_are_named(tmp_path):
    options = {name: value for name, value in SIZES.items() if name != "pad_token_id"}
    model = Llama(LlamaConfig(**options | dict(max_position_embeddings=4)))
    with pytest.raises(ValueError, match="5 tokens are more than max_position_embeddings 4"):
        model(Tensor(np.zeros((1, 5), np.int32)))
    with pytest.raises(ValueError, match=re.escape("sliding_window and biases")):
        Llama(LlamaConfig(**options, sliding_window=2, mlp_bias=True)).save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()
