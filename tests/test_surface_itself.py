"""The table's own machinery: it sees wrong values, shapes, dtypes and derivatives, and what it draws is not tame."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import surface
import torch
from surface import examples as drawing
from surface.entry import ALL, Entry, Operand
from surface.examples import Example, Pattern, examples, wanted_features
from surface.judge import as_torch
from surface.shrink import shrunk
from test_surface import LEAST, run

from clgrad.testing import Sample


def never(strategy):
    raise AssertionError("these operands need no strategy")


def check(ours, theirs, **options):
    return run(Entry("a test", (), ours, theirs, **options), "NUMPY", never, 7)


def test_what_is_right_passes_with_all_that_it_promises():
    count, features = check(lambda a, b: a * b, torch.mul, operands=2, broadcast=True, dtypes=ALL)
    assert count >= LEAST
    assert {"zero-size", "one-size", "broadcast", "permuted", "flipped", "expanded", "padded", "nan"} <= set(features)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (lambda x: x * 1.001, lambda x: x * 1, "result 0"),
        (lambda x: x.cast("float32"), lambda x: x, "result 0 is float32, torch's is float"),
        (lambda x: x.unsqueeze(0), lambda x: x, "result 0 has shape"),
        (lambda x: (x, x), lambda x: x, "2 results, torch has 1"),
        (lambda x: x.detach() * x, lambda x: x * x, "derivatives"),  # the first is half of what it should be
        (
            lambda x: x.detach() ** 2 * (3 * x - 2 * x.detach()),
            lambda x: x**3,
            "derivatives",
        ),  # and here it is right, the second wrong
        (lambda x: x.isnan().where(0, x), lambda x: x, "nan"),
        (lambda x: x, lambda x: x.reshape(7, 7, 7), "no error; torch's is RuntimeError"),
    ],
)
def test_what_is_wrong_is_reported_as_text_that_can_be_pasted(ours, theirs, message):
    with pytest.raises(AssertionError, match=message) as caught:
        check(ours, theirs, special=message == "nan")
    assert "Sample(np." in str(caught.value)


def test_a_failure_is_shrunk_and_its_program_fails_when_it_is_run(monkeypatch):
    entry = Entry("a test", (), lambda x: (x > 2).where(x + 1, x), lambda x: x * 1, derivatives=0, special=False)
    with pytest.raises(AssertionError) as caught:
        run(entry, "NUMPY", never, 7)
    text = str(caught.value)
    monkeypatch.setattr(surface, "table", lambda: {"a test": entry})
    with pytest.raises(AssertionError, match="result 0"):
        exec(text[text.index("import numpy") : text.index("AssertionError")], {})
    [sample] = text.partition("Sample(")[2].partition("),\n")[0].splitlines()
    assert sample.startswith("np.array(3.0, ")  # one element of no axis, the smallest whole number that fails


def test_what_only_a_layout_makes_fail_keeps_it():
    def fails(example):
        return any(op == "flip" for op, _ in example.samples[0].steps)

    pattern = Pattern("float32", 2, (("flip",),), 1, False)
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    small = shrunk(Example(pattern, [Sample(base, (("flip", (0, 1)),))], 0), fails, "NUMPY").samples[0]
    assert small.shape == () and small.steps[0] == ("flip", (0, 1)) and (small.base == 1).all()


def test_operands_are_drawn_away_from_kinks_and_padding_does_not_put_them_back():
    entry = Entry("a test", (), lambda x: x.abs(), kinks=lambda x: x == 0)
    drawn = [e for e in next(examples(entry, never, 3, LEAST, 6, 6, True)) if e.pattern.derivative]
    assert len(drawn) >= 30
    assert not any((e.samples[0].numpy() == 0).any() for e in drawn)


def test_a_kink_everywhere_is_an_error_and_not_a_test_that_never_ends():
    entry = Entry("a test", (), lambda x: x, kinks=lambda x: True)
    with pytest.raises(AssertionError, match="lie on one of its `kinks`"):
        next(examples(entry, never, 3, LEAST, 6, 6, True))


def test_tame_examples_are_noticed(monkeypatch):
    entry = Entry("a test", (), lambda x: x)
    monkeypatch.setattr(drawing, "LAYOUTS", ((), (), (), ("scalar",)))
    features = Counter(f for e in next(examples(entry, never, 3, LEAST, 6, 3, False)) for f in e.features)
    assert {"permuted", "flipped", "strided", "expanded", "padded"} <= wanted_features(entry) - set(features)


def test_what_applies_follows_from_the_operands():
    def wanted(*operands, **options):
        return wanted_features(Entry("a test", (), lambda *xs: xs, operands=operands, **options))

    assert "zero-size" not in wanted(Operand(min_size=1)) and "one-size" in wanted(Operand(min_size=1))
    assert "padded" not in wanted(Operand(low=1)) and "expanded" not in wanted(Operand(distinct=True))
    assert "permuted" not in wanted(Operand(max_dims=1)) and "nan" not in wanted(Operand(), special=False)
    assert wanted(Operand(max_dims=0), special=False) == set()
    assert "nan" not in wanted(Operand(), dtypes=("int32", "bool"))


def test_a_loose_tolerance_needs_a_reason():
    for options in ({"tolerance": 1e-3}, {"ulp": 1000}):
        with pytest.raises(ValueError, match="needs a reason"):
            Entry("a test", (), lambda x: x, **options)
        Entry("a test", (), lambda x: x, why="a reason", **options)


def test_bfloat16_goes_to_torch_unchanged():
    from clgrad import dtypes

    array = np.array([1.0, -0.0, np.inf, 3.140625], dtypes.bfloat16)
    assert as_torch(array).dtype == torch.bfloat16
    np.testing.assert_array_equal(as_torch(array).float().numpy(), array.astype(np.float32))
