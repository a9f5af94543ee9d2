"""Element types: NumPy's own dtype objects under the names that tensor users expect.

A `DType` *is* a `numpy.dtype`, so it hashes, compares and prints as one, and no table of
conversions is needed between the engine, the backends and the arrays that users hold. NumPy has no bfloat16: that one
is the package ml_dtypes', which is imported when a program first asks for it.

>>> from clgrad import dtypes
>>> dtypes.promote(dtypes.int32, dtypes.float16)
dtype('float16')
>>> dtypes.promote(dtypes.uint8, dtypes.int8)
dtype('int16')
"""

from __future__ import annotations

from functools import cache

import numpy as np

DType = np.dtype

bool_ = np.dtype("bool")
int8, int16, int32, int64 = (np.dtype(f"int{bits}") for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64))
float16, float32, float64 = (np.dtype(f"float{bits}") for bits in (16, 32, 64))

ALL = (bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, float32, float64)
default_float = float32
default_int = int64

NAMES = {dtype.name: dtype for dtype in ALL}
_KNOWN = {id(dtype): dtype for dtype in ALL}  # the very objects: most questions are about one of them


def __getattr__(name: str) -> DType:
    if name != "bfloat16":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("bfloat16 needs the package ml_dtypes: pip install 'clgrad[bf16]'") from None
    dtype = np.dtype(ml_dtypes.bfloat16)
    globals()[name] = NAMES[name] = _KNOWN[id(dtype)] = dtype
    return dtype


def is_float(dtype: DType) -> bool:
    return dtype.kind in "fV"  # NumPy calls bfloat16, which it does not know, "V"


def is_int(dtype: DType) -> bool:
    """Signed and unsigned integers; bool is not one."""
    return dtype.kind in "iu"


def is_bool(dtype: DType) -> bool:
    return dtype.kind == "b"


def is_exact(dtype: DType, number: object) -> bool:
    """Whether a float dtype holds what this is exactly, if it is a Python number at all."""
    if not isinstance(number, (int, float)) or number != number:
        return True
    with np.errstate(over="ignore"):
        return float(np.float64(number).astype(dtype)) == number


def is_half(dtype: DType) -> bool:
    """A float of 16 bits, whose sums are formed in float32."""
    return is_float(dtype) and dtype.itemsize == 2


def accumulator(dtype: DType) -> DType:
    """The dtype in which sums of `dtype` are formed: float32 for halves, else the same."""
    return float32 if is_half(dtype) else dtype


def as_dtype(dtype) -> DType:
    """A DType from a name ("float32"), a NumPy type, or a DType.

    Raises TypeError for one that the engine does not compute with (complex, object, strings).
    """
    known = _KNOWN.get(id(dtype))
    if known is not None:
        return known
    if isinstance(dtype, str) and dtype == "bfloat16":
        return __getattr__(dtype)
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = "unknown"
    if name == "bfloat16":
        return __getattr__(name)
    if name not in NAMES:
        raise TypeError(f"dtype {dtype!r} is not supported; use one of {', '.join(map(str, ALL))}, bfloat16")
    return NAMES[name]


@cache
def promote(a: DType, b: DType) -> DType:
    """The dtype in which `a` and `b` meet: bool < integers < floats, then the wider of two of a kind.

    An integer never widens a float (int64 with float16 is float16), and float16 with bfloat16 is float32. Where
    PyTorch refuses, this goes by what holds both: uint16 with int8 is int32, as in NumPy; uint64 with a signed integer
    is float32, since no integer type holds both.
    """
    if a == b:
        return a
    if _level(a) != _level(b):
        return a if _level(a) > _level(b) else b
    if is_half(a) and is_half(b) or uint64 in (a, b) and "i" in (a.kind, b.kind):
        return float32
    return NAMES[np.promote_types(a, b).name]


@cache
def holds(a: DType, b: DType) -> bool:
    """Whether a cast from `b` to `a` keeps every value and what a further cast makes of it.

    Integers wrap and floats saturate, so that a float holds floats only.
    """
    return is_float(a) == is_float(b) and np.can_cast(b, a)


def result_type(a: DType, rank_a: int, b: DType, rank_b: int) -> DType:
    """The dtype of an operation on tensors of these dtypes and numbers of dimensions, as `torch.result_type`.

    A tensor without dimensions does not widen one that has some, unless it is of a higher kind (bool < integers <
    floats): float16 (3,) with float32 () is float16, int64 (3,) with float32 () is float32.

    >>> result_type(float16, 1, float32, 0), result_type(float16, 1, float32, 1), result_type(int64, 1, float16, 0)
    (dtype('float16'), dtype('float32'), dtype('float16'))
    """
    if a == b or bool(rank_a) == bool(rank_b):
        return promote(a, b)
    whole, scalar = (a, b) if rank_a else (b, a)
    return promote(a, b) if _level(scalar) > _level(whole) else whole


def _level(dtype: DType) -> int:
    return 2 if is_float(dtype) else int(is_int(dtype))
