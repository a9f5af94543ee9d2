"""The passes that generation is made of, and the memory that they leave their results in.

A pass is a jitted function without arguments and results: what changes from call to call lies in Tensors that it
captured, so that a call costs a replay and no more. One pass reads a chunk of a prompt, one a single token, whatever
the lengths, and they leave everything where the next one looks for it: the keys and values, where to go on, and the
likeliest token. So where the likeliest is what is wanted, passes follow one another without the host having a look,
which costs more than a small model does.

Shapes in comments: B rows, T tokens read now, S tokens of a source, C channels, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

import numpy as np

from ..backends.dtypes import is_float
from ..engine.jit import jit
from ..engine.tensor import Tensor
from .cache import KVCache

CHUNK = 64  # how many tokens of a prompt are read at once: short prompts should not cost a whole context
LEAST = 256  # the shortest cache; longer ones are this times a power of two, so that there are few to trace
LEAST_SOURCE = 16  # the same of what an encoder reads
RECENT = 64  # tokens of which the device remembers what it found the likeliest
KEPT = 4  # decoders of one model that are kept for the next text


class Sizes(NamedTuple):
    """What a Decoder is made for; others need other traces."""

    device: str
    rows: int  # of the batch
    length: int  # tokens that there is room for
    sources: int = 0  # texts that an encoder reads: as many as rows, one for all rows, or none
    source_length: int = 0


class Decoder:
    """The memory of texts in the making, and the passes that fill it. One batch of texts at a time uses it."""

    def __init__(self, model: Any, sizes: Sizes):
        self.model, self.sizes, self.layout = model, sizes, layout_of(model)
        self.chunk = min(CHUNK, sizes.length)
        self.columns = -(-sizes.length // self.chunk) * self.chunk  # a whole chunk has room
        self.dtype = next(t.dtype for t in model.state_dict().values() if is_float(t.dtype))
        # Rows of an encoder-decoder begin with one and the same token, so that nothing has to be padded.
        self.padding = self._numbers(sizes.rows) if sizes.rows > 1 and not sizes.sources else None
        self.cache = KVCache(
            model.cache_shape,
            self.columns,
            self.chunk,
            sizes.rows,
            model.window,
            self.padding,
            self.dtype,
            sizes.device,
        )
        self.filled = 0  # columns
        self.start = self._numbers()  # the same, on the device
        self.last = self._numbers()  # the index of a chunk's last token; what follows it is no text
        self.tokens = {length: self._numbers(sizes.rows, length) for length in (1, self.chunk)}  # to be read: (B, T)
        self.window = self._numbers(1, sizes.length)  # the same without a cache
        self.logits = self._zeros((sizes.rows, model.config.vocab_size), np.float32)
        self.chosen = self._numbers(RECENT, sizes.rows)  # the likeliest after each of the last columns: see `likeliest`
        self.order = self._numbers(sizes.rows)
        self.memories: list[Any] = []
        if sizes.sources:
            self.source = self._numbers(sizes.sources, sizes.source_length)
            self.source_lengths = self._numbers(sizes.sources)
            shapes = [[t.shape for t in pair] for pair in model.memories(model.encode(self.source, self._real()))]
            self.memories = [tuple(self._zeros(shape, self.dtype) for shape in pair) for pair in shapes]
        self.passes: dict[str, jit] = {}

    def _zeros(self, shape: tuple[int, ...], dtype: Any) -> Tensor:
        return Tensor(np.zeros(shape, np.float32), dtype=dtype, device=self.sizes.device)

    def _numbers(self, *shape: int) -> Tensor:
        return Tensor(np.zeros(shape, np.int32), device=self.sizes.device)

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        name = f"{function.__name__}{arguments or ''}"
        if name not in self.passes:
            self.passes[name] = jit(Tensor.no_grad()(lambda: function(*arguments)))
        self.passes[name]()

    # -- what the host asks for

    def encode(self, sources: Sequence[Sequence[int]]) -> None:
        """Read the texts that the rows are about, once."""
        table = np.zeros(self.source.shape, np.int32)
        for row, source in zip(table, sources, strict=True):
            row[: len(source)] = source
        self.source.assign(table)
        self.source_lengths.assign(np.array([len(source) for source in sources], np.int32))
        self._run(self._encode)

    def read(self, prompts: Sequence[Sequence[int]], known: int = 0) -> None:
        """Begin anew, with one prompt a row. The shorter ones are padded on the left.

        The first `known` tokens of a single prompt are those that were read before; whole chunks of them are kept.
        """
        width = max(len(prompt) for prompt in prompts)
        table = np.zeros((len(prompts), width), np.int32)
        for row, prompt in zip(table, prompts, strict=True):
            row[width - len(prompt) :] = prompt
        if self.padding is not None:
            self.padding.assign(np.array([width - len(prompt) for prompt in prompts], np.int32))
        length = 1 if width == 1 else self.chunk
        known = 0 if self.cache.ring else known // self.chunk * self.chunk
        self.start.assign(np.array(known, np.int32))
        for first in range(known, width, length):
            part = table[:, first : first + length]
            self.last.assign(np.array(part.shape[1] - 1, np.int32))
            self.tokens[length].assign(np.pad(part, ((0, 0), (0, length - part.shape[1]))))
            self._run(self._extend, length)
        self.filled = width

    def step(self, tokens: Optional[Sequence[int]] = None) -> None:
        """Read one more token a row: the likeliest unless given."""
        if tokens is not None:
            self.tokens[1].assign(np.array(tokens, np.int32).reshape(-1, 1))
        self._run(self._extend, 1)
        self.filled += 1

    def likeliest(self, count: int) -> np.ndarray:
        """The likeliest token after each of the last `count` columns, (count, B); -1 where logits are not finite.

        At most RECENT columns are remembered.
        """
        return self.chosen.numpy()[np.arange(self.filled - count, self.filled) % RECENT]

    def reorder(self, rows: Sequence[int]) -> None:
        """Row b goes on with what row rows[b] has read."""
        if list(rows) != list(range(self.sizes.rows)):
            self.order.assign(np.array(rows, np.int32))
            self._run(self._reorder)

    def reread(self, window: Sequence[int]) -> None:
        """Logits after the window, all of which is read, without a cache."""
        self.window.assign(np.pad(np.array([window], np.int32), ((0, 0), (0, self.sizes.length - len(window)))))
        self.last.assign(np.array(len(window) - 1, np.int32))
        self._run(self._read)

    @property
    def is_full(self) -> bool:
        return self.filled == self.columns and not self.cache.ring

    def larger(self) -> Decoder:
        """A Decoder with twice the room that knows the same sources."""
        length = _rounded(self.sizes.length + 1, self.sizes.length, self.model.context_length)
        other = borrow(self.model, self.sizes._replace(length=length))
        if self.sizes.sources:
            other.source_lengths.assign(self.source_lengths).realize()
        for new, old in zip(other.memories, self.memories, strict=True):
            for own, value in zip(new, old, strict=True):
                own.assign(value).realize()
        return other

    def grown(self) -> Decoder:
        """A Decoder with twice the room that goes on from here. This one is free."""
        other = self.larger()
        other.start.assign(self.start).realize()
        other.tokens[1].assign(self.tokens[1]).realize()
        other.chosen.assign(self.chosen).realize()  # the host may not have read all of it yet
        if self.padding is not None and other.padding is not None:
            other.padding.assign(self.padding).realize()
        other.cache.copy_from(self.cache)
        other.filled = self.filled
        give_back(self)
        return other

    # -- what the passes do

    def _real(self) -> Tensor:
        """Which tokens of the source are there: bool (B, S)."""
        columns = Tensor.arange(self.sizes.source_length, dtype="int32", device=self.sizes.device)
        return columns < self.source_lengths.unsqueeze(-1)

    def _encode(self) -> None:
        computed = self.model.memories(self.model.encode(self.source, self._real()))
        for pair, new in zip(self.memories, computed, strict=True):
            for own, value in zip(pair, new, strict=True):
                own.assign(value.to(own.device))

    def _about(self) -> dict[str, Any]:
        return {"memories": self.memories, "memory_mask": self._real()} if self.sizes.sources else {}

    def _extend(self, length: int) -> None:
        """Read tokens (B, length) that stand at column `start` and after it."""
        context = self.model.context_length
        positions = self.start + Tensor.arange(length, dtype="int32", device=self.sizes.device)  # (T)
        if self.padding is not None:
            positions = (positions - self.padding.unsqueeze(-1)).maximum(0)  # (B, T)
        if length > 1 and context is not None:
            positions = positions.minimum(context - 1)  # what pads the last chunk may stand beyond
        pasts = self.cache.pasts(self.start, length)
        features = self.model.features(self.tokens[length], positions, pasts, **self._about())  # (B, T, C)
        self._leave(features, self.start + self.last if length > 1 else self.start)

    def _read(self) -> None:
        """Read a window (1, T) without the cache."""
        self._leave(self.model.features(self.window, **self._about()), self.last)

    def _leave(self, features: Tensor, column: Tensor) -> None:
        """The logits after the last of the tokens that were read, and what the next pass needs."""
        one = (
            features if features.shape[1] == 1 else features.transpose(0, 1).take(self.last.reshape(1)).transpose(0, 1)
        )
        logits = self.model.logits(one.squeeze(1))  # (B, V)
        best = logits.argmax(-1).cast("int32")  # (B)
        answer = logits.max(-1).isfinite().where(best, -1)
        self.logits.assign(logits)
        self.chosen.assign(self.chosen.index_copy(0, (column % RECENT).reshape(1), answer.unsqueeze(0)))
        self.tokens[1].assign(best.unsqueeze(1))
        self.start.assign(column + 1)

    def _reorder(self) -> None:
        self.cache.reorder(self.order)


def sizes_for(
    model: Any, rows: int, length: int, sources: Sequence[Sequence[int]] = (), everything: bool = False
) -> Sizes:
    """The Sizes with room for `length` tokens a row (with `everything` of the context), and for the sources."""
    device = next(iter(model.state_dict().values())).device  # of a frozen model too, which has no parameters
    context = model.context_length
    room = context if everything and context is not None else _rounded(length, LEAST, context)
    if not sources:
        return Sizes(device, rows, room)
    return Sizes(device, rows, room, len(sources), _rounded(max(map(len, sources)), LEAST_SOURCE, context))


def _rounded(length: int, least: int, most: Optional[int]) -> int:
    """`least` times a power of two, and no more than `most`."""
    while least < length:
        least *= 2
    return least if most is None else min(least, most)


def layout_of(model: Any) -> tuple[list[Any], list[str]]:
    """The modules and Tensors of a model, and the devices of these: the traces of a Decoder hold for no other."""
    tensors = list(model.state_dict().values())
    return [*model.modules(), *tensors], [tensor.device for tensor in tensors]


def borrow(model: Any, sizes: Sizes) -> Decoder:
    """A Decoder that nobody uses, new or from an earlier text, when everything is traced already."""
    idle = vars(model).setdefault("_idle_decoders", [])
    parts, devices = layout_of(model)
    # The others are of the model as it was: elsewhere, or before its layers were wrapped, merged or packed.
    fitting = [
        decoder
        for decoder in idle
        if decoder.layout[1] == devices and list(map(id, decoder.layout[0])) == list(map(id, parts))
    ]
    found = next((decoder for decoder in fitting if decoder.sizes == sizes), None)
    idle[:] = [decoder for decoder in fitting if decoder is not found]
    return found or Decoder(model, sizes)


def give_back(decoder: Decoder) -> None:
    """Keep a Decoder for the next text."""
    idle = vars(decoder.model)["_idle_decoders"]
    idle.append(decoder)
    del idle[:-KEPT]


@contextmanager
def evaluating(modules: list[Any]) -> Iterator[None]:
    """Modules in evaluation mode, each afterwards in the mode that it was in."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
