"""The rules of the house: lint, types, which room may import which, what `import clgrad` costs, examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from clgrad.models import GPT, GPTConfig

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = SETTINGS["tool"]["setuptools"]["package-dir"]
ARROW = ["backends", "engine", "nn", "models", "clgrad"]  # each may import itself and what stands before it


def _modules() -> dict[str, Path]:
    """Every library module by its dotted name as installed."""
    found = {}
    for package in SETTINGS["tool"]["setuptools"]["packages"]:
        for path in sorted((ROOT / FOLDERS[package]).glob("*.py")):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


MODULES = _modules()


def _room(module: str) -> str:
    """The room of a dotted name: clgrad.engine.tensor is in engine, clgrad.cli.main and clgrad itself in clgrad."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ARROW else "clgrad"


def _imports(name: str, path: Path) -> list[tuple[str, int]]:
    """The dotted names under clgrad that a module imports anywhere in it, with their lines."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found += [(f"{source}.{alias.name}", node.lineno) for alias in node.names]
    return [(target, line) for target, line in found if target.split(".")[0] == "clgrad"]


def _run(*command: str, **options) -> None:
    command = (sys.executable, *command)
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing():
    _run("-m", "ruff", "check", "--quiet", str(ROOT))


def test_mypy_finds_nothing(tmp_path):
    """mypy follows no import hook, so it is shown the folders where an installation puts them."""
    for package, folder in FOLDERS.items():
        inside = tmp_path.joinpath(*package.split("."))
        inside.mkdir(exist_ok=True)
        for path in (ROOT / folder).glob("*.py"):
            (inside / path.name).symlink_to(path)
    config, cache = str(ROOT / "pyproject.toml"), str(ROOT / ".mypy_cache")
    _run("-m", "mypy", "--config-file", config, "--cache-dir", cache, cwd=tmp_path)


def test_every_package_is_installed_and_every_folder_packaged():
    packaged = {str(path.parent.relative_to(ROOT)) for room in ARROW for path in (ROOT / room).rglob("*.py")}
    assert packaged == set(FOLDERS.values())
    assert set(FOLDERS) == set(SETTINGS["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    for target, line in _imports(name, MODULES[name]):
        assert ARROW.index(_room(target)) <= ARROW.index(_room(name)), f"{MODULES[name]}:{line} imports {target}"


def test_the_engine_names_no_backend_but_where_devices_are_looked_up():
    for name, path in MODULES.items():
        if _room(name) in ("engine", "nn", "models") and name != "clgrad.engine.device":
            for target, line in _imports(name, path):
                assert not target.startswith(("clgrad.backends.numpy", "clgrad.backends.opencl")), f"{path}:{line}"


def test_importing_the_package_imports_nothing_slow():
    slow = {"pyopencl", "matplotlib", "safetensors", "tqdm", "torch", "transformers", "clgrad.models", "clgrad.cli"}
    _run("-I", "-c", f"import sys, clgrad; sys.exit(repr(loaded) if (loaded := {slow} & sys.modules.keys()) else 0)")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_one_thing(name):
    assert len(MODULES[name].read_text().splitlines()) <= 600


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_examples_in_docstrings_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


PAGES = [page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if "```python" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_code_in_the_pages_runs(page, tmp_path, monkeypatch, request):
    """Blocks marked python run in order, in one namespace; those with >>> must print what they say, but for spaces."""
    if '"CL"' in page.read_text():
        request.getfixturevalue("cl")
    monkeypatch.chdir(tmp_path)
    if page.parent == ROOT:  # where it says "folder" it means a model that somebody has published
        GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=32, vocab_size=4000)).save_pretrained("folder")
    namespace: dict = {"__name__": "page"}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=flags)
    text = page.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    for block in blocks:
        line = text[: block.start()].count("\n") + 1
        if ">>>" in block[1]:
            test = parser.get_doctest(block[1], namespace, page.name, str(page), line)
            runner.run(test, clear_globs=False)
            namespace.update(test.globs)
        else:
            # Blank lines in front, so that a traceback names the line of the page.
            exec(compile("\n" * line + block[1], str(page), "exec"), namespace)
    assert runner.failures == 0
