"""Mixed precision: does a GPT learn as much in halves as in float32?

    python examples/precision.py

Three small GPTs with the same first weights and the same batches, trained in float32, in bfloat16 and in float16 with
dynamic loss scaling. Parameters and their updates are float32 in all of them; forward and backward are not.
"""

from __future__ import annotations

import argparse

from small import STEPS, Text, adamw, fit, plain_step, read_text, small_gpt, validation_loss

from clgrad import Tensor, nn
from clgrad.models import GPT
from clgrad.nn import functional as F


def half_loss(model: GPT, x: Tensor, y: Tensor, dtype: str) -> Tensor:
    with nn.amp.cast(model, dtype):
        logits, _ = model(x)  # (B, T, V) in a half
    return F.cross_entropy(logits.float().flatten(0, 1), y.flatten())


def train(dtype: str, text: Text, steps: int, **sizes: int) -> tuple[GPT, str]:
    """A trained model, and a remark."""
    model = small_gpt(text, **sizes)
    optimizer = adamw(model)
    scaler = nn.amp.GradScaler(growth_interval=200)

    def scaled_step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = half_loss(model, x, y, dtype)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    step = scaled_step
    if dtype == "float32":
        step = plain_step(model, optimizer)
    elif dtype == "bfloat16":
        step = plain_step(model, optimizer, lambda model, x, y: half_loss(model, x, y, dtype))
    seconds = fit(step, optimizer, text, steps, block=model.config.block_size)
    remark = f"{seconds:.0f} s"
    if dtype == "float16":
        skipped = steps - int(optimizer.param_groups[0].step.item())
        remark += f", loss scale {scaler.get_scale():,.0f} at the end, {skipped} steps left out"
    return model, remark


def main(steps: int = STEPS, content: str | None = None, **sizes: int) -> dict[str, float]:
    """Validation losses by dtype."""
    text, losses = read_text(content), {}
    for dtype in ("float32", "bfloat16", "float16"):
        model, remark = train(dtype, text, steps, **sizes)
        losses[dtype] = validation_loss(model, text)
        print(f"{dtype:9} validation loss {losses[dtype]:.4f} ({losses[dtype] - losses['float32']:+.4f})  {remark}")
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    main(parser.parse_args().steps)
