"""Tokenizers: what is encoded comes back, the files of others give the ids of others, damage is one clear error."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clgrad.models.tokenizers import (
    BYTES,
    END_OF_TEXT,
    GPT2_PATTERN,
    CharTokenizer,
    SubwordTokenizer,
    Tokenizer,
    check_belongs,
    from_tiktoken,
    stream,
    tokenizer_from,
)

TEXT = "The quick brown fox jumps over the lazy dog; it's 1995, and they're all there.\n  Über Äpfel: 世界 😀\n" * 3
WORDS = ["a", "the", "'s", "'ll", " ", "  ", "\n", "1", "23", "½", "é", "世", "😀", "_", "!?", "\u2028", "\t", "Ü"]
texts = st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map("".join))


@pytest.fixture(scope="module")
def bpe():
    pytest.importorskip("tokenizers")
    return SubwordTokenizer.train([TEXT], 320, ["<pad>", "</s>"])


@pytest.fixture(scope="module")
def ranks(bpe):
    """The same merges as tiktoken has them: bytes and their rank."""
    place = {character: byte for byte, character in enumerate(BYTES)}
    tokens = sorted((token, name) for name, token in bpe.inner.get_vocab().items() if name not in ("<pad>", "</s>"))
    return {bytes(place[character] for character in name): rank for rank, (_, name) in enumerate(tokens)}


@pytest.fixture(scope="module")
def ranks_file(ranks, tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks") / "own.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    return path


@given(text=texts)
def test_every_text_comes_back_from_bytes_whole_and_piece_by_piece(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text and "".join(stream(bpe, ids)) == text
    assert all(0 <= token < bpe.vocab_size for token in ids)


@given(text=st.text(min_size=1), more=st.text())
def test_characters_come_back_and_unknown_ones_are_named(text, more):
    letters = CharTokenizer.of(text)
    assert letters.decode(letters.encode(text)) == text == "".join(stream(letters, letters.encode(text)))
    for character in set(more) - set(text):
        with pytest.raises(ValueError, match="never seen"):
            letters.encode(character)
        assert letters.id_of(character) is None


def test_a_bpe_learns_what_is_frequent_and_keeps_to_its_size(bpe):
    assert bpe.vocab_size <= 320 and (bpe.id_of("<pad>"), bpe.id_of("</s>"), bpe.eos) == (0, 1, 1)
    assert len(bpe.encode(TEXT)) < 0.7 * len(TEXT.encode())
    framed = SubwordTokenizer.train([TEXT], 270, ["<s>", "</s>"], template="<s> $A </s>")
    assert framed.encode("fox", special=True) == [0, *framed.encode("fox"), 1]
    with pytest.raises(ValueError, match="at least 258, not 257"):
        SubwordTokenizer.train([TEXT], 257, ["<pad>", "</s>"])


def test_half_characters_tokens_that_are_none_and_boundless_vocabularies_are_refused(bpe):
    for call in (
        lambda: bpe.encode("\ud800"), lambda: bpe.decode([-1]), lambda: SubwordTokenizer.train(["a"], 10**12)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Unicode|are none|at most 4194304"):
            call()


def test_pieces_of_a_stream_come_as_soon_as_they_are_whole(bpe):
    pieces = list(stream(bpe, bpe.encode("ab 😀!")))
    assert pieces[0] == "a" and "\ufffd" not in "".join(pieces)
    broken = bpe.encode("😀")[:1]  # a character that never ends is shown as broken, not kept back
    assert "".join(stream(bpe, broken * 10)) == bpe.decode(broken * 10)


@given(st.lists(st.sampled_from([0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0x41, 0xFF, 0xEF, 0xBF, 0xBD]), max_size=12))
def test_bytes_that_are_no_text_are_streamed_as_what_all_together_mean(bpe, content):
    ids = [bpe.id_of(BYTES[byte]) for byte in content]
    assert "".join(stream(bpe, ids)) == bpe.decode(ids) == bytes(content).decode("utf-8", "replace")


def test_what_is_saved_is_loaded(bpe, tmp_path):
    for tokenizer in (bpe, CharTokenizer.of(TEXT)):
        tokenizer.save(tmp_path / "t.json")
        again = Tokenizer.load(tmp_path / "t.json")
        assert type(again) is type(tokenizer)
        assert (again.vocab_size, again.eos) == (tokenizer.vocab_size, tokenizer.eos)
        assert again.encode(TEXT) == tokenizer.encode(TEXT)


# -- the files of others


@given(text=texts)
def test_tiktoken_s_ranks_give_tiktoken_s_ids(ranks, ranks_file, text):
    tiktoken = pytest.importorskip("tiktoken")
    # Merges that BPE never learnt are possible too: two tokens that together are a token merge, however it came about.
    theirs = tiktoken.Encoding("own", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    assert CACHE.setdefault("ranks", from_tiktoken(ranks_file)).encode(text) == theirs.encode_ordinary(text)


CACHE: dict = {}


def test_tiktoken_s_end_of_text_comes_after_the_ranks(ranks, ranks_file, tmp_path):
    pytest.importorskip("tokenizers")
    tokenizer = Tokenizer.load(ranks_file)
    assert tokenizer.eos == len(ranks) and tokenizer.vocab_size == len(ranks) + 1
    assert tokenizer.encode("the" + END_OF_TEXT)[-1] == tokenizer.eos
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").encode(TEXT) == tokenizer.encode(TEXT)


def test_transformers_reads_a_tokenizer_that_was_saved(bpe, tmp_path):
    transformers = pytest.importorskip("transformers")
    bpe.save(tmp_path / "tokenizer.json")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs(TEXT)["input_ids"] == bpe.encode(TEXT)


def test_a_published_tokenizer_json_adds_its_special_tokens_only_when_asked(tmp_path):
    """WordPiece between [CLS] and [SEP], as BERT has it; padding and truncation of the file are not ours."""
    package = pytest.importorskip("tokenizers")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "fox", "##es"]
    inner = package.Tokenizer(
        package.models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"),
    )
    inner.pre_tokenizer = package.pre_tokenizers.Whitespace()
    inner.decoder = package.decoders.WordPiece()
    inner.post_processor = package.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    inner.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    inner.enable_truncation(4)
    inner.enable_padding(length=9)
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 7, "eos_token_id": [3, 2]}))
    tokenizer = tokenizer_from(tmp_path)
    assert tokenizer.encode("the foxes the fox") == [4, 5, 6, 4, 5]
    assert tokenizer.encode("the foxes", special=True) == [2, 4, 5, 6, 3]
    assert "".join(stream(tokenizer, [4, 5, 6, 4])) == tokenizer.decode([2, 4, 5, 6, 4, 3]) == "the foxes the"
    assert tokenizer.eos == 3 and tokenizer.ends == {2, 3}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 3]}))
    assert tokenizer_from(tmp_path).ends == {3, 5}
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 6}))
    with pytest.raises(ValueError, match="does not belong to this model: it has 7 tokens, and the model knows 6"):
        tokenizer_from(tmp_path)


# -- what is refused


def test_a_tokenizer_of_another_model_is_refused():
    letters = CharTokenizer.of("abc")
    check_belongs(letters, 3)
    check_belongs(letters, 4)  # padded embeddings
    for ids in ([0, 3], [-1]):
        with pytest.raises(ValueError, match="none of the 3 characters"):
            letters.decode(ids)
    with pytest.raises(ValueError, match="never seen"):
        CharTokenizer("").encode("a")
    with pytest.raises(ValueError, match="has 3 tokens, and the model knows 2"):
        check_belongs(letters, 2)


def test_a_tokenizer_cut_anywhere_is_one_clear_error(bpe, tmp_path):
    path = tmp_path / "t.json"
    for whole in (bpe.to_json().encode(), CharTokenizer.of("aé世").to_json().encode()):
        for length in {0, 1, 2, *range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match="t.json"):
                Tokenizer.load(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is damaged: the byte 0 has no token"),
        (b"\x89PNG\r\n", "line 1 is not a token in base64"),
        (b"IQ== 0\nIQ= 1\n", "line 2 is not a token"),
        (b"IQ== zero\n", "line 1 is not a token"),
        (b"IQ== 0\n", "the byte 0 has no token"),
        (b"{", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[1]", "no tokenizer"),
        (b"{}", "no tokenizer"),
        (b'{"model": {"type": "BPE"}}', "damaged or no tokenizer.json"),
        (b'{"model": 5}', "damaged or no tokenizer.json"),
        (b'{"type": "characters"}', "is damaged"),
        (b'{"type": "characters", "characters": "ba"}', "is damaged"),
        (b'{"type": "characters", "characters": ""}', "is damaged"),
        (b'{"type": "\xff"}', "is damaged"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_clear_error(tmp_path, content, message):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path / "t")


def test_ranks_that_repeat_or_collide_are_refused(tmp_path, ranks_file):
    lines = ranks_file.read_bytes().splitlines()
    (tmp_path / "t").write_bytes(b"\n".join([*lines[:-1], lines[-1].split()[0] + b" 0"]))
    with pytest.raises(ValueError, match="ranks repeat"):
        Tokenizer.load(tmp_path / "t")
    with pytest.raises(ValueError, match="special tokens .* ids that ranks have"):
        from_tiktoken(ranks_file, special_tokens={"<s>": 5})


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        Tokenizer.load(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="no tokenizer.json in"):
        tokenizer_from(tmp_path)


def test_without_the_package_characters_work_and_the_rest_names_the_extra(monkeypatch, bpe):
    content = bpe.to_json()
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    assert CharTokenizer.of("ab").encode("ba") == [1, 0]
    with pytest.raises(ImportError, match=r"clgrad\[tokenizers\]"):
        Tokenizer.from_json(content)
