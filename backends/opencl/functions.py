"""OpenCL C text of every elementwise operation, one table entry per operation and class of element types.

Values are computed in their *compute type*: the element type itself, but `uchar` (0 or 1) for bool and `float` for
float16 and bfloat16, which are rounded to that after each operation (`round_half`, `round_bfloat`), so that no device
needs cl_khr_fp16. Memory holds a bfloat16 as the `ushort` of its bits, the upper half of a float's.
The meanings are those of `backends/kernel.py`. C wraps signed integers only when they are
computed as unsigned ones, hence {U}.

Entries are templates: {0} {1} {2} operands, {T} compute type, {U} its unsigned type, {BITS} its width. An entry
that needs a helper function names it; `helper_text` gives the helper's definition for a type.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..dtypes import DType, accumulator, float16, float32, float64, is_bool, is_float, is_half, is_int
from ..kernel import Custom
from ..packing import FETCH, HALF_AT, HALVES, PACKINGS
from . import custom
from .single import SINGLE_HELPERS, SINGLE_NEEDS

COMPUTE_TYPES = {
    "bool": "uchar", "int8": "char", "int16": "short", "int32": "int", "int64": "long",
    "uint8": "uchar", "uint16": "ushort", "uint32": "uint", "uint64": "ulong",
    "float16": "float", "bfloat16": "float", "float32": "float", "float64": "double",
}  # fmt: skip
HALF_TYPES = {"float16": ("half", "round_half"), "bfloat16": ("ushort", "round_bfloat")}  # in memory, and what rounds


def compute_type(dtype: DType) -> str:
    return COMPUTE_TYPES[dtype.name]


def storage_type(dtype: DType) -> str:
    return HALF_TYPES[dtype.name][0] if is_half(dtype) else COMPUTE_TYPES[dtype.name]


def read(pointer: str, position: str, dtype: DType) -> str:
    """The element of `dtype` at a position, in the compute type."""
    if dtype == float16:
        return f"vload_half({position}, {pointer})"
    element = f"{pointer}[{position}]"
    return f"as_float((uint){element} << 16)" if is_half(dtype) else element


def write(pointer: str, position: str, value: str, dtype: DType) -> str:
    """The statement that stores a value of `dtype`, as held in the compute type."""
    if dtype == float16:
        return f"vstore_half_rte({value}, {position}, {pointer});"
    bits = f"as_uint({value}) >> 16" if is_half(dtype) else value
    return f"{pointer}[{position}] = {bits};"


def wrap_type(dtype: DType) -> str:
    """The unsigned type in which integers of `dtype` are computed: at least an int, lest promotion be signed."""
    return "ulong" if dtype.itemsize == 8 else "uint"


class Function(NamedTuple):
    text: str
    helper: str = ""


def _builtin(name: str) -> Function:
    return Function(name + "({0})")


# fmt: off
FLOAT = {
    "neg": Function("-({0})"),
    **{op: _builtin(op) for op in (
        "exp", "log", "sin", "cos", "tanh", "sqrt", "erf", "expm1", "log1p", "exp2", "log2", "log10", "tan", "asin",
        "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "floor",
    )},
    "reciprocal": Function("({T})1 / {0}"),
    "add": Function("{0} + {1}"),
    "sub": Function("{0} - {1}"),
    "mul": Function("{0} * {1}"),
    "div": Function("{0} / {1}"),
    "mod": Function("float_mod_{T}({0}, {1})", "float_mod"),
    "idiv": Function("float_idiv_{T}({0}, {1})", "float_idiv"),
    "max": Function("({0} > {1} | {0} != {0}) ? {0} : {1}"),
    "pow": Function("pow({0}, {1})"),
    "lt": Function("(uchar)({0} < {1})"),
    "eq": Function("(uchar)({0} == {1})"),
    "where": Function("{0} ? {1} : {2}"),
}
# fmt: on
# In single precision (and for halves) these beat the runtimes' own, which CPUs do not vectorise: ten times and more.
SINGLE = FLOAT | {
    op: Function(op + "_single({0})", op + "_single") for op in ("exp", "expm1", "tanh", "log", "log1p", "erf")
}
INTEGER = {
    "neg": Function("({T})(0 - ({U}){0})"),
    "add": Function("({T})(({U}){0} + ({U}){1})"),
    "sub": Function("({T})(({U}){0} - ({U}){1})"),
    "mul": Function("({T})(({U}){0} * ({U}){1})"),
    "max": Function("{0} > {1} ? {0} : {1}"),
    "lt": Function("(uchar)({0} < {1})"),
    "eq": Function("(uchar)({0} == {1})"),
    "and": Function("({T})({0} & {1})"),
    "or": Function("({T})({0} | {1})"),
    "xor": Function("({T})({0} ^ {1})"),
    "shl": Function("shift_left_{T}({0}, {1})", "shift_left"),
    "pow": Function("whole_power_{T}({0}, {1})", "whole_power"),
    "where": Function("{0} ? {1} : {2}"),
}
SIGNED = INTEGER | {
    "idiv": Function("floor_div_{T}({0}, {1})", "floor_div"),
    "mod": Function("floor_mod_{T}({0}, {1})", "floor_mod"),
    "shr": Function("shift_right_{T}({0}, {1})", "shift_right"),
}
UNSIGNED = INTEGER | {
    "idiv": Function("{1} == 0 ? ({T})0 : ({T})({0} / {1})"),
    "mod": Function("{1} == 0 ? ({T})0 : ({T})({0} % {1})"),
    "shr": Function("{1} >= {BITS} ? ({T})0 : ({T})({0} >> {1})"),
}
BOOL = {
    "add": Function("{0} | {1}"),
    "max": Function("{0} | {1}"),
    "mul": Function("{0} & {1}"),
    "and": Function("{0} & {1}"),
    "or": Function("{0} | {1}"),
    "xor": Function("{0} ^ {1}"),
    "lt": Function("(uchar)({0} < {1})"),
    "eq": Function("(uchar)({0} == {1})"),
    "where": Function("{0} ? {1} : {2}"),
}


def table_for(dtype: DType) -> dict[str, Function]:
    if is_float(dtype):
        return FLOAT if dtype == float64 else SINGLE
    return {"i": SIGNED, "u": UNSIGNED, "b": BOOL}[dtype.kind]


# Results of halves that are exact without rounding.
EXACT = {"neg", "floor", "max", "where", "lt", "eq"}

# Constants that start a reduction, by class of type.
REDUCE_WITH = {"reduce_sum": "add", "reduce_max": "max", "reduce_prod": "mul"}

HELPERS = {
    "round_half": """\
float round_half(float x) {  /* to the nearest half, ties to even; infinity from 65520 */
    const float size = fabs(x);
    const uint bits = as_uint(x);
    const float normal = as_float((bits + 0xfffu + ((bits >> 13) & 1u)) & 0xffffe000u);
    const float small = copysign(rint(x * 16777216.0f) * 5.9604644775390625e-8f, x);
    const float finite = size < 6.103515625e-5f ? small : normal;
    return size >= 65520.0f ? copysign(INFINITY, x) : size == size ? finite : x;
}
""",
    "round_bfloat": """\
float round_bfloat(float x) {  /* to the nearest bfloat16, ties to even; a NaN stays one */
    const uint bits = as_uint(x);
    return as_float((x == x ? bits + 0x7fffu + ((bits >> 16) & 1u) : bits | 0x400000u) & 0xffff0000u);
}
""",
    "double_to_half": """\
float double_to_half(double x) {  /* toward zero with a sticky last bit, so that the second rounding is the only one */
    const float part = convert_float_rtz(x);
    return round_half((double)part == x || x != x || isinf(part) ? part : as_float(as_uint(part) | 1u));
}
""",
    "half_bits": """\
ushort half_bits(float x) {  /* x is a half already */
    const uint bits = as_uint(x), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
    const uint normal = (size >> 13) - (112u << 10);
    const uint small = (uint)(fabs(x) * 16777216.0f);
    const uint special = 0x7c00u | ((size >> 13) & 0x3ffu);
    return (ushort)(sign | (size >= 0x7f800000u ? special : size < 0x38800000u ? small : normal));
}
""",
    "half_from_bits": """\
float half_from_bits(ushort bits) {
    const uint sign = (uint)(bits & 0x8000u) << 16, size = bits & 0x7fffu;
    const float small = (float)size * 5.9604644775390625e-8f;
    const uint normal = (size << 13) + ((size >= 0x7c00u ? 224u : 112u) << 23);
    return as_float(sign | (size < 0x400u ? as_uint(small) : normal));
}
""",
    "float_mod": """\
{T} float_mod_{T}({T} a, {T} b) {  /* the sign of b, as numpy.mod */
    const {T} r = fmod(a, b);
    if (r == 0) return copysign(({T})0, b);
    return (r < 0) != (b < 0) ? r + b : r;
}
""",
    "float_idiv": """\
{T} float_idiv_{T}({T} a, {T} b) {  /* the quotient without the rest is near a whole number, which it rounds to */
    if (b == 0) return a / b;
    const {T} r = fmod(a, b), q = (a - r) / b - ({T})(r != 0 && (r < 0) != (b < 0)), down = floor(q);
    if (q == 0) return copysign(({T})0, a / b);
    return q - down > ({T})0.5 ? down + 1 : down;
}
""",
    "whole_power": """\
{T} whole_power_{T}({T} a, {T} b) {
    if (b < 0) return a == 1 ? 1 : a == ({T})-1 ? ({T})(1 - 2 * (int)(b & 1)) : 0;
    {U} result = 1, square = ({U})a;
    for (; b != 0; b >>= 1, square *= square) if (b & 1) result *= square;
    return ({T})result;
}
""",
    "floor_div": """\
{T} floor_div_{T}({T} a, {T} b) {
    if (b == 0) return 0;
    if (b == -1) return ({T})(0 - ({U})a);  /* a / b would overflow on the least integer */
    const {T} q = a / b;
    return q - ({T})(a % b != 0 && (a < 0) != (b < 0));
}
""",
    "floor_mod": """\
{T} floor_mod_{T}({T} a, {T} b) {
    if (b == 0 || b == -1) return 0;
    const {T} r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
""",
    "shift_left": """\
{T} shift_left_{T}({T} a, {T} b) { return b >= 0 && b < {BITS} ? ({T})(({U})a << b) : ({T})0; }
""",
    "shift_right": """\
{T} shift_right_{T}({T} a, {T} b) { return b >= 0 && b < {BITS} ? ({T})(a >> b) : a < 0 ? ({T})-1 : ({T})0; }
""",
    "philox": """\
/* Philox4x32-10: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011). */
uint4 philox(uint4 c, uint2 key) {
    for (int i = 0; i < 10; i++) {
        const uint low0 = 0xD2511F53u * c.x, high0 = mul_hi(0xD2511F53u, c.x);
        const uint low2 = 0xCD9E8D57u * c.z, high2 = mul_hi(0xCD9E8D57u, c.z);
        c = (uint4)(high2 ^ c.y ^ key.x, low2, high0 ^ c.w ^ key.y, low0);
        key += (uint2)(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}
""",
    "random_word": """\
uint random_word(ulong key, ulong counter, ulong position) {
    const ulong block = counter + position / 4;
    const uint4 c = philox((uint4)((uint)block, (uint)(block >> 32), 0, 0), (uint2)((uint)key, (uint)(key >> 32)));
    const uint word = (uint)position & 3u;
    return word == 0 ? c.x : word == 1 ? c.y : word == 2 ? c.z : c.w;
}
""",
    "index_ok": """\
int index_ok_{T}({T} index, ulong rows, __global int *report, int code) {
    if (index >= 0 && (ulong)index < rows) return 1;
    atomic_max(report, code);
    return 0;
}
""",
    "unaligned": "typedef {T}{W} {T}{W}_at __attribute__((aligned({BYTES})));\n",  # a vector at any element
}
HELPERS |= SINGLE_HELPERS | {packing.helper: packing.opencl for packing in PACKINGS.values()}
HELPERS |= {packing.integer_helper: packing.integers for packing in PACKINGS.values() if packing.halves}
HELPERS |= {"half_at": HALF_AT, "halves": HALVES, "fetch": FETCH}
CUSTOM: dict[str, str] = {}  # helpers that come from the user: the names of their operations
HELPER_NEEDS: dict[str, tuple[str, ...]] = {
    "double_to_half": ("round_half",),
    "random_word": ("philox",),
}
HELPER_NEEDS |= SINGLE_NEEDS
HELPER_NEEDS |= {
    packing.helper: ("half_at", *[packing.integer_helper] * bool(packing.halves)) for packing in PACKINGS.values()
}

_SATURATE = """\
{T} {name}({S} x) {{
    if (x != x) return 0;
    return x <= {low} ? {least} : x >= {high} ? {most} : ({T})x;
}}
"""


def helper_text(name: str, dtype: DType) -> str:
    """The definition of a helper for `dtype`; digits at the end of its name are the width of vectors.

    The text of helpers that do not vary by type ignores it.
    """
    base = name.rstrip("0123456789")
    width = name[len(base) :]
    text = HELPERS[base]
    names = (
        ("{T}", compute_type(dtype)), ("{U}", wrap_type(dtype)), ("{BITS}", str(dtype.itemsize * 8)),
        ("{BYTES}", str(dtype.itemsize)), ("{F}", f"float{width}"), ("{I}", f"int{width}"), ("{N}", f"uint{width}"),
        ("{W}", width),
    )  # fmt: skip
    for placeholder, value in names:
        text = text.replace(placeholder, value)
    return text


def literal(value, dtype: DType) -> str:
    """A C expression with exactly the bits of `value` in `dtype`."""
    exact = as_scalar(value, dtype)
    if is_bool(dtype):
        return "(uchar)1" if exact else "(uchar)0"
    if is_int(dtype):
        number = int(exact)
        if dtype.kind == "u":
            return (
                f"{number}{'UL' if dtype.itemsize == 8 else 'u'}"
                if dtype.itemsize >= 4
                else f"(u{_plain(dtype)}){number}"
            )
        suffix = "L" if dtype.itemsize == 8 else ""
        if number == np.iinfo(dtype).min:
            return f"({_plain(dtype)})(-{-(number + 1)}{suffix} - 1)"
        return f"{number}{suffix}" if dtype.itemsize >= 4 else f"({_plain(dtype)}){number}"
    wide = dtype == float64
    if not np.isfinite(exact):
        if np.isinf(exact):
            return ("-" if exact < 0 else "") + ("(double)INFINITY" if wide else "INFINITY")
        bits = exact.view("uint64") if wide else np.float32(exact).view("uint32")
        return f"as_double({int(bits):#x}UL)" if wide else f"as_float({int(bits):#x}u)"
    text = repr(float(exact)) if wide else f"{float(exact):.9g}"
    if "." not in text and "e" not in text:
        text += ".0"
    return text if wide else text + "f"


def _plain(dtype: DType) -> str:
    return {1: "char", 2: "short", 4: "int", 8: "long"}[dtype.itemsize]


def as_scalar(value, dtype: DType):
    """`value` as the NumPy scalar that a kernel argument of `dtype` is; integers wrap, halves are rounded."""
    with np.errstate(over="ignore"):
        if is_bool(dtype):
            return np.uint8(bool(value))
        if is_int(dtype):
            return np.array(int(value) % 2 ** (8 * dtype.itemsize), f"u{dtype.itemsize}").view(dtype)[()]
        return float32.type(dtype.type(value)) if is_half(dtype) else dtype.type(value)


def reduction_start(op: str, dtype: DType) -> str:
    """The value that leaves every other unchanged under the reduction `op`."""
    if op == "reduce_max" and not is_bool(dtype):
        return literal(-np.inf if is_float(dtype) else np.iinfo(dtype).min, dtype)
    return literal(1 if op == "reduce_prod" else 0, dtype)


class Text(NamedTuple):
    """A C expression and the helpers that it calls, as (helper name, dtype) pairs."""

    code: str
    helpers: tuple[tuple[str, DType], ...] = ()


def elementwise(op: str, operands: list[str], dtype: DType, operand_dtype: DType, arg: Any = None) -> Text:
    """The expression of an elementwise operation with result `dtype`.

    `operand_dtype` is that of the arithmetic's operands (for `where`, of its second).
    """
    if op == "custom":
        return rounded(call_of(arg, operands, dtype, operand_dtype), dtype)
    if op == "cast":
        return cast(operands[0], operand_dtype, dtype)
    if op == "bitcast":
        return bitcast(operands[0], operand_dtype, dtype)
    function = table_for(operand_dtype)[op]
    code = function.text
    for placeholder, value in (
        ("{T}", compute_type(operand_dtype)),
        ("{U}", wrap_type(operand_dtype)),
        ("{BITS}", str(operand_dtype.itemsize * 8)),
        *((f"{{{i}}}", operand) for i, operand in enumerate(operands)),
    ):
        code = code.replace(placeholder, value)
    helpers = ((function.helper, operand_dtype),) if function.helper else ()
    return Text(code, helpers) if op in EXACT else rounded(Text(code, helpers), dtype)


def call_of(operation: Custom, operands: list[str], dtype: DType, operand_dtype: DType) -> Text:
    """A call of an operation of the user's, whose definition becomes one more helper."""
    result = compute_type(dtype)
    helper = custom.function_name(operation, result) + "_"  # lest digits at its end be taken for a width
    if helper not in HELPERS:
        HELPERS[helper], CUSTOM[helper] = custom.definition(operation, result), operation.name
    return Text(f"{helper}{compute_type(operand_dtype)}({', '.join(operands)})", ((helper, operand_dtype),))


def rounded(text: Text, dtype: DType) -> Text:
    """A value of the compute type of `dtype` as one of `dtype` itself: halves are rounded."""
    if not is_half(dtype):
        return text
    function = HALF_TYPES[dtype.name][1]
    return Text(f"{function}({text.code})", ((function, dtype), *text.helpers))


def combine(op: str, a: str, b: str, dtype: DType) -> Text:
    """One step of a reduction. Halves are not rounded here: they accumulate in float."""
    return elementwise(REDUCE_WITH[op], [a, b], accumulator(dtype), accumulator(dtype))


def cast(x: str, source: DType, target: DType) -> Text:
    if source == target:
        return Text(x)
    if is_bool(target):
        return Text(f"(uchar)({x} != 0)")
    if is_float(source) and is_int(target):
        return Text(
            f"saturate_{compute_type(source)}_{target.name}({x})", ((f"saturate_{compute_type(source)}", target),)
        )
    if target == float16 and source == float64:
        return Text(f"double_to_half({x})", (("double_to_half", float16),))
    return rounded(Text(f"({compute_type(target)}){x}"), target)


def bitcast(x: str, source: DType, target: DType) -> Text:
    if source == target:
        return Text(x)
    helpers = tuple(
        (name, dtype) for name, dtype in (("half_bits", source), ("half_from_bits", target)) if dtype == float16
    )
    if source == float16:
        x = f"half_bits({x})"
    elif is_half(source):
        x = f"(ushort)(as_uint({x}) >> 16)"
    if target == float16:
        return Text(f"half_from_bits(as_ushort({x}))", helpers)
    if is_half(target):
        return Text(f"as_float((uint)as_ushort({x}) << 16)", helpers)
    return Text(f"as_{compute_type(target)}({x})", helpers)


def definitions(helpers) -> str:
    """The definitions of a set of (helper name, dtype) pairs, each once, in an order that compiles."""
    texts: dict[str, None] = {}
    for name, dtype in sorted(helpers, key=lambda pair: (pair[0], pair[1].name)):
        if name.startswith("saturate_"):
            texts[_saturate(name.removeprefix("saturate_"), dtype)] = None
            continue
        base = name.rstrip("0123456789")
        for needed in (*HELPER_NEEDS.get(base, ()), base):
            texts[helper_text(needed + name[len(base) :], dtype)] = None
    return "".join(texts)


def _saturate(source: str, target: DType) -> str:
    """float to integer: NaN gives 0, out of range the nearest end. 2**bits is exact in any float, 2**bits-1 not."""
    limits = np.iinfo(target)
    wide = source == "double"
    floating = float64 if wide else float32
    return _SATURATE.format(
        T=compute_type(target), S=source, name=f"saturate_{source}_{target.name}",
        low=literal(float(limits.min), floating), least=literal(limits.min, target),
        high=literal(float(2 ** (limits.bits - (target.kind == "i"))), floating), most=literal(limits.max, target),
    )  # fmt: skip
