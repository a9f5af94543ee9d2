"""Functions of functions: derivatives of Python functions of Tensors.

Comes in: a function. Goes out: a function that gives its gradient, a Jacobian, a product with one. What the function is
called with need not require grad, and nobody's `.grad` is touched: each input is seen through a mark of this one call,
and the gradient is taken of the graph between the result and the marks. So calls nest, for derivatives of any order,
and work under `jit`. Names, arguments and results are those of `torch.func` (of JAX for `value_and_grad`, and of
`torch.autograd.functional` for `hvp`).

An argument that is differentiated may be a Tensor or lists, tuples and dicts of Tensors; its gradient has the same
structure. Tensors that the function finds elsewhere are constants.

>>> from clgrad import Tensor, grad
>>> cube = lambda x: x**3
>>> x = Tensor(2.0)
>>> grad(cube)(x).item(), grad(grad(cube))(x).item(), x.grad
(12.0, 12.0, None)
>>> loss = lambda parameters, x: ((x @ parameters["w"] + parameters["b"]) ** 2).sum()
>>> gradients = grad(loss)({"w": Tensor([[1.0], [2.0]]), "b": Tensor([0.5])}, Tensor([[1.0, -1.0]]))
>>> gradients["w"].tolist(), gradients["b"].tolist()
([[-1.0], [1.0]], [-1.0])
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Union

import numpy as np

from ..backends.dtypes import is_float
from .composite import Composite
from .gradient import differentiable_sources, pull_back
from .node import Node, constant, make, topological
from .ops import ShapeError
from .tensor import Tensor, grad_enabled, recording

Argnums = Union[int, Sequence[int]]


def grad(function: Callable, argnums: Argnums = 0, has_aux: bool = False) -> Callable:
    """The function that gives the gradient of `function` for its argument(s) `argnums`.

    `function` returns a Tensor of shape (), or with `has_aux` a pair of that and anything else, which is then returned
    beside the gradient: (gradient, aux). For a sequence of `argnums` the gradient is a tuple.

    Raises (when called) TypeError for an argument or a result that is not of floats, ShapeError for a result that is
    no scalar, RuntimeError for an argument that is not there.
    """
    both = value_and_grad(function, argnums, has_aux)

    @functools.wraps(function)
    def gradient(*args, **kwargs):
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return gradient


def value_and_grad(function: Callable, argnums: Argnums = 0, has_aux: bool = False) -> Callable:
    """The function that gives (value, gradient), or with `has_aux` ((value, aux), gradient). See `grad`."""

    @functools.wraps(function)
    def both(*args, **kwargs):
        chosen, rest = _chosen(args, argnums, kwargs)
        call = _Call("grad", chosen)
        value, aux = call.run(rest(function), has_aux)
        if not isinstance(value, Tensor) or not is_float(value.dtype):
            raise TypeError(f"grad: the function must return a Tensor of floats, not {_kind(value)}")
        if value.shape != ():
            raise ShapeError(f"grad: the function returned shape {value.shape}, no scalar; reduce it, or use vjp")
        one = constant(1, value.dtype, (), value.device)
        gradients = call.gradients([(value.node, one)])
        value, aux, gradients = call.released((value, aux, gradients))
        return (value, aux) if has_aux else value, gradients[0] if isinstance(argnums, int) else gradients

    return both


def vjp(function: Callable, *primals: Any, has_aux: bool = False) -> tuple:
    """(outputs, pull) of `function(*primals)`: `pull(cotangents)` is the product of cotangents and Jacobian.

    Outputs are a Tensor or lists, tuples and dicts of Tensors, and cotangents have their structure and shapes. `pull`
    gives a tuple of what has the structure of each primal, as often as it is called. With `has_aux` the function
    returns (outputs, aux), and the result is (outputs, pull, aux).

    Raises TypeError for what is not of floats or has another structure, ShapeError for a cotangent of another shape.
    """
    call = _Call("vjp", primals)
    outputs, aux = call.run(function, has_aux)
    ends = _leaves("vjp: an output", outputs)

    def pull(cotangents: Any) -> tuple:
        given = _matching("vjp: cotangents", cotangents, outputs)
        with recording():
            starts = [(y.node, t.cast(y.dtype)._source()) for y, t in zip(ends, given, strict=True)]
            gradients = call.gradients(starts)
        return call.released(gradients)

    shown, aux = call.released((outputs, aux))
    return (shown, pull, aux) if has_aux else (shown, pull)


def jvp(function: Callable, primals: Sequence, tangents: Sequence, has_aux: bool = False) -> tuple:
    """(outputs, tangents of the outputs) of `function(*primals)`: the product of its Jacobian and `tangents`.

    Both are tuples, alike in structure and shapes. With `has_aux` the function returns (outputs, aux), and the result
    is (outputs, tangents, aux). The gradient is linear in what it is given; its own gradient for that is the product
    with the Jacobian (Townsend, 2017, "a new trick for calculating Jacobian vector products").

    Raises as `vjp` does.
    """
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise TypeError("jvp: primals and tangents must be tuples, one entry for each argument of the function")
    call = _Call("jvp", primals)
    given = _matching("jvp: tangents", tuple(tangents), call.inputs)
    outputs, aux = call.run(function, has_aux)
    with recording():
        seeds = [_mark(constant(0, y.dtype, y.shape, y.device)) for y in _leaves("jvp: an output", outputs)]
        starts = [(y.node, seed) for y, seed in zip(_leaves("", outputs), seeds, strict=True)]
        pulled = pull_back([(y, seed) for y, seed in starts if y.requires_grad], call.marks)
        directions = dict(zip(call.marks, given, strict=True))
        pushed = pull_back(
            [(g, directions[mark].cast(g.dtype)._source()) for mark, g in pulled.items()],
            [seed for seed in seeds if is_float(seed.dtype)],
        )
        flow = _filled(outputs, [_found(pushed, seed) for seed in seeds])
    call.marks += seeds
    outputs, aux, flow = call.released((outputs, aux, flow))
    return (outputs, flow, aux) if has_aux else (outputs, flow)


def hvp(function: Callable, primals: Any, tangents: Any) -> tuple:
    """(value, product of the Hessian and `tangents`) of a function that returns a scalar.

    `primals` and `tangents` are a Tensor each, or tuples of one entry for each argument; the product is the same.
    Raises as `grad` and `vjp` do.
    """
    several = isinstance(primals, (tuple, list))
    inputs = tuple(primals) if several else (primals,)
    argnums = tuple(range(len(inputs)))

    def gradient_and_value(*args):
        value, gradients = value_and_grad(function, argnums)(*args)
        return gradients, value

    _, pull, value = vjp(gradient_and_value, *inputs, has_aux=True)
    product = pull(tuple(tangents) if several else (tangents,))
    return value, product if several else product[0]


def jacrev(function: Callable, argnums: Argnums = 0) -> Callable:
    """The function that gives the Jacobian, one pull-back for each element of the outputs.

    For each output, of shape s, and each Tensor of the argument(s), of shape t: a Tensor of shape s + t. Raises as
    `vjp` does.
    """

    @functools.wraps(function)
    def jacobian(*args, **kwargs):
        chosen, rest = _chosen(args, argnums, kwargs)
        outputs, pull = vjp(rest(function), *chosen)
        zeros = [y.zeros_like() for y in _leaves("jacrev: an output", outputs)]

        def rows(number: int) -> Any:
            y = zeros[number]
            # Rows of one matrix in memory: all of them are one kernel, where constants would be as many kernels.
            basis = Tensor(np.eye(y.numel(), dtype=y.dtype), device=y.device)
            pulled = []
            for row in range(y.numel()):
                cotangents = [*zeros[:number], basis[row].reshape(y.shape), *zeros[number + 1 :]]
                pulled.append(pull(_filled(outputs, cotangents)))
            whole = _map(lambda x, *row: _stacked(row, y.shape, x), tuple(chosen), *pulled)
            return whole[0] if isinstance(argnums, int) else whole

        return _filled(outputs, [rows(number) for number in range(len(zeros))])

    return jacobian


def hessian(function: Callable, argnums: Argnums = 0) -> Callable:
    """The function that gives all second derivatives, for small inputs: a pull-back of the gradient for each element.

    For a scalar result and an argument of shape s the Hessian has shape s + s; for `argnums` a sequence it is a tuple
    of tuples, entry (i, j) for arguments i and j. Raises as `vjp` does.
    """
    return jacrev(jacrev(function, argnums), argnums)


# --- one call ---------------------------------------------------------------------------------------------------------


class _Call:
    """One call of a function whose inputs are marked, so that its results can be differentiated for them."""

    def __init__(self, name: str, inputs: Iterable):
        self.name = name
        self.inputs = _map(self._as_tensor, tuple(inputs))
        self.enabled = grad_enabled()
        self.marks = [_mark(x._source()) for x in _leaves(name, self.inputs)]

    def _as_tensor(self, value: Any) -> Tensor:
        x = Tensor(value) if isinstance(value, float) else value
        if not isinstance(x, Tensor) or not is_float(x.dtype):
            raise TypeError(f"{self.name}: can differentiate for Tensors of floats only, not for {_kind(value)}")
        return x

    def run(self, function: Callable, has_aux: bool) -> tuple[Any, Any]:
        """(outputs, aux) of the function of the marked inputs."""
        with recording():
            result = function(*_filled(self.inputs, [Tensor._wrap(mark) for mark in self.marks]))
        if not has_aux:
            return result, None
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise TypeError(f"{self.name}: with has_aux=True the function must return a pair (output, aux)")
        return result[0], result[1]

    def gradients(self, starts: list[tuple[Node, Node]]) -> Any:
        """Gradients in the structure of the inputs, zeros where nothing depends on one."""
        found = pull_back([(y, g) for y, g in starts if y.requires_grad], self.marks)
        return _filled(self.inputs, [_found(found, mark) for mark in self.marks])

    def released(self, tree: Any) -> Any:
        """Results without the history that only the marks gave them."""
        nodes = [x._node for x in _leaves(self.name, tree, check=False)]
        marks, lives = set(self.marks), dict[Node, bool]()
        for node in topological(nodes, differentiable_sources):
            sources = differentiable_sources(node)
            root = node.requires_grad and not sources and node not in marks
            lives[node] = root or any([lives[s] for s in sources])

        def release(x: Any) -> Any:
            if not isinstance(x, Tensor) or not x._node.requires_grad or self.enabled and lives[x._node]:
                return x
            return x.detach()

        return _map(release, tree)


def _mark(x: Node) -> Node:
    """`x` under an identity of its own, which wants a gradient. The scheduler sees `x` itself."""

    def rule(arg: None, g: Node, y: Node, x: Node) -> tuple[Node]:  # another object each time: so marks stay apart
        return (g,)

    mark = make("composite", (x, x), Composite("input", None, rule))
    mark.requires_grad = is_float(x.dtype)
    return mark


def _chosen(args: tuple, argnums: Argnums, kwargs: dict) -> tuple[list, Callable[[Callable], Callable]]:
    """The arguments to differentiate for, and what makes of a function one of these alone."""
    wanted = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for number in wanted:
        if not -len(args) <= number < len(args):
            raise RuntimeError(f"argnums: there is no argument {number} among {len(args)} positional ones")
    places = [number % len(args) for number in wanted]
    if len(set(places)) != len(places):
        raise RuntimeError(f"argnums: {wanted} names an argument twice")

    def rest(function: Callable) -> Callable:
        def of_chosen(*chosen):
            given = list(args)
            for place, value in zip(places, chosen, strict=True):
                given[place] = value
            return function(*given, **kwargs)

        return of_chosen

    return [args[place] for place in places], rest


def _found(gradients: dict[Node, Node], node: Node) -> Tensor:
    return Tensor._wrap(gradients.get(node) or constant(0, node.dtype, node.shape, node.device))


def _stacked(rows: Sequence[Tensor], shape: tuple[int, ...], x: Tensor) -> Tensor:
    whole = Tensor.stack(*rows) if rows else Tensor.zeros(0, *x.shape, dtype=x.dtype, device=x.device)
    return whole.reshape(shape + x.shape)


# --- lists, tuples and dicts of Tensors -----------------------------------------------------------------------------


def _map(function: Callable, tree: Any, *others: Any) -> Any:
    """`function` of each leaf, and of those of `others` in its place; what is None stays so."""
    if isinstance(tree, (tuple, list)):
        parts = [_map(function, *branches) for branches in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, dict):
        return {key: _map(function, branch, *(other[key] for other in others)) for key, branch in tree.items()}
    return None if tree is None else function(tree, *others)


def _filled(tree: Any, leaves: Sequence) -> Any:
    """The structure of `tree` with other leaves."""
    remaining = iter(leaves)
    return _map(lambda _: next(remaining), tree)


def _leaves(name: str, tree: Any, check: bool = True) -> list[Tensor]:
    """The Tensors of a tree. Raises TypeError for another leaf, unless it is not to `check`."""
    found: list[Tensor] = []

    def collect(leaf: Any) -> None:
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif check:
            raise TypeError(f"{name} must be a Tensor, or lists, tuples and dicts of Tensors, not {_kind(leaf)}")

    _map(collect, tree)
    return found


def _matching(name: str, tree: Any, like: Any) -> list[Tensor]:
    """The Tensors of `tree` in the order of those of `like`. Raises unless structure and shapes are the same."""
    if _map(lambda _: True, tree) != (structure := _map(lambda _: True, like)):
        raise TypeError(f"{name} must have the structure {structure}, with a Tensor for each True")
    found: list[Tensor] = []

    def collect(y: Tensor, t: Any) -> None:
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be Tensors, not {_kind(t)}")
        if t.shape != y.shape:
            raise ShapeError(f"{name}: shape {t.shape} does not fit {y.shape}")
        found.append(t)

    _map(collect, like, tree)
    return found


def _kind(value: Any) -> str:
    return f"{value.dtype.name} {value.shape}" if isinstance(value, Tensor) else type(value).__name__
