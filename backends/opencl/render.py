"""From a Kernel to OpenCL C 1.2: loops and scatters here, each other kind in a file of its own.

A loop on a GPU gives every element a work-item, all of them along dimension 0 of the launch: some drivers take no more
than 65,535 work-groups along the others. On a CPU a work-item is a vector of neighbours (`vectors.py`); where the
kernel cannot be written so it is an element, with the outer dimensions in dimension 1: the inner has no division.
"""

from __future__ import annotations

from math import prod

from ..kernel import Kernel
from . import functions
from .attention import render_attention
from .collapse import collapse, rebase
from .dot import render_dot
from .functions import compute_type
from .rows import Row
from .shapes import Shapes, next_power
from .sort import render_sort
from .vectors import VectorWriter
from .writer import Rendered, Writer


def render(kernel: Kernel, shapes: Shapes, specialise: bool, aligned: bool = True) -> Rendered:
    """The source and launch of a kernel. `aligned`: buffers start on addresses fit for whole vectors."""
    kernel, bases = rebase(kernel)
    rendered = _render(kernel, shapes, specialise, aligned)
    rendered.bases = bases
    return rendered


def _render(kernel: Kernel, shapes: Shapes, specialise: bool, aligned: bool) -> Rendered:
    if kernel.kind == "scatter":
        return _scatter(kernel, shapes, specialise)
    if kernel.kind == "sort":
        return render_sort(kernel, shapes, specialise)
    if kernel.kind == "attention":
        return render_attention(kernel, shapes, specialise)
    if kernel.kind == "dot":
        return render_dot(kernel, shapes, specialise, aligned)
    kernel = collapse(kernel)
    if kernel.kind == "loop":
        return _loop(kernel, shapes, specialise)
    return Row(VectorWriter(kernel, specialise), shapes).render()


def _loop(kernel: Kernel, shapes: Shapes, specialise: bool) -> Rendered:
    w = VectorWriter(kernel, specialise)
    rank = len(kernel.shape)
    size, outer = kernel.shape[-1], prod(kernel.shape[:-1])
    enough = size >= shapes.row_lanes or not specialise
    if shapes.vectors and enough and w.fits(w.live(), shapes.row_lanes, rank - 1):
        return _vector_loop(w, shapes)
    coords = ["0"] * rank
    if shapes.loop_flat and rank > 1:
        total, group = kernel.shape[-1] * outer, shapes.loop_group[0]
        w.line(f"const {w.index} point = get_global_id(0);")
        w.guard("point", "total", total, group)
        w.decode("point", range(rank), coords, kernel.shape)
        return _loop_body(w, coords, (total,), (group,))
    local = shapes.narrow_group if rank > 1 and size < shapes.narrow else shapes.loop_group
    coords[-1] = f"i{rank - 1}"
    w.line(f"const {w.index} {coords[-1]} = get_global_id(0);")
    w.guard(coords[-1], f"n{rank - 1}", size, local[0])
    if rank > 1:
        if local[1] > 1:
            w.line(f"const {w.index} outer = get_global_id(1);")
            w.guard("outer", "outer_size", outer, local[1])
            w.decode("outer", range(rank - 1), coords, kernel.shape)
        else:
            w.decode(f"({w.index})get_global_id(1)", range(rank - 1), coords, kernel.shape)
    return _loop_body(w, coords, (size, outer), local)


def _loop_body(w: Writer, coords: list[str], global_size: tuple[int, ...], local: tuple[int, ...]) -> Rendered:
    names: dict[int, str] = {}
    w.values(w.live(), coords, names)
    for number, (value, view) in enumerate(w.kernel.outputs):
        w.store(number, view, coords, names[value])
    return w.finish(global_size, local)


def _vector_loop(w: VectorWriter, shapes: Shapes) -> Rendered:
    """A loop of which each work-item computes one vector, or what is left over at the end."""
    kernel, lanes = w.kernel, shapes.row_lanes
    axis = len(kernel.shape) - 1
    size, outer = kernel.shape[-1], prod(kernel.shape[:-1])
    blocks, most = -(-size // lanes), shapes.vector_group
    if w.specialise:
        across = min(most, next_power(blocks))
        down = min(most // across, next_power(outer))
    else:
        across = most if axis == 0 or blocks >= most else 4
        down = most // across
    coords = ["0"] * (axis + 1)
    coords[axis] = "first"
    w.line(f"const {w.index} first = get_global_id(0) * {lanes};")
    w.guard("first", f"n{axis}", size, lanes * across)
    if axis:
        w.line(f"const {w.index} outer = get_global_id(1);")
        w.guard("outer", "outer_size", outer, down)
        w.decode("outer", range(axis), coords, kernel.shape)

    def whole() -> None:
        names: dict[int, str] = {}
        with w.vectors(lanes, axis):
            w.values(w.live(), coords, names)
            for number, (value, view) in enumerate(kernel.outputs):
                w.store_vector(number, view, coords, value, names)

    def rest() -> None:
        names: dict[int, str] = {}
        coords[axis] = f"i{axis}"
        w.values(w.live(), coords, names)
        for number, (value, view) in enumerate(kernel.outputs):
            w.store(number, view, coords, names[value])

    if w.specialise and size % lanes == 0:
        whole()
    else:
        n = w.number(f"n{axis}", size)
        with w.block(f"if (first + {lanes} <= {n})"):
            whole()
            w.line("return;")
        with w.block(f"for ({w.index} i{axis} = first; i{axis} < {n}; i{axis}++)"):
            rest()
    return w.finish((blocks, outer), (across, down))


def _scatter(kernel: Kernel, shapes: Shapes, specialise: bool) -> Rendered:
    """Each work-item owns some columns of a range of rows and walks over all indices, in their order."""
    s = kernel.scatter
    assert s is not None
    w = Writer(kernel, specialise)
    dtype, index_dtype = kernel.inputs[0], kernel.inputs[1]
    lanes = shapes.scatter_lanes
    columns = -(-s.width // lanes)
    parts = max(1, min(s.rows, shapes.scatter_parts // columns))
    chunk = -(-s.rows // parts)
    width, rows = w.number("width", s.width), w.number("rows", s.rows)
    w.line(
        f"const {w.index} first = get_global_id(0) * {lanes}, start = get_global_id(1) * {w.number('chunk', chunk)};"
    )
    w.line(f"const {w.index} end = min(start + {w.number('chunk', chunk)}, {rows});")
    w.line(f"const int lanes = (int)min(({w.index}){lanes}, {width} - first);")

    def position(lane: str, row: str) -> str:
        return f"{row} * {width} + first + {lane}"

    def put(value: str, at: str) -> str:
        return functions.write("y0", at, value, dtype)

    if not s.replace:
        with w.block(f"for ({w.index} r = start; r < end; r++)"):
            w.line(f"for (int l = 0; l < lanes; l++) {put(functions.literal(0, dtype), position('l', 'r'))}")
    with w.block(f"for ({w.index} i = 0; i < {w.number('count', s.count)}; i++)"):
        w.line(f"const {compute_type(index_dtype)} index = {w.read(1, w.position('index', s.index, ['i']))};")
        checked = w.index_check("index", index_dtype, "rows", s.rows, "scatter")
        w.line(f"if (!{checked}) continue;")
        w.line(f"const {w.index} row = ({w.index})index;")
        w.line("if (row < start || row >= end) continue;")
        with w.block("for (int l = 0; l < lanes; l++)"):
            w.line(f"const {w.index} c = first + l, at = {position('l', 'row')};")
            old = functions.read("y0", "at", dtype)
            new = w.read(0, w.position("values", s.values, ["i", "c"]))
            if s.replace:
                w.line(put(new, "at"))
            else:
                w.line(f"const {compute_type(dtype)} old = {old}, new = {new};")
                w.line(put(w.code(functions.elementwise("add", ["old", "new"], dtype, dtype)), "at"))
    return w.finish((columns, parts), (1, 1))
