"""`clgrad generate`: what a model makes of a prompt, streamed as it is made.

The model is that of a run folder, of a folder in Hugging Face's form, or of a GGUF file. What it makes depends on what
it is: text goes on, a source is translated, masks are filled in, a text gets its label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import Tensor
from ..models import from_pretrained, generate, stop_at
from ..models.beam import beam_search
from ..models.tokenizers import Tokenizer, stream, tokenizer_from
from . import checkpoint as checkpoints
from .errors import UsageError

LIKELIEST = 3  # guesses for a masked token that are shown
MASKS = ("[MASK]", "<mask>")  # the mask token's names


def opened(path: Path, device: str) -> Callable[..., None]:
    """What prints the answer to a prompt, for the model at `path`: see `Task.answer`. Raises UsageError."""
    if (path / checkpoints.FILE_NAME).exists() or not path.exists() and path.suffix != ".gguf":
        return load_task(path, device).answer
    if not path.suffix == ".gguf" and not (path.is_dir() and (path / "config.json").exists()):
        raise UsageError(
            f"{path} is neither a run folder of clgrad train ({checkpoints.FILE_NAME}: there is no checkpoint in it), "
            "nor a folder with a config.json, nor a .gguf file"
        )
    try:
        if path.suffix == ".gguf":
            from ..models import gguf

            model: Any = gguf.from_pretrained(path, device=device)
            tokenizer: Tokenizer = gguf.tokenizer_from(path)
        else:
            model, tokenizer = from_pretrained(path), tokenizer_from(path)
    except ValueError as error:
        raise UsageError(str(error)) from None
    model.to(device).eval()

    def answer(prompt: str, **options: Any) -> None:
        if hasattr(model, "cache_shape"):
            complete(model, tokenizer, prompt, special=True, **options)
        elif hasattr(model, "classifier"):
            print_labels(model, tokenizer.encode(prompt, special=True), model.config.labels)
        elif hasattr(model.config, "pad_token_id") and callable(getattr(model, "logits", None)):
            fill_masks(model, tokenizer, tokenizer.encode(prompt, special=True))
        else:
            raise UsageError(f"{path} holds a {type(model).__name__}, which has no head to answer with")

    return answer


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


def complete(
    model: Any,
    tokenizer: Tokenizer,
    prompt: str,
    max_tokens: int,
    *,
    special: bool = False,
    beams: int = 1,
    stop: Sequence[str] = (),
    **sampling: Any,
) -> None:
    """Print `prompt` and what follows it, each character as soon as it is whole.

    An encoder-decoder's prompt is its source, and not printed. `special`: the prompt gets the tokens that the model's
    inputs begin and end with. With `beams` above 1 the best text of that many is searched for; else `sampling` is
    models.generate's temperature, top_k, top_p, min_p, repetition_penalty and seed. The text ends at the tokenizer's
    end tokens, and before the strings of `stop`.

    Raises UsageError for an empty prompt, for characters that the vocabulary lacks, for options out of range, for
    prompts longer than the context, and for weights that have diverged.
    """
    if not prompt:
        raise UsageError("the prompt is empty: give at least one character")
    try:
        ids = tokenizer.encode(prompt, special=special)
        end = None if hasattr(model, "memories") else tokenizer.ends
        if beams == 1:
            pieces = stop_at(stream(tokenizer, generate(model, ids, max_tokens, end=end, **sampling)), stop)
        else:
            pieces = stop_at([tokenizer.decode(beam_search(model, ids, max_tokens, beams, end=end)[0].tokens)], stop)
        for piece in _beginning(model, prompt, pieces):
            print(piece, end="", flush=True)
    except ValueError as error:
        raise UsageError(str(error)) from None
    print()


def _beginning(model: Any, prompt: str, pieces: Iterator[str]) -> Iterator[str]:
    if not hasattr(model, "memories"):
        yield prompt
    yield from pieces


def forward(model: Any, ids: Sequence[int]) -> np.ndarray:
    """The logits of one sequence of ids. Raises UsageError for one that is too long."""
    device = next(iter(model.state_dict().values())).device
    try:
        with Tensor.no_grad():
            return model(Tensor(np.array([ids], np.int32), device=device))[0].numpy()[0]
    except ValueError as error:
        raise UsageError(str(error)) from None


def print_labels(model: Any, ids: Sequence[int], labels: Sequence[str]) -> None:
    """Print the labels and their probabilities, the likeliest first."""
    found = probabilities(forward(model, ids))
    for i in np.argsort(-found, kind="stable"):
        print(f"{found[i]:7.2%}  {labels[i]}")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of a vector."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    return shares / shares.sum()


def fill_masks(model: Any, tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    """Print a text with every mask token filled in, and the likeliest for each. Raises UsageError if there is none."""
    masks = {tokenizer.id_of(name) for name in MASKS} & set(ids)
    if not masks:
        known = " or ".join(name for name in MASKS if tokenizer.id_of(name) is not None)
        raise UsageError(f"this model fills in masks: write {known} in the prompt, where a token is to be found")
    guesses = np.argsort(-forward(model, ids), axis=-1, kind="stable")[:, :LIKELIEST]  # (T, LIKELIEST)
    print(tokenizer.decode([guesses[i, 0] if token in masks else token for i, token in enumerate(ids)]))
    for i, token in enumerate(ids):
        if token in masks:
            print(f"  {', '.join(repr(tokenizer.decode([guess])) for guess in guesses[i])}")
