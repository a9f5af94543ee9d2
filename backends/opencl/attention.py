"""Attention in OpenCL C: each work-item holds some rows as the lanes of vectors, and walks along all the others.

The rows held are queries, forward and for their gradient, or keys, for the gradients of keys and values. They are laid
out with one vector for each column, so that every product that attention consists of has one of two forms, in which the
rows walked along are read as scalars where they lie, and nothing is summed across lanes:

    score       s[j] = sum_d other[j][d] own[d]       for a block of other rows j
    gather up   sum[d] += other[j][d] w[j]            for the columns d of a result, over that block

Between the two come the mask, the softmax and its gradient, lane by lane. Forward, the maximum and the sum of a row are
kept as they grow from block to block (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). On a GPU
there is one lane, and the work-items of a group read the same scalars at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod

from ..dtypes import DType, accumulator, float32, float64, is_bool, is_half
from ..kernel import Kernel
from ..view import View
from . import functions
from .dot import CONTRACT
from .functions import compute_type, storage_type
from .shapes import Shapes, next_power
from .writer import Rendered, Writer


def render_attention(kernel: Kernel, shapes: Shapes, specialise: bool) -> Rendered:
    return _Attention(kernel, shapes, specialise).render()


class _Attention:
    def __init__(self, kernel: Kernel, shapes: Shapes, specialise: bool):
        assert kernel.attention is not None
        self.w = Writer(kernel, specialise)
        self.kernel, self.attention, self.shapes = kernel, kernel.attention, shapes
        self.operands = {name: (slot, view) for name, slot, view in self.attention.operands}
        self.results = {
            name: (number, output.view)
            for number, (name, output) in enumerate(zip(self.attention.results, kernel.outputs, strict=True))
        }
        *self.batch, self.queries, self.keys = kernel.shape
        self.width, self.value_width = self.operands["q"][1].shape[-1], self.operands["v"][1].shape[-1]
        dtype = kernel.inputs[self.operands["q"][0]]
        self.dtype = accumulator(dtype)
        self.ctype = compute_type(self.dtype)

    def render(self) -> Rendered:
        """The launch: dimension 0 are the blocks of rows, those of each part after one another, and 1 the batch."""
        w, coords = self.w, ["0"] * len(self.kernel.shape)
        w.line(f"{w.index} part = get_global_id(0);")
        w.decode(f"({w.index})get_global_id(1)", range(len(self.batch)), coords, self.kernel.shape)
        for prefix, views in (("", self.operands), ("to_", self.results)):
            for name, (_, view) in views.items():
                flat = View(view.shape[:-2], view.strides[:-2], view.offset)
                w.line(f"const {w.index} {prefix}{name} = {w.position(f'{prefix}{name}', flat, coords[:-2])};")
        parts = []
        whole = self._whole_heads()
        if "grad" not in self.operands:
            parts.append(("queries", self.queries, self._forward))
        if "query" in self.results and not whole:
            parts.append(("queries", self.queries, self._query_gradient))
        if "key" in self.results or "value" in self.results:
            parts.append(("keys", self.keys, self._key_gradient))
        blocks = 0
        if whole:
            self._hold("keys", self.keys)
            with w.block(f"for ({w.index} own = 0; own < {self.own_rows}; own += {self.lanes})"):
                self._key_gradient()
            return w.finish((1, prod(self.batch)), (1, 1), wide_vectors=True)
        for name, rows, write in parts:
            self._hold(name, rows)
            count = -(-rows // self.lanes)
            blocks += count
            with w.block(f"if (part >= 0 && part < {w.number(f'{name}_blocks', count)})"):
                w.line(f"const {w.index} own = part * {self.lanes};")
                write()
            w.line(f"part -= {w.number(f'{name}_blocks', count)};")
        return w.finish((blocks, prod(self.batch)), (self.shapes.attention_group, 1), wide_vectors=True)

    def _whole_heads(self) -> bool:
        """Whether a work-item computes all gradients of a head: then no score is computed twice."""
        enough = prod(self.batch) >= self.shapes.attention_heads and {"query", "key"} <= set(self.results)
        plain = enough and self.operands["k"][1].strides[-1] == self.results["query"][1].strides[-1] == 1
        return plain and not is_half(self.kernel.inputs[0])  # in which sums would be rounded again and again

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _hold(self, name: str, rows: int) -> None:
        """The rows that work-items hold from now on, as lanes: vectors number 0, 1, ... of `vector` lanes each."""
        shapes, vector = self.shapes, self.shapes.dot_lanes(self.dtype)
        most = next_power(rows)
        if self.attention.causal:  # half of the last block's scores are computed in vain
            most = max(most // 4, min(vector, most))
        self.lanes = min(shapes.attention_lanes, most)
        self.vector = min(vector, self.lanes)
        self.parts = range(self.lanes // self.vector)
        sums = shapes.attention_step * max(1, shapes.attention_lanes // shapes.dot_vector)  # vectors, in registers
        self.step = max(1, sums // len(self.parts))
        self.block = max(1, shapes.attention_block // self.step) * self.step
        self.width_text = str(self.vector) if self.vector > 1 else ""
        self.vtype = self.ctype + self.width_text
        self.own_rows = self.w.number(name, rows)
        self.keys_held = name == "keys"

    def _array(self, name: str, rows: int, start: str = "") -> None:
        """An array with a row of lanes for each of `rows`."""
        size = rows * self.lanes
        self.w.line(f"{self.ctype} {name}[{size}] __attribute__((aligned(128)));")
        if start:
            self.w.line(f"for (int i = 0; i < {size}; i++) {name}[i] = {start};")

    def _at(self, array: str, row: str, part: int) -> str:
        """One of the vectors that make up a row of an array."""
        return f"*({self.vtype} *)({array} + ({row}) * {self.lanes} + {part * self.vector})"

    def _row_of_lanes(self, array: str, row: str) -> list[str]:
        return [self._at(array, row, part) for part in self.parts]

    def _all(self, value: str) -> str:
        return f"({self.vtype})({value})"

    def _exp(self, name: str, x: str) -> None:
        """Declare the vector `name` = exp(x), 0 where that is no normal number: those are a hundred times slower."""
        function, least = "exp", self._all("-700.0" if self.dtype == float64 else "-86.0f")
        if self.dtype == float32:
            function = f"exp_single{self.width_text}"
            self.w.helpers.add((function, float32))
        self.w.line(f"const {self.vtype} {name}_of = {x};")
        # `max` may lose a NaN. The same choice as below in its place is right on all runtimes but Oclgrind 21.10.
        self.w.line(f"const {self.vtype} {name}_power = {function}(max({name}_of, {least}));")
        other = f"{name}_of == {name}_of ? {name}_power : {name}_of"
        self.w.line(f"const {self.vtype} {name} = {name}_of < {least} ? {self._all('0')} : {other};")

    def _row(self, name: str, row: str) -> str:
        """The address of a row of an operand."""
        slot, view = self.operands[name]
        return f"x{slot} + {name} + ({row}) * {self.w.number(f'{name}_down', view.strides[-2])}"

    def _pointer(self, name: str) -> str:
        return f"__global const {storage_type(self.kernel.inputs[self.operands[name][0]])} *"

    def _read(self, name: str, pointer: str, column: str) -> str:
        """An element of a row of an operand."""
        slot, view = self.operands[name]
        if view.strides[-1] != 1:
            column = f"({column}) * {self.w.number(f'{name}_right', view.strides[-1])}"
        return functions.read(pointer, column, self.kernel.inputs[slot])

    def _square(self, view: View, dtype: DType, width: int) -> int:
        """How many of `width` columns are covered by squares whose rows are vectors where they lie."""
        if self.vector == 1 or view.strides[-1] != 1 or is_half(dtype):
            return 0
        self.w.helpers.add((f"unaligned{self.vector}", self.dtype))
        return width - width % self.vector

    def _squares(self, columns: int) -> AbstractContextManager[None]:
        """For all squares of `columns` columns and the own rows: from column d and lane l on."""
        across, down = f"d < {columns}; d += {self.vector}", f"l < {self.lanes}; l += {self.vector}"
        return self.w.block(f"for (int d = 0; {across}) for (int l = 0; {down})")

    def _load(self, array: str, name: str, width: int, factor: str = "") -> None:
        """Lay the own rows of an operand out with a row of lanes for each column; rows beyond the last repeat it."""
        w, (slot, view) = self.w, self.operands[name]
        self._array(array, width)
        turned = self._square(view, self.kernel.inputs[slot], width)
        if turned:
            with self._squares(turned):
                rows = [self._row(name, f"min(own + l + {i}, {self.own_rows} - 1)") for i in range(self.vector)]
                columns = w.turned(
                    self.vtype, [f"*(__global const {self.vtype}_at *)({row} + d){factor}" for row in rows]
                )
                for i, column in enumerate(columns):
                    w.line(f"*({self.vtype} *)({array} + (d + {i}) * {self.lanes} + l) = {column};")
        if turned < width:
            with w.block(f"for (int l = 0; l < {self.lanes}; l++)"):
                w.line(f"{self._pointer(name)}row = {self._row(name, f'min(own + l, {self.own_rows} - 1)')};")
                value = self._read(name, "row", "d") + factor
                w.line(f"for (int d = {turned}; d < {width}; d++) {array}[d * {self.lanes} + l] = {value};")

    def _store(self, name: str, array: str, width: int) -> None:
        """Write the own rows of a result from an array."""
        w, (number, view) = self.w, self.results[name]
        dtype = self.kernel.output_dtypes[number]
        down, right = (self.w.number(f"to_{name}_{axis}", view.strides[i]) for axis, i in (("down", -2), ("right", -1)))
        turned = self._square(view, dtype, width)
        if turned:
            with self._squares(turned):
                columns = [f"*({self.vtype} *)({array} + (d + {i}) * {self.lanes} + l)" for i in range(self.vector)]
                for i, row in enumerate(w.turned(self.vtype, columns)):
                    place = f"y{number} + to_{name} + (own + l + {i}) * {down} + d"
                    w.line(f"if (own + l + {i} < {self.own_rows}) *(__global {self.vtype}_at *)({place}) = {row};")
        if turned < width:
            with w.block(f"for (int l = 0; l < {self.lanes} && own + l < {self.own_rows}; l++)"):
                with w.block(f"for (int d = {turned}; d < {width}; d++)"):
                    at = f"to_{name} + (own + l) * {down} + d * {right}"
                    value = w.code(functions.rounded(functions.Text(f"{array}[d * {self.lanes} + l]"), dtype))
                    w.line(functions.write(f"y{number}", at, value, dtype))

    def _scores(self, out: str, name: str, own: str, width: int) -> None:
        """out[j][l] = sum_d other[j][d] own[d][l] over the block; `name` is the operand whose rows are the others."""
        w, rows = self.w, range(self.step)
        with w.block(f"for (int j = 0; j < count; j += {self.step})"):
            for t in rows:
                row = self._row(name, f"first + min(j + {t}, count - 1)")
                w.line(f"{self._pointer(name)}r{t} = {row};")
            sums = [[f"s{t}_{p}" for p in self.parts] for t in rows]
            w.line(f"{self.vtype} {', '.join(f'{s} = 0' for row in sums for s in row)};")
            with w.block(f"for (int d = 0; d < {width}; d++)"):
                w.line(CONTRACT)
                for p, vector in enumerate(self._row_of_lanes(own, "d")):
                    w.line(f"const {self.vtype} x{p}_ = {vector};")
                for t in rows:
                    w.line(f"const {self.vtype} c{t} = {self._all(self._read(name, f'r{t}', 'd'))};")
                    for p, s in enumerate(sums[t]):
                        w.line(f"{s} = c{t} * x{p}_ + {s};")
            for t in rows:
                for vector, s in zip(self._row_of_lanes(out, f"j + {t}"), sums[t], strict=True):
                    w.line(f"{vector} = {s};")

    def _gather_up(self, result: str, weights: str, name: str, width: int) -> None:
        """result[d][l] += sum_j other[j][d] weights[j][l] over the block."""
        whole = width - width % self.step
        if whole:
            with self.w.block(f"for (int d = 0; d < {whole}; d += {self.step})"):
                self._gather_columns(result, weights, name, "d", self.step)
        if whole < width:
            with self.w.block(""):
                self._gather_columns(result, weights, name, str(whole), width - whole)

    def _gather_columns(self, result: str, weights: str, name: str, column: str, columns: int) -> None:
        w = self.w
        sums = [[f"s{t}_{p}" for p in self.parts] for t in range(columns)]
        places = [self._row_of_lanes(result, f"{column} + {t}") for t in range(columns)]
        for row, vectors in zip(sums, places, strict=True):
            for s, vector in zip(row, vectors, strict=True):
                w.line(f"{self.vtype} {s} = {vector};")
        with w.block("for (int j = 0; j < count; j++)"):
            w.line(CONTRACT)
            w.line(f"{self._pointer(name)}row = {self._row(name, 'first + j')};")
            for p, vector in enumerate(self._row_of_lanes(weights, "j")):
                w.line(f"const {self.vtype} w{p} = {vector};")
            for t, row in enumerate(sums):
                w.line(f"const {self.vtype} c{t} = {self._all(self._read(name, 'row', f'{column} + {t}'))};")
                for p, s in enumerate(row):
                    w.line(f"{s} = c{t} * w{p} + {s};")
        for row, vectors in zip(sums, places, strict=True):
            for s, vector in zip(row, vectors, strict=True):
                w.line(f"{vector} = {s};")

    def _add_rows(self, result: str, weights: str, name: str, width: int) -> None:
        """result[j][d] += sum_l weights[j][l] own[l][d], where result and own rows lie; the first own rows begin it."""
        w = self.w
        number = self.results[result][0]
        vector = next(v for v in (16, 8, 4, 2, 1) if width % v == 0 and v <= self.shapes.dot_lanes(self.dtype))
        ctype = self.ctype
        if vector > 1:
            w.helpers.add((f"unaligned{vector}", self.dtype))
            ctype = f"{self.ctype}{vector}_at"
        down = w.number(f"to_{result}_down", self.results[result][1].strides[-2])
        w.line(f"const int held = (int)min(({w.index}){self.lanes}, {self.own_rows} - own);")
        stretch = len(self.parts) * vector
        across = [range(at, min(at + stretch, width), vector) for at in range(0, width, stretch)]
        for columns in across:
            with w.block(f"for (int j = 0; j < count; j += {self.step})"):
                sums = [[f"s{t}_{d}" for d in columns] for t in range(self.step)]
                places = []
                for t, row in enumerate(sums):
                    row_at = f"(first + min(j + {t}, count - 1)) * {down}"
                    w.line(f"__global {self.ctype} *to{t} = y{number} + to_{result} + {row_at};")
                    places.append([f"*(__global {ctype} *)(to{t} + {d})" for d in columns])
                    for s, place in zip(row, places[t], strict=True):
                        w.line(f"{ctype} {s} = 0;")
                        w.line(f"if (own) {s} = {place};")
                with w.block("for (int l = 0; l < held; l++)"):
                    w.line(CONTRACT)
                    w.line(f"{self._pointer(name)}row = {self._row(name, 'own + l')};")
                    for d in columns:
                        w.line(f"const {ctype} x{d}_ = *(__global const {ctype} *)(row + {d});")
                    for t, row in enumerate(sums):
                        w.line(f"const {ctype} c{t} = ({ctype})({weights}[(j + {t}) * {self.lanes} + l]);")
                        for d, s in zip(columns, row, strict=True):
                            w.line(f"{s} = c{t} * x{d}_ + {s};")
                for t, row in enumerate(sums):
                    for s, place in zip(row, places[t], strict=True):
                        w.line(f"if (j + {t} < count) {place} = {s};")

    def _hide(self, scores: str) -> None:
        """Apply the mask, and causality, to a block of scores."""
        w = self.w
        places = self._row_of_lanes(scores, "j")
        infinity = self._all("-INFINITY")
        if "mask" in self.operands:
            with w.block("for (int j = 0; j < count; j++)"):
                held = f"min(own + l, {self.own_rows} - 1)"
                row, column = ("first + j", held) if self.keys_held else (held, "first + j")
                value = self._read("mask", f"({self._row('mask', row)})", column)
                bool_mask = is_bool(self.kernel.inputs[self.operands["mask"][0]])
                self._array("mask_row", 1)
                value = f"{value} ? INFINITY : -INFINITY" if bool_mask else value
                w.line(f"for (int l = 0; l < {self.lanes}; l++) mask_row[l] = {value};")
                for place, limit in zip(places, self._row_of_lanes("mask_row", "0"), strict=True):
                    w.line(
                        f"{place} = {f'{place} > {limit} ? {limit} : {place}' if bool_mask else f'{place} + {limit}'};"
                    )
        if self.attention.causal:
            reached = f"first < own + {self.lanes}" if self.keys_held else "first + count > own"
            itype = "int" if self.dtype == float32 else "long"
            with w.block(f"if ({reached})"), w.block("for (int j = 0; j < count; j++)"):
                w.line(f"const {itype}{self.width_text} ahead = first + j - own;")
                for part, place in enumerate(places):
                    numbers = ", ".join(str(part * self.vector + lane) for lane in range(self.vector))
                    hidden = f"({itype}{self.width_text})({numbers}) {'>' if self.keys_held else '<'} ahead"
                    w.line(f"{place} = {hidden} ? {infinity} : {place};")

    @contextmanager
    def _blocks(self, others: str, rows: int) -> Iterator[None]:
        """For each block of the other rows, `count` of them from `first` on, that the own ones meet."""
        w, first, end = self.w, "0", self.w.number(others, rows)
        if self.attention.causal and self.keys_held:
            first = "own"
        elif self.attention.causal:
            end = f"min({end}, own + {self.lanes})"
        w.line(f"const {w.index} end = {end};")
        with w.block(f"for ({w.index} first = {first}; first < end; first += {self.block})"):
            w.line(f"const int count = (int)min(({w.index}){self.block}, end - first);")
            yield

    # -- the three parts ------------------------------------------------------------------------------------------

    def _forward(self) -> None:
        """For every query the sum of exp(score - top) and of that times the values, with `top` the largest yet."""
        w, infinity = self.w, self._all("-INFINITY")
        self._load("own_q", "q", self.width, f" * {self._scale()}")
        self._array("s", self.block)
        self._array("sum", self.value_width, "0")
        for p in self.parts:
            w.line(f"{self.vtype} top{p} = {infinity}, total{p} = 0;")
        with self._blocks("keys", self.keys):
            self._scores("s", "k", "own_q", self.width)
            self._hide("s")
            for p in self.parts:
                w.line(f"const {self.vtype} before{p} = top{p};")
            with w.block("for (int j = 0; j < count; j++)"):
                for p, s in enumerate(self._row_of_lanes("s", "j")):
                    w.line(f"top{p} = {s} > top{p} ? {s} : top{p};")
            for p in self.parts:  # where nothing has been seen yet, all terms are 0
                w.line(f"const {self.vtype} less{p} = top{p} == {infinity} ? {self._all('0')} : top{p};")
                self._exp(f"shrink{p}", f"before{p} - less{p}")
                w.line(f"total{p} *= shrink{p};")
            with w.block(f"for (int d = 0; d < {self.value_width}; d++)"):
                for p, place in enumerate(self._row_of_lanes("sum", "d")):
                    w.line(f"{place} *= shrink{p};")
            with w.block("for (int j = 0; j < count; j++)"):
                for p, s in enumerate(self._row_of_lanes("s", "j")):
                    self._exp(f"p{p}", f"{s} - less{p}")
                    w.line(f"total{p} += p{p};")
                    w.line(f"{s} = p{p};")
            self._gather_up("sum", "s", "v", self.value_width)
        for p in self.parts:  # where nothing has been seen at all
            w.line(f"total{p} = total{p} == 0 ? {self._all('1')} : total{p};")
            w.line(f"top{p} = top{p} == {infinity} ? {self._all('0')} : top{p};")
        if "output" in self.results:
            with w.block(f"for (int d = 0; d < {self.value_width}; d++)"):
                for p, place in enumerate(self._row_of_lanes("sum", "d")):
                    w.line(f"{place} /= total{p};")
            self._store("output", "sum", self.value_width)
        if "logsumexp" in self.results:
            for p, place in enumerate(self._row_of_lanes("s", "0")):
                w.line(f"{place} = top{p} + log(total{p});")
            self._store("logsumexp", "s", 1)

    def _query_gradient(self) -> None:
        """query = sum over keys of P (grad v - sum(grad output)) k, for every query."""
        w = self.w
        self._load("own_q", "q", self.width, f" * {self._scale()}")
        self._load("own_grad", "grad", self.value_width)
        self._load("own_output", "output", self.value_width)
        self._load("own_total", "logsumexp", 1)
        for p in self.parts:
            w.line(f"{self.vtype} along{p} = 0, total{p} = {self._at('own_total', '0', p)};")
        with w.block(f"for (int d = 0; d < {self.value_width}; d++)"):
            for p in self.parts:
                w.line(f"along{p} += {self._at('own_grad', 'd', p)} * {self._at('own_output', 'd', p)};")
        self._array("sum", self.width, "0")
        self._array("s", self.block)
        self._array("ds", self.block)
        with self._blocks("keys", self.keys):
            self._scores("s", "k", "own_q", self.width)
            self._hide("s")
            self._scores("ds", "v", "own_grad", self.value_width)
            with w.block("for (int j = 0; j < count; j++)"):
                for p, ds in enumerate(self._row_of_lanes("ds", "j")):
                    self._exp(f"p{p}", f"{self._at('s', 'j', p)} - total{p}")
                    w.line(f"{ds} = p{p} * ({ds} - along{p}) * {self._scale()};")
            self._gather_up("sum", "ds", "k", self.width)
        self._store("query", "sum", self.width)

    def _key_gradient(self) -> None:
        """key = sum over queries of P (grad v - sum(grad output)) q, and value = sum of P grad, for every key."""
        w = self.w
        self._load("own_k", "k", self.width, f" * {self._scale()}")
        self._array("s", self.block)
        if "value" in self.results:
            self._array("value_sum", self.value_width, "0")
        if "key" in self.results:
            self._load("own_v", "v", self.value_width)
            self._array("key_sum", self.width, "0")
            self._array("ds", self.block)
        with self._blocks("queries", self.queries):
            self._scores("s", "q", "own_k", self.width)
            self._hide("s")
            with w.block("for (int j = 0; j < count; j++)"):
                w.line(f"{self._pointer('logsumexp')}row = {self._row('logsumexp', 'first + j')};")
                w.line(f"const {self.ctype} total = {self._read('logsumexp', 'row', '0')};")
                for p, s in enumerate(self._row_of_lanes("s", "j")):
                    self._exp(f"p{p}", f"{s} - total")
                    w.line(f"{s} = p{p};")
            if "value" in self.results:
                self._gather_up("value_sum", "s", "grad", self.value_width)
            if "key" in self.results:
                self._scores("ds", "grad", "own_v", self.value_width)
                with w.block("for (int j = 0; j < count; j++)"):
                    self._row_product("along", "grad", "output")
                    for p, ds in enumerate(self._row_of_lanes("ds", "j")):
                        w.line(f"{ds} = {self._at('s', 'j', p)} * ({ds} - along) * {self._scale()};")
                self._gather_up("key_sum", "ds", "q", self.width)
            if self._whole_heads():
                self._add_rows("query", "ds", "k", self.width)
        if "value" in self.results:
            self._store("value", "value_sum", self.value_width)
        if "key" in self.results:
            self._store("key", "key_sum", self.width)

    def _row_product(self, result: str, left: str, right: str) -> None:
        """result = the sum of the products of two operands' rows `first` + j, a vector of columns at a time."""
        w, width, vector = self.w, self.value_width, self.shapes.dot_lanes(self.dtype)
        slots = [self.operands[name] for name in (left, right)]
        plain = all(view.strides[-1] == 1 and not is_half(self.kernel.inputs[slot]) for slot, view in slots)
        whole = width - width % vector if plain and self.vector > 1 else 0
        for name in (left, right):
            w.line(f"{self._pointer(name)}row_{name} = {self._row(name, 'first + j')};")
        w.line(f"{self.ctype} {result} = 0;")
        if whole:
            w.helpers.add((f"unaligned{vector}", self.dtype))
            vtype = f"{self.ctype}{vector}"
            rows = " * ".join(f"*(__global const {vtype}_at *)(row_{name} + d)" for name in (left, right))
            w.line(f"{vtype} partial = 0;")
            w.line(f"for (int d = 0; d < {whole}; d += {vector}) partial += {rows};")
            w.line(f"{result} = {w.lane_sum(self.ctype, 'partial', vector)};")
        if whole < width:
            product = " * ".join(self._read(name, f"row_{name}", "d") for name in (left, right))
            w.line(f"for (int d = {whole}; d < {width}; d++) {result} += {product};")

    def _scale(self) -> str:
        return self.w.constant("scale", self.attention.scale, self.dtype)
