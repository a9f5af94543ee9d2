"""What the tests of nn and of the models share: moving values between clgrad and torch, and comparing functions."""

import numpy as np
import torch

from clgrad import Tensor

torch.set_num_threads(1)


def ours(array, device="NUMPY", requires_grad=False):
    return Tensor(np.array(array), device=device, requires_grad=requires_grad)


def theirs(array, requires_grad=False):
    tensor = torch.tensor(np.array(array))
    return tensor.requires_grad_() if requires_grad else tensor


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same_function(function, reference, *arrays, rtol=1e-5, atol=1e-5):
    """`function` on Tensors and `reference` on torch tensors give the same value and the same gradients.

    The gradients are those of the sum of the value times fixed numbers, with respect to every array of floats.
    """
    arrays = [np.array(array) for array in arrays]
    x = [ours(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y = [theirs(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    got, expected = function(*x), reference(*y)
    np.testing.assert_allclose(got.numpy(), expected.detach().numpy(), rtol=rtol, atol=atol)
    weights = normal(*got.shape, seed=99)
    (got * ours(weights)).sum().backward()
    (expected * theirs(weights)).sum().backward()
    for mine, other in zip(x, y, strict=True):
        if other.grad is not None:
            np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=rtol, atol=atol)
