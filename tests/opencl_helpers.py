"""What the tests of the OpenCL backend share: kernels built by hand, lowered many at a time, and ways to compare.

Building is what takes time, so each test collects many kernels in a Batch and lowers them together.
"""

import math

import numpy as np
import pytest

from clgrad.backends import dtypes
from clgrad.backends.kernel import Instr, Kernel, Output, Scatter
from clgrad.backends.opencl import device as opencl_device
from clgrad.backends.view import View

if opencl_device.device_count() == 0:
    pytest.skip(f"no OpenCL device: {opencl_device._find()[1]}", allow_module_level=True)

FLOATS = (dtypes.float16, dtypes.float32, dtypes.float64)
INTS = tuple(d for d in dtypes.ALL if d.kind in "iu")


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


def scatter_case(batch, values, index, rows, expected=None):
    width = values.shape[1]
    scatter = Scatter(len(index), width, rows, View.contiguous(values.shape), View.contiguous(index.shape))
    output = Output(0, View.contiguous((rows, width)))
    kernel = Kernel("scatter", (rows, width), (), (), (output,), (values.dtype, index.dtype), (values.dtype,), scatter)
    if expected is None:
        expected = np.zeros((rows, width), values.dtype)
        np.add.at(expected, index, values)
    batch.add(kernel, [values.reshape(-1), index], [expected], same, f"scatter {values.shape}")
