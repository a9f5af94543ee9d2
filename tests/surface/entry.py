"""An entry of the table: a function of Tensors, the same function of torch's, and what operands to draw for it.

From one entry follow, on each backend, 100 examples and more: values in every dtype, on permuted, flipped, strided,
expanded and padded operands, on axes of length 0 and 1, on NaN, infinities and -0.0; first and second derivatives in
float64. Results have torch's shapes and dtypes, those of indices included. Where torch raises, so must we.

    Entry("softplus(beta)", "Tensor.softplus", lambda x: x.softplus(2.0), lambda x: TF.softplus(x, 2.0), ulp=16)

    Entry(
        name="gather",
        covers="Tensor.gather",
        ours=lambda x, index: x.gather(1, index),
        operands=(
            Operand(min_dims=2, max_dims=2, min_size=1),
            Operand(like_rows, dtype="int64", low=0, high=lambda shape: shape[1] - 1),
        ),
        dtypes=ALL,
    )

where `like_rows = lambda draw, first: (first[0], draw(st.integers(0, 4)))`. Constants that live beside an operand, on
its device and in its framework, are made by `constant(x, values)`.

Rules that follow from the declarations, and are counted (`examples.wanted_features`):
- a shape that is drawn here (`shape=None`) has axes of 0 unless `min_size` forbids it, and axes of 1;
- every operand with axes is drawn in every layout; with `distinct` none that repeats a value (expanded, padded), and
  where 0 is outside [low, high] none that is padded with zeros;
- `special` floats contain NaN, both infinities and -0.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clgrad import Tensor

BOOL = ("bool",)
INTS = ("int8", "int16", "int32", "int64", "uint8")
HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")
WIDE = ("float32", "float64")
ALL = BOOL + INTS + FLOATS


@dataclass(frozen=True)
class Operand:
    """What is drawn for one operand.

    `shape`: None for the entry's common shape, a tuple, a Hypothesis strategy of tuples, or a function of (draw, shape
    of the first operand). The common shape is drawn with `min_dims` to `max_dims` axes of `min_size` and more, as the
    first operand says. `low` and `high` (a number each, or a function of the first operand's shape) bound the values
    of integers where they are given, and of floats where no awkward values are wanted: in derivatives, and in entries
    that are not `special`. `dtype` fixes what otherwise follows the entry. With `distinct` no two values are equal.
    With `constant` no gradient is asked for.
    """

    shape: Any = None
    min_dims: int = 0
    max_dims: int = 4
    min_size: int = 0
    low: Any = -3
    high: Any = 3
    dtype: str | None = None
    distinct: bool = False
    constant: bool = False

    @property
    def bounded(self) -> bool:
        """Whether somebody chose the range of its values."""
        return (self.low, self.high) != (-3, 3)

    def range(self, first: tuple[int, ...]) -> tuple[Any, Any]:
        """The least and the largest value, given the shape of the first operand."""
        low, high = (bound(first) if callable(bound) else bound for bound in (self.low, self.high))
        return low, high


@dataclass(frozen=True)
class Entry:
    """One line of the table; the module says what follows from it.

    name         unique in the whole table
    covers       the public name or names that it proves: "Tensor.x", "nn.LayerNorm", "nn.optim.SGD"
    ours         of Tensors -> a Tensor, or a tuple of Tensors
    theirs       the same of torch's tensors; None where both spell it alike
    operands     one an operand, or how many plain ones
    broadcast    whether the operands have shapes that broadcast, rather than one shape
    dtypes       in which values are compared
    derivatives  how many orders are compared with torch's autograd, in float64: 0, 1 or 2
    kinks        of NumPy arrays -> True where the function is not differentiable; such operands are drawn again
    special      awkward values among those of value tests: True for all of them, "mild" for NaN, infinities and -0.0
                 without huge and tiny numbers (sums of those are anything), False for none
    ulp          how far values may be off: where `special` is True for each element, else relative to the largest of
                 the result; halves relative to the operand if that is larger, since each step of a composition rounds
    tolerance    how far derivatives may be off in float64, relative to the largest
    why          needed for `ulp` above 64 and for `tolerance` above 1e-4
    """

    name: str
    covers: str | tuple[str, ...]
    ours: Callable[..., Any]
    theirs: Callable[..., Any] | None = None
    operands: int | tuple[Operand, ...] = 1
    broadcast: bool = False
    dtypes: tuple[str, ...] = FLOATS
    derivatives: int = 2
    kinks: Callable[..., Any] | None = None
    special: bool | str = True
    ulp: float = 8
    tolerance: float = 1e-9
    why: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.covers, str):
            object.__setattr__(self, "covers", (self.covers,))
        if isinstance(self.operands, int):
            object.__setattr__(self, "operands", (Operand(),) * self.operands)
        if self.theirs is None:
            object.__setattr__(self, "theirs", self.ours)
        if (self.ulp > 64 or self.tolerance > 1e-4) and not self.why:
            raise ValueError(f"{self.name}: a tolerance as loose as this needs a reason (`why`)")


def constant(x: Any, values: Any) -> Any:
    """`values` beside `x`: a Tensor on its device, or torch's where `x` is torch's."""
    array = np.asarray(values)
    return torch.tensor(array) if isinstance(x, torch.Tensor) else Tensor(array, dtype=array.dtype, device=x.device)
