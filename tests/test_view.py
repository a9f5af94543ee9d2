"""Views: any chain of movement reads, through shape, strides, offset and mask, what NumPy reads from an array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import move, movement, reshaped, shapes

from clgrad.backends.view import View


def read(view: View, buffer: np.ndarray) -> np.ndarray:
    """Every point of the view, by the formula in view.py; a point inside the mask must lie in the buffer."""
    position = np.full(view.shape, view.offset)
    inside = np.ones(view.shape, bool)
    for axis, (index, stride) in enumerate(zip(np.indices(view.shape), view.strides, strict=True)):
        position += index * stride
        if view.mask is not None:
            lo, hi = view.mask[axis]
            inside &= (lo <= index) & (index < hi)
    assert np.all((position[inside] >= 0) & (position[inside] < buffer.size)), f"{view} leaves its buffer"
    values = np.zeros(view.shape, buffer.dtype)
    values[inside] = buffer[position[inside]]
    return values


def numpy_needs_a_copy(view: View, buffer: np.ndarray, shape: tuple[int, ...]) -> bool:
    strides = tuple(s * buffer.itemsize for s in view.strides)
    array = np.lib.stride_tricks.as_strided(buffer[view.offset :], view.shape, strides)
    try:
        array.reshape(shape, copy=False)
    except ValueError:
        return True
    return False


@st.composite
def chains(draw):
    """A shape and up to six movements that fit one after another."""
    start = shape = draw(shapes())
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        steps.append(draw(movement(shape)))
        shape = move(np.empty(shape, np.int8), *steps[-1]).shape
    return start, steps


@given(chains())
def test_movement_of_a_view_reads_what_numpy_reads(chain):
    shape, steps = chain
    expected = np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape)
    buffer, view = expected.ravel(), View.contiguous(shape)
    for op, arg in steps:
        moved = view.apply(op, arg)
        expected = move(expected, op, arg)
        if moved is None:
            assert view.mask is not None or (op == "reshape" and numpy_needs_a_copy(view, buffer, arg)), (view, op, arg)
            buffer, moved = expected.ravel(), View.contiguous(expected.shape)
        view = moved
        assert view.shape == expected.shape and view.size == expected.size
        np.testing.assert_array_equal(read(view, buffer), expected)


@given(chains())
def test_one_mapping_has_one_spelling(chain):
    """Kernels are looked up by their Views, so an axis of size 1 has stride 0 and a mask that covers all is None."""
    shape, steps = chain
    view = View.contiguous(shape)
    for op, arg in steps:
        view = view.apply(op, arg) or View.contiguous(move(np.empty(view.shape, np.int8), op, arg).shape)
        assert view.mask is None or any(m != (0, n) for m, n in zip(view.mask, view.shape, strict=True))
        assert all(
            stride == 0
            for axis, (n, stride) in enumerate(zip(view.shape, view.strides, strict=True))
            if n == 1 and (view.mask is None or view.mask[axis] == (0, 1))
        )


@given(shapes(), st.data())
def test_a_contiguous_view_reshapes_to_the_contiguous_view(shape, data):
    new = data.draw(reshaped(shape))
    view = View.contiguous(shape).reshape(new)
    assert view is not None
    if 0 not in shape:
        assert view == View.contiguous(new) and view.is_contiguous()


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((4,), [("pad", ((1, 1),)), ("reshape", (2, 3)), ("permute", (1, 0))]),  # a mask that a split cannot express
        ((2, 3), [("pad", ((1, 1), (0, 0))), ("reshape", (12,)), ("flip", (0,))]),  # one that a merge can
        ((1, 3), [("pad", ((1, 1), (0, 0))), ("shrink", ((0, 1), (0, 3))), ("expand", (2, 3))]),  # wholly outside
        ((1, 0), [("pad", ((0, 0), (1, 0))), ("reshape", ())]),  # and no dimension left to say so
    ],
)
def test_masks_survive_reshapes(shape, steps):
    test_movement_of_a_view_reads_what_numpy_reads.hypothesis.inner_test((shape, steps))
