"""Layers equal PyTorch's with the same state dict; a Module's tree, state and modes behave as PyTorch's."""

import numpy as np
import pytest
import torch
from nn_helpers import normal, ours

from clgrad import Tensor, jit, nn

LAYERS = [
    ("Linear", (4, 3), {}, (2, 5, 4)),
    ("Linear", (4, 3), {"bias": False}, (4,)),
    ("LayerNorm", (4,), {}, (2, 5, 4)),
    ("LayerNorm", ((5, 4),), {"eps": 1e-2}, (2, 5, 4)),
    ("LayerNorm", (4,), {"bias": False}, (2, 4)),
    ("LayerNorm", (4,), {"elementwise_affine": False}, (2, 4)),
    ("GELU", (), {}, (3, 4)),
    ("GELU", (), {"approximate": "tanh"}, (3, 4)),
    ("ReLU", (), {}, (3, 4)),
    ("SiLU", (), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("Identity", (), {}, (3, 4)),
    ("Softmax", (1,), {}, (3, 4)),
    ("Flatten", (), {}, (3, 4, 2)),
]


def assert_same_layer(layer, reference, array):
    """Same names and shapes; with the reference's weights, same output and same gradient of every parameter."""
    state = {name: t.detach().numpy() for name, t in reference.state_dict().items()}
    assert {name: t.shape for name, t in layer.state_dict().items()} == {k: v.shape for k, v in state.items()}
    layer.load_state_dict(state)
    x, y = ours(array, requires_grad=array.dtype.kind == "f"), torch.tensor(array)
    got, expected = layer(x), reference(y)
    np.testing.assert_allclose(got.numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    gradients = dict(reference.named_parameters())
    if gradients:
        weights = normal(*got.shape, seed=9)
        (got * ours(weights)).sum().backward()
        (expected * torch.tensor(weights)).sum().backward()
        for name, p in layer.named_parameters():
            np.testing.assert_allclose(p.grad.numpy(), gradients[name].grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "args", "options", "shape"), LAYERS)
def test_layer_equals_torchs(name, args, options, shape):
    assert_same_layer(getattr(nn, name)(*args, **options), getattr(torch.nn, name)(*args, **options), normal(*shape))


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding_equals_torchs(padding_idx):
    index = np.array([[0, 2, 2], [5, 1, 2]])
    layer, reference = nn.Embedding(6, 3, padding_idx), torch.nn.Embedding(6, 3, padding_idx)
    if padding_idx is not None:
        assert not layer.weight.numpy()[padding_idx].any()
    assert_same_layer(layer, reference, index)


def test_conv1d_equals_transformers():
    from transformers.pytorch_utils import Conv1D

    assert_same_layer(nn.Conv1D(3, 4), Conv1D(3, 4), normal(2, 5, 4))


def test_cross_entropy_loss_layer_equals_torchs():
    x, y = normal(4, 3), np.array([0, 2, 1, 1])
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)(ours(x), ours(y))
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(torch.tensor(x), torch.tensor(y))
    np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-5)
    np.testing.assert_allclose(nn.MSELoss("sum")(ours(x), ours(x + 1)).item(), 12.0, rtol=1e-5)


def test_initial_weights_lie_where_pytorch_puts_them():
    Tensor.manual_seed(0)
    linear = nn.Linear(100, 200)
    for tensor in (linear.weight, linear.bias):
        values = np.abs(tensor.numpy())
        assert 0.095 < values.max() <= 0.1
    embedding = nn.Embedding(100, 100).weight.numpy()
    assert abs(embedding.mean()) < 0.05 and abs(embedding.std() - 1) < 0.05
    assert nn.LayerNorm(3).weight.tolist() == [1, 1, 1] and nn.LayerNorm(3).bias.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "bound", "std"),
    [
        ("kaiming_uniform_", (6 / 100) ** 0.5, (2 / 100) ** 0.5),
        ("kaiming_normal_", None, (2 / 100) ** 0.5),
        ("xavier_uniform_", (6 / 300) ** 0.5, (2 / 300) ** 0.5),
        ("xavier_normal_", None, (2 / 300) ** 0.5),
    ],
)
def test_init_has_the_published_scale(name, bound, std):
    Tensor.manual_seed(1)
    weight = Tensor.zeros(200, 100, requires_grad=True)
    assert getattr(nn.init, name)(weight) is weight and weight.requires_grad
    values = weight.numpy()
    np.testing.assert_allclose(values.std(), std, rtol=0.03)
    assert bound is None or np.abs(values).max() <= bound


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))


def test_two_parameters_of_the_same_value_stay_two():
    first, second = nn.Linear(2, 3), nn.LayerNorm(3)
    first.bias.assign(Tensor.zeros(3))
    first.bias.assign(first.bias + 1)
    assert second.bias.tolist() == [0, 0, 0] and second.weight.tolist() == [1, 1, 1]


def test_state_dict_round_trip_and_copies():
    source, target = mlp(), mlp()
    x = ours(normal(5, 3))
    target.load_state_dict(source.state_dict())
    np.testing.assert_array_equal(target.eval()(x).numpy(), source.eval()(x).numpy())
    target.load_state_dict({name: t.numpy() + 1 for name, t in source.state_dict().items()})
    assert all(p.requires_grad for p in target.parameters())
    np.testing.assert_allclose(target[0].bias.numpy(), source[0].bias.numpy() + 1, rtol=1e-6)


def test_a_state_that_does_not_fit_changes_nothing():
    model = mlp()
    before = {name: t.numpy() for name, t in model.state_dict().items()}
    good = {name: value + 1 for name, value in before.items()}
    cases = [
        ({k: v for k, v in good.items() if k != "3.bias"}, KeyError, r"missing \['3.bias'\]"),
        (good | {"extra": np.zeros(1)}, KeyError, r"unexpected \['extra'\]"),
        (good | {"3.weight": np.zeros((4, 2))}, ValueError, r"'3.weight' has shape \(4, 2\).*\(2, 4\)"),
    ]
    for state, error, message in cases:
        with pytest.raises(error, match=message):
            model.load_state_dict(state)
        for name, t in model.state_dict().items():
            np.testing.assert_array_equal(t.numpy(), before[name])
    missing, unexpected = model.load_state_dict({"0.bias": good["0.bias"], "extra": np.zeros(1)}, strict=False)
    assert missing == ["0.weight", "3.weight", "3.bias"] and unexpected == ["extra"]
    np.testing.assert_array_equal(model[0].bias.numpy(), good["0.bias"])


def test_a_tied_weight_is_one_parameter_with_two_names():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert len(list(model.parameters())) == 1
    assert list(model.state_dict()) == ["0.weight", "1.weight"]


def test_tensors_without_grad_are_buffers():
    model = mlp()
    model.scale = Tensor([1.0, 2.0])
    assert [name for name, _ in model.named_buffers()] == ["scale"]
    assert "scale" not in dict(model.named_parameters()) and "scale" in model.state_dict()
    model[0].requires_grad_(False)
    assert [name for name, _ in model.named_parameters()] == ["3.weight", "3.bias"]


def test_dropout_follows_the_mode_of_the_whole_tree():
    Tensor.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Dropout(0.5)))
    x = Tensor.ones(1000)
    dropped = model.train()(x).numpy()
    assert set(np.unique(dropped)) == {0.0, 2.0} and 400 < (dropped == 0).sum() < 600
    np.testing.assert_array_equal(model.eval()(x).numpy(), np.ones(1000))
    assert not model[0][0].training


def test_train_and_eval_are_two_traces_of_a_jitted_call():
    Tensor.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5))
    call = jit(lambda x: model(x))
    x = Tensor.ones(100)
    first, second = call(x).numpy(), call(x).numpy()
    assert (first == 0).any() and (first != second).any()
    model.eval()
    np.testing.assert_array_equal(call(x).numpy(), np.ones(100))
    model.train()
    assert (call(x).numpy() == 0).any()


def test_to_moves_every_tensor_and_keeps_ties(device):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    x = normal(2, 3)
    before = model(ours(x)).numpy()
    assert model.to(device) is model
    assert model[1].weight is model[0].weight and model[0].weight.device == device
    np.testing.assert_allclose(model(ours(x, device)).numpy(), before, rtol=1e-5, atol=1e-6)


def test_a_module_prints_its_tree():
    assert repr(nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.1))) == (
        "Sequential(\n  (0): Linear(in_features=2, out_features=3, bias=True)\n  (1): Dropout(p=0.1)\n)"
    )


def test_a_module_without_forward_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty does not define forward"):
        Empty()(1)
