"""`--task classify`: a BERT that learns which label a text has."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import Tensor
from ..models.bert import BertForSequenceClassification
from .batches import Buckets, padded
from .config import TrainConfig
from .corpora import Corpus, Row, read_labelled
from .errors import UsageError
from .generate import forward, print_labels, probabilities
from .mlm import BertTask
from .task import IGNORED, Arrays, Measured

SHOWN = 5  # validation texts at the end of a run


class Classify(BertTask):
    name = "classify"
    noun = "texts"
    unit = "a text"
    measures = ("val_loss", "val_accuracy")

    def build(self, options: Mapping[str, Any]) -> BertForSequenceClassification:
        return BertForSequenceClassification(self.bert_config(options))

    # -- data

    @classmethod
    def read(cls, config: TrainConfig) -> Corpus:
        return read_labelled(config.data)

    @classmethod
    def found(cls, data: Corpus) -> dict[str, Any]:
        return {"labels": sorted({label for _, label in data.rows})}

    @classmethod
    def texts(cls, data: Corpus, config: TrainConfig) -> Iterator[str]:
        return (text for text, _ in data.split(config.held_out, config.seed, "texts")[0])

    def prepare(self, data: Corpus) -> None:
        if self.block_size < 3:
            raise UsageError(f"block_size is {self.block_size}, and must hold [CLS], a token and [SEP]: at least 3")
        self.training, self.validation = data.split(self.config.held_out, self.config.seed, "texts")
        self.rows = [self.tokenized(self.training), self.tokenized(self.validation)]
        self.buckets = [
            Buckets(
                [len(ids) for ids, _ in rows],
                batch_size=self.config.batch_size,
                block_size=self.block_size,
                seed=self.config.seed,
            )
            for rows in self.rows
        ]

    def tokenized(self, rows: list[Row]) -> list[tuple[list[int], int]]:
        return [(self.cut(text), self.labels.index(label)) for text, label in rows]

    def amount(self) -> str:
        return f"{len(self.training):,} to train, {len(self.validation):,} to validate, {len(self.labels)} labels"

    # -- batches and losses

    def arrays(self, rows: list[tuple[list[int], int]], count: int, width: int) -> Arrays:
        """Tokens (B, T), which of them are real (B, T), and labels (B), -100 in rows beyond the last."""
        ids = padded([ids for ids, _ in rows], count, width, self.special("[PAD]"))
        lengths = [len(ids) for ids, _ in rows] + [1] * (count - len(rows))  # a row without any real token has no mean
        mask = np.arange(width) < np.array(lengths)[:, None]
        return ids, mask, np.array([label for _, label in rows] + [IGNORED] * (count - len(rows)), np.int32)

    def batch(self, number: int) -> Arrays:
        rows, width = self.buckets[0].batch(number)
        return self.arrays([self.rows[0][i] for i in rows], len(rows), width)

    def evaluation(self) -> Iterator[Measured]:
        for rows, count, width in self.buckets[1].once():
            yield Measured(self.arrays([self.rows[1][i] for i in rows], count, width), len(rows))

    def logits(self, x: Tensor, mask: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.model(x, mask=mask)[0], y

    def measure(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """The loss, and the share that is right."""
        right = (logits.argmax(-1).cast("int32") == targets).cast("float32")  # none of IGNORED is
        return *super().measure(logits, targets), right.sum() / (targets != IGNORED).cast("float32").sum()

    # -- what is shown

    def show(self, folder: Path) -> None:
        print("\ntexts that validate, their labels, and what it says:\n")
        for text, label in self.validation[:SHOWN]:
            found = probabilities(forward(self.model, self.cut(text)))
            best = int(found.argmax())
            print(f"  {label}: {self.labels[best]} ({found[best]:.0%})  {' '.join(text.split())[:70]!r}")

    def answer(self, prompt: str, **options: Any) -> None:
        """Print the labels and their probabilities, the likeliest first."""
        print_labels(self.model, self.cut(prompt), self.labels)

    def more(self) -> str:
        return f"--prompt {shlex.quote(' '.join(self.validation[0][0].split())[:60])}"
