"""A drawn operand: an array and the movement that leads from it to what a function reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from strategies import move

from clgrad import Tensor


@dataclass(frozen=True)
class Sample:
    """`base` seen through `steps`, movement primitives with their arguments."""

    base: np.ndarray
    steps: tuple[tuple[str, Any], ...] = ()

    def numpy(self) -> np.ndarray:
        array = self.base
        for op, arg in self.steps:
            array = move(array, op, arg)
        return np.array(array, order="C")

    def tensor(self, device: str, dtype=None, requires_grad: bool = False) -> Tensor:
        tensor = Tensor(self.base, dtype=dtype or self.base.dtype, device=device)
        for op, arg in self.steps:
            tensor = Tensor._make(op, tensor, arg=arg)
        return tensor.requires_grad_() if requires_grad else tensor

    @property
    def features(self) -> frozenset[str]:
        array = self.numpy()
        found = {"zero-size"} if 0 in array.shape else set()
        if 1 in array.shape:
            found.add("one-size")
        shape = self.base.shape
        for op, arg in self.steps:
            if op == "permute" and [a for a in arg if shape[a] > 1] != sorted(a for a in arg if shape[a] > 1):
                found.add("permuted")
            elif op == "flip" and any(shape[a] > 1 for a in arg):
                found.add("flipped")
            elif op == "shrink" and any(lo > 0 or hi < n for (lo, hi), n in zip(arg, shape)):
                found.add("strided")
            elif op == "expand" and arg != shape:
                found.add("expanded")
            elif op == "pad" and any(lo + hi for lo, hi in arg):
                found.add("padded")
            shape = move(np.broadcast_to(np.int8(0), shape), op, arg).shape
        if array.size and array.dtype.kind not in "biu":
            values = array.astype(np.float64)
            if np.isnan(values).any():
                found.add("nan")
            if np.isinf(values).any():
                found.add("inf")
            if (np.signbit(values) & (values == 0)).any():
                found.add("negative-zero")
        return frozenset(found)
