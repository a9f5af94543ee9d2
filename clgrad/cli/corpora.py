"""Pairs of sentences, and texts with labels: the files, and their split into what trains and what validates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import read_text
from .errors import UsageError

Row = tuple[str, str]
SPLIT = 2  # the stream of random numbers that draws who validates (data.py has 0 and 1)
NOTES = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|<[^>]*>")  # {pl}, [Br.], (of a house), <spelling>


@dataclass(frozen=True)
class Corpus:
    """Rows of two texts each: (source, target), or (text, label)."""

    rows: list[Row]
    source: str  # where they come from, for the user

    def sha256(self) -> str:
        content = "\n".join(f"{len(a)} {a} {b}" for a, b in self.rows)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def split(self, held_out: int, seed: int, what: str) -> tuple[list[Row], list[Row]]:
        """(to train, to validate): `held_out` rows with distinct first texts, none of which is in a row that trains.

        Texts count as the same whatever their case and blanks. Raises UsageError where nothing is left.
        """
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(" ".join(row[0].casefold().split()), []).append(row)
        if len(groups) <= held_out:
            raise UsageError(
                f"{self.source} has {len(groups):,} different {what}, of which --held-out {held_out:,} validate: "
                "none are left to train on"
            )
        keys = sorted(groups)
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, SPLIT])))
        order = [keys[i] for i in generator.permutation(len(keys))]
        validation = [groups[key][0] for key in order[:held_out]]
        return [row for key in order[held_out:] for row in groups[key]], validation


def read_pairs(file: str) -> Corpus:
    """Sentences and their translations: a line each with a tab between, or a dictionary as Debian's trans-de-en has it.

    Of a dictionary the sentences are taken, and not the words. Raises UsageError.
    """
    if not file:
        raise UsageError(
            "--task translate needs --data FILE: a line a pair, with a tab between source and translation, "
            "or /usr/share/trans/de-en of Debian's package trans-de-en"
        )
    lines = read_text(Path(file)).split("\n")  # and at no other character that ends a line for str.splitlines
    content = [line for line in lines if line.strip() and not line.startswith("#")]
    if content and "\t" not in content[0] and " :: " in content[0]:
        rows = list(dict.fromkeys(row for line in content for row in sentences_of_entry(line)))
        what = "sentences and their translations"
    else:
        rows = list(tabbed(lines, file, "a source, a tab and its translation"))
        what = "pairs"
    if not rows:
        raise UsageError(f"{file} has no pairs of sentences")
    return Corpus(rows, f"{file} ({what})")


def sentences_of_entry(line: str) -> Iterator[Row]:
    """The pairs of sentences in an entry of a dictionary, "A {f} | Ein Satz. :: B | A sentence.".

    >>> list(sentences_of_entry("Aal {m} [zool.] | Er aß (gern) Aal.; Aal aß er. :: eel | He liked to eat eel."))
    [('Er aß Aal.', 'He liked to eat eel.')]
    """
    left, _, right = line.partition("::")
    sides = [[clean(part) for part in side.split("|")] for side in (left, right)]
    if len(sides[0]) == len(sides[1]):
        yield from ((a, b) for a, b in zip(*sides, strict=True) if a[-1:] in tuple(".?!") and b[-1:] in tuple(".?!"))


def clean(part: str) -> str:
    """The first of several ways to say it, without notes."""
    return " ".join(NOTES.sub("", part.split(";")[0]).split())


def tabbed(lines: Sequence[str], file: str, what: str, columns: int = 0) -> Iterator[Row]:
    """The first two columns of each line that is not blank; with `columns`, the last of those has all that follows.

    Raises UsageError for a line with one.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = [column.strip() for column in line.split("\t", columns - 1)]
        if len(row) < 2 or not row[0] or not row[1]:
            raise UsageError(f"{file}, line {number}: a line must hold {what}, not {line[:60]!r}")
        yield row[0], row[1]


def read_labelled(path: str) -> Corpus:
    """Texts and their labels: lines of LABEL<tab>TEXT, or a folder of folders, each with the texts of its label.

    Raises UsageError.
    """
    if not path:
        raise UsageError(
            "--task classify needs --data: a file with a label, a tab and a text on each line, "
            "or a folder that has a folder of text files for each label"
        )
    folder = Path(path)
    if folder.is_dir():
        files = [
            (file, label) for label in sorted(folder.iterdir()) if label.is_dir() for file in sorted(label.iterdir())
        ]
        rows = [(read_text(file), label.name) for file, label in files if file.is_file()]
        if not rows:
            raise UsageError(f"the folder {path} has no folders with texts; each label needs one")
    else:
        lines = read_text(folder).split("\n")
        rows = [(text, label) for label, text in tabbed(lines, path, "a label, a tab and a text", columns=2)]
    if not rows:
        raise UsageError(f"{path} has no texts with labels")
    if len({label for _, label in rows}) < 2:
        raise UsageError(f"{path} has one label only: {rows[0][1]!r}; a classifier needs two at least")
    return Corpus(rows, path)
