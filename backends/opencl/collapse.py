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
from ..view import View


def collapse(kernel: Kernel) -> Kernel:
    """The same loop or row kernel over the fewest dimensions, never none; the reduced ones come last."""
    outer = [a for a in range(len(kernel.shape)) if a not in kernel.reduce_axes]
    order = [*outer, *kernel.reduce_axes]
    views = list(_views(kernel))
    groups: list[tuple[int, int]] = []  # first and last position in `order`, both inclusive
    for position, axis in enumerate(order):
        if kernel.shape[axis] == 1:
            continue
        same_side = groups and (groups[-1][0] >= len(outer)) == (position >= len(outer))
        if same_side and all(_mergeable(v, order[groups[-1][1]], axis) for v in views):
            groups[-1] = (groups[-1][0], position)
        else:
            groups.append((position, position))
    axes = [[a for a in order[first : last + 1] if kernel.shape[a] != 1] for first, last in groups]
    reduced = [first >= len(outer) for first, _ in groups]
    if kernel.reduce_axes and not any(reduced):  # a reduction over one element is still one
        axes.append([])
        reduced.append(True)
    if not axes:
        axes.append([])
        reduced.append(False)
    shape = tuple(prod(kernel.shape[a] for a in group) for group in axes)

    def merged(view: View) -> View:
        if any(lo >= hi for lo, hi in view.mask or ()):
            return View(shape, (0,) * len(shape), 0, ((0, 0),) * len(shape))
        offset = view.offset  # a dropped dimension is at index 0, so it adds nothing
        strides = tuple(view.strides[group[-1]] if group else 0 for group in axes)
        mask = None
        if view.mask is not None:
            mask = tuple(_merged_mask(view, group) for group in axes)
            if all(m == (0, n) for m, n in zip(mask, shape)):
                mask = None
        return View(shape, strides, offset, mask)

    return replace(
        with_views(kernel, merged),
        shape=shape,
        reduce_axes=tuple(i for i, is_reduced in enumerate(reduced) if is_reduced),
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


def _mergeable(view: View, outer: int, inner: int) -> bool:
    if view.strides[outer] != view.strides[inner] * view.shape[inner]:
        return False
    return view.mask is None or view.mask[inner] == (0, view.shape[inner])


def _merged_mask(view: View, group: list[int]) -> tuple[int, int]:
    assert view.mask is not None
    if not group:
        return (0, 1)
    lo, hi = view.mask[group[0]]
    scale = prod(view.shape[a] for a in group[1:])
    return lo * scale, hi * scale
