"""`clgrad tune` keeps the fastest right shapes; backends opened later use them, unless the file is not whole."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from clgrad.backends.base import DeviceError
from clgrad.backends.opencl import tuning
from clgrad.backends.opencl.shapes import MAKES, TABLE, Shapes, limited, shapes_for


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def opened(backend):
    return type(backend)(backend.device, "CL")


def a_clock(fast, wrong=()):
    """Stands for `_time`: one second, but for shapes that `fast` says are faster; `wrong` ones give other results."""

    def time(backend, shapes, kernels, arrays):
        seconds = 1.0
        for (field, value), speed in fast.items():
            if getattr(shapes, field) == value:
                seconds /= speed
        off = any(getattr(shapes, field) == value for field, value in wrong)
        return seconds, [np.full(3, 1.0 + off)]

    return time


def test_winners_are_kept_and_used_when_the_device_is_opened_again(backend, kept, monkeypatch):
    family = tuning.Family(tuning._rows, *[{"row_group": (1, 4, 8, 16), "vector_group": (16, 32)}] * 2)
    monkeypatch.setattr(tuning, "FAMILIES", {"rows": family})
    fast = {("row_group", 4): 2, ("row_group", 16): 5, ("vector_group", 16): 1.01, ("vector_group", 32): 3}
    monkeypatch.setattr(tuning, "_time", a_clock(fast, wrong=[("row_group", 16)]))
    said = []
    winners = tuning.tune(opened(backend), say=said.append)
    assert winners == replace(backend.table, row_group=4, vector_group=32)
    assert any("row_group = 16" in line and "wrong" in line for line in said)
    again = opened(backend)
    assert again.shapes == winners and again.table == backend.table
    assert "tuned" in again.describe().description and "tuned" not in backend.describe().description


@pytest.mark.parametrize("text", ["", "{", "[]", '{"shapes": {"row_group": "8"}}', '{"shapes": {"no_such_field": 8}}',
                                  '{"shapes": {"dot_group": [8]}}', '{"shapes": {"row_group": -1}}'])  # fmt: skip
def test_a_table_that_is_not_whole_is_passed_over_with_one_warning(backend, kept, text):
    path = tuning.path_of(backend.device)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.warns(UserWarning, match="clgrad tune") as caught:
        assert opened(backend).shapes == backend.table
    assert len(caught) == 1 and str(path) in str(caught[0].message)


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(backend, kept, monkeypatch):
    monkeypatch.setattr(tuning, "FAMILIES", {})
    (kept / "clgrad").write_text("in the way")
    with pytest.raises(DeviceError, match="XDG_CACHE_HOME"):
        tuning.tune(opened(backend))


def test_every_candidate_gives_right_results_on_small_kernels(backend, kept):
    said = []
    tuning.tune(opened(backend), size=48, say=said.append)
    assert len(said) > len(tuning.FAMILIES) and not [line for line in said if "wrong" in line]
    json.loads(tuning.path_of(backend.device).read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(backend)


def test_the_command_prints_what_it_kept(cl, kept):
    script = (
        "from clgrad.backends.opencl import tuning; tuning.FAMILIES = {};"
        "from clgrad.cli.main import main; import sys; sys.exit(main(['tune', '--device', 'CL']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "winners:" in done.stdout and str(kept) in done.stdout
    refused = subprocess.run(
        [sys.executable, "-m", "clgrad", "tune", "--device", "NUMPY"], capture_output=True, text=True
    )
    assert refused.returncode != 0 and "OpenCL" in refused.stderr


def test_each_make_of_gpu_has_a_row_and_no_group_is_larger_than_the_device_allows():
    for word, row in MAKES.items():
        assert shapes_for("gpu", 1, 8, 2**15, f"The {word.upper()} Corporation") == TABLE[row]
    assert shapes_for("gpu", 1, 8, 2**15, "nobody knows") == TABLE["gpu"]
    for shapes in TABLE.values():
        for most in (1, 12, 64, 256):
            small = limited(shapes, most)
            groups = [small.loop_group, small.narrow_group, small.dot_group, small.dot_plain_group]
            assert all(across * down <= most and across and down for across, down in groups)
            assert max(small.row_group, small.row_team, small.vector_group, small.attention_group) <= most
    assert limited(Shapes(), 2**16) == Shapes()
