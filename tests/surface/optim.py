"""Optimisers: three steps, as functions of a parameter and of the gradients. `tests/test_optim.py` has the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from clgrad import Tensor
from clgrad.nn import optim

from .entry import WIDE, Entry, Operand


def walk(make: Any, parameter: Any, *gradients: Any) -> Any:
    """The parameter after a step with each gradient."""
    if isinstance(parameter, Tensor):
        p = Tensor(parameter, requires_grad=True)
    else:
        p = parameter.detach().clone().requires_grad_()
    optimizer = make([p])
    for gradient in gradients:
        p.grad = gradient
        optimizer.step()
    return p.detach()


def exact_muon(params: list[torch.Tensor], **options: Any) -> torch.optim.Optimizer:
    """torch's Muon, which orthogonalises in bfloat16, with a step that does it in the dtype of the parameters."""
    optimizer = torch.optim.Muon(params, **options)
    plain = optimizer.step

    def step():
        kept, torch.Tensor.bfloat16 = torch.Tensor.bfloat16, lambda x: x.clone()
        try:
            plain()
        finally:
            torch.Tensor.bfloat16 = kept

    optimizer.step = step
    return optimizer


def lamb(parameter: torch.Tensor, *gradients: torch.Tensor) -> torch.Tensor:
    """Algorithm 2 of the paper, with betas (0.9, 0.999), eps 1e-6, weight decay 0.1 and rate 0.05."""
    p, m, v = parameter.double().numpy(), 0.0, 0.0
    for t, g in enumerate([g.double().numpy() for g in gradients], 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        r = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + 0.1 * p
        size, length = np.linalg.norm(p), np.linalg.norm(r)
        p = p - 0.05 * (size / length if size > 0 and length > 0 else 1.0) * r
    return torch.tensor(p).to(parameter.dtype)


def steps(name: str, theirs: Any = None, shape: Any = None, ulp: float = 16, **options: Any) -> Entry:
    """Three steps of ours and of torch's optimiser of that name."""
    reference = theirs or getattr(torch.optim, name, None)
    return Entry(
        f"optim.{name}" + "".join(f" {key}={value}" for key, value in options.items()),
        f"nn.optim.{name}",
        lambda *xs: walk(lambda params: getattr(optim, name)(params, **options), *xs),
        lambda *xs: lamb(*xs) if name == "LAMB" else walk(lambda params: reference(params, **options), *xs),
        operands=(
            Operand(shape, min_dims=2),
            *(Operand(None if shape is None else lambda draw, first: first, low=0.5) for _ in range(3)),
        ),
        dtypes=WIDE,
        derivatives=0,
        special=False,
        ulp=ulp,
    )


ENTRIES = [
    steps("SGD", lr=0.1, weight_decay=0.1, maximize=True),
    steps("SGD", lr=0.1, momentum=0.9, dampening=0.5),
    steps("SGD", lr=0.1, momentum=0.9, nesterov=True),
    steps("RMSprop", lr=0.01, weight_decay=0.1),
    steps("RMSprop", lr=0.01, alpha=0.9, centered=True, momentum=0.9),
    steps("Adagrad", lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5),
    steps("Adam", lr=0.05, weight_decay=0.1, amsgrad=True),
    steps("AdamW", lr=0.05, betas=(0.5, 0.9)),
    steps("LAMB", lr=0.05, weight_decay=0.1),
    steps("Muon", exact_muon, st.sampled_from([(3, 4), (4, 2), (3, 3)]), ulp=64, lr=0.1, ns_steps=3),
]
