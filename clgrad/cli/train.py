"""`clgrad train`: train a model in a run folder, and go on from where a run stopped.

A run is a loop over jitted steps; what it trains, on what, and what it shows is a Task (task.py). Everything that
decides its numbers is either in the checkpoint or a function of (seed, iteration): batches, dropout, the learning
rate. So a run that was killed and resumed has, bit for bit, the losses of one that never stopped. Losses are read in
small groups, so that a device need not wait for the host after every step.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import Tensor, jit, nn
from ..nn.schedule import cosine_with_warmup, inverse_sqrt_with_warmup, linear_with_warmup
from . import checkpoint as checkpoints
from . import metrics
from .config import FIXED_ON_RESUME, Settings, TrainConfig, field_defaults, settings, train_fields
from .devices import choose_device, environment
from .errors import Stopped, UsageError
from .plot import plot_losses
from .progress import Progress, duration
from .signals import StopSignals
from .task import Arrays, Task, write_json
from .tasks import task_named

SECONDS_BETWEEN_READS, STEPS_BETWEEN_READS = 0.1, 20


class Run:
    """A model in training: its task, its jitted steps, and the files in its folder.

    `loop` trains, `finish` shows what came of it.
    """

    def __init__(self, folder: Path, task: Task, train: TrainConfig):
        self.folder, self.config, self.task, self.iteration = folder, train, task, 0
        self.model = task.model
        self.model.to(train.device)
        if train.checkpointing:
            nn.utils.checkpoint_layers(self.model)
        self.optimizer = nn.optim.AdamW(
            parameter_groups(self.model, train.weight_decay), lr=train.learning_rate, betas=(train.beta1, train.beta2)
        )
        self.scaler = nn.amp.GradScaler(device=train.device) if train.precision == "float16" else None
        self.step, self.evaluation_step = jit(self._step), jit(self._evaluation_step)
        self.first, self.more, self.update = jit(self._first), jit(self._gradients), jit(self._update)

    # -- the numbers

    def _step(self, *arrays: Tensor) -> Tensor:
        """An iteration of one batch."""
        loss = self._first(*arrays)
        self._update()
        return loss

    def _first(self, *arrays: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        return self._gradients(*arrays)

    def _gradients(self, *arrays: Tensor) -> Tensor:
        """Add to the gradients what a batch has to say, divided by how many batches there are."""
        loss = self.task.objective(*self._logits(*arrays))
        share = loss / self.config.accumulate if self.config.accumulate > 1 else loss
        (self.scaler.scale(share) if self.scaler else share).backward()
        return loss

    def _logits(self, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.precision == "float32":
            return self.task.logits(*arrays)
        with nn.amp.cast(self.model, self.config.precision):
            logits, targets = self.task.logits(*arrays)
        return logits.float(), targets

    def _update(self) -> None:
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if self.config.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()

    @Tensor.no_grad()
    def _evaluation_step(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        return self.task.measure(*self.task.logits(*arrays))

    def train_once(self, iteration: int, learning_rate: float) -> tuple[list[Tensor], int]:
        """The update of `iteration`, counted from 1: the losses of its batches, not read yet, and their tokens."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.task.sizes["dropout"]:
            Tensor.manual_seed(int(np.random.SeedSequence([self.config.seed, iteration]).generate_state(1)[0]))
        count = self.config.accumulate
        batches = [self.task.batch((iteration - 1) * count + i) for i in range(1, count + 1)]
        tokens = sum(map(self.task.tokens, batches))
        if count == 1:
            return [self.step(*self.tensors(batches[0]))], tokens
        losses = [(self.more if i else self.first)(*self.tensors(batch)) for i, batch in enumerate(batches)]
        self.update()
        return losses, tokens

    def tensors(self, arrays: Arrays) -> tuple[Tensor, ...]:
        return tuple(Tensor(array, device=self.config.device) for array in arrays)

    def evaluate(self) -> dict[str, float]:
        """The means of what the task measures over the batches of its evaluation, the same ones every time."""
        self.model.eval()
        measured = [(b.weight, self.evaluation_step(*self.tensors(b.arrays))) for b in self.task.evaluation()]
        self.model.train()
        total = math.fsum(weight for weight, _ in measured)
        return {
            name: math.fsum(weight * means[i].item() for weight, means in measured) / total
            for i, name in enumerate(self.task.measures)
        }

    def learning_rate(self, iteration: int) -> float:
        config = self.config
        if config.schedule == "constant":
            return config.learning_rate * min(1.0, iteration / (config.warmup_iters + 1))
        if config.schedule == "inverse_sqrt":
            return inverse_sqrt_with_warmup(
                iteration - 1, max_lr=config.learning_rate, warmup_iters=config.warmup_iters
            )
        decaying = linear_with_warmup if config.schedule == "linear" else cosine_with_warmup
        return decaying(
            iteration - 1,
            max_lr=config.learning_rate,
            min_lr=config.min_lr,
            warmup_iters=config.warmup_iters,
            decay_iters=config.max_iters,
        )

    # -- the loop

    def loop(self) -> None:
        """Train up to `max_iters`. Raises Stopped, after saving, when a signal asks to stop."""
        config = self.config
        progress = Progress(self.iteration, config.max_iters)
        pending: list[Pending] = []
        with StopSignals() as stop, metrics.MetricsFile(self.folder / metrics.FILE_NAME) as log:
            try:
                began = time.perf_counter()
                stopping = False
                while self.iteration < config.max_iters and not stopping:
                    iteration, rate = self.iteration + 1, self.learning_rate(self.iteration + 1)
                    pending.append(Pending(iteration, rate, *self.train_once(iteration, rate)))
                    self.iteration = iteration
                    last = iteration == config.max_iters
                    evaluates = last or iteration % config.eval_interval == 0
                    stopping = bool(stop.signal)  # read once: a signal that comes later waits for the next step
                    saves = last or stopping or iteration % config.checkpoint_interval == 0
                    # The first step traces and compiles: its time is its own.
                    many = len(pending) >= STEPS_BETWEEN_READS or iteration == 1
                    if many or evaluates or saves or time.perf_counter() - began > SECONDS_BETWEEN_READS:
                        self.report(log, progress, pending, began, evaluates)
                        pending.clear()
                        if saves:
                            log.sync()
                            self.save()
                        began = time.perf_counter()
            finally:
                progress.close()
            if stop.signal:
                raise Stopped(128 + stop.signal)

    def report(
        self,
        log: metrics.MetricsFile,
        progress: Progress,
        pending: list[Pending],
        began: float,
        evaluates: bool,
    ) -> None:
        """Read the losses of the steps since `began`, and write a line for each."""
        losses = [math.fsum(loss.item() for loss in step.losses) / len(step.losses) for step in pending]
        elapsed = time.perf_counter() - began
        seconds, tokens_per_second = elapsed / len(pending), sum(step.tokens for step in pending) / elapsed
        for step, loss in zip(pending, losses, strict=True):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at iteration {step.iteration}: the training has diverged. Train again with a "
                    f"lower --learning-rate; the last checkpoint in {self.folder} is from before"
                )
            entry = dict(
                iter=step.iteration,
                train_loss=loss,
                lr=step.rate,
                step_ms=round(seconds * 1000, 3),
                tokens_per_second=round(tokens_per_second, 1),
            )
            if evaluates and step is pending[-1]:
                entry |= self.evaluate()
            log.append(entry)
        progress.update(step.iteration, loss, tokens_per_second, entry.get("val_loss"))

    # -- the files

    def save(self) -> None:
        """Write the checkpoint, and then what is made from it for other programs. Raises OSError."""
        state = dict(
            iteration=self.iteration,
            train=dataclasses.asdict(self.config),
            text_sha256=self.task.data_hash,
            environment=environment(self.config.device),
            **self.task.state(),
        )
        checkpoints.save(self.folder / checkpoints.FILE_NAME, checkpoints.Checkpoint(self.arrays(), state))
        self.export()

    def export(self) -> None:
        """Write model.safetensors and config.json as transformers reads them, and the tokenizer."""
        self.task.export(self.folder)
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        config |= {"training": dataclasses.asdict(self.config), "environment": environment(self.config.device)}
        write_json(self.folder / "config.json", config)

    def arrays(self) -> dict[str, Tensor]:
        """Every Tensor that a resumed run needs, by the name that it has in the checkpoint."""
        arrays = {f"model.{name}": tensor for name, tensor in self.model.named_parameters()}
        for number, state in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        if self.scaler:
            arrays |= {f"scaler.{name}": tensor for name, tensor in self.scaler.state_dict().items()}
        return arrays

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Take over parameters, optimiser and iteration. Raises UsageError where the shapes are others."""
        checkpoints.check_arrays(self.folder / checkpoints.FILE_NAME, checkpoint.arrays, self.arrays())
        self.model.load_state_dict(checkpoint.part("model."), strict=False)  # a tied weight has one of its names
        state: dict[int, dict[str, Any]] = {}
        for name, array in checkpoint.part("optimizer.").items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = array
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        if self.scaler:
            self.scaler.load_state_dict(checkpoint.part("scaler."))
        self.iteration = checkpoint.state["iteration"]

    def finish(self) -> None:
        """Draw the losses, print a sample and what to do next."""
        entries = metrics.read(self.folder / metrics.FILE_NAME)
        self.plot(entries)
        evaluated = [entry for entry in entries if "val_loss" in entry]
        if evaluated:
            last = evaluated[-1]
            found = ", ".join(
                f"{n.replace('val_', 'validation ')} {last[n]:.4f}" for n in self.task.measures if n in last
            )
            print(f"\n{found} after {last['iter']:,} iterations")
        if self.config.sample_tokens:
            self.model.eval()
            self.task.show(self.folder)
        more = self.task.more()
        if more:
            print(f"\nfor more:\n  clgrad generate {shlex.quote(str(self.folder))} {more}")

    def plot(self, entries: list[dict[str, Any]]) -> None:
        title = f"{type(self.model).__name__}, {self.task.title()}, on {self.config.device}"
        if entries and not plot_losses(self.folder / "loss.png", entries, title, self.task.unit):
            print("no loss.png: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)

    def describe(self) -> Iterator[str]:
        yield from self.task.describe()
        yield f"device   {self.config.device}"
        yield f"run      {self.folder}, {self.config.max_iters:,} iterations"


@dataclasses.dataclass(frozen=True)
class Pending:
    """A step whose losses the device may still be computing."""

    iteration: int
    rate: float
    losses: list[Tensor]
    tokens: int


def train(chosen: Settings) -> None:
    """Train into a new folder."""
    config = dataclasses.replace(chosen.train, device=choose_device(chosen.train.device))
    if config.data:
        config = dataclasses.replace(config, data=str(Path(config.data).absolute()))
    folder = free_folder(config)
    config = dataclasses.replace(config, out=str(folder))
    run = Run(folder, task_named(config.task).start(config, chosen.model), config)
    make_folder(folder)
    follow(run, begin=run.save)


def resume(folder: Path, flags: Mapping[str, Any]) -> None:
    """Go on from the checkpoint in `folder`, with some of the trainer's fields changed by `flags`."""
    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}; start one with: clgrad train --out {folder}")
    checkpoint = checkpoints.load(folder / checkpoints.FILE_NAME)
    state = checkpoint.state
    recorded = field_defaults() | state["train"] | state["model"]
    for name, value in flags.items():
        if (name in FIXED_ON_RESUME or name in state["model"]) and value != recorded[name]:
            raise UsageError(f"{name} is {recorded[name]!r} in {folder} and cannot change when it is resumed")
    chosen = settings({name: recorded[name] for name in (*train_fields(), *state["model"])} | dict(flags))
    config = dataclasses.replace(chosen.train, device=choose_device(chosen.train.device))
    task = task_named(config.task).start(config, chosen.model, state)
    if task.data_hash != state["text_sha256"]:
        raise UsageError(
            f"the {task.noun} ({task.source}) is not the one that {folder} was trained on; pass that with --data"
        )
    run = Run(folder, task, config)
    run.restore(checkpoint)
    for name, value in environment(config.device).items():
        if value != state["environment"][name]:
            print(
                f"note: {name} was {state['environment'][name]} and is {value}: last digits may differ", file=sys.stderr
            )

    def begin() -> None:
        checkpoints.remove_temporary_files(folder)
        metrics.cut_back(folder / metrics.FILE_NAME, run.iteration)
        run.export()  # the kill may have come between the checkpoint and this

    follow(run, begin)


def follow(run: Run, begin: Callable[[], None]) -> None:
    """Bring the folder in order with `begin`, and train to the end or to the signal that stops it."""
    for line in run.describe():
        print(line)
    if run.iteration:
        print(f"resumed  at iteration {run.iteration:,}")
    print(flush=True)
    started = time.perf_counter()
    go_on = f"clgrad train --resume {shlex.quote(str(run.folder))}"
    try:
        begin()
        run.loop()
    except Stopped:
        print(f"\nstopped and saved at iteration {run.iteration:,}; to go on:\n  {go_on}")
        run.plot(metrics.read(run.folder / metrics.FILE_NAME))
        raise
    except OSError as error:
        what_now = "nothing was trained yet"
        if (run.folder / checkpoints.FILE_NAME).exists():
            what_now = f"the last good checkpoint is whole, and once there is room, this goes on from it: {go_on}"
        raise OSError(f"{error.strerror or error}: cannot write to {run.folder}; {what_now}") from error
    print(f"trained in {duration(time.perf_counter() - started)}")
    run.finish()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, which decay, and the rest (biases, gains), which does not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def free_folder(config: TrainConfig) -> Path:
    """`out`, which must not hold a run; by default runs/PRESET, or the first of runs/PRESET-2, -3, ... that is free."""
    if config.out:
        folder = Path(config.out)
        if not is_free(folder):
            raise UsageError(
                f"the run folder {folder} exists already: go on with clgrad train --resume {folder}, "
                "or choose another --out"
            )
        return folder
    number, folder = 1, Path("runs", config.preset)
    while not is_free(folder):
        number += 1
        folder = Path("runs", f"{config.preset}-{number}")
    return folder


def is_free(folder: Path) -> bool:
    """Whether `folder` does not exist, or holds nothing but what a kill left of a file half written."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name.startswith(".") and path.suffix == ".tmp" for path in folder.iterdir())


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the run folder {folder} cannot be made: {error.strerror}; choose another --out") from None
    checkpoints.remove_temporary_files(folder)
