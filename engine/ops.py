"""The primitives: what each operation of the graph takes and gives.

Comes in: the sources and the argument of a node. Goes out: the shape and the dtype of its value, or an error
that names the operation, the shapes and the fix. Every primitive has one entry here, one in `gradient.py`, one in
each backend's table of functions and one in the tests' table of inputs.

Operands of arithmetic have one shape and one dtype: broadcasting and promotion happen above, in `tensor.py`,
as `expand` and `cast` nodes. Reductions keep the reduced dimensions with size 1, so that their results expand back.

>>> from clgrad.engine.ops import RULES, describe
>>> sorted(RULES)[:4]
['acos', 'acosh', 'add', 'and']
>>> describe("dot")
'(*batch, M, K) and (*batch, K, N) of one dtype -> (*batch, M, N)'
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from ..backends import dtypes
from ..backends.dtypes import DType, is_bool, is_float, is_int

if TYPE_CHECKING:
    from ..backends.packing import Packing
    from .node import Node

Shape = tuple[int, ...]
Rule = Callable[[str, tuple["Node", ...], Any], tuple[Shape, DType]]

UNARY_FLOAT = (
    "exp", "log", "sin", "cos", "tanh", "sqrt", "reciprocal", "erf", "expm1", "log1p", "exp2", "log2", "log10", "tan",
    "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "floor",
)  # fmt: skip
MOVEMENT = ("reshape", "permute", "expand", "pad", "shrink", "flip", "window")
REDUCE = ("reduce_sum", "reduce_max", "reduce_prod")
# Identities to the scheduler; they matter to gradients and lifetimes only.
TRANSPARENT = ("detach", "composite")
RULES: dict[str, Rule] = {}
_DESCRIPTIONS: dict[str, str] = {}


class ShapeError(ValueError, RuntimeError):
    """Operands whose shapes do not go together: a ValueError, as in NumPy, and a RuntimeError, as in PyTorch."""


def describe(op: str) -> str:
    """One line: what the primitive takes and gives."""
    return _DESCRIPTIONS[op]


def rule(*names: str, text: str):
    """Enter the decorated function into the table under `names`."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
            _DESCRIPTIONS[name] = text
        return function

    return enter


def _same(op: str, src) -> tuple[Shape, DType]:
    first = src[0]
    for other in src[1:]:
        if other.shape != first.shape:
            raise ShapeError(f"{op}: shapes {first.shape} and {other.shape} differ; expand one to the other")
        if other.dtype != first.dtype:
            raise TypeError(f"{op}: dtypes {first.dtype} and {other.dtype} differ; cast one to the other")
    return first.shape, first.dtype


def _demand(op: str, dtype: DType, ok: bool, wants: str) -> None:
    if not ok:
        raise TypeError(f"{op}: needs {wants}, got {dtype}; cast first")


@rule(*UNARY_FLOAT, text="a float tensor -> the same shape and dtype")
def _unary_float(op, src, arg):
    _demand(op, src[0].dtype, is_float(src[0].dtype), "a float dtype")
    return src[0].shape, src[0].dtype


@rule("neg", text="a number -> the same shape and dtype; integers wrap")
def _neg(op, src, arg):
    _demand(op, src[0].dtype, not is_bool(src[0].dtype), "a number, not bool")
    return src[0].shape, src[0].dtype


@rule("add", "mul", "max", text="two of one shape and dtype -> the same; integers wrap, bool is or, and, or")
def _any_binary(op, src, arg):
    return _same(op, src)


@rule("sub", text="two numbers of one shape and dtype -> the same; integers wrap")
def _sub(op, src, arg):
    _demand(op, src[0].dtype, not is_bool(src[0].dtype), "numbers, not bool (use ^ for exclusive or)")
    return _same(op, src)


@rule("div", text="two floats of one shape and dtype -> the same")
def _float_binary(op, src, arg):
    _demand(op, src[0].dtype, is_float(src[0].dtype), "float dtypes")
    return _same(op, src)


@rule("pow", text="two numbers of one shape and dtype -> the same; integers wrap, x ** -n rounds towards 0")
@rule("mod", text="two numbers of one shape and dtype -> the same; the sign of the divisor; integer x % 0 = 0")
@rule("idiv", text="two numbers of one shape and dtype -> the same, rounded down; integer x // 0 = 0")
def _number_binary(op, src, arg):
    _demand(op, src[0].dtype, not is_bool(src[0].dtype), "numbers, not bool")
    return _same(op, src)


@rule("and", "or", "xor", text="two integers or bools of one shape and dtype -> the same")
def _bits(op, src, arg):
    _demand(op, src[0].dtype, not is_float(src[0].dtype), "integers or bool")
    return _same(op, src)


@rule("shl", "shr", text="two integers of one shape and dtype -> the same; a shift past the width gives 0, or -1")
def _shift(op, src, arg):
    _demand(op, src[0].dtype, is_int(src[0].dtype), "integers")
    return _same(op, src)


@rule("lt", "eq", text="two of one shape and dtype -> bool; False with NaN")
def _compare(op, src, arg):
    return _same(op, src)[0], dtypes.bool_


@rule("where", text="bool, and two of one dtype, all of one shape -> that dtype")
def _where(op, src, arg):
    condition, a, b = src
    _demand(op, condition.dtype, is_bool(condition.dtype), "a bool condition")
    shape, dtype = _same(op, (a, b))
    if condition.shape != shape:
        raise ShapeError(f"where: condition of shape {condition.shape} does not fit values of shape {shape}")
    return shape, dtype


@rule("custom", text="any number of one shape and dtype, an Operation in arg -> the dtype that it says")
def _custom(op, src, arg):
    shape, dtype = _same(arg.name, src)
    return shape, arg.result(dtype)


@rule("cast", text="any -> the dtype in arg; float to integer truncates and saturates, NaN gives 0")
def _cast(op, src, arg):
    return src[0].shape, arg


@rule("bitcast", text="any but bool -> the same bits under a dtype of the same width")
def _bitcast(op, src, arg):
    dtype = src[0].dtype
    if is_bool(dtype) or is_bool(arg) or dtype.itemsize != arg.itemsize:
        raise TypeError(f"bitcast: {dtype} and {arg} do not have the same width; cast changes the width")
    return src[0].shape, arg


@rule(*REDUCE, text="any, axes in arg -> the reduced dimensions with size 1")
def _reduce(op, src, arg):
    shape = src[0].shape
    if op == "reduce_max" and any(shape[a] == 0 for a in arg) and prod(n for a, n in enumerate(shape) if a not in arg):
        raise ShapeError(
            f"max: the reduced axes {arg} of shape {shape} are empty, and nothing is the maximum of nothing"
        )
    return tuple(1 if a in arg else n for a, n in enumerate(shape)), src[0].dtype


@rule("reshape", text="any, shape of the same size in arg -> that shape")
def _reshape(op, src, arg):
    if prod(arg) != prod(src[0].shape):
        raise ShapeError(
            f"reshape: {src[0].shape} holds {prod(src[0].shape)} elements, {arg} {prod(arg)}; the products must agree"
        )
    return arg, src[0].dtype


@rule("permute", text="any, order of the axes in arg -> the axes in that order")
def _permute(op, src, arg):
    if sorted(arg) != list(range(len(src[0].shape))):
        raise ShapeError(f"permute: {arg} is not an order of the {len(src[0].shape)} axes of shape {src[0].shape}")
    return tuple(src[0].shape[a] for a in arg), src[0].dtype


@rule("expand", text="any, shape in arg -> dimensions of size 1 repeated")
def _expand(op, src, arg):
    shape = src[0].shape
    if len(shape) != len(arg) or any(new < 0 or old not in (1, new) for old, new in zip(shape, arg, strict=True)):
        raise ShapeError(f"expand: {shape} does not expand to {arg}; only dimensions of size 1 are repeated")
    return arg, src[0].dtype


@rule("pad", text="any, (before, after) of each axis in arg -> surrounded by zeros")
def _pad(op, src, arg):
    if len(arg) != len(src[0].shape) or any(before < 0 or after < 0 for before, after in arg):
        raise ShapeError(f"pad: {arg} must hold two widths >= 0 for each of the axes of {src[0].shape}")
    return tuple(n + before + after for n, (before, after) in zip(src[0].shape, arg, strict=True)), src[0].dtype


@rule("shrink", text="any, (low, high) of each axis in arg -> that part")
def _shrink(op, src, arg):
    shape = src[0].shape
    if len(arg) != len(shape) or any(not 0 <= lo <= hi <= n for (lo, hi), n in zip(arg, shape, strict=True)):
        raise ShapeError(f"shrink: {arg} must hold 0 <= low <= high <= size for each axis of {shape}")
    return tuple(hi - lo for lo, hi in arg), src[0].dtype


@rule("flip", text="any, axes in arg -> reversed along them")
def _flip(op, src, arg):
    if any(not 0 <= a < len(src[0].shape) for a in arg):
        raise ShapeError(f"flip: axes {arg} are not all axes of {src[0].shape}")
    return src[0].shape, src[0].dtype


@rule("window", text="any, (axis, size, step) in arg -> places of windows along the axis; a new last axis inside them")
def _window(op, src, arg):
    shape, (axis, size, step) = src[0].shape, arg
    if not (0 <= axis < len(shape) and 0 <= size <= shape[axis] and step > 0):
        raise ShapeError(f"window: {arg} must hold an axis of {shape}, a size up to that axis's, and a step above 0")
    return (*shape[:axis], (shape[axis] - size) // step + 1, *shape[axis + 1 :], size), src[0].dtype


@rule("cat", text="tensors of one dtype that differ along the axis in arg only -> one after another along it")
def _cat(op, src, arg):
    first = src[0]
    for other in src[1:]:
        if other.dtype != first.dtype:
            raise TypeError(f"cat: dtypes {first.dtype} and {other.dtype} differ; cast one to the other")
        if len(other.shape) != len(first.shape) or any(
            a != arg and n != m for a, (n, m) in enumerate(zip(first.shape, other.shape, strict=True))
        ):
            raise ShapeError(f"cat: {other.shape} differs from {first.shape} in more than axis {arg}")
    total = sum(s.shape[arg] for s in src)
    return tuple(total if a == arg else n for a, n in enumerate(first.shape)), first.dtype


@rule("dot", text="(*batch, M, K) and (*batch, K, N) of one dtype -> (*batch, M, N)")
def _dot(op, src, arg):
    a, b = src
    if arg is not None:
        return _packed_dot(a, b, arg)
    if a.dtype != b.dtype or is_bool(a.dtype):
        raise TypeError(f"dot: needs two numbers of one dtype, got {a.dtype} and {b.dtype}; cast first")
    if len(a.shape) < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"dot: {a.shape} and {b.shape} do not contract; wanted (*batch, M, K) and (*batch, K, N)")
    return (*a.shape[:-1], b.shape[-1]), a.dtype


def _packed_dot(a: Node, b: Node, packing: Packing) -> tuple[Shape, DType]:
    """float32 (M, K) and uint8 (bytes, N), whose columns are K numbers packed."""
    if a.dtype != dtypes.float32 or b.dtype != dtypes.uint8:
        raise TypeError(f"dot: {packing.name} needs float32 and packed uint8, got {a.dtype} and {b.dtype}")
    if len(a.shape) != 2 or len(b.shape) != 2 or packing.row_bytes(a.shape[1]) != b.shape[0]:
        raise ShapeError(f"dot: {a.shape} and {b.shape} of {packing.name} do not contract; wanted (M, K), (bytes, N)")
    return (a.shape[0], b.shape[1]), a.dtype


@rule("gather", text="(rows, *rest) and an integer index -> index.shape + rest")
def _gather(op, src, arg):
    x, index = src
    _demand(op, index.dtype, is_int(index.dtype), "an integer index")
    return index.shape + x.shape[1:], x.dtype


@rule(
    "scatter_add", text="index.shape + rest and an integer index, rows in arg -> (rows, *rest), summed in index order"
)
def _scatter_add(op, src, arg):
    values, index = src
    _demand(op, index.dtype, is_int(index.dtype), "an integer index")
    if values.shape[: len(index.shape)] != index.shape:
        raise ShapeError(f"scatter_add: values of shape {values.shape} do not start with the index's {index.shape}")
    return (arg, *values.shape[len(index.shape) :]), values.dtype


@rule(
    "argsort", text="integers (*rows, n), perhaps an order of them; runs in arg -> int32 positions that sort the runs"
)
def _argsort(op, src, arg):
    keys = src[0]
    _demand(op, keys.dtype, is_int(keys.dtype), "integer keys")
    if not keys.shape or arg < 1:
        raise ShapeError(f"argsort: keys of shape {keys.shape} have no rows to sort in runs of {arg}")
    for order in src[1:]:
        if order.shape != keys.shape or order.dtype != dtypes.int32:
            raise ShapeError(f"argsort: {order.dtype} {order.shape} is no order of keys of shape {keys.shape}")
    return keys.shape, dtypes.int32


@rule("attention", text="(*batch, T, D), (*batch, S, D), (*batch, S, E) and more, a Part in arg -> the part")
def _attention(op, src, arg):
    return arg.rule(src)


@rule("scatter_set", text="(rows, *rest), index.shape + rest and an integer index -> the first with rows replaced")
def _scatter_set(op, src, arg):
    x, values, index = src
    _demand(op, index.dtype, is_int(index.dtype), "an integer index")
    if x.dtype != values.dtype:
        raise TypeError(f"scatter_set: dtypes {x.dtype} and {values.dtype} differ; cast one to the other")
    if not x.shape or values.shape != index.shape + x.shape[1:]:
        raise ShapeError(f"scatter_set: values of shape {values.shape} do not fit rows of {x.shape} at {index.shape}")
    return x.shape, x.dtype


@rule("random", text="key and counter, uint64 scalars, shape in arg -> uint32 words of Philox4x32-10")
def _random(op, src, arg):
    for scalar in src:
        if scalar.shape != () or scalar.dtype != dtypes.uint64:
            raise TypeError(f"random: key and counter are uint64 scalars, got {scalar.dtype} of shape {scalar.shape}")
    return arg, dtypes.uint32


@rule("iota", text="length in arg -> 0, 1, 2, ... as int32 (int64 from 2**31 on)")
def _iota(op, src, arg):
    return (arg,), dtypes.int32 if arg <= 2**31 else dtypes.int64


@rule("detach", "contiguous", "barrier", text="any -> itself")
def _identity(op, src, arg):
    return src[0].shape, src[0].dtype


@rule("copy", text="any, device in arg -> itself there")
def _copy(op, src, arg):
    return src[0].shape, src[0].dtype


@rule("composite", text="an expansion and the inputs that its gradient names -> the expansion")
def _composite(op, src, arg):
    return src[0].shape, src[0].dtype
