"""The OpenCL backend's elementwise instructions, constants and Views give what NumPy's own functions give."""

import math

import numpy as np
import pytest
from opencl_helpers import FLOATS, INTS, Batch, Body, edge_values, equal, quiet, same, within_ulp

from clgrad.backends import dtypes
from clgrad.backends.view import View


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


def test_single_precision_functions_keep_their_stated_errors(backend):
    """Against float64, in whole vectors and in what is left over, over all magnitudes."""
    from clgrad.backends.opencl.single import MEASURED_ULP

    rng = np.random.default_rng(5)
    x = np.concatenate([rng.normal(size=100000) * 3, 10.0 ** rng.uniform(-37, 38, 50000), np.linspace(-1, 2, 50001)])
    x = np.concatenate([x, -(10.0 ** rng.uniform(-37, 2, 50000)), 1 + rng.normal(size=50000) * 1e-4]).astype("f4")
    body = Body(x.shape)
    loaded = body.load(x)
    values = [body.add(op, loaded) for op in MEASURED_ULP]
    wide = x.astype("f8")
    exact = [quiet(UNARY[op], wide) for op in MEASURED_ULP]
    checks = [exact_within(e, ulp) for e, ulp in zip(exact, MEASURED_ULP.values())]
    wants = [quiet(e.astype, "f4") for e in exact]
    batch = Batch(backend)
    batch.add(body.kernel("loop", values), body.arrays, wants, checks, list(MEASURED_ULP))
    batch.run_both()


def exact_within(exact, ulp):
    """A check of float32 results against float64 ones, where those are normal float32 numbers."""

    def check(result, want, message=""):
        normal = np.isfinite(want) & (np.abs(want) >= np.finfo("f4").tiny)
        assert np.array_equal(np.isnan(result), np.isnan(want)), message
        assert np.array_equal(result[np.isinf(want)], want[np.isinf(want)]), message
        error = np.abs(result[normal].astype("f8") - exact[normal]) / np.spacing(np.abs(want[normal])).astype("f8")
        assert error.max() <= ulp, (message.split("\n")[0], error.max(), exact[normal][error.argmax()])

    return check


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
