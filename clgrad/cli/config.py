"""What a run can be told: the trainer's fields, the model's fields, and the presets.

The model's fields are those of GPTConfig, whatever the task: every model has layers, heads, a width, a block.

Every field is a flag of `clgrad train` and a key of its `--config` file. Later sources win:
the fields' defaults, the preset, the TOML file, the flags.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError

Value = bool | int | float | str

TASKS = ("lm", "translate", "classify", "mlm")
SCHEDULES = ("cosine", "linear", "inverse_sqrt", "constant")
PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class TrainConfig:
    """What to train and how. The learning rate warms up linearly, and then falls as `schedule` says.

    One iteration is one update, from `accumulate` batches of `batch_size`, whose gradients are averaged.
    """

    task: str = "lm"  # one of TASKS
    preset: str = "shakespeare"
    data: str = ""  # a text file; empty: Shakespeare
    tokenizer: str = ""  # char, bpe (learnt from the data), or a tokenizer's file; empty: what is usual for the task
    held_out: int = 1000  # pairs or labelled texts that validate; a text keeps its last 10 %
    device: str = "auto"  # NUMPY, CL, CL:1, ...; auto: the default that `clgrad devices` shows
    out: str = ""  # the run folder; empty: a new one under runs/
    seed: int = 1
    batch_size: int = 12
    accumulate: int = 1
    max_iters: int = 2000
    schedule: str = "cosine"  # one of SCHEDULES
    learning_rate: float = 1e-3  # the largest
    min_lr: float = 1e-4
    warmup_iters: int = 100
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1  # of matrices; biases, gains and the like never decay
    grad_clip: float = 1.0  # largest norm of all gradients together; 0: do not clip
    precision: str = "float32"  # of the forward and backward pass; parameters and updates are float32
    checkpointing: bool = False  # layers compute their inner values again for the gradient instead of keeping them
    label_smoothing: float = 0.0  # the share of each target that all others get; validation knows none of it
    eval_interval: int = 250
    eval_iters: int = 20  # batches in one evaluation
    checkpoint_interval: int = 250
    sample_tokens: int = 400  # length of the sample at the end; 0: none
    beams: int = 1  # of the translations at the end; 1 is greedy

    def __post_init__(self) -> None:
        for name, valid in (("task", TASKS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in valid:
                raise UsageError(unknown(name, getattr(self, name), valid))
        counts = ("batch_size", "accumulate", "max_iters", "eval_interval", "eval_iters", "checkpoint_interval")
        for name in (*counts, "held_out", "beams"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("seed", "learning_rate", "min_lr", "warmup_iters", "weight_decay", "grad_clip", "sample_tokens"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must not be negative or nan, but is {getattr(self, name)}")
        for name in ("beta1", "beta2", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 0 and less than 1, not {getattr(self, name)}")


SMALL: dict[str, Value] = dict(n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0)
LARGE: dict[str, Value] = dict(n_layer=6, n_head=6, n_embd=384, block_size=256, dropout=0.2)

PRESETS: dict[str, dict[str, Value]] = {
    # Readable text after about three minutes on two CPU cores.
    "shakespeare": SMALL | dict(max_iters=1700, learning_rate=4e-3, min_lr=2e-4),
    # nanoGPT's two character-level configurations of Shakespeare.
    "nanogpt-cpu": SMALL | dict(batch_size=12, max_iters=2000),
    "nanogpt-gpu": LARGE | dict(batch_size=64, max_iters=5000, eval_iters=200),
    # The other tasks, in sizes that two CPU cores train in minutes.
    "translate": dict(
        task="translate", n_layer=3, n_head=4, n_embd=128, block_size=32, dropout=0.1, vocab_size=4000, batch_size=16,
        max_iters=9000, learning_rate=1.5e-3, warmup_iters=400, schedule="inverse_sqrt", beta2=0.98, weight_decay=0.0,
        label_smoothing=0.1, eval_interval=500,
    ),
    "classify": dict(
        task="classify", n_layer=2, n_head=4, n_embd=64, block_size=64, dropout=0.1, vocab_size=2000, batch_size=16,
        max_iters=500, learning_rate=1e-3, min_lr=0.0, warmup_iters=50, schedule="linear", beta2=0.999,
        weight_decay=0.01,
    ),
    "mlm": dict(
        task="mlm", n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0, vocab_size=2000, batch_size=16,
        max_iters=2000, learning_rate=1e-3, min_lr=0.0, warmup_iters=200, schedule="linear", beta2=0.999,
        weight_decay=0.01,
    ),
}  # fmt: skip

# What must not change when a run is resumed; the text may be named anew, since its hash is checked.
FIXED_ON_RESUME = {"task", "preset", "tokenizer", "held_out", "out", "seed", "batch_size", "accumulate", "precision"}


def train_fields() -> dict[str, type]:
    return typing.get_type_hints(TrainConfig)


def model_fields() -> dict[str, type]:
    """The fields of GPTConfig and their types. `vocab_size` is one of them, though the text decides it."""
    from ..models import GPTConfig

    return typing.get_type_hints(GPTConfig)


def all_fields() -> dict[str, type]:
    return train_fields() | model_fields()


def field_defaults() -> dict[str, Any]:
    """Every field's default value, where it has one."""
    from ..models import GPTConfig

    fields = (*dataclasses.fields(TrainConfig), *dataclasses.fields(GPTConfig))
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


@dataclass(frozen=True)
class Settings:
    """The trainer's configuration and what was said about the model's (GPTConfig's defaults hold for the rest)."""

    train: TrainConfig
    model: dict[str, Any]


def resolve(flags: Mapping[str, Value], file: str | None = None) -> Settings:
    """Defaults < preset < the TOML file < `flags` (those that were given, by field name)."""
    given = (read_toml(Path(file)) if file else {}) | dict(flags)
    task = str(given.get("task", TrainConfig.task))
    preset = str(given.get("preset", task if task in PRESETS else TrainConfig.preset))
    if preset not in PRESETS:
        raise UsageError(unknown("preset", preset, PRESETS))
    chosen = settings(PRESETS[preset] | {"preset": preset} | given)
    its_task = PRESETS[preset].get("task", TrainConfig.task)
    if chosen.train.task != its_task:
        raise UsageError(
            f"the preset {preset} is for --task {its_task}, not {chosen.train.task}: leave one of them out"
        )
    return chosen


def settings(values: Mapping[str, Any]) -> Settings:
    """Values by field name, sorted into the trainer's and the model's. Raises UsageError for values out of range."""
    trainer = train_fields()
    return Settings(
        TrainConfig(**{name: value for name, value in values.items() if name in trainer}),
        {name: value for name, value in values.items() if name not in trainer},
    )


def read_toml(path: Path) -> dict[str, Value]:
    """The fields in a TOML file, checked against their types. Raises UsageError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the config file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the config file {path} is not TOML: {error}") from None
    fields = all_fields()
    return {name: check_type(f"{path}: {name}", value, known(name, fields, path)) for name, value in table.items()}


def known(name: str, fields: Mapping[str, type], path: Path) -> type:
    if name not in fields:
        raise UsageError(f"{path}: " + unknown("key", name, fields))
    return fields[name]


def check_type(what: str, value: Any, kind: type) -> Any:
    """`value` as `kind`; an integer will do for a float. Raises UsageError."""
    exact = float(value) if kind is float and type(value) is int else value
    if type(exact) is kind:
        return exact
    raise UsageError(f"{what} must be of type {kind.__name__}, not {value!r}")


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """The message for a name that is none of `valid`."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"unknown {kind} {name!r}.{hint} Valid: {', '.join(names)}"
