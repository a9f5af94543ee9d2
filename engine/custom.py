"""Operations of one's own: elementwise functions that kernels then do like any other.

Comes in: what it is on NumPy, what it is in OpenCL C, and its gradient, in Tensors. Goes out: a function of Tensors. It
fuses with what is around it, runs under `jit`, and is differentiated by its gradient, which is differentiated in turn.
docs/extending.md writes one in a page.

>>> import numpy as np
>>> from clgrad import Tensor, operation
>>> cube = operation("cube", numpy=lambda x: x**3, opencl="x * x * x", gradient=lambda g, y, x: 3 * x * x * g)
>>> x = Tensor([1.0, 2.0], device="NUMPY", requires_grad=True)
>>> y = cube(x)
>>> [slope] = y.sum().gradient(x)
>>> [curvature] = slope.sum().gradient(x)
>>> y.tolist(), slope.tolist(), curvature.tolist()
([1.0, 8.0], [3.0, 12.0], [6.0, 12.0])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Optional, Union

from ..backends.dtypes import DType, as_dtype
from ..backends.kernel import Custom
from .elementwise import broadcast_shape, floats
from .node import Node, make
from .ops import ShapeError
from .tensor import Tensor, recording

Rule = Union[None, str, DType, type, Callable[[DType], Any]]


@dataclass(frozen=True, eq=False)
class Operation(Custom):
    """A function of Tensors and numbers, which broadcast and meet in one dtype. Make one with `operation`."""

    gradient: Optional[Callable[..., Any]] = None
    dtype: Rule = None

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in self.operands])

    def __repr__(self) -> str:
        return f"<operation {self.name}({', '.join(self.operands)})>"

    def __call__(self, *operands: Any) -> Tensor:
        if len(operands) != len(self.operands):
            raise TypeError(f"{self.name}: takes {', '.join(self.operands)}, but got {len(operands)} operands")
        first = next((x for x in operands if isinstance(x, Tensor)), None)
        if first is None:
            raise TypeError(f"{self.name}: one of its operands at least must be a Tensor")
        if self.opencl is None and first.device != "NUMPY":
            raise NotImplementedError(
                f"{self.name}: has no OpenCL text, and its operands are on {first.device}; "
                f'give operation(..., opencl="..."), or move them with .to("NUMPY")'
            )
        meeting = floats(first) if self.dtype is None else first
        meeting = reduce(lambda x, other: x._meet(other, self.name)[0], operands, meeting)
        tensors = [meeting._meet(x, self.name)[1] for x in operands]
        shape = broadcast_shape(self.name, *(x.shape for x in tensors))
        return Tensor._wrap(make("custom", tuple(x.broadcast_to(shape)._source() for x in tensors), self))

    def result(self, dtype: DType) -> DType:
        """The dtype of the result, given that of the operands."""
        if self.dtype is None:
            return dtype
        rule = self.dtype
        return as_dtype(rule(dtype) if callable(rule) and not isinstance(rule, type) else rule)

    def pull_back(self, g: Node, y: Node, *src: Node) -> tuple[Optional[Node], ...]:
        """The gradient of each operand, as the user's function gives it."""
        if self.gradient is None:
            raise RuntimeError(
                f"{self.name}: has no gradient; give operation(..., gradient=...), or detach() its operands"
            )
        with recording():
            found = self.gradient(*map(Tensor._wrap, (g, y, *src)))
        parts = found if isinstance(found, (tuple, list)) else (found,)
        if len(parts) != len(src):
            raise ValueError(f"{self.name}: its gradient made {len(parts)} results for {len(src)} operands")
        return tuple(self._checked(part, x, name) for part, x, name in zip(parts, src, self.operands))

    def _checked(self, part: Any, x: Node, name: str) -> Optional[Node]:
        if part is None:
            return None
        if not isinstance(part, Tensor):
            raise TypeError(f"{self.name}: the gradient of {name} must be a Tensor or None, not {type(part).__name__}")
        if part.shape != x.shape:
            raise ShapeError(
                f"{self.name}: the gradient of {name} has shape {part.shape}, and {name} has {x.shape}; it has to "
                f"work element by element (sums for operands that were broadcast come after it)"
            )
        return part.cast(x.dtype).node


def operation(
    name: str,
    *,
    numpy: Callable[..., Any],
    opencl: Optional[str] = None,
    gradient: Optional[Callable[..., Any]] = None,
    dtype: Rule = None,
    operands: Optional[Sequence[str]] = None,
) -> Operation:
    """An elementwise operation of one's own, as a function of Tensors.

    numpy      the function of arrays that broadcast, giving one of their common shape. Halves come as float32; all
               are read-only
    opencl     the same in OpenCL C 1.2: an expression of the operands' names, or the body of a function with `return`.
               T stands for their type (float for halves), so that constants are (T)0.5, or 2. Without it the operation
               runs on NUMPY only
    gradient   `gradient(g, y, *operands)`, of Tensors: given g, the gradient of the result y, that of each operand (or
               None), of the operand's shape. It is differentiated for second derivatives. Without it, backward raises
    dtype      of the result: a dtype, or a function of that in which the operands meet. Without it, integers become
               float32 and the result has the operands' dtype
    operands   their names, if they are not to be those of the parameters of `numpy`

    A name is for kernels' names and messages, and need not be unique. Raises TypeError where names are missing, and,
    when it is called, NotImplementedError without OpenCL text on such a device, ShapeError where operands do not
    broadcast; when the kernel is built, DeviceError with the compiler's message.
    """
    if not callable(numpy):
        raise TypeError(f"{name}: numpy= must be a function of arrays, not {type(numpy).__name__}")
    if operands is None:
        try:
            parameters = inspect.signature(numpy).parameters.values()
        except (TypeError, ValueError):
            parameters = {}.values()
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        operands = [p.name for p in parameters if p.kind in kinds and p.default is p.empty]
    if not operands or not all(isinstance(n, str) and n.isidentifier() and n != "T" for n in operands):
        raise TypeError(
            f"{name}: say what its operands are called, operands=('x', ...), in names that C knows and not T"
        )
    if opencl is not None and not opencl.strip():
        raise ValueError(f"{name}: its OpenCL text is empty; leave it out for an operation on NUMPY only")
    return Operation(name, tuple(operands), numpy, opencl, gradient, dtype)
