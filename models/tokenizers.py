"""Text to token ids and back: characters, byte-level BPE, Hugging Face's tokenizer.json, tiktoken's ranks.

Every tokenizer has `encode`, `decode`, `vocab_size`, `eos` and `save`; `Tokenizer.load` reads whatever `save` wrote,
and the files of others:

    tokenizer = Tokenizer.load("gpt2.tiktoken")          # base64 and a rank a line
    tokenizer = tokenizer_from("folder/of/a/model")      # tokenizer.json beside config.json
    tokenizer = SubwordTokenizer.train(lines, 8000)      # byte-level BPE of one's own text

All but characters need the package `tokenizers` (the extra of that name). Nothing is executed on reading.

>>> letters = CharTokenizer.of("to be or not to be")
>>> letters.encode("not"), letters.decode([6, 4, 3])
([3, 4, 6], 'ton')
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from ..nn.state import atomic_write

PathLike = Union[str, os.PathLike]

# How GPT-2 cuts a text into words before any merge; a merge never crosses a cut.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END_OF_TEXT = "<|endoftext|>"
# Tokens that end a text, by the names that published tokenizers give them; the first that is there counts.
ENDS = ("</s>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", END_OF_TEXT, "<eos>", "[SEP]")
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what decoding makes of bytes that are not yet a whole character
LARGEST_VOCABULARY = 1 << 22  # tokens to be learnt: memory for as many is taken beforehand


class Tokenizer:
    """What all tokenizers promise. `eos` is the id that ends a text, or None."""

    vocab_size: int
    eos: Optional[int] = None
    more_ends: frozenset[int] = frozenset()  # ids that end a text too

    @property
    def ends(self) -> frozenset[int]:
        """All ids that end a text."""
        return self.more_ends if self.eos is None else self.more_ends | {self.eos}

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids. With `special`, also the ones that the model's inputs begin and end with ([CLS], </s>, ...)."""
        raise NotImplementedError

    def encode_array(self, text: str) -> np.ndarray:
        """`encode` as an int32 array, for long texts."""
        return np.array(self.encode(text), dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Text, without special tokens. Bytes that are no whole character become U+FFFD."""
        raise NotImplementedError

    def id_of(self, token: str) -> Optional[int]:
        """The id of one token by its text, or None."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The content of the file that `save` writes."""
        raise NotImplementedError

    def save(self, path: PathLike) -> None:
        """Write one JSON file, atomically. For all but characters it is a tokenizer.json that others read too."""
        atomic_write(path, self.to_json().encode("utf-8"))

    @staticmethod
    def from_json(content: str, name: str = "the tokenizer") -> Tokenizer:
        """The reverse of `to_json`. Raises ValueError that begins with `name`."""
        try:
            table = json.loads(content)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{name} is damaged: {error}") from None
        if isinstance(table, dict) and table.get("type") == "characters":
            return CharTokenizer.from_table(table, name)
        if not isinstance(table, dict) or "model" not in table:
            raise ValueError(f"{name} is JSON, but no tokenizer: it has no model")
        return SubwordTokenizer.from_text(content, name)

    @staticmethod
    def load(path: PathLike) -> Tokenizer:
        """A file of `save`, a tokenizer.json, or tiktoken's ranks (told apart by their content).

        Raises FileNotFoundError, ImportError without the package tokenizers, and ValueError for a file that is cut
        short, damaged, or something else.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(f"no tokenizer {path}") from None
        except IsADirectoryError:
            return tokenizer_from(path)
        if content.lstrip()[:1] in (b"{", b"["):
            try:
                return Tokenizer.from_json(content.decode("utf-8"), str(path))
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is damaged: {error}") from None
        return from_tiktoken(path)


class CharTokenizer(Tokenizer):
    """Characters; a character's id is its place in `characters`, which is sorted."""

    def __init__(self, characters: str):
        self.characters, self.vocab_size = characters, len(characters)

    @classmethod
    def of(cls, text: str) -> CharTokenizer:
        return cls("".join(sorted(set(text))))

    @classmethod
    def from_table(cls, table: Mapping[str, Any], name: str) -> CharTokenizer:
        characters = table.get("characters")
        if not isinstance(characters, str) or not characters or list(characters) != sorted(set(characters)):
            raise ValueError(f"{name} is damaged: its characters must be a sorted string without repetition")
        return cls(characters)

    def __len__(self) -> int:
        return self.vocab_size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharTokenizer) and self.characters == other.characters

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def code_points(self) -> np.ndarray:
        return _code_points(self.characters)

    def encode_array(self, text: str) -> np.ndarray:
        """int32 ids. Raises ValueError that names the characters the vocabulary lacks."""
        points = _code_points(text)
        tokens = np.searchsorted(self.code_points, points)
        unknown = np.append(self.code_points, np.uint32(2**32 - 1))[tokens] != points
        if unknown.any():
            names = ", ".join(repr(chr(point)) for point in np.unique(points[unknown]))
            raise ValueError(
                f"the model has never seen the character{'s' if ',' in names else ''} {names}; "
                f"it knows {self.characters!r}"
            )
        return tokens.astype(np.int32)

    def encode(self, text: str, special: bool = False) -> list[int]:
        return self.encode_array(text).tolist()

    def decode(self, ids: Iterable[int]) -> str:
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(f"a token is none of the {self.vocab_size} characters that this tokenizer knows")
        return "".join(self.characters[token] for token in ids)

    def id_of(self, token: str) -> Optional[int]:
        place = self.characters.find(token) if len(token) == 1 else -1
        return place if place >= 0 else None

    def to_json(self) -> str:
        return json.dumps({"type": "characters", "characters": self.characters})


class SubwordTokenizer(Tokenizer):
    """A tokenizer of the package `tokenizers`: a tokenizer.json, or byte-level BPE learnt from a text."""

    def __init__(self, inner: Any, eos: Optional[int] = None):
        """`inner` is a tokenizers.Tokenizer; `eos` is found by its name among `ENDS` unless given."""
        self.inner = inner
        self.vocab_size = 1 + max(inner.get_vocab(with_added_tokens=True).values(), default=-1)
        named = (inner.token_to_id(name) for name in ENDS)
        self.eos = eos if eos is not None else next((token for token in named if token is not None), None)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = (), template: str = "$A"
    ) -> SubwordTokenizer:
        """Byte-level BPE (Sennrich et al., arXiv 1508.07909; bytes as in GPT-2) learnt from `texts`.

        `special_tokens` get the ids from 0 on, then come the 256 bytes, then merges, up to `vocab_size` if the texts
        have as many. Every text can be encoded, whatever its characters. `template` is what `encode(special=True)`
        makes of a text $A, such as "[CLS] $A [SEP]". Raises ImportError and ValueError.
        """
        if vocab_size < 256 + len(special_tokens):
            raise ValueError(
                f"a byte-level vocabulary has 256 bytes and {len(special_tokens)} special tokens: "
                f"vocab_size must be at least {256 + len(special_tokens)}, not {vocab_size}"
            )
        if vocab_size > LARGEST_VOCABULARY:
            raise ValueError(f"vocab_size must be at most {LARGEST_VOCABULARY}, not {vocab_size}")
        package = _package()
        inner = _byte_level(package, package.models.BPE(), None)
        trainer = package.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special_tokens),
            initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        framing = [(name, inner.token_to_id(name)) for name in special_tokens if name in template.split()]
        inner.post_processor = package.processors.TemplateProcessing(single=template, special_tokens=framing)
        return cls(inner)

    @classmethod
    def byte_level(
        cls,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        special_tokens: Sequence[str] = (),
        pattern: Optional[str] = None,
        eos: Optional[int] = None,
    ) -> SubwordTokenizer:
        """Byte-level BPE from its tables, as GPT-2's vocab.json and merges.txt have them (bytes as `BYTES`).

        `special_tokens` are those of the vocabulary that stand for themselves in a text; `pattern` is the regular
        expression that cuts words, GPT-2's unless given. Raises ImportError, and ValueError for tables that do not
        fit each other.
        """
        package = _package()
        try:
            model = package.models.BPE(vocab=dict(vocabulary), merges=[tuple(pair) for pair in merges])
            inner = _byte_level(package, model, pattern)
        except Exception as error:  # the package raises bare Exceptions
            raise ValueError(f"the tokenizer's tables do not fit each other: {error}") from None
        inner.add_special_tokens([package.AddedToken(name, special=True, normalized=False) for name in special_tokens])
        return cls(inner, eos)

    @classmethod
    def from_text(cls, content: str, name: str = "tokenizer.json") -> SubwordTokenizer:
        """From the content of a tokenizer.json. Raises ImportError, and ValueError that begins with `name`."""
        package = _package()
        try:
            inner = package.Tokenizer.from_str(content)
        except Exception as error:  # the package raises bare Exceptions
            raise ValueError(f"{name} is damaged or no tokenizer.json: {error}") from None
        # Settings of a file that would change what encode returns: this class pads and cuts nothing.
        inner.no_padding()
        inner.no_truncation()
        return cls(inner)

    def encode(self, text: str, special: bool = False) -> list[int]:
        try:
            return self.inner.encode(text, add_special_tokens=special).ids
        except TypeError:  # a str may hold halves of characters, as the shell's arguments do that are no UTF-8
            raise ValueError(f"{str(text)[:60]!r} is no text in Unicode") from None

    def decode(self, ids: Iterable[int]) -> str:
        ids = [int(token) for token in ids]
        if ids and not 0 <= min(ids) <= max(ids) < 1 << 32:
            raise ValueError(f"tokens of {min(ids)} to {max(ids)} are none")
        return self.inner.decode(ids, skip_special_tokens=True)

    def id_of(self, token: str) -> Optional[int]:
        return self.inner.token_to_id(token)

    def to_json(self) -> str:
        return self.inner.to_str(pretty=False)


def from_tiktoken(
    path: PathLike,
    pattern: str = GPT2_PATTERN,
    special_tokens: Optional[Mapping[str, int]] = None,
) -> SubwordTokenizer:
    """A tiktoken file: a line a token, its bytes in base64, a space and its rank, which is its id.

    Args:
        pattern: how a text is cut into words, which the file does not say; GPT-2's unless given.
        special_tokens: their ids, which the file does not have; <|endoftext|> after all others unless given.

    Raises FileNotFoundError, ImportError, and ValueError for a line that is none, ranks that repeat, or a byte that
    has no token.
    """
    path = Path(path)
    ranks: dict[bytes, int] = {}
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer {path}")
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(
                f"{path} is no tokenizer: line {number} is not a token in base64 and its rank, and the file no JSON"
            ) from None
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing or len(set(ranks.values())) != len(ranks) or min(ranks.values()) < 0:
        what = f"the byte {missing[0]} has no token" if missing else "its ranks repeat or are negative"
        raise ValueError(f"{path} is damaged: {what}")
    specials = {END_OF_TEXT: 1 + max(ranks.values())} if special_tokens is None else dict(special_tokens)
    if set(specials.values()) & set(ranks.values()):
        raise ValueError(f"{path}: the special tokens {sorted(specials)} have ids that ranks have too")
    # tiktoken merges any two neighbours that together are a token, the lowest rank first: so every way of cutting
    # a token into two tokens is a merge.
    merges = [
        (_visible(token[:cut]), _visible(token[cut:]))
        for token in sorted(ranks, key=ranks.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    vocabulary = {_visible(token): rank for token, rank in ranks.items()} | specials
    return SubwordTokenizer.byte_level(vocabulary, merges, list(specials), pattern)


def tokenizer_from(folder: PathLike) -> Tokenizer:
    """The tokenizer beside a model in Hugging Face's form: tokenizer.json, and the end tokens that
    generation_config.json or config.json names.

    Raises FileNotFoundError, ImportError, and ValueError for damaged files and for a tokenizer that does not belong to
    the model: it has ids beyond the model's vocabulary.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        hint = "; transformers' AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes one"
        raise FileNotFoundError(f"no tokenizer.json in {folder}{hint}")
    tokenizer = Tokenizer.load(path)
    config = _json_beside(folder / "config.json")
    if isinstance(config.get("vocab_size"), int):
        check_belongs(tokenizer, config["vocab_size"], str(path))
    eos = (config | _json_beside(folder / "generation_config.json")).get("eos_token_id")
    ends = [token for token in (eos if isinstance(eos, list) else [eos]) if type(token) is int and token >= 0]
    if ends:
        tokenizer.eos, tokenizer.more_ends = ends[0], frozenset(ends)
    return tokenizer


def _json_beside(path: Path) -> dict[str, Any]:
    """What a file of settings says, which may be missing. Raises ValueError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return content if isinstance(content, dict) else {}


def check_belongs(tokenizer: Tokenizer, vocab_size: int, name: str = "the tokenizer") -> None:
    """Raise ValueError if the tokenizer has ids that a model with `vocab_size` embeddings does not."""
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"{name} does not belong to this model: it has {tokenizer.vocab_size:,} tokens, and the model knows "
            f"{vocab_size:,}; use the tokenizer that the model was trained with"
        )


def stream(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of tokens as they come, each piece as soon as it is whole: a character may be several tokens.

    The pieces together are what `decode` makes of all ids.
    """
    kept: list[int] = []  # the last piece's tokens, which decide whether a space comes next, and all that came since
    last, given = 0, 0  # of these the number of the last piece's tokens, and of the characters that were given
    for token in ids:
        kept.append(int(token))
        text = tokenizer.decode(kept)
        ready = text.rstrip(UNFINISHED)  # later bytes may make something else of the rest
        if len(ready) > given:
            yield ready[given:]
            given = len(ready)
            if ready == text:
                kept = kept[last:]
                last, given = len(kept), len(tokenizer.decode(kept))
    rest = tokenizer.decode(kept)[given:]
    if rest:
        yield rest


def _byte_level(package: Any, model: Any, pattern: Optional[str]) -> Any:
    """A tokenizers.Tokenizer around `model` that cuts words as GPT-2 does, or by `pattern`, and then takes bytes."""
    inner = package.Tokenizer(model)
    words = package.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        cut = package.pre_tokenizers.Split(package.Regex(pattern), behavior="isolated")
        words = package.pre_tokenizers.Sequence([cut, words])
    inner.pre_tokenizer = words
    inner.decoder = package.decoders.ByteLevel()
    return inner


def _byte_characters() -> list[str]:
    """GPT-2's visible character for each byte: itself where it is printable Latin-1, else from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


BYTES = _byte_characters()


def _visible(token: bytes) -> str:
    return "".join(BYTES[byte] for byte in token)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _package() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.processors
        import tokenizers.trainers
    except ImportError as error:
        raise ImportError('for tokenizers other than characters: pip install "clgrad[tokenizers]"') from error
    return tokenizers
