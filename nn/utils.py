"""Small tools for a training loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial, reduce
from typing import TypeVar, Union

from ..backends.dtypes import accumulator
from ..engine.recompute import checkpoint
from ..engine.tensor import Tensor
from .flat import bundles, join, parts
from .module import Module, ModuleList

T = TypeVar("T", bound=Module)


def checkpoint_layers(model: T) -> T:
    """Let the layers of `model`, what its ModuleLists hold, keep nothing for the backward pass but what they are given.

    In place; gives the model back. The gradients are the same, dropout included (`nn.checkpoint`).
    """
    for _, child in model.named_children():
        if isinstance(child, ModuleList):
            for layer in child:
                layer.forward = partial(checkpoint, layer.forward)
        else:
            checkpoint_layers(child)
    return model


@Tensor.no_grad()
def clip_grad_value_(parameters: Union[Tensor, Iterable[Tensor]], clip_value: float) -> None:
    """Assign every `.grad` its value clipped to [-clip_value, clip_value]. Raises ValueError for one below 0."""
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: clip_value must not be negative, and is {clip_value}")
    for p in [parameters] if isinstance(parameters, Tensor) else parameters:
        if p.grad is not None:
            p.grad.assign(p.grad.clip(-clip_value, clip_value))


@Tensor.no_grad()
def clip_grad_norm_(parameters: Union[Tensor, Iterable[Tensor]], max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), the norm being that of all of them as one vector.

    Every `.grad` is assigned its scaled value; parameters without one are passed over. Returns the norm before
    clipping, a 0-d Tensor that may be infinite or NaN, as may the gradients then be. `norm_type` is the p of the
    p-norm; math.inf takes the largest magnitude.
    """
    if norm_type <= 0 or max_norm < 0:
        raise ValueError(f"clip_grad_norm_: needs norm_type > 0 and max_norm >= 0, not {norm_type} and {max_norm}")
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return Tensor(0.0)
    together = bundles(gradients)
    flat = [join(bundle).cast(accumulator(bundle[0].dtype)) for bundle in together]  # a half has no room for squares
    device = flat[0].device  # where the sums of gradients on several devices meet
    if norm_type == math.inf:
        total = reduce(Tensor.maximum, [g.abs().max().to(device) for g in flat])
    elif norm_type == 2:
        total = reduce(Tensor.__add__, [g.square().sum().to(device) for g in flat]).sqrt()
    else:
        total = reduce(Tensor.__add__, [g.abs().pow(norm_type).sum().to(device) for g in flat]).pow(1 / norm_type)
    scale = (max_norm / (total + 1e-6)).minimum(1.0)
    for bundle, joined in zip(together, flat, strict=True):
        for gradient, part in zip(bundle, parts(joined * scale.to(joined.device), bundle), strict=True):
            gradient.assign(part.cast(gradient.dtype))
    return total
