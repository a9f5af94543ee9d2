"""What stays in memory, what is computed twice, and what is not."""

import gc

import numpy as np
import pytest

from clgrad import Device, Tensor, nn
from clgrad.engine import node as nodes


def two_layers(device, width=12):
    Tensor.manual_seed(5)
    w = Tensor.randn(8, width, device=device, requires_grad=True)
    v = Tensor.randn(width, 4, device=device, requires_grad=True)
    x = Tensor.randn(6, 8, device=device)
    Tensor.realize_all([w, v, x])
    return w, v, x


def forward(w, v, x):
    return ((x @ w).softmax() @ v).square().mean()


def test_reading_a_loss_before_backward_keeps_the_graph_and_the_gradient(device):
    w, v, x = two_layers(device)
    forward(w, v, x).backward()
    expected = w.grad.numpy(), v.grad.numpy()
    w.grad = v.grad = None
    loss = forward(w, v, x)
    first = loss.item()
    loss.backward()
    assert loss.item() == first
    np.testing.assert_allclose(w.grad.numpy(), expected[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(v.grad.numpy(), expected[1], rtol=1e-5, atol=1e-7)


def test_backward_after_reading_runs_no_forward_contraction_or_reduction_again(device, monkeypatch):
    """Counted as the dots that run: a forward pass has two, its gradients for w and v three more."""
    from clgrad.engine import program, realize

    program.PROGRAMS.clear()  # so that everything is scheduled here
    dots = []
    original = realize.lower

    def counting(steps, specialise):
        dots.extend(step.kernel.kind for step in steps if step.kernel is not None and step.kernel.kind == "dot")
        return original(steps, specialise)

    monkeypatch.setattr(realize, "lower", counting)
    w, v, x = two_layers(device)
    dots.clear()
    loss = forward(w, v, x)
    loss.item()
    assert len(dots) == 2
    dots.clear()
    loss.backward()
    Tensor.realize_all([w.grad, v.grad])
    assert len(dots) == 3  # for v; for the softmax; and from there for w
    dots.clear()
    loss.item()
    assert not dots


def test_hundreds_of_steps_with_a_running_total_leave_nodes_and_bytes_flat(device):
    w, v, x = two_layers(device, 4)
    optimizer = nn.optim.SGD([w, v], lr=0.01)
    total = Tensor(0.0, device=device)
    marks = []
    for step in range(400):
        optimizer.zero_grad()
        loss = forward(w, v, x)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        if step in (20, 200, 399):
            gc.collect()
            marks.append((nodes.live_nodes(), Device[device].counters.live_bytes))
    assert marks[0] == marks[1] == marks[2]
    assert 0 < total.item() < 400 * 100


def test_a_running_total_without_an_optimiser_is_flat_once_it_is_read(device):
    total = Tensor(0.0, device=device)
    marks = []
    for i in range(300):
        total += Tensor([float(i)], device=device).sum()
        total.realize()
        if i in (10, 299):
            gc.collect()
            marks.append((nodes.live_nodes(), Device[device].counters.live_bytes))
    assert marks[0] == marks[1]
    assert total.item() == sum(range(300))


def test_dropping_a_loss_frees_what_its_backward_pass_would_have_read(device):
    w, v, x = two_layers(device)
    gc.collect()
    before = Device[device].counters.live_bytes
    loss = forward(w, v, x)
    loss.item()
    assert Device[device].counters.live_bytes > before + 4
    del loss
    assert Device[device].counters.live_bytes == before


def test_gradients_do_not_keep_the_graph_alive(device):
    w, v, x = two_layers(device)
    forward(w, v, x).backward()
    Tensor.realize_all([w.grad, v.grad])
    gc.collect()
    live = Device[device].counters.live_bytes
    w.grad = v.grad = None
    freed = live - Device[device].counters.live_bytes
    assert freed == 4 * (w.numel() + v.numel())


def test_two_zero_biases_are_two_leaves(device):
    a, b = (Tensor.zeros(3, device=device, requires_grad=True) for _ in range(2))
    (a * 1 + b * 2).sum().backward()
    assert a.grad.tolist() == [1.0] * 3 and b.grad.tolist() == [2.0] * 3


def test_constants_are_told_apart_by_dtype_and_bits():
    def one(value, dtype):
        return nodes.constant(value, nodes.DType(dtype), (), "NUMPY")

    assert one(0.0, "float32") is one(0.0, "float32")
    assert one(0.0, "float32") is not one(-0.0, "float32")
    assert one(1, "int32") is not one(1, "int64") and one(1, "int32") is not one(True, "bool")
    nan = float("nan")
    assert one(nan, "float32") is one(nan, "float32")


def test_a_chain_of_thousands_of_operations_needs_no_recursion(device):
    x = Tensor([1.0], device=device, requires_grad=True)
    y = x
    for _ in range(3000):
        y = y + 1
    y.backward()
    assert y.item() == 3001.0 and x.grad.item() == 1.0


@pytest.mark.parametrize("rebind", ["assign", "setitem"])
def test_a_view_taken_before_a_rebinding_keeps_the_old_value(device, rebind):
    x = Tensor([1.0, 2.0, 3.0], device=device)
    view = x[1:]
    if rebind == "assign":
        x.assign(Tensor([7.0, 8.0, 9.0], device=device))
    else:
        x[1:] = Tensor([8.0, 9.0], device=device)
    assert view.tolist() == [2.0, 3.0] and x.tolist()[1:] == [8.0, 9.0]


def test_assigning_a_number_does_not_reach_what_shares_the_old_value(device):
    x = Tensor([1.0, 2.0], device=device).realize()
    kept, view, lazy = x.detach(), x[:1], x * 10
    x.assign([5.0, 6.0])
    assert kept.tolist() == [1.0, 2.0] and view.tolist() == [1.0] and lazy.tolist() == [10.0, 20.0]
    x.assign([7.0, 8.0])
    assert x.tolist() == [7.0, 8.0]


def test_a_value_that_cannot_be_computed_does_not_stop_an_update_that_nothing_wants_it_for():
    w = Tensor([1.0, 2.0, 3.0], device="NUMPY", requires_grad=True)
    wrong = w.take(Tensor(np.array([5]), device="NUMPY")) + w.sum()
    w.assign((w * 2).detach()).realize()
    assert w.tolist() == [2.0, 4.0, 6.0]
    with pytest.raises(IndexError, match="index 5 is out of range for 3 rows"):
        wrong.tolist()
