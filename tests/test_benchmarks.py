"""The benchmark of a training step runs, and what it counts holds; what it times is for people to read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "train_step.py"


def run(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True)


def test_a_training_step_agrees_with_torch_and_takes_fewer_than_200_kernels(tmp_path):
    report = tmp_path / "report.json"
    done = run("--devices", "NUMPY", "--peers", "torch", "--steps", "3", "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(report.read_text())["results"]
    assert set(results) == {"NUMPY", "torch"}
    for ours, theirs in zip(results["NUMPY"]["losses"], results["torch"]["losses"], strict=True):
        assert abs(ours - theirs) < 1e-3
    assert results["NUMPY"]["kernels"] < 200
    assert results["torch"]["ratio_to_torch"] == 1.0


def test_unknown_peers_and_too_few_steps_are_refused():
    assert "unknown peer" in run("--peers", "jax").stderr
    assert "--steps" in run("--steps", "1").stderr
