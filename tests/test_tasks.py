"""`clgrad train --task`: each task learns, stops and goes on, and answers; and the flags that all tasks share."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clgrad import Tensor
from clgrad.cli import metrics
from clgrad.cli import train as trainer
from clgrad.cli.batches import Buckets, padded
from clgrad.cli.bleu import nearest
from clgrad.cli.checkpoint import FILE_NAME, load
from clgrad.cli.config import PRESETS, TASKS, resolve
from clgrad.cli.corpora import Corpus, read_labelled, read_pairs
from clgrad.cli.errors import UsageError
from clgrad.cli.generate import load_task
from clgrad.cli.main import main
from clgrad.models import from_pretrained
from clgrad.models.tokenizers import SubwordTokenizer, tokenizer_from

pytest.importorskip("tokenizers")

WORDS = dict(rot="red", blau="blue", haus="house", hund="dog", katze="cat", baum="tree", alt="old", neu="new")
TINY = dict(device="NUMPY", n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, dropout=0, vocab_size=330)
TINY |= dict(max_iters=6, warmup_iters=2, eval_interval=3, eval_iters=2, checkpoint_interval=2)
TINY |= dict(schedule="constant", held_out=5)  # so that the end of a run does not decide its beginning


def sentences(count, seed=1):
    """Different German "sentences" of words, and the words in English."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        words = rng.choices(list(WORDS), k=rng.randint(1, 5))
        found[" ".join(words)] = " ".join(WORDS[word] for word in words)
    return list(found.items())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    words = random.Random(1).choices(list(WORDS), k=200)
    (folder / "text.txt").write_text("".join(f"{word} heisst {WORDS[word]}. " for word in words))
    (folder / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in sentences(300)))
    labelled = (f"{label}\t{text}\n" for pair in sentences(60) for label, text in zip("ab", pair))  # the language
    (folder / "labels.tsv").write_text("".join(labelled))
    names = {"lm": "text.txt", "mlm": "text.txt", "translate": "pairs.tsv", "classify": "labels.tsv"}
    return {task: str(folder / name) for task, name in names.items()}


def arguments(folder, task, data, **fields):
    fields = TINY | dict(task=task, data=data[task], out=folder) | fields
    fields |= {"tokenizer": "bpe"} if task == "lm" else {}
    return ["train", *(f"--{name.replace('_', '-')}={value}" for name, value in fields.items())]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """One finished run of each task."""
    folder = tmp_path_factory.mktemp("runs")
    for task in TASKS:
        assert main(arguments(folder / task, task, data)) == 0
    return {task: folder / task for task in TASKS}


def losses(folder):
    lines = (folder / metrics.FILE_NAME).read_text().splitlines()
    measured = ("iter", "train_loss", "val_loss", "val_accuracy", "lr")
    return [{key: entry.get(key) for key in measured} for entry in map(json.loads, lines)]


def error_of(capsys, command):
    capsys.readouterr()
    code = main(command)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("clgrad: error: "), lines
    return code, lines[0]


# -- every task


@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_a_task_leaves_what_a_run_leaves(runs, task):
    assert [entry["iter"] for entry in losses(runs[task])] == [1, 2, 3, 4, 5, 6]
    assert [entry["iter"] for entry in losses(runs[task]) if entry["val_loss"]] == [3, 6]
    files = {"checkpoint.safetensors", "config.json", "loss.png", "metrics.jsonl", "model.safetensors"}
    assert {path.name for path in runs[task].iterdir()} >= files | {"tokenizer.json"}


@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_is_stopped_in_the_middle_of_a_step_goes_on_bit_for_bit(runs, task, data, tmp_path, monkeypatch):
    train_once = trainer.Run.train_once

    def stopping(self, number, rate):
        if number == 4:
            raise KeyboardInterrupt
        return train_once(self, number, rate)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Run, "train_once", stopping)
        assert main(arguments(tmp_path / "run", task, data)) == 130
    assert load(tmp_path / "run" / FILE_NAME).state["iteration"] == 2
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert losses(tmp_path / "run") == losses(runs[task])


@pytest.mark.parametrize("task", TASKS)
def test_what_is_exported_is_the_model_of_the_checkpoint(runs, task):
    trained, exported = load_task(runs[task], "NUMPY"), from_pretrained(runs[task]).to("NUMPY")
    assert type(trained.model) is type(exported)
    theirs = exported.state_dict()
    for name, tensor in trained.model.state_dict().items():
        assert np.array_equal(tensor.numpy(), theirs[name].numpy()), name
    assert tokenizer_from(runs[task]).encode("rot hund") == trained.tokenizer.encode("rot hund")


@pytest.mark.parametrize("task", TASKS)
def test_resume_refuses_other_data_of_a_task(runs, task, data, tmp_path, capsys):
    with open(data[task]) as file:
        (tmp_path / "other").write_text(file.read().replace("hund", "hand"))
    code, line = error_of(capsys, ["train", "--resume", str(runs[task]), "--data", str(tmp_path / "other")])
    assert code == 2 and "is not the one" in line


@pytest.mark.parametrize("task", TASKS)
def test_generate_answers_for_a_run_of_any_task(runs, task, capsys):
    capsys.readouterr()
    command = ["generate", str(runs[task]), "--device", "NUMPY", "--max-tokens", "4", "--seed", "1"]
    assert main([*command, "--prompt", "rot [MASK] hund" if task == "mlm" else "rot hund"]) == 0
    out = capsys.readouterr().out
    shares = [float(line.split("%")[0]) for line in out.splitlines() if "%" in line]
    expected = {
        "lm": out.startswith("rot hund"),
        "mlm": len(out.splitlines()) == 2 and out.splitlines()[1].count(",") >= 2,
        "classify": sorted(line.split()[-1] for line in out.splitlines()) == ["a", "b"]
        and abs(sum(shares) - 100) < 0.02,
        "translate": len(out.splitlines()) == 1,
    }
    assert expected[task], out


def test_a_folder_of_hugging_face_s_answers_as_the_run_it_came_from(runs, tmp_path, capsys):
    for task, prompt in (("lm", "rot hund"), ("mlm", "rot [MASK] hund"), ("classify", "rot hund")):
        folder = tmp_path / task
        folder.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_bytes((runs[task] / name).read_bytes())
        said = []
        for path in (runs[task], folder):
            capsys.readouterr()
            flags = ["--prompt", prompt, "--max-tokens", "4", "--temperature", "0", "--device", "NUMPY"]
            assert main(["generate", str(path), *flags]) == 0
            said.append(capsys.readouterr().out)
        assert said[0] == said[1] and said[0].strip()
    (folder / "tokenizer.json").unlink()
    code, line = error_of(capsys, ["generate", str(folder), "--device", "NUMPY"])
    assert code == 1 and "no tokenizer.json" in line
    (folder / "tokenizer.json").write_bytes((runs["translate"] / "tokenizer.json").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))
    code, line = error_of(capsys, ["generate", str(folder), "--device", "NUMPY"])
    assert code == 2 and ("does not belong" in line or "shape" in line)


def test_text_stops_at_a_string_and_beams_find_one_text(runs, capsys):
    def said(*flags):
        capsys.readouterr()
        command = ["generate", str(runs["lm"]), "--prompt", "rot", "--device", "NUMPY", "--max-tokens", "12", *flags]
        assert main(command) == 0
        return capsys.readouterr().out

    whole = said("--temperature", "0")
    stop = whole[8:10]
    assert said("--temperature", "0", "--stop", stop, "--stop", "never said") == whole[: whole.index(stop, 3)] + "\n"
    assert said("--beams", "2") == said("--beams", "2", "--seed", "3")
    assert said("--temperature", "9", "--min-p", "1", "--seed", "1") == whole  # none but the likeliest is likely enough
    code, line = error_of(capsys, ["generate", str(runs["lm"]), "--beams", "0"])
    assert code == 2 and "--beams" in line


# -- each task


def test_translate_learns_a_language_of_eight_words_and_scores_it(data, tmp_path, capsys):
    pytest.importorskip("sacrebleu")
    fields = dict(max_iters=240, eval_interval=240, learning_rate=1e-2, warmup_iters=20, n_embd=32, block_size=8)
    assert main(arguments(tmp_path / "run", "translate", data, **fields, schedule="inverse_sqrt", held_out=10)) == 0
    scores = json.loads((tmp_path / "run" / "bleu.json").read_text())
    assert scores["copied"] < 5 and scores["translated"] > max(50, scores["nearest"])
    assert f"{scores['translated']:.2f}" in capsys.readouterr().out
    rows = [line.split("\t") for line in (tmp_path / "run" / "translations.tsv").read_text().splitlines()]
    truth = dict(sentences(300))
    assert len(rows) == 10 and all(truth[source] == reference for source, _, reference in rows)
    found = {beams: load_task(tmp_path / "run", "NUMPY").translate([r[0] for r in rows], beams) for beams in (1, 2)}
    assert found[1] == [row[1] for row in rows]  # whatever they were translated together with
    assert sum(truth[r[0]] == text for r, text in zip(rows, found[2])) >= sum(r[1] == r[2] for r in rows) - 1


def test_classify_learns_its_labels(data, tmp_path, capsys):
    fields = dict(max_iters=60, eval_interval=60, learning_rate=1e-2, held_out=20, label_smoothing=0.1)
    assert main(arguments(tmp_path / "run", "classify", data, **fields)) == 0
    last = losses(tmp_path / "run")[-1]
    assert last["val_accuracy"] >= 0.9 and last["val_loss"] < np.log(2)
    task = load_task(tmp_path / "run", "NUMPY")
    assert task.labels == ("a", "b") == task.model.config.labels


def test_mlm_finds_hidden_tokens_from_what_stands_around_them(tmp_path):
    """Each word is said twenty times, so that what stands around a hidden one says which it is, wherever it stands."""
    words = random.Random(1).choices(list(WORDS), k=60)
    (tmp_path / "text").write_text("".join(f"{word} " * 20 for word in words))
    fields = dict(max_iters=120, eval_interval=120, learning_rate=1e-2, n_embd=32, batch_size=8, eval_iters=8)
    assert main(arguments(tmp_path / "run", "mlm", {"mlm": tmp_path / "text"}, **fields)) == 0
    # Words alone, drawn by how often each comes, cost log 8 = 2.08.
    assert losses(tmp_path / "run")[-1]["val_loss"] < 1.8


def test_the_held_out_count_for_nothing_in_the_tokenizer(data, tmp_path):
    """A tokenizer that saw what validates would know the pairs of letters that only these sentences have."""
    rows = sentences(30)
    (tmp_path / "a").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    held = read_pairs(str(tmp_path / "a")).split(5, 1, "pairs")[1]
    (tmp_path / "b").write_text("".join(f"{a}\t{b}{' zqzqzqzq' * ((a, b) in held)}\n" for a, b in rows))
    vocabularies = []
    for name in "ab":
        command = arguments(tmp_path / f"run-{name}", "translate", {"translate": tmp_path / name}, max_iters=1)
        assert main([*command, "--sample-tokens=0"]) == 0
        vocabularies.append((tmp_path / f"run-{name}" / "tokenizer.json").read_text())
    assert vocabularies[0] == vocabularies[1]


def test_the_example_translates_and_draws_what_it_looks_at(runs, tmp_path, example):
    translate = example("translate")
    arguments = [str(runs["translate"]), "rot hund", "neu", "--device=NUMPY", f"--plot={tmp_path / 'attention.png'}"]
    task = load_task(runs["translate"], "NUMPY")
    assert translate.main(arguments) == task.translate(["rot hund", "neu"], beams=1)
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    shares, target, source = translate.attention(task, "rot hund")
    assert source[-1] == "end" == target[-1] and "".join(source[:-1]) == "rot hund"
    assert shares.shape == (len(target), len(source))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)


# -- flags of all tasks


def test_batches_accumulate_to_the_update_of_one_large_batch(data, tmp_path):
    """Blocks of a text are all of one length, so the mean of the means is the mean of all."""
    chosen = resolve(TINY | dict(task="lm", preset="shakespeare", data=data["lm"], tokenizer="bpe", accumulate=3))
    updated = []
    for count in (3, 1):
        settings = trainer.dataclasses.replace(chosen.train, accumulate=count)
        task = trainer.task_named("lm").start(settings, chosen.model)
        run = trainer.Run(tmp_path, task, settings)
        batches = [task.batch(i) for i in (1, 2, 3)]
        if count == 1:
            together = tuple(np.concatenate(parts) for parts in zip(*batches))
            task.batch = lambda number, together=together: together
        found, tokens = run.train_once(1, 0.01)
        assert tokens == 3 * 4 * 16
        updated.append((np.mean([loss.item() for loss in found]), [p.numpy() for p in task.model.parameters()]))
    assert updated[0][0] == pytest.approx(updated[1][0], abs=1e-5)
    for ours, theirs in zip(updated[0][1], updated[1][1], strict=True):
        # Adam's first step is the gradient's sign where it is not tiny; the two may differ by rounding where it is.
        assert (np.abs(ours - theirs) > 1e-3).mean() < 0.02


def test_an_accumulating_run_resumes_bit_for_bit_and_counts_updates(data, tmp_path):
    fields = dict(accumulate=2, dropout=0.2)
    assert main(arguments(tmp_path / "whole", "lm", data, **fields)) == 0
    assert main(arguments(tmp_path / "run", "lm", data, **fields, max_iters=4)) == 0
    assert main(["train", "--resume", str(tmp_path / "run"), "--max-iters=6"]) == 0
    whole, resumed = ([entry["train_loss"] for entry in losses(tmp_path / name)] for name in ("whole", "run"))
    assert len(whole) == 6 and whole == resumed


@pytest.mark.parametrize("task", ["lm", "translate", *(pytest.param(t, marks=pytest.mark.sweep) for t in TASKS[2:])])
def test_a_run_that_keeps_no_inner_values_has_the_same_losses_in_less_memory(data, tmp_path, task):
    found, needed = [], []
    for checkpointing in (False, True):
        fields = dict(task=task, data=data[task], tokenizer="bpe", n_layer=4, dropout=0.2, checkpointing=checkpointing)
        chosen = resolve(TINY | fields)
        run = trainer.Run(tmp_path, trainer.task_named(task).start(chosen.train, chosen.model), chosen.train)
        found.append([run.train_once(i, 0.01)[0][0].item() for i in (1, 2)])
        needed.append(run.step.last.arena_bytes)
    assert found[0] == found[1] and needed[1] < 0.75 * needed[0]


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_run_in_a_half_follows_float32_and_resumes_bit_for_bit(runs, data, tmp_path, precision):
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes")
    assert main(arguments(tmp_path / "whole", "lm", data, precision=precision)) == 0
    for ours, exact in zip(losses(tmp_path / "whole"), losses(runs["lm"]), strict=True):
        assert ours["train_loss"] == pytest.approx(exact["train_loss"], abs=0.05)
    assert losses(tmp_path / "whole") != losses(runs["lm"])
    assert main(arguments(tmp_path / "run", "lm", data, precision=precision, max_iters=3)) == 0
    assert main(["train", "--resume", str(tmp_path / "run"), "--max-iters=6"]) == 0
    resumed = [entry["train_loss"] for entry in losses(tmp_path / "run")]
    assert resumed == [entry["train_loss"] for entry in losses(tmp_path / "whole")]
    assert {a.dtype for n, a in load(tmp_path / "run" / FILE_NAME).arrays.items() if n.startswith("model.")} == {
        np.dtype("float32")
    }


def test_the_learning_rate_follows_the_schedule_that_is_asked_for(data, tmp_path):
    rates = {}
    for schedule in ("linear", "inverse_sqrt", "constant"):
        fields = dict(schedule=schedule, learning_rate=1.0, min_lr=0, warmup_iters=4, max_iters=9)
        chosen = resolve(TINY | fields | dict(data=data["lm"], preset="shakespeare", tokenizer="bpe"))
        task = trainer.task_named("lm").start(chosen.train, chosen.model)
        run = trainer.Run(tmp_path, task, chosen.train)
        rates[schedule] = [run.learning_rate(i) for i in range(1, 10)]
    assert rates["linear"] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert rates["inverse_sqrt"] == pytest.approx([0.25, 0.5, 0.75, 1.0] + [(4 / s) ** 0.5 for s in range(5, 10)])
    assert rates["constant"] == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 5)


def test_a_task_chooses_its_preset_and_a_preset_keeps_to_its_task():
    for task in TASKS[1:]:
        assert resolve({"task": task}) == resolve({"task": task, "preset": task})
        assert resolve({"preset": task}).train.task == task == PRESETS[task]["task"]
    with pytest.raises(UsageError, match="preset shakespeare is for --task lm, not mlm"):
        resolve({"task": "mlm", "preset": "shakespeare"})


def test_a_tokenizer_from_a_file_is_used_as_it_is(data, tmp_path, capsys):
    own = SubwordTokenizer.train(["rot hund katze"], 300, ["<pad>", "<s>", "</s>"])
    own.save(tmp_path / "own.json")
    command = arguments(tmp_path / "run", "translate", data, max_iters=1, vocab_size=own.vocab_size)
    assert main([*command, f"--tokenizer={tmp_path / 'own.json'}", "--sample-tokens=0"]) == 0
    assert (tmp_path / "run" / "tokenizer.json").read_text() == own.to_json()
    command = arguments(tmp_path / "other", "mlm", data)
    code, line = error_of(capsys, [*command, f"--tokenizer={tmp_path / 'own.json'}"])
    assert code == 2 and "needs the tokens [PAD], [UNK], [CLS], [SEP], [MASK]" in line


# -- what is refused


@pytest.mark.parametrize(
    "task, content, flags, message",
    [
        ("translate", "only one column\n", [], "line 1: a line must hold a source, a tab and its translation"),
        ("translate", "a\tb\n\nc\t\n", [], "line 3"),
        ("translate", "a\tb\nc\td\n", ["--held-out=2"], "error: DATA (pairs) has 2 different source sentences"),
        ("translate", "# dictionary\nAal {m} :: eel\n", [], "has no pairs of sentences"),
        ("translate", None, [], "does not exist"),
        ("translate", "a\tb\nc\td\n", ["--tokenizer=char", "--held-out=1"], "char is for --task lm"),
        ("translate", "a\tb\nc\td\n", ["--tokenizer=none.json", "--held-out=1"], "there is no file none.json"),
        ("translate", "a\tb\nc\td\n", ["--vocab-size=9", "--held-out=1"], "must be at least 259, not 9"),
        ("translate", "a\tb\nc\td\n", ["--no-bias", "--held-out=1"], "bias is not a field of the models of --task"),
        ("classify", "a\tone\na\ttwo\n", [], "has one label only: 'a'"),
        ("classify", "\n \n", [], "has no texts with labels"),
        ("classify", "a\tx\nb\ty\n", ["--held-out=1", "--block-size=2"], "must hold [CLS], a token and [SEP]"),
        ("classify", "a\n", [], "line 1: a line must hold a label, a tab and a text"),
        ("classify", "a\tx\nb\ty\n", ["--n-embd=15", "--held-out=1"], "hidden_size 15 must be a multiple"),
        ("mlm", "short", [], "needs at least"),
        ("mlm", "short", ["--task=fly"], "unknown task 'fly'"),
        ("lm", "short", ["--schedule=up"], "unknown schedule 'up'"),
        ("lm", "short", ["--precision=float8"], "unknown precision 'float8'"),
        ("lm", "short", ["--label-smoothing=1"], "label_smoothing must be"),
        ("lm", "short", ["--accumulate=0"], "accumulate must be at least 1"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line_and_makes_no_run(tmp_path, capsys, task, content, flags, message):
    if content is not None:
        (tmp_path / "data").write_text(content)
    command = arguments(tmp_path / "run", task, {task: str(tmp_path / "data")})
    code, line = error_of(capsys, [*command, *flags])
    assert code == 2 and message in line.replace(str(tmp_path / "data"), "DATA")
    assert not (tmp_path / "run").exists()


def test_tasks_that_have_no_data_of_their_own_ask_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for task in ("translate", "classify"):
        code, line = error_of(capsys, ["train", "--task", task])
        assert code == 2 and "--data" in line


# -- data


def test_sentences_are_taken_out_of_a_dictionary(tmp_path):
    entry = (
        "Hund {m}; Köter {m} [zool.] | Der Hund bellt.; Er bellt. | zwei | Ja! :: dog; cur | The dog barks. | two | Yes"
    )
    (tmp_path / "de-en").write_text(f"# Version\n{entry}\nEin Satz. :: Two | sentences.\n{entry}\n")
    assert read_pairs(str(tmp_path / "de-en")).rows == [("Der Hund bellt.", "The dog barks.")]


def test_labelled_texts_are_lines_or_folders(tmp_path):
    (tmp_path / "lines").write_text("good\ta fine day\nbad\train\n")
    for label, text in (("good", "a fine day"), ("bad", "rain")):
        (tmp_path / "folders" / label).mkdir(parents=True)
        (tmp_path / "folders" / label / "1.txt").write_text(text)
    lines, folders = (read_labelled(str(tmp_path / name)).rows for name in ("lines", "folders"))
    assert sorted(lines) == sorted(folders) == [("a fine day", "good"), ("rain", "bad")]


def test_only_ends_of_lines_end_a_row_and_only_its_first_tab_a_label(tmp_path):
    (tmp_path / "pairs").write_bytes("ein\u2028Hund\ta\x85dog\r\n\r\nzwei\x0c!\ttwo\tnotes".encode())
    assert read_pairs(str(tmp_path / "pairs")).rows == [("ein\u2028Hund", "a\x85dog"), ("zwei\x0c!", "two")]
    (tmp_path / "texts").write_bytes("good\tso\tfine\u2029day\r\nbad\train".encode())
    assert read_labelled(str(tmp_path / "texts")).rows == [("so\tfine\u2029day", "good"), ("rain", "bad")]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "A ", "b", "c", "d", "é"]), st.sampled_from("xyz")), min_size=1),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_no_source_that_validates_is_in_what_trains(rows, held_out, seed):
    corpus = Corpus(rows, "here")
    sources = {a.strip().lower() for a, _ in rows}
    if len(sources) <= held_out:
        with pytest.raises(UsageError, match="none are left to train on"):
            corpus.split(held_out, seed, "sources")
        return
    training, validation = corpus.split(held_out, seed, "sources")
    kept, held = ({a.strip().lower() for a, _ in part} for part in (training, validation))
    assert len(validation) == len(held) == held_out and not kept & held
    assert sorted(training) == sorted(row for row in rows if row[0].strip().lower() in kept)
    assert corpus.split(held_out, seed, "sources") == (training, validation)


@given(st.lists(st.integers(1, 16), min_size=1, max_size=40), st.integers(1, 3), st.integers(0, 3))
def test_an_epoch_of_buckets_has_every_row_in_a_width_that_holds_it(lengths, batch_size, seed):
    buckets = Buckets(lengths, batch_size=batch_size, block_size=16, seed=seed)
    for epoch in range(2):
        seen = set()
        for number in range(epoch * buckets.batches + 1, (epoch + 1) * buckets.batches + 1):
            rows, width = buckets.batch(number)
            assert len(rows) * width <= max(batch_size * 16, width)
            assert max(lengths[row] for row in rows) <= width <= 16
            seen |= set(rows.tolist())
        assert seen == set(range(len(lengths)))
    once = [row for rows, count, width in buckets.once() for row in rows.tolist()]
    assert sorted(once) == list(range(len(lengths)))


def test_padding_fills_ends_and_rows():
    assert padded([[1, 2, 3], [4]], 3, 3, 0).tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0]]


@given(st.lists(st.text("abc ", min_size=1), min_size=1, max_size=8, unique_by=lambda s: " ".join(s.split())))
def test_a_sentence_is_nearest_to_itself(rows):
    rows = [row for row in rows if row.strip()]
    if rows:
        found = nearest(rows, rows)
        for i, j in enumerate(found):
            assert i == j or sorted(rows[i].split()) == sorted(rows[j].split())


def test_a_masked_evaluation_is_the_same_every_time(data):
    chosen = resolve(TINY | dict(task="mlm", preset="mlm", data=data["mlm"]))
    task = trainer.task_named("mlm").start(chosen.train, chosen.model)
    first, again = ([m.arrays for m in task.evaluation()] for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b))
    x, y = task.batch(1)
    special = [task.special(name) for name in task.special_tokens]
    assert not np.isin(y[y >= 0], special).any() and (x[:, 0] == task.special("[CLS]")).all()
    logits, _ = task.logits(Tensor(x, device="NUMPY"), Tensor(y, device="NUMPY"))
    assert logits.shape == (*x.shape, task.tokenizer.vocab_size)
