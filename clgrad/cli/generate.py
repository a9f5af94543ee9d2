"""`clgrad generate`: text from a run folder, streamed as it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models import GPT, GPTConfig, generate
from . import checkpoint as checkpoints
from .data import Vocabulary
from .errors import UsageError


def load_run(folder: Path, device: str) -> tuple[GPT, Vocabulary]:
    """The model of a run as its checkpoint has it, on `device`, and its vocabulary. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}; make one with: clgrad train --out {folder}")
    path = folder / checkpoints.FILE_NAME
    checkpoint = checkpoints.load(path)
    model = GPT(GPTConfig(**checkpoint.state["model"]))
    own = {f"model.{name}": tensor for name, tensor in model.named_parameters()}
    found = {name: array for name, array in checkpoint.arrays.items() if name.startswith("model.")}
    checkpoints.check_arrays(path, found, own)
    model.load_state_dict(checkpoint.part("model."), strict=False)  # a tied weight has one of its names
    model.to(device).eval()
    return model, Vocabulary(checkpoint.state["vocabulary"])


def complete(model: GPT, vocabulary: Vocabulary, prompt: str, max_tokens: int, **sampling: Any) -> None:
    """Print `prompt` and what follows it, each character as soon as it is drawn.

    `sampling` is models.generate's temperature, top_k, top_p and seed. Raises UsageError for an empty prompt, for
    characters that the vocabulary lacks, for sampling options out of range, and for weights that have diverged.
    """
    if not prompt:
        raise UsageError("the prompt is empty: give at least one character")
    ids = vocabulary.encode(prompt)
    try:
        tokens = generate(model, ids, max_tokens, **sampling)
        print(prompt, end="", flush=True)
        for token in tokens:
            print(vocabulary.decode([token]), end="", flush=True)
    except ValueError as error:
        raise UsageError(str(error)) from None
    print()
