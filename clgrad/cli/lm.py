"""`--task lm`: a GPT that learns to go on with a text, character by character or in the tokens of a BPE."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import Tensor
from ..models import GPT, GPTConfig
from ..models.tokenizers import CharTokenizer, Tokenizer
from .config import TrainConfig
from .data import EVALUATION, TRAIN_FRACTION, TRAINING, Text, batch, load_text, split
from .errors import UsageError
from .generate import complete
from .task import Arrays, Measured, Task, write_json


class LanguageModel(Task):
    name = "lm"
    usual_tokenizer = "char"
    own_fields = ("bias", "activation_function", "layer_norm_epsilon")

    def build(self, options: Mapping[str, Any]) -> GPT:
        return GPT(GPTConfig(**options))

    @property
    def sizes(self) -> dict[str, Any]:
        return dataclasses.asdict(self.model.config)

    # -- data

    @classmethod
    def read(cls, config: TrainConfig) -> Text:
        return load_text(config.data)

    @classmethod
    def texts(cls, data: Text, config: TrainConfig) -> Iterator[str]:
        yield from data.content[: int(len(data.content) * TRAIN_FRACTION)].splitlines(keepends=True)

    @classmethod
    def characters(cls, data: Text) -> CharTokenizer:
        return CharTokenizer.of(data.content)

    @classmethod
    def learn(cls, data: Text, config: TrainConfig, options: Mapping[str, Any]) -> Tokenizer:
        tokenizer = super().learn(data, config, options)
        said = options.get("vocab_size", tokenizer.vocab_size)
        if isinstance(tokenizer, CharTokenizer) and said != tokenizer.vocab_size:
            raise UsageError(f"vocab_size is {said}, and the text has {tokenizer.vocab_size} characters: leave it out")
        return tokenizer

    @classmethod
    def tokenizer_of(cls, state: Mapping[str, Any]) -> Tokenizer:
        return CharTokenizer(state["vocabulary"]) if "vocabulary" in state else super().tokenizer_of(state)

    def prepare(self, data: Text) -> None:
        content = data.content
        self.prompt = "ROMEO:" if "ROMEO:" in content else content.lstrip()[:6] or content[:1]
        noun = "characters" if isinstance(self.tokenizer, CharTokenizer) else "tokens"
        self.training, self.validation = split(self.tokenizer.encode_array(content), self.block_size, noun)

    def amount(self) -> str:
        length = len(self.training) + len(self.validation)
        if isinstance(self.tokenizer, CharTokenizer):
            return f"{length:,} characters, {self.tokenizer.vocab_size} different ones"
        return f"{length:,} tokens, {self.tokenizer.vocab_size:,} different ones"

    # -- batches and losses

    def _batch(self, tokens: np.ndarray, number: int, stream: int) -> Arrays:
        return batch(
            tokens,
            batch_size=self.config.batch_size,
            block_size=self.block_size,
            seed=self.config.seed,
            iteration=number,
            stream=stream,
        )

    def batch(self, number: int) -> Arrays:
        return self._batch(self.training, number, TRAINING)

    def evaluation(self) -> Iterator[Measured]:
        for number in range(self.config.eval_iters):
            yield Measured(self._batch(self.validation, number, EVALUATION), 1)

    def logits(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.model(x)[0], y

    # -- what is kept and shown

    def state(self) -> dict[str, Any]:
        state = super().state()
        if isinstance(self.tokenizer, CharTokenizer):
            del state["tokenizer"]
            state["vocabulary"] = self.tokenizer.characters
        return state

    def export(self, folder: Path) -> None:
        if not isinstance(self.tokenizer, CharTokenizer):
            super().export(folder)
            return
        self.model.save_pretrained(folder)
        write_json(folder / "vocab.json", {c: token for token, c in enumerate(self.tokenizer.characters)})

    @property
    def unit(self) -> str:  # type: ignore[override]
        return "a character" if isinstance(self.tokenizer, CharTokenizer) else "a token"

    def show(self, folder: Path) -> None:
        print("\na sample of what it has learnt:\n")
        complete(self.model, self.tokenizer, self.prompt, self.config.sample_tokens, temperature=0.8, seed=1)

    def answer(self, prompt: str, **options: Any) -> None:
        """Print the prompt and what follows it."""
        complete(self.model, self.tokenizer, prompt, **options)

    def more(self) -> str:
        return (
            f"--prompt {shlex.quote(self.prompt)} --max-tokens 300 --temperature 0.8 --top-k 40 --top-p 0.95 --seed 1"
        )
