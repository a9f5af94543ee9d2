"""The values of Tensor's methods: those of torch, or of NumPy where torch has no such method.

`METHODS` spells each method twice. The operands are drawn, awkward values among them; results agree closely, and NaN,
infinities and integers exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from primitives import assert_close
from strategies import arrays, elements, laid_out, move, pooled
from torch.nn import functional as TF

from clgrad import Tensor

SHAPES = [(3, 4), (2, 3, 4), (5,), (1, 4), ()]
NONSCALAR = SHAPES[:4]
MATRICES = [(3, 4), (1, 4), (2, 1)]
FLOAT, INT, BOOL = ("float32", "float64"), ("int32", "int64", "uint8"), ("bool",)


class Method(NamedTuple):
    """`ours` on Tensors and `theirs` on torch's, of `arity` operands of one of `shapes` and `dtypes`."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    arity: int = 1
    dtypes: tuple[str, ...] = FLOAT
    shapes: list[tuple[int, ...]] = SHAPES
    plain: bool = False  # without NaN, infinities and the like
    ulp: int = 8  # in units of the largest finite magnitude in the result where `plain`, of each element where not


def same(function, **options) -> Method:
    return Method(function, function, **options)


def plain(ours, theirs=None, **options) -> Method:
    return Method(ours, theirs or ours, plain=True, **options)


def _index(x, rows):
    return torch.tensor(rows) if isinstance(x, torch.Tensor) else Tensor(rows, device=x.device)


# fmt: off
METHODS: dict[str, Method] = {
    # operators, between Tensors and with Python's numbers on either side
    "+ -": same(lambda a, b: a + b - 2, arity=2, dtypes=FLOAT + INT),
    "reversed": same(lambda a: 3 - a, dtypes=FLOAT + ("int32", "int64")),
    "*": same(lambda a, b: a * b * 2, arity=2, dtypes=FLOAT + INT),
    "/": same(lambda a, b: a / b, arity=2),
    "/ of integers": same(lambda a: a / 4, dtypes=INT),
    "1 /": same(lambda a: 1 / a),
    "// of integers": same(lambda a: a // 3, dtypes=("int32", "int64", "uint8")),
    "// of floats": plain(lambda a: a // 0.75),
    "% of integers": same(lambda a: a % 3, dtypes=("int32", "int64", "uint8")),
    "% of floats": plain(lambda a: a % 0.75),
    "** 2": same(lambda a: a**2, dtypes=FLOAT + INT),
    "** 0": same(lambda a: a**0),
    "** -1": same(lambda a: a**-1),
    "** 0.5": same(lambda a: a.abs()**0.5),
    "** tensor": plain(lambda a, b: a.abs() ** b, arity=2),
    "2 **": plain(lambda a: 2**a),
    "& | ^ ~": same(lambda a, b: (a & b) | (a ^ ~b), arity=2, dtypes=INT + BOOL),
    "<< >>": same(lambda a: (a << 2) >> 3, dtypes=("int32", "int64")),
    "<": same(lambda a, b: (a < b, a >= b), arity=2, dtypes=FLOAT + INT),
    "<=": same(lambda a, b: (a <= b, a > b), arity=2, dtypes=FLOAT + INT),
    "==": same(lambda a, b: (a == b, a != b), arity=2, dtypes=FLOAT + INT + BOOL),
    "!= 1": same(lambda a: a != 1, dtypes=FLOAT + INT),
    "mixed dtypes": Method(lambda a: a + a.cast("float32") * 2, lambda a: a + a.float() * 2, dtypes=INT),
    "int with float number": same(lambda a: a * 0.5, dtypes=INT),
    # elementwise
    "exp2": same(lambda x: x.exp2()),
    "log2": same(lambda x: x.log2()),
    "tan": plain(lambda x: x.tan(), ulp=16),
    "rsqrt": same(lambda x: x.rsqrt()),
    "square": same(lambda x: x.square()),
    "abs": same(lambda x: x.abs(), dtypes=FLOAT + INT),
    # torch's sign of NaN is 0, NumPy's is NaN
    "sign": Method(lambda x: x.sign(), lambda x: torch.from_numpy(np.array(np.sign(x.numpy()))), dtypes=FLOAT + INT),
    "ceil": same(lambda x: x.ceil()),
    "round": same(lambda x: x.round()),
    "trunc": same(lambda x: x.trunc()),
    "sigmoid": plain(lambda x: x.sigmoid()),
    "relu": same(lambda x: x.relu()),
    "silu": plain(lambda x: x.silu(), TF.silu),
    "gelu": plain(lambda x: x.gelu(), lambda x: TF.gelu(x, approximate="tanh")),
    "gelu none": plain(lambda x: x.gelu("none"), TF.gelu),
    "softplus": plain(lambda x: x.softplus(), lambda x: TF.softplus(x, threshold=100)),
    "softplus beta": plain(lambda x: x.softplus(2.0), lambda x: TF.softplus(x, 2.0, threshold=100)),
    "leaky_relu": Method(lambda x: x.leaky_relu(0.1), lambda x: TF.leaky_relu(x, 0.1)),
    "elu": Method(lambda x: x.elu(), TF.elu),
    "clip": same(lambda x: x.clip(-1, 2), dtypes=FLOAT + ("int32", "int64")),
    "clip below": Method(lambda x: x.clip(min_=0.5), lambda x: x.clip(min=0.5)),
    "maximum": Method(lambda a, b: a.maximum(b), torch.maximum, 2, FLOAT + INT + BOOL),
    "minimum": Method(lambda a, b: a.minimum(b), torch.minimum, 2, FLOAT + INT + BOOL),
    "isnan": same(lambda x: x.isnan()),
    "isinf": same(lambda x: x.isinf()),
    "isfinite": same(lambda x: x.isfinite()),
    "masked_fill": same(lambda x: x.masked_fill(x > 1, 2), dtypes=FLOAT + INT),
    "where with a number": Method(lambda x: (x > 0).where(x, 0), lambda x: torch.where(x > 0, x, 0),
                                  dtypes=FLOAT + INT),
    "lerp": plain(lambda a, b: a.lerp(b, 0.25), arity=2),
    "casts": Method(lambda x: (x.float(), x.double(), x.half(), x.bool()),
                    lambda x: (x.float(), x.double(), x.half(), x.bool()), dtypes=FLOAT + INT + BOOL),
    "int cast": plain(lambda x: x.int()),
    # reductions
    "sum": plain(lambda x: x.sum(), dtypes=FLOAT),
    "sum axes": plain(lambda x: x.sum((0, -1), True), shapes=[(3, 4), (2, 3, 4)]),
    "mean": plain(lambda x: x.mean(-1), shapes=NONSCALAR),
    "max": Method(lambda x: x.max(), lambda x: x.amax(), dtypes=FLOAT + INT),
    "max axis": Method(lambda x: x.max(0, keepdim=True), lambda x: x.amax(0, keepdim=True), dtypes=FLOAT + INT,
                       shapes=NONSCALAR),
    "min": Method(lambda x: x.min(-1), lambda x: x.amin(-1), dtypes=FLOAT + INT, shapes=NONSCALAR),
    "prod": plain(lambda x: x.prod(-1), shapes=NONSCALAR),
    "var": plain(lambda x: x.var(-1), shapes=[(3, 4), (5,)], ulp=32),
    "var population": plain(lambda x: x.var(0, correction=0), shapes=NONSCALAR, ulp=32),
    "std": plain(lambda x: x.std(), shapes=[(3, 4), (5,)], ulp=4096),
    "any all": Method(lambda x: (x.any(), x.all()), lambda x: (x.any(), x.all()), dtypes=BOOL + INT[:2]),
    "any axis": Method(lambda x: (x.any(-1), x.all(0)), lambda x: (x.any(-1), x.all(0)), dtypes=BOOL, shapes=NONSCALAR),
    "argmax": plain(lambda x: x.argmax(), shapes=NONSCALAR, dtypes=FLOAT + INT),
    "argmax axis": plain(lambda x: x.argmax(-1, keepdim=True), shapes=NONSCALAR, dtypes=FLOAT + INT),
    "argmin": plain(lambda x: x.argmin(0), shapes=NONSCALAR, dtypes=FLOAT + INT),
    "logsumexp": plain(lambda x: x.logsumexp(-1), shapes=NONSCALAR),
    "logsumexp all": plain(lambda x: x.logsumexp(), lambda x: x.flatten().logsumexp(0), shapes=NONSCALAR),
    "softmax": plain(lambda x: x.softmax(), lambda x: x.softmax(-1)),
    "log_softmax": plain(lambda x: x.log_softmax(0)),
    "cumsum": plain(lambda x: x.cumsum(-1), shapes=NONSCALAR, ulp=16),
    "layernorm": plain(lambda x: x.layernorm(), lambda x: TF.layer_norm(x, x.shape[-1:]),
                       shapes=[(3, 4), (2, 3, 4)], ulp=4096),
    # movement and indexing
    "reshape": same(lambda x: x.reshape(2, -1), shapes=[(3, 4), (2, 3, 4)], dtypes=FLOAT + INT + BOOL),
    "T": same(lambda x: x.T, shapes=MATRICES),
    "transpose": same(lambda x: x.transpose(0, -1), shapes=[(3, 4), (2, 3, 4)]),
    "squeeze": same(lambda x: x.squeeze(), shapes=[(1, 4), (2, 1, 3, 1)]),
    "unsqueeze": same(lambda x: x.unsqueeze(-1)),
    "flatten": same(lambda x: x.flatten(1), shapes=[(3, 4), (2, 3, 4)]),
    "flip": Method(lambda x: x.flip((0, -1)), lambda x: x.flip((0, -1)), shapes=[(3, 4), (2, 3, 4)],
                   dtypes=FLOAT + INT + BOOL),
    "expand": same(lambda x: x.unsqueeze(0).expand(3, *x.shape)),
    "pad": Method(lambda x: x.pad(((1, 0), (0, 2)), value=-1), lambda x: TF.pad(x, (0, 2, 1, 0), value=-1),
                  shapes=MATRICES,
                  dtypes=FLOAT + ("int32",)),
    "shrink": Method(lambda x: x.shrink(((0, 1), (1, 3))), lambda x: x[0:1, 1:3], shapes=[(3, 4)]),
    "repeat": same(lambda x: x.repeat(2, 1, 3), shapes=MATRICES),
    "split": same(lambda x: x.split(3, 1), shapes=[(3, 4), (2, 7)]),
    "chunk": same(lambda x: x.chunk(2, -1), shapes=[(3, 4), (2, 7)]),
    "cat": Method(lambda a, b: Tensor.cat(a, b, dim=-1), lambda a, b: torch.cat([a, b], -1),
                  2, FLOAT + INT + BOOL, NONSCALAR),
    "stack": Method(lambda a, b: Tensor.stack(a, b, dim=1), lambda a, b: torch.stack([a, b], 1),
                    2, FLOAT + INT, NONSCALAR),
    "slices": same(lambda x: (x[1:], x[..., -1], x[None, :, 1::2], x[-2:, :1]), shapes=[(3, 4), (5, 3)],
                   dtypes=FLOAT + INT + BOOL),
    "backwards": Method(lambda x: x[::-1, 3:0:-2], lambda x: torch.from_numpy(x.numpy()[::-1, 3:0:-2].copy()),
                        shapes=[(3, 4)]),
    "indices": same(lambda x: (x[_index(x, [2, 0, -1])], x[:, _index(x, [[0, 1], [3, -4]])]),
                    shapes=[(3, 4), (3, 4, 2)]),
    "two indices": same(lambda x: x[_index(x, [2, 0]), _index(x, [[1], [3]])], shapes=[(3, 4), (3, 4, 2)]),
    "take": Method(lambda x: x.take(_index(x, [[2, 0], [1, 1]])), lambda x: x[_index(x, [[2, 0], [1, 1]])],
                   shapes=[(3, 4), (5,)],
                   dtypes=FLOAT + INT + BOOL),
    "gather": same(lambda x: x.gather(1, _index(x, [[0, 3], [2, 2]])), shapes=[(3, 4)]),
    "tril triu": same(lambda x: (x.tril(), x.triu(1), x.tril(-1)), shapes=[(3, 4), (2, 3, 3)], dtypes=FLOAT + INT),
    # products
    "matmul": plain(lambda a, b: a @ b.transpose(-1, -2), arity=2, shapes=[(3, 4), (2, 3, 4), (1, 4)], ulp=16),
    "matmul of vectors": plain(lambda a, b: a @ b, arity=2, shapes=[(5,), (1,)], ulp=16),
    "matrix and vector": plain(lambda a, b: a @ b[0], arity=2, shapes=[(3, 4), (2, 3)], ulp=16),
    "matmul broadcast": plain(lambda a, b: a.unsqueeze(1) @ b.transpose(-1, -2), arity=2, shapes=[(2, 3, 4)], ulp=16),
    "matmul of integers": same(lambda a, b: a @ b.transpose(-1, -2), arity=2, shapes=[(3, 4)],
                               dtypes=("int32", "int64")),
    "attention": plain(lambda q, k: q.scaled_dot_product_attention(k, k, is_causal=True),
                       lambda q, k: TF.scaled_dot_product_attention(q, k, k, is_causal=True), arity=2,
                       shapes=[(2, 3, 4)], ulp=16),
}
# fmt: on


@st.composite
def operands(draw, name: str, dtypes=FLOAT + INT + BOOL) -> list[np.ndarray]:
    method = METHODS[name]
    dtype = np.dtype(draw(st.sampled_from([d for d in method.dtypes if d in dtypes])))
    shape = draw(st.sampled_from(method.shapes))
    found = []
    for _ in range(method.arity):
        array, steps = draw(laid_out(dtype, shape, elements(dtype, special=not method.plain)))
        for op, arg in steps:
            array = move(array, op, arg)
        found.append(np.array(array))
    return found


def check(name: str, got, want) -> None:
    """One result or several, dtype and all; argmax and the like may have a smaller integer dtype than torch's int64."""
    if isinstance(want, tuple):
        assert len(got) == len(want)
        for g, w in zip(got, want):
            check(name, g, w)
        return
    value, wanted = got.numpy(), want.numpy()
    if wanted.dtype.kind == "i" and value.dtype.kind == "i":
        wanted = wanted.astype(value.dtype)
    if METHODS[name].plain and wanted.dtype.kind == "f":
        assert value.dtype == wanted.dtype and value.shape == wanted.shape
        scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)))
        tolerance = METHODS[name].ulp * np.finfo(wanted.dtype).eps
        np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance * scale)
    else:
        assert_close(value, wanted, METHODS[name].ulp, signed_zero=False)


def results(name: str, drawn: list[np.ndarray], device: str):
    return METHODS[name].ours(*(Tensor(x, dtype=x.dtype, device=device) for x in drawn))


def torch_results(name: str, drawn: list[np.ndarray]):
    return METHODS[name].theirs(*(torch.from_numpy(np.array(x)) for x in drawn))


@pytest.mark.parametrize("name", METHODS)
@given(data=st.data())
def test_a_method_on_numpy_gives_what_torch_gives(name, data):
    drawn = data.draw(operands(name))
    check(name, results(name, drawn, "NUMPY"), torch_results(name, drawn))


ONCE = settings(max_examples=max(1, settings().max_examples // 25), phases=[Phase.explicit, Phase.generate])


@pytest.mark.parametrize("part", range(3))
@ONCE
@given(data=st.data())
def test_methods_on_opencl_give_what_torch_gives(cl, part, data):
    names = list(METHODS)[part::3]
    drawn = [data.draw(operands(name)) for name in names]
    found = [results(name, example, cl) for name, example in zip(names, drawn)]
    Tensor.realize_all([t for result in found for t in (result if isinstance(result, tuple) else (result,))])
    for name, example, result in zip(names, drawn, found):
        try:
            check(name, result, torch_results(name, example))
        except AssertionError as error:
            raise AssertionError(f"{name} of {example}: {error}") from None


@given(data=st.data())
def test_assignment_to_a_part_rebinds_and_leaves_earlier_views_alone(data):
    array = data.draw(arrays("int32", (4, 5)))
    x, expected = Tensor(array, device="NUMPY"), array.copy()
    before = x[1:3]

    def bounds(n: int):
        part = st.slices(n).filter(lambda s: len(range(*s.indices(n))) > 0)
        return part | st.integers(-n, n - 1)

    index = (data.draw(bounds(4)), data.draw(bounds(5)))
    value = data.draw(pooled(np.dtype("int32"), expected[index].shape, st.integers(-9, 9)))
    x[index] = Tensor(value, dtype="int32", device="NUMPY")
    expected[index] = value
    np.testing.assert_array_equal(x.numpy(), expected)
    np.testing.assert_array_equal(before.numpy(), array[1:3])
