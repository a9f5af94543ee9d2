"""What a masked language model learns from: tokens of which some are hidden, and which they were.

Devlin et al. (BERT, arXiv 1810.04805) choose 15 % of a sequence's tokens. Of these, 80 % become the mask token, 10 % a
token drawn from the whole vocabulary and 10 % stay as they are, so that the model must keep an opinion on every token.
The targets hold the chosen tokens and -100 elsewhere, which the cross-entropy leaves out. Called anew for every batch,
it is the dynamic masking of RoBERTa (arXiv 1907.11692).

>>> tokens = np.arange(10, 30).reshape(2, 10)
>>> inputs, targets = mask_tokens(tokens, np.random.default_rng(0), mask_token=99, vocab_size=100)
>>> (targets != -100).sum(axis=1).tolist()
[2, 2]
>>> bool((np.where(targets == -100, inputs, targets) == tokens).all())
True
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IGNORED = -100  # what cross-entropy leaves out


def mask_tokens(
    tokens: np.ndarray,
    generator: np.random.Generator,
    *,
    mask_token: int,
    vocab_size: int,
    special: Sequence[int] = (),
    probability: float = 0.15,
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, int32 (B, T), for tokens (B, T); a function of its arguments and the generator's state.

    Args:
        tokens: integers in [0, vocab_size).
        generator: where chance comes from; one seeded by (seed, iteration) makes a batch repeatable.
        mask_token: what most of the chosen tokens become.
        vocab_size: random replacements are drawn from [0, vocab_size).
        special: tokens that are never chosen (padding, separators); they do not count for the 15 % either.
        probability: the share that is chosen of each sequence, rounded, and at least one token of it.

    Raises ValueError for tokens that are no matrix or a probability outside (0, 1].
    """
    tokens = np.asarray(tokens, dtype=np.int32)
    if tokens.ndim != 2:
        raise ValueError(f"mask_tokens: tokens must be of shape (batch, time), not {tokens.shape}")
    if not 0.0 < probability <= 1.0:
        raise ValueError(f"mask_tokens: probability must be in (0, 1], not {probability}")
    eligible = ~np.isin(tokens, special)  # (B, T)
    available = eligible.sum(axis=1, keepdims=True)  # (B, 1)
    count = np.minimum(np.maximum(np.rint(probability * available), 1), available)
    # The `count` eligible places of each row whose random numbers are the smallest
    order = np.where(eligible, generator.random(tokens.shape), 2.0).argsort(axis=1)
    chosen = order.argsort(axis=1) < count  # (B, T)

    fate = generator.random(tokens.shape)
    anything = generator.integers(0, vocab_size, tokens.shape, dtype=np.int32)
    inputs = np.where(chosen & (fate < 0.8), np.int32(mask_token), tokens)
    inputs = np.where(chosen & (fate >= 0.8) & (fate < 0.9), anything, inputs)
    return inputs, np.where(chosen, tokens, np.int32(IGNORED))


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different lengths as tokens (B, T), int32, filled up with `padding` on the right, and the mask (B, T) of
    what is real.

    >>> padded([[1, 2, 3], [4]], padding=0)[0].tolist()
    [[1, 2, 3], [4, 0, 0]]
    """
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    tokens = np.full(mask.shape, padding, np.int32)
    tokens[mask] = [token for row in rows for token in row]
    return tokens, mask
