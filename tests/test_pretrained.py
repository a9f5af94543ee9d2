"""Checkpoints from elsewhere: the right class is chosen, and what is damaged or hostile is one clear error.

That transformers' weights give transformers' numbers is in the tests of each architecture.
"""

import json
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from clgrad import Tensor, models, nn
from clgrad.models import GPT, GPTConfig, Llama, LlamaConfig
from clgrad.models.base import class_for
from clgrad.nn.quantized import quantize

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=4, block_size=8, vocab_size=10)
LLAMA = LlamaConfig(
    vocab_size=10, hidden_size=4, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2, rms_norm_eps=0.5
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """config.json and model.safetensors of a tiny GPT, as bytes."""
    folder = tmp_path_factory.mktemp("saved")
    GPT(CONFIG).save_pretrained(folder)
    return {file: (folder / file).read_bytes() for file in ("config.json", "model.safetensors")}


@pytest.fixture
def folder(saved, tmp_path):
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)
    return tmp_path


def change(path, **options):
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def arrays(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def write(folder, state, file="model.safetensors"):
    safetensors.numpy.save_file(state, folder / file)


# -- the class


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dict(model_type="gpt2"), GPT),
        (dict(model_type="gpt2", architectures=["GPT2Model"]), GPT),
        (dict(architectures=["LlamaForCausalLM"]), Llama),
        (dict(model_type="mistral"), Llama),
        (dict(model_type="openai-gpt"), models.GPT1),
        (dict(model_type="gpt2", architectures=None), GPT),
    ],
)
def test_the_class_follows_from_the_configuration(config, expected):
    assert class_for(config) is expected


@pytest.mark.parametrize("config", [{}, dict(model_type="mamba"), dict(architectures=[["x"], 7], model_type=[1])])
def test_a_configuration_of_no_known_class_lists_those_there_are(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"no model here reads .*gpt2, .*llama"):
        models.from_pretrained(folder)


def test_a_head_that_no_class_has_is_named_in_a_warning():
    with pytest.warns(UserWarning, match="BertForTokenClassification is no model here; .* read as Bert"):
        assert class_for(dict(model_type="bert", architectures=["BertForTokenClassification"])) is models.Bert


def test_another_class_refuses_a_checkpoint_and_says_where_to_go(folder):
    with pytest.raises(ValueError, match=r"model_type is 'gpt2', and Llama reads llama or mistral; .*from_pretrained"):
        Llama.from_pretrained(folder)


def test_options_are_replaced_and_unknown_ones_named(folder):
    assert models.from_pretrained(folder, dropout=0.25).config.dropout == 0.25
    with pytest.raises(ValueError, match="no option 'dropuot'.* dropout"):
        models.from_pretrained(folder, dropuot=0.25)


def test_a_preset_is_a_configuration_and_an_unknown_one_is_named():
    assert GPT.preset("gpt2-xl", dropout=0.1) == GPTConfig(48, 25, 1600, 1024, dropout=0.1)
    with pytest.raises(ValueError, match="GPT has no preset 'gpt5'; it has gpt2, gpt2-medium"):
        GPT.preset("gpt5")


# -- the arrays


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(tmp_path, dtype):
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=4, n_positions=8, vocab_size=10)).to(dtype)
    model.save_pretrained(tmp_path)
    for name, tensor in GPT.from_pretrained(tmp_path).named_parameters():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor.numpy(), model.state_dict()[name].float().numpy())


def test_weights_that_are_no_floats_are_refused(folder):
    write(folder, {name: array.astype(np.int32) for name, array in arrays(folder).items()})
    with pytest.raises(ValueError, match="is of int32, and weights are floats"):
        models.from_pretrained(folder)


def test_missing_and_left_over_arrays_are_named(folder):
    state = arrays(folder)
    state["transformer.h.0.surplus"] = state.pop("transformer.h.1.mlp.c_fc.bias")
    write(folder, state)
    with pytest.raises(ValueError, match=r"missing transformer.h.1.mlp.c_fc.bias; unexpected transformer.h.0.surplus"):
        models.from_pretrained(folder)


def test_many_missing_arrays_are_counted(folder):
    write(folder, {name: array for name, array in arrays(folder).items() if ".h." not in name})
    with pytest.raises(ValueError, match=r"missing transformer.h.0.attn.c_attn.bias, .* and 16 more$"):
        models.from_pretrained(folder)


def test_an_array_of_another_shape_is_named_before_any_is_read(folder):
    state = arrays(folder)
    state["transformer.wpe.weight"] = np.zeros((4, 8), np.float32)
    write(folder, state)
    with pytest.raises(ValueError, match=r"wpe.weight has shape \(4, 8\) in the file, \(8, 4\) in the model"):
        models.from_pretrained(folder)


def test_an_array_with_and_without_the_prefix_is_refused(folder):
    state = arrays(folder)
    write(folder, state | {"wpe.weight": state["transformer.wpe.weight"]})
    with pytest.raises(ValueError, match="with and without the prefix 'transformer.'"):
        models.from_pretrained(folder)


def test_tied_weights_may_be_there_twice_but_not_differ(folder):
    state = arrays(folder)
    write(folder, state | {"lm_head.weight": state["transformer.wte.weight"]})
    assert models.from_pretrained(folder).num_parameters() == GPT(CONFIG).num_parameters()
    write(folder, state | {"lm_head.weight": state["transformer.wte.weight"] + 1})
    with pytest.raises(ValueError, match="lm_head.weight and transformer.wte.weight differ, and are one Tensor"):
        models.from_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_is_needed_only_where_weights_are_not_tied(tmp_path, tied):
    model = Llama(LlamaConfig(**vars(LLAMA) | dict(tie_word_embeddings=tied)))
    model.save_pretrained(tmp_path)
    state = arrays(tmp_path)
    assert ("lm_head.weight" in state) is not tied
    bare = {name.removeprefix("model."): array for name, array in state.items()}
    write(tmp_path, bare)
    x = Tensor(np.arange(5, dtype=np.int32)[None])
    again = models.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(x)[0].numpy(), model.eval()(x)[0].numpy())
    bare.pop("lm_head.weight", None)
    write(tmp_path, bare)
    if tied:
        models.from_pretrained(tmp_path)
    else:
        with pytest.raises(ValueError, match="missing lm_head.weight"):
            models.from_pretrained(tmp_path)


# -- packed


SMALL = {
    GPT: dict(n_layer=1, n_head=2, n_embd=32, block_size=8, vocab_size=40),
    models.GPT1: dict(n_layer=1, n_head=2, n_embd=32, block_size=8, vocab_size=40),
    Llama: dict(vocab_size=40, hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2),
    models.BertForMaskedLM: dict(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2),
    models.RobertaForMaskedLM: dict(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2),
    models.T5: dict(d_model=32, d_ff=40, d_kv=8, num_heads=2, num_layers=1, vocab_size=40),
    models.Bart: dict(d_model=32, encoder_layers=1, decoder_layers=1, decoder_ffn_dim=40, vocab_size=40),
    models.Transformer: dict(d_model=32, encoder_layers=1, decoder_layers=1, num_heads=2, d_ff=40, vocab_size=40),
}


@pytest.mark.parametrize("cls", SMALL, ids=lambda cls: cls.__name__)
def test_every_family_is_quantised_whole_and_stays_close(cls):
    Tensor.manual_seed(0)
    model, tokens = cls(cls.Config(**SMALL[cls])).eval(), Tensor(np.arange(10, dtype=np.int32).reshape(2, 5))
    inputs = (tokens, tokens) if hasattr(model, "encode") else (tokens,)
    exact = model(*inputs)[0].numpy()
    packed = quantize(model)(*inputs)[0].numpy()
    assert 0 < np.abs(packed - exact).max() < 0.02 * np.abs(exact).max()


# -- config.json


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_layer=10**9), "n_layer is 1000000000, and no model"),
        (dict(n_layer=10**6), "n_layer is 1000000, and there are 28 arrays in all"),
        (dict(n_embd=10**12), "n_embd is 1000000000000, and no model"),
        (dict(n_embd=2**22), r"has shape \(12,\) in the file, \(12582912,\)"),
        (dict(vocab_size=2**70), "vocab_size is .*, and no model"),
        (dict(n_layer="2"), "n_layer is '2', and must be of type int"),
        (dict(n_layer=True), "n_layer is 'True', and must be of type int"),
        (dict(n_embd=4.0), "n_embd is '4.0', and must be of type int"),
        (dict(layer_norm_epsilon=float("nan")), "layer_norm_epsilon is nan"),
        (dict(layer_norm_epsilon=-1.0), "layer_norm_epsilon is -1.0"),
        (dict(resid_pdrop=float("inf")), "resid_pdrop is inf"),
    ],
)
def test_absurd_options_are_refused_without_memory_for_them(folder, options, message):
    change(folder / "config.json", **options)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"(?s)config.json: .*{message}"):
            models.from_pretrained(folder)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_json_that_nests_without_end_is_damaged(folder):
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="config.json is damaged"):
        models.from_pretrained(folder)


# -- the index


def index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps(dict(weight_map=weight_map)))


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/outside.safetensors", "a/../../b.safetensors", "..\\b.safetensors", "..", ""],
)
def test_an_index_may_not_name_files_outside_the_folder(folder, name):
    (folder / "inside").mkdir()
    for file in ("model.safetensors", "config.json"):
        (folder / file).rename(folder / "inside" / file)
    (folder / "inside" / "model.safetensors").rename(folder / "outside.safetensors")
    index(folder / "inside", {"transformer.wte.weight": name})
    with pytest.raises(ValueError, match="may only name .safetensors files of its own folder"):
        models.from_pretrained(folder / "inside")


def test_shards_that_are_missing_repeat_or_are_no_names_are_refused(folder):
    state = arrays(folder)
    (folder / "model.safetensors").unlink()
    index(folder, dict.fromkeys(state, "a.safetensors"))
    with pytest.raises(FileNotFoundError, match="a.safetensors"):
        models.from_pretrained(folder)
    write(folder, state, "a.safetensors")
    write(folder, {"transformer.wte.weight": state["transformer.wte.weight"]}, "b.safetensors")
    assert models.from_pretrained(folder).num_parameters() == GPT(CONFIG).num_parameters()
    index(folder, dict.fromkeys(state, "a.safetensors") | {"transformer.wte.weight": "b.safetensors"})
    with pytest.raises(ValueError, match="two files have transformer.wte.weight"):
        models.from_pretrained(folder)
    for weight_map in (None, ["a.safetensors"], {"transformer.wte.weight": 7}):
        index(folder, weight_map)
        with pytest.raises(ValueError, match="has no weight_map"):
            models.from_pretrained(folder)


@pytest.mark.parametrize("size", ["300", 400, "0.3KB", "1KiB", "1MB", None])
def test_shards_are_read_back_here_and_by_transformers_and_replace_what_was_there(folder, size):
    before = GPT(CONFIG).eval()
    before.save_pretrained(folder, max_shard_size=200)
    model, x = GPT(CONFIG).eval(), np.arange(5)[None]
    model.save_pretrained(folder, max_shard_size=size)
    files = list(folder.glob("*.safetensors"))
    assert (len(files) > 1) is (size not in ("1MB", None))
    assert (folder / "model.safetensors.index.json").exists() is (len(files) > 1)
    assert sum(len(safetensors.numpy.load_file(file)) for file in files) == len(model.saved_state())
    expected = model(Tensor(x.astype(np.int32)))[0].numpy()
    np.testing.assert_array_equal(models.from_pretrained(folder)(Tensor(x.astype(np.int32)))[0].numpy(), expected)
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()(torch.tensor(x)).logits.detach().numpy()
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", ["large", "GB", 0, -1, "1.2.3MB", "infMB"])
def test_a_shard_size_that_is_none_is_refused_before_anything_is_written(tmp_path, size):
    with pytest.raises(ValueError, match="max_shard_size must be a number of bytes, or text such as"):
        GPT(CONFIG).save_pretrained(tmp_path / "new", max_shard_size=size)
    assert not (tmp_path / "new").exists()


def test_heads_that_start_at_random_values_are_named_in_one_warning(tmp_path):
    config = models.BertConfig(9, 4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    models.Bert(config, pooling=False).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"no bert.pooler.dense.bias, .*classifier.weight: random values") as found:
        models.BertForSequenceClassification.from_pretrained(tmp_path)
    assert len(found) == 1
    models.Bert(config).save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.Bert.from_pretrained(tmp_path)


# -- safetensors


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return dict(dtype=dtype, shape=list(shape), data_offsets=list(offsets))


def file_of(header, data=b"\0" * 8, length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


HOSTILE = {
    "no header": b"",
    "half a length": b"\x10\0\0",
    "a header beyond the file": file_of({"a": entry()}, length=10**6),
    "a header of 2^63 bytes": file_of({"a": entry()}, length=2**63),
    "a header of 2^64 - 1 bytes": file_of({"a": entry()}, length=2**64 - 1),
    "no JSON": file_of(b"\xff{"),
    "JSON that nests without end": file_of(b"[" * 100_000),
    "a list": file_of([]),
    "a number of many digits": file_of(b'{"a": ' + b"9" * 5000 + b"}"),
    "metadata that is no text": file_of({"__metadata__": {"a": 1}}, b""),
    "an entry that is no object": file_of({"a": 7}),
    "an entry without offsets": file_of({"a": dict(dtype="F32", shape=[2])}),
    "an entry with more than there should be": file_of({"a": entry() | {"more": 1}}),
    "data beyond the file": file_of({"a": entry(shape=(4,), offsets=(0, 16))}),
    "data of an absurd length": file_of({"a": entry(shape=(2**61,), offsets=(0, 2**63))}),
    "sizes whose product is beyond 64 bits": file_of({"a": entry(shape=(2**40, 2**40))}),
    "a size of 2^64": file_of({"a": entry(shape=(2**64,))}),
    "a negative size": file_of({"a": entry(shape=(-2, -1))}),
    "a size that is no integer": file_of({"a": entry(shape=(2.0,))}),
    "a size that is a bool": file_of({"a": entry(shape=(2, True))}),
    "a thousand dimensions": file_of({"a": entry(shape=(1,) * 998 + (2,))}),
    "an empty array of absurd sizes": file_of({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}, b""),
    "offsets in the wrong order": file_of({"a": entry(offsets=(8, 0))}),
    "negative offsets": file_of({"a": entry(offsets=(-8, 0))}),
    "three offsets": file_of({"a": entry(offsets=(0, 8, 8))}),
    "a length that is not the shape's": file_of({"a": entry(shape=(1,))}),
    "arrays that overlap": file_of({"a": entry(), "b": entry(shape=(1,), offsets=(4, 8))}),
    "the same bytes twice": file_of({"a": entry(), "b": entry()}),
    "a gap": file_of({"a": entry(shape=(1,), offsets=(4, 8))}),
    "bytes behind the last array": file_of({"a": entry()}, b"\0" * 9),
    "a name twice": file_of(b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2)),
    "a key twice": file_of(b'{"a": {"dtype": "F32", "shape": [2], "shape": [1], "data_offsets": [0, 8]}}'),
    "a dtype that is no text": file_of({"a": entry(dtype=["F32"])}),
    "a dtype that there is not": file_of({"a": entry(dtype="F7")}),
}


def test_the_files_that_the_hostile_ones_come_from_is_read(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(file_of({"a": entry()}))
    assert nn.state.safe_load(tmp_path / "a.safetensors")["a"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_one_error_and_takes_no_memory(folder, what):
    path = folder / "model.safetensors"
    path.write_bytes(HOSTILE[what])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            nn.state.safe_load(path)
        with pytest.raises(ValueError, match=r"model\.safetensors|config\.json"):
            models.from_pretrained(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6  # a deep nesting takes some until it is given up
    finally:
        tracemalloc.stop()


def test_a_header_longer_than_any_model_needs_is_not_parsed(folder):
    path = folder / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**30 + 8)  # a hole: it takes no space
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="a header of 1073741824 bytes"):
            models.from_pretrained(folder)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@given(data=st.data())
def test_a_damaged_header_is_an_error_or_says_the_same(saved, tmp_path_factory, data):
    """Bytes of the header are put out, put in or exchanged: nothing but a ValueError, or the arrays that were there."""
    content = bytearray(saved["model.safetensors"])
    end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, end - 1))
        length = data.draw(st.integers(0, 3))
        content[where : where + length] = data.draw(st.binary(max_size=3))
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    path = folder / "model.safetensors"
    path.write_bytes(content)
    try:
        found = nn.state.safe_load(path)
    except ValueError as error:
        assert "model.safetensors" in str(error)
        return
    sizes = sorted(tensor.numel() for tensor in found.values())
    assert sum(sizes) <= len(content)
