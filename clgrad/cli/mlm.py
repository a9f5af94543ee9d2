"""`--task mlm`: a BERT that learns which tokens are hidden in a text (Devlin et al., arXiv 1810.04805)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import Tensor
from ..models.bert import BertConfig, BertForMaskedLM
from ..models.masking import mask_tokens
from .config import TrainConfig
from .data import EVALUATION, TRAIN_FRACTION, TRAINING, Text, batch, load_text, split
from .errors import UsageError
from .generate import LIKELIEST, fill_masks, forward
from .task import Arrays, Measured, Task, generator


class BertTask(Task):
    """What the tasks of BERT have in common: its sizes under the names of the flags, and its special tokens."""

    special_tokens = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    template = "[CLS] $A [SEP]"

    def bert_config(self, options: Mapping[str, Any]) -> BertConfig:
        default = dict(n_layer=2, n_head=4, n_embd=64, block_size=64, dropout=0.1)
        o = default | dict(options)
        return BertConfig(
            vocab_size=o["vocab_size"],
            hidden_size=o["n_embd"],
            num_hidden_layers=o["n_layer"],
            num_attention_heads=o["n_head"],
            intermediate_size=4 * o["n_embd"],
            max_position_embeddings=o["block_size"],
            initializer_range=o["n_embd"] ** -0.5,  # with BERT's 0.02 a small model's attention starts all but even
            pad_token_id=self.special("[PAD]"),
            hidden_dropout_prob=o["dropout"],
            attention_probs_dropout_prob=o["dropout"],
            labels=self.labels or BertConfig.labels,
        )

    @property
    def sizes(self) -> dict[str, Any]:
        config = self.model.config
        return dict(
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            n_embd=config.hidden_size,
            block_size=config.max_position_embeddings,
            dropout=config.hidden_dropout_prob,
            vocab_size=config.vocab_size,
        )

    def cut(self, text: str) -> list[int]:
        """The ids of a text between [CLS] and [SEP], the text cut so that all fit into a block."""
        ids = self.tokenizer.encode(text)[: self.block_size - 2]
        return [self.special("[CLS]"), *ids, self.special("[SEP]")]


class MaskedLanguageModel(BertTask):
    name = "mlm"
    unit = "a masked token"

    def build(self, options: Mapping[str, Any]) -> BertForMaskedLM:
        return BertForMaskedLM(self.bert_config(options))

    # -- data

    @classmethod
    def read(cls, config: TrainConfig) -> Text:
        return load_text(config.data)

    @classmethod
    def texts(cls, data: Text, config: TrainConfig) -> Iterator[str]:
        yield from data.content[: int(len(data.content) * TRAIN_FRACTION)].splitlines(keepends=True)

    def prepare(self, data: Text) -> None:
        if self.block_size < 4:
            raise UsageError(f"block_size is {self.block_size}, and must hold [CLS], two tokens and [SEP]: at least 4")
        tokens = self.tokenizer.encode_array(data.content)
        self.training, self.validation = split(tokens, self.block_size - 2, "tokens")

    def amount(self) -> str:
        length = len(self.training) + len(self.validation)
        return f"{length:,} tokens, {self.tokenizer.vocab_size:,} different ones"

    # -- batches and losses

    def _batch(self, tokens: np.ndarray, number: int, stream: int) -> Arrays:
        size, seed = self.config.batch_size, self.config.seed
        length = self.block_size - 2
        text, _ = batch(tokens, batch_size=size, block_size=length, seed=seed, iteration=number, stream=stream)
        ends = [np.full((size, 1), self.special(name), np.int32) for name in ("[CLS]", "[SEP]")]
        return mask_tokens(
            np.concatenate([ends[0], text, ends[1]], axis=1),
            generator(seed, stream, number, 1),
            mask_token=self.special("[MASK]"),
            vocab_size=self.tokenizer.vocab_size,
            special=[self.special(name) for name in self.special_tokens],
        )

    def batch(self, number: int) -> Arrays:
        return self._batch(self.training, number, TRAINING)

    def evaluation(self) -> Iterator[Measured]:
        for number in range(self.config.eval_iters):
            yield Measured(self._batch(self.validation, number, EVALUATION), 1)

    def logits(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.model(x)[0], y

    # -- what is shown

    def show(self, folder: Path) -> None:
        x, y = self._batch(self.validation, 0, EVALUATION)
        print("\ntokens of the validation text that were hidden, and what it makes of them:\n")
        guesses = np.argsort(-forward(self.model, x[0]), axis=-1, kind="stable")[:, :LIKELIEST]
        for place in np.flatnonzero(y[0] >= 0)[:8]:
            before, hidden, after = (
                self.tokenizer.decode(np.where(y[0] >= 0, y[0], x[0])[part])
                for part in (slice(max(place - 8, 0), place), slice(place, place + 1), slice(place + 1, place + 5))
            )
            likely = ", ".join(repr(self.tokenizer.decode([token])) for token in guesses[place])
            print(f"  {before!r} [{hidden!r}] {after!r}: {likely}")

    def answer(self, prompt: str, **options: Any) -> None:
        """Print the prompt with every [MASK] filled in, and the likeliest for each."""
        fill_masks(self.model, self.tokenizer, self.cut(prompt))

    def more(self) -> str:
        text = self.tokenizer.decode(self.validation[:12]).strip()
        words = text.split(" ")
        words[len(words) // 2] = "[MASK]"
        return f"--prompt {shlex.quote(' '.join(words))}"
