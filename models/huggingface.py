"""Checkpoints in the form of Hugging Face's transformers: config.json beside model.safetensors, whole or in shards.

This file knows names, shapes and files; `base` knows models. Nothing in a checkpoint is trusted: names of files stay in
the folder, and every header is checked (see `nn.state`) before memory is asked for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from ..engine.tensor import Tensor
from ..nn.state import Header, atomic_write, header, safe_save

PathLike = Union[str, os.PathLike]
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
FORCED = ("forced_bos_token_id", "forced_eos_token_id")
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
    if (folder / "generation_config.json").is_file():  # where newer versions of transformers keep these
        generation = _read_json(folder / "generation_config.json")
        config |= {key: generation.get(key) for key in FORCED}
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
    whole, index = folder / WHOLE, folder / INDEX
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


def write_checkpoint(
    folder: PathLike,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    max_shard_size: Union[int, str, None] = None,
) -> None:
    """Write config.json and the weights, each file atomically, making the folder if need be.

    One file of weights, or as many as are needed for none to be larger than `max_shard_size`, but for a single Tensor
    that is, and their index. Weights that were there before, whole or in shards, go. Raises OSError, and ValueError for
    a size that is none.
    """
    folder, most = Path(folder), None if max_shard_size is None else _bytes(max_shard_size)
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in state.items():
        if most is not None and shards[-1] and filled + tensor.nbytes() > most:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes()
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [WHOLE]
    for file, shard in zip(files, shards, strict=True):
        safe_save(shard, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        size = sum(tensor.nbytes() for tensor in state.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
        files.append(INDEX)
    for old in (folder / WHOLE, folder / INDEX, *folder.glob("model-[0-9]*-of-[0-9]*.safetensors")):
        if old.name not in files:
            old.unlink(missing_ok=True)
    _write_json(folder / "config.json", config)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


def _bytes(size: Union[int, str]) -> int:
    """A number of bytes, also as text such as 500MB, 5GB or 2GiB. Raises ValueError."""
    found = re.fullmatch(r"([0-9.]+)\s*([KMGT]?I?)B?", str(size).upper())
    try:
        number = int(float(found[1]) * UNITS[found[2]]) if found else 0
    except (ValueError, KeyError, OverflowError):
        number = 0
    if number < 1:
        raise ValueError(f"max_shard_size must be a number of bytes, or text such as '500MB' or '5GB', not {size!r}")
    return number


def listed(names: Any, most: int = 8) -> str:
    """The first of some names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:200] for name in names[:most]) + more
