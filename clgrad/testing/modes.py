"""The ways in which the same thing can be computed, none of which may make a difference.

`values_and_gradients(fn)` makes of a function one that returns its outputs and the gradients of their weighted sum, all
lazily; what it returns can then be realised together, node by node (`unfused`), or in a replay of `jit`.

>>> from clgrad import Tensor
>>> from clgrad.testing.modes import unfused, values_and_gradients
>>> results = values_and_gradients(lambda x: x * x)(Tensor([1.0, 2.0], device="NUMPY"))
>>> [array.tolist() for array in unfused(results)]
[[1.0, 4.0], [2.0, 2.16...]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backends.dtypes import as_dtype, is_float
from ..engine import node as nodes
from ..engine import realize as realizing
from ..engine.tensor import Tensor


def outputs_of(result: Any) -> list[Tensor]:
    """A Tensor or several, as a list. Raises TypeError for anything else."""
    found = list(result) if isinstance(result, (tuple, list)) else [result]
    if not all(isinstance(y, Tensor) for y in found):
        raise TypeError(f"a checked function must return a Tensor or several, not {type(result).__name__}")
    return found


def weighted_sum(outputs: Sequence[Tensor]) -> Tensor | None:
    """A sum of what can be differentiated, with weights cos(0), cos(1), ... in turn, none of which is 0."""
    terms = []
    for y in outputs:
        if is_float(y.dtype) and y.requires_grad:
            weights = np.cos(np.arange(y.numel(), dtype=np.float64)).reshape(y.shape)
            terms.append((y * Tensor(weights.astype(np.float32), dtype=y.dtype, device=y.device)).sum())
    return sum(terms[1:], terms[0]) if terms else None


def values_and_gradients(fn: Callable[..., Any]) -> Callable[..., list[Tensor]]:
    """A function of the same arguments: fn's outputs, then for each Tensor of floats the gradient of `weighted_sum`."""

    def run(*arguments: Any) -> list[Tensor]:
        wanted = [isinstance(a, Tensor) and is_float(a.dtype) for a in arguments]
        own = [a.detach().requires_grad_() if want else a for a, want in zip(arguments, wanted)]
        outputs = outputs_of(fn(*own))
        total = weighted_sum(outputs)
        leaves = [a for a, want in zip(own, wanted) if want]
        gradients = total.gradient(*leaves) if total is not None else [x.zeros_like() for x in leaves]
        return outputs + [g.detach() for g in gradients]

    return run


def computed(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """The values, realised together."""
    Tensor.realize_all(tensors)
    return [t.numpy() for t in tensors]


def unfused(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """The values, with every node on the way realised by itself, so that nothing is fused with anything."""
    for node in nodes.topological([t.node for t in tensors], lambda n: () if n.buffer is not None else n.src):
        if node.buffer is None and node.op != "const":
            realizing.realize([node])
    return [t.numpy() for t in tensors]


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference relative to the largest value of the two; 0 for equal arrays, inf if NaN or inf differ.

    Arrays of another shape or dtype are at infinity too; so are integers and bools that are not equal.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return np.inf
    if not is_float(as_dtype(got.dtype)):
        return 0.0 if np.array_equal(got, want) else np.inf
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    gap = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return gap / max(largest(a), largest(b)) if gap else 0.0


def largest(array: np.ndarray) -> float:
    """The largest magnitude among what is finite; 0 if nothing is."""
    values = np.abs(array.astype(np.float64))
    return float(values[np.isfinite(values)].max(initial=0.0))


def assert_same(got: Sequence[np.ndarray], want: Sequence[np.ndarray], tolerance: float) -> None:
    """Each array is the other one, within `tolerance` of its largest value. Raises AssertionError with both."""
    for number, (a, b) in enumerate(zip(got, want, strict=True)):
        gap = distance(a, b)
        if not gap <= tolerance:
            raise AssertionError(f"result {number} differs by {gap:.3g} of its largest value\ngot  {a!r}\nwant {b!r}")
