"""Assignment to a part of a Tensor rebinds that name, and whoever took a view before keeps the old values."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays, pooled

from clgrad import Tensor


@given(data=st.data())
def test_assignment_to_a_part_rebinds_and_leaves_earlier_views_alone(data):
    array = data.draw(arrays("int32", (4, 5)))
    x, expected = Tensor(array, device="NUMPY"), array.copy()
    before = x[1:3]

    def bounds(n: int):
        part = st.slices(n).filter(lambda s: len(range(*s.indices(n))) > 0)
        return part | st.integers(-n, n - 1)

    index = (data.draw(bounds(4)), data.draw(bounds(5)))
    value = data.draw(pooled(np.dtype("int32"), expected[index].shape, st.integers(-9, 9)))
    x[index] = Tensor(value, dtype="int32", device="NUMPY")
    expected[index] = value
    np.testing.assert_array_equal(x.numpy(), expected)
    np.testing.assert_array_equal(before.numpy(), array[1:3])
