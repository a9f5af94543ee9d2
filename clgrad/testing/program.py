"""Random programs: well-typed compositions of whatever a Tensor can do, as Python text.

A program is a function of a few Tensors, and the samples to call it with. It has shared subexpressions, several
outputs, views, broadcasting, gradients inside. However it is computed, the result should be the same: fused or node by
node, traced by jit or not, on one device or another; and where torch understands the same text, in torch.

>>> from hypothesis import find
>>> from clgrad.testing import programs
>>> print(find(programs(1, only=("softmax",)), lambda program: "softmax" in program.uses).source)
def program(a):
    v0 = a.softmax(...)
    return v0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import frexp
from typing import Any, Optional

import numpy as np
from hypothesis import strategies as st

from ..backends.dtypes import is_float
from ..engine.tensor import Tensor
from . import strategies, values
from .sample import Sample
from .steps import KINDS, STEPS, Step, Type
from .values import integers, pick

LENGTHS = (1, 2, 3, 4, 6, 8, 12)
LARGEST = 64.0  # a value that might be larger is scaled down, so that nothing overflows
DTYPES = ("float64", "float32", "float64", "int64", "float64", "int32")


@dataclass(frozen=True, eq=False)
class Program:
    """`source` defines `program(a, b, ...)`, to be called with the `samples`; `uses` are the names of its steps."""

    source: str
    samples: tuple[Sample, ...]
    uses: tuple[str, ...]

    @cached_property
    def function(self) -> Any:
        return _defined(self.source, {"np": np, "Tensor": Tensor})

    def on_torch(self) -> Any:
        """The same function of torch's tensors, or None if a step means something else to torch."""
        if not all(STEPS[name].torch for name in self.uses):
            return None
        import torch

        return _defined(self.source, {"np": np, "Tensor": lambda array, **options: torch.tensor(array)})

    def __repr__(self) -> str:
        inputs = "".join(f"    {sample.code('NUMPY')},\n" for sample in self.samples)
        head = "import numpy as np\nfrom clgrad import Tensor\n\n\n"
        return f"{head}{self.source}\n\n\ninputs = [\n{inputs}]\nprogram(*inputs)\n"


def _defined(source: str, names: dict[str, Any]) -> Any:
    exec(compile(source, "<program>", "exec"), names)
    function = names["program"]
    function.__clgrad_source__ = source
    return function


@cache
def _fitting(dtype: np.dtype) -> tuple[tuple[str, ...], ...]:
    """The names of the steps for values of a dtype, in rows: of a long list Hypothesis would prefer a few."""
    names = [name for name, step in STEPS.items() if KINDS[step.kind](dtype)]
    return tuple(tuple(names[i : i + 12]) for i in range(0, len(names), 12))


class _Writer:
    """A program that grows line by line; each is tried on Tensors as it is written, which tells shapes and dtypes."""

    def __init__(self, draw):
        self.draw = draw
        self.lines: list[str] = []
        self.samples: dict[str, Sample] = {}
        self.uses: list[str] = []
        self.types: dict[str, Type] = {}
        self.names: dict[str, Any] = {"np": np, "Tensor": Tensor}
        self.count = 0
        self.broken = False

    def leaf(self, shape: Any, dtype: np.dtype) -> str:
        name = "abcdefgh"[len(self.samples)]
        size, steps = strategies._layout(self.draw, shape, strategies.LAYOUTS)
        sample = Sample(values.array(self.draw, dtype, size, *((-3, 3) if is_float(dtype) else (-9, 9))), steps)
        self.samples[name] = sample
        zeros = Tensor.zeros(sample.shape, dtype=dtype, device="NUMPY").contiguous()
        self.names[name] = zeros.requires_grad_() if is_float(dtype) else zeros
        self.types[name] = Type(sample.shape, dtype, 9.0, is_float(dtype))
        return name

    def operand(self) -> str:
        """A value of the program: the latest more often than another."""
        names = list(self.types)
        back = pick(self.draw, (0, 0, 0, 1, 2, 3, 5, 8))
        return names[max(len(names) - 1 - back, 0)]

    def step(self) -> None:
        """One more line, of the first steps that fit out of those drawn."""
        x = self.operand()
        for _ in range(8):
            if self.try_step(pick(self.draw, pick(self.draw, _fitting(self.types[x].dtype))), x):
                return

    def try_step(self, name: str, x: str) -> bool:
        step, t = STEPS[name], self.types[x]
        if not KINDS[step.kind](t.dtype) or t.rank > 5:
            return False
        arguments = step.draw(self.draw, t)
        if arguments is None:
            return False
        y = self.partner(step, t) if step.partner else x
        if y is None:
            return False
        wanted = [n for n, s in self.samples.items() if is_float(s.dtype)]
        leaf = wanted[-1] if wanted else x
        filled = {k: v.replace("{0}", x) if isinstance(v, str) else v for k, v in arguments.items()}
        bounds = (t.bound, self.types[y].bound) if step.partner else (t.bound,)
        out = f"v{self.count}"
        text = step.text.format(x, y, leaf=leaf, out=out, **filled)
        self.uses.append(name)
        self.write(out, text, step.bound(*bounds))
        return True

    def partner(self, step: Step, t: Type) -> Optional[str]:
        """A second operand: one that is there, or a new argument of the program."""
        assert step.partner is not None
        fitting = [n for n, other in self.types.items() if step.partner.fits(t, other)]
        new = len(self.samples) < 5 and not self.draw(integers(0, 3))
        if fitting and not new:
            return pick(self.draw, fitting[::-1])
        shape = step.partner.shape(self.draw, t)
        if shape is None or len(self.samples) >= 6:
            return None
        return self.leaf(shape, t.dtype)

    def write(self, out: str, text: str, bound: float) -> None:
        statement = text if text.startswith(f"{out} =") else ""
        try:
            if statement:
                exec(statement, self.names)
                result = self.names[out]
            else:
                result = eval(text, self.names)
        except Exception:  # the run will raise too, and say so
            self.lines.append(statement or f"{out} = {text}")
            self.broken = True
            return
        found = list(result)[:3] if isinstance(result, (tuple, list)) else [result]
        several = isinstance(result, (tuple, list))
        names = [f"v{self.count + i}" for i in range(len(found))]
        if statement:
            self.lines.append(statement)
        elif several:
            self.lines.append(f"{', '.join(names)}{', *_' if len(result) > 3 else ','} = {text}")
        else:
            self.lines.append(f"{out} = {text}")
        self.count += len(found)
        for name, value in zip(names, found):
            self.names[name] = value
            self.types[name] = Type(value.shape, value.dtype, bound, value.requires_grad)
            if bound > LARGEST and is_float(value.dtype):
                scale = 2.0 ** -(frexp(min(bound, 1e30))[1] - 1)
                self.lines.append(f"{name} = {name} * {scale!r}")
                self.names[name] = self.names[name] * scale
                self.types[name] = self.types[name]._replace(bound=2.0)

    def finished(self) -> Program:
        made = [name for name in self.types if name.startswith("v")]
        outputs = [made[-1]] if made else ["a"]
        if len(made) > 1 and self.draw(integers(0, 1)):
            outputs.append(pick(self.draw, made[:-1]))
        body = "".join(f"    {line}\n" for line in self.lines)
        source = f"def program({', '.join(self.samples)}):\n{body}    return {', '.join(outputs)}"
        return Program(source, tuple(self.samples.values()), tuple(self.uses))


@st.composite
def programs(draw, length: Optional[int] = None, only: Sequence[str] = ()) -> Program:
    """Random programs of up to 12 steps (or `length`); `only` of these names out of `clgrad.testing.steps.STEPS`."""
    writer = _Writer(draw)
    dtype = np.dtype(pick(draw, DTYPES))
    writer.leaf(strategies._shape(draw, 0, 4, 0, 8, 60), dtype)
    for _ in range(length or pick(draw, LENGTHS)):
        if only:
            writer.try_step(pick(draw, tuple(only)), writer.operand())
        else:
            writer.step()
        if writer.broken:
            break
    return writer.finished()
