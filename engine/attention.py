"""Attention: softmax(scale Q K^T + mask) V and its gradients, whose scores need not reach memory.

Comes in: nodes of queries, keys, values and perhaps a mask. Goes out: an `attention` node, which the scheduler gives to
the backend as one kernel, with memory that grows with the length and not with its square (Dao et al., FlashAttention,
arXiv 2205.14135). There are five such nodes, named by what they are (`Part.result`):

    output, logsumexp     one kernel forward; the second is what the backward pass needs of the softmax
    query, key, value     one kernel backward, from the gradient of the output, the output and the logsumexp

The gradient of the output is made of the last three. All others have an *expansion* instead: the same value in
primitives, scores and all, of which derivatives are taken. So second derivatives exist, and cost the memory.

Heads usually stand before the time axis of the operands and are joined behind it afterwards, so with four axes or more
the values lie in memory with those two exchanged: (..., T, H, D) for a result of shape (..., H, T, D).

>>> from clgrad import Tensor
>>> x = Tensor([[1.0, 0.0], [0.0, 1.0]])
>>> x.scaled_dot_product_attention(x, x, is_causal=True)[0].tolist()
[1.0, 0.0]
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple, Optional

from ..backends.dtypes import DType, accumulator, is_bool, is_float
from .composite import logsumexp
from .node import Node, iota, make

LARGEST_HEAD = 256  # elements of a query or a value: kernels keep a few rows of each at hand
GRADIENTS = {"query": "q", "key": "k", "value": "v"}  # result -> the operand that it is the gradient of

Shape = tuple[int, ...]


class Part(NamedTuple):
    """What an `attention` node is of its sources.

    These are q, k, v, then the mask if there is one, then for the output the logsumexp (which comes from the same
    kernel), and for the gradients the gradient of the output, the output, and the logsumexp.
    """

    result: str
    scale: float
    causal: bool
    masked: bool

    def operands(self, src: tuple[Node, ...]) -> dict[str, Node]:
        """The sources that a kernel reads, by the names of `backends.kernel.Attention`."""
        names = ["q", "k", "v", *(["mask"] if self.masked else [])]
        if self.result in GRADIENTS:
            names += ["grad", "output", "logsumexp"]
        return dict(zip(names, src))  # the logsumexp of an output is left over

    def layout(self, rank: int) -> Shape:
        """The order in which the axes of the result lie in memory; it is its own inverse."""
        joined = rank >= 4 and self.result != "logsumexp"
        return (*range(rank - 3), rank - 2, rank - 3, rank - 1) if joined else tuple(range(rank))

    def rule(self, src: tuple[Node, ...]) -> tuple[Shape, DType]:
        """The shape, as it lies in memory, and the dtype of the node."""
        q, k, v = src[:3]
        if self.result == "logsumexp":  # half precision would be too little to compute probabilities from
            return (*q.shape[:-1], 1), accumulator(q.dtype)
        rows, width = {
            "output": (q.shape[-2], v.shape[-1]), "query": q.shape[-2:], "key": k.shape[-2:], "value": v.shape[-2:],
        }[self.result]  # fmt: skip
        shape = (*q.shape[:-2], rows, width)
        return tuple(shape[a] for a in self.layout(len(shape))), q.dtype


def takes(q: Node, k: Node, v: Node, mask: Optional[Node]) -> bool:
    """Whether kernels take these operands, which have one dtype and one batch shape.

    Not those of a single query, whose scores are no more than its keys: two products and a softmax are faster.
    """
    sizes = 0 not in (*q.shape, *k.shape, *v.shape) and max(q.shape[-1], v.shape[-1]) <= LARGEST_HEAD
    return (
        sizes
        and q.shape[-2] > 1
        and is_float(q.dtype)
        and (mask is None or is_bool(mask.dtype) or mask.dtype == q.dtype)
    )


def attention(q: Node, k: Node, v: Node, mask: Optional[Node], scale: float, causal: bool) -> Node:
    """q (*batch, T, D), k (*batch, S, D), v (*batch, S, E) -> (*batch, T, E), of operands that `takes` allows.

    mask (*batch, T, S) is added to the scores or, if bool, says which count. With `causal`, query t sees keys 0 to t.
    """
    src = (q, k, v) if mask is None else (q, k, v, mask)
    part = Part("logsumexp", scale, causal, mask is not None)
    total = make("attention", src, part)
    return _in_order(make("attention", (*src, total), part._replace(result="output")))


def _in_order(x: Node) -> Node:
    """A result in the order of the operands' axes, from that in memory; or back."""
    return x.permute(Part("output", 1.0, False, False).layout(len(x.shape)))


def siblings(node: Node) -> tuple:
    """What the nodes of one kernel have in common."""
    return node.arg._replace(result=""), node.src[:-1] if node.arg.result == "output" else node.src


# --- gradients ------------------------------------------------------------------------------------------------------


def gradient(g: Node, y: Node) -> tuple[Optional[Node], ...]:
    """The gradient of an output `y` for each of its sources, given `g`, that of the output."""
    part: Part = y.arg
    *operands, total = y.src
    src = (*operands, _in_order(g), _in_order(y), total)
    result: list[Optional[Node]] = [None] * len(y.src)
    for number, name in enumerate(GRADIENTS):
        if y.src[number].requires_grad:
            result[number] = _in_order(make("attention", src, part._replace(result=name)))
    if part.masked and y.src[3].requires_grad:
        result[3] = _score_gradient(part._replace(result="query").operands(src), part)
    return tuple(result)


def expansion(y: Node) -> Node:
    """The value of an `attention` node other than an output, in primitives."""
    part: Part = y.arg
    x = part.operands(y.src)
    if part.result == "logsumexp":
        scores = _scores(x, part).cast(y.dtype)
        empty = make("reduce_max", (scores,), (len(y.shape) - 1,)).eq(-inf)  # such rows have gradients of 0, not NaN
        scores = empty.expand(scores.shape).where_(0.0, scores)
        return empty.where_(0.0, logsumexp(scores, (len(y.shape) - 1,)))
    if part.result == "value":
        return _in_order(make("dot", (_probabilities(x, part).transpose(), x["grad"])))
    of_scores = _score_gradient(x, part)
    if part.result == "key":
        return _in_order(make("dot", (of_scores.transpose(), x["q"])) * part.scale)
    return _in_order(make("dot", (of_scores, x["k"])) * part.scale)


def _scores(x: dict[str, Node], part: Part) -> Node:
    """S = scale q k^T + mask: (*batch, T, S)"""
    scores = make("dot", (x["q"], x["k"].transpose())) * part.scale
    if part.causal:
        rank = len(scores.shape)
        query, key = (
            iota(scores.shape[a], scores.device)
            .reshape(tuple(scores.shape[a] if b == a else 1 for b in range(rank)))
            .expand(scores.shape)
            for a in (rank - 2, rank - 1)
        )
        scores = (query < key).where_(float("-inf"), scores)
    if part.masked:
        mask = x["mask"]
        scores = mask.where_(scores, float("-inf")) if is_bool(mask.dtype) else scores + mask
    return scores


def _probabilities(x: dict[str, Node], part: Part) -> Node:
    """P = exp(S - logsumexp)"""
    scores, total = _scores(x, part), x["logsumexp"]
    return make("exp", (scores.cast(total.dtype) - total.expand(scores.shape),)).cast(scores.dtype)


def _score_gradient(x: dict[str, Node], part: Part) -> Node:
    """dS = P (grad v^T - sum_e grad output)"""
    grad, output = x["grad"], x["output"]
    along = (grad * output).sum((len(grad.shape) - 1,))
    product = make("dot", (grad, x["v"].transpose()))
    return _probabilities(x, part) * (product - along.expand(product.shape))
