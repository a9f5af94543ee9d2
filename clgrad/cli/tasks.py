"""The tasks of `clgrad train`, by name; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from .errors import UsageError
from .task import Task

# name -> module and class
TASKS = {
    "lm": ("lm", "LanguageModel"),
    "translate": ("translate", "Translate"),
    "classify": ("classify", "Classify"),
    "mlm": ("mlm", "MaskedLanguageModel"),
}


def task_named(name: str) -> type[Task]:
    """The class of a task. Raises UsageError for a name that is none: a run of a newer clgrad."""
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    module, kind = TASKS[name]
    return getattr(import_module(f"{__package__}.{module}"), kind)
