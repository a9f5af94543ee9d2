"""Activations far from zero, where their parts overflow or vanish."""

from __future__ import annotations

import numpy as np
import pytest

from clgrad import Device, Tensor


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_gradient_of_gelu_is_0_or_1_far_out(device, dtype):
    if dtype == "float64" and not Device[device].supports(np.dtype(dtype)):
        pytest.skip(f"{device} has no float64")
    x = Tensor(np.array([-6e4, -300.0, -20.0, 20.0, 300.0, 6e4], dtype), device=device, requires_grad=True)
    x.gelu().sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], rtol=0, atol=1e-100)
