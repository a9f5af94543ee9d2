"""Gradient checkpointing: values that are computed again for the backward pass instead of being kept for it.

Comes in: a function of Tensors. Goes out: its result, as a composite that knows the inputs alone. The graph which the
function builds is a template. It is built twice from other leaves: at once, from inputs without history, so that
nothing in it is kept; and when the gradient g is there, from inputs behind a `barrier` that waits for g. A barrier is
a value of its own, so what follows it is not merged with the first pass, and it lets the second pass start no earlier
than its results are needed:

    x ── f ── y            the first pass
    x, g ── barrier ── f   the second one, whose values the gradient of x is made of

Both passes are made of the same nodes, random bits included: dropout drops the same elements. (Chen et al., Training
Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.)

>>> from clgrad import Tensor, nn
>>> x = Tensor([1.0, 2.0], requires_grad=True)
>>> nn.checkpoint(lambda x: (x * x).exp(), x).sum().backward()
>>> x.grad.tolist() == [2 * Tensor(1.0).exp().item(), 4 * Tensor(4.0).exp().item()]
True
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Optional

from .arguments import filled, flattened
from .composite import composite
from .gradient import differentiable_sources, pull_back_to
from .node import Node, make, topological
from .tensor import Tensor, grad_enabled


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), whose inner values are computed again for the gradient instead of being kept.

    The function gives Tensors, None, or tuples, lists and dicts of them. Parameters that it uses get their gradients
    whether they are arguments or not. What it computes from its arguments is computed again; what it computes from
    parameters alone is kept. Values inside are no targets for `Tensor.gradient`.
    """
    outputs: list[Tensor] = []
    structure = flattened(function(*args, **kwargs), outputs, "checkpoint's function")
    if not grad_enabled() or not any(y.requires_grad for y in outputs):
        return filled(structure, outputs)
    given = _tensors((args, kwargs))
    template = Template([t.node for t in given], [y.node for y in outputs])
    return filled(structure, [Tensor._wrap(node) for node in template.results()])


def _tensors(value: Any) -> list[Tensor]:
    """The Tensors among arguments."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return [t for v in value for t in _tensors(v)] if isinstance(value, (tuple, list)) else []


class Template:
    """The graph from `arguments`, and the leaves it reaches beside them that want a gradient, to `outputs`."""

    def __init__(self, arguments: Sequence[Node], outputs: Sequence[Node]):
        self.arguments, self.outputs = list(dict.fromkeys(arguments)), list(outputs)
        stop = set(self.arguments)
        inside = topological(self.outputs, lambda node: () if node in stop else differentiable_sources(node))
        self.inputs = [*self.arguments, *(n for n in inside if n.owner is not None and n not in stop)]
        # Outputs whose gradients are taken together share one second pass, for as long as anybody needs it.
        self.copies: weakref.WeakValueDictionary[Node, Node] = weakref.WeakValueDictionary()

    def results(self) -> list[Node]:
        """Each output, computed from inputs without history."""
        ends = set(self.inputs)
        order = topological(self.outputs, lambda n: () if n in ends or n.in_memory else n.src)
        values = rebuilt(self.outputs, {n: _detached(n) for n in order if n in ends or n.in_memory})
        return [
            composite("checkpoint", None, self._rule(number), value, *self.inputs) if y.requires_grad else value
            for number, (y, value) in enumerate(zip(self.outputs, values, strict=True))
        ]

    def _rule(self, number: int) -> Callable[..., tuple[Optional[Node], ...]]:
        def rule(arg: None, g: Node, y: Node, *inputs: Node) -> tuple[Optional[Node], ...]:
            again = {old: new for old, new in zip(self.inputs, inputs, strict=True) if old is not new}
            again |= {old: self._waiting(new, g) for old, new in zip(self.arguments, inputs)}
            [result] = rebuilt([self.outputs[number]], again)
            targets = [again.get(node, node) for node in self.inputs]
            found = pull_back_to(targets, result, g)
            return tuple(found.get(target) for target in targets)

        return rule

    def _waiting(self, node: Node, g: Node) -> Node:
        if not node.src and not node.in_memory:
            return node  # a constant
        copy = self.copies.get(node)
        if copy is None:
            copy = self.copies[node] = make("barrier", (node, g))
        return copy


def _detached(node: Node) -> Node:
    return make("detach", (node,)) if node.requires_grad else node


def rebuilt(roots: Sequence[Node], known: dict[Node, Node]) -> list[Node]:
    """The roots, made from the nodes to which `known` maps some of those that they are made of."""
    result = dict(known)
    for node in topological(roots, lambda n: () if n in known or n.owner is not None else n.src):
        if node in result:
            continue
        src = node.src if node.owner is not None else tuple(result[s] for s in node.src)
        if src == node.src:
            result[node] = node
        else:
            result[node] = make(node.op, src, node.arg[1] if node.op == "barrier" else node.arg, node.where)
    return [result[root] for root in roots]
