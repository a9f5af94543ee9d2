"""A random tenth of the entries of the gradient, NumPy and OpenCL tables: the surface notices when one is changed.

`python tests/mutate.py` changes every entry; `pytest --long` does so too.
"""

from __future__ import annotations

import functools
import random

import pytest
from mutate import TABLES, choose, patching, places, survivors, uses_of
from surface import table

from clgrad.engine.gradient import GRADIENTS

FRACTION = 0.1


@functools.cache
def uses():
    return uses_of(table())


@pytest.mark.parametrize("name", TABLES)
def test_a_changed_entry_is_noticed(request, name):
    if name == "opencl":
        request.getfixturevalue("cl")
    fraction = 1.0 if request.config.getoption("--long") else FRACTION
    seed = random.randrange(1 << 30)
    found = survivors(choose((name,), fraction, seed), uses())
    assert not found, f"seed {seed}: no entry of the surface notices {found}"


def test_every_entry_of_the_gradient_table_is_used_by_the_surface():
    unused = [op for op in GRADIENTS if ("gradient", op) not in uses()]
    assert not unused


def test_a_tenth_is_a_tenth_and_a_change_ends_with_its_block():
    known = places()
    assert len(choose(TABLES, FRACTION, 1)) == round(FRACTION * len(known))
    assert set(choose(TABLES, 1.0, 1)) == set(known)
    rule = GRADIENTS["exp"]
    with patching(GRADIENTS, "exp", None)():
        assert GRADIENTS["exp"] is None
    assert GRADIENTS["exp"] is rule
