"""LoRA: how much of fine-tuning do a few thin matrices do?

    python examples/lora.py

A small GPT has learnt Shakespeare and is fine-tuned on a little Shakespeare without capitals, 30,000 characters. All of
its weights are trained, or they are frozen and thin matrices beside them are trained.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from small import STEPS, adamw, base_model, fit, plain_step, read_text, validation_loss

from clgrad import nn

SIZES = dict(n_layer=2, n_embd=128)


def main(
    steps: int = STEPS, tuning: int = 150, content: str | None = None, rank: int = 2, **sizes: int
) -> dict[str, float]:
    """Validation losses before fine-tuning, after all of it, and after LoRA; the share that LoRA trained."""
    sizes = {**SIZES, **sizes}
    text = read_text(content)
    other = text.changed(str.lower)
    other.training = other.training[:30_000]
    base = base_model(text, steps, **sizes)
    block, total = base.config.block_size, base.num_parameters()
    results = {"before": validation_loss(base, other)}
    print(f"before   validation loss {results['before']:.4f} (with capitals {validation_loss(base, text):.4f})")

    optimizer = adamw(base)
    seconds = fit(plain_step(base.train(), optimizer), optimizer, other, tuning, peak=1e-3, block=block)
    results["full"] = validation_loss(base, other)
    print(f"all      validation loss {results['full']:.4f}, {total:,} parameters trained, {seconds:.0f} s")

    model = base_model(text, steps, **sizes).train()
    nn.lora.wrap(model, rank=rank, alpha=2 * rank)
    trained = sum(p.numel() for p in model.parameters())
    results["share"] = trained / (total + trained)
    optimizer = adamw(model, weight_decay=0.0)
    seconds = fit(plain_step(model, optimizer), optimizer, other, tuning, peak=1e-2, block=block)
    results["lora"] = validation_loss(model, other)
    print(
        f"LoRA     validation loss {results['lora']:.4f} ({results['lora'] - results['full']:+.4f}), "
        f"{trained:,} parameters trained ({results['share']:.2%}), {seconds:.0f} s"
    )

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "lora.safetensors")
        nn.state.safe_save(nn.lora.state_dict(model), file)
        print(f"saved    {file.stat().st_size:,} bytes")
    results["merged"] = validation_loss(nn.lora.merge(model), other)
    print(f"merged   validation loss {results['merged']:.4f}, a GPT like any other")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tuning", type=int, default=150)
    parser.add_argument("--rank", type=int, default=2)
    options = parser.parse_args()
    main(options.steps, options.tuning, rank=options.rank)
