"""A function of Tensors against another implementation of it: of NumPy arrays, or of torch's tensors.

Both get the same values in float64. Torch's gradient is by its own autograd; that of a NumPy function by central
differences of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backends.dtypes import is_float
from .differences import slope
from .gradients import NotDifferentiable
from .modes import computed, distance, values_and_gradients
from .sample import Sample, literal

VALUES = 1e-9  # how far values in float64 may be off, relative to the largest


class ReferenceError_(AssertionError):
    """The function and its reference disagree; `lines` show it in a program."""

    def __init__(self, message: str, lines: Sequence[str]):
        super().__init__(message)
        self.lines = list(lines)


def against_reference(
    fn: Callable, reference: Callable, arguments: Sequence[Any], device: str, tolerance: float
) -> None:
    """Raise an AssertionError if `fn` and `reference` differ in value or gradient for these samples."""
    arrays = [a.numpy() if isinstance(a, Sample) else a for a in arguments]
    arrays = [a.astype(np.float64) if isinstance(a, np.ndarray) and is_float(a.dtype) else a for a in arrays]
    want, gradients = _torch(reference, arrays) if _is_torch(reference, arrays) else _numpy(reference, arrays)
    tensors = [
        a.tensor(device, "float64" if is_float(a.dtype) else None) if isinstance(a, Sample) else a for a in arguments
    ]
    results = computed(values_and_gradients(fn)(*tensors))
    outputs = results[: len(want)]
    for number, (a, b) in enumerate(zip(outputs, want)):
        gap = distance(a.astype(b.dtype) if a.dtype.kind == b.dtype.kind == "f" else a, b)
        if a.shape == b.shape and a.dtype != b.dtype and a.dtype.kind == b.dtype.kind:
            gap = distance(a.astype(b.dtype), b)
        if not gap <= VALUES:
            raise ReferenceError_(
                f"output {number} is not that of the reference: {_differ(a, b)}",
                [
                    "got = fn(*inputs)",
                    f"got = got[{number}].numpy()" if len(want) > 1 else "got = got.numpy()",
                    f"want = {literal(b)}  # the reference",
                    f"assert_same([got.astype(want.dtype)], [want], {VALUES})",
                ],
            )
    for number, (ours, compare) in enumerate(zip(results[len(want) :], gradients)):
        compare(ours, number, tolerance)


def _tensor(argument: Any, device: str) -> Any:
    if not isinstance(argument, Sample):
        return argument
    return argument.tensor(device, "float64" if is_float(argument.dtype) else None)


def _differ(a: np.ndarray, b: np.ndarray) -> str:
    if a.shape != b.shape or a.dtype != b.dtype and a.dtype.kind != b.dtype.kind:
        return f"{a.dtype} {a.shape}, and the reference's is {b.dtype} {b.shape}"
    with np.errstate(all="ignore"):
        wrong = ~((a == b) | (np.abs(a.astype(float) - b) <= VALUES * np.abs(b)) | ((a != a) & (b != b)))
    at = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.any() else ()
    return f"at {list(at)} {a[at]}, and the reference gives {b[at]}"


def _is_torch(reference: Callable, arrays: Sequence[Any]) -> bool:
    """Whether a function is one of torch's tensors: if it is torch's own, or takes no arrays."""
    if "torch" not in sys.modules:
        return False
    if (getattr(reference, "__module__", None) or "").split(".")[0] == "torch":
        return True
    import torch

    try:
        with np.errstate(all="ignore"):
            result = reference(*arrays)
    except (TypeError, AttributeError):
        return True
    return isinstance(result, torch.Tensor)


def _torch(reference: Callable, arrays: Sequence[Any]):
    """Values, and for each input of floats a comparison with torch's gradient."""
    import torch

    tensors = [torch.tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]
    leaves = [t.requires_grad_() for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()]
    result = reference(*tensors)
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    terms = [
        (y * torch.tensor(weights(y.shape)).to(y.dtype)).sum()
        for y in outputs
        if y.is_floating_point() and y.requires_grad
    ]
    found = torch.autograd.grad(sum(terms[1:], terms[0]), leaves, allow_unused=True) if terms and leaves else []
    gradients = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found)]
    return [y.detach().numpy() for y in outputs], [_torch_comparison(g.numpy(), len(gradients)) for g in gradients]


def weights(shape: Sequence[int]) -> np.ndarray:
    return np.cos(np.arange(np.prod(shape, dtype=int), dtype=np.float64)).reshape(tuple(shape)).astype(np.float32)


def _torch_comparison(want: np.ndarray, count: int) -> Callable:
    def compare(ours: np.ndarray, number: int, tolerance: float) -> None:
        if not distance(ours, want) <= tolerance:
            raise ReferenceError_(
                f"the gradient of input {number} is not torch's: {_differ(ours, want)}",
                [
                    f"got = computed(run(*inputs))[{number - count}]",
                    f"want = {literal(want)}  # torch",
                    f"assert_same([got], [want], {tolerance})",
                ],
            )

    return compare


def _numpy(reference: Callable, arrays: Sequence[Any]):
    """Values, and for each input of floats a comparison with differences of the reference along a direction."""
    with np.errstate(all="ignore"):
        result = reference(*arrays)
    outputs = [np.asarray(y) for y in (result if isinstance(result, (tuple, list)) else [result])]
    floats = [i for i, a in enumerate(arrays) if isinstance(a, np.ndarray) and a.dtype == np.float64]
    if any(y.dtype.kind == "f" for y in outputs):
        return outputs, [_numpy_comparison(reference, arrays, i, len(floats)) for i in floats]
    return outputs, []


def _numpy_comparison(reference: Callable, arrays: Sequence[Any], position: int, count: int) -> Callable:
    def compare(ours: np.ndarray, number: int, tolerance: float) -> None:
        if not ours.size or not np.isfinite(ours).all():
            return
        rng = np.random.default_rng(0)
        direction = rng.uniform(0.5, 1, ours.shape) * rng.choice([-1.0, 1.0], ours.shape)

        def along(t: float) -> np.ndarray:
            moved = [a + t * direction if i == position else a for i, a in enumerate(arrays)]
            result = reference(*moved)
            outputs = [np.asarray(y) for y in (result if isinstance(result, (tuple, list)) else [result])]
            return np.concatenate([(y * weights(y.shape)).ravel() for y in outputs if y.dtype.kind == "f"])

        found = slope(along, float((ours * direction).sum()), tolerance)
        if found.kind in ("kink", "jump", "edge"):
            raise NotDifferentiable("the reference has a kink here", position, [])
        if found.kind != "agrees":
            raise ReferenceError_(
                f"the gradient of input {position} is not that of the reference: along a random direction it is "
                f"{(ours * direction).sum()}, and by differences of the reference {found.value}",
                [
                    f"got = computed(run(*inputs))[{number - count}]",
                    f"direction = {literal(direction)}",
                    f"want = {found.value!r}  # by differences of the reference",
                    f"np.testing.assert_allclose((got * direction).sum(), want, rtol={tolerance})",
                ],
            )

    return compare
