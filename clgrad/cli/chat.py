"""`clgrad chat`: a conversation with the model of a GGUF file, on the terminal or through a pipe."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Optional

from ..models import gguf
from ..models.chat import ChatTemplate, Conversation
from ..models.gguf_file import GGUF
from ..models.sampling import Sampling
from .errors import UsageError

PROMPT = "> "
HELP = "Ask something; Ctrl-C stops an answer, Ctrl-D ends the conversation, /new begins another."


def chat(
    path: Path,
    device: str,
    system: Optional[str] = None,
    max_tokens: int = 512,
    seed: Optional[int] = None,
    **sampling: Any,
) -> None:
    """Answer every line of the standard input, until it ends. `sampling` is `models.sampling.Sampling`'s.

    Raises UsageError for a file that cannot be used, and for options out of range.
    """
    if max_tokens < 1:
        raise UsageError(f"--max-tokens must be at least 1, not {max_tokens}")
    try:
        chosen = Sampling(**sampling)
        file = GGUF(path)
        template, tokenizer = ChatTemplate.of(file), gguf.tokenizer_from(file)
        model = gguf.from_pretrained(file, device=device)
        begin = partial(Conversation, model, tokenizer, template, system, max_tokens, chosen, seed)
        if sys.stdin is not None:  # closed: nothing is asked
            converse(begin, sys.stdin.isatty())
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from None


def converse(begin: Callable[[], Conversation], interactive: bool) -> None:
    """The loop: a line, its answer as it is made, and so on."""
    conversation = begin()
    if interactive:
        print(HELP)
    while True:
        try:
            line = input(PROMPT if interactive else "").strip()
        except EOFError:
            if interactive:
                print()
            return
        if line == "/new":
            conversation = begin()
        elif line:
            try:
                say(conversation, line)
            except ValueError as error:  # such as a text that is too long; the conversation is as it was before
                if not interactive:
                    raise
                print(f"clgrad: {error}", file=sys.stderr)


def say(conversation: Conversation, line: str) -> None:
    """Print the answer as it is made; Ctrl-C ends it, and the conversation goes on with what was said."""
    with _interruptible() as interrupted:
        for piece in conversation.answer(line):
            print(piece, end="", flush=True)
            if interrupted.is_set():
                print(" [stopped]", end="")
                break
    print(flush=True)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts. A pass is not torn in the middle so."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
