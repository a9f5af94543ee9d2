"""Text, one token at a time, from a GPT.

Two ways give the same tokens. Without a cache the whole window is read for every token. With one, the keys and values
of all tokens read are kept in place, and a new token costs one pass over a single position. Both run under jit with
shapes that never change: the window is padded to the block, or read in chunks of one length, and where it stands is a
0-d Tensor. So generation traces two signatures, whatever the lengths (a chunk of the prompt, one token), and compiles
nothing after its second token.

When the window has filled the block, its older half is dropped and the rest read again as if it were a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Optional

import numpy as np

from ..engine.jit import jit
from ..engine.tensor import Tensor
from .gpt import GPT, GPTConfig, Past

CHUNK = 64  # how many tokens of a prompt are read at once: short prompts should not cost a whole block


class KVCache:
    """Keys and values of the tokens read so far: for each layer two Tensors (S, B, H, D), written in place.

    S is block_size rounded up to a multiple of `chunk`, so that a whole chunk has room.
    """

    def __init__(self, config: GPTConfig, chunk: int, batch: int = 1, device: Optional[str] = None):
        self.length = -(-config.block_size // chunk) * chunk
        shape = (self.length, batch, config.n_head, config.n_embd // config.n_head)
        zeros = np.zeros(shape, np.float32)
        self.layers = [(Tensor(zeros, device=device), Tensor(zeros, device=device)) for _ in range(config.n_layer)]

    def pasts(self, position: Tensor) -> Iterator[Past]:
        """For each layer, what writes keys and values at `position` (0-d) and gives all of them and a mask."""
        return (partial(self._extend, keys, values, position) for keys, values in self.layers)

    def _extend(
        self, keys: Tensor, values: Tensor, position: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        here = position + Tensor.arange(k.shape[2], dtype="int32", device=k.device)  # (T)
        for cache, new in ((keys, k), (values, v)):
            cache.assign(cache.index_copy(0, here, new.permute(2, 0, 1, 3)))  # (S, B, H, D)
        mask = Tensor.arange(self.length, dtype="int32", device=k.device) <= here.unsqueeze(-1)  # (T, S)
        return keys.permute(1, 2, 0, 3), values.permute(1, 2, 0, 3), mask


class Pass:
    """One jitted reading of `length` tokens. It takes no arguments and returns nothing: what changes from call to call
    is written into the memory that it captured, so a call costs a replay and no more."""

    def __init__(self, read: Callable[[Tensor, Tensor, Tensor], Tensor], length: int, vocabulary: int, device: str):
        self.length = length
        self.inputs = Tensor(np.zeros(length + 2, np.int32), device=device)  # the tokens, then two numbers
        self.logits = Tensor(np.zeros(vocabulary, np.float32), device=device)

        @jit
        @Tensor.no_grad()
        def run() -> None:
            tokens, start, last = self.inputs[:length], self.inputs[length], self.inputs[length + 1]
            self.logits.assign(read(tokens.reshape(1, length), start, last))

        self.run = run

    def __call__(self, tokens: Sequence[int], start: int = 0) -> np.ndarray:
        """Logits (V) after the last of `tokens`, which stand at `start`. Zeros pad them, which nothing before sees."""
        inputs = np.zeros(self.length + 2, np.int32)
        inputs[: len(tokens)] = tokens
        inputs[-2:] = start, len(tokens) - 1
        self.inputs.assign(inputs)
        self.run()
        return self.logits.numpy()


class Decoder:
    """A model with a cache and the passes that generation makes. One `generate` at a time uses it."""

    def __init__(self, model: GPT):
        self.model = model
        self.block_size = model.config.block_size
        self.device = model.transformer.wte.weight.device
        self.chunk = min(CHUNK, self.block_size)
        self.cache = KVCache(model.config, self.chunk, device=self.device)
        self.passes: dict[tuple[bool, int], Pass] = {}

    def _pass(self, cached: bool, length: int) -> Pass:
        if (cached, length) not in self.passes:
            read = self._extend if cached else self._read
            self.passes[cached, length] = Pass(read, length, self.model.config.vocab_size, self.device)
        return self.passes[cached, length]

    def _extend(self, tokens: Tensor, start: Tensor, last: Tensor) -> Tensor:
        """Read tokens (1, T) that stand at `start` into the cache. Logits (V) after the one with index `last`."""
        offsets = Tensor.arange(tokens.shape[1], dtype="int32", device=self.device)  # (T)
        positions = (start + offsets).minimum(self.block_size - 1)  # what pads the last chunk may stand beyond
        features = self.model.transformer(tokens, positions, self.cache.pasts(start))  # (1, T, C)
        return self._logits(features, last)

    def _read(self, tokens: Tensor, start: Tensor, last: Tensor) -> Tensor:
        """Read a window (1, block_size) without the cache. Logits (V) after the token with index `last`."""
        return self._logits(self.model.transformer(tokens), last)

    def _logits(self, features: Tensor, last: Tensor) -> Tensor:
        one = features.squeeze(0) if features.shape[1] == 1 else features.squeeze(0).take(last.reshape(1))
        return self.model.lm_head(one).squeeze(0)  # (V)

    def logits_uncached(self, window: Sequence[int]) -> np.ndarray:
        """Logits (V) after the window, all of which is read."""
        return self._pass(False, self.block_size)(window)

    def logits_cached(self, window: Sequence[int], known: int) -> np.ndarray:
        """Logits (V) after the window, of which the cache holds the first `known` tokens: none or all but one."""
        if known:
            return self._pass(True, 1)(window[known:], known)
        for start in range(0, len(window), self.chunk):
            logits = self._pass(True, self.chunk)(window[start : start + self.chunk], start)
        return logits


def generate(
    model: GPT,
    ids: Any,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: Optional[int] = None,
    top_p: Optional[float] = None,
    seed: Optional[int] = None,
    use_cache: bool = True,
) -> Iterator[int]:
    """The `max_tokens` tokens that follow the prompt, one at a time, as they are made.

    Args:
        model: used in evaluation mode, and left in the mode that it was in.
        ids: the prompt, one or more token ids. Only the last block_size of them are read.
        temperature: divides the logits; 0 takes the likeliest token every time.
        top_k: draw from the k likeliest tokens only.
        top_p: draw from the likeliest tokens that together have this probability, after top_k (Holtzman et al.,
            arXiv 1904.09751).
        seed: of the draws, which are NumPy's on the host, hence the same on every device. None differs every time.
        use_cache: keep keys and values rather than read the window anew for every token; the tokens are the same.

    Raises ValueError at the call, before the first token, for an empty prompt, a token outside the vocabulary, or
    sampling options out of range.
    """
    window = [int(token) for token in np.asarray(ids.numpy() if isinstance(ids, Tensor) else ids).reshape(-1)]
    vocabulary = model.config.vocab_size
    if not window:
        raise ValueError("generate: the prompt is empty; give at least one token")
    if min(window) < 0 or max(window) >= vocabulary:
        raise ValueError(
            f"generate: the prompt has tokens outside 0 to {vocabulary - 1}: {min(window)} to {max(window)}"
        )
    if max_tokens < 0:
        raise ValueError(f"generate: max_tokens must not be negative, got {max_tokens}")
    if not temperature >= 0:
        raise ValueError(f"generate: temperature must not be negative, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p must be above 0 and at most 1, got {top_p}")
    sampler = partial(sample, temperature=temperature, top_k=top_k, top_p=top_p, rng=np.random.default_rng(seed))
    return _stream(model, window[-model.config.block_size :], max_tokens, sampler, use_cache)


def _stream(model: GPT, window: list[int], max_tokens: int, sampler: Any, use_cache: bool) -> Iterator[int]:
    # Decoders are kept on the model, so that a second prompt finds everything traced; one that is in use is not shared.
    idle = vars(model).setdefault("_idle_decoders", [])
    device = model.transformer.wte.weight.device
    decoder = next((d for d in idle if d.device == device), None) or Decoder(model)
    idle[:] = [d for d in idle if d is not decoder and d.device == device]
    modules = list(model.modules())
    try:
        known = 0  # tokens at the start of the window that the cache holds
        for _ in range(max_tokens):
            training = [module for module in modules if module.training]
            try:
                for module in training:
                    module.training = False
                logits = decoder.logits_cached(window, known) if use_cache else decoder.logits_uncached(window)
            finally:
                for module in training:
                    module.training = True
            known = len(window)
            token = sampler(logits)
            yield token
            window.append(token)
            if len(window) > decoder.block_size:
                window, known = window[-(decoder.block_size - decoder.block_size // 2) :], 0
        idle.append(decoder)
    except GeneratorExit:  # nobody wants the rest. After an error the cache may hold NaN, which no mask hides
        idle.append(decoder)
        raise


def sample(
    logits: np.ndarray, temperature: float, top_k: Optional[int], top_p: Optional[float], rng: np.random.Generator
) -> int:
    """One token drawn from softmax(logits / temperature), logits (V), cut down by top_k and then by top_p.

    Raises ValueError when the largest logit is NaN or infinite: the weights have diverged.
    """
    logits = logits.astype(np.float64)
    if not np.isfinite(logits.max()):
        raise ValueError("generate: the model's logits are not finite; its weights have diverged or are damaged")
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[:top_k]  # likeliest first
    scaled = (logits[order] - logits[order[0]]) / temperature
    probability = np.exp(scaled)
    probability /= probability.sum()
    if top_p is not None:
        before = np.cumsum(probability) - probability  # the probability of all likelier tokens
        kept = before < top_p
        order, probability = order[kept], probability[kept] / probability[kept].sum()
    return int(rng.choice(order, p=probability))
