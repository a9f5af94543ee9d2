"""The benchmarks run, and what they count and print holds; what they time is for people to read."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from math import log
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmarks compare with PyTorch, which is not installed")

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """A benchmark as a module, loaded from its file as running it would."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "POCL_MAX_PTHREAD_COUNT"):
        monkeypatch.setenv(variable, "2")

    def loader(name: str):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    yield loader
    for name in ("common", "train_step"):
        sys.modules.pop(name, None)


def test_a_training_step_agrees_with_torch_and_takes_fewer_than_200_kernels(load, tmp_path, capsys):
    report = tmp_path / "report.json"
    load("train_step").main(["--devices", "NUMPY", "--steps", "3", "--json", str(report)])
    results = json.loads(report.read_text())["results"]
    assert set(results) == {"NUMPY", "torch"}
    for ours, theirs in zip(results["NUMPY"]["losses"], results["torch"]["losses"], strict=True):
        assert abs(ours - theirs) < 1e-3
    assert results["NUMPY"]["kernels"] < 200
    assert results["torch"]["ratio_to_torch"] == 1.0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[2:]] == ["NUMPY", "torch", "floor", "floor:"]


def test_the_flops_of_a_step_are_those_of_its_products(load):
    """All but attention's, counted from the kernels that run."""
    from clgrad.engine import profile

    module = load("train_step")
    sizes = module.CONFIGS["tiny"]
    step = module.clgrad_step("NUMPY", sizes, None)
    ((x, y),) = module.batches_of(sizes, 1)
    with profile.recording() as log_of_kernels:
        step(x, y)
    kernels = [launch.kernel for launch in log_of_kernels.finished()]
    dots = [(k.shape, i.arg[1].shape[-1]) for k in kernels for i in k.body if i.op == "dot" and len(k.shape) == 2]
    T, C = sizes["block_size"], sizes["n_embd"]
    attention = 3 * 2 * 2 * sizes["batch"] * sizes["n_layer"] * T * T * C
    assert sum(2 * M * N * K for (M, N), K in dots) == module.flops(sizes) - attention


def test_participants_alone_tell_their_memory_and_their_first_loss(load, tmp_path, capsys):
    report = tmp_path / "report.json"
    arguments = ["--config", "tiny", "--devices", "NUMPY", "--peers", "", "--steps", "0", "--memory", "--first-step"]
    load("train_step").main([*arguments, "--json", str(report)])
    (name, took), *_ = json.loads(report.read_text())["alone"].items()
    assert name == "NUMPY" and len(took["losses"]) == 5
    assert 2 < took["losses"][0] < 3  # about log(11): nothing is learnt yet
    assert took["first_loss_s"] > 0
    assert 10e6 < took["peak_resident_bytes"] < 2e9 and 0 < took["peak_device_bytes"] < took["peak_resident_bytes"]
    assert "first loss s" in capsys.readouterr().out


def test_unknown_peers_and_too_few_steps_are_refused(load, capsys):
    module = load("train_step")
    for arguments, message in ((["--peers", "jax"], "unknown peer"), (["--steps", "1"], "--steps")):
        with pytest.raises(SystemExit):
            module.main(arguments)
        assert message in capsys.readouterr().err


def test_every_kernel_of_the_benchmark_agrees_with_torch_and_has_a_row(load, device, tmp_path, capsys):
    report = tmp_path / "report.json"
    module = load("kernels")
    arguments = ["--config", "tiny", "--devices", device, "--rounds", "1", "--turn-ms", "0.1", "--json", str(report)]
    arguments += ["--only", "qkv|scores|attention|softmax|layer norm forward|cross-entropy with|embedding|adamw"]
    module.main(arguments)
    rows = json.loads(report.read_text())["rows"]
    assert {row["on"] for row in rows} == {device, "torch"}
    cases = {row["case"] for row in rows}
    assert len(rows) == 2 * len(cases) and len(cases) == 13
    for row in rows:
        assert row["us"] > 0 and row["gbs"] > 0 and row["to_torch"] > 0 and row["share"] > 0
        assert (row["gflops"] is not None) == row["case"].startswith(("dot", "attention"))
        assert (row["host_us"] is None) == (row["on"] == "torch")
        if row["on"] != "torch" and row["case"].startswith("dot"):
            assert row["kernels"] == 1
    assert "the best of NumPy's BLAS" in capsys.readouterr().out


def test_the_benchmark_of_kernels_has_all_shapes_and_transpositions_of_a_step(load, capsys):
    load("kernels").main(["--list"])
    cases = capsys.readouterr().out.splitlines()
    for M, N, C in ((768, 65, 128), (4096, 65, 384)):  # rows, vocabulary and width of both configurations
        for out, name in ((3 * C, "qkv"), (C, "proj"), (4 * C, "fc")):
            assert f"dot {name} forward nn {M}x{C} {C}x{out}" in cases
            assert f"dot {name} input gradient nt {M}x{out} {out}x{C}" in cases
            assert f"dot {name} weight gradient tn {C}x{M} {M}x{out}" in cases
        assert f"dot head forward nt {M}x{C} {C}x{N}" in cases
    for part in ("batched", "attention", "softmax", "layer norm", "gelu", "cross-entropy", "embedding", "adamw"):
        assert sum(part in case for case in cases) >= 2


def test_scaling_prints_exponents_and_draws(load, tmp_path, capsys):
    report, picture = tmp_path / "report.json", tmp_path / "scaling.png"
    module = load("scaling")
    arguments = ["--config", "tiny", "--axes", "width,batch", "--devices", "NUMPY", "--quick", "--rounds", "1"]
    module.main([*arguments, "--json", str(report), "--plot", str(picture)])
    axes = json.loads(report.read_text())["axes"]
    assert axes["width"]["amounts"] == [8, 16, 32] and axes["batch"]["amounts"] == [1, 2, 4]
    assert all(set(point) == {"NUMPY", "torch"} for axis in axes.values() for point in axis["seconds"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 5 and lines[0].split()[:3] == ["width", "NUMPY", "ms"]
    slopes = module.exponents([2, 4, 12], [10.0, 20.0, 180.0])
    assert slopes[0] is None and slopes[1:] == pytest.approx([1.0, log(9) / log(3)])


def test_generation_gives_the_tokens_of_torch_and_a_rate_for_each(load, tmp_path):
    report = tmp_path / "report.json"
    arguments = ["--config", "tiny", "--devices", "NUMPY", "--tokens", "12", "--rounds", "1", "--json", str(report)]
    load("generate").main(arguments)
    found = json.loads(report.read_text())
    assert list(found["results"]) == ["NUMPY", "torch, 2 threads", "torch, 1 thread"]
    assert all(result["tokens_a_second"] > 0 for result in found["results"].values())
    assert all(len(tokens) == 12 for tokens in found["tokens"].values())
    assert all(result["prompt"][0] > 0 for result in found["results"].values())


def test_host_time_empties_kernels_and_nothing_else(load):
    source = (
        "float f(int i) { return i; }\n__kernel void k(__global float *x, const int n) { if (n) { x[0] = f(n); } }\n"
    )
    twice = source + "__attribute__((x)) __kernel void l(int n) {}"
    empty = load("host_time").without_bodies(twice)
    assert empty.startswith("float f(int i) { return i; }\n__kernel void k(__global float *x, const int n) {}\n")
    assert empty.endswith("__attribute__((x)) __kernel void l(int n) {}")


def test_host_time_tells_of_every_kind_of_step_and_where_the_first_one_goes(tmp_path):
    """In a process of its own, since it empties the kernels of the one that it runs in."""
    report = tmp_path / "report.json"
    options = ["--config", "tiny", "--devices", "NUMPY", "--steps", "5", "--processes", "1", "--json", str(report)]
    done = subprocess.run([sys.executable, str(FOLDER / "host_time.py"), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    counts = {kind: len(times) for kind, times in found["steps"]["NUMPY"].items()}
    assert counts == {"replay": 5, "replay, done": 5, "plain": 3, "new": 3}
    (first,) = found["first"]["NUMPY"]
    stages = {name: took for name, took in first.items() if name != "total"}
    assert {"import", "trace", "gradient", "simplify", "schedule", "build", "run"} <= set(stages)
    assert 0 < sum(stages.values()) <= first["total"]
    assert "import clgrad adds" in done.stdout


def test_every_elementwise_function_keeps_its_bound(load, monkeypatch, capsys):
    """A thin sample of the bit patterns: the benchmark takes 256 times as many."""
    from clgrad.engine import activations, ops

    module = load("accuracy")
    monkeypatch.setattr(module, "STEP", 65537)
    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    module.main(["--devices", "NUMPY", "--pairs", "2"])
    printed = capsys.readouterr().out
    measured = {line.split()[0] for line in printed.splitlines()[2:]}
    assert set(ops.UNARY_FLOAT) <= measured
    public = {name for name, f in vars(activations).items() if callable(f) and f.__module__ == activations.__name__}
    assert {name for name in public if not name.startswith("_")} <= measured | {"softmin"}


def test_a_function_that_exceeds_its_bound_ends_the_benchmark(load, monkeypatch, device, capsys):
    module = load("accuracy")
    monkeypatch.setattr(module, "STEP", 65537)
    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    wrong = module.Function(lambda x: x * (1 + 2**-20), lambda x: x)
    monkeypatch.setattr(module, "functions", lambda: {"wrong": wrong, "right": wrong._replace(bound=16)})
    with pytest.raises(SystemExit):
        module.main(["--devices", device, "--only", "wrong"])
    assert f"wrong on {device}: 16.0" in capsys.readouterr().out
    module.main(["--devices", device, "--only", "right"])
