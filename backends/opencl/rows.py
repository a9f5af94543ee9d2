"""Row kernels: reductions with everything elementwise around them.

A row has three shapes:

    item     one work-item an output point, walking along the reduced axes in `row_lanes` independent accumulators
    column   where another axis is the contiguous one (column sums): a work-item holds `column_lanes` columns, or one
             or several vectors of them, and walks down
    team     a work-group an output point, with a tree in local memory (GPUs)

Each makes one pass over the row for every stage of its reductions (`Kernel.stage`). Values that do not vary along the
row are computed once between the passes, the others again in each pass that needs them, but for dear ones in vectors.
Items and columns are written in vectors (`vectors.py`) on CPUs where that can be done, and add up in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import prod

from ..dtypes import is_half
from ..kernel import REDUCTIONS
from . import functions
from .functions import compute_type
from .shapes import Shapes
from .vectors import VectorWriter, vector_type
from .writer import Rendered

DEAR = frozenset(("exp", "expm1", "log", "log1p", "tanh", "erf"))  # float32, where they are in vectors


class Row:
    """Renders one row kernel. Whatever differs between its three shapes is a method of its name."""

    def __init__(self, w: VectorWriter, shapes: Shapes):
        self.w, self.shapes, self.kernel = w, shapes, w.kernel
        self.vectors = False
        self.kept: list[int] = []  # values that lie in private arrays, for later passes
        self.live = w.live()
        self.inner, self.stage = self.kernel.inner, self.kernel.stage
        self.passes = max((self.stage[i] for i in self.live), default=0)
        self.outer = [a for a in range(len(self.kernel.shape)) if a not in self.kernel.reduce_axes]
        self.coords = ["0"] * len(self.kernel.shape)
        self.names: dict[int, str] = {}

    def render(self) -> Rendered:
        column = self._contiguous_outer_axis()
        axis = self.kernel.reduce_axes[-1] if column is None else column
        enough = self.kernel.shape[axis] >= self.shapes.row_lanes or not self.w.specialise
        self.vectors = self.shapes.vectors and enough and self.w.fits(self.live, self.shapes.row_lanes, axis)
        if column is not None:
            return self._column(column)
        return self._team() if self.shapes.row_team else self._item()

    def _contiguous_outer_axis(self) -> int | None:
        """The outer axis along which more of the row's loads are contiguous than along the reduced ones, if any.

        A load that is the same for every row, or all along each, is short and does not count.
        """
        votes = [0] * len(self.kernel.shape)
        for i in self.live:
            instr = self.kernel.body[i]
            if instr.op in ("load", "gather") and self.inner[i]:
                strides = instr.arg[1].strides
                if any(strides[a] for a in self.outer) and any(strides[a] for a in self.kernel.reduce_axes):
                    for axis, stride in enumerate(strides):
                        votes[axis] += abs(stride) == 1
        best = max(self.outer, key=lambda a: votes[a], default=None)
        if best is None or votes[best] <= max(votes[a] for a in self.kernel.reduce_axes):
            return None
        return best

    # -- what the shapes share ------------------------------------------------------------------------------------

    def _reductions(self, stage: int) -> list[int]:
        return [i for i in self.live if self.kernel.body[i].op in REDUCTIONS and self.stage[i] == stage]

    def _between(self, stage: int) -> list[int]:
        """Values that are the same all along the row and known once pass number `stage` has ended."""
        return [
            i
            for i in self.live
            if not self.inner[i] and self.stage[i] == stage and self.kernel.body[i].op not in REDUCTIONS
        ]

    def _needed(self, roots: list[int]) -> list[int]:
        """The values along the row on which `roots` depend."""
        found: set[int] = set()
        pending = [i for i in roots if self.inner[i]]
        while pending:
            i = pending.pop()
            if i not in found:
                found.add(i)
                if i not in self.kept:
                    pending += [s for s in self.kernel.body[i].src if self.inner[s]]
        return sorted(found)

    def _roots(self, stage: int) -> list[int]:
        """What pass number `stage` needs: sources of its reductions, or, after the last, outputs along the row."""
        if stage <= self.passes:
            return [self.kernel.body[i].src[0] for i in self._reductions(stage)]
        return [self.kernel.outputs[n].value for n in self._row_outputs(along=True)]

    def _to_keep(self, stage: int) -> list[int]:
        """Values that this pass computes and a later one needs, and that are dear enough to be kept in between."""
        axis = self.kernel.reduce_axes[-1]
        fits = len(self.kernel.reduce_axes) == 1 and self.kernel.shape[axis] <= self.shapes.row_kept
        if not (self.vectors and self.w.specialise and fits):
            return []
        later = {i for s in range(stage + 1, self.passes + 2) for i in self._needed(self._roots(s))}
        return [
            i
            for i in self._needed(self._roots(stage))
            if i in later and i not in self.kept and self.kernel.body[i].op in DEAR and self.w.varying[i]
        ]

    def _at_point(self, roots: list[int], keep: Sequence[int] = ()) -> dict[int, str]:
        """Declare the values along the row that `roots` depend on, at one point or a vector of them: their names."""
        w, names = self.w, dict(self.names)
        at = self.coords[self.kernel.reduce_axes[-1]]

        def place(i: int) -> tuple[str, str]:
            if not w.lanes:
                return "float", f"s{i}[{at}]"
            return f"float{w.lanes}", f"*(float{w.lanes} *)(s{i} + {at})"

        wanted = self._needed(roots)
        for i in wanted:
            if i in self.kept:
                ctype, element = place(i)
                w.line(f"const {ctype} v{i} = {element};")
                names[i] = f"v{i}"
        w.values(wanted, self.coords, names)
        for i in keep:
            w.line(f"{place(i)[1]} = {names[i]};")
        return names

    def _row_outputs(self, along: bool) -> list[int]:
        """The outputs written all along the row, or those written once a row."""
        return [
            number
            for number, (_, view) in enumerate(self.kernel.outputs)
            if along == any(view.strides[a] for a in self.kernel.reduce_axes)
        ]

    def _accumulator(self, i: int):
        """Its type and its starting value; a sum of halves is kept as float."""
        instr = self.kernel.body[i]
        return compute_type(instr.dtype), functions.reduction_start(instr.op, instr.dtype)

    def _combine(self, i: int, a: str, b: str) -> str:
        instr = self.kernel.body[i]
        return self.w.code(functions.combine(instr.op, a, b, instr.dtype))

    def _rounded(self, i: int, text: str) -> str:
        dtype = self.kernel.body[i].dtype
        return self.w.code(functions.rounded(functions.Text(text), dtype))

    def _accumulate(self, reductions: list[int], accumulator: str, keep: Sequence[int] = ()) -> None:
        """At one point of the row, or a vector of them: what the reductions need, added to their accumulators."""
        w = self.w
        names = self._at_point([self.kernel.body[i].src[0] for i in reductions], keep)
        for i in reductions:
            op, (source,), _, dtype = self.kernel.body[i]
            element = accumulator.format(i)
            if self._in_vector(i):
                w.line(f"{element} = {w.combine(op, element, w.vector(source, names), dtype, w.lanes)};")
            else:
                w.line(f"{element} = {self._combine(i, element, names[source])};")

    def _in_vector(self, i: int) -> bool:
        """Whether the accumulator of reduction i is a vector here: of parts of one row, or of columns."""
        return bool(self.w.lanes) and (self.w.axis in self.kernel.reduce_axes or self.w.varying[i])

    def _start(self, i: int) -> None:
        """Declare the accumulator of reduction i."""
        ctype, start = self._accumulator(i)
        if self._in_vector(i):
            ctype = vector_type(self.kernel.body[i].dtype, self.w.lanes)
            start = f"({ctype})({start})"
        self.w.line(f"{ctype} a{i} = {start};")

    def _write(self, outputs: list[int]) -> None:
        """At one point, or a vector of them: the values of `outputs`, stored."""
        names = self._at_point([self.kernel.outputs[n].value for n in outputs])
        for n in outputs:
            value, view = self.kernel.outputs[n]
            if self.w.lanes:
                self.w.store_vector(n, view, self.coords, value, names)
            else:
                self.w.store(n, view, self.coords, names[value])

    def _slow_loops(self, body: Callable[[], None], axes) -> None:
        """Plain loops over `axes`, the last one innermost, around `body`."""
        if not axes:
            body()
            return
        axis = axes[0]
        self.coords[axis] = f"i{axis}"
        size = self.w.number(f"n{axis}", self.kernel.shape[axis])
        with self.w.block(f"for ({self.w.index} i{axis} = 0; i{axis} < {size}; i{axis}++)"):
            self._slow_loops(body, axes[1:])

    # -- one work-item a row --------------------------------------------------------------------------------------

    def _item(self) -> Rendered:
        w, lanes = self.w, self.shapes.row_lanes
        rows = prod(self.kernel.shape[a] for a in self.outer)
        group = self.shapes.row_group if rows >= self.shapes.many_rows else 1
        w.line(f"const {w.index} row = get_global_id(0);")
        w.guard("row", "rows", rows, group)
        w.decode("row", self.outer, self.coords, self.kernel.shape)
        w.values(self._between(0), self.coords, self.names)
        for stage in range(1, self.passes + 1):
            reductions = self._reductions(stage)
            keep = self._to_keep(stage)
            for i in keep:
                size = self.kernel.shape[self.kernel.reduce_axes[-1]]
                w.line(f"float s{i}[{size}] __attribute__((aligned(64)));")
            self._sum_vectors(reductions, lanes, keep) if self.vectors else self._sum_lanes(reductions, lanes)
            self.kept += keep
            w.values(self._between(stage), self.coords, self.names)
        for n in self._row_outputs(along=False):
            value, view = self.kernel.outputs[n]
            w.store(n, view, self.coords, self.names[value])
        along = self._row_outputs(along=True)
        if along:
            self._lane_loops(lanes, lambda: self._write(along), lambda: self._write(along))
        return w.finish((rows,), (group,))

    def _sum_lanes(self, reductions: list[int], lanes: int) -> None:
        """Reductions in an array of accumulators, which a compiler may or may not make a vector."""
        w = self.w
        for i in reductions:
            ctype, start = self._accumulator(i)
            w.line(f"{ctype} a{i}[{lanes}];")
            w.line(f"for (int l = 0; l < {lanes}; l++) a{i}[l] = {start};")
        accumulate = partial(self._accumulate, reductions, "a{}[l]")
        self._lane_loops(lanes, accumulate, accumulate)
        for i in reductions:
            step = self._combine(i, f"a{i}[l]", f"a{i}[l + w]")
            w.line(f"for (int w = {lanes // 2}; w > 0; w /= 2) for (int l = 0; l < w; l++) a{i}[l] = {step};")
            w.line(f"const {self._accumulator(i)[0]} v{i} = {self._rounded(i, f'a{i}[0]')};")
            self.names[i] = f"v{i}"

    def _sum_vectors(self, reductions: list[int], lanes: int, keep: list[int]) -> None:
        """Reductions in a vector of accumulators: the same sums in the same order."""
        w, axis = self.w, self.kernel.reduce_axes[-1]
        with w.vectors(lanes, axis):
            for i in reductions:
                self._start(i)

        @contextmanager
        def rest() -> Iterator[None]:
            """What is left over goes to single lanes, which lie in memory for that long."""
            for i in reductions:
                ctype = self._accumulator(i)[0]
                w.line(f"{ctype} r{i}[{lanes}] __attribute__((aligned(64)));")
                w.line(f"*({ctype}{lanes} *)r{i} = a{i};")
            yield
            for i in reductions:
                w.line(f"a{i} = *({self._accumulator(i)[0]}{lanes} *)r{i};")

        self._lane_loops(
            lanes,
            partial(self._accumulate, reductions, "a{}", keep),
            partial(self._accumulate, reductions, "r{}[l]", keep),
            rest,
        )
        for i in reductions:
            op, _, _, dtype = self.kernel.body[i]
            w.line(f"const {self._accumulator(i)[0]} v{i} = {w.across(op, f'a{i}', dtype, lanes)};")
            self.names[i] = f"v{i}"

    def _lane_loops(
        self,
        lanes: int,
        body: Callable[[], None],
        single: Callable[[], None],
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Loops over the reduced axes, the innermost in blocks of `lanes` and what is left over, one by one.

        `body` is written for a block as a vector, or lane by lane; `single` for what is left over, inside `around`.
        """
        w, axis = self.w, self.kernel.reduce_axes[-1]
        size = self.kernel.shape[axis]
        whole, odd = not w.specialise or size >= lanes, not w.specialise or size % lanes != 0

        def innermost() -> None:
            n = w.number(f"n{axis}", size)
            self.coords[axis] = f"i{axis}"
            w.line(f"{w.index} k = 0;")
            if whole:
                with w.block(f"for (; k + {lanes} <= {n}; k += {lanes})"):
                    if self.vectors:
                        self.coords[axis] = "k"
                        with w.vectors(lanes, axis):
                            body()
                        self.coords[axis] = f"i{axis}"
                    else:
                        with w.block(f"for (int l = 0; l < {lanes}; l++)"):
                            w.line(f"const {w.index} i{axis} = k + l;")
                            body()
            if odd:
                with around():
                    with w.block(f"for (int l = 0; l < {n} - k; l++)"):
                        w.line(f"const {w.index} i{axis} = k + l;")
                        single()

        with w.block(""):
            self._slow_loops(innermost, self.kernel.reduce_axes[:-1])

    # -- one work-item a block of columns -------------------------------------------------------------------------

    def _column(self, axis: int) -> Rendered:
        w, lanes = self.w, self.shapes.row_lanes if self.vectors else self.shapes.column_lanes
        size = self.kernel.shape[axis]
        others = [a for a in self.outer if a != axis]
        group = self.shapes.row_group if self.shapes.row_team else 1
        others_size = prod(self.kernel.shape[a] for a in others)
        parts = self._parts(size // lanes, others_size) if self.vectors and size % lanes == 0 else 1
        blocks = -(-size // (lanes * parts))
        w.line(f"const {w.index} block = get_global_id(0);")
        w.guard("block", "blocks", blocks * others_size, group)
        across = w.number("across", blocks)
        w.line(f"const {w.index} first = block % {across} * {lanes * parts};")
        w.decode(f"block / {across}", others, self.coords, self.kernel.shape)
        if parts > 1:
            self._column_blocks(axis, lanes, parts)
            return w.finish((blocks * others_size,), (group,))
        n = w.number(f"n{axis}", size)
        base = dict(self.names)
        if not w.specialise or size >= lanes:
            with w.block(f"if (first + {lanes} <= {n})"):
                self._column_vectors(axis, lanes) if self.vectors else self._column_body(axis, lanes, str(lanes))
        if not w.specialise or size % lanes:
            self.names = base
            with w.block(f"if (first + {lanes} > {n})"):
                self._column_body(axis, lanes, f"{n} - first")
        return w.finish((blocks * others_size,), (group,))

    def _parts(self, vectors: int, others: int) -> int:
        """How many vectors of columns a work-item holds: it reads as much of each row, so that prefetching helps."""
        reductions = self._reductions(1)
        simple = self.passes == 1 and not self._row_outputs(along=True) and all(self.w.varying[i] for i in reductions)
        parts = 1
        while simple and self.w.specialise and 2 * parts <= self.shapes.column_parts and vectors % (2 * parts) == 0:
            if vectors // (2 * parts) * others < self.shapes.column_items:
                break
            parts *= 2
        return parts

    def _column_blocks(self, axis: int, lanes: int, parts: int) -> None:
        """Several vectors of columns, with their sums in private memory."""
        w, reductions = self.w, self._reductions(1)
        for i in reductions:
            ctype = vector_type(self.kernel.body[i].dtype, lanes)
            w.line(f"{ctype} a{i}[{parts}];")
            w.line(f"for (int j = 0; j < {parts}; j++) a{i}[j] = ({ctype})({self._accumulator(i)[1]});")

        def each_part(body: Callable[[], None]) -> None:
            with w.block(f"for (int j = 0; j < {parts}; j++)"), w.vectors(lanes, axis):
                w.line(f"const {w.index} column = first + j * {lanes};")
                self.coords[axis], self.names = "column", {}
                w.values(self._between(0), self.coords, self.names)
                body()

        def write() -> None:
            self.names |= {i: f"a{i}[j]" for i in reductions}
            w.values(self._between(1), self.coords, self.names)
            self._write(self._row_outputs(along=False))

        accumulate = partial(self._accumulate, reductions, "a{}[j]")
        self._slow_loops(partial(each_part, accumulate), self.kernel.reduce_axes)
        each_part(write)

    def _column_vectors(self, axis: int, lanes: int) -> None:
        """A block of columns as one vector."""
        w = self.w
        self.coords[axis] = "first"
        with w.vectors(lanes, axis):
            w.values(self._between(0), self.coords, self.names)
            for stage in range(1, self.passes + 1):
                reductions = self._reductions(stage)
                for i in reductions:
                    self._start(i)
                self._slow_loops(partial(self._accumulate, reductions, "a{}"), self.kernel.reduce_axes)
                self.names |= {i: f"a{i}" for i in reductions}
                w.values(self._between(stage), self.coords, self.names)
            once, along = self._row_outputs(along=False), self._row_outputs(along=True)
            if once:
                self._write(once)
            if along:
                self._slow_loops(lambda: self._write(along), self.kernel.reduce_axes)

    def _column_body(self, axis: int, lanes: int, bound: str) -> None:
        w = self.w
        self.coords[axis] = f"i{axis}"

        def each_lane(body: Callable[[], None]) -> None:
            with w.block(f"for (int l = 0; l < {bound}; l++)"):
                w.line(f"const {w.index} i{axis} = first + l;")
                body()

        def between(stage: int) -> None:
            values = self._between(stage)
            kept = [i for i in values if self.kernel.body[i].op != "const"]
            for i in kept:
                w.line(f"{compute_type(self.kernel.body[i].dtype)} c{i}_[{lanes}];")

            def body() -> None:
                names = dict(self.names)
                w.values(values, self.coords, names)
                for i in kept:
                    w.line(f"c{i}_[l] = {names[i]};")
                self.names |= {i: f"c{i}_[l]" for i in kept} | {i: names[i] for i in values if i not in kept}

            if kept:
                each_lane(body)
            else:
                w.values(values, self.coords, self.names)

        between(0)
        for stage in range(1, self.passes + 1):
            reductions = self._reductions(stage)
            for i in reductions:
                ctype, start = self._accumulator(i)
                w.line(f"{ctype} a{i}[{lanes}];")
                w.line(f"for (int l = 0; l < {lanes}; l++) a{i}[l] = {start};")

            accumulate = partial(self._accumulate, reductions, "a{}[l]")
            self._slow_loops(partial(each_lane, accumulate), self.kernel.reduce_axes)
            for i in reductions:
                if is_half(self.kernel.body[i].dtype):
                    w.line(f"for (int l = 0; l < {lanes}; l++) a{i}[l] = {self._rounded(i, f'a{i}[l]')};")
                self.names[i] = f"a{i}[l]"
            between(stage)
        once, along = self._row_outputs(along=False), self._row_outputs(along=True)
        if once:
            each_lane(lambda: self._write(once))
        if along:
            self._slow_loops(lambda: each_lane(lambda: self._write(along)), self.kernel.reduce_axes)

    # -- a work-group a row ---------------------------------------------------------------------------------------

    def _team(self) -> Rendered:
        w, team = self.w, self.shapes.row_team
        rows = prod(self.kernel.shape[a] for a in self.outer)
        w.line("const int member = get_local_id(0);")
        w.decode(f"({w.index})get_group_id(0)", self.outer, self.coords, self.kernel.shape)
        for i in self.live:
            if self.kernel.body[i].op in REDUCTIONS:
                w.line(f"__local {self._accumulator(i)[0]} t{i}[{team}];")
        w.values(self._between(0), self.coords, self.names)
        for stage in range(1, self.passes + 1):
            reductions = self._reductions(stage)
            for i in reductions:
                ctype, start = self._accumulator(i)
                w.line(f"{ctype} a{i} = {start};")
            self._team_loops(partial(self._accumulate, reductions, "a{}"))
            for i in reductions:
                w.line(f"t{i}[member] = a{i};")
            w.line("barrier(CLK_LOCAL_MEM_FENCE);")
            with w.block(f"for (int w = {team // 2}; w > 0; w /= 2)"):
                for i in reductions:
                    step = self._combine(i, f"t{i}[member]", f"t{i}[member + w]")
                    w.line(f"if (member < w) t{i}[member] = {step};")
                w.line("barrier(CLK_LOCAL_MEM_FENCE);")
            for i in reductions:
                w.line(f"const {self._accumulator(i)[0]} v{i} = {self._rounded(i, f't{i}[0]')};")
                self.names[i] = f"v{i}"
            w.values(self._between(stage), self.coords, self.names)
        once, along = self._row_outputs(along=False), self._row_outputs(along=True)
        if once:
            with w.block("if (member == 0)"):
                self._write(once)
        if along:
            self._team_loops(lambda: self._write(along))
        return w.finish((team * rows,), (team,))

    def _team_loops(self, body: Callable[[], None]) -> None:
        w, axis = self.w, self.kernel.reduce_axes[-1]

        def innermost() -> None:
            self.coords[axis] = f"i{axis}"
            n = w.number(f"n{axis}", self.kernel.shape[axis])
            with w.block(f"for ({w.index} i{axis} = member; i{axis} < {n}; i{axis} += {self.shapes.row_team})"):
                body()

        with w.block(""):
            self._slow_loops(innermost, self.kernel.reduce_axes[:-1])
