"""`clgrad train`: the run folder, reproducibility, and going on after every kind of stop."""

import errno
import io
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clgrad import Tensor
from clgrad.cli import metrics
from clgrad.cli import train as trainer
from clgrad.cli.checkpoint import FILE_NAME, load
from clgrad.cli.generate import load_run
from clgrad.cli.main import main
from clgrad.cli.plot import smooth
from clgrad.cli.progress import Progress, duration
from clgrad.cli.signals import StopSignals
from clgrad.models import GPT

TEXT = "the quick brown fox jumps over the lazy dog.\nROMEO: ay, me!\n" * 20
TINY = dict(n_layer=1, n_head=2, n_embd=8, block_size=8, batch_size=4, device="NUMPY", max_iters=12, warmup_iters=3)
TINY |= dict(learning_rate=0.01, min_lr=1e-4, eval_interval=5, eval_iters=2, checkpoint_interval=4, sample_tokens=5)
CONSTANT_RATE = dict(learning_rate=0.01, min_lr=0.01, warmup_iters=0)  # the schedule does not depend on max_iters
FILES = {"checkpoint.safetensors", "config.json", "loss.png", "metrics.jsonl", "model.safetensors", "vocab.json"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT)
    return str(file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text):
    """A run that nobody stopped. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert main(arguments(folder, text)) == 0
    return folder


def arguments(folder, text, **fields):
    fields = TINY | dict(data=text, out=folder) | fields
    return ["train", *(f"--{name.replace('_', '-')}={value}" for name, value in fields.items())]


def losses(folder):
    """What must be the same, bit for bit: JSON writes every digit of a float."""
    lines = (folder / metrics.FILE_NAME).read_text().splitlines()
    return [
        {key: entry.get(key) for key in ("iter", "train_loss", "val_loss", "lr")} for entry in map(json.loads, lines)
    ]


def stop_at(monkeypatch, iteration, how=KeyboardInterrupt):
    """Stop the next run in the middle of a step, without a chance to save."""
    train_once = trainer.Run.train_once

    def stopping(self, number, rate):
        if number == iteration:
            raise how
        return train_once(self, number, rate)

    monkeypatch.setattr(trainer.Run, "train_once", stopping)


# -- the run folder


def test_a_run_folder_holds_what_is_promised_and_nothing_else(finished):
    assert set(os.listdir(finished)) == FILES
    assert (finished / "loss.png").read_bytes().startswith(b"\x89PNG")
    vocabulary = json.loads((finished / "vocab.json").read_text())
    assert vocabulary == {character: token for token, character in enumerate(sorted(set(TEXT)))}
    config = json.loads((finished / "config.json").read_text())
    assert (config["n_embd"], config["n_positions"], config["vocab_size"]) == (8, 8, len(vocabulary))
    assert config["training"]["batch_size"] == 4 and config["training"]["seed"] == 1


def test_every_iteration_has_its_line_of_metrics(finished):
    entries = metrics.read(finished / metrics.FILE_NAME)
    assert [entry["iter"] for entry in entries] == list(range(1, 13))
    for entry in entries:
        assert entry.keys() - {"val_loss"} == {"iter", "train_loss", "lr", "step_ms", "tokens_per_second"}
        assert entry["step_ms"] > 0 and entry["tokens_per_second"] > 0
    rates = [entry["lr"] for entry in entries]
    cosine = [1e-4 + 0.5 * (0.01 - 1e-4) * (1 + np.cos(np.pi * i / 9)) for i in range(9)]
    np.testing.assert_allclose(rates, [0.0025, 0.005, 0.0075, *cosine], rtol=1e-12)
    assert [entry["iter"] for entry in entries if "val_loss" in entry] == [5, 10, 12]
    # A model that has seen nothing gives every character the same probability.
    assert abs(entries[0]["train_loss"] - np.log(len(set(TEXT)))) < 0.1


def test_the_export_is_the_model_of_the_checkpoint(finished):
    model, vocabulary = load_run(finished, "NUMPY")
    exported = GPT.from_pretrained(finished)
    ids = Tensor(vocabulary.encode_array("the fox").reshape(1, -1))
    assert np.array_equal(model(ids)[0].numpy(), exported.to("NUMPY")(ids)[0].numpy())


def test_transformers_reads_the_export(finished):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, vocabulary = load_run(finished, "NUMPY")
    ids = vocabulary.encode_array("the fox").reshape(1, -1)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(finished).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(model(Tensor(ids))[0].numpy(), expected, atol=1e-5)


def test_the_end_of_a_run_shows_a_sample_and_the_command_for_more(tmp_path, text, capsys):
    assert main(arguments(tmp_path / "a run", text, max_iters=1)) == 0
    out = capsys.readouterr().out
    assert f"clgrad generate '{tmp_path}/a run' --prompt ROMEO: " in out
    assert "validation loss" in out and "\nROMEO:" in out


def test_matrices_decay_and_vectors_do_not(finished):
    model, _ = load_run(finished, "NUMPY")
    decaying, others = trainer.parameter_groups(model, 0.1)
    assert {p.ndim for p in decaying["params"]} == {2} and {p.ndim for p in others["params"]} == {1}
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(decaying["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_without_matplotlib_a_run_says_so_and_ends_well(tmp_path, text, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(arguments(tmp_path / "run", text, max_iters=1)) == 0
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert set(os.listdir(tmp_path / "run")) == FILES - {"loss.png"}


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.floats(0, 1))
def test_the_smoothed_curve_is_a_centred_mean(values, fraction):
    half = int(len(values) * fraction) // 2
    expected = [np.mean(values[max(i - half, 0) : i + half + 1]) for i in range(len(values))]
    np.testing.assert_allclose(smooth(np.array(values), fraction), expected, atol=1e-9)


# -- the same numbers


def test_the_seed_decides_every_number(tmp_path, text, finished):
    assert main(arguments(tmp_path / "same", text)) == 0
    assert losses(tmp_path / "same") == losses(finished)
    assert main(arguments(tmp_path / "other", text, seed=2)) == 0
    assert losses(tmp_path / "other") != losses(finished)


def test_how_often_a_run_is_evaluated_and_saved_does_not_change_it(tmp_path, text, finished):
    assert main(arguments(tmp_path / "run", text, eval_interval=1, eval_iters=1, checkpoint_interval=3)) == 0
    train_losses = [entry["train_loss"] for entry in losses(finished)]
    assert [entry["train_loss"] for entry in losses(tmp_path / "run")] == train_losses


def test_a_run_learns(tmp_path, text):
    assert main(arguments(tmp_path / "run", text, max_iters=200, eval_interval=200, learning_rate=0.02)) == 0
    # The text repeats itself, so validation is easy. Letters alone, drawn by how often each comes, cost 3 nats.
    assert losses(tmp_path / "run")[-1]["val_loss"] < 2.0


# -- going on


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("iteration", [1, 2, 7, 12])
def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(
    tmp_path, text, finished, monkeypatch, iteration, dropout
):
    whole = finished
    if dropout:
        whole = tmp_path / "whole"
        assert main(arguments(whole, text, dropout=dropout)) == 0
        assert losses(whole) != losses(finished)
    with monkeypatch.context() as patch:
        stop_at(patch, iteration)
        assert main(arguments(tmp_path / "run", text, dropout=dropout)) == 130
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert losses(tmp_path / "run") == losses(whole)
    checkpoints = [load(folder / FILE_NAME) for folder in (tmp_path / "run", whole)]
    for name, array in checkpoints[0].arrays.items():
        assert np.array_equal(array, checkpoints[1].arrays[name]), name


def test_a_run_on_opencl_resumes_bit_for_bit_and_follows_numpy(tmp_path, text, finished, monkeypatch, cl):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(arguments(whole, text, device=cl)) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        assert main(arguments(run, text, device=cl)) == 130
    assert main(["train", "--resume", str(run)]) == 0
    assert losses(run) == losses(whole)
    for theirs, ours in zip(losses(whole), losses(finished), strict=True):
        assert abs(theirs["train_loss"] - ours["train_loss"]) < 1e-3


def test_resume_says_where_the_machine_has_changed(tmp_path, text, capsys, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert main(arguments(tmp_path / "run", text, max_iters=1)) == 0
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "note:" not in capsys.readouterr().err
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "note: blas_threads was 3 and is 5" in capsys.readouterr().err


def test_a_signal_during_an_evaluation_stops_after_the_next_step_and_saves_that(
    tmp_path, text, finished, monkeypatch, capsys
):
    evaluate = trainer.Run.evaluate

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Run, "evaluate", interrupted)
        assert main(arguments(tmp_path / "run", text)) == 130
    assert "saved at iteration 6;" in capsys.readouterr().out
    assert load(tmp_path / "run" / FILE_NAME).state["iteration"] == 6
    assert losses(tmp_path / "run") == losses(finished)[:6]


def test_a_text_of_blanks_trains_too(tmp_path):
    (tmp_path / "blanks").write_text(" \n" * 200)
    assert main(arguments(tmp_path / "run", tmp_path / "blanks", max_iters=1)) == 0


def test_the_first_signal_asks_to_stop_and_the_second_one_insists():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)  # a signal is handled before this ends
    assert signal.getsignal(signal.SIGTERM) is before


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_with_loss_speed_and_the_time_left(monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    progress = Progress(10, 40)
    progress.update(30, 2.5, 1234.4, 2.75)
    progress.close()
    last = screen.getvalue().split("\r")[-1]
    assert "30/40" in last and "loss=2.5000" in last and "tokens/s=1,234" in last and "val=2.7500" in last
    assert re.search(r"\[\d+:\d+<\d+:\d+", last)  # gone < left


def test_without_a_terminal_or_tqdm_there_are_plain_lines(monkeypatch):
    for screen in (io.StringIO(), Terminal()):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", screen)
            patch.setitem(sys.modules, "tqdm", None)
            progress = Progress(0, 40)
            progress.update(10, 2.5, 1234.4)
            progress.update(20, 2.25, 1234.4, 2.75)
            progress.close()
        assert re.fullmatch(r"iter 20/40  loss 2\.2500  tokens/s 1,234  val 2\.7500  0:00 left\n", screen.getvalue())


def test_durations_are_read_as_clocks():
    assert [duration(seconds) for seconds in (0, 59.6, 187, 3600 + 123)] == ["0:00", "1:00", "3:07", "1:02:03"]


def test_a_torn_last_line_of_metrics_is_mended(tmp_path, text, finished, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 11)
        assert main(arguments(tmp_path / "run", text)) == 130
    with open(tmp_path / "run" / metrics.FILE_NAME, "ab") as file:
        file.write(b'{"iter": 11, "train_lo')
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert losses(tmp_path / "run") == losses(finished)


def test_a_finished_run_that_is_resumed_stays_as_it_is_and_can_be_made_longer(tmp_path, text):
    run, longer = tmp_path / "run", tmp_path / "longer"
    assert main(arguments(run, text, max_iters=5, **CONSTANT_RATE)) == 0
    before = losses(run)
    (run / "loss.png").unlink()
    assert main(["train", "--resume", str(run)]) == 0
    assert losses(run) == before and (run / "loss.png").exists()
    assert main(["train", "--resume", str(run), "--max-iters", "10"]) == 0
    assert main(arguments(longer, text, max_iters=10, **CONSTANT_RATE)) == 0
    assert losses(run) == losses(longer)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, text, number, code):
    run = tmp_path / "run"
    command = arguments(run, text, max_iters=10**6, checkpoint_interval=10**6, eval_interval=50, **CONSTANT_RATE)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "clgrad", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: last_iteration(run) >= 3, lambda: process.poll() is None)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"clgrad train --resume {run}" in out
    reached = load(run / FILE_NAME).state["iteration"]
    assert reached == losses(run)[-1]["iter"] >= 3
    assert set(os.listdir(run)) == FILES
    assert main(["train", "--resume", str(run), f"--max-iters={reached + 5}"]) == 0
    assert main(arguments(tmp_path / "whole", text, max_iters=reached + 5, eval_interval=50, **CONSTANT_RATE)) == 0
    assert losses(run) == losses(tmp_path / "whole")


def wait_until(condition, is_alive):
    deadline = time.monotonic() + 60
    while not condition():
        assert is_alive() and time.monotonic() < deadline
        time.sleep(0.005)


def test_a_run_killed_at_random_moments_is_the_one_that_never_stopped(tmp_path, text, everything):
    kills = 50 if everything else 15
    run, whole = tmp_path / "run", tmp_path / "whole"
    fields = dict(eval_interval=10, checkpoint_interval=5, dropout=0.1, **CONSTANT_RATE)
    # A server that has imported clgrad and computed nothing forks the runs, which saves an import of NumPy each.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "clgrad.cli.train"])
    moments = random.Random(1)
    reached = []
    for _ in range(kills):
        started = (run / FILE_NAME).exists()
        command = ["train", "--resume", str(run)] if started else arguments(run, text, max_iters=10**6, **fields)
        before = last_iteration(run)
        process = context.Process(target=main, args=(command,))
        process.start()
        if moments.random() < 0.6:  # most of the time of such a short life goes by before its first step
            wait_until(lambda before=before: last_iteration(run) > before, process.is_alive)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(load(run / FILE_NAME).state["iteration"] if (run / FILE_NAME).exists() else 0)
    assert reached == sorted(reached)
    assert len(set(reached)) > kills // 5  # the kills fell among the work
    end = reached[-1] + 7
    assert main(["train", "--resume", str(run), f"--max-iters={end}"]) == 0
    assert main(arguments(whole, text, max_iters=end, **fields)) == 0
    assert losses(run) == losses(whole)
    assert set(os.listdir(run)) == FILES


def last_iteration(run):
    return max((entry["iter"] for entry in metrics.read(run / metrics.FILE_NAME)), default=0)


# -- what is refused


def error_of(capsys, command):
    """The exit code and the one line of an error."""
    code = main(command)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clgrad: error: ")]
    assert len(lines) == 1, lines
    return code, lines[0]


def test_a_run_folder_that_exists_is_refused(finished, text, capsys):
    before = {name: (finished / name).read_bytes() for name in os.listdir(finished)}
    code, line = error_of(capsys, arguments(finished, text))
    assert code == 2 and "exists already" in line and f"--resume {finished}" in line
    assert {name: (finished / name).read_bytes() for name in os.listdir(finished)} == before


def test_an_empty_folder_or_what_a_kill_left_of_one_is_used(tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".checkpoint.safetensors.abc.tmp").write_bytes(b"half")
    assert main(arguments(tmp_path / "run", text, max_iters=1)) == 0
    assert set(os.listdir(tmp_path / "run")) == FILES


def test_without_out_every_run_gets_a_folder_of_its_own(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [argument for argument in arguments("", text, max_iters=1) if not argument.startswith("--out")]
    assert main(command) == main(command) == 0
    assert sorted(os.listdir("runs")) == ["shakespeare", "shakespeare-2"]


@pytest.mark.parametrize(
    "flag, message",
    [("--n-embd=16", "n_embd is 8"), ("--seed=3", "seed is 1"), ("--preset=nanogpt-cpu", "preset is 'shakespeare'")],
)
def test_resume_refuses_what_would_make_it_another_run(finished, capsys, flag, message):
    code, line = error_of(capsys, ["train", "--resume", str(finished), flag])
    assert code == 2 and message in line and "cannot change" in line


def test_resume_refuses_another_text(finished, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("quick", "quack"))
    code, line = error_of(capsys, ["train", "--resume", str(finished), "--data", str(other)])
    assert code == 2 and "not the one" in line


def test_resume_names_what_is_not_there(tmp_path, capsys):
    code, line = error_of(capsys, ["train", "--resume", str(tmp_path / "none")])
    assert code == 2 and "no run folder" in line
    code, line = error_of(capsys, ["train", "--resume", str(tmp_path)])
    assert code == 2 and "no checkpoint" in line


def test_resume_refuses_a_checkpoint_of_another_shape(tmp_path, text, capsys):
    from clgrad.cli.checkpoint import Checkpoint, save

    assert main(arguments(tmp_path / "run", text, max_iters=1)) == 0
    path = tmp_path / "run" / FILE_NAME
    checkpoint = load(path)
    name = "model.transformer.wpe.weight"
    save(path, Checkpoint(checkpoint.arrays | {name: checkpoint.arrays[name][:-1]}, checkpoint.state))
    capsys.readouterr()
    for command in (["train", "--resume", str(tmp_path / "run")], ["generate", str(tmp_path / "run")]):
        code, line = error_of(capsys, command)
        assert code == 2 and "does not fit" in line and f"{name} is float32 (7, 8), not float32 (8, 8)" in line


@pytest.mark.parametrize("damage", ["cut short", "flipped"])
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, text, capsys, damage):
    assert main(arguments(tmp_path / "run", text, max_iters=1)) == 0
    path = tmp_path / "run" / FILE_NAME
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[100] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:-100])
    capsys.readouterr()
    for command in (["train", "--resume", str(tmp_path / "run")], ["generate", str(tmp_path / "run")]):
        code, line = error_of(capsys, command)
        assert code == 2 and ("damaged" in line or "cut short" in line) and str(path) in line


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path, text, capsys):
    (tmp_path / "file").write_text("not a folder")
    code, line = error_of(capsys, arguments(tmp_path / "file" / "run", text))
    assert code == 2 and "cannot be made: Not a directory" in line


def test_a_disk_that_is_full_from_the_start_leaves_nothing_half_written(tmp_path, text):
    result = subprocess.run(
        [sys.executable, "-P", "-m", "clgrad", *arguments(tmp_path / "run", text)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "clgrad: error: File too large" in result.stderr and "nothing was trained yet" in result.stderr
    assert os.listdir(tmp_path / "run") == []


def test_a_disk_that_fills_up_keeps_the_last_checkpoint_and_the_run_goes_on_from_it(
    tmp_path, text, finished, monkeypatch, capsys
):
    run = tmp_path / "run"
    replace = os.replace

    def full(source, target):
        if str(target).endswith(FILE_NAME) and (run / FILE_NAME).exists():
            if load(run / FILE_NAME).state["iteration"] == 4:
                raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        code, line = error_of(capsys, arguments(run, text))
    assert code == 1 and "No space left on device" in line and f"clgrad train --resume {run}" in line
    assert not [name for name in os.listdir(run) if name.endswith(".tmp")]
    assert load(run / FILE_NAME).state["iteration"] == 4
    assert main(["train", "--resume", str(run)]) == 0
    assert losses(run) == losses(finished)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path, text, capsys):
    command = arguments(tmp_path / "run", text, learning_rate=1e30, warmup_iters=0, grad_clip=0)
    code, line = error_of(capsys, command)
    assert code == 1 and "diverged" in line and "--learning-rate" in line
    assert all(np.isfinite(array).all() for array in load(tmp_path / "run" / FILE_NAME).arrays.values())
