"""What generated functions are called with: arrays over buffers and scratch memory, whole or cut to a block.

All of it is made when a kernel is bound to its buffers, so that a launch only calls functions. `make` gives an argument
over the whole iteration space, `part` what one block gets of it:

>>> import numpy as np
>>> from clgrad.backends.numpy.arguments import Argument
>>> rows = Argument(lambda buffers: np.arange(10), "rows")
>>> rows.part(rows.make([]), 4, 8).tolist()
[4, 5, 6, 7]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from ..base import Buffer
from ..dtypes import DType

Shape = tuple[int, ...]


class Argument(NamedTuple):
    """`cut` says what the block of rows i to j gets.

    "rows": those rows; "head": the first j - i rows, of memory that holds one block; "i", "j": the number; "": all.
    Where `width` is set, each of these rows is `width` of the array's. `own` makes the same for one of several threads,
    by its number, where each needs memory of its own.
    """

    make: Callable[[Sequence[Buffer]], Any]
    cut: str = ""
    width: int = 1
    own: Optional[Callable[[int], Any]] = None

    def through(self, change: Callable[[Any], Any]) -> Argument:
        """The same with `change` applied to the whole."""
        own = self.own
        return self._replace(
            make=lambda buffers: change(self.make(buffers)),
            own=None if own is None else lambda thread: change(own(thread)),
        )

    def of(self, thread: int, value: Any) -> Any:
        """What a thread gets of the whole `value`: that, or memory of its own."""
        return self.own(thread) if thread and self.own is not None else value

    def part(self, value: Any, i: int, j: int) -> Any:
        if self.cut == "rows":
            return value[i * self.width : j * self.width]
        if self.cut == "head":
            return value[: (j - i) * self.width]
        return {"i": i, "j": j}.get(self.cut, value)


def strided(slot: int, dtype: DType, shape: Shape, strides: Shape, offset: int, cut: str = "") -> Argument:
    """The array over buffer number `slot` with the given shape, strides and offset in elements."""
    size = dtype.itemsize
    reverse, extent = [], size
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        # BLAS looks at the strides of dimensions of size 1 too, so they get those of a plain array.
        reverse.append(extent if n == 1 else s * size)
        extent = max(extent, abs(reverse[-1]) * n)
    steps = tuple(reversed(reverse))

    def make(buffers: Sequence[Buffer]) -> np.ndarray:
        buffer = buffers[slot]
        return np.ndarray(shape, dtype, buffer.handle, buffer.offset + offset * size, steps)

    return Argument(make, cut)


def constant(value: Any, cut: str = "") -> Argument:
    return Argument(lambda buffers: value, cut)
