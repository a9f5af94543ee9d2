"""The checkpoint file and metrics.jsonl: whole or refused, whatever happens to the disk."""

import errno
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clgrad.cli import metrics
from clgrad.cli.checkpoint import Checkpoint, check_arrays, load, remove_temporary_files, save
from clgrad.cli.errors import UsageError
from clgrad.nn import state as files

STATE = {"iteration": 7, "vocabulary": "aé\n世", "train": {"seed": 1, "learning_rate": 1e-3}}


def example(value=0.5):
    return Checkpoint(
        {"model.w": np.full((3, 4), value, np.float32), "optimizer.0.step": np.float32(7).reshape(())}, STATE
    )


def assert_holds(path, value):
    loaded = load(path)
    assert loaded.state == STATE
    assert loaded.arrays.keys() == {"model.w", "optimizer.0.step"}
    assert np.array_equal(loaded.arrays["model.w"], np.full((3, 4), value, np.float32))
    assert loaded.arrays["optimizer.0.step"].shape == () and loaded.arrays["optimizer.0.step"] == 7


def test_what_was_saved_is_loaded(tmp_path):
    save(tmp_path / "c", example())
    assert_holds(tmp_path / "c", 0.5)
    assert os.listdir(tmp_path) == ["c"]


def test_a_file_cut_anywhere_is_one_clear_error(tmp_path):
    path = tmp_path / "c"
    save(path, example())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="cut short|damaged"):
            load(path)


def test_any_byte_flipped_in_header_or_data_is_one_clear_error(tmp_path):
    path = tmp_path / "c"
    save(path, example())
    whole = path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(UsageError, match="damaged|no checkpoint of clgrad|format|a dtype that NumPy does not have"):
            load(path)


def test_other_files_are_no_checkpoints(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint"):
        load(tmp_path / "missing")
    files.safe_save({"w": np.zeros(3)}, tmp_path / "export")
    with pytest.raises(UsageError, match="no checkpoint of clgrad"):
        load(tmp_path / "export")
    files.safe_save({"w": np.zeros(3)}, tmp_path / "newer", {"clgrad_format": "99", "state": "{}"})
    with pytest.raises(UsageError, match="format 99"):
        load(tmp_path / "newer")


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"w": np.zeros((3, 4), np.float32)},
        {"w": np.zeros((4, 3), np.float64)},
        {"w": np.zeros((4, 3), np.float32), "more": np.zeros(1, np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, found):
    expected = {"w": np.zeros((4, 3), np.float32)}
    check_arrays(tmp_path, expected, expected)
    with pytest.raises(UsageError, match="does not fit.*(w|more) is"):
        check_arrays(tmp_path, found, expected)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_no_other_file(tmp_path):
    path = tmp_path / "c"
    save(path, example())
    # The kernel refuses to let any file of this process grow past a size, in the middle of the write.
    script = f"""
import resource, sys
import numpy as np
from clgrad.cli.checkpoint import Checkpoint, save
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    save(Path({str(path)!r}), Checkpoint({{"model.w": np.ones(100_000, np.float32)}}, {{}}))
except OSError as error:
    sys.exit(error.errno)
"""
    assert subprocess.run([sys.executable, "-P", "-c", script]).returncode == errno.EFBIG
    assert os.listdir(tmp_path) == ["c"]
    assert_holds(path, 0.5)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_an_error_of_the_disk_late_in_the_write_leaves_the_last_checkpoint(tmp_path, monkeypatch, failing):
    path = tmp_path / "c"
    save(path, example())

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(OSError, match="No space left"):
            save(path, example(0.75))
    assert os.listdir(tmp_path) == ["c"]
    assert_holds(path, 0.5)
    save(path, example(0.75))
    assert_holds(path, 0.75)


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        save(tmp_path / "file" / "c", example())


def test_what_a_kill_leaves_half_written_is_removed(tmp_path):
    save(tmp_path / "checkpoint.safetensors", example())
    (tmp_path / ".checkpoint.safetensors.x1.tmp").write_bytes(b"half")
    remove_temporary_files(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoint.safetensors"]


def test_metrics_are_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics.MetricsFile(path) as log:
        log.append({"iter": 1, "train_loss": 4.25})
        assert path.read_text() == '{"iter": 1, "train_loss": 4.25}\n'  # before the file is closed
        log.append({"iter": 2, "train_loss": 4.0})
    with metrics.MetricsFile(path) as log:
        log.append({"iter": 3, "train_loss": 3.5})
    assert [entry["iter"] for entry in metrics.read(path)] == [1, 2, 3]


@given(st.integers(1, 6), st.integers(0, 7), st.data())
def test_cutting_back_keeps_the_whole_lines_up_to_the_checkpoint(count, iteration, data):
    import tempfile
    from pathlib import Path

    entries = [{"iter": i, "train_loss": 1 / i} for i in range(1, count + 1)]
    lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    torn = data.draw(st.integers(0, len(lines)))
    whole = sum(1 for end in (i for i, byte in enumerate(lines) if byte == 10) if end < torn)
    # A last line that lacks nothing but its end is as good as whole.
    whole += lines[torn : torn + 1] == b"\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "metrics.jsonl")
        path.write_bytes(lines[:torn])
        kept = metrics.cut_back(path, iteration)
        assert kept == entries[: min(whole, iteration)] == metrics.read(path)
        with metrics.MetricsFile(path) as log:
            log.append({"iter": 99})
        assert metrics.read(path) == [*kept, {"iter": 99}]


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics.MetricsFile(path) as log:
        log.append({"iter": 1})
        size = path.stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4, hard))
        try:
            with pytest.raises(OSError):
                log.append({"iter": 2, "train_loss": 1.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.stat().st_size == size
        log.append({"iter": 2})
    assert [entry["iter"] for entry in metrics.read(path)] == [1, 2]


def test_missing_metrics_are_none(tmp_path):
    assert metrics.cut_back(tmp_path / "metrics.jsonl", 5) == []
    assert metrics.read(tmp_path / "metrics.jsonl") == []
