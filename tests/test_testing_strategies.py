"""clgrad.testing's strategies: what they draw is valid, is as promised, and all of it occurs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from clgrad import Tensor, testing
from clgrad.backends.dtypes import is_float
from clgrad.testing import FEATURES, Sample, values
from clgrad.testing.sample import code, literal

MANY = settings(max_examples=400, database=None, suppress_health_check=list(HealthCheck))
samples = testing.tensors(testing.shapes(max_elements=60), testing.dtypes(), special=True)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_every_feature_occurs_in_at_least_one_of_fifty_samples():
    seen: Counter = Counter()

    @settings(max_examples=1000, database=None)
    @given(testing.tensors(special=True))
    def count(sample):
        seen.update(sample.features)
        seen["all"] += 1

    count()
    assert not {feature: seen[feature] for feature in FEATURES if seen[feature] * 50 < seen["all"]}


@given(samples)
def test_a_tensor_of_a_sample_is_its_array(sample):
    assert same_bits(sample.tensor("NUMPY").numpy(), sample.numpy())
    assert sample.shape == sample.numpy().shape and sample.dtype == sample.numpy().dtype


@given(samples)
def test_the_repr_and_the_code_of_a_sample_make_it_again(sample):
    names = {"np": np, "Sample": Sample, "Tensor": Tensor}
    assert same_bits(eval(repr(sample), names).numpy(), sample.numpy())
    if not any(op == "window" for op, _ in sample.steps) or hasattr(Tensor, "unfold"):
        assert same_bits(eval(sample.code("NUMPY"), names).numpy(), sample.numpy())


@given(samples)
def test_features_say_what_a_sample_is(sample):
    array, ops = sample.numpy(), {op for op, _ in sample.steps}
    values = array.astype(float) if is_float(array.dtype) else np.zeros(1)
    told = {
        "zero-size": 0 in array.shape,
        "one-size": 1 in array.shape,
        "nan": bool(np.isnan(values).any()),
        "inf": bool(np.isinf(values).any()),
        "negative-zero": bool((np.signbit(values) & (values == 0)).any()),
    }
    assert {name for name, holds in told.items() if holds} == sample.features & set(told)
    needs = {"permuted": "permute", "flipped": "flip", "expanded": "expand", "padded": "pad"}
    assert all(needs[f] in ops for f in sample.features & set(needs))
    if not ops:
        assert not sample.features & {*needs, "strided"}


@given(st.data(), st.sampled_from(["float32", "int64", "uint8", "float16"]))
def test_values_lie_in_their_range_and_are_distinct_if_that_is_wanted(data, dtype):
    low, high = (0.25, 2) if dtype.startswith("float") else (1, 90)
    shape = testing.shapes(max_elements=20)
    sample = data.draw(testing.tensors(shape, dtype, low=low, high=high, distinct=True))
    values = sample.numpy().ravel().tolist()
    assert all(low <= v <= high for v in values)
    assert len(set(values)) == len(values)
    assert data.draw(testing.tensors(shape, layouts=False)).steps == ()


@given(st.data(), st.integers(0, 3), st.integers(3, 5), st.integers(0, 2), st.integers(2, 9))
def test_shapes_keep_to_their_bounds(data, least, most, small, large):
    shape = data.draw(testing.shapes(least, most, small, large, 50))
    assert least <= len(shape) <= most
    assert all(small <= n <= large for n in shape)
    if small < 2:
        assert np.prod(shape) <= 50


@given(st.data(), st.integers(1, 4))
def test_shapes_that_should_broadcast_do(data, count):
    shapes = data.draw(testing.broadcastable_shapes(count))
    assert len(shapes) == count
    np.broadcast_shapes(*shapes)


def test_shapes_that_broadcast_are_not_all_alike():
    assert find(testing.broadcastable_shapes(2), lambda s: len(s[0]) > len(s[1]) and 0 not in s[0])
    assert find(testing.broadcastable_shapes(2), lambda s: any(m == 1 < n for m, n in zip(s[0][::-1], s[1][::-1])))
    assert find(testing.broadcastable_shapes(2), lambda s: any(n == 1 < m for m, n in zip(s[0][::-1], s[1][::-1])))


@MANY
@given(st.data())
def test_indices_are_what_numpy_takes_and_their_code_makes_them_again(data):
    shape = data.draw(testing.shapes(max_elements=60))
    index = data.draw(testing.indices(shape))
    x = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(x[index], x[eval(code(index), {"np": np})])


@pytest.mark.parametrize(
    "holds",
    [
        lambda i: any(item is None for item in i),
        lambda i: any(item is Ellipsis for item in i),
        lambda i: any(isinstance(item, slice) and item.step == -2 for item in i),
        lambda i: any(isinstance(item, np.ndarray) and item.dtype == bool and item.ndim == 2 for item in i),
        lambda i: sum(isinstance(item, np.ndarray) and item.dtype != bool for item in i) == 2,
        lambda i: any(isinstance(item, list) for item in i),
        lambda i: any(isinstance(item, int) and item < 0 for item in i),
    ],
)
def test_every_kind_of_index_occurs(holds):
    assert find(testing.indices((3, 4, 2)), holds, settings=settings(max_examples=20_000, database=None))


@given(st.data())
def test_axes_fit_and_negative_ones_tuples_and_none_occur(data):
    shape = data.draw(testing.shapes())
    axis = data.draw(testing.axes(shape))
    np.zeros(shape).sum(axis)
    if shape:
        assert isinstance(data.draw(testing.axes(len(shape), none=False, several=False)), int)


def test_dtypes_are_those_of_a_kind():
    kinds: dict[str, set] = {"float": set(), "int": set(), "uint": set(), "bool": set()}

    @settings(MANY, max_examples=300)
    @given(st.tuples(*map(testing.dtypes, kinds)))
    def collect(found):
        for kind, dtype in zip(kinds, found):
            kinds[kind].add(dtype.name)

    collect()
    assert kinds["float"] >= {"float16", "float32", "float64"}
    assert kinds["int"] == {"int8", "int16", "int32", "int64"}
    assert kinds["uint"] == {"uint8", "uint16", "uint32", "uint64"} and kinds["bool"] == {"bool"}


def test_what_matters_is_all_that_shrinking_leaves():
    strategy = testing.tensors(testing.shapes(max_elements=200))
    found = [find(strategy, lambda x: x.numpy().min(initial=0) < 0, random=Random(seed)) for seed in range(3)]
    small = min(found, key=lambda x: x.base.size)  # shrinking may end at an array that needs two changes at once
    assert small.shape == () and small.steps == () and small.numpy() == -1
    flipped = find(testing.tensors(), lambda x: "flipped" in x.features)
    assert flipped.steps == (("flip", (0,)),) and flipped.base.shape == (2,)


def test_a_literal_is_exact():
    for dtype in ("float16", "float32", "float64"):
        tiny = float(np.finfo(dtype).tiny)
        array = np.array([0.1, 1 / 3, -0.0, np.nan, np.inf, -np.inf, tiny, float(np.finfo(dtype).max)], dtype)
        np.testing.assert_array_equal(eval(literal(array), {"np": np}).view("u1"), array.view("u1"))


def test_without_hypothesis_the_import_names_the_extra():
    hidden = "import sys; sys.modules['hypothesis'] = None\n"
    program = hidden + "try: import clgrad.testing\nexcept ImportError as error: print(error)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "clgrad[testing]"' in done.stdout


@given(st.data())
def test_a_large_sample_takes_no_more_draws_than_a_small_one(data):
    draws: list = []
    for size in (8, 3000):
        draws.append(0)

        def draw(strategy):
            draws[-1] += 1
            return data.draw(strategy)

        assert values.array(draw, np.dtype("float32"), (size,)).shape == (size,)
    assert draws[0] == draws[1] < 10
