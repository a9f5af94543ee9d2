"""Block and work-group sizes as data, one row a kind of device: kernels are shaped by the device that runs them.

A CPU wants few fat work-items whose inner loops fill its vector registers; a GPU wants many thin ones. The renderer
reads these numbers and holds none of its own. Most decide the order of summation, so they depend on the device's model
alone, never on a timing. (The tiles of dots and the columns of a work-item decide no order, and follow the number of
processors.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..dtypes import DType, float32, float64


@dataclass(frozen=True)
class Shapes:
    processors: int = 2  # as many tiles of a dot are computed at once
    loop_group: tuple[int, int] = (256, 1)  # (innermost dimension, outer dimensions) of an elementwise work-group
    narrow_group: tuple[int, int] = (8, 8)  # the same where the innermost dimension is shorter than `narrow`
    narrow: int = 32
    loop_flat: bool = False  # every element of a loop along dimension 0 of the launch
    vectors: bool = True  # loops and rows are written in vectors of `row_lanes`, where they can be; else in plain loops
    vector_group: int = 64  # vectors of an elementwise work-group
    row_lanes: int = 16  # independent accumulators of a row's reduction, each a vector lane
    column_lanes: int = 32  # columns of a work-item that reduces along a strided axis
    column_parts: int = 8  # the most vectors of columns instead, where rows are written in vectors
    column_items: int = 2  # work-items wanted of them
    row_kept: int = 4096  # the longest row of which dear values are kept from one pass to the next
    row_group: int = 8  # rows a work-group, where there are at least `many_rows`
    many_rows: int = 64
    row_team: int = 0  # work-items that share one row through local memory; 0: one work-item a row
    dot_vector: int = 16  # elements of the vectors of a dot
    # Rows and columns of a work-item without panels, where the right operand's rows are contiguous.
    dot_outer: tuple[int, int] = (8, 32)
    dot_inner: tuple[int, int] = (4, 4)  # the same where both operands are contiguous along the summed axis
    dot_group: tuple[int, int] = (1, 8)  # work-group in (column blocks, row blocks)
    # Dots in panels (`panels.py`): how they use the registers and each level of the cache.
    dot_tile: tuple[int, int] = (0, 0)  # the most rows and columns of a work-item's tile; (0, 0): no panels
    dot_memory: int = 2**20  # bytes of local memory that a tile takes with its panels, at most
    dot_tiles: int = 4  # tiles wanted of a result, so that no processor waits for long at its end
    dot_packing: int = 20  # rows whose products with a row take as long as packing that row
    dot_partial: int = 6  # products that take as long as it takes longer to store an element in part of a row
    dot_block: tuple[int, int] = (8, 32)  # rows and columns of the block that the registers hold
    dot_wide_block: tuple[int, int] = (6, 64)  # the same where it divides the columns of the result
    dot_slice: int = 128  # rows of a panel, which is to stay in the first-level cache
    dot_apart: int = 2  # unused rows between packed blocks: a power of two apart, they would evict one another
    dot_pack_from: int = 2**19  # elements that a left operand contiguous along M spans to be packed as well
    dot_plain_group: tuple[int, int] = (16, 1)  # work-group of the kernel of one element a work-item
    packed_block: tuple[int, int] = (4, 4)  # rows and columns of a work-item of a dot with packed weights
    packed_team: int = 1  # work-items that share one of them
    attention_lanes: int = 32  # rows that a work-item of attention holds, as lanes of vectors, at most
    attention_step: int = 8  # rows or columns that it then takes at once of what it reads; more if it holds fewer
    attention_block: int = 64  # rows that it reads between two passes over their scores
    attention_group: int = 1  # work-items of a group
    attention_heads: int = 16  # from so many on, a work-item computes all gradients of a head
    sort_share: int = 256  # elements that a work-item merges; a power of two from SHORT (`sort.py`) on
    sort_group: int = 1  # work-items of a group
    scatter_lanes: int = 32  # columns of a work-item of scatter
    scatter_parts: int = 8  # row ranges that scatter over narrow rows is cut into

    def dot_lanes(self, dtype: DType) -> int:
        """Elements of a dot's vectors. Halves are computed in float32, but have no safe load of sixteen."""
        return {float32: self.dot_vector, float64: self.dot_vector // 2}.get(dtype, min(8, self.dot_vector))


TABLE = {
    "cpu": Shapes(dot_tile=(384, 512)),  # vectors of 16 floats, and 32 registers of them (AVX-512)
    "cpu 8": Shapes(
        row_lanes=8, dot_vector=8, dot_outer=(4, 16), dot_inner=(2, 4), dot_group=(1, 32), dot_tile=(384, 512),
        dot_block=(6, 16), dot_wide_block=(4, 24), attention_lanes=16, attention_step=6, attention_block=66,
    ),  # 16 registers of 8 (AVX2)
    "cpu 4": Shapes(
        dot_vector=4, dot_outer=(4, 8), dot_inner=(2, 4), dot_group=(1, 32), dot_tile=(384, 512), dot_block=(4, 8),
        dot_wide_block=(4, 8),
    ),
    "gpu": Shapes(
        loop_group=(128, 1), loop_flat=True, vectors=False, row_lanes=1, column_lanes=1, row_group=64, row_team=128,
        dot_vector=4, dot_outer=(4, 4), dot_inner=(4, 4), dot_group=(16, 8), dot_plain_group=(16, 8),
        sort_share=16, sort_group=64, scatter_lanes=1, scatter_parts=256,
        packed_block=(4, 1), packed_team=32,
        attention_lanes=1, attention_step=4, attention_block=16, attention_group=64,
        attention_heads=2**31,
    ),
}  # fmt: skip
# What is known of the makes of GPUs: how many work-items run in step (32; 64; 8 to 32; 16 to 128), and how many
# registers each has. `clgrad tune` finds better numbers for the one at hand.
TABLE |= {
    "nvidia": replace(TABLE["gpu"], loop_group=(256, 1), row_team=128),
    "amd": replace(TABLE["gpu"], loop_group=(256, 1), row_team=256, row_group=128),
    "intel gpu": replace(TABLE["gpu"], row_team=64, dot_group=(8, 8), dot_plain_group=(16, 4)),
    "mobile": replace(TABLE["gpu"], loop_group=(64, 1), row_team=64, dot_group=(8, 8), dot_plain_group=(8, 8)),
}
MAKES = {  # what a platform's vendor contains, in small letters
    "nvidia": "nvidia", "advanced micro devices": "amd", "amd": "amd", "intel": "intel gpu",
    "qualcomm": "mobile", "arm": "mobile", "imagination": "mobile", "samsung": "mobile",
}  # fmt: skip
GROUPS = ("loop_group", "narrow_group", "dot_group", "dot_plain_group")
LONG_GROUPS = ("vector_group", "row_group", "row_team", "packed_team", "attention_group", "sort_group")


def shapes_for(
    kind: str, vector: int, processors: int, local_memory: int, vendor: str = "", work_group: int = 2**16
) -> Shapes:
    """The row of the table for a device, with tiles of dots that there are enough of and that its memory holds.

    `kind` as in DeviceInfo, `vector` the floats in its registers, `local_memory` in bytes, `vendor` as the device says,
    `work_group` the most work-items of one.
    """
    if kind != "cpu":
        make = next((row for word, row in MAKES.items() if word in vendor.lower()), "gpu")
        return limited(TABLE[make], work_group)
    shapes = TABLE["cpu" if vector >= 16 else "cpu 8" if vector >= 8 else "cpu 4"]
    shapes = replace(
        shapes,
        processors=processors,
        column_items=max(shapes.column_items, processors),
        dot_tiles=max(shapes.dot_tiles, 2 * processors),
    )
    return within(shapes, local_memory)


def limited(shapes: Shapes, work_group: int) -> Shapes:
    """The same with no work-group of more than `work_group` work-items."""
    changes: dict[str, Any] = {}
    for name in LONG_GROUPS:
        size = getattr(shapes, name)
        while size > work_group:
            size //= 2
        changes[name] = size
    for name in GROUPS:
        across, down = getattr(shapes, name)
        while across * down > work_group:
            across, down = (across // 2, down) if across >= down else (across, down // 2)
        changes[name] = across, down
    return replace(shapes, **changes)


def tile_bytes(shapes: Shapes, tile: tuple[int, int], pack_left: bool) -> int:
    """Local memory that a dot of such tiles takes: the tile itself, panels, and perhaps blocks of the left operand."""
    rows, columns = tile
    blocks = (shapes.dot_slice + shapes.dot_apart) * rows if pack_left else 0
    return 4 * (rows * columns + shapes.dot_slice * columns + blocks)


def within(shapes: Shapes, local_memory: int) -> Shapes:
    """The same for a device with so many bytes of local memory: without blocks that do not fit, or without panels."""

    def fits(block: tuple[int, int]) -> bool:
        return tile_bytes(shapes, block, pack_left=True) <= local_memory

    if not fits(shapes.dot_block):
        return replace(shapes, dot_tile=(0, 0))
    wide = shapes.dot_wide_block if fits(shapes.dot_wide_block) else shapes.dot_block
    return replace(shapes, dot_memory=min(shapes.dot_memory, local_memory), dot_wide_block=wide)


def next_power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
