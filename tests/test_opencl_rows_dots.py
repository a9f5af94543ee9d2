"""The OpenCL backend's reductions and contractions give what NumPy's give, whatever the layout and the raggedness."""

import dataclasses
import math

import numpy as np
from opencl_helpers import Batch, Body, near, place, quiet, same, scatter_case

from clgrad.backends import dtypes
from clgrad.backends.opencl import device as opencl_device
from clgrad.backends.opencl.shapes import TABLE
from clgrad.backends.view import View

# -- rows ---------------------------------------------------------------------------------------------------------


def softmax_kernel(x, axis=-1):
    axis %= x.ndim
    body = Body(x.shape)
    value = body.load(x)
    shifted = body.add("sub", value, body.add("reduce_max", value))
    power = body.add("exp", shifted)
    return body, body.kernel("row", [body.add("div", power, body.add("reduce_sum", power))], (axis,), name="softmax")


def layernorm_kernel(x, gain):
    """Two outputs of the row's shape and one a row: (x - mean) * rstd * gain, and rstd."""
    rows, columns = x.shape
    body = Body(x.shape)
    value = body.load(x)
    scale = body.const(1 / columns, x.dtype)
    centred = body.add("sub", value, body.add("mul", body.add("reduce_sum", value), scale))
    variance = body.add("mul", body.add("reduce_sum", body.add("mul", centred, centred)), scale)
    root = body.add("sqrt", body.add("add", variance, body.const(1e-5, x.dtype)))
    rstd = body.add("reciprocal", root)
    scaled = body.add("mul", body.add("mul", centred, rstd), body.load(gain, View((rows, columns), (0, 1))))
    views = [View.contiguous((rows, columns)), View((rows, columns), (1, 0)), View.contiguous((rows, columns))]
    return body, body.kernel("row", [scaled, rstd, centred], (1,), views, name="layernorm")


def reduced_view(shape, axes):
    """Contiguous over the axes that are left, stride 0 along the others."""
    kept = View.contiguous(tuple(1 if a in axes else n for a, n in enumerate(shape)))
    return View(shape, kept.strides)


REDUCE = {"reduce_sum": np.sum, "reduce_max": np.max, "reduce_prod": np.prod}


def reduced(op, x, axis):
    """The reduction by NumPy, in the dtype of `x`; sums and products of float16 in float32, rounded once."""
    if op == "reduce_max":
        return x.max(axis)
    if x.dtype.kind == "b":
        return x.any(axis) if op == "reduce_sum" else x.all(axis)
    return REDUCE[op](x, axis=axis, dtype="f4" if x.dtype == np.float16 else x.dtype).astype(x.dtype)


def row_cases(batch, sizes=((6, 130), (3, 16), (70, 5), (1, 1000), (4, 1))):
    rng = np.random.default_rng(3)
    for shape in sizes:
        x = rng.normal(size=shape).astype("f4")
        for axis in (0, 1):
            body, kernel = softmax_kernel(x, axis)
            e = np.exp(x.astype("f8") - x.max(axis, keepdims=True))
            batch.add(
                kernel, body.arrays, [(e / e.sum(axis, keepdims=True)).astype("f4")], near(1e-5), f"softmax {shape}"
            )
        gain = rng.normal(size=shape[1]).astype("f4")
        body, kernel = layernorm_kernel(x, gain)
        centred = x.astype("f8") - x.mean(1, keepdims=True, dtype="f8")
        rstd = 1 / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        want = [(centred * rstd * gain).astype("f4"), rstd[:, 0].astype("f4"), centred.astype("f4")]
        batch.add(kernel, body.arrays, want, near(1e-4), f"layernorm {shape}")
    x = rng.normal(size=(4, 5, 6, 37))
    for axes in [(0,), (3,), (0, 1), (1, 2), (0, 3), (1, 3), (0, 1, 2, 3), (2,)]:
        for dtype in (dtypes.float32, dtypes.int32):
            y = (x * (3 if dtype.kind == "i" else 1)).astype(dtype)
            body = Body(y.shape)
            loaded = body.load(y)
            values = [body.add(op, loaded) for op in REDUCE]
            wants = [np.asarray(quiet(reduced, op, y, axes), dtype) for op in REDUCE]
            checks = [same if dtype.kind == "i" or op == "reduce_max" else near(1e-3) for op in REDUCE]
            kernel = body.kernel("row", values, axes, [reduced_view(y.shape, axes)] * 3, name="reductions")
            batch.add(kernel, body.arrays, wants, checks, [f"{op} {axes} {dtype}" for op in REDUCE])


def test_rows_several_stages_axes_and_column_sums(backend):
    batch = Batch(backend)
    row_cases(batch)
    batch.run_both()


def test_row_kernels_shaped_for_a_gpu_are_right_too():
    """The work-group-a-row and column shapes of GPUs, run on whatever device there is."""
    device = opencl_device._find()[0][0]
    from clgrad.backends.opencl.backend import OpenCLBackend

    gpu = OpenCLBackend(device, "CL", dataclasses.replace(TABLE["gpu"], row_team=16))
    batch = Batch(gpu)
    row_cases(batch, sizes=((6, 130), (70, 5)))
    dot_cases(batch, [(17, 33, 130), (1, 3, 17)], [dtypes.float32])
    values, index = np.arange(12.0, dtype="f4").reshape(6, 2), np.array([1, 0, 1, 3, 3, 1])
    scatter_case(batch, values, index, 4)
    batch.run()


def test_reductions_of_every_dtype(backend):
    batch = Batch(backend)
    rng = np.random.default_rng(4)
    for dtype in dtypes.ALL:
        x = (
            rng.integers(0, 2, (5, 40)).astype(dtype)
            if dtype.kind == "b"
            else (rng.normal(size=(5, 40)) * 4).astype("i8").astype(dtype)
        )
        body = Body(x.shape)
        loaded = body.load(x)
        values, wants = [body.add(op, loaded) for op in REDUCE], [quiet(reduced, op, x, 1) for op in REDUCE]
        kernel = body.kernel("row", values, (1,), [View((5, 40), (1, 0))] * 3)
        batch.add(kernel, body.arrays, wants, near(1e-5 if dtype != dtypes.float16 else 1e-3), f"{dtype}")
    nan = np.array([[1, math.nan, 3], [-math.inf, 2, 1], [-math.inf] * 3], "f4")
    body = Body(nan.shape)
    batch.add(body.kernel("row", [body.add("reduce_max", body.load(nan))], (1,), [View((3, 3), (1, 0))]), body.arrays,
              [quiet(np.max, nan, 1)], same)  # fmt: skip
    body = Body((3, 20))  # a value constant along the row is still summed as often as the row is long
    total = body.add("reduce_sum", body.const(0.5, dtypes.float32))
    batch.add(body.kernel("row", [total], (1,), [View((3, 20), (1, 0))]), [], [np.full(3, 10, "f4")])
    batch.run_both()


def test_half_sums_are_accumulated_in_float32(backend):
    x = np.full((2, 5000), 1, np.float16)  # in half precision the sum would stop at 2048
    body = Body(x.shape)
    kernel = body.kernel("row", [body.add("reduce_sum", body.load(x))], (1,), [View((2, 5000), (1, 0))])
    batch = Batch(backend)
    batch.add(kernel, body.arrays, [np.full(2, 5000, np.float16)])
    batch.run()


# -- dots ---------------------------------------------------------------------------------------------------------


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


def test_dots_that_copy_panels_of_a_large_right_operand(backend):
    batch = Batch(backend)
    dot_cases(batch, [(37, 290, 1000), (65, 512, 512)], [dtypes.float32])
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
