"""Is what we computed what torch computed? Values in every dtype; first and second derivatives in float64."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from clgrad import Tensor, dtypes
from clgrad.testing import Sample

from .entry import HALVES, Entry
from .examples import Example, Pattern, finfo

torch.set_num_threads(1)  # for so little, threads only wait for one another
WEIGHTS = np.random.default_rng(0).integers(-8, 9, 997) / 4  # what results are multiplied by, from a place that varies


class Refused(Exception):
    """torch does not do this."""


class Answer(NamedTuple):
    """Results as arrays (those of halves as float32), and the names of their dtypes."""

    arrays: list[np.ndarray]
    names: list[str]


def as_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)  # a cast would lose a NaN's sign
    return torch.from_numpy(np.array(array))


def _as_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)


def _results(found: Any) -> list[Any]:
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _answer(results: list[torch.Tensor]) -> Answer:
    return Answer([_as_numpy(r) for r in results], [str(r.dtype).removeprefix("torch.") for r in results])


def _cotangents(example: Example, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    return [WEIGHTS[(np.arange(prod(shape)) + example.seed) % len(WEIGHTS)].reshape(shape) for shape in shapes]


def _differentiable(entry: Entry, example: Example) -> list[bool]:
    return [
        bool(example.pattern.derivative and not operand.constant and dtypes.is_float(sample.base.dtype))
        for operand, sample in zip(entry.operands, example.samples)
    ]


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(entry: Entry, example: Example, device: str) -> list[Tensor]:
    """The results, not computed yet; of an example of derivatives, those of each operand besides."""
    wants = _differentiable(entry, example)
    xs = [s.tensor(device, requires_grad=want) for s, want in zip(example.samples, wants)]
    results = _results(entry.ours(*xs))
    targets = [x for x, want in zip(xs, wants) if want]
    found = list(results)
    total = _contracted(results, example)
    for _ in range(entry.derivatives if example.pattern.derivative else 0):
        if total is None:
            slopes = [x.zeros_like() for x in targets]
        else:
            slopes = total.gradient(*targets)
        found += slopes
        total = _contracted(slopes, example)
    return found


def _contracted(tensors: list[Tensor], example: Example) -> Tensor | None:
    """A weighted sum of what has a derivative; each has its own weights, whatever else torch finds to have one."""
    total = None
    for tensor, weights in zip(tensors, _cotangents(example, [t.shape for t in tensors])):
        if not tensor.requires_grad:
            continue
        term = (tensor * Tensor(weights, dtype=tensor.dtype, device=tensor.device)).sum()
        total = term if total is None else total + term
    return total


def read(results: list[Tensor]) -> Answer:
    arrays = [r.numpy() for r in results]
    return Answer([a.astype(np.float32) if a.dtype.name == "bfloat16" else a for a in arrays],
                  [r.dtype.name for r in results])  # fmt: skip


# --- torch's ----------------------------------------------------------------------------------------------------------


def theirs(entry: Entry, example: Example) -> Answer:
    """What torch gives. Raises Refused, with torch's error as its cause, where torch raises."""
    wants = _differentiable(entry, example)
    xs = [as_torch(s.numpy()).requires_grad_(want) for s, want in zip(example.samples, wants)]
    try:
        found = _results(_called(entry, xs))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise Refused(str(error)) from error
    targets = [x for x, want in zip(xs, wants) if want]
    tensors = found
    for _ in range(entry.derivatives if example.pattern.derivative else 0):
        if any(t.requires_grad for t in tensors):
            weights = [torch.from_numpy(w) for w in _cotangents(example, [tuple(t.shape) for t in tensors])]
            total = sum((t * w.to(t.dtype)).sum() for t, w in zip(tensors, weights) if t.requires_grad)
            slopes = torch.autograd.grad(total, targets, create_graph=True, materialize_grads=True)
        else:
            slopes = [torch.zeros_like(x) for x in targets]
        found = [*found, *slopes]
        tensors = slopes
    return _answer(found)


def _called(entry: Entry, xs: list[torch.Tensor]) -> Any:
    """torch's result; where it has none for halves on CPUs, that of float32, rounded."""
    try:
        return entry.theirs(*xs)
    except RuntimeError as error:
        half = next((x.dtype for x in xs if x.dtype in (torch.float16, torch.bfloat16)), None)
        if half is None or "not implemented for" not in str(error):
            raise
    results = _results(entry.theirs(*(x.float() if x.dtype == half else x for x in xs)))
    return tuple(r.to(half) if r.dtype == torch.float32 else r for r in results)


def _exact(entry: Entry, example: Example) -> list[np.ndarray]:
    """torch's results in float64, of the same operands."""
    xs = [as_torch(s.numpy()) for s in example.samples]
    return _answer(_results(entry.theirs(*(x.double() if x.is_floating_point() else x for x in xs)))).arrays


# --- the comparison ---------------------------------------------------------------------------------------------------


def compare(entry: Entry, example: Example, got: Answer, want: Answer) -> None:
    """Raises AssertionError where a result has another shape, dtype or value than torch's."""
    assert len(got.arrays) == len(want.arrays), f"{len(got.arrays)} results, torch has {len(want.arrays)}"
    exact: list[np.ndarray] | None = None
    for number, (g, w) in enumerate(zip(got.arrays, want.arrays)):
        name = want.names[number]
        assert got.names[number] == name, f"result {number} is {got.names[number]}, torch's is {name}"
        assert g.shape == w.shape, f"result {number} has shape {g.shape}, torch's has {w.shape}"
        if not dtypes.is_float(dtypes.as_dtype(name)):
            np.testing.assert_array_equal(g, w, err_msg=f"result {number}")
            continue
        if example.pattern.derivative:
            bad = _wrong_derivative(g, w, entry.tolerance)
        else:
            bad = _wrong_value(entry, example, name, g, w)
            if bad.any() and name != "float64":  # torch rounds as well, and may be the one that is further off
                exact = _exact(entry, example) if exact is None else exact
                bad &= _wrong_value(entry, example, name, g, exact[number])
        if bad.any():
            at = tuple(int(i[0]) for i in np.nonzero(bad)) if bad.ndim else ()
            raise AssertionError(
                f"result {number} at {at} is {g[at]!r}, torch's is {w[at]!r}\nours {g!r}\ntorch's {w!r}"
            )


def _wrong_derivative(got: np.ndarray, want: np.ndarray, tolerance: float) -> np.ndarray:
    scale = max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0.0)))
    with np.errstate(invalid="ignore"):
        near = np.abs(got - want) <= tolerance * (scale + np.abs(want))
    return ~(near | (got == want) | (np.isnan(got) & np.isnan(want)))


def _wrong_value(entry: Entry, example: Example, name: str, got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Where `got` is not within the bound of `want`, which may be more exact than its dtype."""
    limits = finfo(name)
    wide_got, wide = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(all="ignore"):
        size = np.abs(wide)
        if entry.special is not True:
            size = np.maximum(size, np.abs(wide[np.isfinite(wide)]).max(initial=1.0))
        if name in HALVES:
            size = np.maximum(size, _operand_size(example, wide.shape))
        bound = entry.ulp * limits.eps * size + limits.tiny  # subnormals may flush
        near = np.abs(wide_got - wide) <= bound
        same = (wide_got == wide) | (np.isnan(wide_got) & np.isnan(wide))
        # What rounds to infinity may as well be the largest finite number, to the same bound.
        capped = np.clip(np.nan_to_num(wide, nan=np.nan), -limits.max, limits.max)
        overflow = np.isinf(wide_got) & (np.sign(wide_got) == np.sign(wide)) & (np.abs(capped) + bound > limits.max)
    return ~(near | same | overflow)


def _operand_size(example: Example, shape: tuple[int, ...]) -> np.ndarray:
    """The size of the operands beside each result where shapes match, else of the largest."""
    size = np.zeros(shape)
    for sample in example.samples:
        array = np.abs(np.nan_to_num(sample.numpy().astype(np.float64), posinf=0.0, neginf=0.0))
        try:
            size = np.maximum(size, np.broadcast_to(array, shape))
        except ValueError:
            size = np.maximum(size, array.max(initial=0.0))
    return size


def describe(entry: Entry, example: Example, device: str) -> str:
    """What was done, as a program that can be pasted and run in `tests/`."""
    derivative = example.pattern.derivative
    samples = "".join(f"        {sample!r},\n" for sample in example.samples)
    return (
        f"{entry.name}: {'derivatives' if derivative else 'values'} on {device}\n\n"
        "import numpy as np\nfrom clgrad.testing import Sample\nfrom surface import table\n"
        "from surface.judge import again\n"
        f"again(\n    table()[{entry.name!r}],\n    {device!r},\n    [\n{samples}    ],\n"
        f"    seed={example.seed},\n    derivative={derivative},\n)\n"
    )


def again(entry: Entry, device: str, samples: list[Sample], seed: int, derivative: bool) -> None:
    """Hold `device` to one example. Raises AssertionError where it is not what torch says, or Refused."""
    pattern = Pattern(samples[0].dtype.name if samples else "", 0, (), 0, derivative)
    hold(entry, Example(pattern, samples, seed), device)


def hold(entry: Entry, example: Example, device: str, want: Answer | None = None) -> None:
    """The same for an example, of which torch's answer may be known."""
    results = ours(entry, example, device)
    Tensor.realize_all(results)
    compare(entry, example, read(results), theirs(entry, example) if want is None else want)


def fails(entry: Entry, example: Example, device: str) -> bool:
    """Whether torch accepts an example and `device` does not say the same. None that lies on a kink counts."""
    if entry.kinks and example.pattern.derivative and np.any(entry.kinks(*(s.numpy() for s in example.samples))):
        return False
    try:
        want = theirs(entry, example)
    except Exception:
        return False
    try:
        hold(entry, example, device, want)
    except Exception:
        return True
    return False
