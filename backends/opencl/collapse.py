"""Fewer dimensions and fewer numbers for the same kernel, so that more kernels share a source.

`collapse` drops sizes of 1, and merges neighbours where every View agrees.

A contiguous (12, 64, 128) elementwise kernel becomes one of (98304,): fewer sizes to pass, no division to find the
indices, longer vector loops, and one source for many ranks. Reduced axes go last, and merge with each other only.

`rebase` takes out of the Views what all of a buffer's have in common of their offsets: it is added to where the buffer
starts, which is an argument of every source. Layers that keep their parameters in one buffer then share theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

from ..kernel import Instr, Kernel
from ..view import View, walked_as_one


def collapse(kernel: Kernel) -> Kernel:
    """The same loop or row kernel over the fewest dimensions, never none; the reduced ones come last."""
    outer = [a for a in range(len(kernel.shape)) if a not in kernel.reduce_axes]
    order = [*outer, *kernel.reduce_axes]
    groups = walked_as_one(_views(kernel), order, kernel.reduce_axes)
    reduced = sum(group[0] in kernel.reduce_axes for group in groups)
    if kernel.reduce_axes and not reduced:  # a reduction over one element is still one
        groups, reduced = [*groups, []], 1
    groups = groups or [[]]
    return replace(
        with_views(kernel, lambda view: view.merge(groups)),
        shape=tuple(prod(kernel.shape[a] for a in group) for group in groups),
        reduce_axes=tuple(range(len(groups) - reduced, len(groups))),
    )


BASE = 64  # bases are multiples of this many elements, so that what is aligned for vectors remains so


def rebase(kernel: Kernel) -> tuple[Kernel, tuple[int, ...]]:
    """The kernel with smaller offsets, and for each buffer the elements by which its start moves."""
    offsets: dict[tuple[str, int], int] = {}
    for place, view in _placed(kernel):
        offsets[place] = min(view.offset, offsets.get(place, view.offset))
    bases = {place: max(offset, 0) // BASE * BASE for place, offset in offsets.items()}
    if any(bases.values()):

        def moved(slot: int, view: View, side: str = "x") -> View:
            return view._replace(offset=view.offset - bases[side, slot])

        body = []
        for instr in kernel.body:
            if instr.op in ("load", "gather"):
                instr = instr._replace(arg=(instr.arg[0], moved(*instr.arg[:2]), *instr.arg[2:]))
            elif instr.op == "dot":
                left, left_view, right, right_view = instr.arg
                instr = instr._replace(arg=(left, moved(left, left_view), right, moved(right, right_view)))
            body.append(instr)
        outputs = tuple(out._replace(view=moved(n, out.view, "y")) for n, out in enumerate(kernel.outputs))
        kernel = replace(kernel, body=tuple(body), outputs=outputs)
    slots = [("x", n) for n in range(len(kernel.inputs))] + [("y", n) for n in range(len(kernel.outputs))]
    return kernel, tuple(bases.get(slot, 0) for slot in slots)


def _placed(kernel: Kernel) -> Iterator[tuple[tuple[str, int], View]]:
    """Every View of a buffer, with the buffer; none of a kernel that keeps its Views elsewhere than in its body."""
    if kernel.kind in ("scatter", "sort", "attention"):
        return
    for instr in kernel.body:
        if instr.op in ("load", "gather"):
            yield ("x", instr.arg[0]), instr.arg[1]
        elif instr.op == "dot":
            yield ("x", instr.arg[0]), instr.arg[1]
            yield ("x", instr.arg[2]), instr.arg[3]
    for number, out in enumerate(kernel.outputs):
        yield ("y", number), out.view


def with_views(kernel: Kernel, change: Callable[[View], View]) -> Kernel:
    """The kernel with every View over its iteration space changed (not those of a dot's operands)."""

    def changed(instr: Instr) -> Instr:
        if instr.op == "load":
            return instr._replace(arg=(instr.arg[0], change(instr.arg[1])))
        if instr.op == "gather":
            slot, view, *rest = instr.arg
            return instr._replace(arg=(slot, change(view), *rest))
        return instr._replace(arg=change(instr.arg)) if instr.op in ("iota", "random", "valid") else instr

    outputs = tuple(out._replace(view=change(out.view)) for out in kernel.outputs)
    return replace(kernel, body=tuple(map(changed, kernel.body)), outputs=outputs)


def _views(kernel: Kernel):
    for instr in kernel.body:
        if instr.op in ("load", "gather"):
            yield instr.arg[1]
        elif instr.op in ("iota", "random", "valid"):
            yield instr.arg
    for out in kernel.outputs:
        yield out.view
