"""Tensors in safetensors files: nothing is executed on reading, and a file is either the old one or the new one.

Saving writes a temporary file beside the target, flushes it to the disk and renames it over the target, so that a
crash, a full disk or a kill leaves the last good file. The file carries a checksum of its names, shapes, values and
metadata; a file that has one and does not match it is refused, files from elsewhere without one are read as they are.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from ..backends.dtypes import as_dtype
from ..engine.tensor import Tensor

CHECKSUM = "clgrad.crc32"
PathLike = Union[str, os.PathLike]


def safe_save(tensors: Mapping[str, Any], path: PathLike, metadata: Optional[Mapping[str, str]] = None) -> None:
    """Write named Tensors (or arrays) to one safetensors file, atomically.

    Args:
        tensors: name to Tensor or NumPy array, of any shape and dtype that clgrad has.
        path: the file, replaced if it exists.
        metadata: text to keep beside the tensors.

    Raises:
        ImportError: the safetensors package is not installed.
        OSError: the disk is full, the folder is missing or not writable. The file at `path` is as it was.
    """
    arrays = {name: np.array(t.numpy() if isinstance(t, Tensor) else t, order="C") for name, t in tensors.items()}
    metadata = {key: value for key, value in (metadata or {}).items() if key != CHECKSUM}
    metadata[CHECKSUM] = f"{_checksum(arrays, metadata):08x}"
    atomic_write(path, _safetensors("save").numpy.save(arrays, metadata=metadata))


def atomic_write(path: PathLike, content: bytes) -> None:
    """Make `content` the file at `path`, or raise OSError and leave what was there."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if os.name == "posix":  # the rename itself must reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def safe_load(path: PathLike, device: Optional[str] = None) -> dict[str, Tensor]:
    """The Tensors of a safetensors file by name, on `device`.

    Raises FileNotFoundError, ImportError (no safetensors package, or no ml_dtypes for a bfloat16), and ValueError for a
    file that is cut short, damaged, or of a dtype that clgrad does not have.
    """
    return {name: Tensor(array, device=device) for name, array in read(path)[0].items()}


def safe_load_metadata(path: PathLike) -> dict[str, str]:
    """The text that was saved beside the tensors. Raises as `safe_load` does."""
    return read(path)[1]


def read(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a safetensors file, checked. Raises as `safe_load` does."""
    safetensors = _safetensors("read")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {os.fspath(path)}")
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            if any(file.get_slice(name).get_dtype() == "BF16" for name in file.keys()):
                as_dtype("bfloat16")  # imports what NumPy knows it by
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{os.fspath(path)} is cut short, damaged or no safetensors file: {error}") from error
    except (TypeError, AttributeError, KeyError) as error:  # the 8-bit floats, which NumPy lacks
        raise ValueError(f"{os.fspath(path)} holds a dtype that NumPy does not have: {error}") from error
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None and expected != f"{_checksum(arrays, metadata):08x}":
        raise ValueError(f"{os.fspath(path)} is damaged: its checksum does not match its content")
    return arrays, metadata


def _checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> int:
    """CRC-32 of everything that a reader gets, in an order that does not depend on the file's."""
    crc = zlib.crc32(repr(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc


def _umask() -> int:
    """The process's umask, which mkstemp ignores: a saved file is as readable as any other."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _safetensors(verb: str) -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f'to {verb} .safetensors files: pip install "clgrad[demo]"') from error
    return safetensors
