"""Any index: what it reads, what assignment through it leaves, and the gradients of both, as NumPy and PyTorch say."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import pooled

from clgrad import Tensor, jit

FEW = settings(max_examples=max(2, settings().max_examples // 8), phases=[Phase.explicit, Phase.reuse, Phase.generate])
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 3, 4]), max_size=4).map(tuple)


@st.composite
def lookups(draw, size: int, shape: tuple[int, ...]):
    """Numbers of `size` things, in any integer dtype."""
    dtype = np.dtype(draw(st.sampled_from(["int64", "int32", "int8", "uint8"])))
    low = 0 if dtype.kind == "u" else -size
    return draw(pooled(dtype, shape, st.integers(low, size - 1)))


@st.composite
def indices(draw, shape: tuple[int, ...]):
    """An index of an array of `shape` as a tuple of items; integer arrays and masks are NumPy's."""
    items: list = []
    common = draw(st.sampled_from([(2,), (1,), (2, 1), (3,), (0,), ()]))
    axis, dots = 0, draw(st.booleans())
    while axis < len(shape):
        size = shape[axis]
        kind = draw(st.sampled_from(["slice", "slice", "int", "array", "mask", "none", "stop"]))
        if kind == "none":
            items.append(None)
            continue
        if kind == "stop":
            break
        if kind == "int" and size:
            items.append(draw(st.integers(-size, size - 1)))
        elif kind == "array" and (size or 0 in common):
            part = draw(st.sampled_from([common, common[1:], (1,) * len(common)]))
            items.append(draw(lookups(size, part)) if size else np.zeros(common, np.int64))
        elif kind == "mask" and not any(isinstance(i, np.ndarray) for i in items):  # one that others need not fit
            rank = draw(st.integers(1, len(shape) - axis))
            items.append(draw(pooled(np.dtype(bool), shape[axis : axis + rank], st.booleans())))
            common, axis = (), axis + rank - 1
        else:
            items.append(draw(st.slices(size)))
        axis += 1
    if dots:
        items.insert(draw(st.integers(0, len(items))) if axis == len(shape) else len(items), ...)
    return tuple(items)


def spelt(index: tuple, x, draw):
    """The index as Tensors, lists and NumPy arrays by turns, or all as torch's."""
    if isinstance(x, torch.Tensor):
        items = [torch.from_numpy(np.array(i if i.dtype.kind == "b" else i.astype(np.int64)))
                 if isinstance(i, np.ndarray) else i for i in index]  # fmt: skip
    else:
        items = []
        for item in index:
            if isinstance(item, np.ndarray):
                how = draw(st.sampled_from(["Tensor", "list", "array"]))
                item = Tensor(item, dtype=item.dtype, device=x.device) if how == "Tensor" else item
                item = item.tolist() if how == "list" and item.ndim and item.size else item
            items.append(item)
    return items[0] if len(items) == 1 and not isinstance(items[0], tuple) else tuple(items)


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """An array in which no two elements are equal."""
    return np.arange(1.0, prod(shape) + 1).reshape(shape)


def forwards(index: tuple) -> bool:
    """Whether torch takes the index: it knows no negative steps, and treats integers among arrays in its own way."""
    return not any(isinstance(i, slice) and (i.step or 1) < 0 for i in index)


@st.composite
def cases(draw):
    shape = draw(SHAPES)
    return shape, draw(indices(shape))


def check_read(case, draw, device: str) -> None:
    shape, index = case
    array = numbered(shape)
    x = Tensor(array, dtype="float64", device=device, requires_grad=True)
    got = x[spelt(index, x, draw)]
    if forwards(index):
        t = torch.tensor(array, requires_grad=True)
        wanted = t[spelt(index, t, draw)]
        np.testing.assert_array_equal(got.numpy(), wanted.detach().numpy())
        if wanted.numel():
            [slope] = (got * got * got).sum().gradient(x)
            [want] = torch.autograd.grad((wanted**3).sum(), t, create_graph=True)
            np.testing.assert_array_equal(slope.numpy(), want.detach().numpy())
            [slope] = (slope * slope).sum().gradient(x)
            [want] = torch.autograd.grad((want * want).sum(), t)
            np.testing.assert_allclose(slope.numpy(), want.numpy(), rtol=1e-12)
    if not any(isinstance(i, int) for i in index) or not any(isinstance(i, np.ndarray) for i in index):
        np.testing.assert_array_equal(got.numpy(), array[index])  # NumPy broadcasts integers with arrays


@given(case=cases(), data=st.data())
def test_any_index_reads_what_torch_and_numpy_read_with_their_gradients(case, data):
    check_read(case, data.draw, "NUMPY")


@FEW
@given(examples=st.lists(cases(), min_size=2, max_size=4), data=st.data())
def test_any_index_reads_the_same_on_opencl(cl, examples, data):
    for case in examples:
        check_read(case, data.draw, cl)


@st.composite
def assignments(draw):
    """A shape, an index of it in which nothing is named twice, and the shape of a value that broadcasts to it."""
    shape, index = draw(cases().filter(lambda case: _once(*case)))
    part = numbered(shape)[index] if all(not isinstance(i, int) for i in index) else None
    if part is None:
        part = torch.zeros(shape)[tuple(torch.from_numpy(np.array(i)).long() if isinstance(i, np.ndarray)
                                        and i.dtype.kind != "b" else torch.from_numpy(i)
                                        if isinstance(i, np.ndarray) else i for i in index)]  # fmt: skip
    sizes = tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in part.shape)
    return shape, index, sizes[draw(st.integers(0, len(sizes))) :]


def _once(shape, index) -> bool:
    """Whether torch takes the index, and it names no element twice: which of two values stays, torch leaves open."""
    if not forwards(index):
        return False
    t = torch.arange(prod(shape)).reshape(shape)
    found = t[spelt(index, t, None)].reshape(-1)
    return len(found.unique()) == len(found)


def check_assigned(case, draw, device: str) -> None:
    shape, index, sizes = case
    array, value = numbered(shape), -numbered(sizes)
    x = Tensor(array, dtype="float64", device=device, requires_grad=True)
    v = Tensor(value, dtype="float64", device=device, requires_grad=True)
    t, u = torch.tensor(array, requires_grad=True), torch.tensor(value, requires_grad=True)
    ours, theirs = x * 1.0, t * 1.0
    before = ours * 1.0
    ours[spelt(index, ours, draw)] = v
    theirs[spelt(index, theirs, draw)] = u
    np.testing.assert_array_equal(ours.numpy(), theirs.detach().numpy())
    np.testing.assert_array_equal(before.numpy(), array)
    if theirs.numel():
        got = (ours * ours).sum().gradient(x, v)
        want = torch.autograd.grad((theirs * theirs).sum(), (t, u), allow_unused=True, materialize_grads=True)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@given(case=assignments(), data=st.data())
def test_assignment_through_any_index_leaves_what_torch_leaves_with_its_gradients(case, data):
    check_assigned(case, data.draw, "NUMPY")


@FEW
@given(examples=st.lists(assignments(), min_size=2, max_size=4), data=st.data())
def test_assignment_through_any_index_is_the_same_on_opencl(cl, examples, data):
    for case in examples:
        check_assigned(case, data.draw, cl)


@given(steps=st.lists(st.integers(-3, 3).filter(bool), min_size=2, max_size=2), seed=st.integers(0, 99))
def test_assignment_with_steps_of_either_sign_leaves_what_numpy_leaves(steps, seed):
    rng = np.random.default_rng(seed)
    array = rng.integers(-9, 9, (5, 7))
    index = tuple(slice(None, None, step) for step in steps)
    value = rng.integers(-9, 9, array[index].shape)
    x = Tensor(array, device="NUMPY")
    x[index] = value
    array[index] = value
    np.testing.assert_array_equal(x.numpy(), array)


def test_of_equal_indices_the_last_wins_and_gets_the_gradient(device):
    x, v = Tensor.zeros(3, device=device), Tensor([1.0, 2.0, 3.0], device=device, requires_grad=True)
    x[[1, 0, 1]] = v
    assert x.tolist() == [2.0, 3.0, 0.0]
    [slope] = (x * Tensor([10.0, 20.0, 30.0], device=device)).sum().gradient(v)
    assert slope.tolist() == [0.0, 10.0, 20.0]


def test_the_value_is_cast_to_the_dtype_that_is_there(device):
    x = Tensor([1, 2, 3], dtype="int8", device=device)
    x[1:] = Tensor([2.75, -1.5], device=device)
    x[0] = 7.9
    assert x.dtype.name == "int8" and x.tolist() == [7, 2, -1]


def test_a_slice_of_everything_is_a_name_of_its_own(device):
    x = Tensor([1, 2], device=device)
    y = x[:]
    y[0] = 5
    assert x.tolist() == [1, 2] and y.tolist() == [5, 2]


def test_a_leaf_that_wants_a_gradient_is_assigned_to_under_no_grad_only(device):
    x = Tensor([1.0, 2.0], device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="no_grad"):
        x[0] = 3.0
    with Tensor.no_grad():
        x[0] = 3.0
    assert x.tolist() == [3.0, 2.0] and x.requires_grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [6.0, 4.0]


WRONG = {
    "too many": (lambda x: x[0, 0, 0], IndexError),
    "too large": (lambda x: x[3], IndexError),
    "too small": (lambda x: x[:, -5], IndexError),
    "a list out of range": (lambda x: x[[0, 3]], IndexError),
    "two ellipses": (lambda x: x[..., ...], IndexError),
    "a float": (lambda x: x[1.0], IndexError),
    "floats": (lambda x: x[[0.5]], IndexError),
    "a list that is no rectangle": (lambda x: x[[0, [1]]], IndexError),
    "a Tensor where there is nothing": (lambda x: x[:0][Tensor(0, device=x.device)], IndexError),
    "assignment where there is nothing": (lambda x: x[:0].__setitem__(Tensor([0], device=x.device), 1.0), IndexError),
    "a float Tensor": (lambda x: x[x], IndexError),
    "a word": (lambda x: x["a"], IndexError),
    "shapes that do not broadcast": (lambda x: x[[0, 1], [0, 1, 2]], IndexError),
    "a mask that is too long": (lambda x: x[[True] * 4], IndexError),
    "a mask with too many axes": (lambda x: x[Tensor([[[True]]], device=x.device)], IndexError),
    "a step of 0": (lambda x: x[::0], ValueError),
    "a value too long": (lambda x: x.__setitem__(0, Tensor([1.0, 2.0], device=x.device)), RuntimeError),
    "a value with too many axes": (lambda x: x.__setitem__(0, Tensor.ones(2, 4, device=x.device)), RuntimeError),
    "too few values of a mask": (lambda x: x.__setitem__([True, True, False], Tensor.ones(3, 4)), RuntimeError),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_impossible_index_raises_at_once_and_says_why(name):
    function, error = WRONG[name]
    with pytest.raises(error, match=r"."):
        function(Tensor.zeros(3, 4, device="NUMPY"))


def test_a_Tensor_out_of_range_raises_by_the_next_read(device):
    x = Tensor.zeros(3, 4, device=device)
    for numbers in ([[3]], [[0], [4]], [[-4], [0]], [0, 5]):
        there = tuple(Tensor(n, device=device) for n in numbers)
        with pytest.raises(IndexError):
            x[there].numpy()
        y = x + 1
        y[there] = 2.0
        with pytest.raises(IndexError):
            y.numpy()


@pytest.mark.parametrize("bad", [3, -1])
def test_along_a_dimension_nothing_is_counted_from_the_end(device, bad):
    x, index = Tensor.ones(2, 3, device=device), Tensor([[0], [bad]], device=device)
    for function in (
        lambda: x.gather(1, index),
        lambda: x.scatter(1, index, 2.0),
        lambda: x.scatter_reduce(1, index, x[:, :1], "sum"),
        lambda: x.scatter_reduce(1, index, x[:, :1], "amax"),
    ):
        with pytest.raises(IndexError):
            function().numpy()


def test_what_depends_on_values_raises_under_jit(device):
    x = Tensor([1.0, 0.0, 2.0], device=device)
    for function in (lambda t: t[t > 0], lambda t: t.nonzero(), lambda t: t.masked_select(t > 0),
                     lambda t: t.long().one_hot(), lambda t: t.repeat_interleave(t.long())):  # fmt: skip
        with pytest.raises(RuntimeError, match="jit"):
            jit(function)(x)


def test_one_value_for_a_mask_and_rows_at_an_index_are_assigned_under_jit(device):
    @jit
    def step(cache, row, at):
        cache[at] = row
        cache[cache > 3] = 0
        return cache.sum()

    cache, want = Tensor.zeros(4, 2, device=device).contiguous().realize(), np.zeros((4, 2), np.float32)
    for i in range(4):
        total = step(cache, Tensor([float(i), 2.0 * i], device=device), Tensor(i, device=device))
        want[i] = [i, 2 * i]
        want[want > 3] = 0
        assert total.item() == want.sum()
        np.testing.assert_array_equal(cache.numpy(), want)


def test_ties_share_the_gradient_of_amax_with_what_was_there(device):
    x = Tensor([1.0, 5.0], device=device, requires_grad=True)
    v = Tensor([5.0, 5.0, 0.0], device=device, requires_grad=True)
    index = Tensor([1, 1, 0], device=device)
    slopes = x.scatter_reduce(0, index, v, "amax").sum().gradient(x, v)
    assert [s.tolist() for s in slopes] == [[1.0, pytest.approx(1 / 3)], pytest.approx([1 / 3, 1 / 3, 0.0])]
    slopes = x.scatter_reduce(0, index, v, "amax", include_self=False).sum().gradient(x, v)
    assert [s.tolist() for s in slopes] == [[0.0, 0.0], [0.5, 0.5, 1.0]]


def test_a_number_without_dimensions_is_found_as_if_it_had_one():
    for value in (0.0, 3.0):
        found = Tensor(value, device="NUMPY").nonzero(as_tuple=True)
        assert [t.tolist() for t in found] == [t.tolist() for t in torch.tensor(value).nonzero(as_tuple=True)]
