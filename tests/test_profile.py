"""Profiles and CLGRAD_DEBUG: what ran is recorded with its work, its lines and its place in time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clgrad import Tensor, jit
from clgrad.engine import debug, profile

PROGRAM = """
import sys
from clgrad import Tensor, jit
a, b = (Tensor([[1.0] * 32] * 32, device=sys.argv[1], requires_grad=True) for _ in range(2))

@jit
def step(x):
    y = x.tanh() @ b
    return (y * y).sum()

for _ in range(3):
    step(a.detach()).item()
loss = (a @ b).exp().sum()
loss.backward()
a.grad.numpy()
"""


def run(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env=os.environ | variables, capture_output=True, text=True
    )


def slices(path: Path, pid: int) -> list[dict]:
    return [e for e in json.loads(path.read_text()) if e["ph"] == "X" and e["pid"] == pid]


@pytest.fixture(scope="module")
def trace(device, tmp_path_factory) -> Path:
    """The profile of PROGRAM on each device."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "program.py").write_text(PROGRAM)
    path = folder / "trace.json"
    code = f"import runpy; runpy.run_path({str(folder / 'program.py')!r})"
    done = run(code, device, CLGRAD_PROFILE=str(path), CLGRAD_DEBUG="")
    said = [line for line in done.stderr.splitlines() if not line.startswith("CL: building")]  # on a slow machine
    assert done.returncode == 0 and not said, done.stderr
    return path


def test_a_profile_has_the_host_and_the_device_on_tracks_of_their_own(trace, device):
    names = {(e["pid"], e["args"]["name"]) for e in json.loads(trace.read_text()) if e["ph"] == "M"}
    assert names == {(1, "host"), (1, "Python"), (2, "devices"), (2, device)}
    host = {e["name"] for e in slices(trace, 1)}
    assert host >= {"trace", "gradient", "simplify", "schedule", "build", "replay", "run", "download"}
    assert sum(e["name"] == "replay" for e in slices(trace, 1)) == 3
    assert list(trace.parent.glob("*.part*")) == []


def test_a_profiled_kernel_knows_its_work_its_rates_and_its_lines(trace):
    kernels = slices(trace, 2)
    dots = [e for e in kernels if e["args"]["kind"] == "dot"]
    assert len(dots) >= 5  # one a replay, one forward, one backward
    for e in kernels:
        about = e["args"]
        nanoseconds = 1e3 * e["dur"]
        assert about["GFLOP/s"] == pytest.approx(about["FLOP"] / nanoseconds, rel=0.01, abs=0.01)
        assert about["GB/s"] == pytest.approx(about["bytes"] / nanoseconds, rel=0.01, abs=0.01)
        assert all(re.match(r"program\.py:\d+  ", line) for line in about["lines"])
    for e in dots:
        assert e["args"]["FLOP"] >= 2 * 32**3 and e["args"]["bytes"] >= 3 * 4 * 32**2
    lines = {line.partition("  ")[2] for e in kernels for line in e["args"]["lines"]}
    assert {"y = x.tanh() @ b", "return (y * y).sum()", "loss = (a @ b).exp().sum()"} <= lines


def test_kernels_and_host_have_one_clock_and_kernels_do_not_overlap(trace):
    host, kernels = slices(trace, 1), slices(trace, 2)
    around = [e for e in host if e["name"] in ("call", "read")]
    slack = 500.0  # microseconds: what the two clocks may be apart on a busy machine
    for e in kernels:  # launched by a call or a read, and over when the read that follows ends
        begun = min(h["ts"] for h in around) - slack
        ended = max(h["ts"] + h["dur"] for h in around) + slack
        assert begun <= e["ts"] and e["ts"] + e["dur"] <= ended
    for first, second in zip(kernels, kernels[1:]):
        assert first["ts"] + first["dur"] <= second["ts"] + 0.01
    for h in host:  # spans nest: each lies inside another or beside it
        for g in host:
            apart = h["ts"] + h["dur"] <= g["ts"] + 0.01 or g["ts"] + g["dur"] <= h["ts"] + 0.01
            inside = (h["ts"] - g["ts"]) * (h["ts"] + h["dur"] - g["ts"] - g["dur"]) <= 0.01
            assert apart or inside


@pytest.mark.parametrize("ending", ["raise RuntimeError('spoilt')", "raise KeyboardInterrupt", "raise SystemExit(3)"])
def test_a_program_that_ends_badly_leaves_a_whole_profile(ending, tmp_path):
    path = tmp_path / "trace.json"
    program = f"from clgrad import Tensor\nTensor([2.0], device='NUMPY').exp().item()\n{ending}"
    assert run(program, CLGRAD_PROFILE=str(path)).returncode != 0
    assert len(slices(path, 2)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["trace.json"]


def test_a_profile_that_cannot_be_written_is_said_at_the_start_in_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "trace.json"):
        done = run("import clgrad; print('imported')", CLGRAD_PROFILE=str(path))
        assert done.returncode != 0 and "imported" not in done.stdout
        assert done.stderr.count("\n") == 1 and str(path) in done.stderr and "CLGRAD_PROFILE" in done.stderr
    with pytest.raises(ValueError, match="folder"):
        profile.start(str(tmp_path))
    assert not profile.tracing()


def test_flush_leaves_a_whole_file_and_the_profile_goes_on(tmp_path):
    path = tmp_path / "trace.json"
    profile.start(str(path))
    try:
        sizes = []
        for _ in range(3):
            (Tensor([1.0, 2.0], device="NUMPY") * 3).numpy()
            profile.flush()
            sizes.append(len(slices(path, 2)))
        assert sizes == [1, 2, 3]
    finally:
        profile.stop()
    assert len(slices(path, 2)) == 3 and not profile.tracing()


def test_while_nobody_wants_to_know_nothing_is_recorded(device, monkeypatch):
    monkeypatch.delenv("CLGRAD_DEBUG", raising=False)
    (Tensor([1.0, 2.0], device=device) * 3).numpy()
    assert profile.log() is None


def kernels_of(make) -> list:
    with profile.recording() as log:
        make()
    return [launch.kernel for launch in log.finished()]


def test_the_work_of_a_product_a_sum_and_a_scatter():
    a, b = Tensor(np.ones((6, 5), np.float32), device="NUMPY"), Tensor(np.ones((5, 7), np.float32), device="NUMPY")
    (dot,) = kernels_of(lambda: (a @ b).realize())
    assert debug.work(dot) == (2 * 6 * 7 * 5, 4 * (6 * 5 + 5 * 7 + 6 * 7))
    (row,) = kernels_of(lambda: (a * a).sum(1).realize())  # a product and a sum; `a` is read once
    assert debug.work(row) == (2 * 30, 4 * (30 + 6))
    (loop,) = kernels_of(lambda: (a[:3] + 1).realize())  # half of `a`
    assert debug.work(loop) == (15, 4 * (15 + 15))
    index = Tensor([1, 1, 0], device="NUMPY")
    table = Tensor(np.ones((9, 2), np.float32), device="NUMPY", requires_grad=True)
    table.take(index).sum().backward()
    *_, scatter = kernels_of(lambda: table.grad.realize())
    assert scatter.kind == "scatter" and debug.work(scatter)[0] == 3 * 2


def test_the_work_of_causal_attention_counts_the_pairs_that_it_has_to_see():
    T, D = 8, 4
    q = Tensor(np.ones((2, 3, T, D), np.float32), device="NUMPY", requires_grad=True)
    forward = kernels_of(lambda: q.scaled_dot_product_attention(q, q, is_causal=True).realize())
    kernels = [k for k in forward if k.kind == "attention"]
    if not kernels:
        pytest.skip("attention is several kernels here")
    assert debug.work(kernels[0])[0] == 2 * 3 * (T * (T + 1) // 2) * 2 * (D + D)


def test_debug_1_sums_a_step_up_in_ten_lines(device, monkeypatch, capsys):
    x = Tensor(np.ones((16, 16), np.float32), device=device)

    @jit
    def step(x):
        parts = []
        for n in range(12):  # twelve names
            x = (x @ x) * 0.1
            parts.append(x[: n + 1] @ x)
        return parts

    step(x)
    monkeypatch.setenv("CLGRAD_DEBUG", "1")
    capsys.readouterr()
    step(x)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    count = int(re.match(r"step: (\d+) kernels .* ms, .* GFLOP/s .* GB/s; from first to last .* ms; ", lines[0])[1])
    assert count == len(step.last.schedule.steps)
    counts = [int(n) for line in lines[1:-1] for n in re.findall(r"(\d+) x ", line)]
    shares = [float(s) for line in lines[1:-1] for s in re.findall(r"([\d.]+)%", line)]
    assert sum(counts) == count and sum(shares) == pytest.approx(100, abs=1)
    assert "other names" in lines[-2] and lines[-1].startswith("  host ") and "replay" in lines[-1]
    monkeypatch.delenv("CLGRAD_DEBUG")
    step(x)
    assert capsys.readouterr().err == ""


def test_debug_2_prints_each_kernel_on_a_line(device, monkeypatch, capsys):
    monkeypatch.setenv("CLGRAD_DEBUG", "2")
    (Tensor([[1.0, 2.0]] * 2, device=device) @ Tensor([[1.0, 3.0]] * 2, device=device)).numpy()
    text = capsys.readouterr().err
    assert re.search(rf"^{device} +dot_\S+ +[\d.]+ us +[\d.]+ GFLOP/s +[\d.]+ GB/s$", text, re.MULTILINE)
