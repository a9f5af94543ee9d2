"""Does the suite notice? Changes one entry of a table at a time, and looks whether the table of the surface fails.

    python tests/mutate.py                                       every entry of every table
    python tests/mutate.py --fraction 0.1 --seed 3               a random tenth of the entries
    python tests/mutate.py --tables gradient,numpy,opencl

The tables are `GRADIENTS`, NumPy's `FUNCTIONS`, and OpenCL's, of single values and of vectors. A gradient is negated,
doubled, dropped, exchanged with its neighbour, or let through where none should be; a function gives the negative of
its result, has its operands exchanged, or is another function. First every entry of the surface is run once, to learn
what it is made of. A mutant is then tried on those that use what was changed, the simplest first, until one fails by a
wrong value. It survives if none does, and a survivor is a hole in the suite.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from surface import table
from surface.entry import Entry
from surface.examples import Pattern, examples_in_place
from surface.judge import Refused, compare, ours, read, theirs

from clgrad import Device, DeviceError, Tensor
from clgrad.backends.dtypes import float64, is_bool, is_float
from clgrad.backends.kernel import ELEMENTWISE, Kernel
from clgrad.backends.numpy import runtime
from clgrad.backends.numpy.backend import NumpyBackend
from clgrad.backends.opencl import functions, vectors
from clgrad.engine.gradient import GRADIENTS
from clgrad.engine.node import Node
from clgrad.engine.program import PROGRAMS

TABLES = ("gradient", "numpy", "opencl")
CANDIDATES = 8  # entries of the surface that a mutant is tried on
SIZES = 6  # of examples, three each
MOST_SOURCES = 4  # of a primitive, that have gradients
COMMUTATIVE = {"add", "mul", "max", "eq", "and", "or", "xor"}
OTHER = {
    "exp": "exp2", "exp2": "exp", "expm1": "exp", "log": "log2", "log2": "log", "log10": "log", "log1p": "log",
    "sin": "cos", "cos": "sin", "tan": "sin", "asin": "acos", "acos": "asin", "atan": "asin", "sinh": "cosh",
    "cosh": "sinh", "tanh": "sinh", "asinh": "acosh", "acosh": "asinh", "atanh": "asinh", "sqrt": "reciprocal",
    "reciprocal": "sqrt", "erf": "tanh", "add": "mul", "mul": "add", "sub": "add", "max": "mul", "div": "mul",
    "pow": "mul", "idiv": "mod", "mod": "idiv", "lt": "eq", "eq": "lt", "and": "xor", "or": "and", "xor": "or",
    "shl": "shr", "shr": "shl",
}  # fmt: skip


class Use(NamedTuple):
    """An entry of the surface that uses something: how much else it is made of, and in which examples."""

    size: int
    entry: Entry
    dtype: str
    derivative: bool


@dataclass
class Mutant:
    """`apply` changes the table for the length of a `with`; `uses` may notice, on `device`."""

    table: str
    op: str
    change: str
    apply: Callable[[], Any]
    key: Any
    device: str

    def __str__(self) -> str:
        return f"{self.table}[{self.op!r}] {self.change}"


def patterns(entry: Entry) -> Iterator[Pattern]:
    """One for values of each dtype, and one for derivatives; contiguous, of a common rank."""
    first = entry.operands[0]
    rank = min(max(2, first.min_dims), first.max_dims)
    for dtype in entry.dtypes:
        yield Pattern(dtype, rank, ((),) * len(entry.operands), 1, False)
    if entry.derivatives:
        yield Pattern("float64", rank, ((),) * len(entry.operands), 1, True)


def drawn(strategy: Any) -> Any:
    """What Hypothesis gives outside a test."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return strategy.example()


# --- what every entry is made of --------------------------------------------------------------------------------------


def kind(dtype: np.dtype) -> str:
    """The class of dtypes that has an OpenCL table of its own."""
    if is_float(dtype):
        return "FLOAT" if dtype == float64 else "SINGLE"
    return "BOOL" if is_bool(dtype) else {"i": "SIGNED", "u": "UNSIGNED"}[dtype.kind]


def made_of(kernel: Kernel) -> set[tuple[str, ...]]:
    """The elementwise operations of a kernel, each with the class of its operands, and again where vectors may fit."""
    found: set[tuple[str, ...]] = set()
    vector = {*kernel.inputs, *kernel.output_dtypes} <= set(vectors.NUMBERS)
    for instr in kernel.body:
        if instr.op in ELEMENTWISE:
            source = kernel.body[instr.src[1 if instr.op == "where" else 0]]
            found.add((instr.op, kind(source.dtype)))
            if vector:
                found.add((instr.op, kind(source.dtype), "vector"))
            if vector and instr.op == "cast":
                found.add(("cast", source.dtype.name, instr.dtype.name, "vector"))
    return found


def uses_of(entries: dict[str, Entry]) -> dict[Any, list[Use]]:
    """Who uses what: by (op, class of dtypes), by ("gradient", op), and by source, as ("gradient", op, number), or

    ("no gradient", op, number) where nothing flows though it could.
    """
    uses: dict[Any, list[Use]] = defaultdict(list)
    found: set[Any] = set()

    def lower(self, kernels, specialise=False):
        for kernel in kernels:
            found.update(made_of(kernel))
        return original(self, kernels, specialise)

    def recorded(op: str, rule: Callable[..., Any]) -> Callable[..., Any]:
        def differentiate(g: Node, y: Node, *src: Node):
            parts = rule(g, y, *src)
            found.add(("gradient", op))
            for place, (part, x) in enumerate(zip(parts, src)):
                if part is not None:
                    found.add(("gradient", op, place))
                elif g.shape == x.shape and is_float(x.dtype):
                    found.add(("no gradient", op, place))
            return parts

        return differentiate

    original = NumpyBackend.lower
    with ExitStack() as stack:
        stack.enter_context(patch.object(NumpyBackend, "lower", lower))
        stack.enter_context(patch.dict(GRADIENTS, {op: recorded(op, rule) for op, rule in GRADIENTS.items()}))
        for entry in entries.values():
            for pattern in patterns(entry):
                found.clear()
                forget("NUMPY")
                for example in examples_in_place(entry, pattern, drawn, 1, 0, free=False):
                    try:
                        Tensor.realize_all(ours(entry, example, "NUMPY"))
                    except Exception:  # what it cannot do, the suite reports
                        pass
                    break
                for key in found:
                    uses[key].append(Use(len(found), entry, pattern.dtype, pattern.derivative))
    for known in uses.values():
        known.sort(key=lambda use: (use.size, use.entry.name))
    return uses


def forget(device: str) -> None:
    """Whatever was made from the tables before."""
    PROGRAMS.clear()
    backend: Any = Device[device]
    (backend._lowered if device == "NUMPY" else backend.executables).clear()


# --- the mutants ------------------------------------------------------------------------------------------------------


def gradient_mutants(op: str, uses: dict[Any, list[Use]]) -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """(what was changed, the key of those who use it, the changed rule)."""
    rule = GRADIENTS[op]

    def everywhere(factor: float):
        def changed(*nodes: Node):
            return tuple(None if part is None else part * factor for part in rule(*nodes))

        return changed

    def at(place: int, instead: Callable[[Node, Node], Any]):
        def changed(g: Node, y: Node, *src: Node):
            parts = enumerate(zip(rule(g, y, *src), src))
            return tuple(instead(g, x) if number == place else part for number, (part, x) in parts)

        return changed

    def exchanged(*nodes: Node):
        first, second = rule(*nodes)
        return second, first

    given = [place for place in range(MOST_SOURCES) if ("gradient", op, place) in uses]
    barred = [place for place in range(MOST_SOURCES) if ("no gradient", op, place) in uses]
    if given or not barred:
        yield "negated", ("gradient", op), everywhere(-1.0)
        yield "doubled", ("gradient", op), everywhere(2.0)
    for place in given:
        yield f"of source {place} dropped", ("gradient", op, place), at(place, lambda g, x: None)
    if given == [0, 1] and ELEMENTWISE.get(op) == 2 and op != "add":
        yield "exchanged", ("gradient", op), exchanged
    for place in barred if not given else []:
        yield f"of source {place} let through", ("no gradient", op, place), at(place, lambda g, x: g.cast(x.dtype))


def numpy_mutants(op: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    function = runtime.NAMES[op + "_"]

    def negated(*arguments):
        function(*arguments)
        out = arguments[-1]
        if out.dtype.kind == "b":
            np.logical_not(out, out)
        else:
            np.negative(out, out)

    def swapped(*arguments):
        *rest, a, b, out = arguments
        function(*rest, b, a, out)

    yield "negated", negated
    if ELEMENTWISE[op] > 1 and op not in COMMUTATIVE:
        yield "with exchanged operands", swapped
    if op in OTHER:
        other = runtime.NAMES[OTHER[op] + "_"]
        yield f"as {OTHER[op]}", lambda *arguments: other(*arguments)


def text_mutants(op: str, name: str, texts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Of OpenCL C with {0} {1} {2} for operands, a Function or the text alone."""
    entry = texts[op]
    text, helper = (entry, "") if isinstance(entry, str) else entry
    vector = isinstance(entry, str)

    def again(text: str, helper: str = helper) -> Any:
        return text if vector else functions.Function(text, helper)

    truth = op in ("lt", "eq") or name in ("BOOL", "BOOLS")
    if vector:
        yield "negated", again(f"~({text})" if truth else f"-({text})")
    elif truth:
        yield "negated", again(f"(uchar)!({text})")
    else:
        yield "negated", again(f"({{T}})(-({text}))")
    if ELEMENTWISE[op] > 1 and op not in COMMUTATIVE:
        a, b = ("{1}", "{2}") if op == "where" else ("{0}", "{1}")
        yield "with exchanged operands", again(text.replace(a, "@").replace(b, a).replace("@", b))
    other = OTHER.get(op)
    if other in texts:
        found = texts[other]
        if found != entry:
            yield f"as {other}", found if vector else functions.Function(*found)


OPENCL: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    **{name: (getattr(functions, name), (name,)) for name in ("FLOAT", "SINGLE", "SIGNED", "UNSIGNED", "BOOL")},
    "FLOATS": (vectors.FLOATS, ("SINGLE", "vector")),
    "INTEGERS": (vectors.INTEGERS, ("SIGNED", "vector")),
    "BOOLS": (vectors.BOOLS, ("BOOL", "vector")),
}  # the dictionary, and whose operands it is for


def mutants_of(place: tuple[str, str], uses: dict[Any, list[Use]]) -> Iterator[Mutant]:
    """Every mutant of one entry of a table, as `places` lists them."""
    name, op = place
    if name == "GRADIENTS":
        for change, key, rule in gradient_mutants(op, uses):
            yield Mutant(name, op, change, patching(GRADIENTS, op, rule), key, "NUMPY")
    elif name == "FUNCTIONS":
        for change, function in numpy_mutants(op):
            yield Mutant(name, op, change, patching(runtime.NAMES, op + "_", function), op, "NUMPY")
    elif name == "CASTS":
        pair = next(pair for pair in vectors.CASTS if f"{pair[0]} to {pair[1]}" == op)
        negated = f"{'~' if is_bool(pair[1]) else '-'}({vectors.CASTS[pair]})"
        key = ("cast", pair[0].name, pair[1].name, "vector")
        yield Mutant(name, op, "negated", patching(vectors.CASTS, pair, negated), key, "CL")
    else:
        texts, operands = OPENCL[name]
        for change, text in text_mutants(op, name, texts):
            yield Mutant(name, op, change, patching(texts, op, text), (op, *operands), "CL")


def patching(entries: dict, key: Any, value: Any) -> Callable[[], Any]:
    return lambda: patch.dict(entries, {key: value})


def places(tables: tuple[str, ...] = TABLES) -> list[tuple[str, str]]:
    """(table, op) of every entry of the tables."""
    found = [("GRADIENTS", op) for op in GRADIENTS] if "gradient" in tables else []
    if "numpy" in tables:
        found += [("FUNCTIONS", name[:-1]) for name in runtime.NAMES if name[:-1] in ELEMENTWISE]
    if "opencl" in tables:
        found += [(name, op) for name, (texts, _) in OPENCL.items() for op in texts]
        found += [("CASTS", f"{source} to {target}") for source, target in vectors.CASTS]
    return found


# --- trying -----------------------------------------------------------------------------------------------------------


@contextmanager
def changed(mutant: Mutant):
    forget(mutant.device)
    try:
        with mutant.apply():
            yield
    finally:
        forget(mutant.device)


def candidates(mutant: Mutant, uses: dict[Any, list[Use]]) -> list[Use]:
    """The simplest users of what was changed, of different dtypes."""
    if mutant.table == "FUNCTIONS":
        found = [use for key, known in uses.items() if key[0] == mutant.key for use in known]
    else:
        found = list(uses.get(mutant.key, []))
    return sorted(found, key=lambda use: use.size)[:CANDIDATES]


def noticed(use: Use, device: str) -> bool:
    """Whether this entry of the surface fails, by its result or, differentiating, by an error."""
    entry = use.entry
    pattern = next(p for p in patterns(entry) if (p.dtype, p.derivative) == (use.dtype, use.derivative))
    for number in range(SIZES):
        for example in examples_in_place(entry, pattern, drawn, 100 + number, number, free=False):
            try:
                want = theirs(entry, example)
            except Refused:
                continue
            try:
                got = read(ours(entry, example, device))
            except DeviceError:
                raise  # a mutant that does not build says nothing about the suite
            except (ValueError, RuntimeError):
                if use.derivative:
                    return True
                raise
            try:
                compare(entry, example, got, want)
            except AssertionError:
                return True
    return False


def survivors(
    chosen: list[tuple[str, str]], uses: dict[Any, list[Use]], say: Callable[[str], Any] = lambda line: None
) -> list[str]:
    """The mutants of the chosen entries that no entry of the surface notices."""
    found = []
    for place in chosen:
        for mutant in mutants_of(place, uses):
            tried = candidates(mutant, uses)
            with changed(mutant):
                witness = next((use for use in tried if noticed(use, mutant.device)), None)
            if witness is None:
                found.append(f"{mutant}: tried {[use.entry.name for use in tried]}")
            say(f"{mutant}: {'SURVIVES ' + str(len(tried)) if witness is None else witness.entry.name}")
    return found


def choose(tables: tuple[str, ...], fraction: float, seed: int) -> list[tuple[str, str]]:
    """A random part of the entries, at least one."""
    known = places(tables)
    count = max(1, round(fraction * len(known)))
    return [known[i] for i in sorted(np.random.default_rng(seed).permutation(len(known))[:count])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fraction", type=float, default=1.0, help="of the entries (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice, where the fraction is below 1")
    parser.add_argument("--tables", default=",".join(TABLES), help="which tables, with commas between")
    options = parser.parse_args()
    chosen = choose(tuple(options.tables.split(",")), options.fraction, options.seed)
    found = survivors(chosen, uses_of(table()), say=print)
    print(f"{len(chosen)} entries changed, {len(found)} changes survived", *found, sep="\n  ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
