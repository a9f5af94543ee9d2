"""Dots: register-blocked matrix products for operands as they lie.

On CPUs most are in `panels.py`. Otherwise a work-item holds a block of rows x columns of the result in vectors and
walks along K once:

    outer    the right operand's rows are contiguous (x @ w, x.T @ dy): for each k, every scalar of the left column
             times the vectors of the right row
    inner    both operands are contiguous along K (x @ w.T): vectors along K, their lanes added at the end
    plain    everything else, and types without vectors here: one element a work-item

A right operand that is packed has a form of its own, in `packed.py`.

Blocks that stick out at the edges start earlier or repeat the last row, and store only what is their own: another
work-item may already have written the rest, and with it an input that shares its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from ..dtypes import accumulator, float16, float32, is_float, is_half
from ..kernel import Kernel
from ..view import View
from . import functions
from .functions import compute_type
from .packed import Packed
from .panels import CONTRACT, Panels
from .shapes import Shapes, next_power
from .vectors import VectorWriter
from .writer import Rendered

WHOLE = 1 << 17  # elements of a right operand from which on a row's product is worth several work-items
FEW = 8  # rows or columns: panels are not worth packing for fewer


def render_dot(kernel: Kernel, shapes: Shapes, specialise: bool, aligned: bool) -> Rendered:
    return Dot(kernel, shapes, specialise, aligned).render()


class Dot:
    def __init__(self, kernel: Kernel, shapes: Shapes, specialise: bool, aligned: bool):
        self.w = VectorWriter(kernel, specialise)
        self.kernel, self.shapes, self.aligned = kernel, shapes, aligned
        self.dot = next(i for i, instr in enumerate(kernel.body) if instr.op == "dot")
        self.left_slot, self.left, self.right_slot, self.right = kernel.body[self.dot].arg
        self.dtype = kernel.body[self.dot].dtype
        self.ctype = compute_type(self.dtype)
        *self.batch, self.m, self.n = kernel.shape
        self.k = self.left.shape[-1]
        self.coords = ["0"] * len(kernel.shape)

    def render(self) -> Rendered:
        if self.shapes.dot_tile != (0, 0) and self.dtype == float32 and self.k and min(self.m, self.n) >= FEW:
            return Panels(self).render()
        if self.kernel.packing is not None:
            return Packed(self).render()
        vectors = is_float(self.dtype)
        columns = self.vector() if self.n >= self.vector() else 0
        if vectors and columns and self.right.strides[-1] == 1:
            return self._outer()
        if vectors and self.left.strides[-1] == 1 and self.right.strides[-2] == 1 and self.k >= self.vector():
            return self._inner()
        return self._plain()

    # -- pieces ---------------------------------------------------------------------------------------------------

    def vector(self) -> int:
        return self.shapes.dot_lanes(self.dtype)

    def vector_aligned(self, view: View, contiguous: int) -> bool:
        """Whether every vector read through `view` starts on a multiple of its size."""
        others = [s for axis, s in enumerate(view.strides) if axis != contiguous]
        return self.aligned and all(number % self.vector() == 0 for number in (view.offset, *others))

    def load(self, slot: int, position: str, aligned: bool) -> str:
        """A vector of consecutive elements. vload16 is avoided: it hangs on one runtime (PoCL 3.0)."""
        vector = self.vector()
        if self.dtype == float16:
            return f"vload_half{vector}(0, x{slot} + {position})"
        if is_half(self.dtype):
            return f"as_float{vector}(convert_uint{vector}(vload{vector}(0, x{slot} + {position})) << 16)"
        if aligned:
            return f"*(__global const {self.ctype}{vector} *)(x{slot} + {position})"
        if vector == 16:
            low, high = (f"vload8(0, x{slot} + {position}{part})" for part in ("", " + 8"))
            return f"({self.ctype}16)({low}, {high})"
        return f"vload{vector}(0, x{slot} + {position})"

    def base(self, name: str, view: View) -> str:
        """The position of row 0, column 0 of this batch's matrix."""
        flat = View(view.shape[:-2], view.strides[:-2], view.offset)
        return self.w.position(name, flat, self.coords[:-2])

    def _start(self, columns: int, rows: int, group: tuple[int, int]) -> tuple[int, int]:
        """Declare the block's first row and column, `own_n` on, and the batch; how many blocks there are."""
        w = self.w
        w.line(f"const {w.index} own_n = get_global_id(0) * {columns}, m0 = get_global_id(1) * {rows};")
        across, down = -(-self.n // columns), -(-self.m // rows)
        outside = [
            f"{index} >= {w.number(name, size)}"
            for index, name, size, blocks, members in (
                ("own_n", "N", self.n, across, group[0]),
                ("m0", "M", self.m, down, group[1]),
            )
            if members > 1 and not (w.specialise and blocks % members == 0)
        ]
        if outside:
            w.line(f"if ({' || '.join(outside)}) return;")
        w.decode(f"({w.index})get_global_id(2)", range(len(self.batch)), self.coords, self.kernel.shape)
        return across, down

    def _group(self, across: int, down: int) -> tuple[int, int]:
        """The table's work-group, smaller where there are fewer blocks than its members."""
        group = self.shapes.dot_group
        return min(group[0], next_power(across)), min(group[1], next_power(down))

    def finish_row(self, sums: str, columns: str, whole: bool) -> None:
        """The elementwise rest of the body for `columns` elements of row m from column n0 on.

        The products are at the pointer `sums`, on a vector's boundary; `whole`: the columns are a whole number of
        vectors.
        """
        w, lanes, live = self.w, self.vector(), self._live()
        coords = [*self.coords[:-2], "m", "n"]
        vectors = self.shapes.vectors and w.fits(live, lanes, len(coords) - 1)
        w.line("int l = 0;")
        if vectors:
            with w.block(f"for (; l + {lanes} <= {columns}; l += {lanes})"), w.vectors(lanes, len(coords) - 1):
                w.line(f"const {w.index} n = n0 + l;")
                vector = f"{self.ctype}{lanes}"
                w.line(f"const {vector} v{self.dot} = *(__local const {vector} *)({sums} + l);")
                names = {self.dot: f"v{self.dot}"}
                w.values(live, coords, names)
                for number, (out, view) in enumerate(self.kernel.outputs):
                    w.store_vector(number, view, coords, out, names)
        if not (vectors and whole):
            with w.block(f"for (; l < {columns}; l++)"):
                w.line(f"const {w.index} n = n0 + l;")
                self._epilogue(f"{sums}[l]", "m", "n")

    def _epilogue(self, value: str, m: str, n: str) -> None:
        """The elementwise rest of the body at one element, then its stores."""
        w, coords = self.w, [*self.coords[:-2], m, n]
        value = w.code(functions.rounded(functions.Text(value), self.dtype))
        w.line(f"const {self.ctype} v{self.dot} = {value};")
        names = {self.dot: f"v{self.dot}"}
        w.values(self._live(), coords, names)
        for number, (out, view) in enumerate(self.kernel.outputs):
            w.store(number, view, coords, names[out])

    def _live(self) -> list[int]:
        wanted: set[int] = set()
        pending = [out.value for out in self.kernel.outputs]
        while pending:
            i = pending.pop()
            if i not in wanted and i != self.dot:
                wanted.add(i)
                pending += self.kernel.body[i].src
        return sorted(wanted)

    def _store_block(self, rows: int, columns: int, element: Callable[[], str], first_n: str, clipped: bool) -> None:
        """The epilogue of every element of the block that lies inside and is this work-item's own."""
        w = self.w
        with w.block(f"for (int r = 0; r < {rows}; r++)"):
            w.line(f"const {w.index} m = m0 + r;")
            if not (w.specialise and self.m % rows == 0):
                w.line(f"if (m >= {w.number('M', self.m)}) break;")
            with w.block(f"for (int l = 0; l < {columns}; l++)"):
                w.line(f"const {w.index} n = {first_n} + l;")
                if clipped:
                    w.line(f"if (n < own_n || n >= {w.number('N', self.n)}) continue;")
                self._epilogue(element(), "m", "n")

    def _rows(self, prefix: str, view: View, base: str, rows: int, axis: int, first: str, size: int, name: str) -> None:
        """Declare where the operand's row (or column) for each row of the block begins; those outside repeat it."""
        w = self.w
        stride = view.strides[axis]
        for r in range(rows):
            inside = w.specialise and size % rows == 0
            row = f"{first} + {r}" if inside else f"min({first} + {r}, {w.number(name, size)} - 1)"
            step = w.number(f"{prefix}_step", stride)
            w.line(f"const {w.index} {prefix}{r} = {base} + ({row}) * {step};")

    # -- the three forms ------------------------------------------------------------------------------------------

    def _outer(self) -> Rendered:
        w, vector = self.w, self.vector()
        most_rows, columns = self.shapes.dot_outer
        rows = min(most_rows, next_power(self.m))
        if self.shapes.vectors:  # few rows leave registers for more columns, and longer stretches of memory
            least, columns = columns, columns * (most_rows // rows)
            while columns > least and -(-self.n // columns) < self.shapes.dot_tiles and self.n * self.k > WHOLE:
                columns //= 2
        while columns > vector and (columns > self.n or self.n % columns and self.n % (columns // 2) == 0):
            columns //= 2
        columns = max(columns, vector)
        whole = self.n % columns == 0
        group = self._group(-(-self.n // columns), -(-self.m // rows))
        across, down = self._start(columns, rows, group)
        aligned = whole and self.vector_aligned(self.right, len(self.kernel.shape) - 1)
        first = "own_n" if whole else f"min(own_n, {w.number('N', self.n)} - {columns})"
        w.line(f"const {w.index} n0 = {first};")
        w.line(f"const {w.index} left = {self.base('left', self.left)};")
        self._rows("a", self.left, "left", rows, -2, "m0", self.m, "M")
        w.line(f"const {w.index} right = {self.base('right', self.right)} + n0;")
        parts = columns // vector
        block = [[f"c{r}_{j}" for j in range(parts)] for r in range(rows)]
        w.line(f"{self.ctype}{vector} {', '.join(f'{c} = 0' for row in block for c in row)};")
        k_size, k_step = w.number("K", self.k), w.number("right_k", self.right.strides[-2])
        vector_type = f"{self.ctype}{vector}"
        right_row = [self.load(self.right_slot, f"line + {j * vector}", aligned) for j in range(parts)]

        k = "k" if self.left.strides[-1] == 1 else f"k * {w.number('left_k', self.left.strides[-1])}"
        with w.block(f"for ({w.index} k = 0; k < {k_size}; k++)"):
            w.line(CONTRACT)
            w.line(f"const {w.index} line = right + k * {k_step};")
            for j in range(parts):
                w.line(f"const {vector_type} b{j} = {right_row[j]};")
            for r in range(rows):
                scalar = w.read(self.left_slot, f"a{r} + {k}")
                w.line(f"const {vector_type} s{r} = ({vector_type})({scalar});")
                for j in range(parts):
                    w.line(f"{block[r][j]} = s{r} * b{j} + {block[r][j]};")
        self._spill(block, vector, columns)
        self._store_block(rows, columns, lambda: f"tile[r * {columns} + l]", "n0", clipped=not whole)
        return w.finish((across, down, prod(self.batch)), (*group, 1))

    def _spill(self, block: list[list[str]], vector: int, columns: int) -> None:
        """Put the block's vectors where its elements can be indexed."""
        w = self.w
        size = len(block) * columns
        w.line(f"{self.ctype} tile[{size}] __attribute__((aligned(128)));")
        for r, row in enumerate(block):
            for j, name in enumerate(row):
                w.line(f"*({self.ctype}{vector} *)(tile + {r * columns + j * vector}) = {name};")

    def _inner(self) -> Rendered:
        w, vector = self.w, self.vector()
        rows, columns = self.shapes.dot_inner
        rows, columns = min(rows, next_power(self.m)), min(columns, next_power(self.n))
        group = self._group(-(-self.n // columns), -(-self.m // rows))
        across, down = self._start(columns, rows, group)
        rank = len(self.kernel.shape)
        w.line(f"const {w.index} left = {self.base('left', self.left)};")
        self._rows("a", self.left, "left", rows, -2, "m0", self.m, "M")
        w.line(f"const {w.index} right = {self.base('right', self.right)};")
        self._rows("b", self.right, "right", columns, -1, "own_n", self.n, "N")
        left_aligned, right_aligned = (
            self.vector_aligned(self.left, rank - 1),
            self.vector_aligned(self.right, rank - 2),
        )
        block = [[f"c{r}_{j}" for j in range(columns)] for r in range(rows)]
        w.line(f"{self.ctype}{vector} {', '.join(f'{c} = 0' for row in block for c in row)};")
        w.line(f"{w.index} k = 0;")
        with w.block(f"for (; k + {vector} <= {w.number('K', self.k)}; k += {vector})"):
            w.line(CONTRACT)
            for j in range(columns):
                w.line(f"const {self.ctype}{vector} y{j}_ = {self.load(self.right_slot, f'b{j} + k', right_aligned)};")
            for r in range(rows):
                w.line(f"const {self.ctype}{vector} s{r} = {self.load(self.left_slot, f'a{r} + k', left_aligned)};")
                for j in range(columns):
                    w.line(f"{block[r][j]} = s{r} * y{j}_ + {block[r][j]};")
        w.line(f"{self.ctype} tile[{rows * columns}];")
        for r in range(rows):
            for j in range(columns):
                w.line(f"tile[{r * columns + j}] = {w.lane_sum(self.ctype, block[r][j], vector)};")
        if not (w.specialise and self.k % vector == 0):
            with w.block(f"for (; k < {w.number('K', self.k)}; k++)"):
                w.line(CONTRACT)
                for r in range(rows):
                    left = w.read(self.left_slot, f"a{r} + k")
                    for j in range(columns):
                        right = w.read(self.right_slot, f"b{j} + k")
                        w.line(f"tile[{r * columns + j}] = {left} * {right} + tile[{r * columns + j}];")
        clipped = not (w.specialise and self.n % columns == 0)
        self._store_block(rows, columns, lambda: f"tile[r * {columns} + l]", "own_n", clipped)
        return w.finish((across, down, prod(self.batch)), (*group, 1))

    def _plain(self) -> Rendered:
        w = self.w
        group = self.shapes.dot_plain_group
        self._start(1, 1, group)
        left_at = View(self.left.shape, self.left.strides, self.left.offset)
        w.line(f"{self.ctype} sum = 0;")
        with w.block(f"for ({w.index} k = 0; k < {w.number('K', self.k)}; k++)"):
            batch = self.coords[:-2]
            a = w.read(self.left_slot, w.position("left", left_at, [*batch, "m0", "k"]))
            b = w.read(self.right_slot, w.position("right", self.right, [*batch, "k", "own_n"]))
            w.line(f"const {self.ctype} a = {a}, b = {b};")
            dtype = accumulator(self.dtype)
            product = w.code(functions.elementwise("mul", ["a", "b"], dtype, dtype))
            w.line(f"const {self.ctype} product = {product};")
            w.line(f"sum = {w.code(functions.elementwise('add', ['sum', 'product'], dtype, dtype))};")
        self._epilogue("sum", "m0", "own_n")
        return w.finish((self.n, self.m, prod(self.batch)), (*group, 1))
