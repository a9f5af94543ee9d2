"""The command line: its errors, `generate` and `devices`."""

import os
import subprocess
import sys

import pytest

from clgrad import Device
from clgrad.cli import devices
from clgrad.cli.main import main

TEXT = "the quick brown fox jumps over the lazy dog.\nROMEO: ay, me!\n" * 20
TINY = "--n-layer 1 --n-head 2 --n-embd 8 --block-size 8 --batch-size 4".split()
TINY += "--device NUMPY --max-iters 2 --eval-iters 1 --sample-tokens 0".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text(TEXT)
    assert main(["train", *TINY, "--data", str(folder / "text.txt"), "--out", str(folder / "run")]) == 0
    return str(folder / "run")


def error_of(capsys, command):
    """The exit code and the only line of an error."""
    capsys.readouterr()
    code = main(command)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("clgrad: error: "), lines
    return code, lines[0]


@pytest.mark.parametrize(
    "command, parts",
    [
        ([], ["COMMAND"]),
        (["fly"], ["'fly'", "train", "generate", "devices"]),
        (["train", "--max-iter", "5"], ["unknown flag --max-iter", "Did you mean --max-iters?", "--block-size"]),
        (["train", "--max-iters", "many"], ["--max-iters", "'many'"]),
        (["train", "text.txt"], ["'text.txt'"]),
        (["train", "--preset", "huge"], ["unknown preset 'huge'", "shakespeare", "nanogpt-cpu", "nanogpt-gpu"]),
        (["train", "--device", "TPU"], ["'TPU'", "NUMPY"]),
        (["train", "--device", "CL:99"], ["CL:99", "NUMPY"]),
        (["train", "--batch-size", "0"], ["batch_size must be at least 1"]),
        (["train", "--n-embd", "5", "--n-head", "2"], ["n_embd 5 must be a multiple of n_head 2"]),
        (["train", "--dropout", "1.5"], ["dropout"]),
        (["train", "--vocab-size", "3"], ["vocab_size is 3", "75"]),
        (["train", "--resume", "x", "--config", "y"], ["leave --config out"]),
        (["generate", "nowhere"], ["no run folder nowhere"]),
        (["generate"], ["RUN"]),
        (["devices", "--all"], ["unknown flag --all"]),
    ],
)
def test_a_command_that_cannot_be_right_is_one_line_that_says_what_to_do(tmp_path, monkeypatch, capsys, command, parts):
    monkeypatch.chdir(tmp_path)
    code, line = error_of(capsys, command)
    assert code == 2
    for part in parts:
        assert part in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"a short text", "12 characters, and block_size 8 needs at least 81"),
    ],
)
def test_a_bad_data_file_is_one_line_and_makes_no_run(tmp_path, capsys, content, message):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    code, line = error_of(capsys, ["train", *TINY, "--data", str(file), "--out", str(tmp_path / "run")])
    assert code == 2 and message in line
    assert not (tmp_path / "run").exists()


def test_flags_may_be_written_with_underscores(tmp_path, run, capsys):
    data = os.path.join(os.path.dirname(run), "text.txt")
    command = [argument.replace("-", "_").replace("__", "--") for argument in TINY]
    assert "--max_iters" in command
    assert main(["train", *command, f"--data={data}", f"--out={tmp_path}/run", "--no_bias"]) == 0


def test_clgrad_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("CLGRAD_DEBUG", "1")
    with pytest.raises(ValueError, match="no run folder"):
        main(["generate", "nowhere"])


@pytest.mark.parametrize("command", [[], ["train"], ["generate"], ["devices"]])
def test_help_explains_every_command(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([*command, "--help"])
    assert exit.value.code == 0
    assert "usage: clgrad" in capsys.readouterr().out


def test_every_field_is_a_flag(capsys):
    from clgrad.cli.config import all_fields

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    for name in all_fields():
        assert f"--{name.replace('_', '-')} " in out


# -- generate


def generate(capsys, run, *flags):
    capsys.readouterr()
    assert main(["generate", run, "--device", "NUMPY", *flags]) == 0
    return capsys.readouterr().out


def test_the_seed_decides_the_text(run, capsys):
    first = generate(capsys, run, "--prompt", "ROMEO:", "--max-tokens", "40", "--seed", "1")
    assert first.startswith("ROMEO:") and len(first) == len("ROMEO:") + 40 + 1
    assert set(first) <= set(TEXT)
    assert generate(capsys, run, "--prompt", "ROMEO:", "--max-tokens", "40", "--seed", "1") == first
    assert generate(capsys, run, "--prompt", "ROMEO:", "--max-tokens", "40", "--seed", "2") != first


def test_top_k_one_and_temperature_zero_are_the_likeliest_text(run, capsys):
    texts = {
        generate(capsys, run, "--max-tokens", "20", *flags)
        for flags in (["--temperature", "0"], ["--top-k", "1"], ["--top-p", "1e-9"], ["--top-k", "1", "--seed", "3"])
    }
    assert len(texts) == 1


def test_text_is_streamed(run):
    command = [sys.executable, "-P", "-m", "clgrad", "generate", run, "--device", "NUMPY", "--max-tokens", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert len(process.stdout.read(20)) == 20  # long before the text is complete
    process.stdout.close()  # as `head` does
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


def test_a_pipe_that_nobody_reads_ends_a_short_command_quietly():
    command = [sys.executable, "-P", "-m", "clgrad", "describe", "gpt2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 141)


@pytest.mark.parametrize(
    "flags, parts",
    [
        (["--prompt", "ROMEO: ☃ and Ω"], ["never seen", "'Ω'", "'☃'"]),
        (["--prompt", ""], ["prompt is empty"]),
        (["--temperature", "-1"], ["temperature"]),
        (["--top-k", "0"], ["top_k"]),
        (["--top-p", "2"], ["top_p"]),
        (["--seed", "-1"], ["must not be negative"]),
        (["--max-tokens", "-1"], ["max_tokens"]),
        (["--device", "TPU"], ["TPU", "NUMPY"]),
    ],
)
def test_a_bad_request_for_text_is_one_line(run, capsys, flags, parts):
    code, line = error_of(capsys, ["generate", run, *flags])
    assert code == 2
    for part in parts:
        assert part in line


# -- devices


def test_every_device_is_listed_and_runs_a_kernel(capsys):
    assert main(["devices"]) == 0
    out = capsys.readouterr().out
    for name in Device.names():
        assert f"\n{name}" in "\n" + out
    assert out.count("  kernel    ok\n") == len(Device.names())
    assert f"default: {Device.DEFAULT}, because " in out
    assert "GiB" in out and "compute units" in out


def test_a_device_that_fails_is_listed_with_its_error(capsys, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("the driver is broken\nin two lines")

    monkeypatch.setattr(devices.Tensor, "arange", broken)
    assert main(["devices"]) == 0
    assert "  kernel    fails: the driver is broken\n" in capsys.readouterr().out


def without_opencl(*command, **more):
    environment = os.environ | {"OCL_ICD_VENDORS": "/nonexistent", "OCL_ICD_FILENAMES": ""} | more
    environment.pop("CLGRAD_DEVICE", None)
    return subprocess.run([sys.executable, "-P", *command], env=environment | more, capture_output=True, text=True)


def test_without_opencl_numpy_goes_on_working_and_devices_says_why(tmp_path, run):
    listed = without_opencl("-m", "clgrad", "devices")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("  kernel    ok\n") == 1
    assert "default: NUMPY" in listed.stdout
    assert "OpenCL:  no OpenCL device: " in listed.stdout and "pip install" in listed.stdout
    generated = without_opencl("-m", "clgrad", "generate", run, "--max-tokens", "3", "--temperature", "0")
    assert generated.returncode == 0, generated.stderr
    refused = without_opencl("-m", "clgrad", "generate", run, "--device", "CL")
    assert refused.returncode == 2 and refused.stderr.startswith("clgrad: error: ") and "NUMPY" in refused.stderr


def test_without_pyopencl_numpy_goes_on_working_and_devices_says_why():
    hide = "import sys; sys.modules['pyopencl'] = None; from clgrad.cli.main import main; sys.exit(main(['devices']))"
    listed = without_opencl("-c", hide)
    assert listed.returncode == 0, listed.stderr
    assert "  kernel    ok\n" in listed.stdout
    assert "OpenCL:  no OpenCL device: " in listed.stdout and "pyopencl" in listed.stdout


def test_devices_lists_even_when_clgrad_device_names_none():
    listed = without_opencl("-m", "clgrad", "devices", CLGRAD_DEVICE="CL:7")
    assert listed.returncode == 0, listed.stderr
    assert "NUMPY" in listed.stdout and "default: none: " in listed.stdout
