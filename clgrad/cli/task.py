"""What a task is: its data, its model, its batches, its losses, and what it shows at the end.

The training loop (train.py) knows nothing else of it. A batch is a function of (seed, number of the batch) alone, so a
resumed run needs no generator's state. What a checkpoint must hold beside the arrays is `state`, from which `restore`
makes the model and its tokenizer again, without the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Optional, Self

import numpy as np

from .. import Tensor, nn
from ..models.tokenizers import SubwordTokenizer, Tokenizer
from ..nn.functional import cross_entropy
from .config import TrainConfig, train_fields
from .errors import UsageError

Arrays = tuple[np.ndarray, ...]
COMMON = ("n_layer", "n_head", "n_embd", "block_size", "dropout", "vocab_size")  # model fields that every task has
IGNORED = -100  # targets that count for nothing


@dataclass(frozen=True)
class Measured:
    """One batch of an evaluation, and how much its means weigh among those of the others."""

    arrays: Arrays
    weight: float


class Task:
    """The base of all tasks. `start` makes one with its data, to train; `restore` one from a checkpoint, to use."""

    name: ClassVar[str]
    noun: ClassVar[str] = "text"  # what the data is
    unit: ClassVar[str] = "a token"  # of the loss: nats ...
    measures: ClassVar[tuple[str, ...]] = ("val_loss",)  # the names of what `measure` gives
    usual_tokenizer: ClassVar[str] = "bpe"
    special_tokens: ClassVar[tuple[str, ...]] = ()  # that a BPE learnt for this task begins with
    template: ClassVar[str] = "$A"  # what such a BPE makes of a text
    own_fields: ClassVar[tuple[str, ...]] = ()  # model fields beside COMMON

    model: Any
    source: str  # where the data comes from, for the user
    data_hash: str

    def __init__(
        self, config: TrainConfig, options: Mapping[str, Any], tokenizer: Tokenizer, labels: Sequence[str] = ()
    ):
        """Build the model. `options` are the model's fields, of which others than the task's are refused."""
        self.config, self.tokenizer, self.labels = config, tokenizer, tuple(labels)
        for name in options:
            if name not in (*COMMON, *self.own_fields):
                raise UsageError(f"{name} is not a field of the models of --task {self.name}: leave it out")
        try:
            self.model = self.build({**options, "vocab_size": tokenizer.vocab_size})
        except ValueError as error:
            raise UsageError(str(error)) from None

    # -- beginnings

    @classmethod
    def start(cls, config: TrainConfig, options: Mapping[str, Any], state: Optional[Mapping[str, Any]] = None) -> Self:
        """Read the data, learn the tokenizer (or take that of `state`, of a checkpoint), and build the model.

        Raises UsageError for data that is missing, damaged or too short, and ImportError for a missing package.
        """
        data = cls.read(config)
        tokenizer = cls.learn(data, config, options) if state is None else cls.tokenizer_of(state)
        Tensor.manual_seed(config.seed)  # of the first weights
        task = cls(config, options, tokenizer, **cls.found(data))
        task.source, task.data_hash = data.source, data.sha256()
        task.prepare(data)
        return task

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """The model and the tokenizer of a checkpoint's `state`, without data. The weights are still to be loaded."""
        known = train_fields()
        config = TrainConfig(**{name: value for name, value in state["train"].items() if name in known})
        return cls(config, state["model"], cls.tokenizer_of(state), labels=state.get("labels", ()))

    @classmethod
    def tokenizer_of(cls, state: Mapping[str, Any]) -> Tokenizer:
        return Tokenizer.from_json(state["tokenizer"], "the checkpoint's tokenizer")

    @classmethod
    def learn(cls, data: Any, config: TrainConfig, options: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer that `config.tokenizer` names, learnt from the data where it is learnt."""
        kind = config.tokenizer or cls.usual_tokenizer
        try:
            if kind == "bpe":
                size = options.get("vocab_size", 4000)
                return SubwordTokenizer.train(cls.texts(data, config), size, cls.special_tokens, cls.template)
            if kind == "char":
                return cls.characters(data)
            tokenizer = Tokenizer.load(kind)
        except FileNotFoundError:
            raise UsageError(
                f"--tokenizer takes char, bpe, or the file of a tokenizer; there is no file {kind}"
            ) from None
        except UsageError:  # about the data
            raise
        except ValueError as error:
            raise UsageError(f"--tokenizer: {error}") from None
        missing = [token for token in cls.special_tokens if tokenizer.id_of(token) is None]
        if missing:
            raise UsageError(f"--task {cls.name} needs the tokens {', '.join(missing)}, which {kind} does not have")
        return tokenizer

    # -- what every task says

    @classmethod
    def read(cls, config: TrainConfig) -> Any:
        """The data: it has `source`, a line for the user, and `sha256()`."""
        raise NotImplementedError

    @classmethod
    def texts(cls, data: Any, config: TrainConfig) -> Iterator[str]:
        """The texts from which a tokenizer is learnt: those that train, not those that validate."""
        raise NotImplementedError

    @classmethod
    def characters(cls, data: Any) -> Tokenizer:
        raise UsageError(f"--tokenizer char is for --task lm; --task {cls.name} takes bpe or a tokenizer's file")

    @classmethod
    def found(cls, data: Any) -> dict[str, Any]:
        """What the data says beyond its texts: `labels`, for a classifier."""
        return {}

    def build(self, options: Mapping[str, Any]) -> Any:
        """The model. Raises ValueError for sizes that cannot be."""
        raise NotImplementedError

    def prepare(self, data: Any) -> None:
        """Make tokens of the data, and split it. Raises UsageError where it is too short."""
        raise NotImplementedError

    def batch(self, number: int) -> Arrays:
        """The training batch of this number, counted from 1: a function of it and of the seed."""
        raise NotImplementedError

    def evaluation(self) -> Iterator[Measured]:
        """The batches of an evaluation, the same ones every time."""
        raise NotImplementedError

    def logits(self, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        """What the model makes of a batch (..., V), and the targets (...), integers of which `IGNORED` do not count."""
        raise NotImplementedError

    def show(self, folder: Path) -> None:
        """Print what the trained model does, at the end of a run; files about it go into the run's folder."""

    def answer(self, prompt: str, **options: Any) -> None:
        """Print what the model makes of a prompt: `clgrad generate`. `options` are those of generation."""
        raise NotImplementedError

    def more(self) -> str:
        """The arguments of `clgrad generate`, after the run's folder, that show more of it."""
        return ""

    # -- what most tasks share

    def special(self, name: str) -> int:
        """The id of a special token of this task."""
        token = self.tokenizer.id_of(name)
        if token is None:
            raise UsageError(f"the tokenizer of this run does not have the token {name}")
        return token

    def tokens(self, arrays: Arrays) -> int:
        """How many tokens a batch has, padding included, for the speed that is shown."""
        return arrays[0].size

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON has it."""
        state: dict[str, Any] = dict(model=self.sizes, tokenizer=self.tokenizer.to_json())
        return state | ({"labels": list(self.labels)} if self.labels else {})

    @property
    def sizes(self) -> dict[str, Any]:
        """The model's fields, by the names that they have as flags."""
        raise NotImplementedError

    @property
    def block_size(self) -> int:
        return self.sizes["block_size"]

    def title(self) -> str:
        s = self.sizes
        return f"{s['n_layer']} layers, {s['n_head']} heads, width {s['n_embd']}, block {s['block_size']}"

    def describe(self) -> Iterator[str]:
        """Lines about the data and the model, for the start of a run."""
        yield f"{self.noun:8} {self.source}: {self.amount()}"
        yield f"model    {type(self.model).__name__}, {self.title()}, {self.model.num_parameters():,} parameters"

    def amount(self) -> str:
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        """Write the model and the tokenizer as other programs read them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save(folder / "tokenizer.json")

    def objective(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss to be differentiated: cross-entropy, label smoothing included."""
        smoothing = self.config.label_smoothing
        return cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), label_smoothing=smoothing)

    def measure(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """For each of `measures`, its mean over a batch of `evaluation`."""
        return (cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)),)


def generator(*numbers: int) -> np.random.Generator:
    """Random numbers that are a function of `numbers`."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(numbers)))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    nn.state.atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())
