"""GGUF files, versions 2 and 3: the container, read with bounds.

A file is a header, keys with values, descriptions of tensors, and the tensors' bytes, which start at multiples of an
alignment:

    "GGUF"  version  count of tensors  count of keys
    key, type, value                       ... a value may be an array of a type, and text is a length and UTF-8
    name, dimensions, sizes, type, offset  ... sizes with the one that lies together in memory first
    padding, bytes of tensors

Nothing in a file is believed: a length is compared with what is left of the file before anything is made of that
length, so that a torn or hostile file is a ValueError, and memory stays below a small multiple of the file's size.
Tensors are mapped, not read, until somebody asks for them. The specification is docs/gguf.md of ggml.
"""

from __future__ import annotations

import os
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np

from ..backends.packing import PACKINGS, numpy_arrays

PathLike = Union[str, os.PathLike]

# Types of metadata: the struct format of numbers, by type number; text and arrays are apart.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
# Types of tensors that are read, by number: the packing, or plain float32.
TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 8: "Q8_0", 12: "Q4_K", 14: "Q6_K", 30: "BF16"}
OTHER_TYPES = {
    6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS",
    18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 28: "F64", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
MOST_DIMENSIONS = 4
LONGEST_NAME = 65535  # bytes of a key or of a tensor's name
MOST_STRINGS = 1 << 22  # in one array; vocabularies have some 100,000
MOST_ENTRIES = 1 << 18  # keys, and tensors: the largest models have some thousands


def shown(name: str) -> str:
    """A name as messages give it: in a damaged file a name may be all that follows it."""
    return repr(name if len(name) <= 64 else f"{name[:64]}...")


class Entry(NamedTuple):
    """A tensor: `shape` as NumPy has it, and where its bytes are."""

    name: str
    shape: tuple[int, ...]
    type: str
    start: int
    nbytes: int


class GGUF:
    """An open file: `metadata` by key, `tensors` by name.

    Raises FileNotFoundError, and ValueError, which names the file, for anything that is not a whole GGUF file of types
    that are read.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {self.path}")
        try:
            # A file of no bytes cannot be mapped.
            self.bytes = np.memmap(self.path, np.uint8, "r") if self.path.stat().st_size else np.zeros(0, np.uint8)
            self.metadata, self.tensors = _read(_Cursor(self.bytes))
        except ValueError as error:
            raise ValueError(f"{self.path} is no GGUF file that can be read: {error}") from None

    def raw(self, name: str) -> np.ndarray:
        """The bytes of a tensor, mapped: uint8 (rows, bytes of a row), all dimensions but the last together."""
        entry = self.tensors[name]
        rows = prod(entry.shape[:-1])
        return self.bytes[entry.start : entry.start + entry.nbytes].reshape(rows, -1)

    def floats(self, name: str) -> np.ndarray:
        """A tensor unpacked to float32, in its shape."""
        entry = self.tensors[name]
        if entry.type == "F32":
            return self.raw(name).view("<f4").astype(np.float32).reshape(entry.shape)
        if entry.type == "F16":
            return self.raw(name).view("<f2").astype(np.float32).reshape(entry.shape)
        if entry.type == "BF16":
            return (self.raw(name).view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(entry.shape)
        packing, raw = PACKINGS[entry.type], self.raw(name)
        return packing.unpack(raw.reshape(len(raw), -1, packing.nbytes), numpy_arrays).reshape(entry.shape)


class _Cursor:
    """Goes through the bytes, never past their end."""

    def __init__(self, data: np.ndarray):
        self.data, self.at = data.data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, nbytes: int, what: str) -> bytes:
        if nbytes > self.left:
            raise ValueError(f"{what} at byte {self.at} takes {nbytes:,} bytes, and {self.left:,} are left")
        self.at += nbytes
        return bytes(self.data[self.at - nbytes : self.at])

    def number(self, format: str, what: str) -> Any:
        return struct.unpack("<" + format, self.take(struct.calcsize("<" + format), what))[0]

    def count(self, smallest: int, what: str) -> int:
        """A number of things of which each takes `smallest` bytes at least."""
        at, count = self.at, self.number("Q", what)
        if count * smallest > self.left:
            raise ValueError(f"{what} at byte {at} says {count:,}, for which {self.left:,} bytes are too few")
        return count

    def text(self, what: str, longest: int = 2**63) -> str:
        at, length = self.at, self.count(1, f"the length of {what}")
        if length > longest:
            raise ValueError(f"{what} at byte {at} has {length:,} bytes; at most {longest:,} make sense")
        return self.take(length, what).decode("utf-8", "replace")

    def value(self, kind: int, key: str) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], key)
        if kind == TEXT:
            return self.text(key)
        if kind != ARRAY:
            raise ValueError(f"{key} has a value of the unknown type {kind}")
        inner = self.number("I", key)
        if inner in NUMBERS:
            size = struct.calcsize("<" + NUMBERS[inner])
            count = self.count(size, f"the length of {key}")
            return np.frombuffer(self.take(count * size, key), "<" + NUMBERS[inner])
        if inner != TEXT:
            raise ValueError(f"{key} is an array of the type {inner}; numbers and text are read")
        count = self.count(8, f"the length of {key}")
        if count > MOST_STRINGS:
            raise ValueError(f"{key} has {count:,} strings; at most {MOST_STRINGS:,} make sense")
        return [self.text(key) for _ in range(count)]


def _read(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, Entry]]:
    magic = cursor.take(min(4, cursor.left), "the magic")
    if magic != b"GGUF":
        raise ValueError(f"it starts with {magic!r}, not b'GGUF'")
    version = cursor.number("I", "the version")
    if version not in (2, 3):
        swapped = version & 0xFFFF == 0 and version != 0
        raise ValueError("it is big-endian" if swapped else f"its version is {version}; 2 and 3 are read")
    tensor_count = cursor.number("Q", "the count of tensors")
    key_count = cursor.count(13, "the count of keys")  # a key of one byte, its type, and a value of one
    if max(tensor_count, key_count) > MOST_ENTRIES:
        raise ValueError(
            f"it says {key_count:,} keys and {tensor_count:,} tensors; {MOST_ENTRIES:,} of each make sense"
        )
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text("a key", LONGEST_NAME)
        if key in metadata:
            raise ValueError(f"the key {shown(key)} is there twice")
        metadata[key] = cursor.value(cursor.number("I", f"the type of {shown(key)}"), shown(key))
    if tensor_count * 32 > cursor.left:  # a name of nothing, one size, type and offset
        raise ValueError(f"the count of tensors says {tensor_count:,}, for which {cursor.left:,} bytes are too few")
    entries = [_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
        raise ValueError(f"general.alignment is {alignment!r}")
    return metadata, _placed(entries, -(-cursor.at // alignment) * alignment, alignment, len(cursor.data))


def _entry(cursor: _Cursor) -> Entry:
    """A description; its `start` counts from the first byte of all tensors."""
    name = cursor.text("the name of a tensor", LONGEST_NAME)
    rank = cursor.number("I", f"the rank of {shown(name)}")
    if not 1 <= rank <= MOST_DIMENSIONS:
        raise ValueError(f"{shown(name)} has {rank} dimensions; 1 to {MOST_DIMENSIONS} make sense")
    shape = tuple(cursor.number("Q", f"a size of {shown(name)}") for _ in range(rank))[::-1]
    number = cursor.number("I", f"the type of {shown(name)}")
    start = cursor.number("Q", f"the offset of {shown(name)}")
    if number not in TYPES:
        known = OTHER_TYPES.get(number, f"number {number}")
        raise ValueError(f"{shown(name)} is of the type {known}; {', '.join(TYPES.values())} are read")
    if not all(shape):
        raise ValueError(f"{shown(name)} has the shape {shape}, which holds nothing")
    kind = TYPES[number]
    plain = {"F32": 4, "F16": 2, "BF16": 2}
    try:
        row = plain[kind] * shape[-1] if kind in plain else PACKINGS[kind].row_bytes(shape[-1])
    except ValueError as error:
        raise ValueError(f"{shown(name)}: {error}") from None
    return Entry(name, shape, kind, start, row * prod(shape[:-1]))


def _placed(entries: list[Entry], start: int, alignment: int, size: int) -> dict[str, Entry]:
    """The entries by name, with places in the file, of which no two overlap."""
    found: dict[str, Entry] = {}
    end, before = start, ""
    for entry in sorted(entries, key=lambda entry: entry.start):
        if entry.name in found:
            raise ValueError(f"the tensor {shown(entry.name)} is there twice")
        placed = found[entry.name] = entry._replace(start=start + entry.start)
        if entry.start % alignment:
            raise ValueError(f"{shown(entry.name)} starts at {entry.start:,}, which is no multiple of {alignment}")
        if placed.start + entry.nbytes > size:
            raise ValueError(
                f"{shown(entry.name)} {entry.shape} ends at byte {placed.start + entry.nbytes:,}, "
                f"and the file at {size:,}"
            )
        if placed.start < end:
            raise ValueError(f"{shown(entry.name)} and {shown(before)} overlap")
        end, before = placed.start + entry.nbytes, entry.name
    return {entry.name: found[entry.name] for entry in entries}
