"""Tensor: a name for a node.

Comes in: numbers, arrays, other Tensors. Goes out: the same, when a value is read. Everything between builds nodes and
computes nothing. A Tensor is mutable only as a name: `assign`, `x[i] = v` and the optimisers bind it to another node,
and whoever held the old value keeps it.

What is here is what makes it a name: identity, reading, gradients, assignment. The mathematics is in files of its own
kind (`elementwise`, `movement`, `reduction`, `products`, ...), and `methods.py` is the list of it.

>>> from clgrad import Tensor
>>> a = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
>>> loss = (a @ a).sum()
>>> loss.backward()
>>> loss.item(), a.grad.tolist()
(54.0, [[7.0, 11.0], [9.0, 13.0]])
"""

from __future__ import annotations

import builtins
import functools
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, Optional

import numpy as np

from ..backends import dtypes
from ..backends.dtypes import DType, is_float
from . import creation, elementwise, movement, trace
from . import node as nodes
from . import realize as realizing
from .device import Device
from .gradient import gradients, pull_back
from .methods import Methods
from .node import Node
from .ops import ShapeError


class _State(threading.local):
    """Of each of Python's threads."""

    grad_enabled = True


_state = _State()
# With a number that a half does not hold, as 0.1 or 70,000, or a Tensor of another dtype that has no dimensions, these
# are computed in float32, as in PyTorch.
_ROUNDED_ONCE = ("mul", "div", "idiv")


def grad_enabled() -> bool:
    """Whether results keep their differentiable history at the moment."""
    return _state.grad_enabled


class no_grad:
    """A context, or a decorator, in which results have no differentiable history."""

    def __enter__(self) -> None:
        self._before, _state.grad_enabled = _state.grad_enabled, False

    def __exit__(self, *exc) -> None:
        _state.grad_enabled = self._before

    def __call__(self, function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with no_grad():
                return function(*args, **kwargs)

        return wrapped


@contextmanager
def recording() -> Iterator[None]:
    """Derivatives are wanted here, whatever `no_grad` says outside."""
    before, _state.grad_enabled = _state.grad_enabled, True
    try:
        yield
    finally:
        _state.grad_enabled = before


class Tensor(Methods):
    """A multi-dimensional array of one dtype on one device, computed when it is read.

    `data` is a number, nested lists, a NumPy array (copied) or a Tensor. Without `dtype`, Python floats become float32,
    integers int64, and arrays keep theirs. With `requires_grad`, `backward()` of what is made of it fills `.grad`.
    Raises TypeError for data that is not numbers, DeviceError for a device that is not there.
    """

    __slots__ = ("_node", "_grad", "_born", "__weakref__")
    _node: Node
    _grad: Optional[Tensor]

    def __init__(self, data: Any, dtype=None, device: Optional[str] = None, requires_grad: builtins.bool = False):
        wanted = None if dtype is None else dtypes.as_dtype(dtype)
        if isinstance(data, Tensor):
            source = data if device is None else data.to(device)
            node = (source if wanted is None else source.cast(wanted))._source()
        else:
            name = Device.canonical(device) if device else Device.DEFAULT
            node = creation.leaf_from(data, wanted, name)
        self._bind(node)
        del node  # so that this name is seen to be the only one
        if requires_grad:
            self.requires_grad_()

    def _bind(self, node: Node) -> None:
        tracing = trace.active()
        self._node, self._grad, self._born = node, None, 0 if tracing is None else tracing.number
        if node.buffer is None:
            trace.born(self)

    # --- inside the engine --------------------------------------------------------------------------------------

    @classmethod
    def _wrap(cls, node: Node) -> Tensor:
        tensor = cls.__new__(cls)
        tensor._bind(node)
        return tensor

    @property
    def node(self) -> Node:
        """The node that this name is bound to. While `jit` traces, a Tensor from outside shows its stand-in."""
        tracing = trace.active()
        if tracing is not None and self._born != tracing.number:
            tracing.capture(self)
        return self._node

    def _source(self) -> Node:
        """The node as an operand: cut off from its history under `no_grad`."""
        node = self.node
        return node if _state.grad_enabled or not node.requires_grad else nodes.make("detach", (node,))

    def _apply(self, op: str, arg: Any = None) -> Tensor:
        return Tensor._wrap(nodes.make(op, (self._source(),), arg))

    @staticmethod
    def _make(op: str, *operands: Tensor, arg: Any = None) -> Tensor:
        return Tensor._wrap(nodes.make(op, tuple(t._source() for t in operands), arg))

    def _meet(self, other: Any, op: str) -> tuple[Tensor, Tensor]:
        """Both operands with one dtype. A Python number takes this Tensor's dtype unless it cannot hold its kind.

        A Tensor without dimensions does too, and otherwise brings its own.
        """
        if not isinstance(other, Tensor):
            if isinstance(other, (bool, int, float)):
                kind = dtypes.bool_ if isinstance(other, bool) else None
                if kind is None and isinstance(other, int):
                    kind = dtypes.default_int if dtypes.is_bool(self.dtype) else self.dtype
                elif kind is None:
                    kind = self.dtype if is_float(self.dtype) else dtypes.default_float
                dtype = self.dtype if isinstance(other, bool) else kind
                other = Tensor._wrap(nodes.constant(other, dtype, (), self.device))
            elif isinstance(other, (np.ndarray, np.generic, list, tuple)):
                other = Tensor(other, device=self.device)
            else:
                raise TypeError(f"{op}: cannot combine a Tensor with {type(other).__name__}")
        dtype = dtypes.result_type(self.dtype, self.ndim, other.dtype, other.ndim)
        return self.cast(dtype), other.cast(dtype)

    def _binary(self, op: str, other: Any, swap: builtins.bool = False) -> Tensor:
        if op in _ROUNDED_ONCE and dtypes.is_half(self.dtype) and self._would_round(other):
            return self.cast(dtypes.float32)._binary(op, other, swap).cast(self.dtype)
        a, b = self._meet(other, op)
        if a.shape != b.shape:
            shape = elementwise.broadcast_shape(op, *((b.shape, a.shape) if swap else (a.shape, b.shape)))
            a, b = a.broadcast_to(shape), b.broadcast_to(shape)
        return Tensor._make(op, b, a) if swap else Tensor._make(op, a, b)

    def _would_round(self, other: Any) -> builtins.bool:
        """Whether, as this Tensor's dtype, a number or a Tensor without dimensions may be another number."""
        if isinstance(other, Tensor):
            return other.dtype != self.dtype and bool(self.shape) and not other.shape
        return not dtypes.is_exact(self.dtype, other)

    @classmethod
    def _from_scalar(cls, value: builtins.int, dtype: DType, device: str) -> Tensor:
        """A scalar in memory, as an input that may change rather than as a constant of the kernels."""
        array = np.array(value, dtype)
        return cls._wrap(nodes.leaf((), dtype, device, realizing.write(array, dtype, device)))

    # --- what it is -----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[builtins.int, ...]:
        return self._node.shape

    @property
    def dtype(self) -> DType:
        return self._node.dtype

    @property
    def device(self) -> str:
        return self._node.device

    @property
    def ndim(self) -> builtins.int:
        return len(self._node.shape)

    def numel(self) -> builtins.int:
        """The number of elements."""
        return prod(self.shape)

    def element_size(self) -> builtins.int:
        """The bytes of one element."""
        return self.dtype.itemsize

    def nbytes(self) -> builtins.int:
        """The bytes of all elements."""
        return self.numel() * self.element_size()

    def size(self, dim: Optional[builtins.int] = None):
        """The shape, or the size of one dimension."""
        return self.shape if dim is None else self.shape[movement.axis_of("size", dim, self.ndim)]

    def __len__(self) -> builtins.int:
        if not self.shape:
            raise TypeError("a Tensor without dimensions has no length")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __hash__(self) -> builtins.int:
        return id(self)

    def __bool__(self) -> builtins.bool:
        if self.numel() != 1:
            raise ShapeError(f"the truth of a Tensor of shape {self.shape} is ambiguous; use any() or all()")
        return bool(self.item())

    def __float__(self) -> builtins.float:
        return float(self.item())

    def __int__(self) -> builtins.int:
        return int(self.item())

    def __index__(self) -> builtins.int:
        if is_float(self.dtype) or self.numel() != 1:
            raise TypeError(f"an index must be one integer, not {self.dtype} of shape {self.shape}")
        return int(self.item())

    def __contains__(self, value: Any) -> builtins.bool:
        return bool(self.eq(value).any().item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and not self.ndim else format(str(self), spec)

    def __reduce__(self):
        """What `pickle` and `copy.deepcopy` make it anew from: its value, without the history."""
        return type(self), (self.numpy(), None, self.device, self.requires_grad)

    def __repr__(self) -> str:
        head = f"Tensor(shape={self.shape}, dtype={self.dtype.name}, device={self.device!r}"
        grad = ", requires_grad=True" if self.requires_grad else ""
        if trace.active() is not None:
            return f"{head}{grad}, no value while tracing)"
        return f"{head}{grad},\n{np.array2string(self.numpy(), precision=4, threshold=64)})"

    # --- reading --------------------------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """The value as a new NumPy array. Computes what has not been computed; keeps the graph for `backward`."""
        trace.forbid("numpy()")
        return realizing.read(self._node)

    def item(self):
        """The value of a Tensor with one element, as a Python number."""
        trace.forbid("item()")
        if self.numel() != 1:
            raise ShapeError(f"item: needs one element, and shape {self.shape} has {self.numel()}; use tolist()")
        return realizing.read(self._node).reshape(()).item()

    def tolist(self):
        """The value as nested Python lists."""
        return self.numpy().tolist()

    def realize(self, *others: Tensor) -> Tensor:
        """Compute this Tensor, and `others` in the same schedule, now. While `jit` traces, the replay will."""
        Tensor.realize_all((self, *others))
        return self

    @staticmethod
    def realize_all(tensors: Iterable[Tensor]) -> None:
        """Compute many Tensors in one schedule, and with them what would hold on to state that they replace."""
        if trace.active() is None:
            trace.realize_tensors(list(tensors))

    def explain(self) -> str:
        """How this value is computed, stage by stage: the user's line, graph, gradient, schedule, source, run."""
        from .explain import explain

        return explain(self)

    # --- gradients ------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> builtins.bool:
        return self._node.requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: builtins.bool) -> None:
        self.requires_grad_(flag)

    def requires_grad_(self, flag: builtins.bool = True) -> Tensor:
        """Make this Tensor a leaf whose gradient is wanted (or not). Raises TypeError for integers and bools."""
        if flag == self.requires_grad and (not flag or self._node.owner is not None):
            return self
        if flag and not is_float(self.dtype):
            raise TypeError(f"requires_grad: only floats have gradients, not {self.dtype}; cast first")
        if self._node.op == "buffer" and trace.active() is None and trace.alone(self):
            self._want_gradient(self._node, flag)  # a leaf that nobody else knows needs no second identity
        else:
            self._own(self.node, flag)
        return self

    def _want_gradient(self, leaf: Node, flag: builtins.bool) -> None:
        leaf.requires_grad = flag
        leaf.owner = weakref.ref(self) if flag else None

    def _own(self, value: Node, requires_grad: builtins.bool) -> None:
        """Bind this name to a node with an identity of its own, and `value` as its value."""
        source = nodes.make("detach", (value,)) if value.requires_grad else value
        self._node = nodes.make("barrier", (source,))
        self._want_gradient(self._node, requires_grad)

    @property
    def grad(self) -> Optional[Tensor]:
        """The gradient that `backward()` left here, or None."""
        tracing = trace.active()
        if tracing is not None and self._born != tracing.number:
            tracing.reads_grad(self)
        return self._grad

    @grad.setter
    def grad(self, value: Optional[Tensor]) -> None:
        tracing = trace.active()
        if tracing is not None and self._born != tracing.number:
            tracing.sets_grad(self)
        if not (value is None or isinstance(value, Tensor)):
            raise TypeError(f"grad: a gradient is a Tensor or None, not {type(value).__name__}")
        if value is not None and any(getattr(value, a) != getattr(self, a) for a in ("shape", "dtype", "device")):
            raise ShapeError(
                f"grad: {value.dtype} {value.shape} on {value.device} is no gradient of {self.dtype} {self.shape} on "
                f"{self.device}"
            )
        self._grad = value

    def backward(self, gradient: Optional[Tensor] = None, create_graph: builtins.bool = False) -> None:
        """Add the gradient of this Tensor to `.grad` of every leaf that wants it.

        `gradient` (same shape) is needed unless this Tensor has one element. With `create_graph` the gradients can be
        differentiated in turn. Computes nothing yet.
        """
        for leaf, g in self._gradients(gradient).items():
            tensor = leaf.owner() if leaf.owner is not None else None
            if tensor is None:
                continue
            part = Tensor._wrap(g if create_graph or not g.requires_grad else nodes.make("detach", (g,)))
            before = tensor.grad
            if before is None:
                tensor.grad = part
            else:
                before.assign(before + part)

    def gradient(
        self, *targets: Tensor, gradient: Optional[Tensor] = None, materialize_grads: builtins.bool = True
    ) -> list[Tensor]:
        """The gradients of this Tensor for each of `targets`, differentiable in turn; `.grad` is left alone.

        A target is any Tensor that this one was computed from: a leaf, with requires_grad or without, or a value on
        the way. (Equal expressions are one value: the gradient for x * 2 is that for every x * 2.) `gradient` (this
        Tensor's shape) is needed unless this Tensor has one element. A target that requires grad and that this Tensor
        does not depend on gets zeros, or with materialize_grads=False a RuntimeError.

        Raises RuntimeError for a target that is not found; TypeError for one that is not of floats; ShapeError.
        """
        sought = []
        for t in targets:
            sought.append(t.node)
            if not is_float(t.dtype):
                raise TypeError(f"gradient: only floats have gradients, and a target is {t.dtype}; cast first")
            if t.node.op in ("const", "random") and t.node.owner is None:
                raise RuntimeError("gradient: a constant is no target; make it one with requires_grad=True")
        found = pull_back([(self.node, self._seed("gradient", gradient))], sought)
        for node in sought:
            if node not in found and not (materialize_grads and node.requires_grad):
                raise RuntimeError(
                    f"gradient: this Tensor does not depend on a target of shape {node.shape}, or no longer knows: "
                    "what has been computed keeps its history only for what has requires_grad=True"
                )
        return [Tensor._wrap(found[n]) if n in found else t.zeros_like() for n, t in zip(sought, targets, strict=True)]

    def _gradients(self, gradient: Optional[Tensor]) -> dict[Node, Node]:
        node = self.node
        if not node.requires_grad:
            raise RuntimeError(
                "backward: this Tensor depends on nothing with requires_grad=True; "
                "set it on the parameters, and do not compute under no_grad() what is to be differentiated"
            )
        return gradients(node, self._seed("backward", gradient))

    def _seed(self, op: str, gradient: Optional[Tensor]) -> Node:
        """The gradient of the result: what was given, or 1."""
        if not is_float(self.dtype):
            raise TypeError(f"{op}: only floats have gradients, not {self.dtype}")
        if gradient is None:
            if self.numel() != 1:
                raise ShapeError(f"{op}: shape {self.shape} is no scalar; reduce it, or pass gradient= of that shape")
            return nodes.constant(1, self.dtype, self.shape, self.device)
        if not isinstance(gradient, Tensor):
            raise TypeError(f"{op}: gradient= must be a Tensor, not {type(gradient).__name__}")
        if gradient.shape != self.shape or gradient.device != self.device:
            raise ShapeError(
                f"{op}: a gradient on {gradient.device} of shape {gradient.shape} does not fit {self.shape} on "
                f"{self.device}"
            )
        return gradient.cast(self.dtype).node

    def detach(self) -> Tensor:
        """The same value without its history."""
        node = self.node
        if not node.requires_grad:
            return Tensor._wrap(node)
        if node.buffer is not None:  # in memory already: no need to hold on to how it was computed
            return Tensor._wrap(nodes.leaf(node.shape, node.dtype, node.device, node.buffer))
        return self._apply("detach")

    @staticmethod
    def no_grad() -> no_grad:
        """A context manager and decorator under which no differentiable history is kept."""
        return no_grad()

    # --- naming and moving ----------------------------------------------------------------------------------------

    def assign(self, value: Any) -> Tensor:
        """Bind this name to a new value of the same shape, dtype and device. Views taken earlier keep the old one."""
        fits = isinstance(value, np.ndarray) and value.dtype == self.dtype and value.shape == self.shape
        if fits and trace.active() is None and trace.alone(self):
            # Numbers from outside, and nobody else sees the memory: no graph is needed to replace what is there.
            assert self._node.buffer is not None
            Device[self.device].upload(self._node.buffer, np.ascontiguousarray(value))
            return self
        new = value if isinstance(value, Tensor) else Tensor(value, dtype=self.dtype, device=self.device)
        if new.shape != self.shape or new.device != self.device:
            raise ShapeError(f"assign: {new.shape} on {new.device} does not replace {self.shape} on {self.device}")
        if not fits and not isinstance(value, Tensor) and trace.active() is None and trace.alone(self):
            return self.assign(realizing.read(new._node))
        node = self.node  # captured before it is replaced
        wants_grad = node.owner is not None
        source = new.cast(self.dtype)._source()
        if wants_grad:
            self._own(source, True)
        else:
            self._node = nodes.make("barrier", (source,))
        return self

    def to(self, device: str) -> Tensor:
        """This Tensor on another device; itself if it is there already."""
        name = Device.canonical(device)
        if name == self.device:
            return self
        Device[name]
        return self._apply("copy", name)

    def to_(self, device: str) -> Tensor:
        """Move this name, and its gradient, to another device: whoever holds the Tensor sees it there."""
        gradient, moved = self.grad, self.to(device)
        if moved is not self:
            self._own(moved.node, self.requires_grad)
            if gradient is not None:
                self.grad = gradient.to(device)
        return self

    def contiguous(self) -> Tensor:
        """The same value, laid out in memory of its own when computed."""
        return self._apply("contiguous")

    def clone(self) -> Tensor:
        """A copy with the same value and history."""
        return self._apply("contiguous")
