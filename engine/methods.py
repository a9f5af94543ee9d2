"""What a Tensor can do, on one page: every method that is made of primitives, by family.

Each family is a file of functions whose first argument is the Tensor; here they get their names. `Tensor` inherits
this list and adds what is not mathematics: identity, reading, gradients, assignment.

>>> from clgrad import Tensor
>>> Tensor([1.0, 4.0]).sqrt().tolist(), Tensor.arange(3).sum().item()
([1.0, 2.0], 3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import creation, einsum, elementwise, movement, products, random, reduction, scan

if TYPE_CHECKING:
    from .tensor import Tensor


class Methods:
    """The methods of Tensor that build nodes and nothing else."""

    __slots__ = ()

    # --- creation -------------------------------------------------------------------------------------------------

    full, zeros, ones, empty = (
        classmethod(creation.full),
        classmethod(creation.zeros),
        classmethod(creation.ones),
        classmethod(creation.empty),
    )
    full_like, zeros_like, ones_like = creation.full_like, creation.zeros_like, creation.ones_like
    arange, linspace, eye = (
        classmethod(creation.arange),
        classmethod(creation.linspace),
        classmethod(creation.eye),
    )
    rand = classmethod(random.rand)
    randn = classmethod(random.randn)
    uniform = classmethod(random.uniform)
    normal = classmethod(random.normal)
    randint = classmethod(random.randint)
    manual_seed = classmethod(random.manual_seed)
    get_rng_state = classmethod(random.get_state)
    set_rng_state = classmethod(random.set_state)

    # --- operations -----------------------------------------------------------------------------------------------

    exp, expm1, exp2 = elementwise.exp, elementwise.expm1, elementwise.exp2
    log, log1p, log2 = elementwise.log_, elementwise.log1p, elementwise.log2
    sin, cos, tan, tanh, erf = elementwise.sin, elementwise.cos, elementwise.tan, elementwise.tanh, elementwise.erf
    sqrt, rsqrt, square = elementwise.sqrt_, elementwise.rsqrt, elementwise.square
    neg, reciprocal, abs, sign = elementwise.neg, elementwise.reciprocal, elementwise.abs_, elementwise.sign
    floor, ceil, trunc, round = elementwise.floor, elementwise.ceil, elementwise.trunc, elementwise.round_
    sigmoid, relu, silu, swish = elementwise.sigmoid, elementwise.relu, elementwise.silu, elementwise.silu
    gelu, softplus, elu = elementwise.gelu, elementwise.softplus, elementwise.elu
    leaky_relu, leakyrelu = elementwise.leaky_relu, elementwise.leaky_relu
    clip, clamp = elementwise.clip, elementwise.clip
    maximum, minimum, pow, lerp = elementwise.maximum, elementwise.minimum, elementwise.pow_, elementwise.lerp
    add, sub, mul, div, mod = elementwise.add, elementwise.sub, elementwise.mul, elementwise.div, elementwise.mod
    where, masked_fill = elementwise.where, elementwise.masked_fill
    isnan, isinf, isfinite = elementwise.isnan, elementwise.isinf, elementwise.isfinite
    logical_not, bitwise_not = elementwise.logical_not, elementwise.bitwise_not
    bitwise_and, bitwise_or, bitwise_xor = elementwise.bitwise_and, elementwise.bitwise_or, elementwise.bitwise_xor
    lshift, rshift = elementwise.lshift, elementwise.rshift
    cast, bitcast = elementwise.cast, elementwise.bitcast
    float, half, double = elementwise.float_, elementwise.half, elementwise.double
    int, long, bool = elementwise.int_, elementwise.long, elementwise.bool_

    __add__ = __radd__ = elementwise.add
    __sub__, __rsub__ = elementwise.sub, elementwise.rsub
    __mul__ = __rmul__ = elementwise.mul
    __truediv__, __rtruediv__ = elementwise.div, elementwise.rdiv
    __floordiv__, __rfloordiv__ = elementwise.floordiv, elementwise.rfloordiv
    __mod__, __rmod__ = elementwise.mod, elementwise.rmod
    __pow__, __rpow__ = elementwise.pow_, elementwise.rpow
    __and__ = __rand__ = elementwise.bitwise_and
    __or__ = __ror__ = elementwise.bitwise_or
    __xor__ = __rxor__ = elementwise.bitwise_xor
    __lshift__, __rshift__, __invert__ = elementwise.lshift, elementwise.rshift, elementwise.bitwise_not
    __lt__, __gt__, __le__, __ge__ = elementwise.lt, elementwise.gt, elementwise.le, elementwise.ge
    __eq__, __ne__ = elementwise.eq, elementwise.ne  # type: ignore[assignment]
    __neg__, __abs__ = elementwise.neg, elementwise.abs_

    # --- reductions, scans and sorting ----------------------------------------------------------------------------

    sum, prod, mean = reduction.sum_, reduction.prod_, reduction.mean
    max, min, argmax, argmin = reduction.max_, reduction.min_, reduction.argmax, reduction.argmin
    var, std, var_mean, std_mean = reduction.var, reduction.std, reduction.var_mean, reduction.std_mean
    any, all = reduction.any_, reduction.all_
    softmax, log_softmax, logsumexp = reduction.softmax, reduction.log_softmax, reduction.logsumexp
    normalize, layernorm = reduction.normalize, reduction.layernorm
    cumsum, cumprod, logcumsumexp = scan.cumsum, scan.cumprod, scan.logcumsumexp
    cummax, cummin = scan.cummax, scan.cummin

    reshape, view, permute, transpose = movement.reshape, movement.reshape, movement.permute, movement.transpose
    expand, broadcast_to, flip, shrink, pad = (
        movement.expand, movement.broadcast_to, movement.flip, movement.shrink, movement.pad,
    )  # fmt: skip
    squeeze, unsqueeze, flatten, unflatten = (
        movement.squeeze, movement.unsqueeze, movement.flatten, movement.unflatten,
    )  # fmt: skip
    repeat, split, chunk = movement.repeat, movement.split, movement.chunk
    take, gather, index_copy = movement.take, movement.gather, movement.index_copy
    __getitem__, __setitem__ = movement.getitem, movement.setitem

    matmul, dot, linear = products.matmul, products.matmul, products.linear
    __matmul__, __rmatmul__ = products.matmul, products.rmatmul
    einsum = staticmethod(einsum.einsum)
    scaled_dot_product_attention = products.scaled_dot_product_attention
    dropout = random.dropout

    @property
    def T(self: Tensor) -> Tensor:  # type: ignore[misc]
        """All axes in reverse order."""
        return self.permute(*range(self.ndim)[::-1])

    tril, triu = creation.tril, creation.triu

    @staticmethod
    def cat(*tensors, dim=0) -> Tensor:
        """Tensors (or one list of them) one after another along `dim`."""
        return movement.cat(tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors, dim)

    @staticmethod
    def stack(*tensors, dim=0) -> Tensor:
        """Tensors (or one list of them) of one shape side by side along a new dimension `dim`."""
        return movement.stack(
            tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors, dim
        )
