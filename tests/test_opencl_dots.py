"""Dots of the OpenCL backend give what NumPy's give, whatever the layout, the raggedness and the tiles."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from opencl_helpers import Batch, Body, bits, near, place, same

from clgrad.backends import dtypes
from clgrad.backends.opencl.backend import OpenCLBackend
from clgrad.backends.opencl.panels import block_of, tile_of
from clgrad.backends.opencl.shapes import TABLE, shapes_for, tile_bytes, within
from clgrad.backends.view import View


def dot_kernel(a, b, turn_a=False, turn_b=False, batch=(), epilogue=None):
    """a @ b where each operand lies as given, or transposed in memory."""
    m, n = a.shape[-2], b.shape[-1]
    rank = len(batch)

    def laid(x, turned):
        if not turned:
            return np.ascontiguousarray(x), View.contiguous(x.shape)
        flat = np.ascontiguousarray(np.swapaxes(x, -1, -2))
        return flat, View.contiguous(flat.shape).permute((*range(rank), rank + 1, rank))

    (left, left_view), (right, right_view) = laid(a, turn_a), laid(b, turn_b)
    body = Body((*batch, m, n))
    slots = body.slot(left), body.slot(right)
    value = body.add("dot", arg=(slots[0], left_view, slots[1], right_view), dtype=a.dtype)
    if epilogue is not None:
        value = body.add("add", value, body.load(epilogue, View((*batch, m, n), (*(0,) * (rank + 1), 1))))
        value = body.add("max", value, body.const(0, a.dtype))
    return body, body.kernel("dot", [value], name="dot")


def dot_reference(a, b):
    if a.dtype.kind in "iu":
        with np.errstate(all="ignore"):
            return np.matmul(a, b)
    return np.matmul(a.astype("f8"), b.astype("f8")).astype(a.dtype)


def dot_cases(batch, sizes, types):
    rng = np.random.default_rng(5)
    tolerance = {"float16": 4e-3, "float32": 2e-5, "float64": 1e-12}
    for m, k, n in sizes:
        for dtype in types:
            a, b = ((rng.normal(size=s) * 3).astype(dtype) for s in ((m, k), (k, n)))
            check = near(tolerance[dtype.name] * max(1, math.sqrt(k))) if dtype.kind == "f" else same
            for turn_a in (False, True):
                for turn_b in (False, True):
                    body, kernel = dot_kernel(a, b, turn_a, turn_b)
                    batch.add(
                        kernel, body.arrays, [dot_reference(a, b)], check, f"dot {m} {k} {n} {dtype} {turn_a} {turn_b}"
                    )


SIZES = [(1, 1, 1), (3, 17, 33), (130, 33, 17), (17, 130, 3), (1, 130, 64), (33, 64, 128), (64, 17, 130), (8, 3, 16)]


def test_dots_of_every_layout_and_ragged_size(backend):
    batch = Batch(backend)
    dot_cases(batch, SIZES, [dtypes.float32])
    batch.run_both()


def test_dots_of_every_dtype(backend):
    batch = Batch(backend)
    dot_cases(
        batch, [(17, 33, 40), (4, 70, 16)], [dtypes.float16, dtypes.float64, dtypes.int32, dtypes.int8, dtypes.uint64]
    )
    batch.run()


def test_batched_dots_with_work_after_them(backend):
    batch = Batch(backend)
    rng = np.random.default_rng(6)
    for m, k, n in [(5, 33, 48), (17, 16, 35), (3, 4, 5)]:
        a, b = rng.normal(size=(2, 3, m, k)).astype("f4"), rng.normal(size=(2, 3, k, n)).astype("f4")
        bias = rng.normal(size=n).astype("f4")
        for turn_b in (False, True):
            body, kernel = dot_kernel(a, b, turn_b=turn_b, batch=(2, 3), epilogue=bias)
            want = np.maximum(dot_reference(a, b) + bias, 0)
            batch.add(kernel, body.arrays, [want], near(1e-4), f"batched {m} {k} {n} {turn_b}")
    batch.run_both(offset=256)


def test_dot_may_write_over_an_operand_of_its_epilogue(backend):
    """The residual's buffer is the output's: overlapping edge blocks may not read what another has written."""
    rng = np.random.default_rng(7)
    for m, k, n in [(33, 20, 50), (9, 40, 37)]:
        a, b, c = (rng.normal(size=s).astype("f4") for s in ((m, k), (k, n), (m, n)))
        body = Body((m, n))
        slots = body.slot(a), body.slot(b)
        value = body.add(
            "dot", arg=(slots[0], View.contiguous((m, k)), slots[1], View.contiguous((k, n))), dtype=a.dtype
        )
        value = body.add("add", value, body.load(c))
        (executable,) = backend.lower([body.kernel("dot", [value])])
        left, right, both = (place(backend, x) for x in (a, b, c))
        executable.run([left, right, both, both])
        near(1e-4)(backend.download(both, a.dtype, m * n).reshape(m, n), dot_reference(a, b) + c)


# -- tiles and panels ---------------------------------------------------------------------------------------------


def test_large_dots_are_right_in_every_layout(backend):
    """Several tiles, several slices of K, and a ragged edge each."""
    batch = Batch(backend)
    dot_cases(batch, [(37, 290, 1000), (203, 130, 65), (65, 512, 512), (200, 129, 400)], [dtypes.float32])
    batch.run_both()


@pytest.mark.parametrize("row", TABLE)
def test_dots_shaped_for_other_devices_are_right_too(backend, row):
    """The registers of other CPUs, and of GPUs, run on whatever device there is."""
    shapes = within(dataclasses.replace(TABLE[row], dot_pack_from=500), backend.device.local_mem_size)
    batch = Batch(OpenCLBackend(backend.device, "CL", shapes))
    dot_cases(batch, [(17, 33, 130), (1, 3, 17), (203, 130, 65), (45, 20, 192)], [dtypes.float32])
    batch.run_both()


def test_tiles_do_not_change_a_bit(backend):
    """More processors get smaller tiles, and the same numbers."""
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(100, 300)).astype("f4"), rng.normal(size=(300, 90)).astype("f4")
    results = []
    largest = within(TABLE["cpu"], backend.device.local_mem_size)
    for changes in ({}, {"dot_tile": (32, 32)}, {"dot_tiles": 64}, {"dot_pack_from": 1}, {"dot_memory": 2**17}):
        shapes = dataclasses.replace(largest, **changes)
        batch = Batch(OpenCLBackend(backend.device, "CL", shapes))
        for turn_a in (False, True):
            body, kernel = dot_kernel(a, b, turn_a, turn_b=True)
            batch.add(kernel, body.arrays, [dot_reference(a, b)], near(1e-4))
        results.append([bits(out) for (out,) in batch.run()])
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_products_that_are_not_finite_stay_where_they_belong(backend):
    """Columns that only fill up a panel, and rows that only fill up a block, multiply nothing into the others."""
    a, b = np.ones((9, 20), "f4"), np.ones((20, 40), "f4")
    a[8, 3], b[5, 39] = math.inf, math.nan
    want = np.full((9, 40), 20, "f4")
    want[8], want[:, 39] = math.inf, math.nan
    batch = Batch(backend)
    for turn_a in (False, True):
        for turn_b in (False, True):
            body, kernel = dot_kernel(a, b, turn_a, turn_b)
            batch.add(kernel, body.arrays, [want], same, f"{turn_a} {turn_b}")
    batch.run_both()


def test_dots_over_nothing_are_zero(backend):
    body = Body((9, 12))
    slots = body.slot(np.zeros(1, "f4")), body.slot(np.zeros(1, "f4"))
    views = View.contiguous((9, 0)), View.contiguous((0, 12))
    value = body.add("dot", arg=(slots[0], views[0], slots[1], views[1]), dtype=dtypes.float32)
    batch = Batch(backend)
    batch.add(body.kernel("dot", [value]), body.arrays, [np.zeros((9, 12), "f4")], same)
    batch.run_both()


def test_the_rest_of_a_body_runs_on_every_column(backend):
    """Outputs of several types and layouts, beside columns that are no whole vector."""
    rng = np.random.default_rng(9)
    batch = Batch(backend)
    for m, k, n in [(20, 40, 37), (16, 30, 64)]:
        a, b, c = (rng.normal(size=s).astype("f4") for s in ((m, k), (k, n), (m, n)))
        body = Body((m, n))
        slots = body.slot(a), body.slot(b)
        arg = (slots[0], View.contiguous((m, k)), slots[1], View.contiguous((k, n)))
        value = body.add("add", body.add("dot", arg=arg, dtype=a.dtype), body.load(c))
        less = body.add("lt", value, body.const(0, a.dtype), dtype=dtypes.bool_)
        kernel = body.kernel("dot", [value, less, value], views=[View.contiguous((m, n))] * 2 + [View((m, n), (1, m))])
        want = dot_reference(a, b) + c
        batch.add(
            kernel, body.arrays, [want, want < 0, want.T], [near(1e-4), same, near(1e-4)], ["sum", "lt", "turned"]
        )
    batch.run_both()


def test_tiles_cover_whole_blocks_and_there_are_enough_where_there_can_be():
    for name in ("cpu", "cpu 8", "cpu 4"):
        shapes = TABLE[name]
        for m, n, k in itertools.product((8, 65, 128, 768, 4096), (8, 65, 384, 1536), (1, 128, 4096)):
            for pack_left in (False, True):
                rows, columns = tile_of(m, n, k, 1, shapes, pack_left)
                block = block_of(n, shapes)
                assert rows % block[0] == columns % block[1] == 0
                assert rows <= shapes.dot_tile[0] and columns <= shapes.dot_tile[1]
                assert tile_bytes(shapes, (rows, columns), pack_left) <= shapes.dot_memory
                tiles = math.ceil(m / rows) * math.ceil(n / columns)
                assert tiles >= shapes.dot_tiles or math.ceil(m / block[0]) * math.ceil(n / block[1]) < 4
                if m * n > 4096 * 65:  # two processors, and neither does much more than its half
                    assert math.ceil(tiles / 2) * rows * columns <= 1.1 * m * n / 2


def test_tiles_take_whole_rows_where_storing_counts():
    """With few products an element it does; with many, fewer columns to pack count for more."""
    assert tile_of(768, 512, 128, 1, TABLE["cpu"], False)[1] == 512
    assert tile_of(768, 512, 4096, 1, TABLE["cpu"], False)[1] < 512


def test_tiles_fit_the_local_memory_of_the_device():
    for memory in (2**20, 2**18, 2**15):
        for vector in (16, 8, 4):
            shapes = shapes_for("cpu", vector, 2, memory)
            assert shapes.dot_tile != (0, 0)
            for pack_left in (False, True):
                assert tile_bytes(shapes, tile_of(4096, 4096, 512, 1, shapes, pack_left), pack_left) <= memory
    assert shapes_for("cpu", 16, 2, 2**10).dot_tile == (0, 0)
