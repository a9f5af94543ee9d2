"""Composites: operations that know their own gradient.

A composite is a node whose first source is its expansion into primitives and whose other sources are the inputs that
its gradient is taken for. Scheduling sees the expansion only; `gradient.py` asks the rule. A rule returns nodes, so
it can itself be differentiated, and it is written in terms of the result `y` where that saves computing things twice.

>>> from clgrad import Tensor
>>> x = Tensor([0.0, 0.0], requires_grad=True)
>>> x.softmax()[0].backward()
>>> x.grad.tolist()
[0.25, -0.25]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from .node import Node, constant, make


@dataclass(frozen=True)
class Composite:
    """`rule(arg, g, y, *inputs)` gives one gradient (or None) for each input."""

    name: str
    arg: Any
    rule: Callable[..., tuple[Optional[Node], ...]]

    def gradient(self, g: Node, y: Node, *inputs: Node) -> tuple[Optional[Node], ...]:
        return self.rule(self.arg, g, y, *inputs)


def composite(name: str, arg: Any, rule: Callable, expansion: Node, *inputs: Node) -> Node:
    """`expansion`, differentiated by `rule`. Without an input that wants a gradient it is just the expansion."""
    if not any(i.requires_grad for i in inputs):
        return expansion
    return make("composite", (expansion, *inputs), Composite(name, arg, rule))


def _repeat(x: Node, like: Node) -> Node:
    return x.expand(like.shape)


def softmax(x: Node, axes: tuple[int, ...]) -> Node:
    """exp(x - max) / sum(exp(x - max)) over `axes`. Where they hold nothing but -inf it is NaN, as in PyTorch."""
    shifted = x - _repeat(make("reduce_max", (x,), axes), x)
    e = make("exp", (shifted,))
    return composite("softmax", axes, _softmax_gradient, e / _repeat(e.sum(axes), e), x)


def masked_softmax(x: Node, axes: tuple[int, ...]) -> Node:
    """The softmax of float32 or float64, but 0, and without a gradient, for `axes` that hold nothing but -inf."""
    # Less the least number, -inf stays -inf; elsewhere the largest exponential is 1, and their sum no less.
    top = make("reduce_max", (x,), axes)
    least, one = (constant(v, x.dtype, top.shape, x.device) for v in (-float(np.finfo(x.dtype).max), 1.0))
    top = make("max", (top, least))
    e = make("exp", (x - _repeat(top, x),))
    y = e / _repeat(make("max", (e.sum(axes), one)), e)
    return composite("masked_softmax", axes, _softmax_gradient, y, x)


def _softmax_gradient(axes: tuple[int, ...], g: Node, y: Node, x: Node):
    gy = g * y
    return (gy - y * _repeat(gy.sum(axes), y),)


def logsumexp(x: Node, axes: tuple[int, ...]) -> Node:
    """log(sum(exp(x))) over `axes`, kept with size 1, safe for large x; infinite where the largest is."""
    top = make("reduce_max", (x,), axes)
    # Subtracting an infinite maximum would give NaN; without it the sum is right by itself.
    safe = _is_finite(top).where_(top, 0.0)
    e = make("exp", (x - _repeat(safe, x),))
    return composite("logsumexp", axes, _logsumexp_gradient, make("log", (e.sum(axes),)) + safe, x)


def _logsumexp_gradient(axes: tuple[int, ...], g: Node, y: Node, x: Node):
    return (_repeat(g, x) * make("exp", (x - _repeat(y, x),)),)


def log_add_exp(a: Node, b: Node) -> Node:
    """log(exp(a) + exp(b)) as max(a, b) + log1p(exp(-|a - b|)); an infinite maximum is the result by itself."""
    top, distance = make("max", (a, b)), a - b
    tail = make("log1p", (make("exp", (-make("max", (distance, -distance)),)),))
    return composite("log_add_exp", None, _log_add_exp_gradient, _is_finite(top).where_(top + tail, top), a, b)


def _log_add_exp_gradient(arg: None, g: Node, y: Node, a: Node, b: Node):
    """exp(a - y) and exp(b - y); 0 where both are -inf, which is their limit from most directions."""
    safe = _is_finite(y).where_(y, 0.0)
    return g * make("exp", (a - safe,)), g * make("exp", (b - safe,))


def _is_finite(x: Node) -> Node:
    return (x - x).eq(0.0)


def log_softmax(x: Node, axes: tuple[int, ...]) -> Node:
    """x - max - log(sum(exp(x - max))) over `axes`."""
    shifted = x - _repeat(make("reduce_max", (x,), axes), x)
    total = make("exp", (shifted,)).sum(axes)
    return composite("log_softmax", axes, _log_softmax_gradient, shifted - _repeat(make("log", (total,)), x), x)


def _log_softmax_gradient(axes: tuple[int, ...], g: Node, y: Node, x: Node):
    return (g - make("exp", (y,)) * _repeat(g.sum(axes), y),)


def layernorm(x: Node, axes: tuple[int, ...], eps: float) -> Node:
    """(x - mean) / sqrt(variance + eps) over `axes` (Ba, Kiros and Hinton, 2016)."""
    centred, scale = _standardise(x, axes, eps)
    return composite("layernorm", (axes, eps), _layernorm_gradient, centred * _repeat(scale, x), x)


def _standardise(x: Node, axes: tuple[int, ...], eps: float) -> tuple[Node, Node]:
    """x minus its mean, and 1 / sqrt(variance + eps). The same nodes in forward and backward, so computed once."""
    count = 1
    for a in axes:
        count *= x.shape[a]
    part = 1.0 / max(count, 1)
    centred = x - _repeat(x.sum(axes) * part, x)
    variance = (centred * centred).sum(axes) * part
    return centred, make("reciprocal", (make("sqrt", (variance + eps,)),))


def _layernorm_gradient(arg, g: Node, y: Node, x: Node):
    """scale (g - mean(g) - y mean(g y))"""
    axes, eps = arg
    count = 1
    for a in axes:
        count *= x.shape[a]
    part = 1.0 / max(count, 1)
    _, scale = _standardise(x, axes, eps)
    along = (g * y).sum(axes) * part
    return ((g - _repeat(g.sum(axes) * part, g) - y * _repeat(along, y)) * _repeat(scale, x),)
