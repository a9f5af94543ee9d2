"""The OpenCL backend's reductions and contractions give what NumPy's give, whatever the layout and the raggedness."""

import dataclasses
import math

import numpy as np
from opencl_helpers import Batch, Body, near, quiet, same, scatter_case

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


def test_sums_down_several_vectors_of_columns(backend):
    """What a layer norm's gradients of gain and bias are made of, where a work-item holds 2, 4 or 8 vectors."""
    rng, batch = np.random.default_rng(4), Batch(backend)
    for outer, rows, columns in [(1, 30, 64), (3, 7, 96), (1, 21, 128), (2, 5, 320), (1, 9, 1024), (4, 1, 128)]:
        shape, kept = (outer, rows, columns), (outer, 1, columns)
        x, g = (rng.normal(size=shape).astype("f4") for _ in range(2))
        mean, factor = rng.normal(size=(outer, rows)).astype("f4"), rng.normal(size=columns).astype("f4")
        body = Body(shape)
        centred = body.add("sub", body.load(x), body.load(mean, View(shape, (rows, 1, 0))))
        gradient = body.load(g)
        total = body.add("reduce_sum", body.add("mul", gradient, centred))
        scaled = body.add("mul", total, body.load(factor, View(shape, (0, 0, 1))))
        values = [scaled, body.add("reduce_sum", gradient), body.add("reduce_max", gradient)]
        kernel = body.kernel("row", values, (1,), [reduced_view(shape, (1,))] * 3, name="columns")
        product = (g.astype("f8") * (x - mean[..., None].astype("f8"))).sum(1) * factor
        want = [product.astype("f4"), g.sum(1, dtype="f8").astype("f4"), g.max(1)]
        batch.add(kernel, body.arrays, [w.reshape(kept) for w in want], [near(1e-4), near(1e-4), same], f"{shape}")
    batch.run_both()


def test_row_kernels_shaped_for_a_gpu_are_right_too():
    """The work-group-a-row and column shapes of GPUs, run on whatever device there is."""
    device = opencl_device._find()[0][0]
    from clgrad.backends.opencl.backend import OpenCLBackend

    gpu = OpenCLBackend(device, "CL", dataclasses.replace(TABLE["gpu"], row_team=16))
    batch = Batch(gpu)
    row_cases(batch, sizes=((6, 130), (70, 5)))
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
