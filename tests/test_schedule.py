"""What is one kernel, and what is not."""

import numpy as np
import pytest

from clgrad import Tensor, nn
from clgrad.engine import explain, simplify
from clgrad.engine.ops import RULES, describe


def kernels(*tensors):
    """The kinds of the kernels that realising the Tensors would run."""
    from clgrad.engine import realize

    plan = realize.plan_for([t.node for t in tensors])[1]
    return [step.kernel.kind for step in plan.steps]


def data(*shape):
    return Tensor(np.ones(shape, np.float32))


def test_a_chain_of_elementwise_operations_and_movement_is_one_loop():
    x, y = data(4, 6), data(6, 4)
    assert kernels(((x.exp() + y.T) * 2).reshape(2, 2, 6).flip(0)[:, 1:]) == ["loop"]


def test_a_softmax_a_layernorm_and_a_cross_entropy_are_one_row_kernel_each():
    x = data(8, 16)
    assert kernels(x.softmax()) == ["row"]
    assert kernels((x.layernorm() * 2 + 1).gelu()) == ["row"]
    loss = nn.functional.cross_entropy(x, Tensor(np.zeros(8, np.int32)), reduction="none")
    assert kernels(loss) == ["row"]


def test_the_gradient_of_a_softmax_is_one_row_kernel():
    x = data(8, 16).requires_grad_()
    x.realize()
    y = x.softmax()
    y.realize()
    assert kernels(y.gradient(x, gradient=data(8, 16))[0]) == ["row"]


def test_bias_activation_and_residual_ride_on_the_dot():
    x, w, b, r = data(8, 4), data(4, 6), data(6), data(8, 6)
    assert kernels((x @ w + b).gelu() + r) == ["dot"]


def test_operands_of_a_dot_are_read_as_they_lie():
    x, w = data(8, 4), data(6, 4)
    assert kernels(x @ w.T) == ["dot"]
    assert kernels(data(2, 5, 3, 4).permute(0, 2, 1, 3) @ data(2, 5, 3, 4).permute(0, 2, 3, 1)) == ["dot"]


def test_what_two_kernels_read_is_computed_again_if_cheap_and_stored_if_dear():
    x, w, v = data(8, 8), data(8, 8), data(8, 8)
    cheap, dear = x + 1, (x + 1).tanh()
    assert kernels(cheap.sum(0), cheap.sum(1)) == ["row", "row"]
    assert (
        sorted(kernels(dear.sum(0), dear.sum(1))) == ["loop", "row", "row"]
        or len(kernels(dear.sum(0), dear.sum(1))) == 2
    )  # stored by the first of the two that computes it
    assert kernels(w @ v, (w @ v).sum()) == ["dot", "row"]


def test_a_transcendental_read_through_an_expand_is_computed_once_an_element():
    row = data(16)
    shapes = [step.kernel.shape for step in _plan(row.exp().expand(64, 16) * data(64, 16)).steps]
    assert shapes == [(16,), (64, 16)]


def _plan(tensor):
    return explain.plan_of(tensor.node)


def test_two_outputs_over_one_space_share_a_kernel():
    x = data(32, 8)
    assert kernels(x.exp(), x * 2) == ["loop"]


def test_nothing_runs_between_the_parts_of_a_kernel():
    """The sum of a dot's result feeds back into the elementwise work on the operand: no kernel waits for itself."""
    x, w = data(8, 8), data(8, 8)
    y = x + 1
    z = (y @ w).sum(1, keepdim=True) + y.exp()
    result = kernels(z, y.exp())
    assert result.count("dot") == 1
    np.testing.assert_allclose(z.numpy(), np.full((8, 8), 8 * 16 + np.exp(2)), 1e-6)


def test_explain_shows_every_stage_of_the_line_in_question():
    a = Tensor.rand(4, 8, requires_grad=True).realize()
    b, c = Tensor.rand(8, 3).realize(), Tensor.rand(3).realize()
    y = (a @ b + c).relu().sum()
    text = y.explain()
    for expected in (
        "y = (a @ b + c).relu().sum()", "The graph", "dot", "The gradient", "permute", "The schedule",
        "stored: a dot is the end of a kernel", "row row_sum_4x3", "The source", "def kernel(", "The run", "GFLOP/s",
    ):  # fmt: skip
        assert expected in text, expected
    assert y.item() > 0


def test_every_primitive_says_what_it_takes():
    assert all(describe(op) for op in RULES)


def test_simplify_takes_identities_away_and_keeps_signed_zeros():
    x = data(2, 3).realize()
    same = (x * 1 / 1).reshape(6).reshape(2, 3).detach().node
    assert simplify.simplify([same])[same] is x.node
    plus_zero = (x + 0.0).node
    assert simplify.simplify([plus_zero])[plus_zero].op == "add"
    assert np.signbit((Tensor([-0.0]) * 1).numpy())[0] and not np.signbit((Tensor([-0.0]) + 0.0).numpy())[0]


def test_a_choice_by_a_negation_is_the_other_choice():
    x, y = data(4, 1), data(2, 4, 3)
    node = (~(x < 0)).reshape(4).unsqueeze(1).expand(2, 4, 3).where(y, -y).node
    assert "xor" not in {n.op for n in _ancestors(simplify.simplify([node])[node])}
    chosen = (~(Tensor([1.0, -1.0, float("nan")]) < 0)).where(Tensor([1, 2, 3]), Tensor([-1, -2, -3]))
    assert chosen.tolist() == [1, -2, 3]


def test_a_sum_of_something_repeated_is_a_product():
    x = data(4, 1)
    node = x.expand(4, 1000).sum(1).node
    assert "expand" not in {n.op for n in _ancestors(simplify.simplify([node])[node])}
    assert x.expand(4, 1000).sum(1).tolist() == [1000.0] * 4


def _ancestors(node):
    from clgrad.engine.node import topological

    return topological([node])


def test_groups_that_join_have_the_body_that_would_be_built_at_once(monkeypatch):
    """Bodies grow by the members of the group that joins, and what looks misplaced is: both against the whole."""
    from clgrad.engine import schedule as scheduling
    from clgrad.engine.lowering import Body, Cut, Misfit

    scheduler, compared = scheduling._Scheduler, []
    grown, misplaced = scheduler._joint_body, scheduler._misplaced

    def whole(self, members, space):
        try:
            return Body(members, space, self.stored.__contains__, self.root, self.homes)
        except (Misfit, Cut):
            return None

    def joint_body(self, a, b, members, space):
        try:
            body = grown(self, a, b, members, space)
        except (Misfit, Cut):
            assert whole(self, members, space) is None
            raise
        again = whole(self, members, space)
        assert len(again.instrs) == len(body.instrs) and set(again.reads) == set(body.reads)
        assert {m: view for m, (_, view) in again.members.items()} == {m: v for m, (_, v) in body.members.items()}
        compared.append(body)
        return body

    def is_misplaced(self, a, b, space):
        found = misplaced(self, a, b, space)
        members = sorted(a.members + b.members, key=self.position.__getitem__)
        assert not found or whole(self, members, space) is None
        return found

    monkeypatch.setattr(scheduler, "_joint_body", joint_body)
    monkeypatch.setattr(scheduler, "_misplaced", is_misplaced)
    Tensor.manual_seed(2)
    layers = [nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 5)]
    model = nn.Sequential(*layers)
    optimizer = nn.optim.AdamW(model.parameters(), lr=0.1)
    for i in range(2):
        loss = nn.functional.cross_entropy(model(data(6, 8) + i).softmax().dropout(0.1), Tensor(np.arange(6) % 5))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert np.isfinite(loss.item())
    assert len(compared) > 20


@pytest.mark.parametrize("name", ["sum", "cumsum", "sort", "matmul"])
def test_what_only_lends_its_padding_is_not_computed(name):
    """A reduction of which nothing but padding was read had a kernel without outputs, which no group of axes fits."""
    x = Tensor([[1.0, 5.0], [2.0, 3.0]], device="NUMPY")
    value = {"sum": x.sum(0), "cumsum": x.cumsum(0)[1], "sort": x.sort(1)[0][1], "matmul": (x @ x)[0]}[name]
    seen = value.pad((1, 3))[3:] + 1
    assert seen.tolist() == [1, 1, 1] and (seen + value.pad((1, 0))).numpy()[0] == 1
    assert kernels(value.pad((1, 3))[3:] + 1) == ["loop"]
