"""Groups of instructions that one call of NumPy does better than one call each.

    sum_product  src (a, b)              reduce_sum(mul(a, b)) along the last axis: rows of a times rows of b, by BLAS
    join         arg ((slot, View), ...) a sum of padded loads, of which one at most is not 0 at any point: what
                                         concatenation is made of. Each is written where it belongs

`grouped` gives the body of a Kernel with these in place of the instruction that ends the group; the others are None.
"""

from __future__ import annotations

from itertools import combinations
from typing import Optional

from ..kernel import Instr, Kernel
from ..view import View

Shape = tuple[int, ...]
Region = tuple[tuple[int, int], ...]


def grouped(kernel: Kernel, shapes: list[Shape], partial: bool) -> list[Optional[Instr]]:
    """`shapes` are those in which the values vary; `partial` says that reductions go on from block to block."""
    body: list[Optional[Instr]] = list(kernel.body)
    uses = [0] * len(body)
    for s in [s for instr in kernel.body for s in instr.src] + [output.value for output in kernel.outputs]:
        uses[s] += 1
    for index, instr in enumerate(kernel.body):
        alone = uses[instr.src[0]] == 1 if instr.src else False
        if instr.op == "reduce_sum" and alone and not partial and _sums_products(kernel, instr, shapes):
            body[index] = instr._replace(op="sum_product", src=kernel.body[instr.src[0]].src)
            body[instr.src[0]] = None
        elif instr.op == "add":
            parts = _parts(kernel, index, shapes, uses)
            if len(parts) > 1:
                loads = tuple(kernel.body[p].arg for p in parts if kernel.body[p].op == "load")
                for p in parts:
                    body[p] = None
                body[index] = instr._replace(op="join", src=(), arg=loads)
    return body


def _sums_products(kernel: Kernel, instr: Instr, shapes: list[Shape]) -> bool:
    product, rank = kernel.body[instr.src[0]], len(kernel.shape)
    return (
        product.op == "mul"
        and instr.dtype.kind == "f"
        and instr.dtype.itemsize >= 4
        and kernel.reduce_axes == (rank - 1,)
        and all(shapes[s][-1] == kernel.shape[-1] > 1 for s in product.src)
    )


def region(view: View, shape: Shape) -> Region:
    """The mask of a padded load, as held in `shape`: axes along which it is the same have length 1."""
    assert view.mask is not None
    return tuple((0, 1) if n == 1 and m == (0, whole) else m for n, whole, m in zip(shape, view.shape, view.mask))


def _parts(kernel: Kernel, index: int, shapes: list[Shape], uses: list[int]) -> list[int]:
    """All instructions below a sum of padded loads that nobody else reads, or none if it is not such a sum."""
    found: list[int] = []
    regions: list[Region] = []
    todo = list(kernel.body[index].src)
    while todo:
        i = todo.pop()
        instr = kernel.body[i]
        found.append(i)
        if uses[i] != 1 or shapes[i] != shapes[index]:
            return []
        if instr.op == "add":
            todo += instr.src
        elif instr.op == "load" and instr.arg[1].mask is not None:
            regions.append(region(instr.arg[1], shapes[i]))
            if regions[-1][0] != (0, shapes[i][0]):  # blocks are cut along the first axis
                return []
        else:
            return []
    apart = all(
        any(a[1] <= b[0] or b[1] <= a[0] for a, b in zip(one, other)) for one, other in combinations(regions, 2)
    )
    return found if apart else []
