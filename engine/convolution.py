"""Convolution in one, two and three dimensions, and its transpose.

A convolution looks at images through windows, and multiplies what is in each with the weight. So it is movement, which
lays the windows out as columns of a matrix, and one product of matrices for all images; its gradients are products too.
The transpose goes the way back: a product gives what is in windows, and these are added up where they lie in the image.

    (B, C, H, W)  windows  (C kh kw, B oh ow)   weight (O, C kh kw) @ columns  (O, B oh ow)  ->  (B, O, oh, ow)

>>> from clgrad import Tensor
>>> image, weight = Tensor.arange(9.0).reshape(1, 1, 3, 3), Tensor.ones(1, 1, 2, 2)
>>> image.conv2d(weight).tolist()
[[[[8.0, 12.0], [20.0, 24.0]]]]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Optional, Union

from ..backends import dtypes
from .composite import composite
from .gradient import placed, resized
from .node import Node, constant, make
from .ops import ShapeError
from .products import matmul

if TYPE_CHECKING:
    from .tensor import Tensor

Shape = tuple[int, ...]
Sizes = Union[int, Sequence[int]]
Widths = list[tuple[int, int]]  # what is put before and after each axis
MOST_PARTS = 32  # windows over one element that are added up in one kernel

# --- windows ----------------------------------------------------------------------------------------------------------


def each(op: str, name: str, value: Sizes, rank: int, least: int = 1) -> tuple[int, ...]:
    """One size for each of `rank` axes: an int, alone or in a sequence, stands for all of them."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    sizes = sizes * rank if len(sizes) == 1 else sizes
    if len(sizes) != rank or any(n < least for n in sizes):
        raise ShapeError(f"{op}: {name} {value} must be an int or {rank} of them, none below {least}")
    return sizes


def widths(op: str, padding: Sizes, rank: int) -> Widths:
    """The padding of each axis: an int, one for each, or (before, after) of each, those of the last axis first."""
    if isinstance(padding, int) or len(padding) != 2 * rank:
        return [(p, p) for p in each(op, "padding", padding, rank, 0)]
    each(op, "padding", padding, 2 * rank, 0)
    return [(padding[i], padding[i + 1]) for i in range(2 * rank - 2, -1, -2)]


def windows(x: Node, size: Shape, stride: Shape, dilation: Shape) -> Node:
    """(..., *n) -> (..., *places, *size): what windows show, `stride` apart, with steps of `dilation` inside them."""
    first = len(x.shape) - len(size)
    view = x
    for axis, (n, step, gap) in enumerate(zip(size, stride, dilation), first):
        view = make("window", (view,), (axis, (n - 1) * gap + 1, step))
        if gap > 1:
            view = make("window", (view,), (len(view.shape) - 1, 1, gap))
            view = view.reshape(view.shape[:-1])
    return composite("windows", (x.shape[first:], size, stride, dilation), _windows_gradient, view, x)


def _windows_gradient(arg, g: Node, y: Node, x: Node):
    return (overlaid(g, *arg),)


def overlaid(x: Node, shape: Shape, size: Shape, stride: Shape, dilation: Shape) -> Node:
    """(..., *places, *size) -> (..., *shape): windows put where `windows` sees them, and added up."""
    arg, first = (shape, size, stride, dilation), len(x.shape) - 2 * len(shape)
    return composite("overlaid", arg, _overlaid_gradient, _overlaid(x, first, *arg), x)


def _overlaid_gradient(arg, g: Node, y: Node, x: Node):
    return (windows(g, *arg[1:]),)


def _overlaid(x: Node, first: int, shape: Shape, size: Shape, stride: Shape, dilation: Shape) -> Node:
    if 0 in x.shape:
        return constant(0, x.dtype, (*x.shape[:first], *shape), x.device)
    inner = first + len(shape)
    for axis, (n, gap) in enumerate(zip(size, dilation), inner):
        if gap > 1:  # zeros between the elements of a window
            x = placed(x.reshape((*x.shape, 1)), axis, 1, gap, (n - 1) * gap + 1)
    rounds = prod(-(-n // step) for n, step in zip(x.shape[inner:], stride))
    if max(rounds, prod(stride)) <= MOST_PARTS:
        return _overlaid_at_once(x, first, shape, stride)
    for axis in reversed(range(len(shape))):
        x = placed(x, first + axis, x.shape[-1], stride[axis], shape[axis])
    return x


def _overlaid_at_once(x: Node, first: int, shape: Shape, stride: Shape) -> Node:
    """Places that are a multiple of the stride apart are seen through windows alike: their values are one sum of parts.

    So there is one sum for each remainder that a place can leave, and these are dealt out along each axis in turn.
    """
    rank = len(shape)
    before, inner = x.shape[:first], x.shape[first + rank :]
    rows = [-(-n // step) for n, step in zip(shape, stride)]

    def total(remainders: Shape) -> Node:
        counts = (max(-(-(n - r) // step), 0) for n, r, step in zip(inner, remainders, stride))
        parts = [part(remainders, blocks) for blocks in product(*map(range, counts))]
        return reduce(Node.__add__, parts) if parts else constant(0, x.dtype, (*before, *rows), x.device)

    def part(remainders: Shape, blocks: Shape) -> Node:
        seen = x
        for axis, (r, block, step) in enumerate(zip(remainders, blocks, stride), first):
            seen = resized(seen, axis + rank, -block * step - r, 1)
        seen = seen.reshape(seen.shape[: first + rank])
        for axis, (block, n) in enumerate(zip(blocks, rows), first):
            seen = resized(seen, axis, block, n)
        return seen

    def dealt(remainders: Shape) -> Node:
        if len(remainders) == rank:
            return total(remainders)
        axis = first + len(remainders)
        parts = [dealt((*remainders, r)) for r in range(stride[len(remainders)])]
        head, n, tail = parts[0].shape[:axis], parts[0].shape[axis], parts[0].shape[axis + 1 :]
        if len(parts) == 1:
            return parts[0]
        joined = make("cat", tuple(part.reshape((*head, n, 1, *tail)) for part in parts), axis + 1)
        return joined.reshape((*head, n * len(parts), *tail))

    whole = dealt(())
    for axis, n in enumerate(shape, first):
        whole = resized(whole, axis, 0, n)
    return whole


# --- convolutions -----------------------------------------------------------------------------------------------------


def conv2d(
    self: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    groups: int = 1,
    stride: Sizes = 1,
    dilation: Sizes = 1,
    padding: Union[Sizes, str] = 0,
    dtype=None,
) -> Tensor:
    """The sums of products of `weight` with what it covers of this Tensor, at every place: cross-correlation.

    self (B, C, *n), or (C, *n) for one image; weight (O, C / groups, *size); bias (O) -> (B, O, *places), with one, two
    or three spatial axes and places = (n + padding - dilation (size - 1) - 1) // stride + 1 along each. In group g, O /
    groups channels of the result see C / groups of the input. `stride` and `dilation` are an int or one for each axis.
    `padding` with zeros is an int, one for each axis, (before, after) for each axis in one tuple, those of the last
    axis first, "valid" (none) or "same" (as many places as n; stride 1 only). Computed in the dtype in which the
    operands meet, or in `dtype`. Raises ShapeError for sizes that do not fit.
    """
    op, rank = "conv2d", weight.ndim - 2
    x = _batched(op, self, weight, groups, weight.shape[1] * groups)
    step, gap = each(op, "stride", stride, rank), each(op, "dilation", dilation, rank)
    size = weight.shape[2:]
    x = x.pad([(0, 0), (0, 0), *_conv_widths(op, padding, size, step, gap)])
    for n, k, d in zip(x.shape[2:], size, gap):
        if k < 1 or n < (k - 1) * d + 1:
            raise ShapeError(f"{op}: weight {weight.shape} with dilation {gap} does not fit into a padded {x.shape}")
    met = dtypes.promote(self.dtype, weight.dtype) if dtype is None else dtype
    seen = type(self)._wrap(windows(x.cast(met)._source(), size, step, gap))  # (B, C, *places, *size)
    batch, channels, places = seen.shape[0], weight.shape[1], seen.shape[2 : 2 + rank]
    seen = seen.unflatten(1, (groups, channels))
    columns = seen.permute(1, 2, *range(3 + rank, 3 + 2 * rank), 0, *range(3, 3 + rank))
    columns = columns.reshape(groups, channels * prod(size), batch * prod(places))
    rows = weight.cast(met).reshape(groups, weight.shape[0] // groups, channels * prod(size))
    y = matmul(rows, columns).reshape(weight.shape[0], batch, *places)
    return _finished(self, y.transpose(0, 1), bias)


def conv_transpose2d(
    self: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    groups: int = 1,
    stride: Sizes = 1,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    dtype=None,
) -> Tensor:
    """The transpose of `conv2d` as a linear map: what it computes is the gradient of a convolution for its input.

    self (B, C, *n), or (C, *n); weight (C, O / groups, *size); bias (O) -> (B, O, *(stride (n - 1) + dilation (size -
    1) + 1 - padding + output_padding)). `padding` is what the convolution had, in the same forms but for words;
    `output_padding`, an int or one for each axis below stride or dilation, is what it did not look at, at the end.
    """
    op, rank = "conv_transpose2d", weight.ndim - 2
    x = _batched(op, self, weight, groups, weight.shape[0])
    step, gap = each(op, "stride", stride, rank), each(op, "dilation", dilation, rank)
    more, size = each(op, "output_padding", output_padding, rank, 0), weight.shape[2:]
    if any(m >= max(s, d) for m, s, d in zip(more, step, gap)):
        raise ShapeError(f"{op}: output_padding {more} must be below the larger of stride {step} and dilation {gap}")
    met = dtypes.promote(self.dtype, weight.dtype) if dtype is None else dtype
    batch, inputs, outputs, places = x.shape[0], weight.shape[0] // groups, weight.shape[1], x.shape[2:]
    columns = x.cast(met).transpose(0, 1).reshape(groups, inputs, batch * prod(places))
    rows = weight.cast(met).reshape(groups, inputs, outputs * prod(size))
    seen = matmul(rows.transpose(1, 2), columns).reshape(groups * outputs, *size, batch, *places)
    seen = seen.permute(1 + rank, 0, *range(2 + rank, 2 + 2 * rank), *range(1, 1 + rank))  # (B, O, *places, *size)
    whole = tuple(s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(step, places, gap, size))
    y = type(self)._wrap(overlaid(seen._source(), whole, size, step, gap))
    cut = [(-before, m - after) for (before, after), m in zip(widths(op, padding, rank), more)]
    if any(n + before + after < 0 for n, (before, after) in zip(whole, cut)):
        raise ShapeError(
            f"{op}: padding {padding} is more than the {whole} of input {self.shape} and weight {weight.shape}"
        )
    return _finished(self, y.pad([(0, 0), (0, 0), *cut]), bias)


def _batched(op: str, x: Tensor, weight: Tensor, groups: int, channels: int) -> Tensor:
    """The images with a batch axis, if they go with the weight."""
    if weight.ndim not in (3, 4, 5) or x.ndim not in (weight.ndim, weight.ndim - 1):
        raise ShapeError(
            f"{op}: input {x.shape} and weight {weight.shape} must be (B, C, *n) and (O, I, *size) with one to three "
            "spatial axes"
        )
    x = x if x.ndim == weight.ndim else x.unsqueeze(0)
    if groups < 1 or weight.shape[0] % groups or x.shape[1] != channels:
        raise ShapeError(
            f"{op}: input {x.shape} and weight {weight.shape} do not fit with groups={groups}: {channels} input "
            f"channels wanted, and weight's first size must divide into groups"
        )
    return x


def _finished(x: Tensor, y: Tensor, bias: Optional[Tensor]) -> Tensor:
    """With the bias, and without a batch axis if the input `x` had none."""
    if bias is not None:
        if bias.shape != (y.shape[1],):
            raise ShapeError(
                f"conv: bias {bias.shape} must have one value for each of the {y.shape[1]} output channels"
            )
        y = y + bias.reshape(1, -1, *[1] * (y.ndim - 2))
    return y if x.ndim == y.ndim else y.squeeze(0)


def _conv_widths(op: str, padding: Union[Sizes, str], size, stride, dilation) -> Widths:
    if not isinstance(padding, str):
        return widths(op, padding, len(size))
    if padding not in ("same", "valid"):
        raise ValueError(f"{op}: padding {padding!r} must be 'same', 'valid' or numbers")
    if padding == "valid":
        return [(0, 0)] * len(size)
    if set(stride) != {1}:
        raise ValueError(f"{op}: padding 'same' needs stride 1, not {stride}")
    return [(d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2) for k, d in zip(size, dilation)]
