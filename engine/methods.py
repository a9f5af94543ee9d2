"""What a Tensor can do, on one page: every method that is made of primitives, by family.

Each family is a file of functions whose first argument is the Tensor; here they get their names. `Tensor` inherits
this list and adds what is not mathematics: identity, reading, gradients, assignment.

>>> from clgrad import Tensor
>>> Tensor([1.0, 4.0]).sqrt().tolist(), Tensor.arange(3).sum().item()
([1.0, 2.0], 3)
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING

from . import (
    activations,
    arithmetic,
    casting,
    convolution,
    creation,
    einsum,
    elementwise,
    indexing,
    interchange,
    interpolation,
    losses,
    movement,
    pieces,
    pooling,
    products,
    random,
    reduction,
    sampling,
    scan,
    scatter,
    sort,
)
from . import rearrange as rearranging
from .arithmetic import operator, reversed_operator

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
    empty_like = creation.empty_like
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
    rand_like, randn_like, randint_like = random.rand_like, random.randn_like, random.randint_like
    scaled_uniform = classmethod(random.scaled_uniform)
    glorot_uniform = classmethod(random.glorot_uniform)
    kaiming_uniform, kaiming_normal = classmethod(random.kaiming_uniform), classmethod(random.kaiming_normal)
    randperm = classmethod(sampling.randperm)
    multinomial = sampling.multinomial
    manual_seed = classmethod(random.manual_seed)
    get_rng_state = classmethod(random.get_state)
    set_rng_state = classmethod(random.set_state)

    # --- functions of one number ----------------------------------------------------------------------------------

    exp, expm1, exp2 = elementwise.exp, elementwise.expm1, elementwise.exp2
    log, log1p, log2, log10 = elementwise.log_, elementwise.log1p, elementwise.log2, elementwise.log10
    sin, cos, tan, erf = elementwise.sin, elementwise.cos, elementwise.tan, elementwise.erf
    asin, acos, atan = elementwise.asin, elementwise.acos, elementwise.atan
    sinh, cosh, tanh = elementwise.sinh, elementwise.cosh, elementwise.tanh
    asinh, acosh, atanh = elementwise.asinh, elementwise.acosh, elementwise.atanh
    sqrt, rsqrt, square = elementwise.sqrt_, elementwise.rsqrt, elementwise.square
    neg, reciprocal, abs, sign = elementwise.neg, elementwise.reciprocal, elementwise.abs_, elementwise.sign
    floor, ceil, trunc, round = elementwise.floor, elementwise.ceil, elementwise.trunc, elementwise.round_
    isnan, isinf, isfinite = elementwise.isnan, elementwise.isinf, elementwise.isfinite
    logical_not, bitwise_not = elementwise.logical_not, elementwise.bitwise_not
    clip, clamp = elementwise.clip, elementwise.clip
    where = elementwise.where
    __neg__, __abs__, __invert__ = elementwise.neg, elementwise.abs_, elementwise.bitwise_not

    # --- dtypes ---------------------------------------------------------------------------------------------------

    cast, bitcast, is_floating_point = casting.cast, casting.bitcast, casting.is_floating_point
    half, bfloat16, float, double = casting.half, casting.bfloat16, casting.float_, casting.double
    short, int, long, bool = casting.short, casting.int_, casting.long, casting.bool_

    # --- interchange ----------------------------------------------------------------------------------------------

    data, from_dlpack = interchange.data, classmethod(interchange.from_dlpack)
    __array__, __dlpack__, __dlpack_device__ = interchange.array, interchange.to_dlpack, interchange.dlpack_device

    # --- activations ----------------------------------------------------------------------------------------------

    sigmoid, logsigmoid, softplus = activations.sigmoid, activations.logsigmoid, activations.softplus
    silu, swish, mish = activations.silu, activations.silu, activations.mish
    gelu, quick_gelu = activations.gelu, activations.quick_gelu
    relu, relu6, leaky_relu = activations.relu, activations.relu6, activations.leaky_relu
    elu, celu, selu = activations.elu, activations.celu, activations.selu
    hardtanh, hardsigmoid, hardswish = activations.hardtanh, activations.hardsigmoid, activations.hardswish
    softsign, softmin = activations.softsign, activations.softmin

    # --- arithmetic, comparisons, bits ----------------------------------------------------------------------------

    add, sub, mul, div = arithmetic.add, arithmetic.sub, arithmetic.mul, arithmetic.div
    mod, fmod, pow = arithmetic.mod, arithmetic.fmod, arithmetic.pow_
    maximum, minimum, copysign = arithmetic.maximum, arithmetic.minimum, arithmetic.copysign
    logaddexp, lerp = arithmetic.logaddexp, arithmetic.lerp
    eq, ne, isclose, allclose = arithmetic.eq, arithmetic.ne, arithmetic.isclose, arithmetic.allclose
    bitwise_and, bitwise_or, bitwise_xor = arithmetic.bitwise_and, arithmetic.bitwise_or, arithmetic.bitwise_xor
    lshift, rshift = arithmetic.lshift, arithmetic.rshift

    __array_priority__ = 1000  # an array on the left leaves the operation to the Tensor on the right
    __add__ = __radd__ = operator(arithmetic.add)
    __sub__, __rsub__ = operator(arithmetic.sub), reversed_operator(arithmetic.sub)
    __mul__ = __rmul__ = operator(arithmetic.mul)
    __truediv__, __rtruediv__ = operator(arithmetic.div), reversed_operator(arithmetic.div)
    __floordiv__ = operator(arithmetic.div, rounding_mode="floor")
    __rfloordiv__ = reversed_operator(arithmetic.div, rounding_mode="floor")
    __mod__, __rmod__ = operator(arithmetic.mod), reversed_operator(arithmetic.mod)
    __pow__, __rpow__ = operator(arithmetic.pow_), reversed_operator(arithmetic.pow_)
    __and__ = __rand__ = operator(arithmetic.bitwise_and)
    __or__ = __ror__ = operator(arithmetic.bitwise_or)
    __xor__ = __rxor__ = operator(arithmetic.bitwise_xor)
    __lshift__, __rlshift__ = operator(arithmetic.lshift), reversed_operator(arithmetic.lshift)
    __rshift__, __rrshift__ = operator(arithmetic.rshift), reversed_operator(arithmetic.rshift)
    __lt__, __gt__ = operator(arithmetic.lt), operator(arithmetic.gt)
    __le__, __ge__ = operator(arithmetic.le), operator(arithmetic.ge)
    __eq__, __ne__ = operator(arithmetic.eq), operator(arithmetic.ne)

    # --- reductions, scans and sorting ----------------------------------------------------------------------------

    sum, prod, mean = reduction.sum_, reduction.prod_, reduction.mean
    max, min, argmax, argmin = reduction.max_, reduction.min_, reduction.argmax, reduction.argmin
    var, std, var_mean, std_mean = reduction.var, reduction.std, reduction.var_mean, reduction.std_mean
    any, all = reduction.any_, reduction.all_
    softmax, log_softmax, logsumexp = reduction.softmax, reduction.log_softmax, reduction.logsumexp
    normalize, layernorm = reduction.normalize, reduction.layernorm
    cumsum, cumprod, logcumsumexp = scan.cumsum, scan.cumprod, scan.logcumsumexp
    cummax, cummin = scan.cummax, scan.cummin
    sort, argsort, topk = sort.sort, sort.argsort, sort.topk

    # --- movement -------------------------------------------------------------------------------------------------

    reshape, view, flatten, unflatten = movement.reshape, movement.reshape, movement.flatten, movement.unflatten
    squeeze, unsqueeze, rearrange = movement.squeeze, movement.unsqueeze, rearranging.rearrange
    permute, transpose, flip, roll = movement.permute, movement.transpose, movement.flip, pieces.roll
    expand, broadcast_to, repeat = movement.expand, movement.broadcast_to, movement.repeat
    repeat_interleave, unfold, meshgrid = pieces.repeat_interleave, movement.unfold, pieces.meshgrid
    shrink, pad, tril, triu = movement.shrink, pieces.pad, movement.tril, movement.triu
    diag, diagonal = movement.diag, movement.diagonal
    cat, stack, split, chunk = pieces.cat, pieces.stack, pieces.split, pieces.chunk

    @property
    def T(self: Tensor) -> Tensor:  # type: ignore[misc]
        """All axes in reverse order."""
        return self.permute(*range(self.ndim)[::-1])

    # --- indexing -------------------------------------------------------------------------------------------------

    take, gather, index_copy = indexing.take, scatter.gather, scatter.index_copy
    scatter, scatter_reduce = scatter.scatter, scatter.scatter_reduce
    masked_fill, masked_select, nonzero = indexing.masked_fill, indexing.masked_select, indexing.nonzero
    one_hot = indexing.one_hot
    __getitem__, __setitem__ = indexing.getitem, indexing.setitem

    # --- products ---------------------------------------------------------------------------------------------------

    matmul, dot, linear = products.matmul, products.matmul, products.linear
    __matmul__, __rmatmul__ = operator(products.matmul), operator(products.rmatmul)
    einsum = staticmethod(einsum.einsum)
    conv2d, conv_transpose2d = convolution.conv2d, convolution.conv_transpose2d
    avg_pool2d, max_pool2d, max_unpool2d = pooling.avg_pool2d, pooling.max_pool2d, pooling.max_unpool2d
    interpolate = interpolation.interpolate
    cross_entropy, nll_loss = losses.cross_entropy, losses.nll_loss
    sparse_categorical_crossentropy = losses.sparse_categorical_crossentropy
    binary_crossentropy = losses.binary_crossentropy
    binary_crossentropy_logits = losses.binary_crossentropy_logits
    scaled_dot_product_attention = products.scaled_dot_product_attention
    dropout = random.dropout


# Python's errors about arguments name a function by this; the first of several names counts.
for _name, _method in reversed(list(vars(Methods).items())):
    if isinstance(_method, FunctionType):
        _method.__qualname__ = f"Tensor.{_name}"
