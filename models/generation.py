"""Tokens, one at a time or for a batch of prompts, from any model here: decoders alone, and encoder-decoders.

    prompt ──> Decoder.read ──> logits ──> Sampling.choose ──> token ──┐
               Decoder.step    <───────────────────────────────────────┘

Keys and values of the tokens read are kept (`cache.py`), so a new token costs one pass over a single position; an
encoder-decoder reads its source once. The passes, their traces, and what they leave on the device are `decoding.py`'s;
how a token is chosen is `sampling.py`'s; the search for the best of many texts is `beam.py`'s.

>>> from clgrad.models import GPT, GPTConfig, generate
>>> model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=4, block_size=8, vocab_size=10))
>>> len(list(generate(model, [1, 2, 3], max_tokens=5, seed=0)))
5
"""

from __future__ import annotations

import operator
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Optional, Union

import numpy as np

from ..engine.tensor import Tensor
from .decoding import Decoder, borrow, evaluating, give_back, sizes_for
from .sampling import Sampling, check_finite, draws

PAUSE = 0.05  # seconds for which tokens that are there may be held back until more of them are
MOST_AT_ONCE = 16  # tokens

End = Union[None, int, Collection[int]]


def generate(
    model: Any,
    ids: Any,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: Optional[int] = None,
    top_p: Optional[float] = None,
    seed: Optional[int] = None,
    use_cache: bool = True,
    min_p: Optional[float] = None,
    repetition_penalty: float = 1.0,
    end: End = None,
) -> Iterator[int]:
    """The tokens that follow the prompt, one at a time, as they are made: `max_tokens`, or up to an end token.

    Where the context of a GPT is full, its older half is dropped and the rest read again as if it were a prompt. The
    text of other models ends there.

    Args:
        model: used in evaluation mode, and left in the mode that it was in.
        ids: the prompt, one or more token ids; what the encoder reads, if there is one. Of more tokens than the context
            of a GPT the last are read.
        temperature, top_k, top_p, min_p, repetition_penalty: see `Sampling`. A temperature of 0 takes the likeliest
            token every time, and gives the same tokens on every device.
        seed: of the draws, which are NumPy's on the host. None differs every time.
        use_cache: keep keys and values rather than read everything anew for every token; the tokens are the same.
        end: the tokens, one or several, with which a text ends; they are not given. None stands for the model's
            `end_token` if it has an encoder, and for nothing otherwise.

    Raises ValueError at the call, before the first token, for an empty prompt, a token outside the vocabulary, more
    tokens than the context, or sampling options out of range.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    prompt = prompt_of(model, ids)
    slides = getattr(model, "slides", False)
    if slides:
        prompt = prompt[-model.context_length :]
    check_length(model, [prompt])
    check_max_tokens(max_tokens)
    texts = _Texts(model, [prompt], sampling, [draws(seed)], max_tokens, ends_of(model, end))
    return _flat(texts.stream(use_cache, slides))


def generate_batch(
    model: Any,
    prompts: Iterable[Any],
    max_tokens: int,
    temperature: float = 1.0,
    top_k: Optional[int] = None,
    top_p: Optional[float] = None,
    seed: Union[None, int, Sequence[int]] = None,
    min_p: Optional[float] = None,
    repetition_penalty: float = 1.0,
    end: End = None,
) -> list[list[int]]:
    """What follows each of several prompts, which may differ in length and are read and continued together.

    Each gives what `generate` gives for it alone, up to the rounding of larger products. `seed` may have one number a
    prompt; a single one stands for itself, the next, and so on. See `generate` for the rest.

    Raises ValueError as `generate` does, and where a prompt and `max_tokens` are more than the context.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    rows = [prompt_of(model, ids) for ids in prompts]
    if not rows:
        return []
    check_max_tokens(max_tokens)
    check_length(model, rows, max_tokens)
    if seed is None or isinstance(seed, (int, np.integer)):
        seeds: list[Optional[int]] = [None if seed is None else int(seed) + row for row in range(len(rows))]
    else:
        seeds = list(seed)
    if len(seeds) != len(rows):
        raise ValueError(
            f"generate_batch: {len(seeds)} seeds for {len(rows)} prompts; give one a prompt, or one number"
        )
    rngs = [draws(one) for one in seeds]
    texts = _Texts(model, rows, sampling, rngs, max_tokens, ends_of(model, end))
    for _ in texts.stream():
        pass
    return texts.made


def _flat(steps: Iterator[list[int]]) -> Iterator[int]:
    for step in steps:
        yield from step


def stop_at(pieces: Iterable[str], stops: Union[str, Sequence[str]]) -> Iterator[str]:
    """The pieces of a text as they come, up to the first of the strings `stops`, which is not given.

    What may be the beginning of one is held back until it is clear that it is not. To stop `generate` at strings, and
    have it make no more tokens: `stop_at(stream(tokenizer, generate(model, ids, 100)), ["\\n\\n"])`.

    >>> list(stop_at(["Hello", ", wor", "ld. U", "ser", ": and"], ["User:"]))
    ['Hello', ', wor', 'ld. ']

    Raises ValueError for an empty string.
    """
    stops = [stops] if isinstance(stops, str) else list(stops)
    if "" in stops:
        raise ValueError("stop_at: an empty string is everywhere; leave it out to stop nowhere")
    return _stop_at(pieces, stops)


def _stop_at(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    waiting = ""
    for piece in pieces:
        waiting += piece
        found = [waiting.index(stop) for stop in stops if stop in waiting]
        if found:
            waiting = waiting[: min(found)]
            break
        lengths = (n for stop in stops for n in range(1, len(stop)) if waiting.endswith(stop[:n]))
        ready = len(waiting) - max(lengths, default=0)
        if ready:
            yield waiting[:ready]
            waiting = waiting[ready:]
    if waiting:
        yield waiting


# -- arguments


def prompt_of(model: Any, ids: Any) -> list[int]:
    """Token ids as a list. Raises ValueError if there are none, or some that the model does not know, and TypeError
    for what is no token ids."""
    array = np.asarray(ids.numpy() if isinstance(ids, Tensor) else ids)
    if not array.size:
        raise ValueError("generate: the prompt is empty; give at least one token")
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"generate: a prompt is token ids, not {array.dtype}; the tokenizer's encode makes them of a text"
        )
    if array.size != max(array.shape, default=1):
        raise ValueError(f"generate: {array.shape} is more than one prompt; generate_batch takes several")
    prompt = array.reshape(-1).tolist()
    vocabulary = model.config.vocab_size
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        raise ValueError(
            f"generate: the prompt has tokens outside 0 to {vocabulary - 1}: {min(prompt)} to {max(prompt)}"
        )
    return prompt


def check_max_tokens(max_tokens: int) -> None:
    if operator.index(max_tokens) < 0:
        raise ValueError(f"generate: max_tokens must not be negative, got {max_tokens}")


def check_length(model: Any, prompts: Sequence[Sequence[int]], max_tokens: int = 0) -> None:
    """Raise ValueError for prompts, or prompts and what is to follow them, that the model's context does not hold."""
    context, longest = model.context_length, max(map(len, prompts))
    if context is None:
        return
    if longest > context:
        raise ValueError(f"generate: the prompt has {longest} tokens, and the context {context}; shorten it")
    follows = max_tokens + (1 if has_encoder(model) else longest)
    if max_tokens and follows - 1 > context:  # the last token is not read
        raise ValueError(
            f"generate: {follows} tokens with the {max_tokens} to be made are more than the context of {context}; "
            "ask for fewer, or shorten the prompts"
        )


def has_encoder(model: Any) -> bool:
    return hasattr(model, "memories")


def ends_of(model: Any, end: End) -> frozenset[int]:
    """The tokens that end a text."""
    if end is None:
        end = model.end_token if has_encoder(model) else ()
    return frozenset([int(end)] if isinstance(end, (int, np.integer)) else map(int, end or ()))


def forced(model: Any) -> tuple[list[int], list[int]]:
    """The tokens, of several any, of which every text has one first, and one last if it ends by its length: BART's."""
    found = (getattr(model.config, f"forced_{name}_token_id", None) for name in ("bos", "eos"))
    first, last = ([] if one is None else sorted([one] if isinstance(one, int) else one) for one in found)
    return first, last


def begin(model: Any, prompts: Sequence[Sequence[int]], rows: int) -> tuple[Decoder, list[list[int]]]:
    """A Decoder for so many rows that has read the sources, if the prompts are those, and what its texts begin with."""
    if not has_encoder(model):
        return borrow(model, sizes_for(model, rows, max(map(len, prompts)))), [list(prompt) for prompt in prompts]
    decoder = borrow(model, sizes_for(model, rows, 1, prompts))
    with evaluating(list(model.modules())):
        decoder.encode(prompts)
    return decoder, [[model.start_token] for _ in range(rows)]


class _Texts:
    """Texts in the making, all of the same number of new tokens but for those that have ended."""

    def __init__(
        self,
        model: Any,
        prompts: list[list[int]],
        sampling: Sampling,
        rngs: list[np.random.Generator],
        max_tokens: int,
        ends: frozenset[int],
    ):
        self.model, self.prompts, self.sampling, self.rngs, self.ends = model, prompts, sampling, rngs, ends
        self.modules = list(model.modules())
        self.left = max_tokens
        self.made: list[list[int]] = [[] for _ in prompts]
        self.alive = [True] * len(prompts)

    def stream(self, use_cache: bool = True, slides: bool = False) -> Iterator[list[int]]:
        """One list for each step: the next tokens of those texts that go on."""
        if not self.left:
            return
        self.decoder, texts = begin(self.model, self.prompts, len(self.prompts))
        self.seen = [set(text) for text in texts]
        first, last = forced(self.model)
        self.left -= len(last[:1])
        try:
            if first and self.left:
                yield self._take(first[:1] * len(texts))
                texts = [text + first[:1] for text in texts]
            if self.left and any(self.alive):
                yield from self._cached(texts, slides) if use_cache else self._uncached(texts, slides)
            if last and not self.left and any(self.alive):
                yield self._take(last[:1] * len(texts))
        except GeneratorExit:  # nobody wants the rest. After an error the cache may hold NaN, which no mask hides
            give_back(self.decoder)
            raise
        give_back(self.decoder)

    def _cached(self, texts: list[list[int]], slides: bool) -> Iterator[list[int]]:
        context, by_device = self.model.context_length, self.sampling.is_argmax
        with evaluating(self.modules):
            self.decoder.read(texts)
        passes, most, began = 1, 1, time.perf_counter()
        while True:
            found = self.decoder.likeliest(passes).tolist() if by_device else [self._chosen()]
            seconds = (time.perf_counter() - began) / passes
            most = max(1, min(2 * most, MOST_AT_ONCE, int(PAUSE / seconds)))
            for tokens in found:
                yield self._take(tokens)
                if not self.left or not any(self.alive):
                    return
            room = self.left if context is None else context - self.decoder.filled
            began = time.perf_counter()
            with evaluating(self.modules):
                if room:
                    passes = min(most, self.left, room) if by_device else 1
                    for _ in range(passes):
                        if self.decoder.is_full:
                            self.decoder = self.decoder.grown()
                        self.decoder.step(None if by_device else found[0])
                elif slides:
                    passes = 1
                    self.decoder.read([(texts[0] + self.made[0])[-(context - context // 2) :]])
                else:
                    return

    def _uncached(self, texts: list[list[int]], slides: bool) -> Iterator[list[int]]:
        context, (window,) = self.model.context_length, texts
        while True:
            if len(window) > self.decoder.sizes.length:
                give_back(self.decoder)
                self.decoder = self.decoder.larger()
            with evaluating(self.modules):
                self.decoder.reread(window)
            tokens = self._chosen()
            yield self._take(tokens)
            if not self.left or not any(self.alive):
                return
            window = [*window, *tokens]
            if context is not None and len(window) > context:
                if not slides:
                    return
                window = window[-(context - context // 2) :]

    def _chosen(self) -> list[int]:
        """The next token of each text by the host, whatever for those that have ended."""
        logits = self.decoder.logits.numpy()
        rows = zip(logits, self.alive, self.seen, self.rngs, strict=True)
        return [self.sampling.choose(row, seen, rng) if alive else 0 for row, alive, seen, rng in rows]

    def _take(self, tokens: Sequence[int]) -> list[int]:
        """Write the tokens down. Those of the texts that go on, which end tokens do not."""
        self.left -= 1
        taken = []
        for row, token in enumerate(tokens):
            if not self.alive[row]:
                continue
            if token < 0:
                check_finite(float("nan"))
            self.alive[row] = token not in self.ends
            if self.alive[row]:
                self.made[row].append(token)
                self.seen[row].add(token)
                taken.append(token)
        return taken
