"""`--task translate`: the encoder-decoder of the 2017 paper learns a language from pairs of sentences.

A BPE of both languages together is learnt from the pairs that train (Vaswani et al., arXiv 1706.03762, section 5.1).
At the end the held-out sentences are translated and scored with BLEU, beside two translators that have learnt nothing:
one gives the source back, the other the translation of the training sentence that is nearest.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import Tensor, nn
from ..models import generate_batch
from ..models.beam import beam_search
from ..models.transformer import Transformer, TransformerConfig
from .batches import Buckets, padded
from .bleu import bleu, nearest
from .config import TrainConfig
from .corpora import Corpus, Row, read_pairs
from .errors import UsageError
from .progress import duration
from .task import IGNORED, Arrays, Measured, Task, write_json

TOGETHER = 50  # sentences translated in one batch
SHOWN = 8  # translations printed at the end of a run


class Translate(Task):
    name = "translate"
    noun = "pairs"
    special_tokens = ("<pad>", "<s>", "</s>")
    template = "$A </s>"

    def build(self, options: Mapping[str, Any]) -> Transformer:
        o = dict(n_layer=3, n_head=4, n_embd=128, block_size=32, dropout=0.1) | dict(options)
        self.block = o["block_size"]  # of training; the model itself reads any length
        if self.block < 2:
            raise ValueError(f"block_size is {self.block}, and must hold a token and the end: at least 2")
        return Transformer(
            TransformerConfig(
                vocab_size=o["vocab_size"],
                d_model=o["n_embd"],
                encoder_layers=o["n_layer"],
                decoder_layers=o["n_layer"],
                num_heads=o["n_head"],
                d_ff=4 * o["n_embd"],
                dropout=o["dropout"],
                label_smoothing=min(self.config.label_smoothing, 0.99),
                pad_token_id=self.special("<pad>"),
                decoder_start_token_id=self.special("<s>"),
                eos_token_id=self.special("</s>"),
            )
        )

    @property
    def sizes(self) -> dict[str, Any]:
        config = self.model.config
        return dict(
            n_layer=config.encoder_layers,
            n_head=config.num_heads,
            n_embd=config.d_model,
            block_size=self.block,
            dropout=config.dropout,
            vocab_size=config.vocab_size,
        )

    # -- data

    @classmethod
    def read(cls, config: TrainConfig) -> Corpus:
        return read_pairs(config.data)

    @classmethod
    def texts(cls, data: Corpus, config: TrainConfig) -> Iterator[str]:
        for pair in data.split(config.held_out, config.seed, "source sentences")[0]:
            yield from pair

    def prepare(self, data: Corpus) -> None:
        config = self.config
        self.training, self.validation = data.split(config.held_out, config.seed, "source sentences")
        known = self.tokenized(self.training), self.tokenized(self.validation)
        self.rows = [[row for row in rows if max(map(len, row)) <= self.block] for rows in known]
        self.too_long = len(known[0]) - len(self.rows[0])
        if not all(self.rows):
            raise UsageError(f"no pair fits into block_size {self.block}: make --block-size larger")
        sizes: dict[str, Any] = dict(batch_size=config.batch_size, block_size=self.block, seed=config.seed)
        self.buckets = [Buckets([max(map(len, row)) for row in rows], **sizes) for rows in self.rows]

    def tokenized(self, pairs: list[Row]) -> list[tuple[list[int], list[int]]]:
        """Both sides as ids, each with </s> at its end."""
        end = [self.special("</s>")]
        return [tuple(self.tokenizer.encode(text) + end for text in pair) for pair in pairs]  # type: ignore[misc]

    def amount(self) -> str:
        left_out = f" ({self.too_long:,} more are longer than the block)" if self.too_long else ""
        return f"{len(self.rows[0]):,} to train{left_out}, {len(self.validation):,} held out"

    # -- batches and losses

    def arrays(self, rows: list[tuple[list[int], list[int]]], count: int, width: int) -> Arrays:
        """Source (B, S), which of it is real (B, S), the decoder's input and its targets (B, T)."""
        pad, start = self.special("<pad>"), [self.special("<s>")]
        source = padded([source for source, _ in rows], count, width, pad)
        real = [len(source) for source, _ in rows] + [1] * (count - len(rows))  # no row is without a key to look at
        target_in = padded([start + target[:-1] for _, target in rows], count, width, pad)
        targets = padded([target for _, target in rows], count, width, IGNORED)
        return source, np.arange(width) < np.array(real)[:, None], target_in, targets

    def batch(self, number: int) -> Arrays:
        rows, width = self.buckets[0].batch(number)
        return self.arrays([self.rows[0][i] for i in rows], len(rows), width)

    def tokens(self, arrays: Arrays) -> int:
        return arrays[1].size  # of one side, the padding included

    def evaluation(self) -> Iterator[Measured]:
        for rows, count, width in self.buckets[1].once():
            arrays = self.arrays([self.rows[1][i] for i in rows], count, width)
            yield Measured(arrays, int((arrays[3] != IGNORED).sum()))

    def logits(self, source: Tensor, real: Tensor, target_in: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.model(source, target_in, source_mask=real)[0], y

    # -- what is shown

    def translate(self, sentences: list[str], beams: int, most: int = 0) -> list[str]:
        """Translations of at most `most` tokens (0: twice the block), greedy or by beam search."""
        found, most = [""] * len(sentences), most or 2 * self.block
        ids = [self.tokenizer.encode(sentence)[: 2 * self.block] + [self.special("</s>")] for sentence in sentences]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # those of one batch should end together
        for start in range(0, len(ids), TOGETHER):
            part = order[start : start + TOGETHER]
            sources = [ids[i] for i in part]
            # Every batch has as many rows, so that all find the same traces.
            filled = sources + [sources[-1]] * (min(TOGETHER, len(ids)) - len(sources))
            if beams > 1:
                texts = [beam_search(self.model, source, most, beams)[0].tokens for source in sources]
            else:
                texts = generate_batch(self.model, filled, most, temperature=0)
            for i, tokens in zip(part, texts):
                found[i] = " ".join(self.tokenizer.decode(tokens).split())  # one line, as its source is
        return found

    def show(self, folder: Path) -> None:
        sources, references = [a for a, _ in self.validation], [b for _, b in self.validation]
        began = time.perf_counter()
        found = self.translate(sources, self.config.beams)
        seconds = time.perf_counter() - began
        close = [self.training[i] for i in nearest([a for a, _ in self.training], sources)]
        scores = {
            "translated": bleu(found, references),
            "copied": bleu(sources, references),
            "nearest": bleu([b for _, b in close], references),
        }
        if scores["translated"] is None:
            print('no BLEU: sacrebleu is not installed (pip install "clgrad[bleu]")', file=sys.stderr)
        else:
            print(
                f"\nBLEU of {len(found):,} held-out sentences: {scores['translated']:.2f}, translated in "
                f"{duration(seconds)}\n  the source as it is: {scores['copied']:.2f}\n  the translation of the nearest "
                f"training sentence: {scores['nearest']:.2f}"
            )
        print("\nsome of them, with their reference and the nearest training sentence's translation:\n")
        for i in range(min(SHOWN, len(found))):
            print(f"  {sources[i]}\n    = {found[i]}\n    : {references[i]}\n    ~ {close[i][1]}")
        lines = ("\t".join(row) + "\n" for row in zip(sources, found, references, strict=True))
        nn.state.atomic_write(folder / "translations.tsv", "".join(lines).encode("utf-8"))
        write_json(folder / "bleu.json", scores)

    def answer(self, prompt: str, max_tokens: int = 0, beams: int = 1, **options: Any) -> None:
        """Print the translation of each line of the prompt: the likeliest, never drawn."""
        for line in prompt.splitlines():
            print(self.translate([line], beams, max_tokens)[0] if line.strip() else "", flush=True)

    def more(self) -> str:
        return f"--prompt {shlex.quote(self.validation[0][0])}"
