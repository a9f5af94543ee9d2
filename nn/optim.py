"""Optimisers: PyTorch's names, arguments, defaults, parameter groups and state dicts.

    optimizer = nn.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3)
    optimizer.zero_grad(); loss.backward(); optimizer.step()

Each is a page: the formula, the options with their checks, what it remembers, and the update of all parameters of a
bundle as one flat Tensor. What they share is in `optimizer.py`; what is particular about it stands there.

>>> from clgrad import Tensor, nn
>>> p = Tensor([1.0, 2.0], requires_grad=True)
>>> optimizer = nn.optim.SGD([p], lr=0.5)
>>> (p * p).sum().backward()
>>> optimizer.step()
>>> p.tolist()
[0.0, 0.0]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

from ..engine.tensor import Tensor
from .flat import join, parts
from .optimizer import Optimizer, ParamGroup, Params

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "LAMB", "Muon", "Optimizer", "ParamGroup", "RMSprop"]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al., ICML 2013, as PyTorch writes it).

    g += weight_decay p;  b = momentum b + (1 - dampening) g, and b = g at first;
    p -= lr (g + momentum b) with nesterov, lr b without it, lr g without momentum.
    """

    not_negative = ("momentum", "weight_decay")

    def __init__(
        self,
        params: Params,
        lr: Union[float, Tensor] = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            dict(
                lr=lr,
                momentum=momentum,
                dampening=dampening,
                weight_decay=weight_decay,
                nesterov=nesterov,
                maximize=maximize,
            ),
        )

    def _initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if group["momentum"] else {}

    def _check(self, group: Mapping[str, Any]) -> None:
        super()._check(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("SGD: nesterov needs a momentum above 0 and dampening 0")

    def _update(self, p, gradient, state, group, context, like):
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * p
        if group["momentum"]:
            share: Any = 1.0
            if group["dampening"]:
                share = (group.step == 1).where(1.0, 1.0 - group["dampening"])
            momentum = state["momentum_buffer"]
            momentum.assign(group["momentum"] * momentum + share * gradient)
            gradient = gradient + group["momentum"] * momentum if group["nesterov"] else momentum
        return p - group.learning_rate * gradient


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton, 2012; centered: Graves, arXiv 1308.0850).

    g += weight_decay p;  v = α v + (1 - α) g²;  d = sqrt(v) + eps, or with `centered`
    m = α m + (1 - α) g;  d = sqrt(v - m²) + eps;
    p -= lr g / d, or with `momentum`  b = momentum b + g / d;  p -= lr b.
    """

    not_negative = ("alpha", "eps", "momentum", "weight_decay")

    def __init__(
        self,
        params: Params,
        lr: Union[float, Tensor] = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            dict(
                lr=lr,
                alpha=alpha,
                eps=eps,
                weight_decay=weight_decay,
                momentum=momentum,
                centered=centered,
                maximize=maximize,
            ),
        )

    def _initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        wanted = {"square_avg": True, "momentum_buffer": group["momentum"] > 0, "grad_avg": group["centered"]}
        return {name: 0.0 for name, there in wanted.items() if there}

    def _update(self, p, gradient, state, group, context, like):
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * p
        alpha, square = group["alpha"], state["square_avg"]
        square.assign(alpha * square + (1 - alpha) * gradient.square())
        variance = square
        if group["centered"]:
            mean = state["grad_avg"]
            mean.assign(alpha * mean + (1 - alpha) * gradient)
            variance = square - mean.square()
        direction = gradient / (variance.sqrt() + group["eps"])
        if group["momentum"] > 0:
            momentum = state["momentum_buffer"]
            momentum.assign(group["momentum"] * momentum + direction)
            direction = momentum
        return p - group.learning_rate * direction


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer, JMLR 2011).

    g += weight_decay p;  s += g², from `initial_accumulator_value`;
    p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps).
    """

    not_negative = ("lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def __init__(
        self,
        params: Params,
        lr: Union[float, Tensor] = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            dict(
                lr=lr,
                lr_decay=lr_decay,
                weight_decay=weight_decay,
                initial_accumulator_value=initial_accumulator_value,
                eps=eps,
                maximize=maximize,
            ),
        )

    def _initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"sum": group["initial_accumulator_value"]}

    def _prepare(self, group: ParamGroup) -> Tensor:
        return group.learning_rate / (1 + (group.step - 1) * group["lr_decay"])

    def _update(self, p, gradient, state, group, context, like):
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * p
        total = state["sum"]
        total.assign(total + gradient.square())
        return p - context * (gradient / (total.sqrt() + group["eps"]))


class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980); `weight_decay` is added to the gradient.

    m = β1 m + (1 - β1) g;  v = β2 v + (1 - β2) g²;
    p -= lr / (1 - β1^t) m / (sqrt(v) / sqrt(1 - β2^t) + eps).
    With `amsgrad` the largest v so far takes the place of v (Reddi, Kale and Kumar, ICLR 2018).
    """

    not_negative = ("eps", "weight_decay")
    decoupled_weight_decay = False

    def __init__(
        self,
        params: Params,
        lr: Union[float, Tensor] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize),
        )

    def _initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        return dict.fromkeys(names if group["amsgrad"] else names[:2], 0.0)

    def _check(self, group: Mapping[str, Any]) -> None:
        super()._check(group)
        _check_betas(self._name, group["betas"])
        if group.get("decoupled_weight_decay", self.decoupled_weight_decay) != self.decoupled_weight_decay:
            raise ValueError(f"{self._name}: weight decay is decoupled in AdamW, and added to the gradient in Adam")

    def _prepare(self, group: ParamGroup) -> tuple[Tensor, Tensor]:
        """lr / (1 - β1^t) and sqrt(1 - β2^t)."""
        correction1, correction2 = _bias_corrections(group)
        return group.learning_rate / correction1, correction2.sqrt()

    def _update(self, p, gradient, state, group, context, like):
        step_size, root_correction = context
        beta1, beta2 = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        if group["weight_decay"] and not self.decoupled_weight_decay:
            gradient = gradient + group["weight_decay"] * p
        mean.assign(beta1 * mean + (1 - beta1) * gradient)
        square.assign(beta2 * square + (1 - beta2) * gradient.square())
        if group["amsgrad"]:
            largest = state["max_exp_avg_sq"]
            largest.assign(largest.maximum(square))
            square = largest
        if group["weight_decay"] and self.decoupled_weight_decay:
            p = p * (1 - group.learning_rate * group["weight_decay"])
        return p - step_size * (mean / (square.sqrt() / root_correction + group["eps"]))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101): p *= 1 - lr weight_decay first."""

    decoupled_weight_decay = True

    def __init__(
        self,
        params: Params,
        lr: Union[float, Tensor] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class LAMB(Optimizer):
    """LAMB (You et al., arXiv 1904.00962): Adam's direction, scaled for each parameter to the size of the parameter.

    m = β1 m + (1 - β1) g;  v = β2 v + (1 - β2) g²;
    r = m / (1 - β1^t) / (sqrt(v / (1 - β2^t)) + eps) + weight_decay p;
    p -= lr |p| / |r| r, where the ratio of the norms is 1 if one of them is 0.
    """

    not_negative = ("eps", "weight_decay")

    def __init__(
        self,
        params: Params,
        lr: Union[float, Tensor] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize))

    def _initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _check(self, group: Mapping[str, Any]) -> None:
        super()._check(group)
        _check_betas("LAMB", group["betas"])

    def _prepare(self, group: ParamGroup) -> tuple[Tensor, Tensor]:
        return _bias_corrections(group)

    def _update(self, p, gradient, state, group, context, like):
        correction1, correction2 = context
        beta1, beta2 = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.assign(beta1 * mean + (1 - beta1) * gradient)
        square.assign(beta2 * square + (1 - beta2) * gradient.square())
        direction = mean / correction1 / ((square / correction2).sqrt() + group["eps"])
        if group["weight_decay"]:
            direction = direction + group["weight_decay"] * p
        scaled = []
        for own, part in zip(parts(p, like), parts(direction, like), strict=True):
            size, length = own.square().sum().sqrt(), part.square().sum().sqrt()
            scaled.append(part * ((size > 0) & (length > 0)).where(size / length, 1.0))
        return p - group.learning_rate * join(scaled)


class Muon(Optimizer):
    """Muon (Jordan et al., 2024): momentum, made nearly orthogonal. For the matrices of hidden layers only.

    b = momentum b + (1 - momentum) g;  u = g + momentum (b - g) with nesterov, else b;
    O = the result of `ns_steps` Newton-Schulz iterations X = a X + (b X Xᵀ + c (X Xᵀ)²) X from u / |u|;
    p = p (1 - lr weight_decay) - lr r O,  with r = sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns)) for
    adjust_lr_fn="match_rms_adamw" (Liu et al., arXiv 2502.16982).

    The iterations are done in the parameters' dtype (halves in float32), where PyTorch does them in bfloat16; matrices
    of one shape are one batch. Raises ValueError for a parameter that is no matrix.
    """

    not_negative = ("weight_decay", "momentum", "eps")

    def __init__(
        self,
        params: Params,
        lr: Union[float, Tensor] = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: Optional[str] = None,
    ):
        super().__init__(
            params,
            dict(
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                nesterov=nesterov,
                ns_coefficients=ns_coefficients,
                eps=eps,
                ns_steps=ns_steps,
                adjust_lr_fn=adjust_lr_fn,
            ),
        )

    def _initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"momentum_buffer": 0.0}

    def _check(self, group: Mapping[str, Any]) -> None:
        super()._check(group)
        if group["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
            raise ValueError(
                f"Muon: adjust_lr_fn must be 'original' or 'match_rms_adamw', not {group['adjust_lr_fn']!r}"
            )
        if len(group["ns_coefficients"]) != 3:
            raise ValueError(f"Muon: ns_coefficients must be three numbers, not {group['ns_coefficients']}")
        for p in group["params"]:
            if isinstance(p, Tensor) and p.ndim != 2:
                raise ValueError(f"Muon: a parameter has shape {p.shape}, no matrix; give it to AdamW")

    def _update(self, p, gradient, state, group, context, like):
        momentum, mix = state["momentum_buffer"], group["momentum"]
        momentum.assign(momentum + (1 - mix) * (gradient - momentum))
        update = gradient + mix * (momentum - gradient) if group["nesterov"] else momentum
        matrices = parts(update, like)
        together: dict[tuple[int, int], list[int]] = {}
        for i, m in enumerate(matrices):
            together.setdefault((min(m.shape), max(m.shape)), []).append(i)
        for alike in together.values():
            wide = Tensor.stack([m if m.shape[0] <= m.shape[1] else m.T for m in (matrices[i] for i in alike)])
            for i, m in zip(alike, _orthogonalised(wide, group), strict=True):
                rows, columns = matrices[i].shape
                ratio = math.sqrt(max(1.0, rows / max(columns, 1)))
                if group["adjust_lr_fn"] == "match_rms_adamw":
                    ratio = 0.2 * math.sqrt(max(rows, columns))
                matrices[i] = (m if rows <= columns else m.T) * ratio
        return p * (1 - group.learning_rate * group["weight_decay"]) - group.learning_rate * join(matrices)


def _orthogonalised(x: Tensor, group: Mapping[str, Any]) -> Tensor:
    """(N, rows, columns) matrices, rows <= columns: with singular values near 1 in place of those that they had."""
    a, b, c = group["ns_coefficients"]
    x = x / x.square().sum((1, 2), keepdim=True).sqrt().maximum(group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.transpose(-1, -2)  # (N, rows, rows)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def _bias_corrections(group: ParamGroup) -> tuple[Tensor, Tensor]:
    """1 - β1^t and 1 - β2^t, by expm1: 1 - 0.999 in float32 would have lost three digits."""
    first, second = (-(group.step * (math.log(beta) if beta else -math.inf)).expm1() for beta in group["betas"])
    return first, second


def _check_betas(name: str, betas: Sequence[float]) -> None:
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"{name}: betas must be in [0, 1), got {betas}")
