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
from contextlib import contextmanager
from math import prod

from ..dtypes import float16, float32, is_bool
from ..kernel import Kernel
from ..view import View
from . import functions
from .dot import CONTRACT
from .functions import compute_type, storage_type
from .shapes import Shapes
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
        self.dtype = float32 if dtype == float16 else dtype
        self.ctype = compute_type(self.dtype)
        self.step, self.block = shapes.attention_step, shapes.attention_block

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
        if "grad" not in self.operands:
            parts.append(("queries", self.queries, self._forward))
        if "query" in self.results:
            parts.append(("queries", self.queries, self._query_gradient))
        if "key" in self.results or "value" in self.results:
            parts.append(("keys", self.keys, self._key_gradient))
        blocks = 0
        for name, rows, write in parts:
            self._hold(name, rows)
            count = -(-rows // self.lanes)
            blocks += count
            with w.block(f"if (part >= 0 && part < {w.number(f'{name}_blocks', count)})"):
                w.line(f"const {w.index} own = part * {self.lanes};")
                write()
            w.line(f"part -= {w.number(f'{name}_blocks', count)};")
        return w.finish((blocks, prod(self.batch)), (self.shapes.attention_group, 1))

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _hold(self, name: str, rows: int) -> None:
        """The rows that work-items hold from now on, as lanes."""
        self.lanes = min(self.shapes.attention_lanes, 1 << (rows - 1).bit_length())
        self.vector = min(self.shapes.dot_vector if self.dtype == float32 else 8, self.lanes)
        self.vtype = self.ctype + (str(self.vector) if self.vector > 1 else "")
        self.own_rows = self.w.number(name, rows)
        self.keys_held = name == "keys"

    @contextmanager
    def _lanes(self, rows: str = "") -> Iterator[None]:
        """For each lane l, or for each lane l of each row j < `rows`."""
        w = self.w
        lane = f"for (int l = 0; l < {self.lanes}; l++)"
        if not rows:
            with w.block(lane):
                yield
            return
        with w.block(f"for (int j = 0; j < {rows}; j++)"), w.block(lane):
            yield

    def _array(self, name: str, rows: int = 1, start: str = "") -> None:
        """An array of `rows` rows of lanes."""
        size = rows * self.lanes
        self.w.line(f"{self.ctype} {name}[{size}] __attribute__((aligned(128)));")
        if start:
            self.w.line(f"for (int i = 0; i < {size}; i++) {name}[i] = {start};")

    def _vectors(self, array: str, row: str) -> list[str]:
        """The vectors that make up a row of an array."""
        starts = [f"{array} + ({row}) * {self.lanes} + {at}" for at in range(0, self.lanes, self.vector)]
        return [f"*({self.vtype} *)({start})" for start in starts]

    def _exp(self, x: str) -> str:
        return self.w.code(functions.elementwise("exp", [x], self.dtype, self.dtype))

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
        return f"vload_half({column}, {pointer})" if self.kernel.inputs[slot] == float16 else f"{pointer}[{column}]"

    def _write(self, name: str, row: str, column: str, value: str) -> None:
        """Store an element of a result."""
        number, view = self.results[name]
        down, right = (self.w.number(f"to_{name}_{axis}", view.strides[i]) for axis, i in (("down", -2), ("right", -1)))
        at = f"to_{name} + ({row}) * {down} + ({column}) * {right}"
        half = self.kernel.output_dtypes[number] == float16
        self.w.line(f"vstore_half_rte({value}, {at}, y{number});" if half else f"y{number}[{at}] = {value};")

    def _load(self, array: str, name: str, width: int, factor: str = "") -> None:
        """Lay the own rows of an operand out with a row of lanes for each column; 0 beyond the last."""
        w = self.w
        self._array(array, width)
        with self._lanes():
            w.line(f"{self._pointer(name)}row = {self._row(name, f'min(own + l, {self.own_rows} - 1)')};")
            value = self._read(name, "row", "d") + factor
            w.line(f"for (int d = 0; d < {width}; d++) {array}[d * {self.lanes} + l] = {value};")

    def _store(self, name: str, width: int, value: str) -> None:
        """Write the own rows of a result; `value` is that of lane l, column d."""
        w = self.w
        with self._lanes():
            w.line(f"if (own + l >= {self.own_rows}) break;")
            with w.block(f"for (int d = 0; d < {width}; d++)"):
                self._write(name, "own + l", "d", value)

    def _scores(self, out: str, name: str, own: str, width: int) -> None:
        """out[j][l] = sum_d other[j][d] own[d][l] over the block; `name` is the operand whose rows are the others."""
        w, rows = self.w, range(self.step)
        with w.block(f"for (int j = 0; j < count; j += {self.step})"):
            for t in rows:
                row = self._row(name, f"first + min(j + {t}, count - 1)")
                w.line(f"{self._pointer(name)}r{t} = {row};")
            sums = [[f"s{t}_{p}" for p in range(self.lanes // self.vector)] for t in rows]
            w.line(f"{self.vtype} {', '.join(f'{s} = 0' for row in sums for s in row)};")
            with w.block(f"for (int d = 0; d < {width}; d++)"):
                w.line(CONTRACT)
                for p, vector in enumerate(self._vectors(own, "d")):
                    w.line(f"const {self.vtype} x{p}_ = {vector};")
                for t in rows:
                    w.line(f"const {self.vtype} c{t} = ({self.vtype})({self._read(name, f'r{t}', 'd')});")
                    for p, s in enumerate(sums[t]):
                        w.line(f"{s} = c{t} * x{p}_ + {s};")
            for t in rows:
                for vector, s in zip(self._vectors(out, f"j + {t}"), sums[t], strict=True):
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
        sums = [[f"s{t}_{p}" for p in range(self.lanes // self.vector)] for t in range(columns)]
        places = [self._vectors(result, f"{column} + {t}") for t in range(columns)]
        for row, vectors in zip(sums, places, strict=True):
            for s, vector in zip(row, vectors, strict=True):
                w.line(f"{self.vtype} {s} = {vector};")
        with w.block("for (int j = 0; j < count; j++)"):
            w.line(CONTRACT)
            w.line(f"{self._pointer(name)}row = {self._row(name, 'first + j')};")
            for p, vector in enumerate(self._vectors(weights, "j")):
                w.line(f"const {self.vtype} w{p} = {vector};")
            for t, row in enumerate(sums):
                w.line(f"const {self.vtype} c{t} = ({self.vtype})({self._read(name, 'row', f'{column} + {t}')});")
                for p, s in enumerate(row):
                    w.line(f"{s} = c{t} * w{p} + {s};")
        for row, vectors in zip(sums, places, strict=True):
            for s, vector in zip(row, vectors, strict=True):
                w.line(f"{vector} = {s};")

    def _hide(self, scores: str) -> None:
        """Apply the mask, and causality, to a block of scores."""
        w = self.w
        place = f"{scores}[j * {self.lanes} + l]"
        row, column = ("first + j", "own + l") if self.keys_held else ("own + l", "first + j")
        if "mask" in self.operands:
            with self._lanes("count"):
                held = f"min(own + l, {self.own_rows} - 1)"
                at = (row, held) if self.keys_held else (held, column)
                value = self._read("mask", f"({self._row('mask', at[0])})", at[1])
                bool_mask = is_bool(self.kernel.inputs[self.operands["mask"][0]])
                w.line(f"{place} = {f'{value} ? {place} : -INFINITY' if bool_mask else f'{place} + {value}'};")
        if self.attention.causal:
            reached = f"first < own + {self.lanes}" if self.keys_held else "first + count > own"
            with w.block(f"if ({reached})"), self._lanes("count"):
                w.line(f"{place} = {column} > {row} ? -INFINITY : {place};")

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
        w, n = self.w, self.lanes
        self._load("own_q", "q", self.width, f" * {self._scale()}")
        for name, rows, start in (("top", 1, "-INFINITY"), ("total", 1, "0"), ("sum", self.value_width, "0")):
            self._array(name, rows, start)
        for name, rows in (("less", 1), ("shrink", 1), ("s", self.block)):
            self._array(name, rows)
        with self._blocks("keys", self.keys):
            self._scores("s", "k", "own_q", self.width)
            self._hide("s")
            w.line(f"for (int l = 0; l < {n}; l++) less[l] = top[l];")
            with self._lanes("count"):
                w.line(f"less[l] = s[j * {n} + l] > less[l] ? s[j * {n} + l] : less[l];")
            with self._lanes():
                w.line(f"const {self.ctype} before = top[l];")
                w.line("top[l] = less[l];")
                w.line("less[l] = less[l] == -INFINITY ? 0 : less[l];")  # nothing seen yet: all its terms are 0
                w.line(f"shrink[l] = {self._exp('before - less[l]')};")
                w.line("total[l] *= shrink[l];")
            with self._lanes(str(self.value_width)):
                w.line(f"sum[j * {n} + l] *= shrink[l];")
            with self._lanes("count"):
                w.line(f"s[j * {n} + l] = {self._exp(f's[j * {n} + l] - less[l]')};")
                w.line(f"total[l] += s[j * {n} + l];")
            self._gather_up("sum", "s", "v", self.value_width)
        if "output" in self.results:
            self._store("output", self.value_width, f"sum[d * {n} + l] / total[l]")
        if "logsumexp" in self.results:
            log = w.code(functions.elementwise("log", ["total[l]"], self.dtype, self.dtype))
            self._store("logsumexp", 1, f"top[l] == -INFINITY ? NAN : top[l] + {log}")

    def _query_gradient(self) -> None:
        """query = sum over keys of P (grad v - sum(grad output)) k, for every query."""
        w, n = self.w, self.lanes
        self._load("own_q", "q", self.width, f" * {self._scale()}")
        self._load("own_grad", "grad", self.value_width)
        self._load("own_output", "output", self.value_width)
        self._load("total", "logsumexp", 1)
        self._array("along", 1, "0")
        with self._lanes(str(self.value_width)):
            w.line(f"along[l] += own_grad[j * {n} + l] * own_output[j * {n} + l];")
        self._array("sum", self.width, "0")
        self._array("s", self.block)
        self._array("ds", self.block)
        with self._blocks("keys", self.keys):
            self._scores("s", "k", "own_q", self.width)
            self._hide("s")
            self._scores("ds", "v", "own_grad", self.value_width)
            with self._lanes("count"):
                p = self._exp(f"s[j * {n} + l] - total[l]")
                w.line(f"ds[j * {n} + l] = {p} * (ds[j * {n} + l] - along[l]);")
            self._gather_up("sum", "ds", "k", self.width)
        self._store("query", self.width, f"sum[d * {n} + l] * {self._scale()}")

    def _key_gradient(self) -> None:
        """key = sum over queries of P (grad v - sum(grad output)) q, and value = sum of P grad, for every key."""
        w, n = self.w, self.lanes
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
                with self._lanes():
                    w.line(f"s[j * {n} + l] = {self._exp(f's[j * {n} + l] - total')};")
            if "value" in self.results:
                self._gather_up("value_sum", "s", "grad", self.value_width)
            if "key" in self.results:
                self._scores("ds", "grad", "own_v", self.value_width)
                with w.block("for (int j = 0; j < count; j++)"):
                    self._row_product("along", "grad", "output")
                    with self._lanes():
                        w.line(f"ds[j * {n} + l] = s[j * {n} + l] * (ds[j * {n} + l] - along);")
                self._gather_up("key_sum", "ds", "q", self.width)
        if "value" in self.results:
            self._store("value", self.value_width, f"value_sum[d * {n} + l]")
        if "key" in self.results:
            self._store("key", self.width, f"key_sum[d * {n} + l] * {self._scale()}")

    def _row_product(self, result: str, left: str, right: str) -> None:
        """result = the sum of the products of two operands' rows `first` + j, in 16 partial sums."""
        w, width = self.w, self.value_width
        for name in (left, right):
            w.line(f"{self._pointer(name)}row_{name} = {self._row(name, 'first + j')};")
        w.line(f"{self.ctype} {result} = 0, partial[16];")
        w.line("for (int l = 0; l < 16; l++) partial[l] = 0;")
        for start, columns in ((0, width // 16 * 16), (width // 16 * 16, width)):
            if start < columns:
                count = min(16, columns - start)
                head = f"for (int d = {start}; d < {columns}; d += {count}) for (int l = 0; l < {count}; l++)"
                product = " * ".join(self._read(name, f"row_{name}", "d + l") for name in (left, right))
                w.line(f"{head} partial[l] += {product};")
        w.line(f"for (int l = 0; l < 16; l++) {result} += partial[l];")

    def _scale(self) -> str:
        return self.w.constant("scale", self.attention.scale, self.dtype)
