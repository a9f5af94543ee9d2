"""Functions of functions give what torch.func gives, nest, and leave everything else as it was."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clgrad
from clgrad import Tensor, grad, hessian, hvp, jacrev, jit, jvp, value_and_grad, vjp
from clgrad.engine.node import live_nodes
from clgrad.engine.ops import ShapeError

# What is drawn is written with methods that both libraries have under one name.
UNARY = ["sin", "tanh", "sigmoid", "square", "exp"]
BINARY = ["add", "sub", "mul"]


@st.composite
def expressions(draw):
    """(function of two arrays, shapes): smooth, mixing both arguments, and alike in both libraries."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shapes = (rows, columns), draw(st.sampled_from([(rows, columns), (columns,), (rows, 1), ()]))
    steps = draw(st.lists(st.tuples(st.sampled_from(UNARY), st.sampled_from(BINARY), st.booleans()), max_size=3))

    def function(x, y):
        value = x * y
        for unary, binary, other in steps:
            value = getattr(getattr(value, unary)() * 0.5, binary)(y if other else x)
        return value

    return function, shapes


SEEDS = st.integers(0, 999)


def drawn(shapes, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def mine(tree, device="NUMPY"):
    return mapped(lambda a: Tensor(a, device=device), tree)


def theirs(tree):
    return mapped(torch.tensor, tree)


def mapped(function, tree):
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(function, branch) for branch in tree)
    if isinstance(tree, dict):
        return {key: mapped(function, branch) for key, branch in tree.items()}
    return function(tree)


def assert_same(got, expected):
    """The same structure, shapes and dtypes, and values to the rounding of float64."""
    if isinstance(expected, (list, tuple)):
        assert type(got) is type(expected) and len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    else:
        want = expected.detach().numpy()
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-9)


def check(call, reference, *arrays, device="NUMPY"):
    assert_same(call(*mine(list(arrays), device)), reference(*theirs(list(arrays))))


# --- against torch.func -----------------------------------------------------------------------------------------------


@given(expressions(), st.sampled_from([0, 1, -1, (0,), (1, 0), (0, 1)]), SEEDS)
def test_grad_and_value_equal_torchs_for_every_choice_of_arguments(expression, argnums, seed):
    function, shapes = expression
    scalar = lambda x, y: function(x, y).sum()  # noqa: E731
    arrays = drawn(shapes, seed)
    check(grad(scalar, argnums), torch.func.grad(scalar, argnums), *arrays)
    expected = torch.func.grad_and_value(scalar, argnums)
    check(value_and_grad(scalar, argnums), lambda *a: expected(*a)[::-1], *arrays)


@given(expressions(), SEEDS)
def test_vjp_and_jvp_of_several_outputs_equal_torchs(expression, seed):
    function, shapes = expression
    several = lambda x, y: {"whole": function(x, y), "parts": (x.sum(0), (x * y).sum())}  # noqa: E731
    arrays = drawn(shapes, seed)
    outputs, pull = vjp(several, *mine(arrays))
    expected, reference = torch.func.vjp(several, *theirs(arrays))
    assert_same(outputs, expected)
    shape = outputs["whole"].shape
    for again in range(2):
        a, b, c = drawn([shape, (shapes[0][1],), ()], seed + 1 + again)
        cotangents = {"whole": a, "parts": (b, c)}
        assert_same(pull(mine(cotangents)), reference(theirs(cotangents)))
    tangents = drawn(shapes, seed + 3)
    assert_same(
        jvp(several, tuple(mine(arrays)), tuple(mine(tangents))),
        torch.func.jvp(several, tuple(theirs(arrays)), tuple(theirs(tangents))),
    )


@settings(max_examples=max(5, settings().max_examples // 4))
@given(expressions(), st.sampled_from([0, 1, (0, 1)]), SEEDS)
def test_hvp_hessian_and_jacobian_equal_torchs(expression, argnums, seed):
    function, shapes = expression
    scalar = lambda x, y: function(x, y).sum()  # noqa: E731
    arrays, tangents = drawn(shapes, seed), drawn(shapes, seed + 1)
    assert_same(
        hvp(scalar, tuple(mine(arrays)), tuple(mine(tangents))),
        torch.autograd.functional.hvp(scalar, tuple(theirs(arrays)), tuple(theirs(tangents))),
    )
    check(hessian(scalar, argnums), torch.func.hessian(scalar, argnums), *arrays)
    check(jacrev(function, argnums), torch.func.jacrev(function, argnums), *arrays)


OPERATIONS = {
    "softmax": lambda x: x.softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "cumsum": lambda x: x.cumsum(0),
    "max": lambda x: x.max(),
    "prod": lambda x: x.prod(),
    "matmul": lambda x: x @ x.T,
    "where": lambda x: (x > 0).where(x * x, x.exp()) if isinstance(x, Tensor) else torch.where(x > 0, x * x, x.exp()),
    "slice": lambda x: x[1:, ::2] * x[0, 0],
    "attention": lambda x: (
        x[None, None].scaled_dot_product_attention(x[None, None], x.sin()[None, None])
        if isinstance(x, Tensor)
        else ((x @ x.T / 2).softmax(-1) @ x.sin())[None, None]  # torch's own has no forward derivative
    ),
    "constant": lambda x: (x * 0 + 1).detach(),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_products_through_an_operation_equal_torchs(device, name):
    f = OPERATIONS[name]
    x, t = drawn([(3, 4), (3, 4)], 5)
    call = lambda x, t: jvp(f, (x,), (t,))  # noqa: E731
    check(call, lambda x, t: torch.func.jvp(f, (x,), (t,)), x, t, device=device)
    g = drawn([f(theirs(x)).shape], 6)[0]
    check(lambda x, g: vjp(f, x)[1](g), lambda x, g: torch.func.vjp(f, x)[1](g), x, g, device=device)


def test_structures_of_tensors_are_differentiated_as_torchs_are():
    def loss(parameters, x):
        for layer in parameters["layers"]:
            x = (x @ layer["w"] + layer["b"]).tanh()
        return (x * parameters["scale"][0]).sum(), {"activation": x}

    w, b, w2, b2, scale, x = drawn([(3, 4), (4,), (4, 2), (2,), (2,), (5, 3)], 0)
    parameters = {"layers": [{"w": w, "b": b}, {"w": w2, "b": b2}], "scale": (scale,)}
    got = grad(loss, has_aux=True)(mine(parameters), mine(x))
    assert_same(got, torch.func.grad(loss, has_aux=True)(theirs(parameters), theirs(x)))
    (value, aux), gradients = value_and_grad(loss, has_aux=True)(mine(parameters), mine(x))
    expected, (wanted, wanted_aux) = torch.func.grad_and_value(loss, has_aux=True)(theirs(parameters), theirs(x))
    assert_same((value, aux, gradients), (wanted, wanted_aux, expected))
    outputs, pull, aux = vjp(loss, mine(parameters), mine(x), has_aux=True)
    wanted, reference, wanted_aux = torch.func.vjp(loss, theirs(parameters), theirs(x), has_aux=True)
    assert_same((outputs, aux), (wanted, wanted_aux))
    assert_same(pull(Tensor(2.0)), reference(torch.tensor(2.0)))
    one = lambda x: loss(mine(parameters), x)  # noqa: E731
    other = lambda x: loss(theirs(parameters), x)  # noqa: E731
    assert_same(
        jvp(one, (mine(x),), (mine(x),), has_aux=True), torch.func.jvp(other, (theirs(x),), (theirs(x),), has_aux=True)
    )
    assert_same(jacrev(lambda p: p["b"] * 2)({"b": mine(b), "unused": None})["b"], theirs(2 * np.eye(4)))


# --- nesting ----------------------------------------------------------------------------------------------------------


def repeatedly(derivative, function, order):
    for _ in range(order):
        function = derivative(function)
    return function


@pytest.mark.parametrize("order", range(1, 5))
def test_calls_nest_to_any_order(order):
    f = lambda x: (x.sin() * x).exp()  # noqa: E731
    check(repeatedly(grad, f, order), repeatedly(torch.func.grad, f, order), np.array(0.7))
    forward = lambda f: lambda x: jvp(f, (x,), (x * 0 + 1,))[1]  # noqa: E731
    check(repeatedly(forward, f, order), repeatedly(torch.func.grad, f, order), np.array(0.7))


def test_each_call_differentiates_for_its_own_inputs():
    one, five = Tensor(1.0), Tensor(5.0)
    assert grad(lambda x: x * grad(lambda y: x + y)(one))(five).item() == 1.0
    assert grad(lambda x: x * grad(lambda y: x * y)(one))(five).item() == 10.0
    assert grad(lambda x: grad(lambda y: x * y * y)(x))(five).item() == 20.0
    assert grad(lambda x: vjp(lambda y: x * y, x)[1](x)[0])(five).item() == 10.0


def test_a_gradient_keeps_what_it_depends_on_outside():
    """An input or a closure that requires grad is a leaf to a backward of the result, as in torch."""
    a, b = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    results = []
    for make in (lambda x: Tensor(x, requires_grad=True), lambda x: torch.tensor(x, requires_grad=True)):
        x, w = make(a), make(b)
        slope = (grad if isinstance(x, Tensor) else torch.func.grad)(lambda x, w=w: (x * x * w).sum())(x)
        slope.sum().backward()
        results.append((x.grad, w.grad))
    assert_same(*results)


# --- what is left alone ---------------------------------------------------------------------------------------------


def test_nothing_is_left_behind():
    x, w = Tensor([1.0, 2.0]), Tensor([3.0, 4.0], requires_grad=True)
    values = [
        *value_and_grad(lambda x: (x * x).sum())(x),
        *jvp(lambda x: x * x, (x,), (x,)),
        *hvp(lambda x: (x * x * x).sum(), x, x),
        vjp(lambda x: x, x)[0],
        hessian(lambda x: (x * x).sum())(x),
        grad(lambda x: (x * x).sum(), has_aux=False)(x),
    ]
    assert not any(v.requires_grad for v in values) and not x.requires_grad
    grad(lambda x: (x * w).sum())(x).numpy()
    grad(lambda w: (w * w).sum())(w).numpy()
    assert w.grad is None and x.grad is None and w.requires_grad


def test_many_calls_leave_no_nodes():
    x, derivative = Tensor([1.0, 2.0]), value_and_grad(lambda x: (x * x).sum())
    seen = []
    for _ in range(20):
        value, slope = derivative(x)
        Tensor.realize_all([value, slope])
        x = x - slope * 0.1
        x.realize()
        seen.append(live_nodes())
    assert len(set(seen[2:])) == 1


def test_no_grad_outside_does_not_count_and_inside_does():
    x = Tensor([1.0, 2.0])
    w = Tensor([5.0, 6.0], requires_grad=True)

    def inside(x):
        with Tensor.no_grad():
            constant = x * x
        return (x * constant * w).sum()

    with Tensor.no_grad():
        slope, (value, flow), (_, pull) = grad(inside)(x), jvp(inside, (x,), (x,)), vjp(inside, x)
        (pulled,) = pull(Tensor(1.0))
    assert slope.tolist() == pulled.tolist() == [5.0, 24.0] and flow.item() == 53.0 and value.item() == 53.0
    assert not any(t.requires_grad for t in (slope, value, flow, pulled))
    assert (x * w).requires_grad


def test_the_function_may_read_values_and_rebind_its_arguments():
    def f(x):
        total = 0.0
        while x.sum().item() < 20:
            x = x * 2
            total = total + x.sum()
        x[0] = x[0] * x[0]
        return total + x.sum()

    x = Tensor([1.0, 2.0])
    value, slope = value_and_grad(f)(x)
    assert value.item() == 42 + 64 + 16 and slope.tolist() == [14 + 2 * 64, 14 + 8] and x.tolist() == [1.0, 2.0]


# --- under jit --------------------------------------------------------------------------------------------------------


def test_jitted_derivatives_equal_the_plain_ones(device):
    f = lambda x, y: (x.sin() * y).sum() + (x * x * x).sum()  # noqa: E731

    def everything(x, y):
        return (
            value_and_grad(f, (0, 1))(x, y),
            hvp(f, (x, y), (y, x)),
            hessian(f)(x, y),
            jvp(f, (x, y), (y, x)),
            vjp(lambda x, y: (x * y, x.sum()), x, y)[1]((y, x.max())),
        )

    jitted = jit(everything)
    for seed in range(3):
        x, y = mine(drawn([(3,), (3,)], seed), device)
        plain = mapped(lambda t: torch.tensor(t.numpy()), everything(x, y))
        assert_same(jitted(x, y), plain)
    assert jitted.traces == 1


# --- errors -----------------------------------------------------------------------------------------------------------

X = Tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: grad(lambda x: x)(X), ShapeError, r"\(2,\), no scalar"),
        (lambda: grad(lambda x: x.sum().cast("int32"))(X), TypeError, r"Tensor of floats, not int32 \(\)"),
        (lambda: grad(lambda x: 1.0)(X), TypeError, "not float"),
        (lambda: grad(lambda x: x.sum())(Tensor([1, 2])), TypeError, r"not for int64 \(2,\)"),
        (lambda: grad(lambda x: x.sum())("x"), TypeError, "not for str"),
        (lambda: grad(lambda x: x.sum(), 1)(X), RuntimeError, "no argument 1 among 1"),
        (lambda: grad(lambda x, y: x.sum(), (0, -2))(X, X), RuntimeError, "twice"),
        (lambda: grad(lambda x: x.sum(), has_aux=True)(X), TypeError, r"pair \(output, aux\)"),
        (lambda: vjp(lambda x: x, X)[1](Tensor([1.0])), ShapeError, r"\(1,\) does not fit \(2,\)"),
        (lambda: vjp(lambda x: (x, x), X)[1](X), TypeError, r"structure \(True, True\)"),
        (lambda: vjp(lambda x: x, X)[1](1.0), TypeError, "must be Tensors, not float"),
        (lambda: vjp(lambda x: (x, "x"), X), TypeError, "not str"),
        (lambda: jvp(lambda x: x, X, X), TypeError, "must be tuples"),
        (lambda: jvp(lambda x: x, (X,), (Tensor(1.0),)), ShapeError, r"\(\) does not fit \(2,\)"),
        (lambda: jvp(lambda x: x, (X,), (X, X)), TypeError, "structure"),
        (lambda: hvp(lambda x: x * x, X, X), ShapeError, "no scalar"),
    ],
)
def test_errors_say_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_number_may_stand_for_a_tensor_and_names_are_public():
    assert clgrad.grad(lambda x, n: x**n)(3.0, 2).item() == 6.0
    assert grad(lambda x, *, scale: x * scale)(Tensor(3.0), scale=2.0).item() == 2.0


@pytest.mark.parametrize("shape", [(0,), (2, 0), (1,), ()])
def test_inputs_without_elements_or_with_one(shape):
    f = lambda x: (x * x).sum()  # noqa: E731
    x = np.ones(shape)
    check(grad(f), torch.func.grad(f), x)
    check(hessian(f), torch.func.hessian(f) if x.size else lambda x: torch.zeros(shape + shape).double(), x)
    check(jacrev(lambda x: x * 2), lambda x: 2 * torch.eye(x.numel()).reshape(shape + shape).double(), x)
