"""Kernel to Python: the text of functions that evaluate the body over blocks of the first axis.

A value is held in the shape in which it varies: a bias read by every row is one row, the maximum of each row is a
column, and NumPy's broadcasting does the rest. Temporaries are slots of a scratch memory that all kernels share, which
therefore stays in cache. For a softmax over rows of 64:

    def block(a0, t0, t1, t2, c0, o0):  # 512 rows of 3072
        reduce_max(a0, (1,), t0)
        copyto(t1, t0)
        sub_(a0, t1, t2)
        exp_(t2, t2)
        matmul(t2, c0, t0)
        ...

The function is called once for each block, with arrays that were cut to the block when the kernel was bound. Lines that
are needed once, before or after the blocks, are functions of their own. Where the first axis is itself reduced, each
block adds its share to that of the blocks before.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple, Optional

import numpy as np

from ..dtypes import DType, is_half
from ..kernel import ELEMENTWISE, REDUCTIONS, Instr, Kernel
from ..view import View, contiguous_strides
from . import attention, runtime
from .arguments import Argument, Shape, constant, strided
from .patterns import Region, grouped, region

# Elements of a block: a handful of float32 temporaries of this size fit a core's second-level cache. Sums of what lies
# in memory have no temporaries, and blocks for the sake of their rounding alone: PLAIN times as large.
BLOCK, PLAIN = 32768, 16
# Elements times operations from which on several threads take blocks. These are LONG_CALLS times as large: between two
# calls a thread has to wait for Python's lock.
SHARED, LONG_CALLS = 1 << 23, 6
# NumPy walks a broadcast operand row by row. Where rows are shorter than LONG_ROW, and there are at least SPREAD
# elements, it is faster to lay the operand out in full first.
LONG_ROW, SPREAD = 2048, 2048


class Section(NamedTuple):
    """A generated function and the names of its arguments. One called "block" is called for each block."""

    function: Callable[..., None]
    names: list[str]


class Rendered(NamedTuple):
    """The source, the functions it defines, in order, their arguments by name, and how the rows are cut into blocks."""

    source: str
    sections: list[Section]
    arguments: dict[str, Argument]
    rows: int
    step: int
    shared: bool  # whether the blocks are worth sharing out between threads, and may be


def render(kernel: Kernel) -> Rendered:
    writer: Any = {"scatter": _Scatter, "sort": _Sort, "attention": _Attention}.get(kernel.kind, _Writer)(kernel)
    source = writer.text()
    namespace: dict[str, Any] = dict(runtime.NAMES)
    exec(compile(source, f"<{kernel.name}>", "exec"), namespace)
    functions = [namespace[name] for name in re.findall(r"^def (\w+)", source, re.MULTILINE)]
    sections = [Section(f, list(f.__code__.co_varnames[: f.__code__.co_argcount])) for f in functions]
    return Rendered(source, sections, writer.arguments, writer.rows, writer.step, writer.shared)


def natural(view: View) -> Shape:
    """The shape in which a value read through `view` varies."""
    return tuple(
        1 if stride == 0 and (view.mask is None or view.mask[a] == (0, n)) else n
        for a, (n, stride) in enumerate(zip(view.shape, view.strides, strict=True))
    )


class _Scatter:
    """A scatter has no body: one call does it."""

    shared = False

    def __init__(self, kernel: Kernel):
        scatter = kernel.scatter
        assert scatter is not None
        self.call = "scatter_set" if scatter.replace else "scatter_add"
        dtype = kernel.output_dtypes[0]
        self.rows = self.step = 1
        self.arguments = {
            "values": strided(0, dtype, *scatter.values[:3]),
            "index": strided(1, kernel.inputs[1], *scatter.index[:3]),
            "o0": strided(2, dtype, (scatter.rows, scatter.width), (scatter.width, 1), 0),
        }

    def text(self) -> str:
        return f"def kernel(values, index, o0):\n    {self.call}(values, index, o0)\n"


class _Sort:
    """A sort has no body either, and needs no order to begin with."""

    shared = False

    def __init__(self, kernel: Kernel):
        sort = kernel.sort
        assert sort is not None
        self.rows = self.step = 1
        self.arguments = {
            "keys": strided(0, kernel.inputs[0], *sort.keys[:3]),
            "run": constant(min(sort.run, max(sort.length, 1))),
            "o0": strided(len(kernel.inputs), kernel.output_dtypes[0], kernel.shape, (sort.length, 1), 0),
        }

    def text(self) -> str:
        return "def kernel(keys, run, o0):\n    argsort(keys, run, o0)\n"


class _Attention:
    """One call with the operands and the results by name."""

    shared = False

    def __init__(self, kernel: Kernel):
        assert kernel.attention is not None
        self.operands = [name for name, _, _ in kernel.attention.operands]
        self.results = list(kernel.attention.results)
        self.rows = self.step = 1
        self.arguments = {"run": constant(partial(attention.run, kernel))}
        for name, slot, view in kernel.attention.operands:
            self.arguments[name] = strided(slot, kernel.inputs[slot], *view[:3])
        for number, (name, (_, view)) in enumerate(zip(self.results, kernel.outputs, strict=True)):
            place = strided(len(kernel.inputs) + number, kernel.output_dtypes[number], *view[:3])
            self.arguments[name] = place

    def text(self) -> str:
        operands, results = (", ".join(f"{n!r}: {n}" for n in names) for names in (self.operands, self.results))
        names = ", ".join(self.arguments)
        return f"def kernel({names}):\n    run({{{operands}}}, {{{results}}})\n"


class _Writer:
    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.arguments: dict[str, Argument] = {}
        self.strides: dict[str, Shape] = {}  # of the arrays over buffers, in elements
        self.ones: dict[tuple, str] = {}
        self.shapes: list[Shape] = []  # of each value, as held
        self.names: list[str] = []  # of each value's array
        self.free: list[tuple[int, str]] = []  # scratch slots: (bytes, name)
        self.slot_bytes: dict[str, int] = {}
        self.slot_views: dict[tuple, str] = {}
        self.spreads: dict[tuple[int, Shape], str] = {}
        self.spread_slots: dict[int, list[str]] = {}  # of each value, those that end with it
        self.lines: dict[str, list[str]] = {"before": [], "block": [], "after": []}
        self._natural_shapes()
        self._plan_blocks()
        self.body: list[Optional[Instr]] = grouped(kernel, self.shapes, self.partial)

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
        self.rows = max(1, kernel.shape[0]) if kernel.shape else 1
        rest = max((prod(shape[1:]) for shape in self.shapes), default=1)
        self.partial = 0 in kernel.reduce_axes
        late = any(inner and stage for inner, stage in zip(kernel.inner, kernel.stage, strict=True))
        whole_row = any(o.view.strides[0] == 0 and kernel.inner[o.value] for o in kernel.outputs)
        plain = all(instr.op in ("load", *REDUCTIONS) for instr in kernel.body)
        computed = sum(instr.op in ELEMENTWISE for instr in kernel.body)
        alone = self.partial or any(instr.op == "custom" for instr in kernel.body)  # users' functions may not expect it
        self.shared = not alone and self.rows * rest * computed >= SHARED
        block = BLOCK * (PLAIN if plain else LONG_CALLS if self.shared else 1)
        blocks = min(self.rows, -(-self.rows * rest // block)) or 1
        if self.partial and (late or whole_row):
            blocks = 1
        self.step = -(-self.rows // blocks)  # of about the same size
        self.blocked = self.step < self.rows
        self.partial = self.partial and self.blocked
        self.once: list[bool] = []  # whether a value is the same for every block
        for instr, shape in zip(kernel.body, self.shapes, strict=True):
            self.once.append(self.blocked and shape[0] == 1 and all(self.once[s] for s in instr.src))

    def _phase(self, index: int) -> str:
        """Before the blocks, in each, or after them."""
        if not self.partial:
            return "before" if self.once[index] else "block"
        if self.kernel.stage[index]:
            return "block" if self.kernel.body[index].op in REDUCTIONS else "after"
        return "block" if self.kernel.inner[index] else "before"

    # --- names --------------------------------------------------------------------------------------------------

    def _argument(self, prefix: str, argument: Argument) -> str:
        name = f"{prefix}{sum(n[0] == prefix and n[1:].isdigit() for n in self.arguments)}"  # the others are `_seen`
        self.arguments[name] = argument
        return name

    def _array(self, prefix: str, slot: int, dtype: DType, shape: Shape, strides: Shape, offset: int) -> str:
        """An array over a buffer."""
        name = self._argument(prefix, strided(slot, dtype, shape, strides, offset, self._cut(shape)))
        self.strides[name] = strides
        return name

    def _cut(self, shape: Shape, kind: str = "rows") -> str:
        return kind if self.blocked and shape and shape[0] > 1 else ""

    def _ones(self, count: int, dtype: DType, width: int = 0) -> str:
        """A column of ones; with `width`, as many times that as the block has rows, in one dimension."""
        key = (count, dtype, width)
        if key not in self.ones:
            ones = np.ones(count if width else (count, 1), dtype)
            self.ones[key] = self._argument(
                "c", Argument(lambda buffers: ones, self._cut((2,), "head") * bool(width), width)
            )
        return self.ones[key]

    def _seen(self, name: str, mark: str, change: Callable[[Any], Any], width: int = 1) -> str:
        """The array seen otherwise, under its name and a mark; `width` of its rows belong to a row of the space."""
        self.arguments[name + mark] = self.arguments[name].through(change)._replace(width=width)
        return name + mark

    def _matrix(self, name: str, columns: int, width: int = 1) -> str:
        return self._seen(name, "m", lambda x: x.reshape(-1, columns), width)

    def _scalar(self, name: str) -> str:
        """An array of one element without axes: beside larger ones ufuncs take half as long with that."""
        return self._seen(name, "s", lambda x: x.reshape(()))

    def _without_last(self, name: str) -> str:
        """An array whose last axis has length 1, without that."""
        return self._seen(name, "l", lambda x: x[..., 0])

    def _block_shape(self, shape: Shape) -> Shape:
        return (min(self.step, shape[0]), *shape[1:]) if self.blocked and shape else shape

    def _scratch(
        self, shape: Shape, dtype: DType, prefer: str = "", lasting: bool = False, cut: str = ""
    ) -> tuple[str, str]:
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
        key = (slot, shape, dtype, cut)
        if key not in self.slot_views:
            number = int(slot[1:])
            own = None if lasting else partial(runtime.scratch, number, shape, dtype)
            argument = Argument(lambda buffers: runtime.scratch(number, shape, dtype), cut, own=own)
            self.slot_views[key] = self._argument("t", argument)
        return slot, self.slot_views[key]

    # --- the body -----------------------------------------------------------------------------------------------

    def text(self) -> str:
        body = self.body
        last_use = {}
        for index, instr in enumerate(body):
            for s in instr.src if instr else ():
                last_use[s] = index
        for output in self.kernel.outputs:
            last_use[output.value] = len(body)
        direct = self._direct_outputs(last_use)
        slots: dict[int, str] = {}
        for index, instr in enumerate(body):
            if instr is None:
                self.names.append("")
                continue
            phase = self._phase(index)
            self.names.append(self._instruction(index, instr, phase, direct.get(index), last_use, slots))
            for s in set(instr.src):
                if last_use.get(s) == index:
                    for slot in self.spread_slots.pop(s, ()):
                        self._release(slot)
                # A slot written before the blocks, or combined over them, is never given away.
                if last_use.get(s) == index and s in slots and self._phase(s) == "block" == phase:
                    if not self._reduced(s):
                        self._release(slots.pop(s))
        for number, (value, view) in enumerate(self.kernel.outputs):
            if direct.get(value) != number:
                phase = self._phase(value)
                phase = "after" if self._reduced(value) or (phase == "before" and self.partial) else phase
                self.lines[phase].append(f"copyto({self._output(number, view)}, {self.names[value]})")
        return self._assemble()

    def _release(self, slot: str) -> None:
        if all(name != slot for _, name in self.free):
            self.free.append((self.slot_bytes[slot], slot))

    def _reduced(self, value: int) -> bool:
        """Whether the value is a sum over the blocks."""
        return self.partial and self.kernel.body[value].op in REDUCTIONS

    def _direct_outputs(self, last_use: dict[int, int]) -> dict[int, int]:
        """Values that are computed straight into an output: value -> output number.

        One that lies in the memory of an input waits until the input has been read: if it is read again after the value
        is there, the value is copied at the end of the block.
        """
        kernel, body = self.kernel, self.body
        direct: dict[int, int] = {}
        for number, (value, view) in enumerate(kernel.outputs):
            instr = body[value]
            assert instr is not None  # an output is used once more than a group allows
            full = tuple(1 if s == 0 else n for n, s in zip(kernel.shape, view.strides, strict=True))
            if value in direct or self.shapes[value] != full or instr.op not in (*ELEMENTWISE, "dot", "join"):
                continue
            if instr.op == "dot" and (view.strides[-1] != 1 or instr.dtype.itemsize < 4):
                continue  # BLAS writes rows
            loads = [i for i, other in enumerate(body) if other and other.op == "load"]
            below = [i for i in loads if (number, kernel.body[i].arg[0]) in kernel.in_place]
            if any(last_use.get(i, -1) > value for i in below):
                continue
            direct[value] = number
        return direct

    def _output(self, number: int, view: View) -> str:
        name = f"o{number}"
        if name not in self.arguments:
            shape = tuple(1 if s == 0 else n for n, s in zip(view.shape, view.strides, strict=True))
            slot, dtype = len(self.kernel.inputs) + number, self.kernel.output_dtypes[number]
            self.arguments[name] = strided(slot, dtype, shape, view.strides, view.offset, self._cut(shape))
            self.strides[name] = view.strides
        return name

    def _instruction(self, index: int, instr: Instr, phase: str, target, last_use, slots: dict[int, str]) -> str:
        """Write the lines of one instruction; the name of its value."""
        shape, op, dtype = self.shapes[index], instr.op, instr.dtype
        lines = self.lines[phase]
        if op == "const":
            return self._argument("c", constant(np.full((1,) * len(shape), instr.arg, dtype)))
        if op == "load" and instr.arg[1].mask is None:
            number, view = instr.arg
            return self._array("a", number, dtype, shape, view.strides, view.offset)
        if op == "iota" and prod(shape) <= runtime.SMALL:
            return self._argument("c", constant(runtime.positions(instr.arg, shape, dtype), self._cut(shape)))
        if op == "valid":
            return self._argument("c", constant(runtime.inside(instr.arg, shape), self._cut(shape)))
        if op == "dot":
            return self._dot(instr, target)
        sources = [self.names[s] for s in instr.src]
        if op in ELEMENTWISE and phase == "block":
            sources = [self._spread(s, shape) for s in instr.src]
        if op in ELEMENTWISE and op != "custom" and prod(shape) > 1:
            single = [prod(self.shapes[s]) == 1 for s in instr.src]
            sources = [self._scalar(name) if one else name for name, one in zip(sources, single, strict=True)]
        if target is not None:
            out = self._output(target, self.kernel.outputs[target].view)
        else:
            out = self._temporary(index, instr, phase, last_use, slots)
        if op == "custom":
            function = self._argument("v", constant(partial(runtime.custom, instr.arg)))
            lines.append(f"{function}({', '.join(sources)}, {out})")
        elif op in ELEMENTWISE:
            lines.append(f"{op}_({', '.join(sources)}, {out})")
        elif op == "sum_product":
            lines.append(f"sum_product({', '.join(sources)}, {self._without_last(out)})")
        elif op in REDUCTIONS:
            self._reduction(index, instr, sources[0], out, lines)
        elif op == "join":
            self._join(index, instr, out, lines)
        else:
            self._special(index, instr, sources, out, lines)
        return out

    def _spread(self, value: int, shape: Shape) -> str:
        """A value as an operand of work in `shape`: as it is, or laid out in full if that is faster."""
        held, block = self.shapes[value], self._block_shape(shape)
        if held == shape or prod(held) == 1 or shape[-1] >= LONG_ROW or prod(block) < SPREAD:
            return self.names[value]
        found = self.spreads.get((value, shape))
        if found is not None:
            return found
        lasting = self._phase(value) == "before"
        dtype = self.kernel.body[value].dtype
        slot, name = self._scratch(block, dtype, lasting=lasting, cut=self._cut(shape, "head"))
        if not lasting:
            self.spread_slots.setdefault(value, []).append(slot)
        self.lines["before" if lasting else "block"].append(f"copyto({name}, {self.names[value]})")
        self.spreads[value, shape] = name
        return name

    def _temporary(self, index: int, instr: Instr, phase: str, last_use, slots: dict[int, str]) -> str:
        shape = self.shapes[index]
        lasting = self._reduced(index) or phase != "block"
        prefer = ""
        if instr.op in ELEMENTWISE and phase == "block" and prod(shape) > 1:  # of a single one that would take longer
            for s in instr.src:  # compute in place over an operand that ends here
                same = self.kernel.body[s].dtype == instr.dtype and self.shapes[s] == shape
                kept = self._phase(s) != "block" or self._reduced(s)
                if same and not kept and s in slots and last_use.get(s) == index:
                    prefer = slots.pop(s)
                    break
        cut = "" if lasting else self._cut(shape, "head")
        held = shape if lasting else self._block_shape(shape)
        slots[index], name = self._scratch(held, instr.dtype, prefer, lasting, cut)
        return name

    def _reduction(self, index: int, instr: Instr, source: str, out: str, lines: list[str]) -> None:
        call = self._sum_by_blas(instr, source, out) if instr.op == "reduce_sum" else None
        if call is None:
            kernel, held = self.kernel, self.shapes[instr.src[0]]
            reduced = kernel.reduce_axes
            wanted = tuple(n if a in reduced else h for a, (n, h) in enumerate(zip(kernel.shape, held, strict=True)))
            if held != wanted:  # a value that is repeated along the row counts once for each point
                rest = "".join(f", {n}" for n in wanted[1:])
                source = f"broadcast_to({source}, ({'j-i' if self.blocked and wanted[0] > 1 else wanted[0]}{rest}))"
            call = f"{instr.op}({source}, {reduced}, {{}})", out
        text, out = call
        if not self._reduced(index):
            lines.append(text.format(out))
            return
        combine = {"reduce_sum": "add_", "reduce_max": "max_", "reduce_prod": "mul_"}[instr.op]
        _, part = self._scratch(self.shapes[index], instr.dtype)
        if out.endswith("m"):
            part = self._matrix(part, prod(self.shapes[index]))  # as `_sum_by_blas` writes it, in one row
        lines.append(text.format(f"{part} if i else {out}"))
        lines.append(f"if i: {combine}({out}, {part}, {out})")

    def _sum_by_blas(self, instr: Instr, source: str, out: str) -> Optional[tuple[str, str]]:
        """A sum along the last axis, or along the first ones, as a product with ones: the call, and where it writes.

        BLAS takes a quarter of the time of `np.add.reduce`, which starts anew with each row.
        """
        axes, shape = self.kernel.reduce_axes, self.kernel.shape
        held = self.shapes[instr.src[0]]
        if instr.dtype.kind != "f" or instr.dtype.itemsize < 4 or held != shape or not shape or 0 in shape:
            return None
        if len(shape) == 1:
            ones = self._ones(shape[0], instr.dtype, 1)
            if self.blocked:
                return None
            return f"sum_product({source}, {ones}, {{}})", self._without_last(out)
        strides = self.strides.get(source, contiguous_strides(shape))
        if axes == (len(shape) - 1,) and runtime.blas_reads(View(shape, strides)):
            return f"matmul({source}, {self._ones(shape[-1], instr.dtype)}, {{}})", out
        if axes == tuple(range(len(axes))) and strides == contiguous_strides(shape) and len(axes) < len(shape):
            width, columns = prod(shape[1 : len(axes)]), prod(shape[len(axes) :])
            ones = self._ones(self._block_shape(shape)[0] * width, instr.dtype, width)
            if len(shape) > 2:
                source, out = self._matrix(source, columns, width), self._matrix(out, columns)
            return f"matmul({ones}, {source}, {{}})", out
        return None

    def _join(self, index: int, instr: Instr, out: str, lines: list[str]) -> None:
        """Each padded load goes to its region; adding 0 there is what the other loads would have done."""
        shape, array = self.shapes[index], self.arguments[out]
        zero = self._argument("c", constant(np.zeros((1,) * len(shape), instr.dtype)))
        regions = [region(view, shape) for _, view in instr.arg]
        if sum(prod(hi - lo for lo, hi in bounds) for bounds in regions) < prod(shape):
            lines.append(f"copyto({out}, {zero})")
        for (slot, view), bounds in zip(instr.arg, regions, strict=True):
            source = self._inside(slot, instr.dtype, view, bounds)
            here = (slice(None), *(slice(lo, hi) for lo, hi in bounds[1:]))
            part = array.through(lambda x, here=here: x[here])._replace(width=1)  # type: ignore[misc]
            lines.append(f"add_({source}, {zero}, {self._argument('p', part)})")

    def _inside(self, slot: int, dtype: DType, view: View, bounds: Region) -> str:
        """The elements of a padded load that are there."""
        extent = tuple(max(hi - lo, 0) for lo, hi in bounds)
        offset = view.offset + sum(lo * s for (lo, _), s in zip(bounds, view.strides, strict=True))
        return self._array("a", slot, dtype, extent, view.strides, 0 if 0 in extent else offset)

    def _special(self, index: int, instr: Instr, sources: list[str], out: str, lines: list[str]) -> None:
        """Masked loads, numberings, random bits and gathers: one call of the runtime each."""
        shape = self.shapes[index]
        span = "i, j" if self.blocked and shape[0] > 1 else f"0, {shape[0]}"
        if instr.op == "load":
            number, view = instr.arg
            bounds = region(view, shape)
            source = self._inside(number, instr.dtype, view, bounds)
            self.arguments[source] = self.arguments[source]._replace(cut="")
            lines.append(f"load_masked({source}, {bounds}, {span}, {out})")
        elif instr.op == "iota":
            view = self._argument("v", constant(instr.arg))
            lines.append(f"number({view}, {span}, {out})")
        elif instr.op == "random":
            view = self._argument("v", constant(instr.arg))
            lines.append(f"random_bits({sources[0]}, {sources[1]}, {view}, {span}, {out})")
        else:
            assert instr.op == "gather"
            number, view, stride, rows = instr.arg
            dtype = self.kernel.inputs[number]
            table = self._argument("a", Argument(lambda buffers: runtime.flat(buffers[number], dtype)))
            where = self._argument("v", constant(view))
            lines.append(f"gather({table}, {where}, {stride}, {rows}, {sources[0]}, {span}, {out})")

    def _dot(self, instr: Instr, target) -> str:
        """The whole contraction, before the blocks of what follows it."""
        kernel = self.kernel
        left, left_view, right, right_view = instr.arg
        a = self._argument("a", strided(left, instr.dtype, *left_view[:3]))
        b = self._argument("a", strided(right, kernel.inputs[right], *right_view[:3]))
        if target is not None:
            name = self._output(target, kernel.outputs[target].view)
        else:
            _, name = self._scratch(kernel.shape, instr.dtype, lasting=True, cut=self._cut(kernel.shape))
        operands = ((a, left_view), (b, right_view))
        a, b = (name if runtime.blas_reads(view) else f"array({name})" for name, view in operands)
        if kernel.packing is not None:
            packing = self._argument("v", constant(kernel.packing))
            self.lines["before" if self.blocked else "block"].append(f"packed_matmul({packing}, {a}, {b}, {name})")
            return name
        function = "half_matmul" if is_half(instr.dtype) else "matmul"
        self.lines["before" if self.blocked else "block"].append(f"{function}({a}, {b}, {name})")
        return name

    def _assemble(self) -> str:
        """One function if there is but one block."""
        if not self.blocked or not self.lines["block"]:
            return self._function("kernel", [line for lines in self.lines.values() for line in lines] or ["pass"])
        texts = [self._function(name, lines) for name, lines in self.lines.items() if lines]
        return "".join(texts)

    def _function(self, name: str, lines: list[str]) -> str:
        used = dict.fromkeys(re.findall(r"\b(?:[acoptv]\d+[a-z]?|[ij])\b", " ".join(lines)))
        for number in used.keys() & {"i", "j"}:
            self.arguments[number] = constant(None, number)
        rows = f"  # {self.step} rows of {self.rows}" if name == "block" else ""
        return "\n    ".join([f"def {name}({', '.join(used)}):{rows}", *lines]) + "\n"
