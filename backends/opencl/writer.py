"""What every rendered kernel shares: its arguments, index expressions, and the text of the values of a body.

A size, stride, offset or constant is asked for by name (`Writer.number`, `Writer.constant`). With `specialise` it comes
back as a literal; otherwise as an argument of the kernel, so that kernels of one structure have one source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ..dtypes import DType
from ..kernel import REDUCTIONS, Kernel
from ..view import View
from . import functions
from .functions import compute_type, storage_type

NAME = "@NAME@"  # stands for the kernel's name until its program is put together


@dataclass
class Rendered:
    """One kernel's source, and how to launch it. `arguments` follow the buffers; the report's two come last."""

    source: str
    helpers: frozenset[tuple[str, DType]]
    arguments: list[Any]
    global_size: tuple[int, ...]
    local_size: tuple[int, ...]
    reports: list[str] = field(default_factory=list)  # what an out-of-range index of this kernel is to say
    bases: tuple[int, ...] = ()  # elements from the start of each buffer to where the source takes it to start


class Writer:
    def __init__(self, kernel: Kernel, specialise: bool):
        self.kernel = kernel
        self.specialise = specialise
        self.wide = is_wide(kernel)
        self.index = "long" if self.wide else "int"
        self.parameters: dict[str, tuple[str, Any]] = {}
        self.helpers: set[tuple[str, DType]] = set()
        self.reports: list[str] = []
        self.lines: list[str] = []
        self.depth = 1

    # -- lines ----------------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def block(self, head: str):
        self.line(head + " {" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    # -- numbers --------------------------------------------------------------------------------------------------

    def number(self, name: str, value: int) -> str:
        """An integer of the index type: a literal, or the argument `name`."""
        if self.specialise:
            return f"{value}L" if abs(value) >= 2**31 else str(value)
        self.parameters[name] = (self.index, np.int64(value) if self.wide else np.int32(value))
        return name

    def constant(self, name: str, value, dtype: DType) -> str:
        if self.specialise:
            return functions.literal(value, dtype)
        self.parameters[name] = (compute_type(dtype), functions.as_scalar(value, dtype))
        return name

    def code(self, text: functions.Text) -> str:
        self.helpers.update(text.helpers)
        return text.code

    # -- indices --------------------------------------------------------------------------------------------------

    def decode(self, flat: str, axes: Sequence[int], coords: list[str], sizes: Sequence[int]) -> None:
        """Declare the index of each of `axes` from a flat one, the last axis fastest."""
        axes = [a for a in axes if sizes[a] != 1]
        for position, axis in enumerate(reversed(axes)):
            coords[axis] = f"i{axis}"
            if position == len(axes) - 1:
                self.line(f"const {self.index} i{axis} = {flat};")
                return
            size = self.number(f"n{axis}", sizes[axis])
            rest = f"rest{axis}"
            self.line(f"const {self.index} i{axis} = {flat} % {size}, {rest} = {flat} / {size};")
            flat = rest

    def position(self, name: str, view: View, coords: Sequence[str]) -> str:
        terms = [self.number(f"{name}_at", view.offset)] if view.offset else []
        for axis, (stride, coord) in enumerate(zip(view.strides, coords)):
            if stride and coord != "0":
                terms.append(coord if stride == 1 else f"{coord} * {self.number(f'{name}_{axis}', stride)}")
        return " + ".join(terms) or "0"

    def inside(self, name: str, view: View, coords: Sequence[str]) -> str:
        """The condition that a point lies inside the mask; empty where it always does."""
        if view.mask is None:
            return ""
        if any(lo >= hi for lo, hi in view.mask):
            return "0"
        terms = []
        for axis, ((lo, hi), size) in enumerate(zip(view.mask, view.shape)):
            if lo > 0:
                terms.append(f"{coords[axis]} >= {self.number(f'{name}_lo{axis}', lo)}")
            if hi < size:
                terms.append(f"{coords[axis]} < {self.number(f'{name}_hi{axis}', hi)}")
        return " && ".join(terms)

    def guard(self, index: str, name: str, size: int, group: int) -> None:
        """Leave the work-items that only fill up the last work-group of `group`."""
        if not (self.specialise and size % group == 0) and group > 1:
            self.line(f"if ({index} >= {self.number(name, size)}) return;")

    def live(self) -> list[int]:
        """The values that reach an output."""
        wanted: set[int] = set()
        pending = [out.value for out in self.kernel.outputs]
        while pending:
            i = pending.pop()
            if i not in wanted:
                wanted.add(i)
                pending += self.kernel.body[i].src
        return sorted(wanted)

    # -- values ---------------------------------------------------------------------------------------------------

    def read(self, slot: int, position: str) -> str:
        return functions.read(f"x{slot}", position, self.kernel.inputs[slot])

    def store(self, number: int, view: View, coords: Sequence[str], value: str) -> None:
        position = self.position(f"y{number}", view, coords)
        self.line(functions.write(f"y{number}", position, value, self.kernel.output_dtypes[number]))

    def values(
        self, wanted: Iterable[int], coords: Sequence[str], names: dict[int, str], reduced: bool = False
    ) -> None:
        """Declare the values `wanted`, in order, at the point `coords`; `names` says what values are called here."""
        for i in wanted:
            instr = self.kernel.body[i]
            if instr.op == "const":
                names[i] = self.constant(f"c{i}", instr.arg, instr.dtype)
                continue
            if i in names or instr.op in REDUCTIONS:
                continue
            self.line(f"const {compute_type(instr.dtype)} v{i} = {self._value(i, coords, names)};")
            names[i] = f"v{i}"

    def _value(self, i: int, coords: Sequence[str], names: dict[int, str]) -> str:
        op, src, arg, dtype = self.kernel.body[i]
        if op not in ("load", "gather", "iota", "random", "valid"):
            operand_dtype = self.kernel.body[src[1 if op == "where" else 0]].dtype
            return self.code(functions.elementwise(op, [names[s] for s in src], dtype, operand_dtype, arg))
        view = arg[1] if op in ("load", "gather") else arg
        name = f"v{i}"
        inside = self.inside(name, view, coords)
        if op == "valid":
            return f"(uchar)({inside or '1'})"
        position = self.position(name, view, coords)
        if op == "load":
            value = self.read(arg[0], position)
        elif op == "iota":
            value = f"({compute_type(dtype)})({position})"
        elif op == "random":
            self.helpers.add(("random_word", dtype))
            value = f"random_word({names[src[0]]}, {names[src[1]]}, (ulong)({position}))"
        else:
            _, _, stride, rows = arg
            index = names[src[0]]
            checked = self.index_check(index, self.kernel.body[src[0]].dtype, f"{name}_rows", rows, "gather")
            inside = f"{inside} && {checked}" if inside else checked
            value = self.read(arg[0], f"{position} + ({self.index}){index} * {self.number(f'{name}_step', stride)}")
        return f"({inside}) ? {value} : ({compute_type(dtype)})0" if inside else value

    def index_check(self, index: str, dtype: DType, name: str, rows: int, op: str) -> str:
        """The condition 0 <= index < rows, which also reports an index that fails it."""
        self.helpers.add(("index_ok", dtype))
        self.reports.append(f"{op}: an index lies outside 0 <= index < {rows}")
        return f"index_ok_{compute_type(dtype)}({index}, {self.number(name, rows)}, report, report_code)"

    def lane_sum(self, ctype: str, name: str, lanes: int) -> str:
        """The sum of the lanes of the vector `name`, halving it each time."""
        current = name
        while lanes > 2:
            lanes //= 2
            self.line(f"const {ctype}{lanes} {name}_{lanes} = {current}.lo + {current}.hi;")
            current = f"{name}_{lanes}"
        return f"{current}.lo + {current}.hi"

    def turned(self, vector: str, square: Sequence[str]) -> list[str]:
        """Declare the columns, as vectors of the type `vector`, of a square given by its rows.

        Row i is interleaved with the one half a square on, as often as the square can be halved. Written with .even and
        .odd, because compilers undo interleavings that name every lane.
        """
        size, current = len(square), [f"u{i}" for i in range(len(square))]
        for name, row in zip(current, square, strict=True):
            self.line(f"const {vector} {name} = {row};")
        for stage in range(size.bit_length() - 1):
            names = [f"u{stage}_{i}" for i in range(size)]
            self.line(f"{vector} {', '.join(names)};")
            for i, name in enumerate(names):
                a, b, half = current[i // 2], current[i // 2 + size // 2], ("lo", "hi")[i % 2]
                self.line(f"{name}.even = {a}.{half}; {name}.odd = {b}.{half};")
            current = names
        return current

    # -- the whole ------------------------------------------------------------------------------------------------

    def finish(self, global_size: tuple[int, ...], local_size: tuple[int, ...], wide_vectors: bool = False) -> Rendered:
        """The kernel around the lines written so far. A global size is rounded up to whole work-groups.

        `wide_vectors` asks the compiler for the widest registers there are: some CPUs' are halved by default.
        """
        kernel = self.kernel
        arguments = [f"__global const {storage_type(t)} *x{i}, ulong x{i}_start" for i, t in enumerate(kernel.inputs)]
        arguments += [f"__global {storage_type(t)} *y{i}, ulong y{i}_start" for i, t in enumerate(kernel.output_dtypes)]
        arguments += [f"{ctype} {name}" for name, (ctype, _) in self.parameters.items()]
        if self.reports:
            arguments.append("__global int *report, int report_code")
        starts = [f"x{i} += x{i}_start;" for i in range(len(kernel.inputs))]
        starts += [f"y{i} += y{i}_start;" for i in range(len(kernel.outputs))]
        wide = "WIDE_VECTORS " if wide_vectors else ""
        if wide_vectors and prod(local_size) == 1:
            # Keeps compilers from looking for vectors across work-items, beside which there are no others in a group:
            # Intel's takes twenty times as long to do so.
            wide += "__attribute__((vec_type_hint(float4))) "
        local = local_size + (1,) * (3 - len(local_size))
        source = "\n".join(
            [
                f"__kernel {wide}__attribute__((reqd_work_group_size({', '.join(map(str, local))})))",
                f"void {NAME}({', '.join(arguments)}) {{",
                "    " + " ".join(starts),
                *self.lines,
                "}\n",
            ]
        )
        rounded = tuple(-(-size // group) * group for size, group in zip(global_size, local_size))
        values = [value for _, value in self.parameters.values()]
        return Rendered(source, frozenset(self.helpers), values, rounded, local_size, self.reports)


def is_wide(kernel: Kernel) -> bool:
    """Whether some position or extent needs 64-bit index arithmetic."""
    views = []
    for instr in kernel.body:
        if instr.op == "dot":
            views += [instr.arg[1], instr.arg[3]]
        elif instr.op == "gather":
            _, view, stride, rows = instr.arg
            views.append(View((*view.shape, rows), (*view.strides, stride), view.offset))
        elif instr.op == "load":
            views.append(instr.arg[1])
        elif instr.op in ("iota", "random", "valid"):
            views.append(instr.arg)
    views += [out.view for out in kernel.outputs]
    if kernel.attention is not None:
        views += [view for _, _, view in kernel.attention.operands]
    if kernel.scatter is not None:
        s = kernel.scatter
        views += [s.values, s.index, View.contiguous((s.rows, s.width))]
    if kernel.sort is not None:
        views += [kernel.sort.keys, View.contiguous((kernel.sort.rows, kernel.sort.length + kernel.sort.run))]
    reach = [abs(v.offset) + sum(abs(s) * n for s, n in zip(v.strides, v.shape)) for v in views]
    # Blocks may run past the end by less than a block before they are cut off: leave room for that.
    return max([*reach, *(v.size for v in views)], default=0) >= 2**31 - 2**16
