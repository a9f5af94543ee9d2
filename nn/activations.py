"""Activations as layers, under torch.nn's names. Each is one function of `functional` with its options."""

from __future__ import annotations

from typing import Any, Optional

from ..engine.tensor import Tensor
from . import functional as F
from .module import Module, parameter


class _Activation(Module):
    """A function of `functional` under the layer's name in small letters, with the options that `__init__` sets."""

    options: tuple[str, ...] = ()
    function: str = ""

    def forward(self, x: Tensor) -> Tensor:
        name = self.function or type(self).__name__.lower()
        return getattr(F, name)(x, **{option: getattr(self, option) for option in self.options})

    def extra_repr(self) -> str:
        return ", ".join(f"{option}={getattr(self, option)!r}" for option in self.options)


class ReLU(_Activation):
    """max(x, 0)."""


class ReLU6(_Activation):
    """x held between 0 and 6."""


class Tanh(_Activation):
    """tanh(x)."""


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""


class LogSigmoid(_Activation):
    """log(1 / (1 + exp(-x)))."""


class SiLU(_Activation):
    """x sigmoid(x)."""


class Mish(_Activation):
    """x tanh(softplus(x))."""


class SELU(_Activation):
    """Elu with the constants that keep mean and variance (Klambauer et al., 2017)."""


class Softsign(_Activation):
    """x / (1 + |x|)."""


class Tanhshrink(_Activation):
    """x - tanh(x)."""


class Hardsigmoid(_Activation):
    """x / 6 + 1/2 held between 0 and 1."""


class Hardswish(_Activation):
    """x hardsigmoid(x)."""


class QuickGELU(_Activation):
    """x σ(1.702 x), the cheap approximation of GELU that some published models were trained with."""

    function = "quick_gelu"


class GELU(_Activation):
    """x Φ(x); approximate="tanh" for 0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))."""

    options = ("approximate",)

    def __init__(self, approximate: str = "none"):
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate must be 'none' or 'tanh', not {approximate!r}")
        self.approximate = approximate


class ELU(_Activation):
    """x above 0, alpha (exp(x) - 1) below."""

    options = ("alpha",)

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha


class CELU(ELU):
    """x above 0, alpha (exp(x / alpha) - 1) below."""


class LeakyReLU(_Activation):
    """x above 0, negative_slope x below."""

    options = ("negative_slope",)
    function = "leaky_relu"

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = negative_slope


class PReLU(Module):
    """x above 0, weight x below: one learnt slope, or one for each channel (axis 1) (He et al., ICCV 2015)."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Optional[str] = None, dtype: Any = None):
        self.num_parameters = num_parameters
        self.weight = parameter(num_parameters, value=init, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta; x itself where beta x is above the threshold."""

    options = ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        self.beta, self.threshold = beta, threshold


class Hardtanh(_Activation):
    """x held between min_val and max_val."""

    options = ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0):
        self.min_val, self.max_val = min_val, max_val


class Softmax(_Activation):
    """exp(x) / sum(exp(x)) along `dim`."""

    options = ("dim",)

    def __init__(self, dim: int = -1):
        self.dim = dim


class LogSoftmax(Softmax):
    """log(softmax(x)) along `dim`."""

    function = "log_softmax"


class Softmin(Softmax):
    """softmax(-x) along `dim`."""
