"""Sorts: each row by one launch that sorts short runs, and launches that merge two runs into one until one is left.

Where two runs are merged, a work-item writes a share of the result. Where its share begins in either of the runs is
found by bisection along the diagonal that all candidates lie on (Green, McColl and Bader, "GPU merge path", ICS 2012);
from there it merges as anybody would. So all work-items have the same to do, however the keys lie, and none waits for
another. Of equal keys those of the left run go first, so the order is stable, and the same on every device.

    keys   5 2 9 4 | 7 1 8 3          runs of 4, sorted:  1 3 0 2 | 5 7 4 6   (positions)
    merged 1 2 3 4 5 7 8 9            runs of 8:          5 1 7 3 0 4 6 2
"""

from __future__ import annotations

from ..kernel import Kernel, Sort
from .functions import compute_type
from .shapes import Shapes
from .writer import Rendered, Writer

SHORT = 16  # elements of the runs that a work-item sorts by itself


def runs(length: int) -> list[int]:
    """The runs that one launch after another leaves."""
    result = [SHORT]
    while result[-1] < length:
        result.append(2 * result[-1])
    return result


def render_sort(kernel: Kernel, shapes: Shapes, specialise: bool) -> Rendered:
    sort = kernel.sort
    assert sort is not None and (sort.order is not None or sort.run <= SHORT)
    w = Writer(kernel, specialise)
    share = SHORT // sort.run * sort.run if sort.order is None else min(sort.run, shapes.sort_share)
    shares = -(-sort.length // share)
    group = shapes.sort_group
    w.line(f"const {w.index} item = get_global_id(0);")
    w.guard("item", "items", sort.rows * shares, group)
    constants = {"n": sort.length, "run": sort.run, "share": share, "shares": shares}
    named = ", ".join(f"{name} = {w.number(f'{name}_size', value)}" for name, value in constants.items())
    w.line(f"const {w.index} {named};")
    w.line(f"const {w.index} row = item / shares, start = item % shares * share, end = min(start + share, n);")
    w.line(f"y0 += row * n; x0 += {w.position('keys', sort.keys, ['row'])};")
    if sort.order is None:
        _short_run(w, sort)
    else:
        _merge(w, sort)
    return w.finish((sort.rows * shares,), (group,))


def _key(w: Writer, sort: Sort, place: str) -> str:
    stride = sort.keys.strides[1]
    return f"x0[{place if stride == 1 else f'({place}) * ' + w.number('keys_1', stride)}]"


def _short_run(w: Writer, sort: Sort) -> None:
    """Insertion, one element after another."""
    key = compute_type(w.kernel.inputs[0])
    w.line(f"{key} keys[{SHORT}];")
    w.line(f"int places[{SHORT}];")
    with w.block(f"for ({w.index} low = start; low < end; low += run)"):
        w.line("const int count = (int)min(end - low, run);")
        with w.block("for (int i = 0; i < count; i++)"):
            w.line(f"const {key} mine = {_key(w, sort, 'low + i')};")
            w.line("int j = i;")
            w.line("for (; j > 0 && keys[j - 1] > mine; j--) { keys[j] = keys[j - 1]; places[j] = places[j - 1]; }")
            w.line("keys[j] = mine; places[j] = (int)(low + i);")
        w.line("for (int i = 0; i < count; i++) y0[low + i] = places[i];")


def _merge(w: Writer, sort: Sort) -> None:
    """The share from `start` to `end` of the merged runs that it lies in."""
    assert sort.order is not None
    index, key = w.index, compute_type(w.kernel.inputs[0])
    stride = sort.order.strides[1]

    def place(which: str) -> str:
        return f"x1[{which if stride == 1 else f'({which}) * ' + w.number('order_1', stride)}]"

    w.line(f"x1 += {w.position('order', sort.order, ['row'])};")
    w.line(f"const {index} low = start / run * run;")
    w.line(f"const {index} middle = min(low + run / 2, n), high = min(low + run, n);")
    w.line(f"const {index} done = start - low;")  # elements before this share; `least` of them from the left run
    w.line(f"{index} least = max(({index})0, done - (high - middle)), most = min(done, middle - low);")
    with w.block("while (least < most)"):
        w.line(f"const {index} probe = (least + most) / 2;")
        right_key = _key(w, sort, place("middle + done - 1 - probe"))
        w.line(f"if ({_key(w, sort, place('low + probe'))} <= {right_key}) least = probe + 1; else most = probe;")
    w.line(f"{index} left = low + least, right = middle + done - least;")
    w.line(f"{key} left_key = 0, right_key = 0;")
    w.line("int left_place = 0, right_place = 0;")
    read_left, read_right = (
        f"if ({side} < {stop}) {{ {side}_place = {place(side)}; {side}_key = {_key(w, sort, f'{side}_place')}; }}"
        for side, stop in (("left", "middle"), ("right", "high"))
    )
    w.line(read_left)
    w.line(read_right)
    with w.block(f"for ({index} i = start; i < end; i++)"):
        with w.block("if (right >= high || (left < middle && left_key <= right_key))"):
            w.line("y0[i] = left_place; left++;")
            w.line(read_left)
        with w.block("else"):
            w.line("y0[i] = right_place; right++;")
            w.line(read_right)
