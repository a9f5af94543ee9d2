"""metrics.jsonl: one JSON object a line for every iteration, and its repair when a run is resumed."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..nn.state import atomic_write

FILE_NAME = "metrics.jsonl"


class MetricsFile:
    """Appends lines, each with one write, so that a reader or a kill sees whole lines. A context manager."""

    def __init__(self, path: Path):
        self.path = path
        self._file = open(path, "ab", buffering=0)

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line. Raises OSError on a full disk, after taking back what was written of it."""
        line = json.dumps(entry).encode() + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
        except OSError:
            with suppress(OSError):
                self._file.truncate(start)
            raise

    def sync(self) -> None:
        """Flush to the disk, before a checkpoint that counts on these lines is."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of a metrics file; a torn line is passed over. A missing file has none."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_bytes().splitlines():
        with suppress(ValueError):  # covers JSON's and UTF-8's errors
            entry = json.loads(line)
            if isinstance(entry, dict) and "iter" in entry:
                entries.append(entry)
    return entries


def cut_back(path: Path, iteration: int) -> list[dict[str, Any]]:
    """Drop torn lines and those after `iteration`; returns the entries that stay."""
    entries = [entry for entry in read(path) if entry["iter"] <= iteration]
    atomic_write(path, b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
    return entries
