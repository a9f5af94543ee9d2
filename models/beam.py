"""Beam search: the texts to which a model gives the highest probability, as far as a search of some width finds them.

Every step continues the `num_beams` best unfinished texts by every token, and keeps the best. Texts that end are ranked
by their log-probability over (number of tokens, the end token included) ^ length_penalty (Wu et al., arXiv 1609.08144),
so that long ones have a chance. The rules, also those of when no better text can be expected, are the ones of Hugging
Face's transformers, and give the same tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Union

import numpy as np

from .decoding import evaluating, give_back
from .generation import End, begin, check_length, check_max_tokens, ends_of, forced, prompt_of
from .sampling import check_finite, penalised

UNLIKELY = np.float32(-1e9)  # the score of what is not there


class Text(NamedTuple):
    """What was found, without its prompt and end token, and its log-probability, which the length divides."""

    tokens: list[int]
    score: float


def beam_search(
    model: Any,
    ids: Any,
    max_tokens: int,
    num_beams: int = 4,
    length_penalty: float = 1.0,
    early_stopping: Union[bool, str] = False,
    repetition_penalty: float = 1.0,
    end: End = None,
    num_return: int = 1,
) -> list[Text]:
    """The `num_return` best texts that follow a prompt, the best first.

    Args:
        model: used in evaluation mode, and left in the mode that it was in.
        ids: the prompt, one or more token ids; what the encoder reads, if there is one.
        max_tokens: a text ends with an end token, or with so many tokens, the end token included.
        num_beams: how many texts are continued at a time; 1 is greedy.
        length_penalty: from -10 to 10; above 0 favours long texts, below 0 short ones.
        early_stopping: True stops as soon as `num_beams` texts have ended; False when the best unfinished one, as long
            as it is now, would not be among them; "never" only when it could not at any length.
        repetition_penalty: see `Sampling`; it applies to log-probabilities here.
        end: see `generate`.
        num_return: at most `num_beams`.

    Raises ValueError for an empty prompt, a token outside the vocabulary, a prompt that leaves no room for `max_tokens`
    in the model's context, options out of range, or a model whose weights have diverged.
    """
    prompt = prompt_of(model, ids)
    check_max_tokens(max_tokens)
    check_length(model, [prompt], max_tokens)
    if num_beams < 1:
        raise ValueError(f"beam_search: num_beams must be at least 1, got {num_beams}")
    if not 1 <= num_return <= num_beams:
        raise ValueError(f"beam_search: num_return must be from 1 to num_beams, {num_beams}, got {num_return}")
    if not -10 <= length_penalty <= 10:
        raise ValueError(f"beam_search: length_penalty must be from -10 to 10, got {length_penalty}")
    if early_stopping not in (True, False, "never"):
        raise ValueError(f'beam_search: early_stopping must be True, False or "never", got {early_stopping!r}')
    if not 0 < repetition_penalty < float("inf"):
        raise ValueError(f"beam_search: repetition_penalty must be above 0, got {repetition_penalty}")
    if not max_tokens:
        return [Text([], 0.0)]
    ends = ends_of(model, end)
    modules = list(model.modules())
    decoder, texts = begin(model, [prompt], num_beams)
    texts = texts * num_beams if len(texts) == 1 else texts
    started = len(texts[0])
    first, last = forced(model)
    search = _Search(num_beams, max_tokens, length_penalty, early_stopping, ends)
    with evaluating(modules):
        decoder.read(texts)
        while True:
            logits = decoder.logits.numpy()  # (beams, V)
            check_finite(logits.max())
            scores = _log_softmax(logits)
            scores = np.stack(
                [penalised(row, text, repetition_penalty) for row, text in zip(scores, texts, strict=True)]
            )
            certain = last if search.length + 1 == max_tokens and last else [] if search.length else first
            if certain:
                scores[:] = -np.inf
                scores[:, certain] = 0.0
            parents, tokens = search.step(scores, [text[started:] for text in texts])
            if search.is_over:
                break
            texts = [[*texts[parent], token] for parent, token in zip(parents, tokens, strict=True)]
            decoder.reorder(parents)
            if decoder.is_full:
                decoder = decoder.grown()
            decoder.step(tokens)
    give_back(decoder)
    return search.done[:num_return]


class _Search:
    """What beam search knows: the scores of the texts that go on, and the texts that have ended, the best first."""

    def __init__(
        self, beams: int, max_tokens: int, length_penalty: float, early_stopping: Union[bool, str], ends: frozenset[int]
    ):
        self.beams, self.max_tokens, self.penalty, self.early, self.ends = (
            beams, max_tokens, length_penalty, early_stopping, ends,
        )  # fmt: skip
        self.scores = np.full(beams, UNLIKELY)  # sums of log-probabilities
        self.scores[0] = 0  # all texts begin as one and the same
        self.done: list[Text] = []
        self.length = 0
        self.is_over = False

    def step(self, scores: np.ndarray, texts: list[list[int]]) -> tuple[list[int], list[int]]:
        """One more token: given the scores (beams, V) of each after each text, which texts go on, and with which."""
        self.length += 1
        last = self.length == self.max_tokens
        total = (scores + self.scores[:, None]).reshape(-1)
        # as many as are sure to leave `beams` that do not end
        best = _largest(total, max(2, 1 + len(self.ends)) * self.beams)
        parents, tokens = (part.tolist() for part in np.divmod(best, scores.shape[1]))
        ended = [last or token in self.ends for token in tokens]
        for place in range(min(self.beams, len(best))):
            if ended[place]:
                text = [*texts[parents[place]], tokens[place]]
                score = total[best[place]] / np.float32(self.length**self.penalty)
                self.done.append(Text(text[:-1] if text[-1] in self.ends else text, float(score)))
        self.done = sorted(self.done, key=lambda text: -text.score)[: self.beams]
        going = [place for place in range(len(best)) if not ended[place]][: self.beams]
        self.is_over = not going or self._is_settled(total[best[going[0]]])
        if not self.is_over and len(going) < self.beams:  # a vocabulary smaller than the beams: one of them twice
            going += [going[-1]] * (self.beams - len(going))
        self.scores = total[best[going]]
        return [parents[place] for place in going], [tokens[place] for place in going]

    def _is_settled(self, best: np.float32) -> bool:
        """Whether no text that goes on, the best one with the score `best`, will be better than those that ended."""
        if len(self.done) < self.beams:
            return False
        if self.early is True:
            return True
        longest = self.max_tokens if self.early == "never" and self.penalty > 0 else self.length
        return bool(best / np.float32(longest**self.penalty) <= self.done[-1].score)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """The indices of the `count` largest, in order; of equal ones the first comes first."""
    if count < len(values):
        least = np.partition(values, -count)[-count]
        candidates = np.flatnonzero(values >= least)
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(-values[candidates], kind="stable")][:count]
