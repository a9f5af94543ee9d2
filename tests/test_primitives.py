"""Every primitive, on both backends, on every dtype and layout, against its exact meaning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from primitives import DRAW, ELEMENTWISE, Case, assert_close, cases
from strategies import move, movement

from clgrad import Tensor
from clgrad.engine.gradient import GRADIENTS, NO_GRADIENT
from clgrad.engine.ops import RULES

# On OpenCL a new structure is a kernel to be built, so few examples are drawn there, each holds many results, and none
# is shrunk: to find the smallest, put its operation and its device into `test_a_primitive_on_numpy...`.
FEW = settings(max_examples=max(2, settings().max_examples // 8), phases=[Phase.explicit, Phase.reuse, Phase.generate])


def compute(examples: list[Case], device: str) -> list[np.ndarray]:
    results = [case.run(device) for case in examples]
    Tensor.realize_all(results)
    return [result.numpy() for result in results]


def test_every_primitive_has_an_entry_in_every_table():
    assert set(DRAW) == set(RULES)
    assert set(GRADIENTS) | set(NO_GRADIENT) >= set(RULES)
    assert not set(GRADIENTS) & set(NO_GRADIENT)


@pytest.mark.parametrize("op", sorted(DRAW))
@given(data=st.data())
def test_a_primitive_on_numpy_is_its_exact_meaning(op, data):
    (case,) = examples = data.draw(cases(op))
    (got,) = compute(examples, "NUMPY")
    case.check(got)


@FEW
@given(examples=cases(*sorted(DRAW)))
def test_all_primitives_on_opencl_are_their_exact_meaning(cl, examples):
    failures = []
    for case, got in zip(examples, compute(examples, cl), strict=True):
        try:
            case.check(got)
        except AssertionError as error:
            failures.append(f"{case}\n{error}")
    assert not failures, "\n\n".join(failures)


@pytest.mark.sweep  # both are held to the exact meaning above
@FEW
@given(examples=cases(*sorted(ELEMENTWISE)))
def test_the_backends_agree_on_elementwise_primitives(cl, examples):
    for case, ours, theirs in zip(examples, compute(examples, "NUMPY"), compute(examples, cl), strict=True):
        assert_close(theirs, ours, 2 * case.ulp, signed_zero=case.op != "max")


@st.composite
def moved(draw) -> tuple[Case, list]:
    """Random bits or a numbering, which have no memory to be a view of, and movement after them."""
    case = DRAW[draw(st.sampled_from(["random", "iota"]))](draw)
    steps, array = [], case.want
    for _ in range(draw(st.integers(1, 4))):
        steps.append(draw(movement(array.shape)))
        array = move(array, *steps[-1])
    return case, steps


def check_moved(examples: list[tuple[Case, list]], device: str) -> None:
    tensors, wanted = [], []
    for case, steps in examples:
        tensor, want = case.run(device), case.want
        for op, arg in steps:
            tensor, want = Tensor._make(op, tensor, arg=arg), move(want, op, arg)
        tensors.append(tensor + tensor)
        with np.errstate(over="ignore"):
            wanted.append(np.asarray(want + want))
    Tensor.realize_all(tensors)
    for tensor, want in zip(tensors, wanted):
        np.testing.assert_array_equal(tensor.numpy(), want)


@given(moved())
def test_what_is_computed_in_place_of_loads_moves_like_an_array_on_numpy(example):
    check_moved([example], "NUMPY")


@FEW
@given(st.lists(moved(), min_size=3, max_size=6))
def test_what_is_computed_in_place_of_loads_moves_like_an_array_on_opencl(cl, examples):
    check_moved(examples, cl)


@pytest.mark.parametrize("op", ["gather", "scatter_add"])
def test_an_index_out_of_range_raises_by_the_next_read_and_later_ones_are_well(device, op):
    rows = 4
    for bad in (np.array(4, "int32"), np.array(-1, "int8"), np.array(2**63, "uint64"), np.array(-(2**63), "int64")):
        index = Tensor(np.array([0, bad, 3]), dtype=bad.dtype, device=device)
        x = Tensor(np.ones((3 if op == "scatter_add" else rows, 2), np.float32), device=device)
        with pytest.raises(IndexError, match=op.split("_")[0]):
            Tensor._make(op, x, index, arg=rows if op == "scatter_add" else None).numpy()
        np.testing.assert_array_equal((x + 1).numpy(), x.numpy() + 1)
