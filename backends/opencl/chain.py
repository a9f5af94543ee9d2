"""Chains: kernels so short that starting them is most of their cost, run one after another by one launch.

On a CPU a launch wakes the threads of the runtime, which takes some 10 us; a product of one row with a matrix takes
less. So kernels that follow one another and are all short become functions that one work-item calls in turn. What one
writes the next reads: within a work-item that needs no barrier. On a GPU nothing is chained; there a single work-item
would be slow, and launches follow one another closely.

    dot_1x128, row_sum_sqrt_128     ->     one kernel with the arguments of both:
                                           for (...) dot_1x128(g0, g1, ...);  for (...) row_sum_sqrt_128(g0, ...);
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod

from ..dtypes import DType
from ..kernel import Kernel
from ..view import View
from .writer import NAME, Rendered

# One thread does what two could share, so nothing larger than this is worth it.
MOST_BYTES = 300_000  # read and written by one kernel
MOST_POINTS = 1 << 14  # of a loop or of rows
MOST_PRODUCTS = 1 << 17  # multiplications of a dot; more where few processors would share them
MOST_SHARED = 700_000  # multiplications over processors that are still worth no launch
MOST_DOT_BYTES = 450_000  # as MOST_BYTES: the attention of a single token is two dots that belong to a chain
LONGEST = 48  # kernels in a chain: more make compilers slow
MOST_ARGUMENTS = 1024  # bytes: what the smallest device takes

_HEAD = re.compile(
    rf"__kernel (WIDE_VECTORS )?__attribute__\(\(reqd_work_group_size\([^)]*\)\)\)\nvoid {NAME}\(([^)]*)\) \{{\n"
)
_OF_GROUPS = re.compile(
    r"\b(get_local_id|get_group_id|get_local_size|get_num_groups|get_global_size|barrier|__local)\b"
)


def is_short(kernel: Kernel, processors: int) -> bool:
    """Whether a kernel takes less time than its launch, and than waiting for all processors at its end."""
    if kernel.kind == "attention" or (kernel.is_copy and kernel.in_place):  # the latter may turn out to be nothing
        return False
    if kernel.scatter is not None:
        s = kernel.scatter
        return s.replace and s.count * s.values.size <= MOST_POINTS  # work-items each walk over all indices
    if kernel.sort is not None:
        return prod(kernel.shape) * kernel.sort.run.bit_length() <= MOST_POINTS
    nbytes = sum(dtype.itemsize * _extent(view) for dtype, view in _views(kernel))
    if kernel.kind == "dot":
        (arg,) = (instr.arg for instr in kernel.body if instr.op == "dot")
        most = max(MOST_PRODUCTS, MOST_SHARED // processors)
        return prod(kernel.shape) * arg[1].shape[-1] <= most and nbytes <= MOST_DOT_BYTES
    return prod(kernel.shape) <= MOST_POINTS and nbytes <= MOST_BYTES


def _views(kernel: Kernel) -> Iterator[tuple[DType, View]]:
    yield from zip(kernel.output_dtypes, (output.view for output in kernel.outputs), strict=True)
    for instr in kernel.body:
        if instr.op in ("dot", "load", "gather"):
            slots = instr.arg[:4] if instr.op == "dot" else instr.arg[:2]
            yield from zip((kernel.inputs[slot] for slot in slots[::2]), slots[1::2], strict=True)


def _extent(view: View) -> int:
    """How many elements a View goes through."""
    return prod(n for n, stride in zip(view.shape, view.strides, strict=True) if stride)


def is_alone(rendered: Rendered) -> bool:
    """Whether the work-items of a kernel know nothing of their group, so that one may do the work of all."""
    return _HEAD.match(rendered.source) is not None and not _OF_GROUPS.search(rendered.source)


def chain_lengths(kernels: Sequence[Kernel], short: Sequence[bool]) -> list[int]:
    """How many kernels each launch is to do, in order: their sum is the number of kernels."""
    lengths: list[int] = []
    open_, arguments = False, 0  # whether the last launch may take another kernel, and the bytes of its arguments
    for kernel, alone in zip(kernels, short, strict=True):
        need = 16 * (len(kernel.inputs) + len(kernel.outputs))
        if alone and open_ and arguments + need <= MOST_ARGUMENTS - 64 and lengths[-1] < LONGEST:
            lengths[-1] += 1
            arguments += need
        else:
            lengths.append(1)
            arguments = need
        open_ = alone
    return lengths


def chained(parts: Sequence[Rendered]) -> Rendered:
    """One kernel that does what `parts` do, whose work-items know nothing of their groups."""
    functions: dict[str, str] = {}  # source -> name: parts that differ in their buffers only share a function
    texts: list[str] = []
    pointers: list[str] = []
    values: list[str] = []
    calls: list[str] = []
    wide = reports = False
    for number, part in enumerate(parts):
        head = _HEAD.match(part.source)
        assert head is not None
        parameters = head[2].split(", ")
        wide = wide or bool(head[1])
        if part.source not in functions:
            name = functions[part.source] = f"{NAME}_{len(functions)}"
            body = re.sub(r"get_global_id\((\d)\)", r"g\1", part.source[head.end() :])
            texts.append(f"static void {name}({head[2]}, size_t g0, size_t g1, size_t g2) {{\n{body}")
        given = []
        for parameter in parameters:
            kind, name = re.fullmatch(r"(.*?)(\w+)", parameter).groups()  # type: ignore[union-attr]
            if name in ("report", "report_code"):
                reports = True
                given.append(name)
                continue
            given.append(f"{name}_{number}")
            buffers = re.fullmatch(r"[xy]\d+(_start)?", name)
            (pointers if buffers else values).append(f"{kind}{name}_{number}")
        grid = [*part.global_size, 1, 1][:3]
        loops = " ".join(f"for (size_t g{a} = 0; g{a} < {grid[a]}; g{a}++)" for a in (2, 1, 0) if grid[a] != 1)
        zeros = "".join(f"const size_t g{a} = 0; " for a in range(3) if grid[a] == 1)
        calls.append(f"    {{ {zeros}{loops} {functions[part.source]}({', '.join(given)}, g0, g1, g2); }}")
    signature = ", ".join([*pointers, *values, *(["__global int *report", "int report_code"] if reports else [])])
    texts += [
        f"__kernel {'WIDE_VECTORS ' if wide else ''}__attribute__((reqd_work_group_size(1, 1, 1)))",
        f"void {NAME}({signature}) {{",
        *calls,
        "}\n",
    ]
    said = dict.fromkeys(part.reports[0] for part in parts if part.reports)
    return Rendered(
        "\n".join(texts),
        frozenset().union(*(part.helpers for part in parts)),
        [value for part in parts for value in part.arguments],
        (1,),
        (1,),
        [" or ".join(said)] if said else [],
        tuple(base for part in parts for base in part.bases),
    )
