"""Layers equal PyTorch's with the same state dict; a Module's tree, state and modes behave as PyTorch's."""

from collections import OrderedDict
from statistics import NormalDist

import numpy as np
import pytest
import torch
from nn_helpers import normal, ours

from clgrad import Tensor, jit, nn
from clgrad.engine.node import live_nodes

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


UNIFORM = [  # layer, arguments, bound of the weight, bound of the bias
    ("Linear", (64, 128), 64**-0.5, 64**-0.5),
    ("Conv1d", (8, 128, 3), 24**-0.5, 24**-0.5),
    ("Conv2d", (32, 64, (2, 4)), 256**-0.5, 256**-0.5),
    ("Conv3d", (4, 64, 3), 108**-0.5, 108**-0.5),
    ("ConvTranspose1d", (64, 16, 3), 48**-0.5, 48**-0.5),  # fan_in is what PyTorch counts: axis 1 times the kernel
    ("ConvTranspose2d", (64, 16, 3), 144**-0.5, 144**-0.5),
]


def assert_uniform(tensor, bound):
    """Values of ±bound that reach the edges, with the moments of the uniform distribution to five standard errors."""
    values = tensor.numpy().astype(np.float64).ravel()
    assert np.abs(values).max() <= bound * (1 + 1e-6) and np.abs(values).max() > bound * (1 - 20 / values.size)
    assert abs(values.mean()) < 5 * bound / np.sqrt(3 * values.size)
    assert abs((values**2).mean() - bound**2 / 3) < 5 * bound**2 * np.sqrt(4 / 45 / values.size)


def assert_normal(tensor, std):
    values = tensor.numpy().astype(np.float64).ravel()
    assert abs(values.mean()) < 5 * std / np.sqrt(values.size)
    assert abs(values.std() - std) < 5 * std / np.sqrt(2 * values.size)
    assert 0.5 < np.abs(values).max() / (std * np.sqrt(2 * np.log(values.size))) < 1.5


@pytest.mark.parametrize(("name", "args", "weight", "bias"), UNIFORM)
def test_initial_weights_lie_where_pytorch_puts_them(name, args, weight, bias):
    Tensor.manual_seed(0), torch.manual_seed(0)
    layer, reference = getattr(nn, name)(*args), getattr(torch.nn, name)(*args)
    assert_uniform(layer.weight, weight)
    assert_uniform(layer.bias, bias)
    for tensor, bound in ((reference.weight, weight), (reference.bias, bias)):  # the bounds are PyTorch's
        assert bound * (1 - 20 / tensor.numel()) < tensor.abs().max() <= bound * (1 + 1e-6)


def test_initial_weights_of_the_other_layers():
    Tensor.manual_seed(0)
    assert_normal(nn.Embedding(100, 100).weight, 1.0)
    for p in nn.LSTMCell(40, 64).parameters():
        assert_uniform(p, 1 / 8)
    for norm in (nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.BatchNorm(3), nn.InstanceNorm(3, affine=True)):
        assert norm.weight.tolist() == [1, 1, 1] and norm.bias.tolist() == [0, 0, 0]
    batch = nn.BatchNorm(3)
    assert batch.running_mean.tolist() == [0, 0, 0] and batch.running_var.tolist() == [1, 1, 1]
    assert batch.num_batches_tracked.item() == 0 and batch.num_batches_tracked.dtype == "int64"
    assert nn.PReLU(2).weight.tolist() == [0.25, 0.25]


SHAPES = [(200, 100), (16, 20, 3, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize(
    ("nonlinearity", "a"), [("leaky_relu", 0.0), ("leaky_relu", 2.0), ("relu", 0.0), ("tanh", 0.0)]
)
def test_kaiming_has_the_published_scale(shape, mode, nonlinearity, a):
    Tensor.manual_seed(1)
    kernel = int(np.prod(shape[2:]))
    fan = (shape[1] if mode == "fan_in" else shape[0]) * kernel
    gain = {"leaky_relu": np.sqrt(2 / (1 + a * a)), "relu": np.sqrt(2), "tanh": 5 / 3}[nonlinearity]
    weight = Tensor.zeros(*shape, requires_grad=True)
    assert nn.init.kaiming_uniform_(weight, a, mode, nonlinearity) is weight and weight.requires_grad
    assert_uniform(weight, gain * np.sqrt(3 / fan))
    assert_normal(nn.init.kaiming_normal_(weight, a, mode, nonlinearity), gain / np.sqrt(fan))


@pytest.mark.parametrize("shape", SHAPES)
def test_xavier_has_the_published_scale(shape):
    Tensor.manual_seed(1)
    fans = (shape[0] + shape[1]) * int(np.prod(shape[2:]))
    weight = Tensor.zeros(*shape)
    assert_uniform(nn.init.xavier_uniform_(weight, 2.0), 2 * np.sqrt(6 / fans))
    assert_normal(nn.init.xavier_normal_(weight, 2.0), 2 * np.sqrt(2 / fans))


@pytest.mark.parametrize(("mean", "std", "a", "b"), [(0, 1, -2, 2), (1, 0.5, -2, 2), (0, 0.02, -2, 2), (0, 1, 1, 3)])
def test_truncated_normals_are_normals_without_the_rest(mean, std, a, b):
    Tensor.manual_seed(2)
    values = np.sort(nn.init.trunc_normal_(Tensor.zeros(20000), mean, std, a, b).numpy().astype(np.float64))
    assert a <= values[0] and values[-1] <= b
    distribution = NormalDist(mean, std)
    low, high = distribution.cdf(a), distribution.cdf(b)
    expected = np.array([(distribution.cdf(x) - low) / (high - low) for x in values])
    distance = np.abs(expected - (np.arange(values.size) + 0.5) / values.size).max()
    assert distance < 1.95 / np.sqrt(values.size)  # Kolmogorov and Smirnov's bound for one in a thousand


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 2, 3), (4, 4)])
def test_orthogonal_rows_or_columns_are_orthonormal(shape):
    weight = nn.init.orthogonal_(Tensor.zeros(*shape), gain=2.0).numpy().reshape(shape[0], -1)
    product = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    np.testing.assert_allclose(product, 4 * np.eye(min(weight.shape)), atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 3), (2, 6, 3, 5), (4, 2, 1, 2, 4)])
@pytest.mark.parametrize("groups", [1, 2])
def test_fixed_fillings_equal_torchs(shape, groups):
    expected = torch.nn.init.dirac_(torch.ones(shape), groups)
    np.testing.assert_array_equal(nn.init.dirac_(Tensor.ones(*shape), groups).numpy(), expected.numpy())
    matrix = Tensor.ones(shape[0], shape[1])
    np.testing.assert_array_equal(nn.init.eye_(matrix).numpy(), np.eye(shape[0], shape[1]))
    assert nn.init.constant_(matrix, 2.5).numpy().min() == nn.init.ones_(matrix).numpy().max() + 1.5
    assert not nn.init.zeros_(matrix).numpy().any()


@pytest.mark.parametrize(
    "name", ["linear", "conv2d", "conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
)
def test_gains_equal_torchs(name):
    assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    if name == "leaky_relu":
        assert nn.init.calculate_gain(name, 0.3) == torch.nn.init.calculate_gain(name, 0.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.init.eye_(Tensor.zeros(3)), r"matrix, not shape \(3,\)"),
        (lambda: nn.init.dirac_(Tensor.zeros(3, 3)), r"\(3, 3\)"),
        (lambda: nn.init.orthogonal_(Tensor.zeros(3)), r"two or more dimensions.*\(3,\)"),
        (lambda: nn.init.kaiming_normal_(Tensor.zeros(3, 3), mode="fan"), "'fan'"),
        (lambda: nn.init.calculate_gain("gelu"), "'gelu'"),
        (lambda: nn.GroupNorm(3, 4), "4 channels do not divide into 3"),
        (lambda: nn.GroupNorm(2, 4)(Tensor.zeros(1, 6, 2)), r"\(1, 6, 2\)"),
        (lambda: nn.BatchNorm1d(3)(Tensor.zeros(1, 3)), r"more than one value.*\(1, 3\)"),
        (lambda: nn.BatchNorm2d(3)(Tensor.zeros(2, 3)), r"4 dimensions, not \(2, 3\)"),
        (lambda: nn.BatchNorm(3)(Tensor.zeros(2, 4)), "3 channels along axis 1"),
        (lambda: nn.InstanceNorm1d(3)(Tensor.zeros(2, 3, 1)), r"more than one value.*\(2, 3, 1\)"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "do not divide into 2 groups"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "an int or 2 of them"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "'mirror'"),
        (lambda: nn.Conv2d(3, 4, 3, stride=2, padding="same"), "stride 1"),
        (lambda: nn.Conv2d(3, 4, 3)(Tensor.zeros(3, 5)), r"3 or 4 dimensions.*\(3, 5\)"),
        (lambda: nn.ConvTranspose1d(3, 4, 3, 2)(Tensor.zeros(1, 3, 4), [7]), r"between \(9,\) and \(10,\)"),
        (lambda: nn.LSTMCell(3, 4)(Tensor.zeros(2, 4)), r"\(2, 4\) must be \(N, 3\)"),
        (lambda: nn.LSTMCell(3, 4)(Tensor.zeros(2, 3), (Tensor.zeros(4), Tensor.zeros(4))), r"twice \(2, 4\)"),
        (lambda: nn.Sequential(nn.ReLU(), 3), "'1' is a int, no Module"),
    ],
)
def test_impossible_layers_say_what_is_wrong(call, message):
    with pytest.raises((ValueError, RuntimeError, TypeError), match=message):
        call()


# --- statistics -------------------------------------------------------------------------------------------------------


def test_running_statistics_follow_every_step_of_a_jitted_training(device):
    """As torch's do, with one trace; and they are buffers whatever happens to the parameters."""
    layer, reference = nn.BatchNorm2d(3, device=device), torch.nn.BatchNorm2d(3)
    optimizer, other = nn.optim.SGD(layer.parameters(), lr=0.1), torch.optim.SGD(reference.parameters(), lr=0.1)

    def step(x):
        optimizer.zero_grad()
        loss = layer(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    jitted = jit(step)
    for seed, call in enumerate((step, jitted, jitted, step, jitted)):
        x = normal(2, 3, 4, 4, seed=seed)
        got = call(ours(x, device))
        other.zero_grad()
        loss = reference(torch.tensor(x)).square().mean()
        loss.backward()
        other.step()
        np.testing.assert_allclose(got.item(), loss.item(), rtol=1e-4)
    assert jitted.traces == 1
    layer.requires_grad_(False).requires_grad_(True)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    for name, value in reference.state_dict().items():
        np.testing.assert_allclose(layer.state_dict()[name].numpy(), value.numpy(), rtol=1e-4, atol=1e-6)
    x = normal(2, 3, 4, 4, seed=9)
    np.testing.assert_allclose(
        jit(layer.eval())(ours(x, device)).numpy(),
        reference.eval()(torch.tensor(x)).detach().numpy(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_batch_of_nothing_leaves_the_statistics_as_they_are():
    layer = nn.BatchNorm1d(3)
    assert layer(Tensor.zeros(0, 3)).shape == (0, 3)
    assert layer.running_mean.tolist() == [0.0] * 3 and layer.running_var.tolist() == [1.0] * 3


def test_statistics_of_many_forward_passes_keep_no_graph():
    layer = nn.BatchNorm1d(3)
    alive = []
    for seed in range(12):
        layer(ours(normal(4, 3, seed=seed))).numpy()
        alive.append(live_nodes())
    assert len(set(alive[3:])) == 1


def test_an_optimisers_step_computes_the_statistics_in_passing():
    """The graph of the step would stay alive with them otherwise."""
    layer = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer = nn.optim.SGD(layer.parameters(), lr=0.1)
    for seed in range(2):
        layer(ours(normal(4, 3, seed=seed))).sum().backward()
        optimizer.step()
        assert layer[1].running_mean.node.buffer is not None and layer[1].running_var.node.buffer is not None


# --- the tree ---------------------------------------------------------------------------------------------------------


def test_sequential_is_a_list_of_named_modules():
    made = {"first": nn.Linear(2, 3), "act": nn.ReLU(), "last": nn.Linear(3, 1)}
    for make in (dict, OrderedDict):
        net = nn.Sequential(make(made))
        reference = torch.nn.Sequential(
            OrderedDict(first=torch.nn.Linear(2, 3), act=torch.nn.ReLU(), last=torch.nn.Linear(3, 1))
        )
        assert list(net.state_dict()) == list(reference.state_dict())
        assert net.first is net[0] is made["first"] and net[-1] is net.last and len(net) == 3
        assert list(net[1:].state_dict()) == list(reference[1:].state_dict())
        net.append(nn.Linear(1, 1)), reference.append(torch.nn.Linear(1, 1))
        assert list(net.state_dict()) == list(reference.state_dict())
        net[1] = nn.Tanh()
        assert isinstance(net.act, nn.Tanh)
        del net[0], reference[0]
        assert list(net.state_dict()) == list(reference.state_dict())
        with pytest.raises(AttributeError, match="no attribute 'other'"):
            _ = net.other
    x = ours(normal(4, 2))
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    np.testing.assert_array_equal(net[1:](net[0](x)).numpy(), net(x).numpy())


def test_module_lists_grow_and_shrink_as_torchs():
    lists = nn.ModuleList([nn.Linear(1, 2)]), torch.nn.ModuleList([torch.nn.Linear(1, 2)])
    for package, modules in zip((nn, torch.nn), lists, strict=True):
        modules.append(package.Linear(2, 2)).extend([package.Linear(2, 3), package.ReLU()])
        modules.insert(0, package.Linear(1, 1))
        modules[1] = package.Linear(4, 4)
        del modules[2]
    mine, other = lists
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    assert list(mine[1:].state_dict()) == list(other[1:].state_dict()) and len(mine) == len(other) == 4
    assert [type(m).__name__ for m in mine] == [type(m).__name__ for m in other]


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
