"""How the next token is chosen from the logits: the likeliest, or one drawn from a distribution cut down to the likely.

In this order, each only if asked for: the repetition penalty, division by the temperature, then of the probabilities
only the k largest, the nucleus, and those not far below the largest.

>>> import numpy as np
>>> Sampling(top_k=2).probabilities(np.log(np.array([0.1, 0.4, 0.1, 0.4])))
array([0. , 0.5, 0. , 0.5])
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """The rule by which tokens are chosen.

    Args:
        temperature: divides the logits; 0 takes the likeliest token every time, of equal ones the first.
        top_k: only tokens as likely as the k-th likeliest (Fan et al., arXiv 1805.04833).
        top_p: of these the likeliest that together have this probability (Holtzman et al., arXiv 1904.09751).
        min_p: of these the ones with at least this share of the largest probability (Nguyen et al., arXiv 2407.01082).
        repetition_penalty: logits of tokens that have occurred, in the prompt too, are divided by it where they are
            positive and multiplied by it where they are negative (Keskar et al., arXiv 1909.05858). 1 does nothing.

    Raises ValueError for a value out of range.
    """

    temperature: float = 1.0
    top_k: Optional[int] = None
    top_p: Optional[float] = None
    min_p: Optional[float] = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"generate: temperature must be a number that is not negative, got {self.temperature}")
        if self.top_k is not None and operator.index(self.top_k) < 1:
            raise ValueError(f"generate: top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"generate: top_p must be above 0 and at most 1, got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"generate: min_p must be from 0 to 1, got {self.min_p}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"generate: repetition_penalty must be above 0, got {self.repetition_penalty}")

    @property
    def is_argmax(self) -> bool:
        """Whether the token is that of the largest logit, whatever came before."""
        return self.temperature == 0 and self.repetition_penalty == 1

    def choose(self, logits: np.ndarray, seen: Iterable[int], rng: np.random.Generator) -> int:
        """One token, from logits (V), where the tokens `seen` came before.

        Raises ValueError when the largest logit is NaN or infinite: the weights have diverged.
        """
        check_finite(logits.max())
        logits = penalised(logits, seen, self.repetition_penalty)
        if self.temperature == 0:
            return int(logits.argmax())
        sums = np.cumsum(self.probabilities(logits))
        return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """What tokens are drawn with: float64 (V), from logits (V) after the penalty. The temperature is above 0."""
        logits = logits.astype(np.float64)
        logits -= logits.max()
        if self.top_k is not None and self.top_k < len(logits):
            logits[logits < np.partition(logits, -self.top_k)[-self.top_k]] = -np.inf
        with np.errstate(over="ignore"):  # a tiny temperature makes them -inf, which is meant
            shares = np.exp(logits / self.temperature)  # of the largest probability
        shares /= shares.sum()
        if self.top_p is not None and self.top_p < 1:
            # What is left out sums to 1 - top_p at most, so the nucleus has nothing below an even part of that.
            likely = np.flatnonzero(shares * len(shares) >= (1 - self.top_p) * 0.999)
            order = likely[np.argsort(-shares[likely], kind="stable")]
            before = np.cumsum(shares[order]) - shares[order]  # the probability of all likelier ones
            kept = order[before < self.top_p]
            rest = np.ones(len(shares), bool)
            rest[kept] = False
            shares[rest] = 0
        if self.min_p is not None:
            shares[shares < self.min_p * shares.max()] = 0
        return shares / shares.sum()


def draws(seed: Any) -> np.random.Generator:
    """Where chance comes from: what NumPy makes of a seed, None being another every time. Raises ValueError."""
    try:
        return np.random.default_rng(seed)
    except ValueError as error:
        raise ValueError(f"generate: seed must not be negative, got {seed}") from error


def penalised(logits: np.ndarray, seen: Iterable[int], penalty: float) -> np.ndarray:
    """Logits (V), those of the tokens `seen` made less likely by `penalty`: see `Sampling`."""
    if penalty == 1:
        return logits
    logits, seen = logits.copy(), np.unique(np.fromiter(seen, np.int64))
    most = np.finfo(logits.dtype).max
    with np.errstate(over="ignore"):  # what is beyond the dtype's numbers becomes its largest
        some = logits[seen].astype(np.float64)
        logits[seen] = np.where(some < 0, some * penalty, some / penalty).clip(-most, most)
    return logits


def check_finite(largest: float) -> None:
    """Raise ValueError if the largest logit is NaN or infinite."""
    if not np.isfinite(largest):
        raise ValueError("generate: the model's logits are not finite; its weights have diverged or are damaged")
