"""What every test shares: Hypothesis profiles, the devices, and the installed package rather than the checkout.

python -m pytest                     some ten minutes: few examples a property
HYPOTHESIS_PROFILE=ci ...            as many, and the same ones every time
python -m pytest --long              also the tests marked `sweep`
python -m pytest --optimise          OpenCL kernels as users have them
python -m pytest --table             the whole table of tests/surface on OpenCL, not a sixteenth of it

Most of the time would go into building OpenCL kernels that run once on a few numbers, and most of that into the
driver's optimiser. So it is off by default, but for the processes that tests start; `.ci/run` runs the tests of kernels
again with it, on both PoCLs.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the repository's root on sys.path, where `clgrad` is the front door without its rooms, and
# `engine` or `models` would be stray packages. The tests are about the package that is installed.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

hypothesis.settings.register_profile("quick", max_examples=12, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=12, deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("sweep", max_examples=1000, deadline=None)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the tests marked sweep too, and as with --optimise")
    parser.addoption("--table", action="store_true", help="hold OpenCL to every entry of the table in tests/surface")
    parser.addoption("--optimise", action="store_true", help="let the driver optimise OpenCL kernels")


def pytest_configure(config):
    hypothesis.settings.load_profile(
        os.environ.get("HYPOTHESIS_PROFILE", "sweep" if config.getoption("--long") else "quick")
    )
    if not (config.getoption("--long") or config.getoption("--optimise")):
        from clgrad.backends.opencl import backend

        backend.OPTIONS += ("-cl-opt-disable",)


def pytest_collection_modifyitems(config, items):
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if "opencl" in item.nodeid or "cl" in item.fixturenames or any(str(p).startswith("CL") for p in parameters):
            item.add_marker("opencl")
        if config.getoption("--long"):
            continue
        if "sweep" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="a sweep; runs with --long"))
        if "sweep_on_opencl" in item.keywords and item.get_closest_marker("opencl"):
            item.add_marker(pytest.mark.skip(reason="a sweep on OpenCL, with kernels to build; runs with --long"))


def _usable(name: str) -> str:
    from clgrad import Device, DeviceError

    try:
        Device[name]
    except DeviceError as error:
        pytest.skip(f"no {name} here: {error}")
    return name


@pytest.fixture(scope="session", params=["NUMPY", "CL"])
def device(request) -> str:
    """The name of each device in turn, skipped where there is none of its kind."""
    return _usable(request.param)


@pytest.fixture(scope="session")
def everything(request) -> bool:
    """Whether the long form of tests is wanted."""
    return request.config.getoption("--long")


@pytest.fixture(scope="session")
def cl() -> str:
    """The name of the first OpenCL device."""
    return _usable("CL")


@pytest.fixture(scope="module")
def backend(cl):
    """A backend of one's own on the first OpenCL device, with counters that start from zero."""
    from clgrad.backends.opencl.device import open_backend

    return open_backend(0)


@pytest.fixture
def new_kernels(monkeypatch):
    """NUMPY renders every kernel anew, as what the test changes has it, and keeps none of them afterwards."""
    from clgrad import Device
    from clgrad.engine.program import PROGRAMS

    lowered = Device["NUMPY"]._lowered
    monkeypatch.setattr(Device["NUMPY"], "_lowered", {})
    PROGRAMS.clear()
    yield
    PROGRAMS.clear()
    lowered.clear()


@pytest.fixture
def example(monkeypatch, tmp_path):
    """`example(name)` imports an example; what it keeps for the next one goes elsewhere."""
    examples = str(ROOT / "examples")
    monkeypatch.syspath_prepend(examples)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield importlib.import_module
    for name in [n for n, module in sys.modules.items() if examples in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def english() -> str:
    """A text that every Python has."""
    from clgrad.cli.data import python_topics

    return python_topics()[:20000]
