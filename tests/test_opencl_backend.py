"""The OpenCL backend runs every instruction of backends/kernel.py as NumPy would.

Kernels are built by hand here and results compared with NumPy's own functions. Building is what takes time, so each
test collects many kernels in a Batch and lowers them together.
"""

import dataclasses
import math

import numpy as np
import pytest

from clgrad.backends import dtypes
from clgrad.backends.base import DeviceError
from clgrad.backends.kernel import Instr, Kernel, Output, Scatter
from clgrad.backends.opencl import device as opencl_device
from clgrad.backends.opencl.shapes import TABLE
from clgrad.backends.view import View

if opencl_device.device_count() == 0:
    pytest.skip(f"no OpenCL device: {opencl_device._find()[1]}", allow_module_level=True)

FLOATS = (dtypes.float16, dtypes.float32, dtypes.float64)
INTS = tuple(d for d in dtypes.ALL if d.kind in "iu")


@pytest.fixture(scope="module")
def backend():
    return opencl_device.open_backend(0)


class Body:
    """Instructions of a kernel being written."""

    def __init__(self, shape):
        self.shape, self.instrs, self.inputs, self.arrays = tuple(shape), [], [], []

    def add(self, op, *src, arg=None, dtype=None):
        self.instrs.append(Instr(op, src, arg, dtype or self.instrs[src[-1]].dtype))
        return len(self.instrs) - 1

    def slot(self, array):
        self.inputs.append(array.dtype)
        self.arrays.append(np.ascontiguousarray(array).reshape(-1))
        return len(self.inputs) - 1

    def load(self, array, view=None):
        array = np.asarray(array)
        view = view or View.contiguous(array.shape)
        return self.add("load", arg=(self.slot(array), view), dtype=array.dtype)

    def const(self, value, dtype):
        return self.add("const", arg=value, dtype=dtype)

    def kernel(self, kind, outputs, reduce_axes=(), views=None, name="test"):
        views = views or [View.contiguous(self.shape)] * len(outputs)
        return Kernel(
            kind, self.shape, tuple(reduce_axes), tuple(self.instrs), tuple(map(Output, outputs, views)),
            tuple(self.inputs), tuple(self.instrs[v].dtype for v in outputs), name=name,
        )  # fmt: skip


def place(backend, array, offset=0):
    """The array in device memory, `offset` bytes into a larger buffer."""
    buffer = backend.allocate(offset + array.nbytes).slice(offset, array.nbytes)
    backend.upload(buffer, np.ascontiguousarray(array))
    return buffer


class Batch:
    """Kernels with what they should give, lowered together. `close` says how far off each may be."""

    def __init__(self, backend):
        self.backend, self.cases = backend, []

    def add(self, kernel, arrays, expected, check=None, label=""):
        self.cases.append((kernel, arrays, [np.asarray(e) for e in expected], check or same, label))

    def run(self, specialise=False, offset=0, every=1):
        outs, cases = [], self.cases[::every]
        executables = self.backend.lower([kernel for kernel, *_ in cases], specialise)
        for executable, (kernel, arrays, expected, check, label) in zip(executables, cases):
            buffers = [place(self.backend, a, offset) for a in arrays]
            buffers += [
                place(self.backend, np.full(e.size, 77, d), offset) for e, d in zip(expected, kernel.output_dtypes)
            ]
            executable.run(buffers)
            results = [
                self.backend.download(b, d, e.size).reshape(e.shape)
                for b, d, e in zip(buffers[len(arrays) :], kernel.output_dtypes, expected)
            ]
            labels = label if isinstance(label, list) else [label] * len(results)
            checks = check if isinstance(check, list) else [check] * len(results)
            for result, want, dtype, one, name in zip(results, expected, kernel.output_dtypes, checks, labels):
                assert want.dtype == dtype, (name, want.dtype, dtype)
                one(result, want, f"{name}\n{kernel}\n{executable.source}")
            outs.append(results)
        return outs

    def run_both(self, offset=0):
        """Sizes as arguments and, in every third case, as literals: both right, and the same bits."""
        for loose, tight in zip(self.run(False, offset)[::3], self.run(True, offset, every=3), strict=True):
            for a, b in zip(loose, tight):
                np.testing.assert_array_equal(bits(a), bits(b))


def bits(array):
    """Bit patterns, with every NaN alike."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def same(result, want, message=""):
    np.testing.assert_array_equal(bits(result), bits(want), err_msg=message)


def equal(result, want, message=""):
    """Equal values, the zeros' signs aside."""
    np.testing.assert_array_equal(result, want, err_msg=message)


def near(tolerance):
    return lambda result, want, message="": np.testing.assert_allclose(
        result, want, rtol=tolerance, atol=tolerance, err_msg=message
    )


def within_ulp(count):
    def check(result, want, message=""):
        assert np.array_equal(np.isnan(result), np.isnan(want)), message
        keep = ~np.isnan(want) & (result != want)
        distance = np.abs(result[keep].astype("f8") - want[keep].astype("f8")) / np.spacing(np.abs(want[keep])).astype(
            "f8"
        )
        assert not (distance > count).any(), (distance.max(), message)

    return check


def quiet(f, *args):
    with np.errstate(all="ignore"):
        return f(*args)


# -- elementwise --------------------------------------------------------------------------------------------------


def edge_values(dtype):
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind == "f":
        info = np.finfo(dtype)
        return np.array(
            [
                0.0,
                -0.0,
                1,
                -1,
                0.5,
                -0.5,
                1.5,
                -2.5,
                3,
                -3,
                7,
                0.1,
                info.max,
                info.min,
                info.tiny,
                math.inf,
                -math.inf,
                math.nan,
            ],
            dtype,
        )
    info = np.iinfo(dtype)
    negative = (-1, -2, -3, -7, -8) if dtype.kind == "i" else ()
    return np.unique(np.array([info.min, info.min + 1, 0, 1, 2, 3, 7, 8, 31, info.max - 1, info.max, *negative], dtype))


def pairs(dtype):
    values = edge_values(dtype)
    a, b = np.meshgrid(values, values, indexing="ij")
    return a.reshape(-1).copy(), b.reshape(-1).copy()


def floor_div(a, b):
    """Python's exact integers are the reference: x // 0 = 0, and results wrap."""
    width = 2 ** (8 * a.dtype.itemsize)
    exact = [0 if y == 0 else (int(x) // int(y)) % width for x, y in zip(a, b)]
    return np.array(exact, f"u{a.dtype.itemsize}").view(a.dtype)


def floor_mod(a, b):
    return np.array([0 if y == 0 else int(x) % int(y) for x, y in zip(a, b)], a.dtype)


def shift(a, b, left):
    width = 8 * a.dtype.itemsize
    out = []
    for x, y in zip(a.tolist(), b.tolist()):
        inside = 0 <= y < width
        exact = (x << y if left else x >> y) if inside else (-1 if x < 0 and not left else 0)
        out.append(exact % 2**width)
    return np.array(out, f"u{a.dtype.itemsize}").view(a.dtype)


BINARY = {
    "add": (np.add, "biuf"),
    "sub": (np.subtract, "iuf"),
    "mul": (np.multiply, "biuf"),
    "div": (np.divide, "f"),
    "idiv": (floor_div, "iu"),
    "max": (np.maximum, "biuf"),
    "lt": (np.less, "biuf"),
    "eq": (np.equal, "biuf"),
    "and": (np.bitwise_and, "biu"),
    "or": (np.bitwise_or, "biu"),
    "xor": (np.bitwise_xor, "biu"),
    "mod": (lambda a, b: np.mod(a, b) if a.dtype.kind == "f" else floor_mod(a, b), "iuf"),
    "shl": (lambda a, b: shift(a, b, True), "iu"),
    "shr": (lambda a, b: shift(a, b, False), "iu"),
}


@pytest.mark.parametrize("specialise", [False, True])
def test_binary_operations_match_numpy_on_edge_values_of_every_dtype(backend, specialise):
    batch = Batch(backend)
    for dtype in dtypes.ALL:
        a, b = pairs(dtype)
        body = Body(a.shape)
        x, y = body.load(a), body.load(b)
        table = {op: reference for op, (reference, kinds) in BINARY.items() if dtype.kind in kinds}
        values = [body.add(op, x, y, dtype=dtypes.bool_ if op in ("lt", "eq") else dtype) for op in table]
        wants = [quiet(reference, a, b) for reference in table.values()]
        checks = [equal if op == "max" else same for op in table]
        batch.add(body.kernel("loop", values), body.arrays, wants, checks, [f"{op} {dtype}" for op in table])
    batch.run(specialise)


def test_pow_is_within_four_ulp(backend):
    batch = Batch(backend)
    for dtype in FLOATS:
        a, b = pairs(dtype)
        body = Body(a.shape)
        wide = np.float64 if dtype != dtypes.float64 else np.longdouble
        want = quiet(lambda a=a, b=b, w=wide, d=dtype: np.power(a.astype(w), b.astype(w)).astype(d))
        value = body.add("pow", body.load(a), body.load(b))
        batch.add(body.kernel("loop", [value]), body.arrays, [want], within_ulp(4), f"pow {dtype}")
    batch.run()


def erf(x):
    return np.array([math.erf(v) for v in x.astype("f8")])


UNARY = {
    "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "erf": erf,
    "expm1": np.expm1, "log1p": np.log1p,
}  # fmt: skip
EXACT = {"neg": np.negative, "floor": np.floor, "reciprocal": np.reciprocal, "sqrt": np.sqrt}


def test_functions_of_floats_are_within_four_ulp(backend):
    batch = Batch(backend)
    rng = np.random.default_rng(0)
    for dtype in FLOATS:
        special = [0.0, -0.0, math.inf, -math.inf, math.nan]
        x = np.concatenate(
            [special, rng.normal(size=500), rng.normal(size=300) * 20, rng.normal(size=200) * 1e-3]
        ).astype(dtype)
        wide = x.astype(np.float64 if dtype != dtypes.float64 else np.longdouble)
        body = Body(x.shape)
        loaded = body.load(x)
        values = [body.add(op, loaded) for op in (*UNARY, *EXACT)]
        wants = [quiet(lambda f=f, w=wide, d=dtype: f(w).astype(d)) for f in UNARY.values()]
        wants += [quiet(f, x) for f in EXACT.values()]
        checks = [within_ulp(4)] * len(UNARY) + [same] * len(EXACT)
        labels = [f"{op} {dtype}" for op in (*UNARY, *EXACT)]
        batch.add(body.kernel("loop", values), body.arrays, wants, checks, labels)
    for dtype in INTS:
        x = edge_values(dtype)
        body = Body(x.shape)
        batch.add(body.kernel("loop", [body.add("neg", body.load(x))]), body.arrays, [np.negative(x)])
    batch.run()


def cast_reference(x, target):
    if target.kind == "b":
        return x != 0
    if x.dtype.kind == "f" and target.kind in "iu":
        info, out = np.iinfo(target), []
        for v in x.astype("f8"):
            out.append(0 if math.isnan(v) else info.min if v <= info.min else info.max if v >= info.max else int(v))
        return np.array(out, target)
    return quiet(x.astype, target)


def test_casts_between_all_dtypes_truncate_saturate_and_wrap(backend):
    batch = Batch(backend)
    for source in dtypes.ALL:
        x = edge_values(source)
        if source.kind == "f":
            x = np.concatenate(
                [
                    x,
                    np.array([127.5, 128, 255.9, 256, -128.9, 65504, 2e9, -2e9, 3e9, 1e19, -1e19, 2049, 2050.5]).astype(
                        source
                    ),
                ]
            )
        else:
            x = np.concatenate([x, np.array([100]).astype(source)])
        targets = [target for target in dtypes.ALL if target != source]
        body = Body(x.shape)
        loaded = body.load(x)
        values = [body.add("cast", loaded, dtype=target) for target in targets]
        labels = [f"{source} to {target}" for target in targets]
        wants = [cast_reference(x, target) for target in targets]
        batch.add(body.kernel("loop", values), body.arrays, wants, same, labels)
    batch.run()


def test_bitcast_where_and_every_half(backend):
    batch = Batch(backend)
    rng = np.random.default_rng(1)
    for a, b in [("i1", "u1"), ("i2", "u2"), ("i4", "u4"), ("i4", "f4"), ("u4", "f4"), ("i8", "f8"), ("u8", "i8")]:
        x = rng.integers(0, 255, 64 * np.dtype(a).itemsize).astype("u1").view(a)
        for source, target in ((x, np.dtype(b)), (x.view(b), np.dtype(a))):
            body = Body(source.shape)
            value = body.add("bitcast", body.load(source), dtype=target)
            batch.add(body.kernel("loop", [value]), body.arrays, [source.view(target)])
    every = np.arange(65536, dtype=np.uint16)
    for source, target in (
        (every, np.dtype("f2")),
        (every.view("f2"), np.dtype("u2")),
        (every.view("f2"), np.dtype("i2")),
    ):
        body = Body(source.shape)
        value = body.add("bitcast", body.load(source), dtype=target)
        keep = ~np.isnan(every.view("f2"))

        def check(result, want, message="", keep=keep):
            same(result[keep], want[keep], message)

        batch.add(body.kernel("loop", [value]), body.arrays, [source.view(target)], check)
    halves = every.view("f2")[:31745].astype("f8")
    ties = (halves[:-1] + halves[1:]) / 2
    wide = np.concatenate([rng.normal(size=4000) * 10.0 ** rng.integers(-9, 6, 4000), ties])
    for source in ("f4", "f8"):
        x = wide.astype(source)
        body = Body(x.shape)
        value = body.add("cast", body.load(x), dtype=dtypes.float16)
        batch.add(body.kernel("loop", [value]), body.arrays, [quiet(x.astype, np.float16)], same, f"{source} to half")
    for dtype in dtypes.ALL:
        a, b = pairs(dtype)
        body = Body(a.shape)
        which = np.arange(a.size) % 3 == 0
        value = body.add("where", body.load(which), body.load(a), body.load(b))
        batch.add(body.kernel("loop", [value]), body.arrays, [np.where(which, a, b)])
    batch.run()


@pytest.mark.parametrize("specialise", [False, True])
def test_constants_keep_their_bits(backend, specialise):
    batch = Batch(backend)
    for dtype in dtypes.ALL:
        values = edge_values(dtype)
        body = Body((3,))
        constants = [body.const(value.item(), dtype) for value in values]
        batch.add(body.kernel("loop", constants), [], [np.full(3, v) for v in values], same, [f"{v!r}" for v in values])
    batch.run(specialise)


# -- views --------------------------------------------------------------------------------------------------------


def test_views_masks_flips_and_broadcasts(backend):
    batch = Batch(backend)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(5, 7, 70)).astype("f4")
    whole = View.contiguous(x.shape)
    cases = [
        (whole.permute((2, 0, 1)), x.transpose(2, 0, 1)),
        (whole.flip((0, 2)), x[::-1, :, ::-1]),
        (whole.shrink(((1, 4), (0, 7), (3, 66))), x[1:4, :, 3:66]),
        (whole.pad(((1, 2), (0, 0), (3, 4))), np.pad(x, ((1, 2), (0, 0), (3, 4)))),
        (whole.pad(((0, 0), (2, 0), (0, 0))).flip((1,)), np.pad(x, ((0, 0), (2, 0), (0, 0)))[:, ::-1]),
        (View.contiguous((5, 1, 70)).expand((5, 4, 70)), np.broadcast_to(x.reshape(7, 5, 1, 70)[0], (5, 4, 70))),
        (View.contiguous((1, 1, 1)).expand((2, 3, 33)), np.full((2, 3, 33), x[0, 0, 0])),
        (whole.pad(((5, 0), (0, 0), (0, 0))).shrink(((0, 5), (0, 7), (0, 70))), np.zeros_like(x)),
    ]  # fmt: skip
    for view, want in cases:
        body = Body(view.shape)
        two = body.add("add", body.load(x, view), body.const(1.0, dtypes.float32))
        batch.add(body.kernel("loop", [two]), body.arrays, [want + np.float32(1)])
        body = Body(view.shape)
        inside = body.add("valid", arg=view, dtype=dtypes.bool_)
        place_of = body.add("iota", arg=view, dtype=dtypes.int64)
        loaded = body.load(x, view)
        ones = np.zeros(view.shape, bool)
        ones[tuple(slice(*m) for m in view.mask or [(0, n) for n in view.shape])] = True
        position = view.offset + sum(np.indices(view.shape)[a] * s for a, s in enumerate(view.strides))
        position = np.where(ones, position, 0).astype("i8")
        kernel = body.kernel("loop", [inside, place_of, loaded])
        batch.add(kernel, body.arrays, [ones, position, want])
    body = Body((4, 6))  # a transposed store
    batch.add(
        body.kernel("loop", [body.load(x.reshape(-1)[:24].reshape(4, 6))], views=[View((4, 6), (1, 4))]),
        body.arrays, [x.reshape(-1)[:24].reshape(4, 6).T.copy()],
    )  # fmt: skip
    batch.run_both()
    batch.run(offset=512)


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


# -- gather and scatter -------------------------------------------------------------------------------------------


def gather_kernel(table, index):
    """table[index], rows by an index of any shape."""
    body = Body((index.size, table.shape[1]))
    which = body.load(index.reshape(-1), View(body.shape, (1, 0)))
    view = View(body.shape, (0, 1))
    value = body.add("gather", which, arg=(body.slot(table), view, table.shape[1], table.shape[0]), dtype=table.dtype)
    return body, body.kernel("loop", [value], name="take")


def scatter_case(batch, values, index, rows, expected=None):
    width = values.shape[1]
    scatter = Scatter(len(index), width, rows, View.contiguous(values.shape), View.contiguous(index.shape))
    output = Output(0, View.contiguous((rows, width)))
    kernel = Kernel("scatter", (rows, width), (), (), (output,), (values.dtype, index.dtype), (values.dtype,), scatter)
    if expected is None:
        expected = np.zeros((rows, width), values.dtype)
        np.add.at(expected, index, values)
    batch.add(kernel, [values.reshape(-1), index], [expected], same, f"scatter {values.shape}")


@pytest.mark.parametrize("specialise", [False, True])
def test_gather_and_scatter_with_every_index_dtype(backend, specialise):
    batch = Batch(backend)
    rng = np.random.default_rng(8)
    for index_dtype in INTS:
        for width in (1, 70):
            table = rng.normal(size=(11, width)).astype("f4")
            index = rng.integers(0, 11, 29).astype(index_dtype)
            body, kernel = gather_kernel(table, index)
            batch.add(kernel, body.arrays, [table[index]])
            scatter_case(batch, rng.normal(size=(29, width)).astype("f4"), index, 11)
    for dtype in (dtypes.float16, dtypes.float64, dtypes.int32, dtypes.int8):
        scatter_case(batch, (rng.normal(size=(50, 4)) * 9).astype(dtype), rng.integers(0, 7, 50), 7)
    batch.run(specialise)


def test_an_index_out_of_range_touches_nothing_and_raises_once_by_name(backend):
    table = np.arange(12, dtype="f4").reshape(4, 3)
    index = np.array([0, 4, -1, 3, 2**40, -(2**40)])
    body, kernel = gather_kernel(table, index)
    batch = Batch(backend)
    scatter_case(batch, np.ones((6, 3), "f4"), index, 4, expected=np.zeros((4, 3), "f4"))
    for name, one, arrays, want in [
        ("gather", kernel, body.arrays, np.array([[0, 1, 2], [0] * 3, [0] * 3, [9, 10, 11], [0] * 3, [0] * 3], "f4")),
        ("scatter", batch.cases[0][0], batch.cases[0][1], np.array([[1] * 3, [0] * 3, [0] * 3, [1] * 3], "f4")),
    ]:
        (executable,) = backend.lower([one])
        buffers = [place(backend, a) for a in arrays] + [backend.allocate(want.nbytes)]
        executable.run(buffers)
        with pytest.raises(IndexError, match=f"{name}.*0 <= index < 4"):
            backend.download(buffers[-1], dtypes.float32, want.size)
        same(backend.download(buffers[-1], dtypes.float32, want.size).reshape(want.shape), want)
        launch = executable.bind(buffers)
        launch()
        with pytest.raises(IndexError, match=name):
            backend.synchronize()
        backend.synchronize()


# -- random bits --------------------------------------------------------------------------------------------------


def philox(counter, key):
    """Philox4x32-10 in Python's integers, after Salmon et al. (SC 2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


# Random123's own known answers (kat_vectors): counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]  # fmt: skip


def test_philox_helper_matches_random123(backend):
    import pyopencl as cl

    from clgrad.backends.opencl.functions import HELPERS

    source = HELPERS["philox"] + (
        "__kernel void known(__global const uint4 *c, __global const uint2 *k, __global uint4 *out)"
        "{ int i = get_global_id(0); out[i] = philox(c[i], k[i]); }"
    )
    program = cl.Program(backend.context, source).build()
    counters, keys, want = (np.array(column, np.uint32) for column in zip(*KNOWN))
    buffers = [place(backend, x) for x in (counters, keys, np.zeros_like(want))]
    program.known(backend.queue, (3,), None, *(b.handle for b in buffers))
    same(backend.download(buffers[2], dtypes.uint32, 12).reshape(3, 4), want)


@pytest.mark.parametrize("specialise", [False, True])
def test_random_words_are_philox_at_any_position_key_and_counter(backend, specialise):
    assert [tuple(philox(c, k)) for c, k, _ in KNOWN] == [w for *_, w in KNOWN]
    batch = Batch(backend)
    for key, counter in [(0, 0), (2**64 - 1, 2**32 - 2), (0x0123456789ABCDEF, 2**64 - 3)]:
        blocks = [(counter + block) % 2**64 for block in range(10)]
        split = (key & 0xFFFFFFFF, key >> 32)
        words = np.array([philox((n & 0xFFFFFFFF, n >> 32, 0, 0), split) for n in blocks], np.uint32)
        view = View((5, 8), (8, 1))
        for kinds in ("const", "load"):
            for moved, want in [
                (view, words.reshape(5, 8)),
                (view.permute((1, 0)).flip((0,)), words.reshape(5, 8).T[::-1]),
            ]:
                body = Body(moved.shape)
                if kinds == "const":
                    src = [body.const(v, dtypes.uint64) for v in (key, counter)]
                else:
                    src = [body.load(np.array(v, np.uint64), View(moved.shape, (0, 0))) for v in (key, counter)]
                value = body.add("random", *src, arg=moved, dtype=dtypes.uint32)
                batch.add(body.kernel("loop", [value]), body.arrays, [want])
    batch.run(specialise)


# -- the backend itself -------------------------------------------------------------------------------------------


def test_kernels_of_one_structure_share_one_build(backend):
    def kernel(size, value):
        x = np.ones((size,), "f4")
        body = Body(x.shape)
        return body.kernel("loop", [body.add("pow", body.load(x), body.const(value, dtypes.float32))], name="shared")

    before = backend.counters.builds
    backend.lower([kernel(100, 2.5), kernel(200, 3.5)])
    assert backend.counters.builds == before + 1
    backend.lower([kernel(300, -0.0), kernel(100, 2.5)])
    assert backend.counters.builds == before + 1
    backend.lower([kernel(100, 2.5), kernel(200, 2.5)], specialise=True)
    assert backend.counters.builds == before + 3


def test_bound_launches_run_again_on_what_the_buffers_hold(backend):
    x = np.arange(70, dtype="f4")
    body = Body(x.shape)
    (executable,) = backend.lower([body.kernel("loop", [body.add("neg", body.load(x))])])
    source, target = place(backend, x, 256), backend.allocate(x.nbytes)
    launch, before = executable.bind([source, target]), backend.counters.kernels
    for scale in (1, 2):
        backend.upload(source, x * np.float32(scale))
        launch()
        same(backend.download(target, x.dtype, 70), -x * np.float32(scale))
    assert backend.counters.kernels == before + 2
    assert "__kernel" in executable.source


def test_upload_may_not_overtake_or_follow_the_array(backend):
    x = np.arange(100000, dtype="f4")
    buffer = backend.allocate(x.nbytes)
    backend.upload(buffer, x)
    want = x.copy()
    x[:] = -1
    same(backend.download(buffer, x.dtype, x.size), want)


def test_memory_is_counted_and_refused_with_sizes(backend):
    before = backend.counters.live_bytes
    buffer = backend.allocate(1000)
    assert backend.counters.live_bytes == before + 1000
    del buffer
    assert backend.counters.live_bytes == before
    assert backend.download(backend.allocate(0), dtypes.float32, 0).size == 0
    with pytest.raises(DeviceError, match="MiB.*NUMPY"):
        backend.allocate(backend.describe().largest_allocation + 1)
    backend.counters.live_bytes += backend.describe().memory  # as though it were all in use
    try:
        with pytest.raises(DeviceError, match="out of memory: 1.0 MiB wanted"):
            backend.allocate(2**20)
    finally:
        backend.counters.live_bytes -= backend.describe().memory


def test_a_dtype_that_the_device_lacks_names_numpy(backend, monkeypatch):
    lacking = dataclasses.replace(backend.info, features={**backend.info.features, "fp64": False})
    monkeypatch.setattr(backend, "info", lacking)
    body = Body((3,))
    kernel = body.kernel("loop", [body.const(1.2345, dtypes.float64)], name="wide")
    with pytest.raises(DeviceError, match="float64.*NUMPY"):
        backend.lower([kernel])
    assert not backend.supports(dtypes.float64) and backend.supports(dtypes.float16)


def test_a_kernel_that_does_not_build_says_which_and_why(backend, monkeypatch):
    from clgrad.backends.opencl import functions

    monkeypatch.setitem(functions.SINGLE, "sin", functions.Function("no_such_function({0})"))
    body = Body((3,))
    broken = body.kernel("loop", [body.add("sin", body.load(np.ones(3, "f4")))], name="broken")
    with pytest.raises(DeviceError, match="(?s)broken.*no_such_function"):
        backend.lower([broken])


def test_devices_are_listed_and_an_index_out_of_range_says_what_there_is(backend):
    names = [info.name for info in opencl_device.list_devices()]
    assert names[0] == "CL" and names[1:] == [f"CL:{i}" for i in range(1, len(names))]
    assert backend.describe().name == "CL" and backend.name == "CL"
    with pytest.raises(DeviceError, match=f"number 99: {len(names)} found"):
        opencl_device.open_backend(99)


def test_many_arguments_do_not_overflow_the_device(backend):
    arrays = [np.full((3, 5), i, "f4") for i in range(40)]
    view = View.contiguous((3, 5)).flip((0, 1))
    body = Body((3, 5))
    total = body.load(arrays[0], view)
    for array in arrays[1:]:
        total = body.add("add", total, body.load(array, view))
    batch = Batch(backend)
    batch.add(body.kernel("loop", [total]), body.arrays, [np.full((3, 5), 780, "f4")])
    batch.run()
