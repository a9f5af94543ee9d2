"""What encoder-decoders have in common: how they are trained, and what generation asks of them.

The encoder reads the source once. The decoder writes the target one token after the other: each position sees the
target up to itself, and, through cross-attention, the whole source. So a translation of S tokens into T is one pass
over S, then T steps of one token, for which the keys and values of the source (`memories`) never change.

Shapes in comments: B sequences, S source tokens, T target tokens, C channels, H heads of D channels, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Optional

from ..engine.tensor import Tensor
from ..nn import functional as F
from ..nn.attention import Past, padding
from .base import PretrainedModel

Memory = tuple[Tensor, Tensor]  # keys and values (B, H, S, D) of the source, for one layer

IGNORED = -100  # targets that the loss leaves out


class EncoderDecoder(PretrainedModel):
    """The base of T5 and BART, which say what is computed; here is what is the same."""

    context_length: Optional[int] = None  # the most tokens of a source or a target
    window: Optional[int] = None  # how far back a token sees, where that is limited

    def encode(self, tokens: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Source tokens (B, S), and which of them are real, bool (B, S), to features (B, S, C)."""
        raise NotImplementedError

    def memories(self, encoded: Tensor) -> list[Memory]:
        """The keys and values (B, H, S, D) that the cross-attention of each layer of the decoder reads."""
        raise NotImplementedError

    def features(
        self,
        tokens: Tensor,
        positions: Optional[Tensor] = None,
        pasts: Optional[Iterator[Past]] = None,
        mask: Optional[Tensor] = None,
        memories: Iterable[Memory] = (),
        memory_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Target tokens (B, T) to features (B, T, C).

        Args:
            positions: (T) or (B, T), 0 to T - 1 unless given.
            pasts: one a layer, where keys and values of earlier tokens are kept.
            mask: which tokens are real, bool (B, T); used without `pasts`, which know it themselves.
            memories: from `memories(encode(source))`.
            memory_mask: which tokens of the source are real, bool (B, S).

        Raises ValueError for memories of another number of layers.
        """
        memories, layers = list(memories), self.cache_shape[0]
        if len(memories) != layers:
            raise ValueError(
                f"{type(self).__name__}: memories are of {len(memories)} layers, and it has {layers}; "
                "they come from memories(encode(source))"
            )
        given = zip(memories, repeat(None) if pasts is None else pasts)
        return self.decode(tokens, positions, given, mask, padding(memory_mask))

    def decode(
        self,
        tokens: Tensor,
        positions: Optional[Tensor],
        given: Iterable[tuple[Memory, Optional[Past]]],
        mask: Optional[Tensor],
        memory_mask: Optional[Tensor],
    ) -> Tensor:
        """`features`, with the memory and the past (or None) `given` to each layer, and memory_mask (B, 1, 1, S)."""
        raise NotImplementedError

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """(layers, heads, channels of a head) of what the decoder's self-attention keeps."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """(..., C) to (..., V)."""
        raise NotImplementedError

    @property
    def start_token(self) -> int:
        """What the decoder is given first."""
        return self.config.decoder_start_token_id

    @property
    def end_token(self) -> int:
        """What the decoder says last."""
        return self.config.eos_token_id

    def shift_right(self, targets: Tensor) -> Tensor:
        """The decoder's input for targets (B, T): the start token, then all but the last; padding for -100."""
        start = Tensor.full((targets.shape[0], 1), self.start_token, dtype=targets.dtype, device=targets.device)
        shifted = start.cat(targets[:, :-1], dim=1)  # (B, T)
        return (shifted == IGNORED).where(self.config.pad_token_id, shifted)

    def forward(
        self,
        source: Tensor,
        target_in: Optional[Tensor] = None,
        targets: Optional[Tensor] = None,
        source_mask: Optional[Tensor] = None,
        target_mask: Optional[Tensor] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Logits (B, T, V), and the mean cross-entropy with `targets` (B, T), if given.

        Args:
            source: tokens (B, S).
            target_in: the decoder's input (B, T); `shift_right(targets)` unless given.
            targets: the token that should follow each of target_in; those of -100 are left out of the mean.
            source_mask, target_mask: which tokens of source and target_in are real, bool (B, S) and (B, T).

        Raises ValueError for shapes that do not fit, or with neither target_in nor targets.
        """
        name = type(self).__name__
        if target_in is None:
            if targets is None:
                raise ValueError(f"{name}: give target_in, the decoder's input, or targets to make it from, or both")
            target_in = self.shift_right(targets)
        if source.ndim != 2 or target_in.ndim != 2 or source.shape[0] != target_in.shape[0]:
            raise ValueError(
                f"{name}: source {source.shape} and target {target_in.shape} must be (batch, time), of one batch"
            )
        memories = self.memories(self.encode(source, source_mask))
        features = self.features(target_in, mask=target_mask, memories=memories, memory_mask=source_mask)
        logits = self.logits(features)  # (B, T, V)
        if targets is None:
            return logits, None
        if targets.shape != target_in.shape:
            raise ValueError(f"{name}: targets {targets.shape} must have the shape of target_in {target_in.shape}")
        return logits, F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
