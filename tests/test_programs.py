"""Random programs: however the scheduler cuts and fuses them, they give what NumPy gives step by step.

Only exact operations are drawn (integers wrap; floats are added, multiplied and compared, but never summed), so every
result must be equal to the last bit, on both backends.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from strategies import MOVES, elements, laid_out, move, movement, pooled, shapes

from clgrad import Device, Tensor, jit
from clgrad.backends.numpy import render
from clgrad.backends.numpy.backend import NumpyBackend
from clgrad.engine import simplify

FEW = settings(max_examples=max(2, settings().max_examples // 8), phases=[Phase.explicit, Phase.reuse, Phase.generate])
LIMIT = 3000  # elements of any value


class Step(NamedTuple):
    kind: str
    operands: tuple[int, ...]  # earlier values of the program
    arg: Any = None


class Program(NamedTuple):
    """Leaves, steps over all values so far, and which of them are read: some together, then the others."""

    leaves: list[np.ndarray]
    steps: list[Step]
    together: list[int]

    def values(self, leaves: list[np.ndarray] | None = None) -> list[np.ndarray]:
        values = list(self.leaves if leaves is None else leaves)
        for kind, operands, arg in self.steps:
            values.append(np.asarray(MEANING[kind](*(values[i] for i in operands), *([] if arg is None else [arg]))))
        return values

    def tensors(self, device: str, leaves: list[Tensor] | None = None) -> list[Tensor]:
        values = leaves or [Tensor(leaf, dtype=leaf.dtype, device=device) for leaf in self.leaves]
        values = list(values)
        for kind, operands, arg in self.steps:
            values.append(SPELLING[kind](*(values[i] for i in operands), *([] if arg is None else [arg])))
        return values


def _moved(name: str):
    return lambda x, arg: move(x, name, arg)


def _moving(name: str):
    return lambda x, arg: Tensor._make(name, x, arg=arg)


def _replaced(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    result = np.array(x)
    for row, value in zip(rows, y, strict=True):
        result[row] = value
    return result


MEANING = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "select": lambda a, b: np.where(a < b, a, b),
    "neg": np.negative,
    "to_int": lambda x: (x > 0).astype(np.int32),
    "sum": lambda x, axes: np.add.reduce(x, axes, dtype=x.dtype, keepdims=True),
    "reduce_max": lambda x, axes: np.maximum.reduce(x, axes, keepdims=True),
    "dot": np.matmul,
    "take": lambda x, rows: x[rows],
    "cat": lambda *parts: np.concatenate(parts[:-1], parts[-1]),
    "replace": _replaced,
    **{name: _moved(name) for name in MOVES},
}
SPELLING = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "max": lambda a, b: a.maximum(b),
    "select": lambda a, b: (a < b).where(a, b),
    "neg": lambda x: -x,
    "to_int": lambda x: (x > 0).cast("int32"),
    "sum": lambda x, axes: x.sum(axes, keepdim=True, dtype=x.dtype),
    "reduce_max": lambda x, axes: x.max(axes, keepdim=True),
    "dot": lambda a, b: a @ b,
    "take": lambda x, rows: x.take(Tensor(rows, device=x.device)),
    "cat": lambda *parts: Tensor.cat(*parts[:-1], dim=parts[-1]),
    "replace": lambda x, y, rows: x.index_copy(0, Tensor(rows, device=x.device), y),
    **{name: _moving(name) for name in MOVES},
}
BINARY = ("add", "mul", "max", "select")


def _broadcast(a: np.ndarray, b: np.ndarray) -> bool:
    fits = all(m == n or 1 in (m, n) for m, n in zip(a.shape[::-1], b.shape[::-1]))
    return fits and a.dtype == b.dtype and prod(np.broadcast_shapes(a.shape, b.shape)) <= LIMIT


@st.composite
def _step(draw, values: list[np.ndarray]) -> Step:
    """Something that can be done with the values so far, with the latest more often than with the others."""
    last = len(values) - 1
    i = draw(st.sampled_from([last, last, draw(st.integers(0, last))]))
    x = values[i]
    partners = [j for j, y in enumerate(values) if _broadcast(x, y)]
    whole = x.dtype.kind == "i"
    alike = [j for j, y in enumerate(values) if x.ndim == y.ndim and x.dtype == y.dtype]
    dots = [j for j in alike if whole and x.ndim == 2 and x.shape[1] == values[j].shape[0]]
    axis = draw(st.integers(0, max(x.ndim - 1, 0)))
    across = x.shape[:axis] + x.shape[axis + 1 :]
    tails = [j for j in alike if x.ndim and across == values[j].shape[:axis] + values[j].shape[axis + 1 :]]
    tails = [j for j in tails if 2 * values[j].size + x.size <= LIMIT]
    rows = [j for j in alike if x.ndim and x.shape[0] and x.shape[1:] == values[j].shape[1:]]
    weights = {
        "neg": 1,
        "to_int": 1,
        **dict.fromkeys(MOVES, 1),
        **dict.fromkeys(BINARY, 3 if partners else 0),
        "sum": 6 if whole and x.ndim else 0,
        "reduce_max": 4 if x.size and x.ndim else 0,
        "dot": 9 if dots else 0,
        "take": 2 if x.ndim and x.shape[0] else 0,
        "cat": 3 if tails else 0,
        "replace": 3 if rows else 0,
    }
    kinds = [kind for kind, weight in weights.items() for _ in range(weight)]
    kind = draw(st.sampled_from(kinds))
    if kind in BINARY:
        return Step(kind, (i, draw(st.sampled_from(partners))))
    if kind in MOVES:
        kind, arg = draw(movement(x.shape, (kind,), LIMIT))
        return Step(kind, (i,), arg)
    if kind in ("sum", "reduce_max"):
        axes = tuple(a for a in range(x.ndim) if draw(st.booleans()))
        return Step(kind, (i,), axes or (draw(st.integers(0, x.ndim - 1)),))
    if kind == "dot":
        return Step(kind, (i, draw(st.sampled_from(dots))))
    if kind == "take":
        return Step(kind, (i,), draw(pooled(np.dtype("int32"), draw(shapes(2, 12)), st.integers(0, x.shape[0] - 1))))
    if kind == "replace":
        j = draw(st.sampled_from(rows))
        count = len(values[j])
        which = draw(st.lists(st.integers(0, x.shape[0] - 1), min_size=count, max_size=count))
        return Step(kind, (i, j), np.array(which, np.int32))
    if kind == "cat":
        return Step(kind, (i, *draw(st.lists(st.sampled_from(tails), min_size=1, max_size=2))), axis)
    return Step(kind, (i,))


@st.composite
def programs(draw) -> Program:
    square = st.lists(st.sampled_from([3, 4, 8, 17, 1, 0]), min_size=2, max_size=2).map(tuple)
    shape = draw(square | shapes(3, 200, st.sampled_from([3, 2, 4, 5, 8, 17, 1, 0])))
    dtype = np.dtype(draw(st.sampled_from(["int32", "int32", "float32"])))
    pool = st.integers(-9, 9) if dtype.kind == "i" else elements(dtype, special=False)
    leaves = []
    for _ in range(draw(st.integers(1, 3))):
        base, steps = draw(laid_out(dtype, shape if draw(st.booleans()) else shape[::-1], pool))
        for op, arg in steps:
            base = move(base, op, arg)
        leaves.append(np.array(base))
    program = Program(leaves, [], [])
    values = list(leaves)
    for _ in range(draw(st.sampled_from([1, 3, 6, 9, 12]))):
        step = draw(_step(values))
        arguments = [values[i] for i in step.operands] + ([] if step.arg is None else [step.arg])
        value = np.asarray(MEANING[step.kind](*arguments))
        if value.size <= LIMIT and value.ndim <= 5:
            program.steps.append(step)
            values.append(value)
    chosen = draw(st.lists(st.integers(0, len(values) - 1), max_size=4, unique=True))
    return program._replace(together=sorted({*chosen, len(values) - 1}))


def check(program: Program, tensors: list[Tensor], read: list[int]) -> None:
    for i, want in enumerate(program.values()):
        if i in read:
            got = tensors[i].numpy()
            assert got.shape == want.shape and got.dtype == want.dtype, (i, got.shape, want.shape)
            np.testing.assert_array_equal(got, want, err_msg=f"value {i}")


# The mask of a gather tells rows apart that lie at the same place of the table.
REPEATED_ROW = Program(
    [np.array([[0, 1, 1], [1, 0, 0], [1, 1, 0]], np.float32)],
    [Step("neg", (0,)), Step("take", (1,), np.array([0], np.int32)), Step("pad", (2,), ((1, 0), (0, 0)))],
    [3],
)


@given(programs())
@example(REPEATED_ROW)
def test_a_program_on_numpy_gives_what_its_steps_give(program):
    with np.errstate(all="ignore"):
        tensors = program.tensors("NUMPY")
        Tensor.realize_all([tensors[i] for i in program.together])
        check(program, tensors, program.together)
        check(program, tensors, list(range(len(tensors))))  # what follows from values that are in memory already


@pytest.fixture(scope="module")
def small_blocks():
    """Blocks and pieces of a few elements, so that small programs cross their boundaries as large ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "BLOCK", 12)
        patch.setattr(render, "SPREAD", 4)
        patch.setattr(simplify, "LONG", 16)
        patch.setattr(simplify, "PIECE", 4)
        patch.setitem(Device._open, "NUMPY", NumpyBackend())
        yield


@given(program=programs())
def test_a_program_over_many_blocks_gives_what_its_steps_give(small_blocks, program):
    test_a_program_on_numpy_gives_what_its_steps_give.hypothesis.inner_test(program)


@FEW
@given(st.lists(programs(), min_size=4, max_size=8))
def test_programs_on_opencl_give_what_their_steps_give(cl, many):
    with np.errstate(all="ignore"):
        tensors = [program.tensors(cl) for program in many]
        Tensor.realize_all([values[i] for program, values in zip(many, tensors) for i in program.together])
        for program, values in zip(many, tensors):
            check(program, values, program.together)


class Machine(NamedTuple):
    """A program called again and again: leaf 0 is its argument, the others are state, which each call replaces."""

    program: Program
    updates: dict[int, int]  # leaf -> value
    calls: int
    keep: bool  # hold on to every earlier state, so that none may be overwritten

    def argument(self, call: int) -> np.ndarray:
        return self.program.leaves[0] + self.program.leaves[0].dtype.type(call)


@st.composite
def machines(draw) -> Machine:
    program = draw(programs())
    values = program.values()
    updates = {}
    for leaf, state in list(enumerate(program.leaves))[1:]:
        alike = [i for i, v in enumerate(values) if v.shape == state.shape and v.dtype == state.dtype and i != leaf]
        alike = alike[-3:]  # the latest, which are made of the state, rather than other leaves
        if alike and draw(st.integers(0, 3)):
            updates[leaf] = draw(st.sampled_from(alike))
    return Machine(program, updates, draw(st.integers(2, 4)), draw(st.booleans()))


def run_machine(machine: Machine, device: str) -> None:
    program = machine.program
    states = [Tensor(leaf, dtype=leaf.dtype, device=device) for leaf in program.leaves[1:]]

    @jit
    def step(x):
        values = program.tensors(device, [x, *(state.detach() for state in states)])  # the values, not the names
        for leaf, value in machine.updates.items():
            states[leaf - 1].assign(values[value])
        return [values[i] for i in program.together]

    wanted = list(program.leaves[1:])
    kept: list[tuple[Tensor, np.ndarray]] = []
    for call in range(machine.calls):
        x = machine.argument(call)
        values = program.values([x, *wanted])
        if machine.keep:
            kept += [(state.detach(), want) for state, want in zip(states, wanted)]
        results = step(Tensor(x, dtype=x.dtype, device=device))
        kept += [(result, values[i]) for result, i in zip(results, program.together, strict=True)]
        wanted = [values[machine.updates.get(leaf, leaf)] for leaf in range(1, len(program.leaves))]
    kept += zip(states, wanted, strict=True)
    for number, (tensor, want) in enumerate(kept):  # no later call has written over what an earlier one gave
        np.testing.assert_array_equal(tensor.numpy(), want, err_msg=f"value {number}")
    assert step.traces == 1


@given(machines())
def test_replays_on_numpy_update_state_and_leave_what_was_kept_alone(machine):
    with np.errstate(all="ignore"):
        run_machine(machine, "NUMPY")


@given(machine=machines())
def test_replays_over_many_blocks_do_not_write_over_what_a_later_block_reads(small_blocks, machine):
    with np.errstate(all="ignore"):
        run_machine(machine, "NUMPY")


@FEW
@given(st.lists(machines(), min_size=2, max_size=3))
def test_replays_on_opencl_update_state_and_leave_what_was_kept_alone(cl, many):
    with np.errstate(all="ignore"):
        for machine in many:
            run_machine(machine, cl)
