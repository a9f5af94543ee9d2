"""A sample: values in memory and the steps of movement through which they are seen.

Two Tensors of equal values may lie in memory in very different ways, and a function that is right about one may be
wrong about the other. A `Sample` holds both: an array, and the movement primitives (reshape, permute, expand, pad,
shrink, flip, window) that lead from it to what the function reads.

>>> import numpy as np
>>> from clgrad.testing import Sample
>>> x = Sample(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "float32"), (("permute", (1, 0)), ("flip", (0,))))
>>> x.numpy().tolist(), sorted(x.features)
([[3.0, 6.0], [2.0, 5.0], [1.0, 4.0]], ['flipped', 'permuted'])
>>> x
Sample(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "float32"), (('permute', (1, 0)), ('flip', (0,))))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional

import numpy as np

from ..backends.dtypes import as_dtype, is_bool, is_float
from ..engine.tensor import Tensor

Steps = tuple[tuple[str, Any], ...]

FEATURES = (
    *("zero-size", "one-size"),
    *("permuted", "flipped", "strided", "expanded", "padded"),
    *("nan", "inf", "negative-zero"),
)


def move(array: np.ndarray, op: str, arg: Any) -> np.ndarray:
    """What a movement primitive means, in NumPy: a view, but for the pad."""
    if op == "reshape":
        return array.reshape(arg)
    if op == "permute":
        return array.transpose(arg)
    if op == "expand":
        return np.broadcast_to(array, arg)
    if op == "shrink":
        return array[tuple(slice(lo, hi) for lo, hi in arg)]
    if op == "flip":
        return array[tuple(slice(None, None, -1 if a in arg else 1) for a in range(array.ndim))]
    if op == "window":  # windows of `size` along an axis, `step` apart; a new last axis inside them
        axis, size, step = arg
        windows = np.lib.stride_tricks.sliding_window_view(array, size, axis)
        return windows[(slice(None),) * axis + (slice(None, None, step),)]
    if op != "pad":
        raise ValueError(f"{op!r} is no movement primitive")
    padded = np.zeros(tuple(lo + n + hi for n, (lo, hi) in zip(array.shape, arg, strict=True)), array.dtype)
    padded[tuple(slice(lo, lo + n) for n, (lo, _) in zip(array.shape, arg, strict=True))] = array
    return padded


def number(value: Any, dtype: np.dtype) -> str:
    """A number of `dtype` as Python text that has exactly this value again."""
    if is_bool(dtype):
        return str(bool(value))
    if not is_float(dtype):
        return str(int(value))
    if np.isnan(value):
        return "np.nan"
    if np.isinf(value):
        return "np.inf" if value > 0 else "-np.inf"
    short = repr(float(str(value)))
    return short if np.array(float(short), dtype) == value else repr(float(value))


def literal(array: np.ndarray) -> str:
    """An array as Python text that makes it again: `np.array([1.0, np.nan], "float32")`.

    >>> literal(np.zeros((0, 3))), literal(np.full((2, 3), 7))
    ('np.zeros((0, 3), "float64")', 'np.full((2, 3), 7, "int64")')
    """
    dtype, flat = array.dtype, array.ravel()
    if not array.size:
        return f'np.zeros({array.shape}, "{dtype.name}")'
    bits = np.ascontiguousarray(flat).view(f"u{dtype.itemsize}")
    if array.size > 1 and (bits == bits[0]).all():
        return f'np.full({array.shape}, {number(flat[0], dtype)}, "{dtype.name}")'

    def nested(part: np.ndarray) -> str:
        return f"[{', '.join(map(nested, part))}]" if part.ndim else number(part[()], dtype)

    return f'np.array({nested(array)}, "{dtype.name}")'


def code(value: Any) -> str:
    """Any argument of a program as Python text: arrays as literals, slices and tuples of them too."""
    if isinstance(value, np.ndarray):
        return literal(value)
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(code, value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, float):
        return number(value, np.dtype("float64"))
    return "..." if value is Ellipsis else repr(value)


@dataclass(frozen=True, eq=False)
class Sample:
    """`base` as it lies in memory, and the `steps` (movement primitives and their arguments) that lead to what is read.

    `.shape` and `.dtype` are those of what is read. The repr can be pasted and run (`import numpy as np`).
    """

    base: np.ndarray
    steps: Steps = ()

    @cached_property
    def _seen(self) -> np.ndarray:
        array = np.asarray(self.base)
        for op, arg in self.steps:
            array = move(array, op, arg)
        return array

    def numpy(self) -> np.ndarray:
        """The array as seen through the layout: a copy, contiguous."""
        return np.array(self._seen, order="C")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._seen.shape

    @property
    def dtype(self) -> np.dtype:
        return self.base.dtype

    def tensor(self, device: Optional[str] = None, dtype=None, requires_grad: bool = False) -> Tensor:
        """A Tensor that lies in memory as the sample says. With `requires_grad` it is a leaf of its own.

        `dtype` casts the values before they are moved, so the layout is the same in every dtype.
        """
        wanted = self.base.dtype if dtype is None else as_dtype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            result = Tensor(self.base.astype(wanted), dtype=wanted, device=device)
        for op, arg in self.steps:  # by the methods that `code` names, which leave out what does nothing
            result = result.unfold(*arg) if op == "window" else getattr(result, op)(arg)
        return result.requires_grad_() if requires_grad else result

    def with_base(self, base: np.ndarray) -> Sample:
        """Other values in the same layout."""
        return Sample(base, self.steps)

    def contiguous(self) -> Sample:
        """The same values without a layout."""
        return Sample(self.numpy())

    def code(self, device: Optional[str] = None, dtype=None, requires_grad: bool = False) -> str:
        """The Python text of `tensor(device, dtype, requires_grad)`."""
        base = self.base if dtype is None else self.base.astype(as_dtype(dtype))
        where = f", device={device!r}" if device else ""
        flag = ", requires_grad=True" if requires_grad and not self.steps else ""
        steps = "".join(f".unfold{arg}" if op == "window" else f".{op}({arg})" for op, arg in self.steps)
        own = ".requires_grad_()" if requires_grad and self.steps else ""
        return f'Tensor({literal(base)}, dtype="{base.dtype.name}"{where}{flag}){steps}{own}'

    @cached_property
    def features(self) -> frozenset[str]:
        """What is unusual about it, out of `FEATURES`. A layout counts where there are elements to be affected."""
        found: set[str] = set()
        array = np.asarray(self.base)
        for op, arg in self.steps:
            before, array = array, move(array, op, arg)
            if op == "pad" and any(lo or hi for lo, hi in arg):
                found.add("padded")
                if before.size and _has_gaps(before):
                    found.add("strided")
            elif op == "permute" and (order := [a for a in arg if before.shape[a] > 1]) != sorted(order):
                found.add("permuted")
            elif op == "flip" and any(before.shape[a] > 1 for a in arg):
                found.add("flipped")
            elif op == "expand" and before.shape != array.shape:
                found.add("expanded")
        if array.size == 0:
            found.clear()
        elif _has_gaps(array):
            found.add("strided")
        found |= {name for size, name in ((0, "zero-size"), (1, "one-size")) if size in array.shape}
        if is_float(array.dtype):
            values = array.astype("float64")
            checks: dict[str, Callable[[np.ndarray], np.ndarray]] = {
                "nan": np.isnan,
                "inf": np.isinf,
                "negative-zero": lambda v: (v == 0) & np.signbit(v),
            }
            found |= {name for name, test in checks.items() if test(values).any()}
        return frozenset(found)

    def __repr__(self) -> str:
        return f"Sample({literal(self.base)}, {self.steps})" if self.steps else f"Sample({literal(self.base)})"


def _has_gaps(view: np.ndarray) -> bool:
    """Whether some elements do not lie one after another, whatever the order of the axes."""
    step = view.dtype.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(view.strides, view.shape) if n > 1 and s):
        if stride != step:
            return True
        step = stride * n
    return False
