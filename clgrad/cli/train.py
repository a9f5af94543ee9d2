"""`clgrad train`: train a character GPT in a run folder, and go on from where a run stopped.

A run is a loop over jitted steps. Everything that decides its numbers is either in the checkpoint or a function of
(seed, iteration): batches, dropout, the learning rate. So a run that was killed and resumed has, bit for bit, the
losses of one that never stopped. Losses are read in small groups, so that a device need not wait for the host after
every step.
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
from ..models import GPT, GPTConfig
from ..nn.schedule import cosine_with_warmup
from . import checkpoint as checkpoints
from . import metrics
from .config import FIXED_ON_RESUME, Settings, TrainConfig, settings
from .data import EVALUATION, TRAINING, Text, Vocabulary, batch, load_text, split
from .devices import choose_device, environment
from .errors import Stopped, UsageError
from .generate import complete
from .plot import plot_losses
from .progress import Progress, duration
from .signals import StopSignals

SECONDS_BETWEEN_READS, STEPS_BETWEEN_READS = 0.1, 20


class Run:
    """A model in training: its text, its jitted steps, and the files in its folder.

    `loop` trains, `finish` shows what came of it.
    """

    def __init__(self, folder: Path, text: Text, train: TrainConfig, model: Mapping[str, Any]):
        self.folder, self.config, self.iteration = folder, train, 0
        self.source, self.text_hash = text.source, text.sha256()
        self.vocabulary = Vocabulary.of(text.content)
        self.prompt = "ROMEO:" if "ROMEO:" in text.content else text.content.lstrip()[:6] or text.content[:1]
        self.model_config = model_config(model, len(self.vocabulary))
        self.training, self.validation = split(self.vocabulary.encode(text.content), self.model_config.block_size)
        Tensor.manual_seed(train.seed)
        self.model = GPT(self.model_config)
        self.model.to(train.device)
        self.optimizer = nn.optim.AdamW(
            parameter_groups(self.model, train.weight_decay), lr=train.learning_rate, betas=(train.beta1, train.beta2)
        )
        self.step, self.evaluation_step = jit(self._step), jit(self._evaluation_step)

    # -- the numbers

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        _, loss = self.model(x, y)
        loss.backward()
        if self.config.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        return loss

    @Tensor.no_grad()
    def _evaluation_step(self, x: Tensor, y: Tensor) -> Tensor:
        return self.model(x, y)[1]

    def train_once(self, iteration: int, learning_rate: float) -> Tensor:
        """One step on the batch of `iteration`, counted from 1. The loss, before the step, is not read yet."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.model_config.dropout:
            Tensor.manual_seed(int(np.random.SeedSequence([self.config.seed, iteration]).generate_state(1)[0]))
        return self.step(*self.batch(self.training, iteration, TRAINING))

    def evaluate(self) -> float:
        """The mean validation loss over `eval_iters` batches, the same ones every time."""
        self.model.eval()
        losses = [
            self.evaluation_step(*self.batch(self.validation, i, EVALUATION)) for i in range(self.config.eval_iters)
        ]
        self.model.train()
        return math.fsum(loss.item() for loss in losses) / len(losses)

    def batch(self, tokens: np.ndarray, iteration: int, stream: int) -> tuple[Tensor, Tensor]:
        x, y = batch(
            tokens,
            batch_size=self.config.batch_size,
            block_size=self.model_config.block_size,
            seed=self.config.seed,
            iteration=iteration,
            stream=stream,
        )
        return Tensor(x, device=self.config.device), Tensor(y, device=self.config.device)

    def learning_rate(self, iteration: int) -> float:
        return cosine_with_warmup(
            iteration - 1,
            max_lr=self.config.learning_rate,
            min_lr=self.config.min_lr,
            warmup_iters=self.config.warmup_iters,
            decay_iters=self.config.max_iters,
        )

    # -- the loop

    def loop(self) -> None:
        """Train up to `max_iters`. Raises Stopped, after saving, when a signal asks to stop."""
        config = self.config
        progress = Progress(self.iteration, config.max_iters)
        pending: list[tuple[int, float, Tensor]] = []
        with StopSignals() as stop, metrics.MetricsFile(self.folder / metrics.FILE_NAME) as log:
            try:
                began = time.perf_counter()
                stopping = False
                while self.iteration < config.max_iters and not stopping:
                    iteration, rate = self.iteration + 1, self.learning_rate(self.iteration + 1)
                    pending.append((iteration, rate, self.train_once(iteration, rate)))
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
        pending: list[tuple[int, float, Tensor]],
        began: float,
        evaluates: bool,
    ) -> None:
        """Read the losses of the steps since `began`, and write a line for each."""
        losses = [loss.item() for _, _, loss in pending]
        seconds = (time.perf_counter() - began) / len(pending)
        tokens_per_second = self.config.batch_size * self.model_config.block_size / seconds
        for (iteration, rate, _), loss in zip(pending, losses, strict=True):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at iteration {iteration}: the training has diverged. Train again with a "
                    f"lower --learning-rate; the last checkpoint in {self.folder} is from before"
                )
            entry = dict(
                iter=iteration,
                train_loss=loss,
                lr=rate,
                step_ms=round(seconds * 1000, 3),
                tokens_per_second=round(tokens_per_second, 1),
            )
            if evaluates and iteration == pending[-1][0]:
                entry["val_loss"] = self.evaluate()
            log.append(entry)
        progress.update(iteration, loss, tokens_per_second, entry.get("val_loss"))

    # -- the files

    def save(self) -> None:
        """Write the checkpoint, and then what is made from it for other programs. Raises OSError."""
        state = dict(
            iteration=self.iteration,
            train=dataclasses.asdict(self.config),
            model=dataclasses.asdict(self.model_config),
            vocabulary=self.vocabulary.characters,
            text_sha256=self.text_hash,
            environment=environment(self.config.device),
        )
        checkpoints.save(self.folder / checkpoints.FILE_NAME, checkpoints.Checkpoint(self.arrays(), state))
        self.export()

    def export(self) -> None:
        """Write model.safetensors and config.json as transformers reads them, and the vocabulary."""
        self.model.save_pretrained(self.folder)
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        config |= {"training": dataclasses.asdict(self.config), "environment": environment(self.config.device)}
        write_json(self.folder / "config.json", config)
        write_json(self.folder / "vocab.json", {c: token for token, c in enumerate(self.vocabulary.characters)})

    def arrays(self) -> dict[str, Tensor]:
        """Every Tensor that a resumed run needs, by the name that it has in the checkpoint."""
        arrays = {f"model.{name}": tensor for name, tensor in self.model.named_parameters()}
        for number, state in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
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
        self.iteration = checkpoint.state["iteration"]

    def finish(self) -> None:
        """Draw the losses, print a sample and what to do next."""
        entries = metrics.read(self.folder / metrics.FILE_NAME)
        self.plot(entries)
        evaluated = [entry for entry in entries if "val_loss" in entry]
        if evaluated:
            print(f"\nvalidation loss {evaluated[-1]['val_loss']:.4f} after {evaluated[-1]['iter']:,} iterations")
        if self.config.sample_tokens:
            print("\na sample of what it has learnt:\n")
            complete(self.model, self.vocabulary, self.prompt, self.config.sample_tokens, temperature=0.8, seed=1)
        print(
            f"\nfor more:\n  clgrad generate {shlex.quote(str(self.folder))} --prompt {shlex.quote(self.prompt)} "
            "--max-tokens 300 --temperature 0.8 --top-k 40 --top-p 0.95 --seed 1"
        )

    def plot(self, entries: list[dict[str, Any]]) -> None:
        title = f"GPT, {self.sizes()}, on {self.config.device}"
        if entries and not plot_losses(self.folder / "loss.png", entries, title):
            print("no loss.png: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)

    def sizes(self) -> str:
        sizes = self.model_config
        return f"{sizes.n_layer} layers, {sizes.n_head} heads, width {sizes.n_embd}, block {sizes.block_size}"

    def describe(self) -> Iterator[str]:
        length = len(self.training) + len(self.validation)
        yield f"text     {self.source}: {length:,} characters, {len(self.vocabulary)} different ones"
        yield f"model    GPT, {self.sizes()}, {self.model.num_parameters():,} parameters"
        yield f"device   {self.config.device}"
        yield f"run      {self.folder}, {self.config.max_iters:,} iterations"


def train(chosen: Settings) -> None:
    """Train into a new folder."""
    config = dataclasses.replace(chosen.train, device=choose_device(chosen.train.device))
    if config.data:
        config = dataclasses.replace(config, data=str(Path(config.data).absolute()))
    folder = free_folder(config)
    run = Run(folder, load_text(config.data), dataclasses.replace(config, out=str(folder)), chosen.model)
    make_folder(folder)
    follow(run, begin=run.save)


def resume(folder: Path, flags: Mapping[str, Any]) -> None:
    """Go on from the checkpoint in `folder`, with some of the trainer's fields changed by `flags`."""
    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}; start one with: clgrad train --out {folder}")
    checkpoint = checkpoints.load(folder / checkpoints.FILE_NAME)
    state = checkpoint.state
    recorded = state["train"] | state["model"]
    for name, value in flags.items():
        if (name in FIXED_ON_RESUME or name in state["model"]) and value != recorded[name]:
            raise UsageError(f"{name} is {recorded[name]!r} in {folder} and cannot change when it is resumed")
    chosen = settings(recorded | dict(flags))
    text = load_text(chosen.train.data)
    if text.sha256() != state["text_sha256"]:
        raise UsageError(f"the text ({text.source}) is not the one that {folder} was trained on; pass that with --data")
    config = dataclasses.replace(chosen.train, device=choose_device(chosen.train.device))
    run = Run(folder, text, config, chosen.model)
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


def model_config(options: Mapping[str, Any], vocab_size: int) -> GPTConfig:
    """The GPTConfig for a text with `vocab_size` characters. Raises UsageError."""
    if options.get("vocab_size", vocab_size) != vocab_size:
        raise UsageError(
            f"vocab_size is {options['vocab_size']}, and the text has {vocab_size} characters: leave it out"
        )
    try:
        return GPTConfig(**{**options, "vocab_size": vocab_size})
    except ValueError as error:
        raise UsageError(str(error)) from None


def parameter_groups(model: GPT, weight_decay: float) -> list[dict[str, Any]]:
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    nn.state.atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())
