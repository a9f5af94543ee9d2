"""What the tests of encoder-decoders share: tiny batches with padding, and comparing with transformers."""

import numpy as np
import torch

IGNORED = -100


def perturb(model, std=0.3):
    """Weights large enough for the activations and the attention to matter, and biases that are not zero."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(std * torch.randn_like(p) / (p.shape[0] ** 0.5 if p.ndim > 1 else 1))
    return model


def batch(vocabulary, size=3, source_length=14, target_length=11, seed=0):
    """(source (B, S), which of its tokens are real (B, S), targets (B, T) of which some are left out)."""
    rng = np.random.default_rng(seed)
    source = rng.integers(3, vocabulary, (size, source_length))
    mask = np.arange(source_length) < np.linspace(source_length, 2, size).astype(int)[:, None]
    target = rng.integers(3, vocabulary, (size, target_length))
    target[-1, 4:] = IGNORED
    return source, mask, target


def assert_same_gradients(model, reference):
    """Of every parameter, to a thousandth of the reference's norm and a millionth of the largest."""
    theirs = {name: p.grad.numpy() for name, p in reference.named_parameters()}
    largest = max(np.linalg.norm(g) for g in theirs.values())
    parameters = dict(model.named_parameters())
    assert parameters.keys() == theirs.keys()
    for name, g in theirs.items():
        difference = np.linalg.norm(parameters[name].grad.numpy() - g)
        assert difference <= 1e-3 * np.linalg.norm(g) + 1e-6 * largest, name
