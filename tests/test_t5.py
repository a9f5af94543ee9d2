"""T5 computes what transformers' T5ForConditionalGeneration computes, and exchanges checkpoints with it."""

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
from clgrad.models import T5, T5Config, T5Encoder, beam_search

SIZES = dict(
    vocab_size=29,
    d_model=12,
    d_kv=6,  # the heads together are wider than the model
    d_ff=20,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=9,  # the longest batch reaches beyond
)
FIRST = dict(feed_forward_proj="relu", tie_word_embeddings=True)
V1_1 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
both_versions = pytest.mark.parametrize("options", [FIRST, V1_1], ids=["first", "v1.1"])


def reference(cls=transformers.T5ForConditionalGeneration, dropout_rate=0.0, **options):
    torch.manual_seed(0)
    config = transformers.T5Config(
        **SIZES | options, decoder_start_token_id=0, dropout_rate=dropout_rate, attn_implementation="eager"
    )
    model = cls(config).eval()
    if not config.scale_decoder_outputs and hasattr(model, "lm_head"):
        model.lm_head.weight = torch.nn.Parameter(torch.randn(SIZES["vocab_size"], SIZES["d_model"]))
    return perturb(model)


def config(**options):
    return T5Config(**SIZES | dict(dropout_rate=0.0) | options)


def ours(model, device="NUMPY", **options):
    return load(T5(config(**options)), model, device)


@both_versions
def test_names_and_shapes_are_those_of_transformers(options):
    model, t5 = reference(**options), T5(config(**options))
    assert {k: v.shape for k, v in t5.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert t5.num_parameters() == sum(p.numel() for p in model.parameters())


@both_versions
def test_logits_loss_and_gradients_equal_transformers(device, options):
    model = reference(**options)
    assert_same_training(ours(model, device, **options), model, device)


@pytest.mark.parametrize("projection", ["gelu", "gated-silu"])
def test_other_activations_equal_transformers(projection):
    model = reference(feed_forward_proj=projection)
    assert_same_logits(ours(model, feed_forward_proj=projection), model)


def test_targets_may_be_padded_on_the_left():
    model = reference()
    source, _, target = batch(SIZES["vocab_size"])
    target = abs(target) % SIZES["vocab_size"]
    real = np.arange(target.shape[1]) >= np.array([0, 3, 7])[:, None]
    got = logits_of(ours(model), source, target, target_mask=real)
    expected = logits_of_torch(model, source, target, target_mask=real)
    np.testing.assert_allclose(got[real], expected[real], rtol=0, atol=1e-4)


@both_versions
def test_dropout_acts_where_transformers_has_it(options, monkeypatch):
    model = reference(dropout_rate=0.1, **options)
    assert_same_dropouts(ours(model, dropout_rate=0.1, **options), model, monkeypatch)


# https://huggingface.co/google-t5 and google/t5-v1_1-*, google/flan-t5-*
PUBLISHED = {
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1_1-small": 76_961_152,
    "t5-v1_1-base": 247_577_856,
    "t5-v1_1-large": 783_150_080,
    "t5-v1_1-xl": 2_849_757_184,
    "t5-v1_1-xxl": 11_135_332_352,
}


def test_presets_have_the_published_sizes(everything):
    assert set(T5.presets) == set(PUBLISHED)
    for name in PUBLISHED if everything else ("t5-small", "t5-11b", "t5-v1_1-base"):  # no value is computed
        assert T5(T5.preset(name)).num_parameters() == PUBLISHED[name], name
    assert T5Config() == T5.preset("t5-small")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: T5Config(num_heads=0), "num_heads must be at least 1"),
        (lambda: T5Config(dropout_rate=1.0), "dropout_rate must be in"),
        (lambda: T5Config(feed_forward_proj="gated-mish"), "'gated-mish'; known.*gelu_new"),
        (lambda: T5Config(eos_token_id=40000), "eos_token_id 40000 is no token of 32128"),
        (lambda: T5(config(relative_attention_max_distance=2)), "8 buckets cannot reach max_distance 2"),
        (lambda: T5(config())(Tensor([[1, 2]])), "give target_in.*or targets"),
        (lambda: T5(config())(Tensor([1, 2]), Tensor([[1]])), r"source \(2,\)"),
        (lambda: T5(config())(Tensor([[1]]), Tensor([[1], [1]])), "of one batch"),
        (lambda: T5(config())(Tensor([[1]]), Tensor([[1]]), Tensor([[1, 2]])), r"targets \(1, 2\)"),
    ],
)
def test_bad_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@both_versions
@pytest.mark.sweep_on_opencl
def test_greedy_and_beam_search_equal_transformers(device, options):
    model = reference(**options)
    lively(model, model.decoder.final_layer_norm)
    mine = ours(model, device, **options)
    assert_same_greedy_texts(mine, model)
    assert_same_beams(mine, model)


def test_a_model_in_training_writes_without_dropout():
    model = ours(reference(), dropout_rate=0.5).train()
    source = batch(SIZES["vocab_size"])[0][0]
    while_training = beam_search(model, source, 6, num_beams=2)
    assert model.training and model.decoder.dropout.training
    assert while_training == beam_search(model.eval(), source, 6, num_beams=2)


# -- checkpoints


@both_versions
def test_a_checkpoint_of_transformers_is_read_whole_and_in_shards(tmp_path, options):
    model = reference(dropout_rate=0.25, layer_norm_epsilon=1e-3, **options)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for path in ("whole", "shards"):
        t5 = models.from_pretrained(tmp_path / path)
        assert isinstance(t5, T5) and not t5.training
        assert t5.config == config(dropout_rate=0.25, layer_norm_epsilon=1e-3, **options)
        assert_same_logits(t5, model)
    assert T5.from_pretrained(tmp_path / "whole", dropout_rate=0.0).config.dropout_rate == 0.0


@pytest.mark.parametrize("tied", [True, False])
def test_a_bare_model_is_read(tmp_path, tied):
    bare = reference(transformers.T5Model, tie_word_embeddings=tied)
    bare.save_pretrained(tmp_path)
    t5 = T5.from_pretrained(tmp_path)
    assert t5.lm_head.weight is t5.shared.weight
    assert_same_logits(t5, transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval())


def test_checkpoints_of_older_versions_are_read(tmp_path):
    model = reference(**V1_1)
    model.save_pretrained(tmp_path)
    change(tmp_path, scale_decoder_outputs=None, dense_act_fn=None, is_gated_act=None, tie_word_embeddings=False)
    file = tmp_path / "model.safetensors"
    state = safetensors.numpy.load_file(file)
    state |= {f"{stack}.embed_tokens.weight": state["shared.weight"] for stack in ("encoder", "decoder")}
    state["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.ones((8, 3), np.float32)
    safetensors.numpy.save_file(state, file)
    assert_same_logits(T5.from_pretrained(tmp_path), model)


@both_versions
def test_transformers_reads_what_save_pretrained_writes(tmp_path, options):
    t5 = T5(config(dropout_rate=0.1, **options)).eval()
    t5.save_pretrained(tmp_path)
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert_same_logits(t5, model)
    again = T5.from_pretrained(tmp_path)
    assert again.config == t5.config
    assert_same_logits(again, model)


def test_the_encoder_alone_is_read_from_its_own_and_from_whole_checkpoints(tmp_path):
    model = reference()
    source, mask, _ = batch(SIZES["vocab_size"])
    expected = model.encoder(torch.tensor(source), attention_mask=torch.tensor(mask).long()).last_hidden_state
    model.save_pretrained(tmp_path / "whole")
    transformers.T5EncoderModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "encoder")
    T5Encoder.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "again")
    again = transformers.T5EncoderModel.from_pretrained(tmp_path / "again").eval()
    theirs = again(torch.tensor(source), attention_mask=torch.tensor(mask).long()).last_hidden_state
    assert isinstance(models.from_pretrained(tmp_path / "encoder"), T5Encoder)
    for encoded in (
        T5Encoder.from_pretrained(tmp_path / "encoder")(Tensor(source), Tensor(mask)).numpy(),
        T5Encoder.from_pretrained(tmp_path / "whole")(Tensor(source), Tensor(mask)).numpy(),
        T5.from_pretrained(tmp_path / "whole").encode(Tensor(source), Tensor(mask)).numpy(),
        theirs.detach().numpy(),
    ):
        np.testing.assert_allclose(encoded[mask], expected.detach().numpy()[mask], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(model_type="bart"), "model_type is 'bart'"),
        (dict(d_model=16), r"has shape .*12.* in the file, .*16.* in the model"),
        (dict(num_layers=4), "missing encoder.block.3"),
        (dict(num_decoder_layers=1), "unexpected decoder.block.1"),
        (dict(num_decoder_layers=10**9), "num_decoder_layers is 1000000000"),
        (dict(num_decoder_layers="many"), "num_decoder_layers is 'many'"),
        (dict(feed_forward_proj="gated-mish"), "'gated-mish'"),
        (dict(feed_forward_proj="gated-relu"), "missing .*wi_0"),
        (dict(decoder_start_token_id=29), "decoder_start_token_id 29 is no token"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_says_why(tmp_path, options, message):
    T5(config()).save_pretrained(tmp_path)
    change(tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        T5.from_pretrained(tmp_path)


def test_a_head_that_is_tied_and_differs_is_refused(tmp_path):
    T5(config(**V1_1)).save_pretrained(tmp_path)
    change(tmp_path, tie_word_embeddings=True)
    with pytest.raises(ValueError, match="lm_head.weight and shared.weight|shared.weight and lm_head.weight"):
        T5.from_pretrained(tmp_path)


def test_texts_start_with_the_padding_where_no_start_is_said():
    assert T5.config_from(dict(decoder_start_token_id=None, pad_token_id=3)).decoder_start_token_id == 3
    assert T5.config_from(dict(decoder_start_token_id=4, pad_token_id=3)).decoder_start_token_id == 4
