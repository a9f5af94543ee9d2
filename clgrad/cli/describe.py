"""`clgrad describe`: what a size is made of, published or one of `clgrad train`, without making its weights."""

from __future__ import annotations

from typing import Any, Optional

from ..models import GPT, GPTConfig
from ..models.describe import describe, find, presets
from .config import PRESETS, settings
from .errors import UsageError

SHAKESPEARE = 65  # characters of the text that nanoGPT trains on, whose sizes those of --task lm are


def print_description(preset: Optional[str], context: Optional[int]) -> None:
    """Print the stages of a preset, or of a folder with a config.json; without one, the presets. Raises UsageError."""
    trained = {name: values for name, values in PRESETS.items() if values.get("task", "lm") == "lm"}
    if preset is None:
        groups: dict[str, list[str]] = {}
        for name, cls in presets().items():
            groups.setdefault(cls.__name__, []).append(name)
        for kind, names in (groups | {"GPT of clgrad train": list(trained)}).items():
            print(f"{kind}: {', '.join(names)}")
        return
    try:
        chosen: tuple[Any, Any]
        if preset in trained:
            chosen = GPT, GPTConfig(**{"vocab_size": SHAKESPEARE} | settings(trained[preset]).model)
        else:
            chosen = find(preset)
        print(describe(*chosen, context))
    except ValueError as error:
        raise UsageError(str(error)) from None
