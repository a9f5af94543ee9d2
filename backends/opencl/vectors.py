"""Whole vectors of neighbours: the values of a body for `lanes` points along one axis at once, for CPUs.

Compilers make vectors of plain loops sometimes: a comparison, a branch or a possible alias is enough to stop one. Here
a value that varies along the axis is an OpenCL vector, a value that does not is a scalar, and both are rounded as the
scalar text rounds them. What vectors cannot say well (64-bit numbers, halves, random bits, a gather by a varying index)
does not `fit`, and is left to the plain loops.

A bool is an int vector of 0 and -1, as a comparison of vectors makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Any

from ..dtypes import DType, bool_, float32, int32, uint32
from ..kernel import REDUCTIONS, Custom, Instr, Kernel
from ..view import View
from . import functions
from .functions import SINGLE, Text, compute_type
from .single import SINGLE_HELPERS
from .writer import Writer

NUMBERS = (float32, int32, uint32)
MOST_ODD_LOADS = 4  # loads that have to be put together from single elements
# Operands are {0} {1} {2}, all vectors; {T} is the vector type of the first (of where: the second), {I} and {N} are int
# and uint as wide.
FLOATS = {
    op: SINGLE[op].text.replace("({T})1", "1.0f")
    for op in ("neg", "add", "sub", "mul", "div", "reciprocal", "max", "where", "sqrt", "floor")
}
FLOATS |= {"lt": "{0} < {1}", "eq": "{0} == {1}"}
INTEGERS = {
    "neg": "as_{T}(-as_{N}({0}))",
    "add": "as_{T}(as_{N}({0}) + as_{N}({1}))",
    "sub": "as_{T}(as_{N}({0}) - as_{N}({1}))",
    "mul": "as_{T}(as_{N}({0}) * as_{N}({1}))",
    "max": "max({0}, {1})", "where": "{0} ? {1} : {2}", "lt": "{0} < {1}", "eq": "{0} == {1}",
    "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}",
}  # fmt: skip
BOOLS = {
    "add": "{0} | {1}", "max": "{0} | {1}", "or": "{0} | {1}", "mul": "{0} & {1}", "and": "{0} & {1}",
    "xor": "{0} ^ {1}", "eq": "~({0} ^ {1})", "lt": "~{0} & {1}", "where": "({0} & {1}) | (~{0} & {2})",
}  # fmt: skip
TABLES: dict[DType, dict[str, str]] = {float32: FLOATS, int32: INTEGERS, uint32: INTEGERS, bool_: BOOLS}
CASTS = {
    (bool_, float32): "as_{T}({0} & 0x3f800000)", (bool_, int32): "{0} & 1", (bool_, uint32): "as_{N}({0} & 1)",
    (float32, bool_): "{0} != 0.0f", (int32, bool_): "{0} != 0", (uint32, bool_): "{0} != 0u",
    (int32, float32): "convert_{T}({0})", (uint32, float32): "convert_{T}({0})",
    (int32, uint32): "as_{N}({0})", (uint32, int32): "as_{I}({0})",
}  # fmt: skip


def vector_type(dtype: DType, lanes: int) -> str:
    return ("int" if dtype == bool_ else compute_type(dtype)) + str(lanes)


def widened(code: str, dtype: DType, lanes: int) -> str:
    """A scalar in every lane."""
    return f"({vector_type(dtype, lanes)})({f'-(int)({code})' if dtype == bool_ else code})"


def operation(
    op: str, operands: Sequence[str], dtype: DType, operand_dtype: DType, lanes: int, arg: Any = None
) -> Text | None:
    """As `functions.elementwise`, of vectors; None where this op has no vector text."""
    typed = operand_dtype
    if op == "custom":
        return _lane_by_lane(arg, operands, dtype, operand_dtype, lanes)
    if op == "cast":
        text, typed = CASTS.get((operand_dtype, dtype)), dtype
    elif op == "bitcast":
        text = "as_{T}({0})" if dtype in NUMBERS and operand_dtype in NUMBERS else None
        typed = dtype
    elif operand_dtype == float32 and f"{op}_single" in SINGLE_HELPERS:
        return Text(f"{op}_single{lanes}({operands[0]})", ((f"{op}_single{lanes}", float32),))
    else:
        text = TABLES.get(operand_dtype, {}).get(op)
    if text is None:
        return None
    names = (("{T}", vector_type(typed, lanes)), ("{I}", f"int{lanes}"), ("{N}", f"uint{lanes}"))
    for placeholder, value in (*names, *((f"{{{i}}}", operand) for i, operand in enumerate(operands))):
        text = text.replace(placeholder, value)
    return Text(text)


def _lane_by_lane(
    custom: Custom, operands: Sequence[str], dtype: DType, operand_dtype: DType, lanes: int
) -> Text | None:
    """A user's function is of single numbers: the rest of the kernel need not be."""
    if dtype not in NUMBERS or operand_dtype not in NUMBERS:
        return None
    calls = [
        functions.call_of(custom, [f"({operand}).s{lane:x}" for operand in operands], dtype, operand_dtype)
        for lane in range(lanes)
    ]
    return Text(f"({vector_type(dtype, lanes)})({', '.join(call.code for call in calls)})", calls[0].helpers)


def view_of(instr: Instr) -> View | None:
    if instr.op in ("load", "gather"):
        return instr.arg[1]
    return instr.arg if instr.op in ("iota", "random", "valid") else None


def masked(view: View, axis: int) -> bool:
    return view.mask is not None and view.mask[axis] != (0, view.shape[axis])


class VectorWriter(Writer):
    """A Writer that computes vectors between `with vectors(...)`, and single values otherwise."""

    def __init__(self, kernel: Kernel, specialise: bool):
        super().__init__(kernel, specialise)
        self.lanes = 0
        self.axis = -1

    @contextmanager
    def vectors(self, lanes: int, axis: int):
        """In here coordinate `axis` is that of the first lane."""
        self.lanes, self.axis = lanes, axis
        yield
        self.lanes = 0

    def varies(self, axis: int) -> list[bool]:
        """Whether each value varies along an axis; the result of a reduction over it does not."""
        flags: list[bool] = []
        for instr in self.kernel.body:
            view = view_of(instr)
            own = instr.op == "dot" or view is not None and (view.strides[axis] != 0 or masked(view, axis))
            reduced = instr.op in REDUCTIONS and axis in self.kernel.reduce_axes
            flags.append(not reduced and (own or any(flags[s] for s in instr.src)))
        return flags

    def fits(self, live: Iterable[int], lanes: int, axis: int) -> bool:
        """Whether vectors along `axis` can be computed, and are worth it. Sets what `vectors` needs to know."""
        body = self.kernel.body
        self.varying = self.varies(axis)
        odd_loads = 0
        for i in live:
            op, src, arg, dtype = body[i]
            if op in REDUCTIONS and dtype not in NUMBERS:
                return False
            if not self.varying[i] or op in REDUCTIONS:
                continue
            if op in ("load", "gather", "iota", "valid"):
                plain = self._plain(body[i], lanes, axis)
                if op == "gather" and (not plain or self.varying[src[0]]):
                    return False
                if op != "valid" and dtype not in NUMBERS:
                    return False
                odd_loads += op != "iota" and not plain
            elif op == "random" or self._text(i, [""] * len(src), lanes) is None:
                return False
        stored = all(dtype in NUMBERS for dtype in self.kernel.output_dtypes)
        return stored and not self.wide and odd_loads <= MOST_ODD_LOADS

    def _text(self, i: int, operands: Sequence[str], lanes: int) -> Text | None:
        op, _, arg, dtype = self.kernel.body[i]
        return operation(op, operands, dtype, self._operand_dtype(i), lanes, arg)

    def _operand_dtype(self, i: int) -> DType:
        op, src, _, _ = self.kernel.body[i]
        return self.kernel.body[src[1 if op == "where" else 0]].dtype

    def _plain(self, instr: Instr, lanes: int, axis: int) -> bool:
        """Whether the lanes lie side by side, all of them inside the mask or all outside."""
        view = view_of(instr)
        assert view is not None
        if masked(view, axis):
            assert view.mask is not None
            if not self.specialise or any(bound % lanes for bound in view.mask[axis] if bound != view.shape[axis]):
                return False
        return instr.op in ("iota", "valid") or view.strides[axis] == 1

    # -- values ---------------------------------------------------------------------------------------------------

    def vector(self, i: int, names: dict[int, str]) -> str:
        """Value i as a vector, whatever it is."""
        return names[i] if self.varying[i] else widened(names[i], self.kernel.body[i].dtype, self.lanes)

    def values(
        self, wanted: Iterable[int], coords: Sequence[str], names: dict[int, str], reduced: bool = False
    ) -> None:
        if not self.lanes:
            return super().values(wanted, coords, names, reduced)
        for i in wanted:
            if i in names or not self.varying[i]:
                super().values([i], coords, names)
            elif self.kernel.body[i].op not in REDUCTIONS:
                ctype = vector_type(self.kernel.body[i].dtype, self.lanes)
                self.line(f"const {ctype} v{i} = {self._vector_value(i, coords, names)};")
                names[i] = f"v{i}"

    def _vector_value(self, i: int, coords: Sequence[str], names: dict[int, str]) -> str:
        instr = self.kernel.body[i]
        op, src, arg, dtype = instr
        ctype = vector_type(dtype, self.lanes)
        view = view_of(instr)
        if view is None:
            operands = [self.vector(s, names) for s in src]
            text = self._text(i, operands, self.lanes)
            assert text is not None
            return self.code(text)
        if not self._plain(instr, self.lanes, self.axis):
            return f"({ctype})({', '.join(self._lane_values(i, coords, names))})"
        inside = self.inside(f"v{i}", view, coords)
        if op == "valid":
            return widened(inside or "1", dtype, self.lanes)
        position = self.position(f"v{i}", view, coords)
        if op == "load":
            value = self.read_vector(arg[0], position)
        elif op == "iota":
            step = self.number(f"v{i}_{self.axis}", view.strides[self.axis])
            steps = ", ".join(f"{lane} * {step}" for lane in range(self.lanes))
            value = f"({ctype})({position}) + ({ctype})({steps})"
        else:
            _, _, stride, rows = arg
            index = names[src[0]]
            checked = self.index_check(index, self.kernel.body[src[0]].dtype, f"v{i}_rows", rows, "gather")
            inside = f"{inside} && {checked}" if inside else checked
            step = self.number(f"v{i}_step", stride)
            value = self.read_vector(arg[0], f"{position} + ({self.index}){index} * {step}")
        return f"({inside}) ? {value} : ({ctype})(0)" if inside else value

    def _lane_values(self, i: int, coords: Sequence[str], names: dict[int, str]) -> list[str]:
        """The text of each lane by itself, where a mask or a stride comes between them."""
        lanes = []
        for lane in range(self.lanes):
            here = list(coords)
            here[self.axis] = f"({coords[self.axis]} + {lane})"
            value = self._value(i, here, names)
            lanes.append(f"-(int)({value})" if self.kernel.body[i].dtype == bool_ else f"({value})")
        return lanes

    # -- memory ---------------------------------------------------------------------------------------------------

    def read_vector(self, slot: int, position: str) -> str:
        return f"*(__global const {self._unaligned(self.kernel.inputs[slot])} *)(x{slot} + {position})"

    def _unaligned(self, dtype: DType) -> str:
        """A vector type that may lie at any element. (vload16 would do, but one runtime hangs on it.)"""
        self.helpers.add((f"unaligned{self.lanes}", dtype))
        return f"{compute_type(dtype)}{self.lanes}_at"

    def store_vector(self, number: int, view: View, coords: Sequence[str], i: int, names: dict[int, str]) -> None:
        """Value i to output `number`."""
        position = self.position(f"y{number}", view, coords)
        value = self.vector(i, names)
        if view.strides[self.axis] == 1:
            ctype = self._unaligned(self.kernel.output_dtypes[number])
            self.line(f"*(__global {ctype} *)(y{number} + {position}) = {value};")
            return
        self.line(f"const {vector_type(self.kernel.body[i].dtype, self.lanes)} w{number} = {value};")
        step = self.number(f"y{number}_{self.axis}", view.strides[self.axis])
        for lane in range(self.lanes):
            self.line(f"y{number}[{position} + {lane} * {step}] = w{number}.s{lane:x};")

    # -- reductions -----------------------------------------------------------------------------------------------

    def combine(self, op: str, a: str, b: str, dtype: DType, lanes: int) -> str:
        text = operation(functions.REDUCE_WITH[op], [a, b], dtype, dtype, lanes)
        assert text is not None
        return self.code(text)

    def across(self, op: str, name: str, dtype: DType, lanes: int) -> str:
        """The reduction of a vector's lanes, halving it each time."""
        part = name
        while lanes > 2:
            lanes //= 2
            text = self.combine(op, f"{part}.lo", f"{part}.hi", dtype, lanes)
            part = f"{name}_{lanes}"
            self.line(f"const {compute_type(dtype)}{lanes} {part} = {text};")
        return self.code(functions.combine(op, f"{part}.lo", f"{part}.hi", dtype))
