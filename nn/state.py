"""Tensors in safetensors files: nothing is executed on reading, and a file is either the old one or the new one.

Saving writes a temporary file beside the target, flushes it to the disk and renames it over the target, so that a
crash, a full disk or a kill leaves the last good file. The file carries a checksum of its names, shapes, values and
metadata; a file that has one and does not match it is refused, files from elsewhere without one are read as they are.
Reading trusts nothing: the header is checked against the length of the file first, and arrays are read one by one.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from ..backends.dtypes import as_dtype
from ..engine.tensor import Tensor

CHECKSUM = "clgrad.crc32"
LARGEST_HEADER = 2**25  # bytes; 100,000 arrays need half of that
LARGEST_RANK = 32
# the format's dtypes -> NumPy's
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip
ITEM_SIZES = {name: int(name.strip("BFIUOL") or 8) // 8 for name in DTYPES}
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
    atomic_write(path, _safetensors().numpy.save(arrays, metadata=metadata))


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

    Raises FileNotFoundError, ImportError (no ml_dtypes for a bfloat16), and ValueError for a file that is cut short,
    damaged, or of a dtype that clgrad does not have.
    """
    return {name: Tensor(array, device=device) for name, array in read(path)[0].items()}


def safe_load_metadata(path: PathLike) -> dict[str, str]:
    """The text that was saved beside the tensors. Raises as `safe_load` does."""
    return read(path)[1]


def read(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a safetensors file, checked. Raises as `safe_load` does."""
    contents = header(path)
    return dict(contents.arrays()), contents.metadata


@dataclass(frozen=True)
class Entry:
    """Where one array lies: its dtype's name in the file, its shape, its bytes counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself, checked against its length; `arrays` reads the rest."""

    path: PathLike
    size: int  # bytes before the first array
    entries: dict[str, Entry]
    metadata: dict[str, str]
    checksum: Optional[str]

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every (name, array), one after the other, so that a reader needs memory for one.

        Raises ValueError for a dtype that NumPy lacks and, after the last, for content other than the checksum's.
        """
        crc = _checksum_of_metadata(self.metadata)
        with open(self.path, "rb") as file:
            for name, entry in sorted(self.entries.items()):
                if entry.dtype not in DTYPES:
                    raise ValueError(f"{self.path} holds a dtype that NumPy does not have: {name!r} is {entry.dtype}")
                array = np.empty((entry.end - entry.start) // ITEM_SIZES[entry.dtype], as_dtype(DTYPES[entry.dtype]))
                file.seek(self.size + entry.start)
                if file.readinto(array.view(np.uint8).data) != entry.end - entry.start:
                    raise ValueError(f"{self.path} is cut short: it ends within {name!r}")
                try:
                    array = array.reshape(entry.shape)
                except ValueError:  # an empty array whose other sizes are beyond what NumPy can count
                    raise ValueError(f"{self.path} is damaged: {name!r} has shape {entry.shape}") from None
                if self.checksum is not None:
                    crc = _checksum_of_array(name, array, crc)
                yield name, array
        if self.checksum is not None and self.checksum != f"{crc:08x}":
            raise ValueError(f"{self.path} is damaged: its checksum does not match its content")


def header(path: PathLike) -> Header:
    """The header of a safetensors file: 8 bytes with the length of a JSON object, and that object.

    Every number in it may be hostile, so each is held against the length of the file before anything is made of it.
    Raises FileNotFoundError, and ValueError for a header longer than the file or than 32 MiB, which is no such object,
    names an array twice, or whose arrays overlap, leave gaps or have other lengths than their shapes say.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path}")
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            size = int.from_bytes(file.read(8), "little")
            if length < 8 or size > min(length - 8, LARGEST_HEADER):
                raise ValueError(f"a header of {size} bytes in a file of {length}")
            content = json.loads(file.read(size).decode(), object_pairs_hook=_without_duplicates)
        if not isinstance(content, dict):
            raise ValueError("the header is no JSON object")
        metadata = content.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("the metadata is not text")
        entries = {name: _entry(name, entry) for name, entry in content.items()}
        end = 0
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
            if entry.start != end:
                raise ValueError(f"{name!r} begins at byte {entry.start} where {end} was next: a gap or an overlap")
            end = entry.end
        if end != length - 8 - size:
            raise ValueError(f"its arrays have {end} bytes, and the file {length - 8 - size} for them")
    except (ValueError, RecursionError) as error:  # of the former are errors of JSON and of UTF-8
        raise ValueError(f"{path} is cut short, damaged or no safetensors file: {error}") from None
    checksum = metadata.pop(CHECKSUM, None)
    return Header(path, 8 + size, entries, metadata, checksum)


def _entry(name: str, content: Any) -> Entry:
    """One array's part of the header. Raises ValueError."""
    if not isinstance(content, dict) or content.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} has no dtype, shape and data_offsets")
    dtype, shape, offsets = content["dtype"], content["shape"], content["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError(f"{name!r}: {str(numbers)[:80]} is no list of sizes")
    if not isinstance(dtype, str) or len(shape) > LARGEST_RANK or len(offsets) != 2:
        raise ValueError(f"{name!r} has dtype {str(dtype)[:80]}, {len(shape)} dimensions and {len(offsets)} offsets")
    start, end = offsets
    length = math.prod(shape) * ITEM_SIZES.get(dtype, 0)  # of a dtype that only others know, nothing is known
    if start > end or (length != end - start and dtype in ITEM_SIZES):
        raise ValueError(f"{name!r} has bytes {start} to {end} for shape {tuple(shape)} of {dtype}")
    return Entry(dtype, tuple(shape), start, end)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return content


def _checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> int:
    """CRC-32 of everything that a reader gets, in an order that does not depend on the file's."""
    crc = _checksum_of_metadata(metadata)
    for name, array in sorted(arrays.items()):
        crc = _checksum_of_array(name, array, crc)
    return crc


def _checksum_of_metadata(metadata: Mapping[str, str]) -> int:
    return zlib.crc32(repr(sorted(metadata.items())).encode())


def _checksum_of_array(name: str, array: np.ndarray, crc: int) -> int:
    crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)


def _umask() -> int:
    """The process's umask, which mkstemp ignores: a saved file is as readable as any other."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError('to write .safetensors files: pip install "clgrad[demo]"') from error
    return safetensors
