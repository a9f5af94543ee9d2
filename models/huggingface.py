"""Checkpoints in the form of Hugging Face's transformers: config.json beside model.safetensors, whole or in shards.

This file knows names, shapes and files; `base` knows models. Nothing in a checkpoint is trusted: names of files stay in
the folder, and every header is checked (see `nn.state`) before memory is asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from ..nn.state import Header, atomic_write, header, safe_save

PathLike = Union[str, os.PathLike]
LARGEST_JSON = 2**26  # bytes of config.json or of an index: more is none


@dataclass(frozen=True)
class Checkpoint:
    """config.json's content and the headers of the files of weights."""

    path: Path
    config: dict[str, Any]
    headers: list[Header]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array by name. Raises ValueError for a name that two files have."""
        shapes: dict[str, tuple[int, ...]] = {}
        for part in self.headers:
            if twice := shapes.keys() & part.entries.keys():
                raise ValueError(f"{self.path}: two files have {listed(twice)}")
            shapes |= {name: entry.shape for name, entry in part.entries.items()}
        return shapes

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every (name, array), read one after the other. Raises ValueError for a damaged file."""
        for part in self.headers:
            yield from part.arrays()


def open_checkpoint(path: PathLike) -> Checkpoint:
    """The checkpoint of a folder, or of a .safetensors file beside its config.json; no array is read yet.

    Raises FileNotFoundError, and ValueError for a damaged file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    folder = path if path.is_dir() else path.parent
    config = _read_json(folder / "config.json")
    files = [path] if path.is_file() and path.suffix == ".safetensors" else _weight_files(folder)
    return Checkpoint(path, config, [header(file) for file in files])


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of the former are errors of JSON and of UTF-8
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one JSON object")
    return content


def _weight_files(folder: Path) -> list[Path]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        hint = ""
        if list(folder.glob("*.bin")):
            hint = "; it has pickled .bin weights: save them again with transformers' save_pretrained, as safetensors"
        raise FileNotFoundError(f"no model.safetensors in {folder}{hint}")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{index} has no weight_map of names to files")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or ":" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name[:200]!r}, and may only name .safetensors files of its own folder")
    return [folder / name for name in names]


def write_checkpoint(folder: PathLike, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write config.json and model.safetensors, each atomically, making the folder if need be. Raises OSError."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    safe_save(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    atomic_write(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def listed(names: Any, most: int = 8) -> str:
    """The first of some names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:200] for name in names[:most]) + more
