"""Magnitude pruning: weights that are nearly zero become zero, and stay so while the others are trained on.

(Han et al., Learning both Weights and Connections, arXiv 1506.02626.)

>>> from clgrad import Tensor, nn
>>> layer = nn.Linear(4, 1, bias=False)
>>> layer.load_state_dict({"weight": [[0.1, -3.0, 2.0, -0.2]]})
([], [])
>>> masks = nn.prune.magnitude(layer, 0.5)
>>> layer.weight.tolist(), masks.sparsity()
([[0.0, -3.0, 2.0, 0.0]], 0.5)

    masks.apply()  # after each optimizer.step()
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..engine.tensor import Tensor
from .module import Module


@dataclass
class Masks:
    """Parameters, and for each the bool Tensor of what is kept of it."""

    parameters: list[Tensor]
    kept: list[Tensor]

    @Tensor.no_grad()
    def apply(self) -> None:
        """Make what was pruned zero again: after each step of an optimiser, under the same `jit`."""
        for p, kept in zip(self.parameters, self.kept, strict=True):
            p.assign(kept.to(p.device).where(p, 0.0))
        Tensor.realize_all(self.parameters)

    def sparsity(self) -> float:
        """The share of zeros in the pruned parameters."""
        zeros = sum(int((p == 0).sum().item()) for p in self.parameters)
        return zeros / sum(p.numel() for p in self.parameters)


def magnitude(model: Module, amount: float, names: str = "", together: bool = False) -> Masks:
    """Make the share `amount` of the weights with the smallest magnitudes zero.

    Pruned are matrices that require grad (parameters of two axes and more) with names in which the regular expression
    `names` is found: each by itself, or with `together` all by one threshold. Raises ValueError for an amount outside
    0 <= amount < 1, and where there is nothing to prune.
    """
    if not 0 <= amount < 1:
        raise ValueError(f"prune.magnitude: amount must be in [0, 1), not {amount}")
    chosen = [p for name, p in model.named_parameters() if p.ndim >= 2 and re.search(names, name)]
    if not chosen:
        raise ValueError(f"prune.magnitude: {type(model).__name__} has no matrix with a name that fits {names!r}")
    sizes = [np.abs(p.numpy()).ravel() for p in chosen]
    if together:
        large = np.split(_largest(np.concatenate(sizes), amount), np.cumsum([s.size for s in sizes])[:-1])
    else:
        large = [_largest(s, amount) for s in sizes]
    kept = [Tensor(mask.reshape(p.shape), device=p.device) for p, mask in zip(chosen, large, strict=True)]
    masks = Masks(chosen, kept)
    masks.apply()
    return masks


def _largest(sizes: np.ndarray, amount: float) -> np.ndarray:
    """Which are left when the share `amount` with the smallest magnitudes is gone; of equals the first go."""
    kept = np.ones(sizes.size, bool)
    kept[np.argsort(sizes, kind="stable")[: round(amount * sizes.size)]] = False
    return kept
