"""Activations: the elementwise functions between the layers of a network, as methods of Tensor.

Smooth ones that have parts with kinks, or whose parts lose accuracy, are composites, with their derivative next to
them. Half precision is computed in float32 and rounded once; integers become float32 where the result is no integer.

>>> from clgrad import Tensor
>>> Tensor([-4.0, -1.5, 0.0, 3.0]).hardswish().tolist()
[-0.0, -0.375, 0.0, 3.0]
"""

from __future__ import annotations

from math import pi, sqrt
from typing import TYPE_CHECKING, Optional

from ..backends.dtypes import is_bool
from .composite import composite
from .node import Node, constant, make
from .reduction import accurately

if TYPE_CHECKING:
    from .tensor import Tensor

SELU_ALPHA, SELU_GAMMA = 1.6732632423543772, 1.0507009873554805
GELU_LINEAR, GELU_CUBIC = sqrt(2 / pi), 0.044715


def _smooth(x: Tensor, function, *arguments) -> Tensor:
    """A function of nodes, as one of Tensors."""
    return accurately(x, lambda wide: type(x)._wrap(function(wide._source(), *arguments)))


def _damped(slope: Node, x: Node) -> Node:
    """slope * x, and 0 where the slope has vanished, though x may be infinite."""
    return slope.eq(0.0).where_(0.0, slope * x)


# --- the logistic function and its kin -----------------------------------------------------------------------------


def _logistic(x: Node, negated: Optional[Node] = None) -> Node:
    """Right to the last digits where it is near 0; exp overflows to infinity there, and 1 / infinity is 0."""
    negated = -x if negated is None else negated
    return composite("sigmoid", None, _logistic_gradient, 1.0 / (make("exp", (negated,)) + 1.0), x)


def _logistic_gradient(arg: None, g: Node, y: Node, x: Node):
    return (g * (y * (1.0 - y)),)


def _silu(x: Node) -> Node:
    return composite("silu", None, _silu_gradient, x / (make("exp", (-x,)) + 1.0), x)


def _silu_gradient(arg: None, g: Node, y: Node, x: Node):
    """s + x s (1 - s), with s the logistic function of x."""
    s = _logistic(x)
    return (g * (s + _damped(1.0 - s, y)),)


def _softplus(x: Node) -> Node:
    """max(x, 0) + log(1 + exp(-|x|)) does not overflow. It is smooth, though its parts are not."""
    zero = constant(0.0, x.dtype, x.shape, x.device)
    tail = make("log1p", (make("exp", (-make("max", (x, -x)),)),))
    return composite("softplus", None, _softplus_gradient, make("max", (x, zero)) + tail, x)


def _softplus_gradient(arg: None, g: Node, y: Node, x: Node):
    return (g * _logistic(x),)


def sigmoid(self: Tensor) -> Tensor:
    """The logistic function, 1 / (1 + exp(-x))."""
    return _smooth(self, _logistic)


def silu(self: Tensor) -> Tensor:
    """x sigmoid(x) (Hendrycks and Gimpel, 2016), also known as swish. NaN at -infinity, as in PyTorch."""
    return _smooth(self, _silu)


def quick_gelu(self: Tensor) -> Tensor:
    """x sigmoid(1.702 x), an approximation of gelu (Hendrycks and Gimpel, 2016). NaN at -infinity."""
    return accurately(self, lambda x: x * sigmoid(x * 1.702))


def softplus(self: Tensor, beta: float = 1.0) -> Tensor:
    """log(1 + exp(beta x)) / beta, without overflow."""
    return accurately(self, lambda x: _smooth(x * beta, _softplus) * (1 / beta))


def logsigmoid(self: Tensor) -> Tensor:
    """log(sigmoid(x)), which is -softplus(-x)."""
    return accurately(self, lambda x: -softplus(-x))


def mish(self: Tensor) -> Tensor:
    """x tanh(softplus(x)) (Misra, 2019). NaN at -infinity, as in PyTorch."""
    return accurately(self, lambda x: x * softplus(x).tanh())


# --- gelu ------------------------------------------------------------------------------------------------------------


def _gelu(x: Node) -> Node:
    """Half of 1 + tanh(u) is the logistic function of 2u, which keeps its digits where tanh(u) is near -1."""
    return composite("gelu", None, _gelu_gradient, x / (make("exp", (_gelu_inner(x, -2),)) + 1.0), x)


def _gelu_inner(x: Node, factor: int) -> Node:
    """factor * u"""
    return x * (x * x * (factor * GELU_LINEAR * GELU_CUBIC) + factor * GELU_LINEAR)


def _gelu_gradient(arg: None, g: Node, y: Node, x: Node):
    """s + x s (1 - s) 2u', with s the logistic function of 2u."""
    s = _logistic(_gelu_inner(x, 2), _gelu_inner(x, -2))
    inner = x * (x * x * (6 * GELU_LINEAR * GELU_CUBIC) + 2 * GELU_LINEAR)
    return (g * (s + _damped(s * (1.0 - s), inner)),)


def _gelu_erf(x: Node) -> Node:
    return composite("gelu_erf", None, _gelu_erf_gradient, x * 0.5 * (make("erf", (x * sqrt(0.5),)) + 1.0), x)


def _gelu_erf_gradient(arg: None, g: Node, y: Node, x: Node):
    """Phi(x) + x phi(x), with the normal distribution's Phi and its density phi."""
    density = make("exp", (x * x * -0.5,)) * (1 / sqrt(2 * pi))
    return (g * ((make("erf", (x * sqrt(0.5),)) * 0.5 + 0.5) + _damped(density, x)),)


def gelu(self: Tensor, approximate: str = "tanh") -> Tensor:
    """x times the normal distribution's Phi(x) (Hendrycks and Gimpel, 2016). NaN at -infinity, as in PyTorch.

    "none" computes Phi with erf; "tanh" with 0.5 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as GPT-2 does. PyTorch's
    default is the former, here and in tinygrad it is the latter. Raises RuntimeError for any other name.
    """
    if approximate not in ("tanh", "none"):
        raise RuntimeError(f'gelu: approximate must be "tanh" or "none", not {approximate!r}')
    return _smooth(self, _gelu if approximate == "tanh" else _gelu_erf)


# --- pieces of straight lines ----------------------------------------------------------------------------------------


def relu(self: Tensor) -> Tensor:
    """max(x, 0), with derivative 0 at 0; NaN stays NaN. Raises RuntimeError for bools."""
    if is_bool(self.dtype):
        raise RuntimeError("relu: needs numbers, got bool; cast first")
    return (self <= 0).where(0, self)


def leaky_relu(self: Tensor, neg_slope: float = 0.01) -> Tensor:
    """x above 0, neg_slope * x below."""
    return accurately(self, lambda x: (x > 0).where(x, x * neg_slope))


def hardtanh(self: Tensor, min_val=-1, max_val=1) -> Tensor:
    """x held between `min_val` and `max_val`. Unlike clip, its derivative is 0 at both ends, as in PyTorch."""
    return (self <= min_val).where(min_val, (self >= max_val).where(max_val, self))


def relu6(self: Tensor) -> Tensor:
    """x held between 0 and 6 (Howard et al., MobileNets, 2017), with derivative 0 at both ends."""
    return hardtanh(self, 0, 6)


def hardsigmoid(self: Tensor, alpha: float = 1 / 6, beta: float = 0.5) -> Tensor:
    """alpha x + beta held between 0 and 1 (Courbariaux et al., 2015). `alpha` is not 0 (ValueError)."""
    if not alpha:
        raise ValueError("hardsigmoid: alpha must not be 0")
    low, high = sorted((0.0, 1 / alpha))
    return accurately(self, lambda x: hardtanh(x + beta / alpha, low, high) * alpha)


def hardswish(self: Tensor) -> Tensor:
    """x hardsigmoid(x) (Howard et al., MobileNetV3, 2019). NaN at -infinity, as in PyTorch."""
    return accurately(self, lambda x: x * hardsigmoid(x))


# --- and the rest ----------------------------------------------------------------------------------------------------


def _exponential_below(x: Tensor, scale: float, rate: float) -> Tensor:
    """x above 0, scale (exp(rate x) - 1) below. What is not wanted is not computed either: exp would overflow."""
    return (x > 0).where(x, (x > 0).where(0.0, x * rate).expm1() * scale)


def elu(self: Tensor, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha (exp(x) - 1) below (Clevert et al., 2016)."""
    return accurately(self, lambda x: _exponential_below(x, alpha, 1.0))


def celu(self: Tensor, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha (exp(x / alpha) - 1) below (Barron, 2017): its derivative is continuous for every alpha."""
    return accurately(self, lambda x: _exponential_below(x, alpha, 1 / alpha))


def selu(self: Tensor, alpha: float = SELU_ALPHA, gamma: float = SELU_GAMMA) -> Tensor:
    """gamma elu(x, alpha) (Klambauer et al., 2017). The defaults are the paper's constants in full, as in PyTorch."""
    return accurately(self, lambda x: _exponential_below(x, alpha, 1.0) * gamma)


def softsign(self: Tensor) -> Tensor:
    """x / (1 + |x|). NaN at the infinities, as in PyTorch."""
    return accurately(self, lambda x: x / (x.abs() + 1))


def softmin(self: Tensor, axis: int = -1, dtype=None) -> Tensor:
    """softmax(-x) along `axis`, in `dtype` if there is one."""
    return (-(self if dtype is None else self.cast(dtype))).softmax(axis)
