"""What makes a Tensor a name: reading, gradients of anything, assignment, and the errors of impossible calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clgrad import Tensor, jit

rng = np.random.default_rng(0)


def both(array, device, requires_grad=True):
    array = np.asarray(array)
    x = Tensor(array, dtype=array.dtype, device=device, requires_grad=requires_grad)
    return x, torch.tensor(array, requires_grad=requires_grad)


# --- gradient -----------------------------------------------------------------------------------------------------


def test_gradients_of_leaves_and_of_values_on_the_way_are_torchs(device):
    x, tx = both(rng.normal(size=(3, 4)).astype("float32"), device)
    w, tw = both(rng.normal(size=(4, 2)).astype("float32"), device)

    def run(x, w):
        hidden = (x @ w).tanh()
        scaled = hidden * hidden.exp()
        return (scaled * hidden).sum(), (x, hidden, w, scaled)

    loss, targets = run(x, w)
    theirs, their_targets = run(tx, tw)
    found = loss.gradient(*targets)
    want = torch.autograd.grad(theirs, their_targets)
    for ours, other in zip(found, want, strict=True):
        np.testing.assert_allclose(ours.numpy(), other.numpy(), rtol=2e-5, atol=1e-6)
    assert x.grad is None and w.grad is None
    assert loss.gradient(loss)[0].item() == 1.0


def test_a_gradient_can_be_differentiated_for_a_value_on_the_way(device):
    x = Tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x * 3
    (first,) = (y * y * y).sum().gradient(y)
    (second,) = first.sum().gradient(y)
    assert first.tolist() == [27.0, 108.0] and second.tolist() == [18.0, 36.0]


def test_a_target_needs_no_requires_grad(device):
    """As in tinygrad: whatever the result was computed from."""
    a, b = (Tensor(v, device=device) for v in ([[1.0, 2.0]], [[3.0], [4.0]]))
    hidden = a @ b
    z = (hidden * hidden).sum()
    assert [g.tolist() for g in z.gradient(a, b, hidden)] == [[[66.0, 88.0]], [[22.0], [44.0]], [[22.0]]]
    assert not a.requires_grad and a.grad is None


def test_targets_that_nothing_depends_on_get_zeros_or_an_error(device):
    x, other = (Tensor([1.0, 2.0], device=device, requires_grad=True) for _ in range(2))
    loss = (x * x).sum()
    assert [g.tolist() for g in loss.gradient(other, x)] == [[0.0, 0.0], [2.0, 4.0]]
    with pytest.raises(RuntimeError, match=r"shape \(2,\)"):
        loss.gradient(other, materialize_grads=False)
    with pytest.raises(RuntimeError, match="does not depend"):
        loss.gradient(Tensor([1.0], device=device))
    with pytest.raises(RuntimeError, match="constant"):
        loss.gradient(Tensor(2.0, device=device))


def test_what_was_computed_without_requires_grad_says_that_its_history_is_gone(device):
    x = Tensor([1.0, 2.0], device=device)
    y = x * x
    assert y.tolist() == [1.0, 4.0]
    with pytest.raises(RuntimeError, match="requires_grad=True"):
        y.sum().gradient(x)


def test_a_gradient_given_stands_for_the_rest_of_the_road(device):
    x, tx = both(np.array([1.0, 2.0, 3.0], "float32"), device)
    g = np.array([1.0, 0.0, -2.0], "float32")
    (ours,) = (x * x).gradient(x, gradient=Tensor(g, device=device))
    (want,) = torch.autograd.grad(tx * tx, tx, torch.tensor(g))
    np.testing.assert_array_equal(ours.numpy(), want.numpy())


def test_gradients_under_jit(device):
    x = Tensor([1.0, 2.0], device=device)

    @jit
    def slopes(x):
        y = x * x
        return (y * y).sum().gradient(x, y)

    for _ in range(3):
        assert [g.tolist() for g in slopes(x)] == [[4.0, 32.0], [2.0, 8.0]]


@pytest.mark.parametrize("op", ["gradient", "backward"])
def test_impossible_gradients_are_torchs_kind_of_error(device, op):
    x, tx = both(np.ones((2, 3), "float32"), device)
    ours = (lambda y, g=None: y.gradient(x, gradient=g)) if op == "gradient" else lambda y, g=None: y.backward(g)
    with pytest.raises(RuntimeError):
        (tx * 2).backward()
    with pytest.raises(RuntimeError, match=rf"{op}: shape \(2, 3\)"):
        ours(x * 2)
    with pytest.raises(RuntimeError):
        (tx * 2).backward(torch.ones(3, 2))
    with pytest.raises(RuntimeError, match=r"\(3, 2\) does not fit \(2, 3\)"):
        ours(x * 2, Tensor.ones(3, 2, device=device))
    if op == "backward":
        with pytest.raises(RuntimeError):
            torch.ones(1).sum().backward()
        with pytest.raises(RuntimeError, match="requires_grad=True"):
            Tensor.ones(1, device=device).sum().backward()


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_what_a_tensor_says_of_itself_is_what_torch_says(device, shape):
    x, t = both(np.ones(shape, "float64"), device, requires_grad=False)
    assert (x.shape, x.ndim, x.numel(), x.element_size()) == (tuple(t.shape), t.ndim, t.numel(), t.element_size())
    assert x.size() == t.size() and x.nbytes() == t.nbytes and x.is_floating_point() and x.tolist() == t.tolist()
    assert [x.size(d) for d in range(-x.ndim, x.ndim)] == [t.size(d) for d in range(-t.ndim, t.ndim)]
    if shape:
        assert len(x) == len(t) and [row.shape for row in x] == [tuple(row.shape) for row in t]


def test_python_reads_single_elements(device):
    x = Tensor([[2.5]], device=device)
    assert (x.item(), float(x), int(x), bool(x)) == (2.5, 2.5, 2, True)
    assert [10, 20, 30][Tensor([1], device=device)] == 20 and f"{Tensor(3.14159, device=device):.2f}" == "3.14"
    assert 2.5 in x and 3 not in x and 2 in Tensor([[1, 2], [3, 4]], device=device)
    assert f"{x}" == str(x) == repr(x)


@pytest.mark.parametrize(
    ("ask", "shape"),
    [
        (lambda x: x.item(), (2, 3)), (float, (2, 3)), (int, (2, 3)), (bool, (2, 3)), (lambda x: [0, 1][x], (2, 3)),
        (lambda x: [0, 1][x], (1,)), (len, ()), (list, ()), (lambda x: x.size(2), (2, 3)),
        (lambda x: x.size(-3), (2, 3)), (lambda x: x.item(), (0,)),
    ],
)  # fmt: skip
def test_impossible_reads_are_torchs_kind_of_error(device, ask, shape):
    x, t = both(np.ones(shape, "float32"), device, requires_grad=False)
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError)) as theirs:
        ask(t)
    with pytest.raises(theirs.type) as ours:
        ask(x)
    assert not shape or str(shape) in str(ours.value) or f"{len(shape)} dimensions" in str(ours.value)


# --- requires_grad, detach, assign ----------------------------------------------------------------------------------


def test_requires_grad_is_an_argument_of_everything_that_makes_a_float(device):
    options = dict(device=device, requires_grad=True)
    for x in (
        Tensor([1.0, 2.0], **options), Tensor(np.ones(2), **options), Tensor(Tensor([1.0]), **options),
        Tensor(2.0, **options), Tensor.zeros(2, **options), Tensor.ones(2, **options),
        Tensor.full((2,), 3.0, **options), Tensor.rand(2, **options), Tensor.randn(2, **options),
        Tensor.uniform(2, **options), Tensor.normal(2, **options),
    ):  # fmt: skip
        assert x.requires_grad
        (x * x).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), 2 * x.numpy())
        assert not x.detach().requires_grad and x.detach().tolist() == x.tolist()
    with pytest.raises(RuntimeError):
        torch.tensor([1], requires_grad=True)
    with pytest.raises((TypeError, RuntimeError), match="int64"):
        Tensor([1], requires_grad=True)


def test_assignment_rebinds_the_name_and_casts(device):
    x = Tensor([[1.0, 2.0]], device=device)
    before = x.reshape(2)
    x.assign([[3.0, 4.0]])
    assert x.tolist() == [[3.0, 4.0]] and before.tolist() == [1.0, 2.0]
    x.assign(Tensor([[5, 6]], device=device))
    assert x.dtype == "float32" and x.tolist() == [[5.0, 6.0]]
    with pytest.raises(RuntimeError, match=r"\(2,\).*\(1, 2\)"):
        x.assign(Tensor([1.0, 2.0], device=device))


def test_realize_and_contiguous_change_no_value(device):
    x = Tensor(rng.normal(size=(3, 4)), device=device)
    y = x.permute(1, 0) * 2
    assert y.realize() is y and y.contiguous().tolist() == y.tolist() == (2 * x.numpy().T).tolist()


@pytest.mark.parametrize(
    ("shape", "bad"),
    [((2,), (3,)), ((), (1,)), ((2,), (1, 2))],
)
def test_a_gradient_of_another_shape_is_refused(device, shape, bad):
    x, t = both(np.ones(shape, "float32"), device)
    with pytest.raises(RuntimeError):
        t.grad = torch.ones(bad)
    with pytest.raises(RuntimeError, match="no gradient of"):
        x.grad = Tensor.ones(*bad, device=device)


def test_a_gradient_is_a_tensor_on_the_same_device(cl):
    x = Tensor([1.0, 2.0], device="NUMPY", requires_grad=True)
    with pytest.raises(TypeError, match="not ndarray"):
        x.grad = np.ones(2, "float32")
    with pytest.raises(ValueError, match=f"on {cl} is no gradient of .* on NUMPY"):
        x.grad = Tensor.ones(2, device=cl)
    for given in ([1.0, 1.0], np.ones(2, "float32"), 1.0):
        with pytest.raises(TypeError, match="backward: gradient= must be a Tensor"):
            (x * 2).backward(given)
    with pytest.raises(ValueError, match=f"on {cl} .* does not fit .* on NUMPY"):
        (x * 2).gradient(x, gradient=Tensor.ones(2, device=cl))
    assert x.grad is None


def test_backward_adds_to_grad_and_create_graph_keeps_it_differentiable(device):
    x, t = both(np.array([1.0, -2.0], "float32"), device)
    for _ in range(2):
        (x * x * x).sum().backward(create_graph=True)
        (t * t * t).sum().backward(create_graph=True)
        np.testing.assert_array_equal(x.grad.numpy(), t.grad.detach().numpy())
    (second,) = x.grad.sum().gradient(x)
    (wanted,) = torch.autograd.grad(t.grad.sum(), t)
    np.testing.assert_array_equal(second.numpy(), wanted.numpy())
    x.grad = None
    assert x.grad is None


def test_no_grad_and_requires_grad_say_what_keeps_a_history(device):
    x = Tensor([1.0], device=device)
    assert not x.requires_grad and x.requires_grad_() is x and x.requires_grad
    with Tensor.no_grad():
        assert not (x * 2).requires_grad
    assert Tensor.no_grad()(lambda: x * 2)().requires_grad is False and (x * 2).requires_grad
    x.requires_grad = False
    assert not (x * 2).requires_grad


def test_to_moves_a_copy_and_to_moves_the_name_itself(cl):
    x = Tensor([1.0, 2.0], device="NUMPY", requires_grad=True)
    (x.to(cl) * 3).sum().backward()
    assert x.device == x.grad.device == "NUMPY" and x.grad.tolist() == [3.0, 3.0]
    assert x.to_(cl) is x and x.device == x.grad.device == cl
    assert x.requires_grad and x.tolist() == [1.0, 2.0] and x.grad.tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match=rf"{cl} and NUMPY|NUMPY and {cl}"):
        x + Tensor([1.0], device="NUMPY") * 1


def test_explain_tells_every_stage(device):
    text = (Tensor([1.0, 2.0], device=device) * 2).explain()
    assert all(word in text for word in ("test_tensor.py", "graph", "schedule", "mul"))


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda x: x.sum(dims=0), r"^Tensor\.sum\(\) got an unexpected keyword argument 'dims'"),
        (lambda x: x.matmul(), r"^Tensor\.matmul\(\) missing 1 required positional argument"),
        (lambda x: x.exp(1), r"^Tensor\.exp\(\) takes 1 positional argument but 2 were given"),
    ],
)
def test_wrong_arguments_name_the_method_as_its_caller_knows_it(call, said):
    with pytest.raises(TypeError, match=said):
        call(Tensor([1.0]))
