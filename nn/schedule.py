"""Learning-rate schedules: plain functions of the iteration, and PyTorch's scheduler objects around such functions.

    lr = cosine_with_warmup(iteration, max_lr=1e-3, min_lr=1e-4, warmup_iters=100, decay_iters=2000)
    for group in optimizer.param_groups:
        group["lr"] = lr

A function of the iteration keeps no state, so a run that is resumed cannot disagree with one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .optim import Optimizer


def cosine_with_warmup(iteration: int, *, max_lr: float, min_lr: float, warmup_iters: int, decay_iters: int) -> float:
    """Linear up to max_lr over warmup_iters, then half a cosine down to min_lr at decay_iters, then min_lr.

    lr = max_lr (i + 1) / (w + 1) for i < w;  min_lr + (max_lr - min_lr) (1 + cos(π (i - w) / (d - w))) / 2 for i <= d
    (Loshchilov and Hutter, arXiv 1608.03983).
    """
    if iteration < warmup_iters:
        return max_lr * (iteration + 1) / (warmup_iters + 1)
    if iteration >= decay_iters:
        return min_lr
    progress = (iteration - warmup_iters) / (decay_iters - warmup_iters)
    return min_lr + 0.5 * (max_lr - min_lr) * (1.0 + math.cos(math.pi * progress))


def linear_with_warmup(iteration: int, *, max_lr: float, min_lr: float, warmup_iters: int, decay_iters: int) -> float:
    """Linear up to max_lr over warmup_iters, then linear down to min_lr at decay_iters, then min_lr (BERT's).

    lr = max_lr (i + 1) / (w + 1) for i < w;  max_lr + (min_lr - max_lr) (i - w) / (d - w) for i <= d
    """
    if iteration < warmup_iters:
        return max_lr * (iteration + 1) / (warmup_iters + 1)
    if iteration >= decay_iters:
        return min_lr
    return max_lr + (min_lr - max_lr) * (iteration - warmup_iters) / (decay_iters - warmup_iters)


def inverse_sqrt_with_warmup(iteration: int, *, max_lr: float, warmup_iters: int) -> float:
    """Linear up to max_lr over warmup_iters, then falling as 1 / sqrt of the step (Vaswani et al., arXiv 1706.03762).

    lr = max_lr min(s / w, sqrt(w / s)) for the step s = i + 1 and w = warmup_iters, at least 1. The paper's
    d_model^-0.5 min(s^-0.5, s w^-1.5) is this with max_lr = (d_model w)^-0.5: see `noam_peak`.
    """
    step, warmup = iteration + 1, max(warmup_iters, 1)
    return max_lr * min(step / warmup, math.sqrt(warmup / step))


def noam_peak(d_model: int, warmup_iters: int) -> float:
    """The largest learning rate of the 2017 paper's schedule, which it has after warmup_iters steps."""
    return (d_model * max(warmup_iters, 1)) ** -0.5


class LRScheduler:
    """Sets every group's learning rate to `self.get_lr()`, once when made and then at every `step()`.

    `base_lrs` are the groups' rates when the scheduler is made, `last_epoch` the number of steps taken. Subclasses
    write `get_lr`, in closed form.
    """

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self.base_lrs = [group["lr"] for group in optimizer.state_dict()["param_groups"]]
        self.last_epoch = -1
        self.step()

    def get_lr(self) -> list[float]:
        raise NotImplementedError

    def step(self) -> None:
        self.last_epoch += 1
        self._set()

    def _set(self) -> None:
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def get_last_lr(self) -> list[float]:
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        return {"base_lrs": list(self.base_lrs), "last_epoch": self.last_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.base_lrs, self.last_epoch = list(state["base_lrs"]), state["last_epoch"]
        self._set()


class LambdaLR(LRScheduler):
    """lr = base lr times a function of the number of steps taken; one function, or one a group."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | list[Callable[[int], float]]):
        count = len(optimizer.param_groups)
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * count
        if len(self.lr_lambdas) != count:
            raise ValueError(f"LambdaLR: {len(self.lr_lambdas)} functions for {count} parameter groups")
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]


class CosineWithWarmup(LRScheduler):
    """`cosine_with_warmup` from each group's learning rate down to `min_lr`."""

    def __init__(self, optimizer: Optimizer, warmup_iters: int, decay_iters: int, min_lr: float = 0.0):
        self.warmup_iters, self.decay_iters, self.min_lr = warmup_iters, decay_iters, min_lr
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [
            cosine_with_warmup(
                self.last_epoch,
                max_lr=base,
                min_lr=self.min_lr,
                warmup_iters=self.warmup_iters,
                decay_iters=self.decay_iters,
            )
            for base in self.base_lrs
        ]


class LinearWithWarmup(CosineWithWarmup):
    """`linear_with_warmup` from each group's learning rate down to `min_lr`."""

    def get_lr(self) -> list[float]:
        return [
            linear_with_warmup(
                self.last_epoch,
                max_lr=base,
                min_lr=self.min_lr,
                warmup_iters=self.warmup_iters,
                decay_iters=self.decay_iters,
            )
            for base in self.base_lrs
        ]


class InverseSqrtWithWarmup(LRScheduler):
    """`inverse_sqrt_with_warmup`, each group's learning rate being the largest."""

    def __init__(self, optimizer: Optimizer, warmup_iters: int):
        self.warmup_iters = warmup_iters
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [
            inverse_sqrt_with_warmup(self.last_epoch, max_lr=base, warmup_iters=self.warmup_iters)
            for base in self.base_lrs
        ]
