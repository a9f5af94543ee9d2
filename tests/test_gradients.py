"""First and second derivatives of every differentiable primitive and of composites, against PyTorch.

`FUNCTIONS` spells each function twice. A test contracts it with a drawn cotangent, differentiates, contracts the
gradients again and differentiates once more. Float64 on NUMPY agrees closely; float32 on OpenCL has to agree loosely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import pooled
from torch.nn import functional as TF

from clgrad import Device, Tensor
from clgrad.engine.gradient import GRADIENTS
from clgrad.nn import functional as F

SHAPES = [(3, 4), (2, 3, 4), (5,), (1, 4), ()]
MATRICES = [(3, 4), (1, 4), (2, 1)]
ANY, POSITIVE, UNIT = st.floats(-3, 3, width=16), st.floats(0.25, 3, width=16), st.floats(-0.75, 0.75, width=16)
APART = "apart"  # values no two of which are equal


class Function(NamedTuple):
    """`ours` on Tensors and `theirs` on torch's, of `arity` operands of one shape, or of the shapes given as tuples."""

    ours: Callable[..., Tensor]
    theirs: Callable[..., torch.Tensor]
    arity: int = 1
    domain: Any = ANY
    shapes: list[tuple[int, ...]] = SHAPES
    operands: tuple[tuple[int, ...], ...] | None = None


def same(function, **options) -> Function:
    """Where both spell it alike."""
    return Function(function, function, **options)


def _on(x: Tensor, values) -> Tensor:
    return Tensor(np.asarray(values), device=x.device)


def _attention(causal: bool):
    return lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, is_causal=causal)


QKV = ((2, 3, 4), (2, 3, 4), (2, 3, 5))
MASK = np.array([[True, False, True], [True, True, False], [False, True, True]])
TARGETS = np.array([1, 0, 3])

# fmt: off
FUNCTIONS: dict[str, Function] = {
    # primitives
    "neg": same(lambda x: -x),
    "exp": same(lambda x: x.exp()),
    "log": same(lambda x: x.log(), domain=POSITIVE),
    "sin": same(lambda x: x.sin()),
    "cos": same(lambda x: x.cos()),
    "tanh": same(lambda x: x.tanh()),
    "sqrt": same(lambda x: x.sqrt(), domain=POSITIVE),
    "reciprocal": same(lambda x: x.reciprocal(), domain=POSITIVE),
    "erf": same(lambda x: x.erf()),
    "expm1": same(lambda x: x.expm1()),
    "log1p": same(lambda x: x.log1p(), domain=UNIT),
    "floor": same(lambda x: x.floor() * x),
    "add": same(lambda a, b: a + b, arity=2),
    "sub": same(lambda a, b: a - b, arity=2),
    "mul": same(lambda a, b: a * b, arity=2),
    "div": same(lambda a, b: a / b, arity=2, domain=POSITIVE),
    "mod": same(lambda a, b: a % b, arity=2, domain=POSITIVE),
    "max": Function(lambda a, b: a.maximum(b), torch.maximum, 2),
    "pow": same(lambda a, b: a.pow(b), arity=2, domain=POSITIVE),
    "where": Function(lambda a, b: (a < b).where(a * b, b), lambda a, b: torch.where(a < b, a * b, b), 2),
    "cast": Function(lambda x: x.cast("float32").cast(x.dtype) * x, lambda x: x.float().to(x.dtype) * x),
    "bitcast": Function(lambda x: (x.cast("float32").bitcast("int32") > 0).where(x, x * x),
                        lambda x: torch.where(x.float().view(torch.int32) > 0, x, x * x)),
    "reduce_sum": Function(lambda x: (x * x).sum(0), lambda x: (x * x).sum(0), shapes=SHAPES[:4]),
    "reduce_max": Function(lambda x: x.max(-1), lambda x: x.amax(-1), shapes=SHAPES[:4]),
    "reduce_prod": Function(lambda x: x.prod(-1), lambda x: x.prod(-1), shapes=SHAPES[:4]),
    "prod with zeros": Function(lambda x: x.prod(), lambda x: x.prod(), domain=st.sampled_from([0.0, 1.5, -2.0])),
    "reshape": same(lambda x: x.reshape(-1) ** 2),
    "permute": same(lambda x: x.permute(1, 0) ** 2, shapes=MATRICES),
    "expand": Function(lambda x: x.unsqueeze(0).expand(3, *x.shape) ** 3, lambda x: x[None].expand(3, *x.shape) ** 3),
    "pad": Function(lambda x: x.pad(((1, 2), (0, 1)), value=2.0) ** 2, lambda x: TF.pad(x, (0, 1, 1, 2), value=2.0) ** 2,
                    shapes=MATRICES),
    "shrink": same(lambda x: x[:, 1:3] ** 3, shapes=[(3, 4), (2, 3)]),
    "flip": Function(lambda x: x.flip(0) * x, lambda x: x.flip(0) * x, shapes=SHAPES[:4]),
    "dot": same(lambda a, b: a @ b, operands=((3, 4), (4, 2))),
    "gather": Function(lambda x: x.take(_on(x, [0, 2, 2, 1])) ** 2, lambda x: x[[0, 2, 2, 1]] ** 2,
                       shapes=[(3,), (3, 2)]),
    "scatter_add": Function(lambda x: Tensor._make("scatter_add", x, _on(x, [0, 2, 2, 1]), arg=4) ** 2,
                            lambda x: x.new_zeros(4, *x.shape[1:]).index_add(0, torch.tensor([0, 2, 2, 1]), x) ** 2,
                            shapes=[(4,), (4, 3)]),
    "scatter_set": Function(lambda x, v: Tensor._make("scatter_set", x, v**2, _on(x, [3, 1, 3])) ** 2,
                            lambda x, v: torch.stack([x[0], v[1] ** 2, x[2], v[2] ** 2]) ** 2,
                            operands=((4, 2), (3, 2))),
    "contiguous": same(lambda x: x.contiguous() * x),
    "barrier": Function(lambda x: Tensor._make("barrier", x) ** 2, lambda x: x**2),
    "copy": Function(lambda x: x.to("NUMPY").to(x.device) ** 2, lambda x: x**2),
    # elementwise composites
    "exp2": same(lambda x: x.exp2()),
    "log2": same(lambda x: x.log2(), domain=POSITIVE),
    "tan": same(lambda x: x.tan(), domain=UNIT),
    "rsqrt": same(lambda x: x.rsqrt(), domain=POSITIVE),
    "square": same(lambda x: x.square()),
    "abs": same(lambda x: x.abs() * x),
    "sign": same(lambda x: x.sign() * x),
    "round": same(lambda x: x.round() * x),
    "sigmoid": same(lambda x: x.sigmoid()),
    "relu": same(lambda x: x.relu() * x),
    "silu": Function(lambda x: x.silu(), TF.silu),
    "gelu tanh": Function(lambda x: x.gelu(), lambda x: TF.gelu(x, approximate="tanh")),
    "gelu erf": Function(lambda x: x.gelu("none"), TF.gelu),
    "softplus": Function(lambda x: x.softplus(), TF.softplus),
    "leaky_relu": Function(lambda x: x.leaky_relu(0.1), lambda x: TF.leaky_relu(x, 0.1)),
    # At 0 the first derivative bends, and torch's second is the right-hand one.
    "elu": Function(lambda x: x.elu(), TF.elu, domain=ANY.filter(bool)),
    "clip": Function(lambda x: x.clip(-1.0, 1.5) ** 2, lambda x: x.clamp(-1.0, 1.5) ** 2),
    "minimum": Function(lambda a, b: a.minimum(b), torch.minimum, 2),
    "masked_fill": Function(lambda x: x.masked_fill(x > 1, 0.5) * x, lambda x: x.masked_fill(x > 1, 0.5) * x),
    "lerp": Function(lambda a, b: a.lerp(b, 0.3) ** 2, lambda a, b: torch.lerp(a, b, 0.3) ** 2, 2),
    "pow 3": same(lambda x: x**3),
    "pow -2": same(lambda x: x**-2, domain=POSITIVE),
    "pow 2.5": same(lambda x: x**2.5, domain=POSITIVE),
    "2 pow": same(lambda x: 2**x),
    "broadcasting": same(lambda a, b: a * b + b, operands=((3, 1, 4), (2, 1))),
    # reductions
    "mean": same(lambda x: (x * x).mean()),
    "min": Function(lambda x: x.min(-1), lambda x: x.amin(-1), shapes=SHAPES[:4]),
    "var": Function(lambda x: x.var(-1), lambda x: x.var(-1), shapes=[(3, 4), (5,)]),
    "std": Function(lambda x: x.std(), lambda x: x.std(), domain=APART, shapes=[(3, 4), (5,)]),
    "logsumexp": Function(lambda x: x.logsumexp(-1), lambda x: x.logsumexp(-1), shapes=SHAPES[:4]),
    "softmax": Function(lambda x: x.softmax(-1), lambda x: x.softmax(-1)),
    "log_softmax": Function(lambda x: x.log_softmax(0), lambda x: x.log_softmax(0)),
    "cumsum": Function(lambda x: x.cumsum(0) ** 2, lambda x: x.cumsum(0) ** 2, shapes=SHAPES[:4]),
    "layernorm": Function(lambda x: x.layernorm(), lambda x: TF.layer_norm(x, x.shape[-1:]), domain=APART,
                          shapes=SHAPES[:3]),
    # indexing and joining
    "slices": same(lambda x: x[1:, None, ::2] ** 2, shapes=[(3, 4), (4, 5)]),
    "integers": same(lambda x: x[-1, 1] ** 2 + x[0], shapes=[(3, 4)]),
    "indices": Function(lambda x: x[_on(x, [0, 2, 2]), _on(x, [1, 0, -1])] ** 2,
                        lambda x: x[[0, 2, 2], [1, 0, -1]] ** 2, shapes=[(3, 4)]),
    "gather method": Function(lambda x: x.gather(1, _on(x, [[0, 1], [2, 2], [3, 0]])) ** 2,
                              lambda x: x.gather(1, torch.tensor([[0, 1], [2, 2], [3, 0]])) ** 2, shapes=[(3, 4)]),
    "cat": Function(lambda a, b: Tensor.cat(a, b, dim=0) ** 2, lambda a, b: torch.cat([a, b]) ** 2, 2,
                    shapes=SHAPES[:4]),
    "stack": Function(lambda a, b: Tensor.stack(a, b, dim=-1) ** 2, lambda a, b: torch.stack([a, b], -1) ** 2, 2),
    "repeat": same(lambda x: x.repeat(2, 3) ** 2, shapes=MATRICES),
    "split": Function(lambda x: x.split(2, 1)[1] * 2 + x.split(2, 1)[0] ** 2,
                      lambda x: x.split(2, 1)[1] * 2 + x.split(2, 1)[0] ** 2, shapes=[(3, 4)]),
    "tril": Function(lambda x: x.tril() ** 2, lambda x: x.tril() ** 2, shapes=[(3, 4), (4, 2)]),
    # products and losses
    "matmul batched": same(lambda a, b: a @ b, operands=((2, 1, 3, 4), (5, 4, 2))),
    "matmul vector": same(lambda a, b: a @ b, operands=((4,), (4, 3))),
    "linear": Function(lambda x, w, b: x.linear(w, b).tanh(), lambda x, w, b: (x @ w + b).tanh(),
                       operands=((2, 3), (3, 4), (4,))),
    "attention": Function(lambda q, k, v: q.scaled_dot_product_attention(k, v), _attention(False), operands=QKV),
    "attention causal": Function(lambda q, k, v: q.scaled_dot_product_attention(k, v, is_causal=True),
                                 _attention(True), operands=QKV),
    "attention masked": Function(lambda q, k, v: q.scaled_dot_product_attention(k, v, _on(q, MASK)),
                                 lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, torch.from_numpy(MASK)),
                                 operands=QKV),
    "cross-entropy": Function(lambda x: F.cross_entropy(x, _on(x, TARGETS)),
                              lambda x: TF.cross_entropy(x, torch.from_numpy(TARGETS)), shapes=[(3, 4)]),
    "cross-entropy smoothed": Function(lambda x: F.cross_entropy(x, _on(x, TARGETS), label_smoothing=0.1),
                                       lambda x: TF.cross_entropy(x, torch.from_numpy(TARGETS), label_smoothing=0.1),
                                       shapes=[(3, 4)]),
}
# fmt: on


class Example(NamedTuple):
    """Operands, a cotangent that is tiled to the result's size, and vectors that contract the first derivatives."""

    operands: list[np.ndarray]
    cotangent: np.ndarray
    directions: list[np.ndarray]


@st.composite
def examples(draw, name: str) -> Example:
    function = FUNCTIONS[name]
    shapes = function.operands or (draw(st.sampled_from(function.shapes)),) * function.arity

    def array(shape, domain):
        if domain is APART:
            return np.random.default_rng(draw(st.integers(0, 999))).normal(size=shape)
        return draw(pooled(np.dtype(np.float64), shape, domain))

    operands = [array(shape, function.domain) for shape in shapes]
    return Example(operands, array((7,), ANY), [array(shape, ANY) for shape in shapes])


def ours(name: str, example: Example, device: str, dtype: str) -> list[Tensor]:
    """The value, and the first and second derivatives for each operand."""
    xs = [Tensor(x, dtype=dtype, device=device, requires_grad=True) for x in example.operands]
    y = FUNCTIONS[name].ours(*xs)
    first = (y * Tensor(np.resize(example.cotangent, y.shape), dtype=dtype, device=device)).sum().gradient(*xs)
    along = sum((g * Tensor(v, dtype=dtype, device=device)).sum() for g, v in zip(first, example.directions))
    second = along.gradient(*xs) if along.requires_grad else [x.zeros_like() for x in xs]
    return [y, *first, *second]


def theirs(name: str, example: Example) -> list[np.ndarray]:
    xs = [torch.tensor(x, requires_grad=True) for x in example.operands]
    y = FUNCTIONS[name].theirs(*xs)
    weighted = (y * torch.from_numpy(np.resize(example.cotangent, y.shape))).sum()
    options: dict[str, Any] = {"create_graph": True, "materialize_grads": True}
    first = torch.autograd.grad(weighted, xs, **options)
    along = sum((g * torch.from_numpy(v)).sum() for g, v in zip(first, example.directions))
    second = torch.autograd.grad(along, xs, **options) if along.requires_grad else [torch.zeros_like(x) for x in xs]
    return [t.detach().numpy() for t in (y, *first, *second)]


def check(got: list[np.ndarray], want: list[np.ndarray], tolerance: float) -> None:
    operands = (len(want) - 1) // 2
    for what, ours_, theirs_ in zip(["value"] + ["first"] * operands + ["second"] * operands, got, want):
        assert ours_.shape == theirs_.shape
        scale = max(1.0, float(np.abs(theirs_[np.isfinite(theirs_)]).max(initial=0.0)))
        np.testing.assert_allclose(ours_, theirs_, rtol=tolerance, atol=tolerance * scale, err_msg=what)


def test_every_rule_of_the_gradient_table_is_tested():
    assert set(GRADIENTS) - {"composite"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(data=st.data())
def test_first_and_second_derivatives_are_those_of_torch(name, data):
    example = data.draw(examples(name))
    results = ours(name, example, "NUMPY", "float64")
    Tensor.realize_all(results)
    tolerance = 1e-5 if name in ("cast", "bitcast") else 1e-9  # those two go through float32
    check([result.numpy() for result in results], theirs(name, example), tolerance)


# Each function is some ten kernels to be built, so examples are few and none is shrunk.
ONCE = settings(max_examples=max(1, settings().max_examples // 25), phases=[Phase.explicit, Phase.generate])


@pytest.mark.parametrize("part", range(4))
@ONCE
@given(data=st.data())
def test_derivatives_on_opencl_are_those_of_torch(cl, part, data):
    names = list(FUNCTIONS)[part::4]
    drawn = [data.draw(examples(name)) for name in names]
    results = [ours(name, example, cl, "float32") for name, example in zip(names, drawn)]
    Tensor.realize_all([tensor for result in results for tensor in result])
    for name, example, result in zip(names, drawn, results):
        try:
            check([tensor.numpy() for tensor in result], theirs(name, example), 2e-4)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_gradient_of_gelu_is_0_or_1_far_out(device, dtype):
    if dtype == "float64" and not Device[device].supports(np.dtype(dtype)):
        pytest.skip(f"{device} has no float64")
    x = Tensor(np.array([-6e4, -300.0, -20.0, 20.0, 300.0, 6e4], dtype), device=device, requires_grad=True)
    x.gelu().sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 0, 1, 1, 1], rtol=0, atol=1e-30)
