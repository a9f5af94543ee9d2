"""gradcheck and gradgradcheck: the gradient of a function of Tensors against central differences in float64.

>>> import numpy as np
>>> from clgrad.testing import gradcheck, gradgradcheck
>>> x, y = np.array([[0.5, -1.0], [2.0, 0.25]]), np.array([3.0, 1.0])
>>> gradcheck(lambda x, y: (x * y).exp().sum(1), x, y)
>>> gradgradcheck(lambda x, y: (x * y).exp().sum(1), x, y)

What is compared is the gradient of sum(v * fn(inputs)) for random weights v, for every element of every input; with
`fast` only its product with a random direction for each input, which costs four evaluations whatever the size.

>>> gradcheck(lambda x: (x.detach() * x).sum(), np.array([1.0, 2.0]))
Traceback (most recent call last):
    ...
clgrad.testing.gradients.GradientError: the gradient of input 0, shape (2,), is wrong in 2 of its 2 elements
    of fn(...).sum() at [1]: backward gives 2.0, central differences give 4.0
    likely cause: a constant factor: backward gives 1/2 of the right gradient (2 is the size of axis 0 of input 0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backends.dtypes import is_float
from ..engine.tensor import Tensor
from . import causes
from .differences import Slope, slope
from .sample import Sample

TOLERANCE = 1e-6


class GradientError(AssertionError):
    """A gradient that differs from central differences.

    `input` is its position among the arguments, `element` the index in it where the two differ most, `analytic` and
    `numeric` the gradients by backward and by differences, both of sum(w * output) for the `weights` w of each output,
    and `cause` the likely cause (or "").
    """

    def __init__(self, message: str, input: int, element: tuple[int, ...], analytic, numeric, weights, cause: str):
        super().__init__(message)
        self.input, self.element, self.cause = input, element, cause
        self.analytic: np.ndarray = analytic
        self.numeric: np.ndarray = numeric
        self.weights: list[np.ndarray] = weights


class NotDifferentiable(AssertionError):
    """The function has no derivative at these inputs: a kink, a jump, or the edge of where it is defined."""

    def __init__(self, message: str, input: int, elements: list[tuple[int, ...]]):
        super().__init__(message)
        self.input, self.elements = input, elements


class NotCheckable(AssertionError):
    """The function cannot be differenced: it is not deterministic, not finite, or not computed in float64."""


class Rough(NotCheckable):
    """Too much rounding at this point: all of the function is computed in less than float64, or its slope is so small
    here that the rounding inside it hides it. Other points tell which."""


@dataclass
class Function:
    """A function of Tensors as one of float64 arrays, and which of its arguments are differentiated."""

    fn: Callable[..., Any]
    arguments: list[Any]
    device: str
    floats: list[int] = field(default_factory=list)  # positions of what is differentiated
    values: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        for position, argument in enumerate(self.arguments):
            if isinstance(argument, np.ndarray):
                argument = self.arguments[position] = Sample(argument)
            if isinstance(argument, (Tensor, Sample)) and is_float(argument.dtype):
                self.floats.append(position)
                self.values.append(argument.numpy().astype(np.float64))

    def _call(self, floats: Sequence[Tensor]) -> list[Tensor]:
        """The outputs that are floats, with Tensors in place of the arguments that are differentiated."""
        arguments = [a.tensor(self.device) if isinstance(a, Sample) else a for a in self.arguments]
        for position, tensor in zip(self.floats, floats, strict=True):
            arguments[position] = tensor
        result = self.fn(*arguments)
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        if not all(isinstance(y, Tensor) for y in outputs):
            raise TypeError(f"gradcheck: fn must return Tensors, not {type(result).__name__}")
        return [y for y in outputs if is_float(y.dtype)]

    def _leaf(self, position: int, value: np.ndarray) -> Tensor:
        argument = self.arguments[position]
        device = argument.device if isinstance(argument, Tensor) else self.device
        return Tensor(value, dtype="float64", device=device)

    def __call__(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        leaves = [self._leaf(p, v) for p, v in zip(self.floats, values, strict=True)]
        before = [x.node for x in leaves]
        outputs = self._call(leaves)
        Tensor.realize_all(outputs)
        for position, x, node, value in zip(self.floats, leaves, before, values):
            if x.node is not node and not np.array_equal(x.numpy(), value, equal_nan=True):
                raise NotCheckable(f"fn assigns to input {position}, so it has no gradient; let it change a clone()")
        return [y.numpy().astype(np.float64) for y in outputs]

    def gradient(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The gradients, by backward, of sum(weights * outputs)."""
        leaves = []
        for position, value in zip(self.floats, self.values, strict=True):
            argument = self.arguments[position]
            if isinstance(argument, Sample):
                leaves.append(argument.tensor(self.device, "float64", requires_grad=True))
            else:
                leaves.append(self._leaf(position, value).requires_grad_())
        outputs = self._call(leaves)
        terms = [(y.double() * Tensor(w, device=y.device)).sum() for y, w in zip(outputs, weights) if y.requires_grad]
        if not terms:
            return [np.zeros(v.shape) for v in self.values]
        gradients = sum(terms[1:], terms[0]).gradient(*leaves)
        Tensor.realize_all(gradients)
        return [g.numpy() for g in gradients]


def gradcheck(
    fn: Callable[..., Any],
    *inputs: Any,
    fast: bool = False,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    device: str = "NUMPY",
) -> None:
    """Check the gradient of `fn(*inputs)`, one or several Tensors, for each input of floats.

    `inputs` are arrays, `Sample`s or Tensors; whatever else there is, integers included, is passed on as it is. Floats
    become float64: arrays and samples on `device`, Tensors on their own, which must have float64. `tolerance` is
    relative to the larger of the two values compared; to it comes the rounding of float64 that the step admits.
    `fast` does not say which elements lie on a kink.

    Raises GradientError for a wrong gradient, NotDifferentiable where the slopes from left and right differ (choose
    other inputs: no tolerance makes such a point right), NotCheckable for a function that is not deterministic or not
    computed in float64, ValueError where no input has floats. Outputs of integers are left out.
    """
    if tolerance > 1e-4:
        raise ValueError(f"gradcheck: a tolerance of {tolerance} hides wrong gradients; 1e-4 is the loosest")
    function = Function(fn, list(inputs), device)
    outputs = _outputs(function)
    rng = np.random.default_rng(seed)
    weights = [rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1.0, 1.0], y.shape) for y in outputs]
    analytic = function.gradient(weights)
    for number, (position, value, gradient) in enumerate(zip(function.floats, function.values, analytic)):
        if gradient.shape != value.shape:
            raise GradientError(
                f"the gradient of input {position} has shape {gradient.shape}, and the input has {value.shape}",
                *(position, (), gradient, np.full(value.shape, np.nan), weights, "a missing broadcast sum"),
            )
        if not value.size:
            continue
        if fast:
            direction = rng.uniform(0.5, 1, value.shape) * rng.choice([-1.0, 1.0], value.shape) * _scale(value)
            found = slope(
                _along(function, weights, number, direction, outputs), float((gradient * direction).sum()), tolerance
            )
            failed: dict[tuple[int, ...], Slope] = {(): found} if found.kind != "agrees" else {}
            if found.kind in ("kink", "jump", "edge", "stairs"):  # which elements it is costs more than other inputs do
                kind = "an edge" if found.kind == "edge" else f"a {found.kind}"
                raise NotDifferentiable(f"input {position}: {kind} along a random direction", position, [])
        else:
            failed = _failures(function, weights, number, gradient, tolerance)
        if failed:
            _explain(function, weights, analytic, number, failed, tolerance)


def gradgradcheck(
    fn: Callable[..., Any],
    *inputs: Any,
    fast: bool = False,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    device: str = "NUMPY",
) -> None:
    """Check the second derivatives of `fn`: gradcheck of its gradient, as a function of the inputs and of the weights
    of its outputs. Arguments and errors as for `gradcheck`; in reports, inputs after those of fn are those weights.
    """
    function = Function(fn, list(inputs), device)
    outputs = _outputs(function)
    rng = np.random.default_rng(seed)
    weights = [rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1.0, 1.0], y.shape) for y in outputs]
    count = len(inputs)

    def gradient(*arguments: Any) -> list[Tensor]:
        arguments = tuple(_wanting(a) if p in function.floats else a for p, a in enumerate(arguments))
        leaves = [arguments[p] for p in function.floats]
        result = fn(*arguments[:count])
        results = result if isinstance(result, (tuple, list)) else (result,)
        pairs = zip([y for y in results if is_float(y.dtype)], arguments[count:], strict=True)
        terms = [(y * w).sum() for y, w in pairs if y.requires_grad]
        return sum(terms[1:], terms[0]).gradient(*leaves) if terms else []

    try:
        gradcheck(gradient, *inputs, *weights, fast=fast, tolerance=tolerance, seed=seed, device=device)
    except GradientError as error:
        error.args = (f"second derivative: {error}",)
        raise


def _wanting(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


def _outputs(function: Function) -> list[np.ndarray]:
    """The outputs, if they are finite and come out the same twice."""
    if not function.floats:  # np.array([1, 2]) is easily written
        raise ValueError("gradcheck: none of the inputs is an array or a Tensor of floats, so there is no gradient")
    first, second = function(function.values), function(function.values)
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        if not np.array_equal(a, b, equal_nan=True):
            raise NotCheckable(
                f"output {number} is another one when fn is called again with the same inputs; "
                "is there dropout, or another draw of random numbers, in it? Seed it inside fn: Tensor.manual_seed(0)"
            )
    for number, y in enumerate(first):
        if not np.isfinite(y).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(y))[0])
            raise NotDifferentiable(f"output {number} is {y[at]} at {list(at)}: it has no derivative there", -1, [])
    return first


def _scale(value: np.ndarray) -> np.ndarray:
    """What counts as a step of 1 for each element: its own size, but not much less than the others' (or than 1)."""
    largest = float(np.abs(value).max(initial=0.0))
    return np.maximum(np.abs(value), min(max(0.1 * largest, 2.0**-6), 1.0))


def _along(function: Function, weights: list[np.ndarray], number: int, direction: np.ndarray, here=None):
    """The weighted outputs as one array, as the input moves along a direction; `here` are the outputs where it is."""

    def terms(t: float) -> np.ndarray:
        values = list(function.values)
        values[number] = values[number] + t * direction
        outputs = function(values) if t or here is None else here
        return np.concatenate([(w * y).ravel() for w, y in zip(weights, outputs, strict=True)] or [np.zeros(1)])

    return terms


def _slopes(function, weights, number: int, gradient: np.ndarray, tolerance: float):
    """(index, slope divided by the step's scale) for each element of an input."""
    scale = _scale(function.values[number])
    for index in np.ndindex(gradient.shape):
        direction = np.zeros(gradient.shape)
        direction[index] = s = float(scale[index])
        found = slope(_along(function, weights, number, direction), float(gradient[index] * s), tolerance)
        left, right = found.sides
        yield index, Slope(found.kind, found.value / s, found.error / s, (left / s, right / s))


def _failures(function, weights, number, gradient, tolerance) -> dict[tuple[int, ...], Slope]:
    return {i: s for i, s in _slopes(function, weights, number, gradient, tolerance) if s.kind != "agrees"}


def _explain(function: Function, weights, analytic, number: int, failed: dict, tolerance: float) -> None:
    """Raise what is wrong with an input's gradient, as plainly as it can be said."""
    position = function.floats[number]
    if () in failed and function.values[number].ndim:  # a projection: find the elements
        direction = failed[()]
        failed = _failures(function, weights, number, analytic[number], tolerance) or failed
        if () in failed:
            raise NotCheckable(
                f"input {position}: the slope along a random direction is {direction.value} by differences"
            )
    wrong, ones = [i for i, s in failed.items() if s.kind == "smooth"], [np.ones(w.shape) for w in weights]
    if not wrong or any(s.kind == "rough" for s in failed.values()):
        failed = dict(sorted(failed.items(), key=lambda item: item[1].kind != "rough"))
        at, found = next(iter(failed.items()))
        plainly = dict(_slopes(function, ones, number, function.gradient(ones)[number], tolerance)).get(at, found)
        _not_smooth(function, position, failed, plainly if plainly.kind == found.kind else found)
    of = "sum(w * fn(...)) for random weights w"
    plain = function.gradient(ones)
    kept = {i: s for i, s in _failures(function, ones, number, plain[number], tolerance).items() if s.kind == "smooth"}
    if kept:
        weights, analytic, failed, wrong, of = ones, plain, kept, list(kept), "fn(...).sum()"
    numeric = [
        np.array([s.value for _, s in _slopes(function, weights, n, g, tolerance)], float).reshape(g.shape)
        for n, g in enumerate(analytic)
    ]
    at = max(wrong, key=lambda i: abs(float(analytic[number][i] - failed[i].value)))
    cause = causes.likely(function, weights, analytic, numeric, number, wrong)
    value, want = float(analytic[number][at]), failed[at].value
    shape, size = function.values[number].shape, function.values[number].size
    lines = [
        f"the gradient of input {position}, shape {shape}, is wrong in {len(wrong)} of its {size} elements",
        f"    of {of} at {list(at)}: backward gives {_short(value)}, "
        f"central differences give {_short(want, failed[at].error)}",
    ]
    if cause:
        lines.append(f"    likely cause: {cause}")
    raise GradientError("\n".join(lines), position, at, analytic[number], numeric[number], weights, cause)


def _short(value: float, error: float = 1e-9) -> str:
    """With as many digits as the error leaves."""
    size = max(abs(value), 1e-300)
    digits = 17 if not error else int(np.clip(np.log10(size / error), 3, 12))
    return repr(float(f"{value:.{digits}g}")) if np.isfinite(value) else repr(value)


def _not_smooth(function: Function, position: int, failed: dict[tuple[int, ...], Slope], found: Slope) -> None:
    at = next(iter(failed))
    value = float(function.values[function.floats.index(position)][at])
    where = f"input {position} at {list(at)}, where it is {value!r}"
    if found.kind == "rough":
        raise Rough(
            f"{where}: the values jump about by more than float64 rounds; is part of fn computed in float32 or less, "
            "or random? (integers and halves inside fn have no useful differences.) If not, rounding inside fn hides "
            "its slope here: choose another value"
        )
    if found.kind == "stairs":
        raise NotDifferentiable(f"{where}: rounding inside fn is as large as its slope", position, list(failed))
    if found.kind == "edge":
        raise NotDifferentiable(f"{where}: fn is not finite on both sides of it", position, list(failed))
    left, right = (_short(side, 1e-6) for side in found.sides)
    slopes = f"the slope from the left is {left}, from the right {right}"
    raise NotDifferentiable(
        f"{where}: a {found.kind}{': ' + slopes if found.kind == 'kink' else ''}; choose another value",
        *(position, list(failed)),
    )
