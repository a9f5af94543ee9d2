"""The table of the whole surface: what every public function of Tensors is, said by PyTorch.

One file a family, each with its `ENTRIES`; `entry.py` says what an entry is and `tests/test_surface.py` holds both
backends to all of them.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .entry import Entry


def table() -> dict[str, Entry]:
    """Every entry of every family, by name. Raises ValueError where two have one name."""
    found: dict[str, Entry] = {}
    for module in iter_modules(__path__):
        for entry in getattr(import_module(f"{__name__}.{module.name}"), "ENTRIES", ()):
            if entry.name in found:
                raise ValueError(f"two entries of the table are called {entry.name!r}; the second is in {module.name}")
            found[entry.name] = entry
    return found
