"""Movement: errors of PyTorch's kinds, formulas, and what costs no copy. Values are in the table of the surface."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clgrad import Tensor
from clgrad.engine.explain import plan_of

IMPOSSIBLE = {
    "reshape": lambda x: x.reshape(5),
    "reshape of two -1": lambda x: x.reshape(-1, -1),
    "reshape, no divisor": lambda x: x.reshape(-1, 5),
    "view of a fraction": lambda x: x.view(2.5),
    "permute, too few": lambda x: x.permute(0, 1),
    "permute, twice": lambda x: x.permute(0, 0, 1),
    "permute, out of range": lambda x: x.permute(0, 1, 3),
    "transpose": lambda x: x.transpose(0, 3),
    "expand": lambda x: x.expand(2, 3, 5),
    "expand, too few": lambda x: x.expand(4),
    "expand, nothing to keep": lambda x: x.expand(-1, 2, 3, 4),
    "flip, twice": lambda x: x.flip((0, -3)),
    "squeeze": lambda x: x.squeeze((0, 5)),
    "unsqueeze": lambda x: x.unsqueeze(4),
    "flatten, backwards": lambda x: x.flatten(2, 1),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "repeat, too few": lambda x: x.repeat(2, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(-1),
    "roll": lambda x: x.roll((1, 2), 0),
    "split, too large": lambda x: x.split([1, 2]),
    "split, negative": lambda x: x.split([-1, 3]),
    "split into nothing": lambda x: x.split(0),
    "chunk": lambda x: x.chunk(0),
    "unfold, too large": lambda x: x.unfold(1, 4, 1),
    "unfold, no step": lambda x: x.unfold(1, 2, 0),
    "diag": lambda x: x.diag(),
    "diagonal": lambda x: x.diagonal(0, 1, 1),
    "tril": lambda x: x[0, 0].tril(),
    "gather": lambda x: x.gather(0, x),
    "gather by a list": lambda x: x.gather(0, [[[0]]]),
    "masked_fill by a list": lambda x: x.masked_fill([True] * 4, 0),
    "masked_select by an array": lambda x: x.masked_select(np.ones(4, bool)),
    "scatter_reduce of a number": lambda x: x.scatter_reduce(0, x > 0, 1.0, "sum"),
    "expand to less than nothing": lambda x: x[:1].expand(-2, 3, 4),
    "triu by half a diagonal": lambda x: x.triu(0.5),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_movement_raises_the_kind_of_error_that_torch_raises(name):
    with pytest.raises((RuntimeError, IndexError, TypeError)) as theirs:
        IMPOSSIBLE[name](torch.zeros(2, 3, 4))
    with pytest.raises(theirs.type):
        IMPOSSIBLE[name](Tensor.zeros(2, 3, 4, device="NUMPY"))


@pytest.mark.parametrize("name", ["cat", "stack", "meshgrid"])
@pytest.mark.parametrize("stranger", [3, None, np.zeros(2, "float32")])
def test_what_is_no_tensor_is_a_type_error(name, stranger):
    for arguments in (([Tensor.zeros(2, device="NUMPY"), stranger],), (Tensor.zeros(2, device="NUMPY"), stranger)):
        with pytest.raises(TypeError, match=f"{name}: takes Tensors, not {type(stranger).__name__}"):
            getattr(Tensor, name)(*arguments)


def test_a_padding_says_its_mode_and_pairs_even_where_nothing_is_added():
    x = Tensor.zeros(2, 3, device="NUMPY")
    with pytest.raises(NotImplementedError, match="mode must be"):
        x.pad((-1, 0), mode="mirror")
    with pytest.raises(RuntimeError, match="before, after"):
        x.pad(((1, 1, 1), (0, 0)))


def test_tensors_that_do_not_fit_raise_and_say_their_shapes():
    a, b = Tensor.zeros(2, 3, device="NUMPY"), Tensor.zeros(4, 5, device="NUMPY")
    for function in (lambda: a.cat(b), lambda: Tensor.stack([a, b])):
        with pytest.raises(RuntimeError, match=r"\(4, 5\).*\(2, 3\)|\(2, 3\).*\(4, 5\)"):
            function()
    with pytest.raises(RuntimeError, match="dimensions"):
        a[0, 0].cat(b[0, 0])
    with pytest.raises(IndexError):
        a.cat(a, dim=2)
    with pytest.raises(RuntimeError):
        Tensor.cat([])


@st.composite
def formulas(draw):
    """Sizes of axes with names, groups of them, and an order and groups in which they are wanted."""
    names = "abcd"[: draw(st.integers(0, 4))]
    sizes = {name: draw(st.sampled_from([1, 2, 3])) for name in names}

    def grouped(order) -> list[list[str]]:
        groups: list[list[str]] = []
        for name in order:
            if groups and draw(st.booleans()):
                groups[-1].append(name)
            else:
                groups.append([name])
        for _ in range(draw(st.integers(0, 2))):
            groups.insert(draw(st.integers(0, len(groups))), [])
        return groups

    return sizes, grouped(names), grouped(draw(st.permutations(names)))


def _spelt(groups: list[list[str]]) -> str:
    return " ".join(group[0] if len(group) == 1 else f"({' '.join(group)})" if group else "1" for group in groups)


@given(formulas())
def test_rearrange_is_a_reshape_a_permutation_and_a_reshape(drawn):
    sizes, left, right = drawn
    whole = np.arange(prod(sizes.values())).reshape(tuple(sizes.values()))
    given = whole.reshape([prod(sizes[n] for n in group) for group in left])
    order = [list(sizes).index(name) for group in right for name in group]
    wanted = whole.transpose(order).reshape([prod(sizes[n] for n in group) for group in right])
    known = {name: sizes[name] for group in left for name in group[1:]}  # the first of a group follows
    x = Tensor(given, device="NUMPY")
    np.testing.assert_array_equal(x.rearrange(f"{_spelt(left)} -> {_spelt(right)}", **known).numpy(), wanted)


WRONG_FORMULAS = [
    "a b c", "a b -> a b", "a b c -> a b", "a b c -> a b d", "a a c -> a c", "a b (c -> a b c", "a (b (c)) -> a b c",
    "a b 3 -> a b", "(...) -> ...", "a (b q) c -> a b q c", "a b c ... ... -> a b c ...",
]  # fmt: skip


@pytest.mark.parametrize("formula", WRONG_FORMULAS)
def test_a_wrong_formula_raises_and_is_quoted(formula):
    with pytest.raises(RuntimeError, match="rearrange"):
        Tensor.zeros(2, 3, 4, device="NUMPY").rearrange(formula)
    with pytest.raises(RuntimeError, match="does not make up"):
        Tensor.zeros(2, 3, 4, device="NUMPY").rearrange("a b (c d) -> a b c d", c=3)


VIEWS = {
    "a step": lambda x: x[:, ::2],
    "a step backwards": lambda x: x[::-2, 1:, ::-1],
    "a step over padding": lambda x: x.pad((1, 1))[..., ::2],
    "windows": lambda x: x.unfold(1, 2, 1),
    "a diagonal": lambda x: x.diagonal(1, 1, 2),
    "a diagonal of a transpose, by its own axes": lambda x: x.diagonal(-1, 2, 1),
    "a part of a transpose": lambda x: x.transpose(0, 2)[1:, None, 0],
    "parts": lambda x: x.split([1, 4], 1)[1],
    "repeated": lambda x: x.unsqueeze(0).expand(5, *x.shape),
    "rearranged": lambda x: x.rearrange("a b (c d) -> d b c a", d=2),
}


@pytest.mark.parametrize("name", VIEWS)
def test_movement_that_strides_can_say_is_read_where_it_lies(name):
    x = Tensor(np.zeros((3, 5, 4), np.float32), device="NUMPY")
    (step,) = plan_of((VIEWS[name](x) + 1).node).steps
    assert step.inputs == [x.node]
