"""Losses and layers as functions have PyTorch's values, gradients and errors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_functional
from nn_helpers import assert_same_function, normal, ours

from clgrad import Device, nn
from clgrad.nn import functional as F

ROWS, CLASSES = 7, 5
LOGITS = 3 * normal(ROWS, CLASSES)
CLASS_WEIGHT = np.array([0.2, 1.0, 2.0, 0.5, 3.0], np.float32)
TARGET = np.array([0, 4, -100, 2, 2, 1, -100], np.int64)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_cross_entropy_equals_torch_with_every_option(reduction, weight, label_smoothing):
    options = dict(reduction=reduction, label_smoothing=label_smoothing)
    assert_same_function(
        lambda x: F.cross_entropy(x, ours(TARGET), None if weight is None else ours(weight), **options),
        lambda x: torch_functional.cross_entropy(
            x, torch.tensor(TARGET), None if weight is None else torch.tensor(weight), **options
        ),
        LOGITS,
    )


@pytest.mark.parametrize("shape", [(CLASSES,), (3, CLASSES, 4), (2, CLASSES, 2, 3)])
def test_cross_entropy_finds_the_classes_where_torch_does(shape):
    target_shape = shape[:0] if len(shape) == 1 else shape[:1] + shape[2:]
    target = np.random.default_rng(1).integers(0, CLASSES, target_shape)
    assert_same_function(
        lambda x: F.cross_entropy(x, ours(target)),
        lambda x: torch_functional.cross_entropy(x, torch.tensor(target)),
        normal(*shape),
    )


def test_cross_entropy_takes_narrow_targets_and_another_ignore_index():
    expected = torch_functional.cross_entropy(torch.tensor(LOGITS[:3]), torch.tensor([0, 3, 1]), ignore_index=3)
    for dtype in ("uint8", "int8", "int32", "uint64"):
        target = np.array([0, 3, 1], dtype)
        loss = F.cross_entropy(ours(LOGITS[:3]), ours(target), ignore_index=3)
        np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-5)
        F.cross_entropy(ours(LOGITS[:3]), ours(target)).item()  # -100 is no uint8


def test_cross_entropy_survives_large_logits():
    assert_same_function(
        lambda x: F.cross_entropy(x, ours(np.array([0, 1]))),
        lambda x: torch_functional.cross_entropy(x, torch.tensor([0, 1])),
        np.array([[1e4, -1e4, 1e4 - 3], [3e38, -3e38, 0.0]], np.float32),
    )


@pytest.mark.parametrize("bad", [-1, CLASSES, 2**40])
def test_cross_entropy_of_a_target_out_of_range_is_nan_and_so_is_its_gradient(bad):
    x = ours(LOGITS, requires_grad=True)
    loss = F.cross_entropy(x, ours(np.array([0, 1, bad, 2, 3, 4, -100])))
    loss.backward()
    assert np.isnan(loss.item())
    assert np.isnan(x.grad.numpy()[2]).all()


def test_cross_entropy_is_one_kernel_for_the_rows_and_one_for_their_mean():
    counters = Device["NUMPY"].counters
    x, target = ours(LOGITS, requires_grad=True), ours(np.zeros(ROWS, np.int32))
    start = counters.kernels
    loss = F.cross_entropy(x, target)
    loss.item()
    assert counters.kernels - start <= 2
    start = counters.kernels
    loss.backward()
    x.grad.numpy()
    assert counters.kernels - start <= 2


def test_cross_entropy_over_nothing_is_nan_as_in_torch():
    assert np.isnan(F.cross_entropy(ours(LOGITS), ours(np.full(ROWS, -100))).item())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
def test_nll_loss_equals_torch(reduction, weight):
    assert_same_function(
        lambda x: F.nll_loss(x, ours(TARGET), None if weight is None else ours(weight), reduction=reduction),
        lambda x: torch_functional.nll_loss(
            x, torch.tensor(TARGET), None if weight is None else torch.tensor(weight), reduction=reduction
        ),
        LOGITS,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "binary_cross_entropy_with_logits"])
def test_regression_losses_equal_torch(name, reduction):
    target = np.random.default_rng(3).random((4, 5), np.float32)
    assert_same_function(
        lambda x, t: getattr(F, name)(x, t, reduction=reduction),
        lambda x, t: getattr(torch_functional, name)(x, t, reduction=reduction),
        10 * normal(4, 5),
        target,
    )


def test_binary_cross_entropy_with_weights_and_extreme_logits_equals_torch():
    x = np.array([[-200.0, -1.0, 0.5], [3.0, 90.0, 1000.0]], np.float32)
    target = np.array([[0.0, 1.0, 0.3], [1.0, 0.0, 1.0]], np.float32)
    weight, pos_weight = np.abs(normal(2, 3)), np.array([0.5, 2.0, 3.0], np.float32)
    assert_same_function(
        lambda x: F.binary_cross_entropy_with_logits(x, ours(target), ours(weight), pos_weight=ours(pos_weight)),
        lambda x: torch_functional.binary_cross_entropy_with_logits(
            x, torch.tensor(target), torch.tensor(weight), pos_weight=torch.tensor(pos_weight)
        ),
        x,
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("relu", {}),
        ("gelu", {}),
        ("gelu", {"approximate": "tanh"}),
        ("silu", {}),
        ("tanh", {}),
        ("sigmoid", {}),
        ("softplus", {}),
        ("softmax", {"dim": 0}),
        ("log_softmax", {"dim": -1}),
    ],
)
def test_activations_equal_torch(name, options):
    reference = getattr(torch, name, None) or getattr(torch_functional, name)
    assert_same_function(lambda x: getattr(F, name)(x, **options), lambda x: reference(x, **options), 2 * normal(4, 6))


@pytest.mark.parametrize(("masked", "is_causal"), [(False, False), (True, False), (False, True)])
def test_attention_equals_torch(masked, is_causal):
    mask = np.random.default_rng(5).random((4, 6)) < 0.7
    mask[:, 0] = True
    options = dict(is_causal=is_causal)
    assert_same_function(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, ours(mask) if masked else None, **options),
        lambda q, k, v: torch_functional.scaled_dot_product_attention(
            q, k, v, torch.tensor(mask) if masked else None, **options
        ),
        normal(2, 3, 4, 8),
        normal(2, 3, 6, 8, seed=1),
        normal(2, 3, 6, 8, seed=2),
    )


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "nearest-exact"])
def test_interpolation_by_a_factor_that_gives_no_whole_number_equals_torchs(mode):
    x = normal(1, 2, 5, 7)
    for factors in ((1.3, 0.6), (2, 1.5), 0.7):
        for recompute in (False, True):
            options = dict(scale_factor=factors, mode=mode, recompute_scale_factor=recompute)
            want = torch_functional.interpolate(torch.tensor(x), **options).numpy()
            np.testing.assert_allclose(F.interpolate(ours(x), **options).numpy(), want, rtol=1e-4, atol=1e-5)


def test_one_hot_equals_torch():
    index = np.array([[0, 2], [1, 1]])
    np.testing.assert_array_equal(
        F.one_hot(ours(index), 3).numpy(), torch_functional.one_hot(torch.tensor(index), 3).numpy()
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: F.cross_entropy(x, ours(np.zeros(3, np.int32))), ValueError, r"\(3,\) does not fit .*\(7, 5\)"),
        (lambda x: F.cross_entropy(x, ours(np.zeros(7, np.float32))), TypeError, "integer classes, not float32"),
        (lambda x: F.cross_entropy(x, ours(TARGET), reduction="average"), ValueError, "'average'"),
        (lambda x: F.cross_entropy(x, ours(TARGET), weight=ours(np.ones(2))), ValueError, r"shape \(5,\), not \(2,\)"),
        (lambda x: F.cross_entropy(x, ours(TARGET), label_smoothing=1.5), ValueError, "1.5"),
        (lambda x: F.mse_loss(x, ours(np.zeros((5, 7)))), ValueError, r"\(7, 5\) and target \(5, 7\)"),
        (lambda x: F.linear(x, ours(np.zeros((2, 4)))), ValueError, r"\(7, 5\) must end in 4"),
        (lambda x: F.layer_norm(x, (4,)), ValueError, r"\(7, 5\) must end in normalized_shape \(4,\)"),
        (lambda x: nn.Dropout(1.5), ValueError, "1.5"),
        (lambda x: nn.GELU("erf"), ValueError, "'erf'"),
        (lambda x: nn.init.xavier_uniform_(ours(np.zeros(3))), ValueError, r"two or more dimensions.*\(3,\)"),
    ],
)
def test_errors_name_the_shapes_and_the_fix(call, error, message):
    with pytest.raises(error, match=message):
        call(ours(LOGITS))
