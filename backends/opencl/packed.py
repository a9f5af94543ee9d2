"""Dots with packed weights: blocks of a few bits a number (`backends/packing.py`), unpacked where they are multiplied.

A work-item has some rows of the left operand and some columns, which are rows of blocks. It walks along them 32 numbers
at a time: unpacks those of each column into two vectors, and multiplies them with the left rows' numbers. On a GPU a
team of work-items shares this walk, and adds up what each has found in local memory. With more rows, CPUs unpack into
panels instead (`panels.py`): then each number is unpacked once for all rows of a tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dtypes import float32
from ..packing import GROUP, Packing
from .shapes import next_power
from .writer import Rendered

if TYPE_CHECKING:
    from .dot import Dot

CONTRACT = "#pragma OPENCL FP_CONTRACT ON"
AHEAD = 2  # work-items whose blocks are asked for in advance
HALF = GROUP // 2  # lanes of the vectors that a group is unpacked to


class Packed:
    """Renders one dot kernel. What all forms of dots share comes from `dot.Dot`."""

    def __init__(self, dot: Dot):
        self.dot, self.w = dot, dot.w
        most_rows, self.columns = dot.shapes.packed_block
        self.rows = min(most_rows, next_power(dot.m))
        self.team = dot.shapes.packed_team

    def render(self) -> Rendered:
        dot, w = self.dot, self.w
        packing = dot.kernel.packing
        assert packing is not None
        place = "get_group_id(0)" if self.team > 1 else "get_global_id(0)"
        w.line(f"const {w.index} own_n = {place} * {self.columns}, n0 = own_n, m0 = get_global_id(1) * {self.rows};")
        w.line(f"const {w.index} left = {dot.base('left', dot.left)}, right = {dot.base('right', dot.right)};")
        dot._rows("a", dot.left, "left", self.rows, -2, "m0", dot.m, "M")
        dot._rows("b", dot.right, "right", self.columns, -1, "own_n", dot.n, "N")
        sums = [[f"s{r}_{j}" for j in range(self.columns)] for r in range(self.rows)]
        w.line(f"float{HALF} {', '.join(f'{name} = 0' for row in sums for name in row)};")
        start = "get_local_id(0)" if self.team > 1 else "0"
        groups = w.number("groups", dot.k // GROUP)
        with w.block(f"for (int g = {start}; g < {groups}; g += {self.team})"):
            w.line(CONTRACT)
            for r in range(self.rows):
                for half in range(2):
                    w.line(f"const float{HALF} x{r}_{half} = {self._left(r, half)};")
            w.line(f"float{HALF} {', '.join(f'low{j}, high{j}' for j in range(self.columns))};")
            if packing.halves and 1 < self.columns <= 8:
                self._unpack_together(packing)
            else:
                w.helpers.add((packing.helper, float32))
                for j in range(self.columns):
                    w.line(f"{packing.helper}(x{dot.right_slot} + b{j}, g, &low{j}, &high{j});")
            for j in range(self.columns):
                for r in range(self.rows):
                    w.line(f"{sums[r][j]} = x{r}_0 * low{j} + {sums[r][j]};")
                    w.line(f"{sums[r][j]} = x{r}_1 * high{j} + {sums[r][j]};")
        size = self.rows * self.columns
        w.line(f"float tile[{size}];")
        for r in range(self.rows):
            for j in range(self.columns):
                w.line(f"tile[{r * self.columns + j}] = {w.lane_sum(dot.ctype, sums[r][j], HALF)};")
        if self.team > 1:
            self._add_up(size)
        clipped = not (w.specialise and dot.n % self.columns == 0)
        dot._store_block(self.rows, self.columns, lambda: f"tile[r * {self.columns} + l]", "own_n", clipped)
        across, down = -(-dot.n // self.columns), -(-dot.m // self.rows)
        return w.finish((across * self.team, down), (self.team, 1), wide_vectors=True)

    def _unpack_together(self, packing: Packing) -> None:
        """A group of each column. What the processor will read next is asked for: of rows of blocks side by side it
        does not guess that."""
        w, dot, lanes = self.w, self.dot, self.columns * packing.halves
        w.helpers |= {(packing.integer_helper, float32), (f"halves{lanes}", float32), ("fetch", float32)}
        ahead = AHEAD * self.columns * packing.row_bytes(dot.k)
        for j in range(self.columns):
            w.line(f"__global const uchar *block{j} = x{dot.right_slot} + b{j} + g * {packing.nbytes};")
            w.line(f"FETCH(block{j} + {w.number('ahead', ahead)});")
            w.line(f"{packing.integer_helper}(block{j}, &low{j}, &high{j});")
        blocks = [f"(__global const ushort *)block{j}" for j in range(self.columns)]
        if packing.halves == 2:
            pairs = ", ".join(f"as_uint(vload2(0, {block}))" for block in blocks)
            halves = f"as_short{lanes}((uint{self.columns})({pairs}))"
        else:
            halves = f"as_short{lanes}((ushort{lanes})({', '.join(f'*({block})' for block in blocks)}))"
        w.line(f"const float{lanes} scales = halves{lanes}({halves});")
        for j in range(self.columns):
            d, *m = (f"scales.s{j * packing.halves + i:x}" for i in range(packing.halves))
            for name in (f"low{j}", f"high{j}"):
                w.line(f"{name} = {' + '.join([f'{name} * {d}', *m])};")

    def _left(self, row: int, half: int) -> str:
        """Half a group of a row of the left operand. Loads of sixteen are avoided: they hang on one runtime."""
        dot, step = self.dot, self.dot.left.strides[-1]
        if step == 1:
            at = f"x{dot.left_slot} + a{row} + g * {GROUP} + {half * HALF}"
            return f"(float{HALF})(vload8(0, {at}), vload8(1, {at}))"
        k = self.w.number("left_k", step)
        lanes = (self.w.read(dot.left_slot, f"a{row} + (g * {GROUP} + {half * HALF + i}) * {k}") for i in range(HALF))
        return f"(float{HALF})({', '.join(lanes)})"

    def _add_up(self, size: int) -> None:
        """The team's sums in the first of its work-items, the only one that goes on."""
        w, team = self.w, self.team
        w.line(f"__local float shared[{size * team}];")
        w.line("const int member = get_local_id(0);")
        w.line(f"for (int i = 0; i < {size}; i++) shared[i * {team} + member] = tile[i];")
        with w.block(f"for (int apart = {team // 2}; apart > 0; apart /= 2)"):
            w.line("barrier(CLK_LOCAL_MEM_FENCE);")
            inner = f"shared[i * {team} + member] += shared[i * {team} + member + apart];"
            w.line(f"if (member < apart) for (int i = 0; i < {size}; i++) {inner}")
        w.line("if (member > 0) return;")
        w.line(f"for (int i = 0; i < {size}; i++) tile[i] = shared[i * {team}];")
