"""What decoder-only language models have in common: how they are trained, and what generation asks of them.

Shapes in comments: B sequences, T tokens, S tokens that can be looked back on, C channels, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import ClassVar, Optional

from .. import nn
from ..engine.tensor import Tensor
from ..nn import functional as F
from ..nn.attention import Past, both, causal, padding
from .base import PretrainedModel


class LanguageModel(PretrainedModel):
    """The base of GPT, GPT1 and Llama, which say what is computed; here is what is the same.

    Their `body` is called with tokens (B, T), positions (T) or (B, T) or None, a Past or None for each layer, and a
    mask (..., T, T) of what each token sees, or None where that is all before it, or what the pasts say.
    """

    lm_head: nn.Linear
    longest: ClassVar[str]  # the option of the Config that is the most tokens of a sequence

    def features(
        self,
        tokens: Tensor,
        positions: Optional[Tensor] = None,
        pasts: Optional[Iterator[Past]] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        """(B, T) integers to (B, T, C), what the head reads.

        Args:
            positions: (T) or (B, T), 0 to T - 1 unless given.
            pasts: one a layer, where keys and values of earlier tokens are kept; they say what each token may see.
            mask: which tokens are real, bool (B, T), where the others pad; used without `pasts`.

        Raises ValueError for more than context_length tokens.
        """
        T, window, seen = tokens.shape[1], self.window, None
        if T > self.context_length:
            raise ValueError(
                f"{type(self).__name__}: {T} tokens are more than {self.longest} {self.context_length}; "
                "pass the last of them"
            )
        if pasts is None and (mask is not None or (window is not None and window < T)):
            seen = both(causal(T, T, tokens.device, window), padding(mask))  # (T, T) or (B, 1, T, T)
        return self.body(tokens, positions, repeat(None) if pasts is None else pasts, seen)

    def logits(self, features: Tensor) -> Tensor:
        """(..., C) to (..., V)."""
        return self.lm_head(features)

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """(layers, heads of keys and values, channels of a head): the sizes of what `pasts` keep for each token."""
        raise NotImplementedError

    @property
    def context_length(self) -> int:
        """The most tokens of a sequence."""
        return getattr(self.config, self.longest)

    @property
    def window(self) -> Optional[int]:
        """How many tokens back, itself included, a token sees in one layer; None for all."""
        return None

    def forward(self, x: Tensor, y: Optional[Tensor] = None) -> tuple[Tensor, Optional[Tensor]]:
        """Logits (B, T, V) for tokens x (B, T), and the mean cross-entropy with the tokens y (B, T) that follow each.

        Targets of -100 are left out of the mean. Raises ValueError for more than context_length tokens.
        """
        name = type(self).__name__
        if x.ndim != 2:
            raise ValueError(f"{name}: tokens must be of shape (batch, time), not {x.shape}")
        logits = self.logits(self.features(x))  # (B, T, V)
        if y is None:
            return logits, None
        if y.shape != x.shape:
            raise ValueError(f"{name}: targets {y.shape} must have the shape of the tokens {x.shape}")
        return logits, F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
