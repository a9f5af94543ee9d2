"""Casts: the same numbers in another dtype, or the same bits read as one.

>>> from clgrad import Tensor
>>> Tensor([1.9, -1.9, 300.0]).cast("int8").tolist(), Tensor([1.0]).bitcast("int32").tolist()
([1, -1, 127], [1065353216])
>>> Tensor([1.0, -2.0]).bitcast("uint16").tolist()
[0, 16256, 0, 49152]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backends import dtypes
from ..backends.dtypes import DType, is_bool
from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor


def cast(self: Tensor, dtype) -> Tensor:
    """As another dtype. Float to integer truncates and saturates, NaN gives 0; integers wrap; bool is x != 0.

    Floats are rounded to the nearest, ties to even; what goes to bfloat16 passes through float32 first, as in PyTorch.
    Raises TypeError for a dtype that there is not.
    """
    wanted = dtypes.as_dtype(dtype)
    return self if wanted == self.dtype else self._apply("cast", wanted)


def bitcast(self: Tensor, dtype) -> Tensor:
    """The same bits read as another dtype, as `torch.Tensor.view(dtype)`; no gradient flows through.

    Another width divides or multiplies the last axis: (..., n) int32 is (..., 4n) uint8, the lowest bits first. Raises
    ShapeError where the last axis does not divide, and for a Tensor without one.
    """
    wanted = dtypes.as_dtype(dtype)
    if wanted == self.dtype:
        return self
    if is_bool(self.dtype):
        return self.cast(dtypes.uint8).bitcast(wanted)
    if is_bool(wanted):
        return self.bitcast(dtypes.uint8) != 0
    before, after = self.dtype.itemsize, wanted.itemsize
    if before == after:
        return self._apply("bitcast", wanted)
    if not self.ndim or self.shape[-1] * before % after:
        raise ShapeError(
            f"bitcast: {self.dtype} of shape {self.shape} has no whole number of {wanted} along its last axis"
        )
    bits = self.detach().bitcast(_unsigned(before))
    return (_divided if before > after else _joined)(bits, _unsigned(after)).bitcast(wanted)


def _unsigned(nbytes: int) -> DType:
    return dtypes.as_dtype(f"uint{8 * nbytes}")


def _shifts(bits: Tensor, wide: DType, narrow: DType) -> Tensor:
    """Where the parts of a wide integer begin in it."""
    width = 8 * narrow.itemsize
    return type(bits).arange(0, 8 * wide.itemsize, width, dtype=wide, device=bits.device)


def _divided(bits: Tensor, narrow: DType) -> Tensor:
    parts = bits.unsqueeze(-1) >> _shifts(bits, bits.dtype, narrow)  # (..., n, k); the cast keeps the lowest bits
    return parts.cast(narrow).reshape((*bits.shape[:-1], bits.shape[-1] * parts.shape[-1]))


def _joined(bits: Tensor, wide: DType) -> Tensor:
    shifts = _shifts(bits, wide, bits.dtype)
    parts = bits.cast(wide).reshape((*bits.shape[:-1], bits.shape[-1] // shifts.shape[0], shifts.shape[0]))
    return (parts << shifts).sum(-1, dtype=wide)


def is_floating_point(self: Tensor) -> bool:
    """Whether the dtype is one of the floats."""
    return dtypes.is_float(self.dtype)


def _cast_to(dtype, doc: str):
    def method(self: Tensor) -> Tensor:
        return cast(self, dtype)

    method.__doc__ = doc
    return method


float_ = _cast_to("float32", "As float32.")
half = _cast_to("float16", "As float16.")
bfloat16 = _cast_to("bfloat16", "As bfloat16. Raises ImportError without the package ml_dtypes.")
double = _cast_to("float64", "As float64.")
short = _cast_to("int16", "As int16.")
int_ = _cast_to("int32", "As int32.")
long = _cast_to("int64", "As int64.")
bool_ = _cast_to("bool", "As bool: x != 0.")
