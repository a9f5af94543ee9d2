"""NumPy's table of elementwise functions, and its random bits, against exact meanings and published vectors."""

from __future__ import annotations

import math

import numpy as np
import primitives
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import arrays

from clgrad.backends.kernel import ELEMENTWISE
from clgrad.backends.numpy import functions
from clgrad.backends.numpy.functions import FUNCTIONS
from clgrad.backends.numpy.philox import philox4x32, philox_blocks

OPS = sorted(primitives.ELEMENTWISE)


def call(op: str, operands, dtype, out=None) -> np.ndarray:
    out = np.empty(np.broadcast_shapes(*(x.shape for x in operands)), dtype) if out is None else out
    with np.errstate(all="ignore"):
        FUNCTIONS[op](*operands, out)
    return out


def draw_operands(data, op: str, dtype: str, shape) -> list[np.ndarray]:
    names = ["bool", dtype, dtype] if op == "where" else [dtype] * primitives.ELEMENTWISE[op].arity
    return [data.draw(arrays(name, shape)) for name in names]


def test_every_elementwise_instruction_has_a_meaning_and_a_test():
    assert set(FUNCTIONS) | {"custom"} == set(ELEMENTWISE)  # whose function comes with it
    assert set(primitives.ELEMENTWISE) | {"cast", "bitcast", "custom"} == set(ELEMENTWISE)
    assert all(entry.arity == ELEMENTWISE[op] for op, entry in primitives.ELEMENTWISE.items())


@pytest.mark.parametrize("op", OPS)
@given(data=st.data())
def test_the_function_is_the_exact_meaning_rounded(op, data):
    entry = primitives.ELEMENTWISE[op]
    dtype = data.draw(st.sampled_from(entry.dtypes))
    operands = draw_operands(data, op, dtype, data.draw(st.sampled_from([(9,), (2, 3), ()])))
    got = call(op, operands, entry.result or dtype)
    primitives.assert_close(got, primitives.meaning(op, *operands), entry.ulp, signed_zero=op != "max")


@pytest.mark.parametrize("op", OPS)
@given(data=st.data())
def test_the_result_may_lie_in_an_operand(op, data):
    dtype = data.draw(st.sampled_from(primitives.ELEMENTWISE[op].dtypes))
    result = primitives.ELEMENTWISE[op].result or dtype
    operands = draw_operands(data, op, dtype, (5,))
    want = call(op, operands, result)
    for position, operand in enumerate(operands):
        if operand.dtype == result:
            inside = [x.copy() for x in operands]
            call(op, inside, result, out=inside[position])
            got, wanted = inside[position], want
            if result == "bfloat16":  # of which NumPy does not know that NaN is NaN
                got, wanted = got.astype(np.float32), wanted.astype(np.float32)
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("small", [0, 2048])  # elements for which NumPy's own selection is taken
@given(data=st.data())
def test_where_takes_broadcast_and_strided_operands(small, data):
    dtype = data.draw(st.sampled_from(primitives.ALL))
    condition = data.draw(arrays("bool", (3, 4)))[::-1]
    a, b = data.draw(arrays(dtype, (4, 6))).T[::2], data.draw(arrays(dtype, (1, 4)))
    want = np.repeat(b, 3, axis=0)
    want[condition] = a[condition]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functions, "SMALL", small)
        got = call("where", (condition, a, b), dtype)
    assert got.dtype == want.dtype and got.tobytes() == want.tobytes()  # a NaN keeps its bits


@pytest.mark.parametrize("source", primitives.ALL)
@given(data=st.data())
def test_casts_saturate_wrap_and_round(source, data):
    target = data.draw(st.sampled_from(primitives.ALL))
    x = data.draw(arrays(source, (7,)))
    primitives.assert_close(call("cast", (x,), target), primitives.cast(x, target))


@pytest.mark.parametrize("target", ["float32", "float64", "bfloat16"])
def test_the_largest_integers_are_rounded_to_floats(target):
    x = np.array([2**64 - 1, 2**63, 0], "uint64")
    got = call("cast", (x,), target)
    assert got.astype("f8").tolist() == [2.0**64, 2.0**63, 0.0]
    primitives.assert_close(got, primitives.cast(x, target))


@pytest.mark.parametrize("source", primitives.NUMBERS)
@given(data=st.data())
def test_bitcast_keeps_the_bits(source, data):
    same_width = [name for name in primitives.NUMBERS if np.dtype(name).itemsize == np.dtype(source).itemsize]
    target = data.draw(st.sampled_from(same_width))
    x = data.draw(arrays(source, data.draw(st.sampled_from([(4,), (0, 3), ()]))))
    assert call("bitcast", (x,), target).tobytes() == x.tobytes()


@pytest.mark.parametrize(("dtype", "ulp"), [("float16", 1), ("float32", 1), ("float64", 2)])
def test_erf_is_near_exact_over_its_whole_range(dtype, ulp):
    steps = np.concatenate([np.linspace(-7, 7, 20_001), np.geomspace(1e-30, 7, 20_001)]).astype(dtype)
    want = np.array([math.erf(v) for v in steps]).astype(dtype)
    primitives.assert_close(call("erf", (steps,), dtype), want, ulp)


# Random123's kat_vectors for philox4x32, 10 rounds: counter, key, output.
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_philox_matches_the_published_vectors(counter, key, words):
    counters = np.array([[int(word, 16)] for word in counter.split()], np.uint64)
    low, high = (int(word, 16) for word in key.split())
    out = np.empty((1, 4), np.uint32)
    philox_blocks(counters, low | high << 32, out)
    assert [f"{word:08x}" for word in out[0]] == words.split()


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 50))
def test_any_part_of_a_stream_can_be_made_by_itself(key, counter, start, count):
    part = philox4x32(key, counter, start, count)
    assert part.dtype == np.uint32 and part.shape == (count,)
    for i in range(0, count, 7):
        block = np.empty((1, 4), np.uint32)
        position = (counter + (start + i) // 4) % 2**64
        philox_blocks(np.array([[position % 2**32], [position >> 32], [0], [0]], np.uint64), key, block)
        assert part[i] == block[0, (start + i) % 4]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(1, 3))
def test_long_streams_do_not_depend_on_where_they_are_cut(key, start, parts):
    assume(start < 2**60)
    whole = philox4x32(key, 0, start, 40_000)
    cuts = [start, *(start + 40_000 * i // parts + 1 for i in range(1, parts)), start + 40_000]
    pieces = [philox4x32(key, 0, lo, hi - lo) for lo, hi in zip(cuts, cuts[1:])]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
