"""`clgrad describe`: what a published size is made of, without making its weights."""

from __future__ import annotations

from typing import Optional

from ..models.describe import describe, find, presets
from .errors import UsageError


def print_description(preset: Optional[str], context: Optional[int]) -> None:
    """Print the stages of a preset, or of a folder with a config.json; without one, the presets. Raises UsageError."""
    if preset is None:
        classes: dict[str, list[str]] = {}
        for name, cls in presets().items():
            classes.setdefault(cls.__name__, []).append(name)
        for kind, names in classes.items():
            print(f"{kind}: {', '.join(names)}")
        return
    try:
        print(describe(*find(preset), context))
    except ValueError as error:
        raise UsageError(str(error)) from None
