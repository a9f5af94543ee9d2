"""The one file that a run resumes from: every array and every number of a training run, replaced atomically.

The file is safetensors, written and checked by `nn.state`: arrays by name (parameters under "model.", the optimiser's
state under "optimizer."), and in its metadata, as JSON, what is no array (iteration, configuration, vocabulary). A
file that is cut short or has a byte changed is one clear error and never a wrong number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..nn import state as files
from .errors import UsageError

FORMAT = 1
FILE_NAME = "checkpoint.safetensors"
REMEDY = "restore the checkpoint from a copy, or train into a new folder"


@dataclass(frozen=True)
class Checkpoint:
    """`arrays` (NumPy arrays or Tensors) by name, and `state`: whatever JSON can say."""

    arrays: dict[str, Any]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Any]:
        """The arrays whose names begin with `prefix`, which is left out."""
        return {name[len(prefix) :]: array for name, array in self.arrays.items() if name.startswith(prefix)}


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `path` so that at every moment it holds the old checkpoint or the new one, whole. Raises OSError."""
    files.safe_save(checkpoint.arrays, path, {"clgrad_format": str(FORMAT), "state": json.dumps(checkpoint.state)})


def load(path: Path) -> Checkpoint:
    """Read and check `path`. Raises UsageError for a file that is missing, torn, altered, or no checkpoint."""
    try:
        arrays, metadata = files.read(path)
    except FileNotFoundError:
        raise UsageError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise UsageError(f"the checkpoint {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{error}; {REMEDY}") from None
    if "clgrad_format" not in metadata:
        raise UsageError(f"{path} is a safetensors file, but no checkpoint of clgrad")
    if metadata.keys() != {"clgrad_format", "state"}:  # the checksum's own name is altered, so it was not compared
        raise UsageError(f"{path} is damaged: its header names {sorted(metadata)}; {REMEDY}")
    if metadata["clgrad_format"] != str(FORMAT):
        raise UsageError(
            f"{path} has format {metadata['clgrad_format']}, and this clgrad reads format {FORMAT}: "
            "use the version of clgrad that wrote it"
        )
    return Checkpoint(dict(arrays), json.loads(metadata["state"]))


def check_arrays(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise UsageError where names, shapes or dtypes in a checkpoint are not the expected ones."""

    def describe(array: Any) -> str:
        return "nothing" if array is None else f"{np.dtype(array.dtype).name} {tuple(array.shape)}"

    for name in sorted(found.keys() | expected.keys()):
        there, here = describe(found.get(name)), describe(expected.get(name))
        if there != here:
            raise UsageError(f"the checkpoint {path} does not fit its configuration: {name} is {there}, not {here}")


def remove_temporary_files(folder: Path) -> None:
    """Remove what a kill in the middle of `nn.state.atomic_write` left behind."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
