"""The OpenCL backend's gathers, scatters, random bits, builds, launches, memory and errors."""

import dataclasses
import gc
import hashlib
import io
import os
import subprocess
import sys
import time

import numpy as np
import pyopencl as cl
import pytest
from opencl_helpers import INTS, Batch, Body, place, same, scatter_case

from clgrad.backends import dtypes
from clgrad.backends.base import DeviceError
from clgrad.backends.opencl import backend as opencl_backend
from clgrad.backends.opencl import cache, progress
from clgrad.backends.opencl import device as opencl_device
from clgrad.backends.opencl.render import render
from clgrad.backends.opencl.shapes import TABLE
from clgrad.backends.view import View

# -- gather and scatter -------------------------------------------------------------------------------------------


def gather_kernel(table, index):
    """table[index], rows by an index of any shape."""
    body = Body((index.size, table.shape[1]))
    which = body.load(index.reshape(-1), View(body.shape, (1, 0)))
    view = View(body.shape, (0, 1))
    value = body.add("gather", which, arg=(body.slot(table), view, table.shape[1], table.shape[0]), dtype=table.dtype)
    return body, body.kernel("loop", [value], name="take")


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


def scaled(factor):
    body = Body((5,))
    kernel = body.kernel("loop", [body.add("mul", body.load(np.ones(5, "f4")), body.const(factor, dtypes.float32))])
    return kernel


def test_few_executables_are_kept_and_those_in_use_go_on_running(backend, monkeypatch):
    monkeypatch.setattr(opencl_backend, "KEPT", 4)
    (first,) = backend.lower([scaled(0.5)], specialise=True)
    source = first.source
    backend.lower([scaled(float(i)) for i in range(6)], specialise=True)
    assert len(backend.executables) == 4
    buffers = [place(backend, np.ones(5, "f4")), backend.allocate(20)]
    first.run(buffers)
    same(backend.download(buffers[1], dtypes.float32, 5), np.full(5, 0.5, "f4"))
    before = backend.counters.builds
    (again,) = backend.lower([scaled(0.5)], specialise=True)  # the function is still there, for `first` uses it
    assert backend.counters.builds == before and again.source == source
    del first, again
    backend.lower([scaled(float(i)) for i in range(6)], specialise=True)
    before = backend.counters.builds
    backend.lower([scaled(0.5)], specialise=True)
    assert backend.counters.builds == before + 1


def test_built_programs_come_back_from_the_disk_and_torn_ones_are_built_again(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(backend, "keeps_programs", False)
    source = "__kernel void seven(__global float *y) { y[get_global_id(0)] = 7; }"
    backend._compile(source)
    (file,) = (tmp_path / "clgrad" / "programs").iterdir()
    whole = file.read_bytes()
    for data in (whole, whole[: len(whole) // 2], b"", b"x" * 100):
        file.write_bytes(data)
        buffer = backend.allocate(12)
        backend._compile(source).seven(backend.queue, (3,), None, buffer.handle)
        same(backend.download(buffer, dtypes.float32, 3), np.full(3, 7, "f4"))
        stored = file.read_bytes()
        assert hashlib.sha256(stored[cache.DIGEST :]).digest() == stored[: cache.DIGEST]
    assert [f.name for f in file.parent.iterdir()] == [file.name]  # nothing half-written is left behind


ON_ITS_OWN = """
from clgrad import Tensor
print((Tensor([1.0, 2.0, 3.0], device="CL") * 7).sum().item())
"""


def test_files_of_pocl_that_were_cut_short_kill_nobody(backend, tmp_path):
    if backend.device.platform.name != opencl_device.POCL:
        pytest.skip("PoCL's own cache")
    environment = {**os.environ, "POCL_CACHE_DIR": str(tmp_path)}

    def answer():
        run = subprocess.run([sys.executable, "-c", ON_ITS_OWN], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    assert answer() == "42.0"
    for pattern, share in (("*.so", 2), ("program.bc", 2), ("*.so", 10**9), ("program.bc", 10**9)):
        files = list(tmp_path.rglob(pattern))
        assert files
        for file in files:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // share])
        assert answer() == "42.0"
        assert all(file.stat().st_size > 0 for file in tmp_path.rglob(pattern))


def test_vectors_are_as_wide_as_the_compilers_and_not_as_the_processors(backend, monkeypatch, tmp_path):
    device = backend.device
    if device.platform.name != opencl_device.POCL or device.native_vector_width_float < 16:
        pytest.skip("only PoCL has compilers older than the processor; it takes one with AVX-512 to see")
    program = cl.Program(
        backend.context,
        """__kernel void width(__global int *x) {
        #ifdef __AVX512F__
            x[0] = 16;
        #else
            x[0] = 8;
        #endif
        }""",
    ).build()
    buffer = backend.allocate(4)
    program.width(backend.queue, (1,), (1,), buffer.handle)
    assert backend.table.dot_vector == backend.download(buffer, dtypes.int32, 1)[0]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(opencl_device, "PROBE", "__kernel void eight() {}")
    assert opencl_device.lanes(backend.context, device) == 8
    monkeypatch.setattr(cl, "Program", None)  # the answer is kept
    assert opencl_device.lanes(backend.context, device) == 8


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_long_build_says_so_in_one_line(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", out := stream())
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    line = progress.Progress("CL")
    line.begin(2)
    line.timer.join(10)
    line.begin(1)
    for _ in range(3):
        line.built()
    text = out.getvalue()
    assert "CL: building" in text and line.total == 0
    if stream is Terminal:
        assert "2 of 3" in text and "\n" not in text and text.endswith("\r")
    else:
        assert text.count("\n") == 1 and text.endswith(" s\n")
    monkeypatch.setattr(progress, "PATIENCE", 60)
    line.begin(1)
    line.built()
    line.begin(5)
    line.end()
    assert out.getvalue() == text and line.timer is None


def test_a_first_launch_counts_as_built_and_a_read_ends_the_line(backend):
    (executable,) = backend.lower([scaled(time.time())], specialise=True)
    assert backend.progress.total == 1
    buffers = [place(backend, np.ones(5, "f4")), backend.allocate(20)]
    launch = executable.bind(buffers)
    launch()
    assert backend.progress.total == 0 and executable.function.launched
    backend.lower([scaled(time.time() + 1)], specialise=True)
    backend.download(buffers[1], dtypes.float32, 5)
    assert backend.progress.total == 0


def test_parts_of_one_buffer_share_a_source(backend):
    """An offset into a buffer is an argument of a specialised source too, but for what vectors need to know of it."""
    x = np.arange(1000, dtype="f4")
    kernels, offsets, before = [], (0, 64, 448, 640), backend.counters.builds
    for offset in offsets:
        body = Body((40,))
        slot, view = body.slot(x), View((40,), (1,), offset)
        there, back = (body.add("load", arg=(slot, v), dtype=dtypes.float32) for v in (view, view.flip((0,))))
        kernels.append(body.kernel("loop", [body.add("sub", there, back)], views=[View((40,), (1,), 2 * offset)]))
    executables = backend.lower(kernels, specialise=True)
    assert backend.counters.builds <= before + 1 and len({e.source for e in executables}) == 1
    for executable, kernel, offset in zip(executables, kernels, offsets):
        buffers = [place(backend, x, 256), place(backend, want := np.full(1400, -1, "f4"))]
        executable.run(buffers)
        part = x[offset : offset + 40]
        want[2 * offset : 2 * offset + 40] = part - part[::-1]
        same(backend.download(buffers[1], dtypes.float32, 1400), want, str(kernel))


@pytest.mark.parametrize("specialise", [False, True])
def test_gpus_get_their_many_work_groups_along_dimension_0(specialise):
    """Some drivers take no more than 65,535 along the others."""
    x, many = np.ones(1, "f4"), 200000
    loop = Body((many, 3))
    wide = loop.kernel("loop", [loop.load(x, View(loop.shape, (1, many)))], views=[View(loop.shape, (3, 1))])
    row = Body((many, 5))
    rows = row.kernel(
        "row", [row.add("reduce_sum", row.load(x, View.contiguous(row.shape)))], (1,), [View(row.shape, (1, 0))]
    )
    column = Body((many, 6, 7))
    summed = column.add("reduce_sum", column.load(x, View.contiguous(column.shape)))
    columns = column.kernel("row", [summed], (1,), [View(column.shape, (7, 0, 1))])
    for kernel in (wide, rows, columns):
        rendered = render(kernel, TABLE["gpu"], specialise)
        assert rendered.global_size[0] >= many and all(size <= 65535 for size in rendered.global_size[1:])


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


def test_launches_that_live_side_by_side_share_no_kernel_object_and_later_ones_take_over_theirs(backend):
    x = np.arange(8, dtype="f4")
    body = Body(x.shape)
    (executable,) = backend.lower([body.kernel("loop", [body.add("neg", body.load(x))])])
    sources = [place(backend, x * np.float32(i + 1), 256 * i) for i in range(3)]
    targets = [backend.allocate(x.nbytes) for _ in range(3)]
    first, second = (executable.bind([sources[i], targets[i]]) for i in range(2))
    assert not executable.idle
    del first
    assert len(executable.idle) == 1
    third = executable.bind([sources[2], targets[2]])
    assert not executable.idle
    second()
    third()
    for i in (1, 2):
        same(backend.download(targets[i], x.dtype, 8), -x * np.float32(i + 1))


def test_upload_may_not_overtake_or_follow_the_array(backend):
    x = np.arange(100000, dtype="f4")
    buffer = backend.allocate(x.nbytes)
    backend.upload(buffer, x)
    want = x.copy()
    x[:] = -1
    same(backend.download(buffer, x.dtype, x.size), want)


def test_memory_is_counted_and_refused_with_sizes(backend):
    gc.collect()  # what other tests left is not to be freed meanwhile
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


@pytest.mark.filterwarnings("error")
def test_what_a_compiler_says_is_no_warning_unless_it_is_wanted(backend, monkeypatch):
    def build():  # of a text that no driver has kept
        backend._compile(f'#warning "{os.urandom(8).hex()}"\n__kernel void f(__global float *x) {{ x[0] = 1; }}\n')

    build()
    monkeypatch.setenv("PYOPENCL_COMPILER_OUTPUT", "1")
    with pytest.raises(cl.CompilerWarning, match="warning"):
        build()


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
