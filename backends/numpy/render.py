"""Kernel to Python: the text of a function that evaluates the body over blocks of the first axis.

A value is held in the shape in which it varies: a bias read by every row is one row, the maximum of each row is a
column, and NumPy's broadcasting does the rest. Temporaries are slots of a scratch memory that all kernels share, which
therefore stays in cache. For a softmax over rows of 64:

    def kernel(a0, t0, t1, t2, o0):
        for i in range(0, 3072, 256):
            j = min(i + 256, 3072)
            reduce_max(a0[i:j], (1,), t0[:j-i])
            copyto(t1[:j-i], t0[:j-i])
            sub_(a0[i:j], t1[:j-i], t2[:j-i])
            ...

Where the first axis is itself reduced, the blocks' partial results are combined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ..base import Buffer
from ..dtypes import DType
from ..kernel import ELEMENTWISE, REDUCTIONS, Kernel
from ..view import View
from . import attention, runtime

# Elements of a block: a handful of float32 temporaries of this size fit a core's second-level cache.
BLOCK = 16384
# NumPy walks a broadcast operand row by row. Where rows are shorter than LONG_ROW, and there are at least SPREAD
# elements, it is faster to lay the operand out in full first.
LONG_ROW, SPREAD = 2048, 2048

Argument = Callable[[Sequence[Buffer]], Any]
Shape = tuple[int, ...]


def render(kernel: Kernel) -> tuple[str, Callable, list[Argument]]:
    """The source, the function it defines, and what makes each of its arguments from the buffers."""
    writer = {"scatter": _Scatter, "attention": _Attention}.get(kernel.kind, _Writer)(kernel)
    source = writer.text()
    namespace: dict[str, Any] = dict(runtime.NAMES)
    exec(compile(source, f"<{kernel.name}>", "exec"), namespace)
    return source, namespace["kernel"], [argument for _, argument in writer.arguments]


def natural(view: View) -> Shape:
    """The shape in which a value read through `view` varies."""
    return tuple(
        1 if stride == 0 and (view.mask is None or view.mask[a] == (0, n)) else n
        for a, (n, stride) in enumerate(zip(view.shape, view.strides, strict=True))
    )


def strided(slot: int, dtype: DType, shape: Shape, strides: Shape, offset: int) -> Argument:
    """The array over buffer number `slot` with the given shape, strides and offset in elements."""
    size = dtype.itemsize
    reverse, extent = [], size
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        # BLAS looks at the strides of dimensions of size 1 too, so they get those of a plain array.
        reverse.append(extent if n == 1 else s * size)
        extent = max(extent, abs(reverse[-1]) * n)
    steps = tuple(reversed(reverse))

    def argument(buffers: Sequence[Buffer]) -> np.ndarray:
        buffer = buffers[slot]
        return np.ndarray(shape, dtype, buffer.handle, buffer.offset + offset * size, steps)

    return argument


class _Scatter:
    """A scatter-add has no body: one call does it."""

    def __init__(self, kernel: Kernel):
        scatter = kernel.scatter
        assert scatter is not None
        dtype = kernel.output_dtypes[0]
        self.arguments = [
            ("values", strided(0, dtype, *scatter.values[:3])),
            ("index", strided(1, kernel.inputs[1], *scatter.index[:3])),
            ("o0", strided(2, dtype, (scatter.rows, scatter.width), (scatter.width, 1), 0)),
        ]

    def text(self) -> str:
        return "def kernel(values, index, o0):\n    scatter_add(values, index, o0)\n"


class _Attention:
    """One call with the operands and the results by name."""

    def __init__(self, kernel: Kernel):
        assert kernel.attention is not None
        self.operands = [name for name, _, _ in kernel.attention.operands]
        self.results = list(kernel.attention.results)
        self.arguments: list[tuple[str, Argument]] = [("run", lambda buffers: partial(attention.run, kernel))]
        for name, slot, view in kernel.attention.operands:
            self.arguments.append((name, strided(slot, kernel.inputs[slot], *view[:3])))
        for number, (name, (_, view)) in enumerate(zip(self.results, kernel.outputs, strict=True)):
            place = strided(len(kernel.inputs) + number, kernel.output_dtypes[number], *view[:3])
            self.arguments.append((name, place))

    def text(self) -> str:
        operands, results = (", ".join(f"{n!r}: {n}" for n in names) for names in (self.operands, self.results))
        names = ", ".join(name for name, _ in self.arguments)
        return f"def kernel({names}):\n    run({{{operands}}}, {{{results}}})\n"


class _Writer:
    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.arguments: list[tuple[str, Argument]] = []
        self.shapes: list[Shape] = []  # of each value, as held
        self.names: list[str] = []  # expression of each value over the whole first axis
        self.varies: list[bool] = []  # whether the name has to be sliced to the block
        self.free: list[tuple[int, str]] = []  # scratch slots: (bytes, name)
        self.slot_bytes: dict[str, int] = {}
        self.slot_views: dict[tuple, str] = {}
        self.spreads: dict[tuple[int, Shape], str] = {}
        self.spread_slots: dict[int, list[str]] = {}  # of each value, those that end with it
        self.lines: dict[str, list[str]] = {"before": [], "block": [], "after": []}
        self._natural_shapes()
        self._plan_blocks()

    # --- shapes and blocks --------------------------------------------------------------------------------------

    def _natural_shapes(self) -> None:
        rank = len(self.kernel.shape)
        for instr in self.kernel.body:
            parts = [self.shapes[s] for s in instr.src]
            if instr.op in ("load", "gather"):
                parts.append(natural(instr.arg[1]))
            elif isinstance(instr.arg, View):
                parts.append(natural(instr.arg))
            elif instr.op == "dot":
                parts.append(self.kernel.shape)
            shape = np.broadcast_shapes((1,) * rank, *parts)
            if instr.op in REDUCTIONS:
                shape = tuple(1 if a in self.kernel.reduce_axes else n for a, n in enumerate(shape))
            self.shapes.append(shape)

    def _plan_blocks(self) -> None:
        kernel = self.kernel
        self.rows = kernel.shape[0] if kernel.shape else 1
        rest = max((prod(shape[1:]) for shape in self.shapes), default=1)
        self.step = max(1, BLOCK // max(1, rest))
        self.partial = 0 in kernel.reduce_axes
        late = any(inner and stage for inner, stage in zip(kernel.inner, kernel.stage, strict=True))
        whole_row = any(o.view.strides[0] == 0 and kernel.inner[o.value] for o in kernel.outputs)
        if self.step >= self.rows or (self.partial and (late or whole_row)):
            self.step, self.partial = max(1, self.rows), False
        self.blocked = self.step < self.rows

    def _phase(self, index: int) -> str:
        """Before the blocks, in each, or after: only kernels that reduce over the blocks have more than one."""
        if not (self.blocked and self.partial):
            return "block"
        if self.kernel.stage[index]:
            return "block" if self.kernel.body[index].op in REDUCTIONS else "after"
        return "block" if self.kernel.inner[index] else "before"

    # --- names --------------------------------------------------------------------------------------------------

    def _argument(self, prefix: str, make: Argument) -> str:
        name = f"{prefix}{sum(n.startswith(prefix) for n, _ in self.arguments)}"
        self.arguments.append((name, make))
        return name

    def _constant(self, value: np.ndarray) -> str:
        return self._argument("c", lambda buffers: value)

    def _block_shape(self, shape: Shape) -> Shape:
        return (min(self.step, shape[0]), *shape[1:]) if self.blocked and shape else shape

    def _scratch(self, shape: Shape, dtype: DType, prefer: str = "", lasting: bool = False) -> tuple[str, str]:
        """A slot for a temporary: its name, and the name of the array of this shape over it.

        One that is `lasting` lives from block to block, so it never takes a slot that a block has used before.
        """
        nbytes = prod(shape) * dtype.itemsize
        if prefer:
            slot = prefer
        else:
            fitting = [] if lasting else [f for f in self.free if f[0] >= nbytes] or self.free[-1:]
            if fitting:
                slot = min(fitting)[1]
                self.free = [f for f in self.free if f[1] != slot]
            else:
                slot = f"s{len(self.slot_bytes)}"
        self.slot_bytes[slot] = max(nbytes, self.slot_bytes.get(slot, 0))
        key = (slot, shape, dtype)
        if key not in self.slot_views:
            number = int(slot[1:])
            self.slot_views[key] = self._argument("t", lambda buffers: runtime.scratch(number, shape, dtype))
        return slot, self.slot_views[key]

    def _sliced(self, name: str, shape: Shape, temporary: bool = False) -> str:
        """The part of an array that belongs to the block. Temporaries hold one block, from 0 on."""
        if not self.blocked or not shape or shape[0] == 1:
            return name
        return f"{name}[:j-i]" if temporary else f"{name}[i:j]"

    # --- the body -----------------------------------------------------------------------------------------------

    def text(self) -> str:
        kernel = self.kernel
        body = kernel.body
        last_use = {}
        for index, instr in enumerate(body):
            for s in instr.src:
                last_use[s] = index
        for output in kernel.outputs:
            last_use[output.value] = len(body)
        direct = self._direct_outputs()
        slots: dict[int, str] = {}
        for index, instr in enumerate(body):
            phase = self._phase(index)
            target = direct.get(index)
            name = self._instruction(index, phase, target, last_use, slots)
            self.names.append(name)
            for s in set(instr.src):
                if last_use.get(s) == index:
                    for slot in self.spread_slots.pop(s, ()):
                        self._release(slot)
                # A slot written before the blocks, or combined over them, is never given away.
                if last_use.get(s) == index and s in slots and self._phase(s) == "block" == phase:
                    if not (self.partial and self.blocked and body[s].op in REDUCTIONS):
                        self._release(slots.pop(s))
        for number, (value, view) in enumerate(kernel.outputs):
            if direct.get(value) == number:
                continue
            phase = "after" if self._phase(value) == "after" or self._reduced(value) else "block"
            phase = "after" if self._phase(value) == "before" and self.partial and self.blocked else phase
            out = self._output(number, view, phase)
            self.lines[phase].append(f"copyto({out}, {self.names[value]})")
        return self._assemble()

    def _release(self, slot: str) -> None:
        if all(name != slot for _, name in self.free):
            self.free.append((self.slot_bytes[slot], slot))

    def _reduced(self, value: int) -> bool:
        return self.blocked and self.partial and self.kernel.body[value].op in REDUCTIONS

    def _direct_outputs(self) -> dict[int, int]:
        """Values that are computed straight into an output: value -> output number.

        One that lies in the memory of an input waits until the input has been read: if it is read again after the value
        is there, the value is copied at the end of the block.
        """
        kernel, body = self.kernel, self.kernel.body
        last_use = {s: index for index, instr in enumerate(body) for s in instr.src}
        direct: dict[int, int] = {}
        for number, (value, view) in enumerate(kernel.outputs):
            instr = body[value]
            full = tuple(1 if s == 0 else n for n, s in zip(kernel.shape, view.strides, strict=True))
            if value in direct or self.shapes[value] != full or (instr.op not in ELEMENTWISE and instr.op != "dot"):
                continue
            if instr.op == "dot" and (view.strides[-1] != 1 or instr.dtype.itemsize < 4):
                continue  # BLAS writes rows
            below = [
                i for i, other in enumerate(body) if other.op == "load" and (number, other.arg[0]) in kernel.in_place
            ]
            if any(last_use.get(i, -1) > value for i in below):
                continue
            direct[value] = number
        return direct

    def _output(self, number: int, view: View, phase: str) -> str:
        dtype = self.kernel.output_dtypes[number]
        slot = len(self.kernel.inputs) + number
        shape = tuple(1 if s == 0 else n for n, s in zip(view.shape, view.strides, strict=True))
        name = f"o{number}"
        if all(n != name for n, _ in self.arguments):
            self.arguments.append((name, strided(slot, dtype, shape, view.strides, view.offset)))
        return self._sliced(name, shape) if phase == "block" else name

    def _instruction(self, index: int, phase: str, target, last_use, slots: dict[int, str]) -> str:
        """Write the lines of one instruction; the expression of its value."""
        instr, shape = self.kernel.body[index], self.shapes[index]
        op, dtype = instr.op, instr.dtype
        lines = self.lines[phase]
        if op == "const":
            return self._constant(np.full((1,) * len(shape), instr.arg, dtype))
        if op == "load" and instr.arg[1].mask is None:
            number, view = instr.arg
            name = self._argument("a", strided(number, dtype, shape, view.strides, view.offset))
            return self._sliced(name, shape)
        if op == "iota" and prod(shape) <= runtime.SMALL:
            return self._sliced(self._constant(runtime.positions(instr.arg, shape, dtype)), shape)
        if op == "valid":
            return self._sliced(self._constant(runtime.inside(instr.arg, shape)), shape)
        if op == "dot":
            return self._dot(index, target)
        sources = [self.names[s] for s in instr.src]
        if op in ELEMENTWISE and phase == "block":
            sources = [self._spread(s, shape) for s in instr.src]
        if target is not None:
            out = self._output(target, self.kernel.outputs[target].view, phase)
        else:
            out = self._temporary(index, phase, last_use, slots)
        if op in ELEMENTWISE:
            lines.append(f"{op}_({', '.join(sources)}, {out})")
        elif op in REDUCTIONS:
            self._reduction(index, sources[0], out, lines)
        else:
            self._special(index, sources, out, lines)
        return out

    def _spread(self, value: int, shape: Shape) -> str:
        """A value as an operand of work in `shape`: as it is, or laid out in full if that is faster."""
        held, block = self.shapes[value], self._block_shape(shape)
        if held == shape or prod(held) == 1 or shape[-1] >= LONG_ROW or prod(block) < SPREAD:
            return self.names[value]
        found = self.spreads.get((value, shape))
        if found is not None:
            return found
        instr = self.kernel.body[value]
        lasting = self.blocked and held[0] == 1 and instr.op == "load" and instr.arg[1].mask is None
        slot, name = self._scratch(block, instr.dtype, lasting=lasting)
        if lasting:  # the same for every block
            self.lines["before"].append(f"copyto({name}, {self.names[value]})")
        else:
            self.spread_slots.setdefault(value, []).append(slot)
        name = self._sliced(name, shape, temporary=True)
        if not lasting:
            self.lines["block"].append(f"copyto({name}, {self.names[value]})")
        self.spreads[value, shape] = name
        return name

    def _temporary(self, index: int, phase: str, last_use, slots: dict[int, str]) -> str:
        instr, shape = self.kernel.body[index], self._block_shape(self.shapes[index])
        if self._reduced(index) or phase != "block":
            shape = self.shapes[index]
        prefer = ""
        if instr.op in ELEMENTWISE and phase == "block":
            for s in instr.src:  # compute in place over an operand that ends here
                same = self.kernel.body[s].dtype == instr.dtype and self.shapes[s] == self.shapes[index]
                kept = self.partial and self.blocked and (self._phase(s) != "block" or self._reduced(s))
                if same and not kept and s in slots and last_use.get(s) == index:
                    prefer = slots.pop(s)
                    break
        lasting = self._reduced(index) or phase != "block"
        slot, name = self._scratch(shape, instr.dtype, prefer, lasting)
        slots[index] = slot
        if lasting:
            return name
        return self._sliced(name, self.shapes[index], temporary=True)

    def _reduction(self, index: int, source: str, out: str, lines: list[str]) -> None:
        kernel, instr = self.kernel, self.kernel.body[index]
        held = self.shapes[instr.src[0]]
        wanted = tuple(
            n if a in kernel.reduce_axes else h for a, (n, h) in enumerate(zip(kernel.shape, held, strict=True))
        )
        if held != wanted:  # a value that is repeated along the row counts once for each point
            rest = "".join(f", {n}" for n in wanted[1:])
            source = f"broadcast_to({source}, ({'j-i' if self.blocked and wanted[0] > 1 else wanted[0]}{rest}))"
        call = f"{instr.op}({source}, {kernel.reduce_axes}, "
        if not self._reduced(index):
            lines.append(f"{call}{out})")
            return
        combine = {"reduce_sum": "add_", "reduce_max": "max_", "reduce_prod": "mul_"}[instr.op]
        _, part = self._scratch(self.shapes[index], instr.dtype)
        lines.append(f"{call}{part} if i else {out})")
        lines.append(f"if i: {combine}({out}, {part}, {out})")

    def _special(self, index: int, sources: list[str], out: str, lines: list[str]) -> None:
        """Masked loads, numberings, random bits and gathers: one call of the runtime each."""
        instr, shape = self.kernel.body[index], self.shapes[index]
        span = "i, j" if self.blocked and shape[0] > 1 else f"0, {shape[0]}"
        if instr.op == "load":
            number, view = instr.arg
            held = zip(shape, view.shape, view.mask, strict=True)
            region = tuple((0, 1) if n == 1 and m == (0, whole) else m for n, whole, m in held)
            extent = tuple(max(hi - lo, 0) for lo, hi in region)
            empty = 0 in extent
            offset = 0 if empty else view.offset + sum(lo * s for (lo, _), s in zip(region, view.strides, strict=True))
            source = self._argument("a", strided(number, instr.dtype, extent, view.strides, offset))
            lines.append(f"load_masked({source}, {region}, {span}, {out})")
        elif instr.op == "iota":
            view = self._constant_object(instr.arg)
            lines.append(f"number({view}, {span}, {out})")
        elif instr.op == "random":
            view = self._constant_object(instr.arg)
            lines.append(f"random_bits({sources[0]}, {sources[1]}, {view}, {span}, {out})")
        else:
            assert instr.op == "gather"
            number, view, stride, rows = instr.arg
            dtype = self.kernel.inputs[number]
            table = self._argument("a", lambda buffers: runtime.flat(buffers[number], dtype))
            where = self._constant_object(view)
            lines.append(f"gather({table}, {where}, {stride}, {rows}, {sources[0]}, {span}, {out})")

    def _constant_object(self, value: Any) -> str:
        return self._argument("v", lambda buffers: value)

    def _dot(self, index: int, target) -> str:
        """The whole contraction, before the blocks of what follows it."""
        kernel, instr = self.kernel, self.kernel.body[index]
        left, left_view, right, right_view = instr.arg
        a = self._argument("a", strided(left, instr.dtype, *left_view[:3]))
        b = self._argument("a", strided(right, instr.dtype, *right_view[:3]))
        if target is not None:
            name = self._output(target, kernel.outputs[target].view, "before")
        else:
            _, name = self._scratch(kernel.shape, instr.dtype, lasting=True)
        operands = ((a, left_view), (b, right_view))
        a, b = (name if runtime.blas_reads(view) else f"array({name})" for name, view in operands)
        self.lines["before"].append(f"dot({a}, {b}, {name})")
        return self._sliced(name, kernel.shape)

    def _assemble(self) -> str:
        order = [name for name, _ in self.arguments]
        out = [f"def kernel({', '.join(order)}):"]
        out += [f"    {line}" for line in self.lines["before"]]
        if self.lines["block"]:
            if self.blocked:
                out.append(f"    for i in range(0, {self.rows}, {self.step}):")
                out.append(f"        j = min(i + {self.step}, {self.rows})")
            indent = "        " if self.blocked else "    "
            out += [indent + line for line in self.lines["block"]]
        out += [f"    {line}" for line in self.lines["after"]]
        return "\n".join(out) + ("\n" if len(out) > 1 else "\n    pass\n")
