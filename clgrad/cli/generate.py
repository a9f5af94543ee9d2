"""`clgrad generate`: text from a run folder, streamed as it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models import GPT, generate
from ..models.tokenizers import Tokenizer, stream
from . import checkpoint as checkpoints
from .errors import UsageError


def load_task(folder: Path, device: str) -> Any:
    """The task of a run, its model as the checkpoint has it, on `device`, in evaluation mode. Raises UsageError."""
    from .tasks import task_named

    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}; make one with: clgrad train --out {folder}")
    path = folder / checkpoints.FILE_NAME
    checkpoint = checkpoints.load(path)
    task = task_named(checkpoint.state["train"].get("task", "lm")).restore(checkpoint.state)
    model = task.model
    own = {f"model.{name}": tensor for name, tensor in model.named_parameters()}
    found = {name: array for name, array in checkpoint.arrays.items() if name.startswith("model.")}
    checkpoints.check_arrays(path, found, own)
    model.load_state_dict(checkpoint.part("model."), strict=False)  # a tied weight has one of its names
    model.to(device).eval()
    return task


def load_run(folder: Path, device: str) -> tuple[Any, Tokenizer]:
    """The model and the tokenizer of a run: see `load_task`."""
    task = load_task(folder, device)
    return task.model, task.tokenizer


def complete(model: GPT, tokenizer: Tokenizer, prompt: str, max_tokens: int, **sampling: Any) -> None:
    """Print `prompt` and what follows it, each character as soon as it is whole.

    `sampling` is models.generate's temperature, top_k, top_p and seed. Raises UsageError for an empty prompt, for
    characters that the vocabulary lacks, for sampling options out of range, and for weights that have diverged.
    """
    if not prompt:
        raise UsageError("the prompt is empty: give at least one character")
    try:
        tokens = generate(model, tokenizer.encode(prompt), max_tokens, **sampling)
        print(prompt, end="", flush=True)
        for piece in stream(tokenizer, tokens):
            print(piece, end="", flush=True)
    except ValueError as error:
        raise UsageError(str(error)) from None
    print()
