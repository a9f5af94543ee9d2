"""The examples of denoising, T5's and BART's: what they do to a text, and, in a reduced form, that they learn."""

import math

import numpy as np
import pytest


@pytest.mark.parametrize("block", [9, 20, 64])
def test_t5_reads_and_writes_every_letter_once(example, english, block):
    module = example("t5_denoise")
    text = module.Spans(**vars(module.read_text(english)))
    chance = np.random.default_rng(0)
    V = len(text.characters)
    for start in range(50):
        row = text.training[start : start + block]
        source, target = text.corrupt(row, chance)
        assert text.restore(source, target[:-1]) == row.tolist()
        assert target[-1] == text.end(block) and sum(t < V for t in target) == round(0.15 * block)
        sentinels = [t for t in source if t >= V]
        assert sentinels == [t for t in target[:-1] if t >= V] == list(range(V, text.end(block)))


def test_bart_reads_a_mask_for_each_span_that_is_gone(example, english):
    module = example("bart_denoise")
    text = module.Infilled(**vars(module.read_text(english)))
    chance = np.random.default_rng(0)
    empty = 0
    for start in range(200):
        row = text.training[start : start + 48]
        source, hidden = text.damage(row, chance)
        assert [t for t in source if t != text.mask] == row[~hidden].tolist() and 0.3 <= hidden.mean() < 0.7
        assert (text.mask, text.mask) not in zip(source, source[1:], strict=False)
        spans = int((np.diff(np.concatenate([[0], hidden]).astype(int)) == 1).sum())
        assert source.count(text.mask) >= spans
        empty += source.count(text.mask) - spans
    assert empty > 0  # a mask may stand for nothing


def test_the_example_of_t5(example, english):
    module = example("t5_denoise")
    found = module.main(40, english, block=24, d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=1)
    text = module.read_text(english)
    assert found["loss"] < 0.9 * math.log(len(text.characters))  # of a guess among all letters
    assert all(0 <= found[name] <= 1 for name in ("most frequent", "after two", "T5", "whole spans"))
    assert found["after two"] > found["most frequent"]


def test_the_example_of_bart(example, english):
    module = example("bart_denoise")
    found = module.main(40, english, block=24, layers=1, width=16)
    text = module.read_text(english)
    assert found["loss"] < 0.95 * math.log(len(text.characters))
    assert all(0 <= found[name] <= 1 for name in ("after two", "BART", "BART, visible"))
