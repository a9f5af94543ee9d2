"""Mixed precision: forward and backward in a half, parameters and their updates in float32.

The parameters stay float32 and are the only copy that is trained. Inside `cast` every one of them reads as its value
in a half; the cast is part of the graph, so gradients come back in float32. The engine adds up sums and products of
halves in float32 as well. (Micikevicius et al., Mixed Precision Training, arXiv 1710.03740.)

    scaler = nn.amp.GradScaler()                      # float16 only: bfloat16 has the exponents of float32
    with nn.amp.cast(model, "float16"):
        logits, _ = model(x)
    loss = F.cross_entropy(logits.float().flatten(0, 1), y.flatten())
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)                        # if gradients are clipped
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from operator import and_
from typing import Any, Optional, Union

import numpy as np

from ..backends.dtypes import DType, accumulator, as_dtype, is_float
from ..engine.tensor import Tensor
from .flat import bundles, join
from .module import Module
from .optimizer import Optimizer


@contextmanager
def cast(module: Module, dtype: Union[str, DType]) -> Iterator[Module]:
    """Inside, every floating-point parameter of `module` reads as its value cast to `dtype`; statistics do not.

    A forward pass then computes in `dtype`, and its gradients are those of the parameters themselves, in their own
    dtype. Make the forward pass inside, and what has to be precise (the loss) outside, of `logits.float()`.
    Raises TypeError for a dtype that is not a float.
    """
    wanted = as_dtype(dtype)
    if not is_float(wanted):
        raise TypeError(f"amp.cast: computes in floats, not in {wanted}")
    # Statistics are assigned to, and assigning to a cast would be lost.
    held = [
        (part, name, value)
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, Tensor) and is_float(value.dtype) and name not in part.buffer_names
    ]
    casts = {id(value): value.cast(wanted) for _, _, value in held}  # one each: tied weights stay tied
    try:
        for part, name, value in held:
            setattr(part, name, casts[id(value)])
        yield module
    finally:
        for part, name, value in held:
            setattr(part, name, value)


class GradScaler:
    """Dynamic loss scaling: gradients too small for float16 are made larger, and steps with infinities left out.

    The loss is multiplied by `scale`, and the gradients divided by it before the step. If one of them is infinite or
    NaN, nothing is updated and the scale is multiplied by `backoff_factor`; after `growth_interval` good steps in a row
    it is multiplied by `growth_factor`. All that changes is a Tensor, so a jitted step needs no other branch.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        device: Optional[str] = None,
    ):
        if not 0 < init_scale < math.inf or growth_factor < 1 or not 0 < backoff_factor <= 1 or growth_interval < 1:
            raise ValueError(
                "GradScaler: needs a finite init_scale > 0, growth_factor >= 1, 0 < backoff_factor <= 1, "
                "growth_interval >= 1"
            )
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self.factor = Tensor(np.array(init_scale, np.float32), device=device)
        self.good_steps = Tensor(np.array(0, np.int32), device=device)
        self._finite: dict[Optimizer, Tensor] = {}  # whether this step's gradients are, once they are divided
        self._stepped: set[Optimizer] = set()

    def scale(self, loss: Tensor) -> Tensor:
        """`loss` times the scale; that of a half in float32, which has room for it."""
        dtype = accumulator(loss.dtype)
        return loss.cast(dtype) * self.factor.to(loss.device).cast(dtype)

    def get_scale(self) -> float:
        return self.factor.item()

    @Tensor.no_grad()
    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of the optimiser's parameters by the scale, for clipping; once a step."""
        if optimizer in self._finite:
            raise RuntimeError("GradScaler: unscale_ was called twice for an optimiser before update()")
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        sums = [join(bundle).isfinite().all().to(self.factor.device) for bundle in bundles(gradients)]
        self._finite[optimizer] = reduce(and_, sums, Tensor(True, device=self.factor.device))
        for gradient in gradients:
            gradient.assign(gradient * (1 / self.factor).to(gradient.device).cast(gradient.dtype))

    def step(self, optimizer: Optimizer) -> None:
        """The optimiser's step, if all its gradients are finite. Unscales them if that has not been done."""
        if optimizer in self._stepped:
            raise RuntimeError("GradScaler: step() was called twice for an optimiser before update()")
        if optimizer not in self._finite:
            self.unscale_(optimizer)
        self._stepped.add(optimizer)
        optimizer.step(self._finite[optimizer])

    @Tensor.no_grad()
    def update(self) -> None:
        """Choose the scale of the next step, once all optimisers have made theirs."""
        if not self._finite:
            raise RuntimeError("GradScaler: update() comes after step()")
        finite = reduce(and_, self._finite.values())
        self._finite, self._stepped = {}, set()
        good = self.good_steps + 1
        grows, larger = good == self.growth_interval, self.factor * self.growth_factor
        raised = (grows & larger.isfinite()).where(larger, self.factor)
        self.factor.assign(finite.where(raised, self.factor * self.backoff_factor))
        self.good_steps.assign((finite & ~grows).where(good, 0))
        Tensor.realize_all([self.factor, self.good_steps])

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.factor, "good_steps": self.good_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, Tensors or numbers. Raises ValueError for anything else."""
        found = {name: _array(state[name]) for name in ("scale", "good_steps") if name in state}
        if len(found) < 2 or any(array.shape for array in found.values()):
            raise ValueError(f"GradScaler: a state has two numbers, scale and good_steps, and not {dict(state)}")
        with Tensor.no_grad():
            self.factor.assign(found["scale"].astype(np.float32))
            self.good_steps.assign(found["good_steps"].astype(np.int32))


def _array(value: Any) -> np.ndarray:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)
