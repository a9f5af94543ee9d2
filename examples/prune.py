"""Magnitude pruning: what does it cost to leave out half of the weights?

    python examples/prune.py

The smaller half of every matrix becomes zero, then the rest is trained on for a while. A model that is trained on for
as long without pruning stands beside it.
"""

from __future__ import annotations

import argparse

from small import STEPS, adamw, base_model, fit, plain_step, read_text, validation_loss

from clgrad import Tensor, nn


def main(
    steps: int = STEPS, tuning: int = STEPS // 2, content: str | None = None, amount: float = 0.5, **sizes: int
) -> dict[str, float]:
    """Validation losses before pruning, after it, after fine-tuning, and of fine-tuning alone."""
    text = read_text(content)
    model = base_model(text, steps, **sizes)
    block = model.config.block_size
    results = {"before": validation_loss(model, text)}
    print(f"before      validation loss {results['before']:.4f}")

    masks = nn.prune.magnitude(model, amount, names=r"transformer\.h\.")
    results["pruned"] = validation_loss(model, text)
    print(
        f"pruned      validation loss {results['pruned']:.4f}, {masks.sparsity():.1%} of the blocks' weights are zero"
    )

    optimizer = adamw(model.train())
    plain = plain_step(model, optimizer)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = plain(x, y)
        masks.apply()
        return loss

    fit(step, optimizer, text, tuning, peak=1e-3, block=block, first=steps)
    results["tuned"] = validation_loss(model, text)
    results["sparsity"] = masks.sparsity()
    print(
        f"fine-tuned  validation loss {results['tuned']:.4f} ({results['tuned'] - results['before']:+.4f}), "
        f"{results['sparsity']:.1%} zero"
    )

    dense = base_model(text, steps, **sizes).train()
    optimizer = adamw(dense)
    fit(plain_step(dense, optimizer), optimizer, text, tuning, peak=1e-3, block=block, first=steps)
    results["dense"] = validation_loss(dense, text)
    print(f"unpruned    validation loss {results['dense']:.4f}, trained on for as long")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tuning", type=int, default=STEPS // 2)
    parser.add_argument("--amount", type=float, default=0.5)
    options = parser.parse_args()
    main(options.steps, options.tuning, amount=options.amount)
