"""Dots on CPUs: the right operand packed into panels, the result in blocks that registers hold.

After Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (TOMS 34, 2008). A work-item computes a
tile of the result, a slice of K at a time:

    pack    the slice's part of the right operand goes into local memory as panels, each `block[1]` columns wide and
            contiguous, so that rows a power of two apart do not evict one another. It is read along its own rows:
            where those run along K, squares of it are transposed on the way. Columns outside the matrix become zeros.
            A left operand that is contiguous along M and too large for the cache is packed as blocks of rows
    block   for each panel, which now lies in the first-level cache, and each `block[0]` rows: every scalar of the left
            column times the vectors of the panel's row, added to vectors of which there are as many as registers
    rest    after the last slice, the elementwise rest of the body, a row of the tile at a time: long stretches of each
            output, which prefetching follows, and not the short rows of a block

The products of one element are added in the order of K whatever the tile, so tiles may follow the device.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from ..dtypes import float32
from ..packing import GROUP, Packing
from .shapes import Shapes, tile_bytes
from .writer import Rendered

if TYPE_CHECKING:
    from .dot import Dot

# Fused multiply-adds, in the loops over k alone: `fma` itself is a slow call on PoCL 3.0.
CONTRACT = "#pragma OPENCL FP_CONTRACT ON"


def block_of(n: int, shapes: Shapes) -> tuple[int, int]:
    """Rows and columns of the block that the registers hold, for a result of n columns.

    A wide one reads less, 10 loads for 24 vectors of sums, not for 16, but must not reach beyond the result.
    """
    wide = shapes.dot_wide_block
    fits = all(most >= size for most, size in zip(shapes.dot_tile, wide))
    return wide if n % wide[1] == 0 and fits else shapes.dot_block


@lru_cache(maxsize=1024)
def tile_of(m: int, n: int, k: int, batch: int, shapes: Shapes, pack_left: bool) -> tuple[int, int]:
    """Rows and columns of a tile of an (m, n) result: whole blocks, of which all processors have as many to do.

    Of all sizes that fit and make enough tiles, the one whose slowest processor is done first. Besides its products a
    tile costs as much as `dot_packing` more rows, and as many columns if the left operand is packed, a few if it is
    read. The elements of rows that do not end within it take longer to store, beside which k products take long or not.
    """
    units, most, packing = block_of(n, shapes), shapes.dot_tile, shapes.dot_packing
    reading = packing if pack_left else packing // 4

    def sizes(length: int, axis: int) -> list[int]:
        blocks = -(-length // units[axis])
        return [k * units[axis] for k in range(1, min(blocks, most[axis] // units[axis]) + 1)]

    def cost(tile: tuple[int, int]) -> tuple[bool, bool, float]:
        rows, columns = tile
        tiles = batch * -(-m // rows) * -(-n // columns)
        storing = shapes.dot_partial / k if columns < n else 0
        work = rows * columns * (1 + storing) + packing * columns + reading * rows
        fits = tile_bytes(shapes, tile, pack_left) <= shapes.dot_memory
        return not fits, tiles < shapes.dot_tiles, -(-tiles // shapes.processors) * work

    return min(((rows, columns) for columns in sizes(n, 1) for rows in sizes(m, 0)), key=cost)


class Panels:
    """Renders one dot kernel. What all forms of dots share comes from `dot.Dot`."""

    def __init__(self, dot: Dot):
        self.dot, self.w = dot, dot.w
        self.lanes = dot.vector()
        self.type = f"{dot.ctype}{self.lanes}"
        *_, self.left_m, self.left_k = dot.left.strides
        *_, self.right_k, self.right_n = dot.right.strides
        self.rows, self.columns = block_of(dot.n, dot.shapes)
        self.parts = self.columns // self.lanes
        self.slice = dot.shapes.dot_slice
        self.step = self.slice + dot.shapes.dot_apart
        large = dot.k * abs(self.left_k) >= dot.shapes.dot_pack_from
        self.pack_left = self.left_k != 1 and self.left_m == 1 and large
        self.tile = tile_of(dot.m, dot.n, dot.k, prod(dot.batch), dot.shapes, self.pack_left)

    def render(self) -> Rendered:
        dot, w = self.dot, self.w
        tile_m, tile_n = w.number("tile_m", self.tile[0]), w.number("tile_n", self.tile[1])
        m, n, k = w.number("M", dot.m), w.number("N", dot.n), w.number("K", dot.k)
        w.line(f"const {w.index} first_n = get_global_id(0) * {tile_n}, first_m = get_global_id(1) * {tile_m};")
        w.decode(f"({w.index})get_global_id(2)", range(len(dot.batch)), dot.coords, dot.kernel.shape)
        w.line(f"const int tile_rows = (int)min(({w.index}){tile_m}, {m} - first_m);")
        w.line(f"const int tile_columns = (int)min(({w.index}){tile_n}, {n} - first_n);")
        w.line(f"const {w.index} left = {dot.base('left', dot.left)};")
        w.line(f"const {w.index} right = {dot.base('right', dot.right)};")
        nbytes = tile_bytes(dot.shapes, self.tile, self.pack_left) if w.specialise else dot.shapes.dot_memory
        w.line(f"__local {self.type} panels[{-(-nbytes // (4 * self.lanes))}];")
        w.line(f"__local {self.type} *tile = panels + {self.slice // self.lanes} * {tile_n};")
        if self.pack_left:
            w.line(f"__local {dot.ctype} *blocks = (__local {dot.ctype} *)tile + {tile_m} * {tile_n};")
        with w.block(f"for ({w.index} first_k = 0; first_k < {k}; first_k += {self.slice})"):
            w.line(f"const int count = (int)min(({w.index}){self.slice}, {k} - first_k);")
            self._pack_right()
            if self.pack_left:
                self._pack_left()
            with w.block(f"for (int c = 0; c < tile_columns; c += {self.columns})"):
                w.line(f"__local const {self.type} *panel = panels + c * {self.slice // self.lanes};")
                with w.block(f"for (int r = 0; r < tile_rows; r += {self.rows})"):
                    self._block()
        self._rest()
        across, down = -(-dot.n // self.tile[1]), -(-dot.m // self.tile[0])
        return w.finish((across, down, prod(dot.batch)), (1, 1, 1), wide_vectors=True)

    # -- packing --------------------------------------------------------------------------------------------------

    def _pack_right(self) -> None:
        if self.dot.kernel.packing is None and self.right_n == 1:
            self._pack_rows()
        else:
            self._pack_panels()

    def _pack_panels(self) -> None:
        """A panel at a time, of an operand that is contiguous along K, or not at all, or of packed weights."""
        dot, w = self.dot, self.w
        step_k, step_n = w.number("right_k", self.right_k), w.number("right_n", self.right_n)
        with w.block(f"for (int c = 0; c < tile_columns; c += {self.columns})"):
            w.line(f"__local {self.type} *panel = panels + c * {self.slice // self.lanes};")
            at = f"right + first_k * {step_k} + (first_n + c) * {step_n}"
            if dot.kernel.packing is None:
                w.line(f"const {w.index} from = {at};")
            w.line("int k = 0;")
            rest = True
            if dot.kernel.packing is not None:
                self._unpack(dot.kernel.packing)
                rest = False
            elif self.right_k == 1:
                self._pack_transposed(step_n)
                rest = not (w.specialise and dot.n % self.columns == 0 and dot.k % self.lanes == 0)
            if rest:
                w.line(f"__local {dot.ctype} *scalars = (__local {dot.ctype} *)panel;")
                with w.block(f"for (; k < count; k++) for (int l = 0; l < {self.columns}; l++)"):
                    value = w.read(dot.right_slot, f"from + k * {step_k} + l * {step_n}")
                    w.line(f"scalars[k * {self.columns} + l] = c + l < tile_columns ? {value} : 0;")

    def _pack_rows(self) -> None:
        """A row of the tile at a time, into all panels: long stretches of memory, which prefetching follows."""
        dot, w = self.dot, self.w
        step_k, to = w.number("right_k", self.right_k), f"panels + c * {self.slice // self.lanes} + k * {self.parts}"
        aligned = dot.vector_aligned(dot.right, len(dot.kernel.shape) - 1)
        with w.block("for (int k = 0; k < count; k++)"):
            w.line(f"const {w.index} line = right + (first_k + k) * {step_k} + first_n;")
            w.line("int c = 0;")
            with w.block(f"for (; c + {self.columns} <= tile_columns; c += {self.columns})"):
                w.line(f"__local {self.type} *to = {to};")
                for j in range(self.parts):
                    w.line(f"to[{j}] = {dot.load(dot.right_slot, f'line + c + {j * self.lanes}', aligned)};")
            if not (w.specialise and dot.n % self.columns == 0):
                with w.block("if (c < tile_columns)"):
                    w.line(f"__local {dot.ctype} *to = (__local {dot.ctype} *)({to});")
                    value = w.read(dot.right_slot, "line + c + l")
                    w.line(f"for (int l = 0; l < {self.columns}; l++) to[l] = c + l < tile_columns ? {value} : 0;")

    def _pack_transposed(self, step_n: str) -> None:
        """Squares of as many rows as a vector has lanes."""
        dot, w, lanes = self.dot, self.w, self.lanes
        aligned = dot.vector_aligned(dot.right, len(dot.kernel.shape) - 2)
        inside = f"if (c + {self.columns} <= tile_columns)"
        with w.block(f"{inside} for (; k + {lanes} <= count; k += {lanes}) for (int j = 0; j < {self.parts}; j++)"):
            w.line(f"const {w.index} line = from + k + j * {lanes} * {step_n};")
            rows = [dot.load(dot.right_slot, f"line + {i} * {step_n}", aligned) for i in range(lanes)]
            self._turn(rows, "k")

    def _turn(self, rows: list[str], k: str) -> None:
        """A square, given by its rows, into the panel from row `k` of it on."""
        w = self.w
        for i, name in enumerate(w.turned(self.type, rows)):
            w.line(f"panel[({k} + {i}) * {self.parts} + j] = {name};")

    def _unpack(self, packing: Packing) -> None:
        """Groups of packed numbers, those of `lanes` columns one below another; columns outside repeat the last."""
        dot, w, lanes = self.dot, self.w, self.lanes
        w.helpers.add((packing.helper, float32))
        step_n, n = w.number("right_n", self.right_n), w.number("N", dot.n)
        w.line(f"float rows[{lanes * GROUP}] __attribute__((aligned(128)));")
        with w.block(f"for (; k < count; k += {GROUP}) for (int j = 0; j < {self.parts}; j++)"):
            with w.block(f"for (int i = 0; i < {lanes}; i++)"):
                w.line(f"const {w.index} column = min(first_n + c + j * {lanes} + i, {n} - 1);")
                w.line(f"__global const uchar *row = x{dot.right_slot} + right + column * {step_n};")
                w.line(f"float16 *to = (float16 *)(rows + i * {GROUP});")
                w.line(f"{packing.helper}(row, (int)((first_k + k) / {GROUP}), to, to + 1);")
            with w.block(f"for (int part = 0; part < {GROUP}; part += {lanes})"):
                pieces = [f"*(const {self.type} *)(rows + {i * GROUP} + part)" for i in range(lanes)]
                self._turn(pieces, "k + part")

    def _pack_left(self) -> None:
        """Blocks of rows, for each k as many scalars as a block has rows; rows outside the matrix repeat the last."""
        dot, w = self.dot, self.w
        step = w.number("left_k", self.left_k)
        with w.block(f"for (int k = 0; k < count; k++) for (int r = 0; r < tile_rows; r += {self.rows})"):
            w.line(f"const {w.index} line = left + first_m + (first_k + k) * {step};")
            w.line(f"__local {dot.ctype} *to = blocks + r * {self.step} + k * {self.rows};")
            with w.block(f"if (r + {self.rows} <= tile_rows)"):
                at = 0
                for size in [8] * (self.rows // 8) + [part for part in (4, 2, 1) if self.rows & part]:
                    line = f"x{dot.left_slot} + line + r + {at}"
                    copy = f"vstore{size}(vload{size}(0, {line}), 0, to + {at});"
                    w.line(copy if size > 1 else f"to[{at}] = *({line});")
                    at += size
            value = w.read(dot.left_slot, "line + min(r + i, tile_rows - 1)")
            w.line(f"else for (int i = 0; i < {self.rows}; i++) to[i] = {value};")

    def _whole_rows(self) -> bool:
        return self.w.specialise and self.dot.m % self.rows == 0

    # -- computing ------------------------------------------------------------------------------------------------

    def _block(self) -> None:
        """A block of rows times the panel, added to what the tile holds from earlier slices."""
        dot, w = self.dot, self.w
        step_m, step_k = w.number("left_m", self.left_m), w.number("left_k", self.left_k)
        if self.pack_left:
            w.line(f"__local const {dot.ctype} *a = blocks + r * {self.step};")
        else:
            for i in range(self.rows):
                row = f"r + {i}" if self._whole_rows() else f"min(r + {i}, tile_rows - 1)"
                start = f"left + (first_m + {row}) * {step_m} + first_k * {step_k}"
                w.line(f"__global const {dot.ctype} *a{i} = x{dot.left_slot} + {start};")
        step = f"({w.number('tile_n', self.tile[1])} / {self.lanes})"
        w.line(f"__local {self.type} *at = tile + r * {step} + c / {self.lanes};")
        sums = [[f"s{i}_{j}" for j in range(self.parts)] for i in range(self.rows)]
        places = [[f"at[{i} * {step} + {j}]" for j in range(self.parts)] for i in range(self.rows)]
        w.line(f"{self.type} {', '.join(f'{name} = 0' for row in sums for name in row)};")
        with w.block("if (first_k > 0)"):
            for i in range(self.rows):
                w.line(" ".join(f"{s} = {p};" for s, p in zip(sums[i], places[i])))
        with w.block("for (int k = 0; k < count; k++)"):
            w.line(CONTRACT)
            for j in range(self.parts):
                w.line(f"const {self.type} b{j} = panel[k * {self.parts} + {j}];")
            for i in range(self.rows):
                if self.pack_left:
                    scalar = f"a[k * {self.rows} + {i}]"
                else:  # through pointers, because compilers put index arithmetic for all rows into vectors
                    scalar = f"a{i}[k]" if self.left_k == 1 else f"a{i}[k * {step_k}]"
                w.line(f"const {self.type} v{i} = ({self.type})({scalar});")
                w.line(" ".join(f"{s} = v{i} * b{j} + {s};" for j, s in enumerate(sums[i])))
        for i in range(self.rows):
            w.line(" ".join(f"{p} = {s};" for s, p in zip(sums[i], places[i])))

    def _rest(self) -> None:
        """A loop of its own: compilers keep its constants in registers throughout, which the blocks need."""
        dot, w = self.dot, self.w
        tile_n = w.number("tile_n", self.tile[1])
        whole = w.specialise and dot.n % self.tile[1] == 0
        with w.block("for (int r = 0; r < tile_rows; r++)"):
            w.line(f"const {w.index} m = first_m + r, n0 = first_n;")
            w.line(f"__local const {dot.ctype} *sums = (__local const {dot.ctype} *)tile + r * {tile_n};")
            dot.finish_row("sums", tile_n if whole else "tile_columns", whole)
