"""Packed weights: blocks of a few bits a number with scales, and what numbers they stand for.

The layouts are those of GGUF files. A row of a weight is a row of blocks, each of `nbytes` bytes for `elements`
numbers; d and m are halves, q small integers:

    Q8_0   32 of 8 bits           d q                        Q4_K   8 groups of 32, 4 bits     d s q - m t
    Q4_0   32 of 4 bits           d (q - 8)                  Q6_K   16 groups of 16, 6 bits    d s (q - 32)
    Q4_1   32 of 4 bits           d q + m                    F16, BF16                         halves as they are

In 4-bit blocks of 32 the low halves of the 16 bytes are the first 16 numbers, the high ones the rest.

`unpack` says it once, for whatever has arrays: the NumPy backend calls it on ndarrays, the engine on Tensors, where it
becomes a graph like any other. `opencl` says it for kernels that multiply by packed weights: 32 numbers at once, those
from 32 * group on of the row of blocks at `row`. Where a block is 32 small integers after their `halves`, d or d and m,
`integers` says those alone: the halves of several rows are then read together, as each takes longer than an integer.
All blocks have an even number of bytes, so rows are read as ushorts.

>>> import numpy as np
>>> from clgrad.backends.packing import PACKINGS, numpy_arrays, pack
>>> block = np.zeros((1, 34), np.uint8)
>>> block[0, :4] = 0, 0x3C, 5, 255  # the half 1.0, then 5 and -1
>>> PACKINGS["Q8_0"].unpack(block, numpy_arrays)[0, :3].tolist()
[5.0, -1.0, 0.0]
>>> pack(np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32), "Q4_0").shape
(2, 18)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np

GROUP = 32  # numbers that a kernel unpacks at once; every block is a whole number of groups

# What `unpack` asks of arrays besides operators, slices and `reshape`. Of `bits` the dtypes are equally wide.
numpy_arrays = SimpleNamespace(
    cast=lambda x, dtype: x.astype(dtype),
    bits=lambda x, dtype: x.view(dtype),
    join=lambda parts: np.concatenate(parts, -1),
)


@dataclass(frozen=True, eq=False)
class Packing:
    """One layout. `unpack(blocks, arrays)` makes float32 (..., elements) of uint8 (..., nbytes), `pack` the reverse."""

    name: str
    elements: int
    nbytes: int
    unpack: Callable[[Any, Any], Any]
    opencl: str
    pack: Optional[Callable[[np.ndarray], np.ndarray]] = None
    integers: str = ""  # also OpenCL: the small integers of the block at `block`, as floats
    halves: int = 0  # at the start of such a block

    def __repr__(self) -> str:
        return f"<packing {self.name}>"

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` numbers. Raises ValueError if that is no whole number of blocks."""
        if columns % self.elements:
            raise ValueError(f"{self.name}: rows of {columns} are not whole blocks of {self.elements}")
        return columns // self.elements * self.nbytes

    def columns(self, nbytes: int) -> int:
        """How many numbers a row of so many bytes holds. Raises ValueError if that is no whole number of blocks."""
        if nbytes % self.nbytes:
            raise ValueError(f"{self.name}: rows of {nbytes} bytes are not whole blocks of {self.nbytes}")
        return nbytes // self.nbytes * self.elements

    @property
    def helper(self) -> str:
        """The name of the OpenCL function."""
        return f"unpack_{self.name.lower()}_"  # lest a digit at its end be taken for a width

    @property
    def integer_helper(self) -> str:
        """The name of that for the integers alone."""
        return f"integers_{self.name.lower()}_"


def _half(u: Any, at: int, arrays: Any, dtype: str = "float16") -> Any:
    """The half whose bytes are `at` and `at` + 1, as float32 (..., 1)."""
    low, high = (arrays.cast(u[..., i : i + 1], "uint16") for i in (at, at + 1))
    return arrays.cast(arrays.bits(low | (high << 8), dtype), "float32")


def _nibbles(u: Any, arrays: Any) -> Any:
    """The low halves of bytes, then the high ones, as float32."""
    return arrays.cast(arrays.join([u & 15, u >> 4]), "float32")


def _q8_0(u: Any, arrays: Any) -> Any:
    q = arrays.cast(arrays.bits(u[..., 2:], "int8"), "float32")
    q *= _half(u, 0, arrays)  # on arrays in place: fresh memory takes longer than the arithmetic
    return q


def _q4_0(u: Any, arrays: Any) -> Any:
    q = _nibbles(u[..., 2:], arrays)
    q -= 8.0
    q *= _half(u, 0, arrays)
    return q


def _q4_1(u: Any, arrays: Any) -> Any:
    q = _nibbles(u[..., 4:], arrays)
    q *= _half(u, 0, arrays)
    q += _half(u, 2, arrays)
    return q


def _q4_k(u: Any, arrays: Any) -> Any:
    """Scales and offsets have 6 bits: of the last four the upper two are those that the first eight bytes spare."""
    batch = u.shape[:-1]
    a, b, c = u[..., 4:8], u[..., 8:12], u[..., 12:16]
    scales = arrays.join([a & 63, (c & 15) | ((a >> 6) << 4)])
    offsets = arrays.join([b & 63, (c >> 4) | ((b >> 6) << 4)])
    scale = arrays.cast(scales, "float32") * _half(u, 0, arrays)
    offset = arrays.cast(offsets, "float32") * _half(u, 2, arrays)
    q = _nibbles(u[..., 16:].reshape((*batch, 4, 32)), arrays).reshape((*batch, 8, 32))
    q *= scale.reshape((*batch, 8, 1))
    q -= offset.reshape((*batch, 8, 1))
    return q.reshape((*batch, 256))


def _q6_k(u: Any, arrays: Any) -> Any:
    """Two halves of 128: the lower 4 bits of 64 + 64 numbers in 64 bytes, the upper 2 of 4 x 32 in 32."""
    batch = u.shape[:-1]
    low, high = u[..., :128].reshape((*batch, 2, 64)), u[..., 128:192].reshape((*batch, 2, 32))
    top = arrays.join([high & 3, (high >> 2) & 3, (high >> 4) & 3, high >> 6])
    q = arrays.cast(arrays.join([low & 15, low >> 4]) | (top << 4), "float32").reshape((*batch, 16, 16))
    scale = arrays.cast(arrays.bits(u[..., 192:208], "int8"), "float32") * _half(u, 208, arrays)
    q -= 32.0
    q *= scale.reshape((*batch, 16, 1))
    return q.reshape((*batch, 256))


def _f16(u: Any, arrays: Any) -> Any:
    return _pairs(u, arrays, lambda x: arrays.cast(arrays.bits(x, "float16"), "float32"))


def _bf16(u: Any, arrays: Any) -> Any:
    return _pairs(u, arrays, lambda x: arrays.bits(arrays.cast(x, "uint32") << 16, "float32"))


def _pairs(u: Any, arrays: Any, meaning: Callable[[Any], Any]) -> Any:
    """The meaning of each two bytes as a uint16, the lower byte first."""
    pairs = arrays.cast(u.reshape((*u.shape[:-1], -1, 2)), "uint16")
    return meaning(pairs[..., 0] | (pairs[..., 1] << 8))


# Clang's own reading of a half is one instruction where the processor has it, its vload_half some twenty.
HALF_AT = """\
float half_at(__global const uchar *block, int i) {
    #ifdef __has_builtin
    #if __has_builtin(__builtin_load_halff)
    return __builtin_load_halff((__global const half *)block + i);
    #else
    return vload_half(i, (__global const half *)block);
    #endif
    #else
    return vload_half(i, (__global const half *)block);
    #endif
}
"""

# Several halves at once, as the bits that they are: the exponent is moved to its place, and what it counts from made
# good by a product. Infinities and NaNs have come out as 65536 and more.
HALVES = """\
{F} halves{W}(short{W} h) {
    const {F} x = as_{F}((convert_{I}(h) << 13) & (int)0x8fffe000) * 0x1p112f;
    const {I} beyond = as_{F}(as_{I}(x) & 0x7fffffff) >= 65536.0f;
    return as_{F}(as_{I}(x) | (beyond & 0x7f800000));
}
"""
# What lies ahead, where the compiler knows how to ask for it.
FETCH = """\
#ifdef __has_builtin
#if __has_builtin(__builtin_prefetch)
#define FETCH(at) __builtin_prefetch(at)
#endif
#endif
#ifndef FETCH
#define FETCH(at)
#endif
"""

# --- packing ----------------------------------------------------------------------------------------------------------

SHRINKINGS = np.linspace(1.0, 0.7, 13, dtype=np.float32)  # of the largest scale of four bits: the best of them is taken


def pack(numbers: np.ndarray, packing: str) -> np.ndarray:
    """Numbers (..., columns) as blocks: uint8 (..., bytes of a row), each number rounded to the nearest there is.

    Raises ValueError for a packing that is only read, rows that are no whole blocks, and numbers that are not finite or
    too large for a block's half-precision scale.
    """
    kind = PACKINGS.get(packing)
    if kind is None or kind.pack is None:
        raise ValueError(f"pack: packs as {', '.join(n for n, p in PACKINGS.items() if p.pack)}, not as {packing!r}")
    numbers = np.asarray(numbers, np.float32)
    nbytes = kind.row_bytes(numbers.shape[-1])
    largest = float(np.abs(numbers).max(initial=0.0))
    if not largest <= 65504.0:  # what a half holds; not NaN either
        raise ValueError(f"{packing}: numbers must be finite and at most 65504 in size, not {largest}")
    blocks = kind.pack(numbers.reshape(-1, kind.elements))
    return np.ascontiguousarray(blocks).reshape(*numbers.shape[:-1], nbytes)


def _joined(*parts: np.ndarray) -> np.ndarray:
    """Parts (blocks, n) of any dtype as the bytes that they are."""
    return np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts], axis=1)


def _whole(x: np.ndarray, scale: np.ndarray, low: int, high: int) -> np.ndarray:
    """x / scale to the nearest integer in a range; 0 where the scale is."""
    scale = scale.astype(np.float32)
    return np.clip(np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)), low, high)


def _pack_q8_0(x: np.ndarray) -> np.ndarray:
    scale = (np.abs(x).max(1, keepdims=True) / 127).astype(np.float16)
    return _joined(scale, _whole(x, scale, -127, 127).astype(np.int8))


def _pack_q4_0(x: np.ndarray) -> np.ndarray:
    """The number that is largest in size is -8 scales at first; smaller scales may cost less in sum."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], axis=1) / -8
    best, scale = np.full((len(x), 1), np.inf, np.float32), np.zeros((len(x), 1), np.float16)
    for shrinking in SHRINKINGS:
        tried = (extreme * shrinking).astype(np.float16)
        error = np.square(_whole(x, tried, -8, 7) * tried.astype(np.float32) - x).sum(1, keepdims=True)
        scale = np.where(error < best, tried, scale)
        best = np.minimum(error, best)
    return _joined(scale, _both(_whole(x, scale, -8, 7) + 8))


def _pack_q4_1(x: np.ndarray) -> np.ndarray:
    low, high = x.min(1, keepdims=True).astype(np.float16), x.max(1, keepdims=True)
    scale = ((high - low.astype(np.float32)) / 15).astype(np.float16)
    return _joined(scale, low, _both(_whole(x - low.astype(np.float32), scale, 0, 15)))


def _both(q: np.ndarray) -> np.ndarray:
    """Numbers of four bits, the first half of them in the low halves of bytes."""
    low, high = np.split(q.astype(np.uint8), 2, axis=1)
    return low | high << 4


def _pack_f16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).view(np.uint8)


# --- the table --------------------------------------------------------------------------------------------------------


_HEAD = "void {name}(__global const uchar *row, int group, float16 *first, float16 *second)"
# Sixteen bytes, as wide as every device allows them to be read at an even address.
_BYTES = "vload8(0, (__global const ushort *)({at}))"
_HALF = "half_at(block, {i})"


def _floats(integers: str) -> str:
    """Sixteen integers as floats, in two halves: not every compiler's functions take vectors of 512 bits."""
    return f"(float16)(convert_float8(({integers}).lo), convert_float8(({integers}).hi))"


def _packing(name: str, elements: int, nbytes: int, unpack: Callable, opencl: str, pack: Any = None) -> Packing:
    lines = "\n    ".join(opencl.strip().splitlines())
    text = f"{_HEAD.format(name=f'unpack_{name.lower()}_')} {{\n    {lines}\n}}\n"
    return Packing(name, elements, nbytes, unpack, text, pack)


def _bytes(at: str) -> str:
    return _BYTES.format(at=at)


def _simple(name: str, halves: int, nbytes: int, unpack: Callable, integers: str, pack: Any) -> Packing:
    """Blocks of 32 integers behind their scale and perhaps an offset."""
    body = "\n    ".join(integers.strip().splitlines())
    head = f"void integers_{name.lower()}_(__global const uchar *block, float16 *first, float16 *second)"
    offset = f" + {_HALF.format(i=1)}" if halves == 2 else ""
    text = f"""\
#pragma OPENCL FP_CONTRACT ON
__global const uchar *block = row + group * {nbytes};
const float d = {_HALF.format(i=0)};
integers_{name.lower()}_(block, first, second);
*first = *first * d{offset};
*second = *second * d{offset};"""
    packing = _packing(name, 32, nbytes, unpack, text, pack)
    return replace(packing, integers=f"{head} {{\n    {body}\n}}\n", halves=halves)


PACKINGS: dict[str, Packing] = {
    packing.name: packing
    for packing in (
        _simple("Q8_0", 1, 34, _q8_0, f"""\
const char16 p = as_char16({_bytes("block + 2")}), q = as_char16({_bytes("block + 18")});
*first = {_floats("p")};
*second = {_floats("q")};""", _pack_q8_0),
        _simple("Q4_0", 1, 18, _q4_0, f"""\
const uchar16 q = as_uchar16({_bytes("block + 2")});
*first = {_floats("q & (uchar)15")} - 8.0f;
*second = {_floats("q >> (uchar)4")} - 8.0f;""", _pack_q4_0),
        _simple("Q4_1", 2, 20, _q4_1, f"""\
const uchar16 q = as_uchar16({_bytes("block + 4")});
*first = {_floats("q & (uchar)15")};
*second = {_floats("q >> (uchar)4")};""", _pack_q4_1),
        _packing("Q4_K", 256, 144, _q4_k, f"""\
#pragma OPENCL FP_CONTRACT ON
__global const uchar *block = row + group / 8 * 144, *s = block + 4;
const int i = group % 8, j = i % 4;
const uchar a = s[j], b = s[j + 4], c = s[j + 8];
const uchar scale = i < 4 ? a & 63 : (c & 15) | (a >> 6) << 4, offset = i < 4 ? b & 63 : c >> 4 | (b >> 6) << 4;
const float d = {_HALF.format(i=0)} * scale, m = {_HALF.format(i=1)} * offset;
const uchar shift = i % 2 * 4;
__global const uchar *numbers = block + 16 + i / 2 * 32;
const uchar16 p = as_uchar16({_bytes("numbers")}) >> shift, q = as_uchar16({_bytes("numbers + 16")}) >> shift;
*first = {_floats("p & (uchar)15")} * d - m;
*second = {_floats("q & (uchar)15")} * d - m;"""),
        _packing("Q6_K", 256, 210, _q6_k, f"""\
__global const uchar *block = row + group / 8 * 210;
const int i = group % 8, part = i / 4, j = i % 4;
__global const uchar *low = block + part * 64 + j % 2 * 32, *high = block + 128 + part * 32;
__global const char *scales = (__global const char *)(block + 192) + i * 2;
const float d = {_HALF.format(i=104)};
const uchar shift = j / 2 * 4, up = j * 2;
const uchar16 r = as_uchar16({_bytes("high")}), s = as_uchar16({_bytes("high + 16")});
const uchar16 p = as_uchar16({_bytes("low")}) >> shift & (uchar)15 | (r >> up & (uchar)3) << (uchar)4;
const uchar16 q = as_uchar16({_bytes("low + 16")}) >> shift & (uchar)15 | (s >> up & (uchar)3) << (uchar)4;
*first = ({_floats("p")} - 32.0f) * (d * scales[0]);
*second = ({_floats("q")} - 32.0f) * (d * scales[1]);"""),
        _packing("F16", 32, 64, _f16, """\
__global const half *numbers = (__global const half *)row + group * 32;
*first = (float16)(vload_half8(0, numbers), vload_half8(1, numbers));
*second = (float16)(vload_half8(2, numbers), vload_half8(3, numbers));""", _pack_f16),
        _packing("BF16", 32, 64, _bf16, """\
__global const ushort *numbers = (__global const ushort *)row + group * 32;
*first = as_float16((uint16)(convert_uint8(vload8(0, numbers)), convert_uint8(vload8(1, numbers))) << 16);
*second = as_float16((uint16)(convert_uint8(vload8(2, numbers)), convert_uint8(vload8(3, numbers))) << 16);"""),
    )
}  # fmt: skip
