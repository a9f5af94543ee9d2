"""Bart computes what transformers' BartForConditionalGeneration computes, and exchanges checkpoints with it."""

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from seq2seq_helpers import (
    assert_same_beams,
    assert_same_dropouts,
    assert_same_greedy_texts,
    assert_same_logits,
    assert_same_training,
    batch,
    change,
    lively,
    load,
    logits_of,
    logits_of_torch,
    perturb,
)

from clgrad import Tensor, models
from clgrad.models import Bart, BartConfig, beam_search

SIZES = dict(
    vocab_size=29,
    d_model=12,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=2,
    decoder_attention_heads=3,
    encoder_ffn_dim=20,
    decoder_ffn_dim=14,
    max_position_embeddings=15,
)


def reference(cls=transformers.BartForConditionalGeneration, dropout=0.0, **options):
    torch.manual_seed(0)
    config = transformers.BartConfig(**SIZES | options, dropout=dropout, attn_implementation="eager")
    model = perturb(cls(config).eval())
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    return model


def config(**options):
    return BartConfig(**SIZES | dict(dropout=0.0) | options)


def ours(model, device="NUMPY", **options):
    return load(Bart(config(**options)), model, device)


def test_names_and_shapes_are_those_of_transformers():
    model, bart = reference(), Bart(config())
    assert {k: v.shape for k, v in bart.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert bart.num_parameters() == sum(p.numel() for p in model.parameters())
    assert not bart.requires_grad_().final_logits_bias.requires_grad


@pytest.mark.sweep_on_opencl
def test_logits_loss_and_gradients_equal_transformers(device):
    model = reference()  # the batch has tokens of padding that are real, and others that are not
    assert_same_training(ours(model, device), model, device)


@pytest.mark.parametrize("options", [dict(scale_embedding=True), dict(activation_function="gelu_new")])
def test_variants_equal_transformers(options):
    model = reference(**options)
    assert_same_logits(ours(model, **options), model)


def test_the_embedding_of_padding_gets_its_gradient_from_the_head_alone():
    model = reference()
    bart = ours(model)
    source, target = np.full((2, 5), 1), np.array([[4, 5, 6], [7, 1, 1]])
    _, loss = bart(Tensor(source), targets=Tensor(target))
    loss.backward()
    model(torch.tensor(source), labels=torch.tensor(target)).loss.backward()
    theirs = model.model.shared.weight.grad[1].numpy()
    np.testing.assert_allclose(bart.model.shared.weight.grad.numpy()[1], theirs, rtol=1e-3, atol=1e-5)


def test_positions_say_where_targets_stand_that_are_padded_on_the_left():
    model = reference()
    bart = ours(model)
    source, mask, target = batch(SIZES["vocab_size"])
    target = abs(target) % SIZES["vocab_size"]
    padding = np.array([0, 3, 7])
    columns = np.arange(target.shape[1])
    real = columns >= padding[:, None]
    encoded = bart.encode(Tensor(source), Tensor(mask))
    features = bart.features(
        Tensor(target),
        Tensor(np.maximum(columns - padding[:, None], 0)),
        mask=Tensor(real),
        memories=bart.memories(encoded),
        memory_mask=Tensor(mask),
    )
    got = bart.logits(features).numpy()
    for row, start in enumerate(padding):  # as if the row stood alone, without padding
        expected = logits_of_torch(model, source[row : row + 1], target[row : row + 1, start:], mask[row : row + 1])
        np.testing.assert_allclose(got[row, start:], expected[0], rtol=0, atol=1e-4)


def test_targets_may_be_padded_on_the_right():
    model = reference()
    source, mask, target = batch(SIZES["vocab_size"])
    target = abs(target) % SIZES["vocab_size"]
    real = np.arange(target.shape[1]) < np.array([11, 8, 2])[:, None]
    got = logits_of(ours(model), source, target, source_mask=mask, target_mask=real)
    expected = logits_of_torch(model, source, target, mask, real)
    np.testing.assert_allclose(got[real], expected[real], rtol=0, atol=1e-4)


def test_dropout_acts_where_transformers_has_it(monkeypatch):
    options = dict(dropout=0.1, attention_dropout=0.2, activation_dropout=0.3)
    model = reference(**options)
    assert_same_dropouts(ours(model, **options), model, monkeypatch)


def test_presets_have_the_published_sizes():
    # https://huggingface.co/facebook/bart-base and bart-large
    published = {"bart-base": 139_420_416, "bart-large": 406_291_456}
    assert {name: Bart(Bart.preset(name)).num_parameters() for name in Bart.presets} == published


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BartConfig(decoder_layers=0), "decoder_layers must be at least 1"),
        (
            lambda: BartConfig(encoder_attention_heads=5),
            "d_model 1024 must be a multiple of encoder_attention_heads, 5",
        ),
        (lambda: BartConfig(attention_dropout=1.0), "attention_dropout must be in"),
        (lambda: BartConfig(activation_function="mish"), "'mish'; known.*gelu"),
        (lambda: BartConfig(pad_token_id=-1), "pad_token_id -1 is no token"),
        (
            lambda: Bart(config())(Tensor([[3] * 16]), Tensor([[3]])),
            "16 tokens are more than max_position_embeddings 15",
        ),
        (
            lambda: Bart(config())(Tensor([[3]]), Tensor([[3] * 16])),
            "16 tokens are more than max_position_embeddings 15",
        ),
        (lambda: Bart(config())(Tensor([[1, 2]])), "give target_in.*or targets"),
    ],
)
def test_bad_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.sweep_on_opencl
def test_greedy_and_beam_search_equal_transformers(device):
    model = reference()
    model.final_logits_bias.zero_()  # which tells tokens, not sources apart
    lively(model, model.model.decoder.layers[-1].final_layer_norm)
    mine = ours(model, device)
    assert_same_greedy_texts(mine, model)
    assert_same_beams(mine, model)


@pytest.mark.parametrize(
    ("first", "last"), [(7, 2), (None, 2), (7, None), (2, 5), (None, [2])], ids=lambda value: f"{value}"
)
def test_forced_tokens_are_those_of_transformers(tmp_path, first, last):
    """The first token, and the last where the length ends a text: greedily, without a cache, in beams."""
    model = reference()
    model.generation_config.update(forced_bos_token_id=first, forced_eos_token_id=last, eos_token_id=2)
    model.save_pretrained(tmp_path)
    mine, source = Bart.from_pretrained(tmp_path), batch(SIZES["vocab_size"])[0][0].tolist()
    assert (mine.config.forced_bos_token_id, mine.config.forced_eos_token_id) == (first, last)
    for most in (1, 2, 5):
        for beams in (1, 3):
            options = dict(max_new_tokens=most, num_beams=beams, do_sample=False, early_stopping=False)
            text = model.generate(torch.tensor([source]), **options)[0, 1:].tolist()
            text = text[: text.index(2)] if 2 in text else text
            if beams == 1:
                assert list(models.generate(mine, source, most, temperature=0)) == text
                assert list(models.generate(mine, source, most, temperature=0, use_cache=False)) == text
            else:
                assert beam_search(mine, source, most, num_beams=beams)[0].tokens == text
    mine.save_pretrained(tmp_path)
    assert Bart.from_pretrained(tmp_path).config == mine.config


def test_a_model_in_training_writes_without_dropout():
    model = ours(reference(), dropout=0.5).train()
    source = batch(SIZES["vocab_size"])[0][0]
    while_training = beam_search(model, source, 6, num_beams=2)
    assert model.training and model.model.decoder.dropout.training
    assert while_training == beam_search(model.eval(), source, 6, num_beams=2)


# -- checkpoints


def test_a_checkpoint_of_transformers_is_read_whole_and_in_shards(tmp_path):
    model = reference(dropout=0.25, scale_embedding=True)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for path in ("whole", "shards"):
        bart = models.from_pretrained(tmp_path / path)
        assert isinstance(bart, Bart) and not bart.training
        assert bart.config == config(dropout=0.25, scale_embedding=True, forced_eos_token_id=2)
        assert_same_logits(bart, model)


def test_a_bare_model_is_read(tmp_path):
    bare = reference(transformers.BartModel)
    bare.save_pretrained(tmp_path)
    bart = models.from_pretrained(tmp_path)
    assert_same_logits(bart, transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval())


def test_checkpoints_of_older_versions_are_read(tmp_path):
    model = reference()
    model.save_pretrained(tmp_path)
    change(tmp_path, normalize_before=False, add_final_layer_norm=False, tie_word_embeddings=None)
    file = tmp_path / "model.safetensors"
    state = safetensors.numpy.load_file(file)
    state |= {f"model.{stack}.embed_tokens.weight": state["model.shared.weight"] for stack in ("encoder", "decoder")}
    state |= {"lm_head.weight": state["model.shared.weight"], "model.encoder.version": np.array([3.0])}
    safetensors.numpy.save_file(state, file)
    assert_same_logits(Bart.from_pretrained(tmp_path), model)


def test_transformers_reads_what_save_pretrained_writes(tmp_path):
    bart = ours(reference(), attention_dropout=0.1).eval()  # with a bias of the logits
    bart.save_pretrained(tmp_path)
    model = transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert_same_logits(bart, model)
    again = Bart.from_pretrained(tmp_path)
    assert again.config == bart.config
    assert_same_logits(again, model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(model_type="mbart"), "model_type is 'mbart'"),
        (dict(d_model=24), r"has shape .*12.* in the file, .*24.* in the model"),
        (dict(encoder_layers=3), "missing model.encoder.layers.2"),
        (dict(decoder_layers=2), "unexpected model.decoder.layers.2"),
        (dict(decoder_layers=10**9), "decoder_layers is 1000000000"),
        (dict(normalize_before=True), "normalize_before is True"),
        (dict(activation_function="mish"), "'mish'"),
        (dict(max_position_embeddings=99), r"embed_positions.weight has shape \(17, 12\)"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_says_why(tmp_path, options, message):
    Bart(config()).save_pretrained(tmp_path)
    change(tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        Bart.from_pretrained(tmp_path)
