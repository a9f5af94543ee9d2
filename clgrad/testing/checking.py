"""check: one call that holds a function of Tensors to everything that should be true of it.

>>> from clgrad.testing import check
>>> check(lambda x: x * x.sigmoid(), examples=5)
>>> def wrong(x):
...     return x * x.detach()
>>> check(wrong, examples=20)
Traceback (most recent call last):
    ...
clgrad.testing.checking.CheckFailure: gradient: the gradient of input 0, shape (), is wrong in 1 of its 1 elements
    of fn(...).sum() at []: backward gives 1.0, central differences give 2.0
    likely cause: a constant factor: backward gives 1/2 of the right gradient
...

Examples are drawn and shrunk by Hypothesis; each is put to the parts below, and what fails is printed as a program.

    reference   the values, and the gradient, of another function: of NumPy arrays, or of torch's tensors
    gradient    backward against central differences, in float64
    second      the same of the gradient
    layout      a view (permuted, flipped, strided, expanded, padded) against a contiguous copy of it
    fusion      all at once against every node realised by itself
    jit         a traced function against a plain one, and a replay with other values
    precision   float32 against float64, within `float32_bound` roundings of the largest value
    devices     NUMPY against the OpenCL device, if there is one
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import hypothesis
import numpy as np
from hypothesis import strategies as st

from ..backends.base import DeviceError
from ..backends.dtypes import as_dtype, is_float
from ..engine import node as nodes
from ..engine.device import Device
from ..engine.jit import jit
from ..engine.tensor import Tensor
from . import strategies
from .gradients import TOLERANCE, GradientError, NotCheckable, NotDifferentiable, Rough, gradcheck, gradgradcheck
from .modes import computed, distance, largest, unfused, values_and_gradients
from .reference import ReferenceError_, against_reference
from .report import program
from .sample import Sample

PARTS = ("reference", "gradient", "second", "layout", "fusion", "jit", "precision", "devices")
REDRAWN = 5  # times that operands are drawn again where they lie on a kink
ON_DEVICES = 16  # examples that go to the other devices: each new structure is a kernel to be built there
JOLT, JOLTS = 16, 3  # by how many roundings inputs are moved, and how often, to see how sensitive a result is
CALL = "computed(run(*inputs))"  # in programs: all results of the function, and their gradients
ROUNDINGS = 64  # of the result's dtype, that another order of the same operations may be off


class CheckFailure(AssertionError):
    """Something that should be true of a function is not.

    `part` is the part of the check that failed, `arguments` the shrunk samples, `program` a program that shows it.
    Where the function raises, `__cause__` is what it raised.
    """

    def __init__(self, part: str, message: str, arguments: Sequence[Any], program: str):
        super().__init__(f"{part}: {message}\n\n{program}")
        self.part, self.message, self.arguments, self.program = part, message, list(arguments), program


class Failed(Exception):
    """Inside a run: a part failed; `lines` are those of the program after the operands."""

    def __init__(self, part: str, message: str, case: Case, lines: Sequence[str], dtype: Optional[str] = None):
        super().__init__(message)
        self.part, self.message, self.case, self.lines, self.dtype = part, message, case, lines, dtype


@dataclass(frozen=True)
class Case:
    """One example: the function and its arguments, samples and others, on a device."""

    fn: Callable[..., Any]
    arguments: tuple[Any, ...]
    device: str = "NUMPY"

    def tensors(self, device: Optional[str] = None, dtype: Optional[str] = None) -> list[Any]:
        """The arguments, samples as Tensors; those of floats in `dtype` if it is given."""
        return [
            a.tensor(device or self.device, dtype if is_float(a.dtype) else None) if isinstance(a, Sample) else a
            for a in self.arguments
        ]

    def run(self, **options) -> list[Tensor]:
        """The outputs and gradients of this example, not computed yet."""
        return values_and_gradients(self.fn)(*self.tensors(**options))

    def with_samples(self, change: Callable[[Sample], Sample]) -> Case:
        return replace(self, arguments=tuple(change(a) if isinstance(a, Sample) else a for a in self.arguments))

    @property
    def samples(self) -> list[Sample]:
        return [a for a in self.arguments if isinstance(a, Sample)]

    @property
    def floats(self) -> bool:
        return any(is_float(s.dtype) and s.numpy().size for s in self.samples)

    def roundings(self) -> list[float]:
        """For each result the unit of rounding of the coarsest floats that it is made of."""
        return [
            max(_eps(node.dtype) for node in nodes.topological([result.node])) for result in self.run(device="NUMPY")
        ]

    def sensitivity(self) -> list[float]:
        """For each result, how much it changes when the inputs change by a part of themselves; inf if it jumps."""
        step = JOLT * max((_eps(s.dtype) for s in self.samples), default=0.0)
        here = computed(self.run(device="NUMPY"))
        changes = [0.0] * len(here)
        for seed in range(JOLTS if step else 0):
            rng = np.random.default_rng(seed)

            def jolted(sample: Sample) -> Sample:
                if not is_float(sample.dtype):
                    return sample
                factors = 1 + step * rng.choice([-1.0, 1.0], sample.base.shape)  # noqa: B023
                return sample.with_base((sample.base * factors).astype(sample.dtype))

            there = computed(self.with_samples(jolted).run(device="NUMPY"))
            for number, (a, b) in enumerate(zip(here, there)):
                gap = distance(a, b)
                size = max(largest(a), largest(b))
                changes[number] = max(changes[number], gap * size / step if np.isfinite(gap) else gap)
        # A gradient is made of terms as large as the slope from 0 to here, even where they cancel.
        inputs = [largest(s.numpy()) for s in self.samples if is_float(s.dtype)]
        outputs = max((largest(y) for y in here[: -len(inputs) or None]), default=0.0)
        for number, size in enumerate(inputs):
            changes[number - len(inputs)] += outputs / size if size else 0.0
        return changes


def _eps(dtype: np.dtype) -> float:
    if not is_float(as_dtype(dtype)):
        return 0.0
    return {2: 2.0**-7 if dtype.kind != "f" else 2.0**-10, 4: 2.0**-23, 8: 2.0**-52}[dtype.itemsize]


def attempt(part: str, case: Case, test: Callable[[], Any], call: str, dtype: Optional[str] = None) -> None:
    """Put a case to a test: what it raises is a failure too, which `call` shows."""
    try:
        test()
    except (Failed, NotDifferentiable):
        raise
    except Exception as error:
        raise Failed(part, f"raises {type(error).__name__}: {error}", case, [call], dtype) from error


def compare(
    part: str,
    case: Case,
    got: Sequence[np.ndarray],
    want: Sequence[np.ndarray],
    names: tuple[str, str],
    lines: Sequence[str],
    roundings: float = ROUNDINGS,
    eps: Optional[float] = None,
    dtype: Optional[str] = None,
) -> None:
    """Fail where results are further apart than rounding makes them, given how sensitive they are to their inputs."""
    sensitivity: list[float] = []
    for number, (a, b) in enumerate(zip(got, want, strict=True)):
        unit = _eps(b.dtype) if eps is None else eps
        gap = distance(a, b)
        if gap <= roundings * unit:
            continue
        if a.shape == b.shape and a.dtype == b.dtype:
            sensitivity = sensitivity or case.sensitivity()
            unit = case.roundings()[number] if eps is None else eps
            if sensitivity[number] == np.inf or gap * largest(b) <= roundings * unit * (
                largest(b) + sensitivity[number]
            ):
                continue
        what = "an output" if number < len(want) - _gradient_count(case, want) else "a gradient"
        message = f"{names[0]} and {names[1]} differ in {what} (result {number})" + (
            f" by {gap / unit:.3g} roundings of its largest value" if np.isfinite(gap) and unit else ""
        )
        limit = roundings * unit * (1 + (sensitivity[number] / (largest(b) or 1) if sensitivity else 0))
        raise Failed(part, message, case, [*lines, f"assert_same(got, want, {limit:.3g})"], dtype)


def _gradient_count(case: Case, results: Sequence[np.ndarray]) -> int:
    floats = sum(is_float(s.dtype) for s in case.samples)
    return floats


# --- parts --------------------------------------------------------------------------------------------------------


def layout(case: Case) -> None:
    if not any(s.steps for s in case.samples):
        return
    copied = case.with_samples(Sample.contiguous)
    lines = [
        "got = computed(run(*inputs))",
        "want = computed(run(*each(lambda x: Tensor(x.numpy(), device=x.device))))",
    ]
    compare("layout", case, computed(case.run()), computed(copied.run()), ("views", "contiguous copies"), lines)


def fusion(case: Case) -> None:
    lines = ["got = computed(run(*inputs))", "want = unfused(run(*inputs))"]
    compare("fusion", case, computed(case.run()), unfused(case.run()), ("fused", "node by node"), lines)


def jitted(case: Case) -> None:
    run = values_and_gradients(case.fn)
    try:
        traced = jit(run)
        first = computed(traced(*case.tensors()))
    except RuntimeError as error:
        message = f"jit cannot trace it ({error}); leave this part out with skip=('jit',) if that is as it should be"
        raise Failed("jit", message, case, ["jit(run)(*inputs)"]) from None
    names, lines = ("jit", "plain"), ["traced = jit(run)", "got = computed(traced(*inputs))"]
    compare("jit", case, first, computed(run(*case.tensors())), names, [*lines, "want = computed(run(*inputs))"])
    other = case.with_samples(lambda s: s.with_base(np.roll(s.base.ravel()[::-1], 1).reshape(s.base.shape)))
    lines[1:] = ["traced(*before)", "got = computed(traced(*inputs))", "want = computed(run(*inputs))"]
    want, got = computed(run(*other.tensors())), computed(traced(*other.tensors()))
    names = ("a replay with other values", "plain")
    try:
        compare("jit", other, got, want, names, lines)
    except Failed as failed:
        failed.lines = [*_renamed(case), *failed.lines]
        raise


def _renamed(case: Case) -> list[str]:
    """The lines that make `before`: the arguments of the call that was traced."""
    return [
        f"before = [{', '.join(a.code(case.device) if isinstance(a, Sample) else repr(a) for a in case.arguments)}]"
    ]


def _precision(case: Case, bound: float) -> None:
    if not case.floats:
        return
    single = case.with_samples(lambda s: s.with_base(s.base.astype(np.float32)) if is_float(s.dtype) else s)
    with np.errstate(over="ignore"):
        got, want = computed(single.run(dtype="float32")), computed(single.run(dtype="float64"))
        want = [w.astype(g.dtype) for g, w in zip(got, want)]
    lines = [
        "got = computed(run(*inputs))",
        "want = computed(run(*each(lambda x: x.double() if x.is_floating_point() else x)))",
    ]
    lines.append("want = [w.astype(g.dtype) for g, w in zip(got, want)]")
    compare("precision", single, got, want, ("float32", "float64"), lines, bound, dtype="float32")


def _devices(cases: Sequence[Case], device: str) -> None:
    """Many examples at once, because what a device is missing is built at once."""
    theirs: list[list[Tensor]] = []
    everywhere = f"computed(run(*each(lambda x: x.to({device!r}))))"
    for case in cases:
        attempt("devices", case, lambda: theirs.append(case.run(device=device)), everywhere)  # noqa: B023
    whole = [t for results in theirs for t in results]
    attempt("devices", cases[-1], lambda: Tensor.realize_all(whole), everywhere)
    lines = [f"got = {everywhere}", "want = computed(run(*inputs))"]
    for case, results in zip(cases, theirs):
        ours = computed(case.run())
        compare("devices", case, [t.numpy() for t in results], ours, (device, case.device), lines)


ORDERS = {"gradient": gradcheck, "second": gradgradcheck}


def _differences(case: Case, part: str, tolerance: float) -> None:
    try:
        ORDERS[part](case.fn, *case.arguments, fast=True, tolerance=tolerance, device=case.device)
    except Rough as error:
        raise NotDifferentiable(str(error), -1, []) from None
    except (GradientError, NotCheckable) as error:
        lines = _shown(case, error) if part == "gradient" and isinstance(error, GradientError) else [_call(part)]
        raise Failed(part, str(error), case, lines, "float64") from None


def _call(part: str) -> str:
    return f"{ORDERS[part].__name__}(fn, *inputs)"


def _shown(case: Case, error: GradientError) -> list[str]:
    """The lines that take a gradient by backward and compare it with what differences gave."""
    from .sample import literal

    alone = isinstance(case.fn(*case.tensors(dtype="float64")), Tensor)
    plain = alone and bool((error.weights[0] == 1).all())
    total = ["loss = fn(*inputs).sum()"]
    if not plain:
        weights = ", ".join(f"Tensor({literal(w)}, device=inputs[0].device)" for w in error.weights)
        total = [f"weights = [{weights}]", "outputs = fn(*inputs)"]
        total.append("outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]")
        total.append("floats = [y for y in outputs if y.is_floating_point()]")
        total.append("loss = sum((w * y).sum() for w, y in zip(weights, floats))")
    if error.analytic.shape != error.numeric.shape:
        compared = [f"assert gradient.shape == {error.numeric.shape}, gradient.shape"]
        return [*total, f"[gradient] = loss.gradient(inputs[{error.input}])", *compared]
    numeric = literal(np.array([float(f"{v:.9g}") for v in error.numeric.ravel()]).reshape(error.numeric.shape))
    return [
        *total,
        f"[gradient] = loss.gradient(inputs[{error.input}])",
        f"print(gradient.numpy())  # {np.array2string(error.analytic, separator=', ', threshold=20)}".replace("\n", ""),
        f"expected = {numeric}  # by central differences",
        "np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-5, atol=1e-7)",
    ]


# --- the call -----------------------------------------------------------------------------------------------------


def check(
    fn: Callable[..., Any],
    *operands: Any,
    reference: Optional[Callable[..., Any]] = None,
    parts: Collection[str] = PARTS,
    skip: Collection[str] = (),
    devices: Optional[Sequence[str]] = None,
    examples: int = 100,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    float32_bound: float = ROUNDINGS,
) -> None:
    """Hold `fn` to everything that should be true of it; the module says what.

    operands       for each argument a strategy (`tensors(...)`), a `Sample` or a value; a strategy of tuples stands for
                   several arguments. Without any, each positional parameter of fn is a Tensor, all of one shape.
    reference      another function, of NumPy arrays (float64) or of torch's tensors, for the values and the gradient
    parts, skip    which parts to put it to, by name
    devices        the device that it runs on, and one to compare it with; by default NUMPY and the first OpenCL device
    examples, seed how many examples, and which: the same seed draws the same ones
    tolerance      of gradients against differences, relative (1e-4 at most)
    float32_bound  how many roundings of float32 (2^-23) the results may be off, relative to the largest value of the
                   result and to how much it changes when the inputs do

    Raises CheckFailure, with the smallest example that Hypothesis finds, as a program. Operands that lie on a kink are
    drawn again; where no others are found in most examples, that is a failure too.
    """
    unknown = {*parts, *skip} - set(PARTS)
    if unknown:
        raise ValueError(f"check: no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    names = _devices_of(devices)
    chosen = [p for p in PARTS if p in parts and p not in skip and (p != "reference" or reference is not None)]
    if len(names) < 2 and "devices" in chosen:
        chosen.remove("devices")
    checker = _Checker(fn, _strategy(fn, operands), chosen, names, reference, tolerance, float32_bound)
    failed = checker.search(checker.one, examples, seed)
    if failed is None and "devices" in chosen:
        try:
            _devices(checker.kept[:ON_DEVICES], names[1])
        except Failed:  # found in the crowd: shrunk alone
            failed = checker.search(checker.on_devices, examples, seed)
    if failed is not None and failed.part == "second" and "gradient" in chosen:
        # The smallest example may be one where a wrong gradient is right by chance, and only its derivative is not.
        first = _Checker(fn, checker.strategy, ["gradient"], names, None, tolerance, float32_bound)
        failed = first.search(first.one, examples, seed) or failed
    if failed is None and checker.wanted > 3 and checker.smooth * 4 < checker.wanted:
        assert checker.last_kink is not None
        failed = checker.last_kink
    if failed is not None:
        text = program(fn, failed.case.arguments, failed.case.device, failed.lines, failed.dtype)
        raise CheckFailure(failed.part, failed.message, failed.case.arguments, text) from failed.__cause__


def _devices_of(devices: Optional[Sequence[str]]) -> list[str]:
    if devices is not None:
        return [Device.canonical(name) for name in devices]
    try:
        Device["CL"]
    except DeviceError:
        return ["NUMPY"]
    return ["NUMPY", Device.canonical("CL")]


def _strategy(fn: Callable[..., Any], operands: Sequence[Any]) -> st.SearchStrategy:
    """A strategy of all the arguments, as a tuple."""
    if not operands:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(fn).parameters.values()
        count = sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)
        return strategies.operands(max(count, 1), max_elements=40)
    parts = [o if isinstance(o, st.SearchStrategy) else st.just(o) for o in operands]
    return st.tuples(*parts).map(_spread)


def _spread(drawn: tuple) -> tuple:
    result: list[Any] = []
    for value in drawn:
        value = Sample(value) if isinstance(value, np.ndarray) else value
        if isinstance(value, tuple) and value and all(isinstance(v, Sample) for v in value):
            result.extend(value)
        else:
            result.append(value)
    return tuple(result)


class _Checker:
    """A run over many examples, and what it counts."""

    def __init__(self, fn, strategy, parts, devices, reference, tolerance, float32_bound):
        self.fn, self.strategy, self.parts, self.devices = fn, strategy, parts, devices
        self.reference, self.tolerance, self.float32_bound = reference, tolerance, float32_bound
        self.kept: list[Case] = []
        self.found: Optional[str] = None  # the part that failed first: shrinking stays with it
        self.wanted = self.smooth = 0
        self.last_kink: Optional[Failed] = None
        self.last: Optional[Failed] = None

    def search(self, test: Callable, examples: int, seed: int) -> Optional[Failed]:
        """The smallest failure among so many examples, or None."""

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
            suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=hypothesis.Verbosity.quiet,
        )
        @hypothesis.given(st.data())
        def run(data) -> None:
            try:
                test(data)
            except Failed as failure:
                if self.found in (None, failure.part):
                    self.found, self.last = failure.part, failure
                    raise

        try:
            run()
        except Failed as failed:
            return failed
        except hypothesis.errors.Flaky:
            assert self.last is not None
            self.last.message += "\n(but not when tried again: fn gives something else each time)"
            return self.last
        return None

    def draw(self, data) -> Case:
        return Case(self.fn, data.draw(self.strategy), self.devices[0])

    def on_devices(self, data) -> None:
        _devices([self.draw(data)], self.devices[1])

    def one(self, data) -> None:
        case = self.draw(data)
        if len(self.kept) < 4 * ON_DEVICES:
            self.kept.append(case)
        if "reference" in self.parts:
            attempt("reference", case, lambda: self._reference(case), CALL, "float64")
        self._derivatives(data, case)
        for part, test in (("layout", layout), ("fusion", fusion), ("jit", jitted)):
            if part in self.parts:
                attempt(part, case, lambda: test(case), CALL if part != "jit" else "jit(run)(*inputs)")  # noqa: B023
        if "precision" in self.parts:
            attempt("precision", case, lambda: _precision(case, self.float32_bound), CALL, "float32")

    def _reference(self, case: Case) -> None:
        try:
            against_reference(case.fn, self.reference, case.arguments, case.device, self.tolerance)
        except NotDifferentiable:
            pass
        except ReferenceError_ as error:
            raise Failed("reference", str(error), case, error.lines, "float64") from None

    def _derivatives(self, data, case: Case) -> None:
        orders = [part for part in ORDERS if part in self.parts]
        if not orders or not any(is_float(s.dtype) for s in case.samples):
            return
        self.wanted += case.floats  # without elements there is only the gradient's shape to be wrong
        for _ in range(REDRAWN):
            try:
                for part in orders:
                    attempt(part, case, lambda: _differences(case, part, self.tolerance), _call(part), "float64")  # noqa: B023
                self.smooth += case.floats
                return
            except NotDifferentiable as kink:
                message = f"no differentiable point was found for most examples; the last: {kink}"
                self.last_kink = Failed(part, message, case, [_call(part)], "float64")
                case = self.draw(data)
