"""Gradient accumulation: the gradients of a large batch from small ones.

    python examples/accumulate.py

`backward()` adds to `.grad`, so the gradients of k batches, each with its loss divided by k, are those of one batch k
times as large. Memory is needed for the small one only; what the engine uses is printed.
"""

from __future__ import annotations

import argparse

import numpy as np
from small import BATCH, language_loss, read_text, small_gpt

from clgrad import Device, Tensor, jit


def main(parts: int = 4, content: str | None = None, **sizes: int) -> dict[str, float]:
    """How far the gradients are from those of the large batch, relative to them; bytes of intermediate values."""
    text = read_text(content)
    model = small_gpt(text, **sizes)
    parameters = list(model.parameters())

    @jit
    def backward(x: Tensor, y: Tensor, share: float) -> Tensor:
        loss = language_loss(model, x, y) * share
        loss.backward()
        return loss

    x, y = text.batch(0, model.config.block_size, size=parts * BATCH)
    results, gradients = {}, []
    for count in (1, parts):
        model.zero_grad()
        size = len(y) // count
        losses = [
            backward(x[start : start + size], y[start : start + size], 1 / count).item()
            for start in range(0, len(y), size)
        ]
        gradients.append(np.concatenate([p.grad.numpy().ravel() for p in parameters if p.grad is not None]))
        needed = backward.last.arena_bytes
        results[f"bytes of {count}"] = needed
        print(f"{count} x {size:3} sequences: loss {sum(losses):.6f}, {needed:,} bytes of intermediate values")
    large, small = gradients
    results["difference"] = float(np.linalg.norm(small - large) / np.linalg.norm(large))
    print(f"the gradients differ by {results['difference']:.1e} of their norm on {Device.DEFAULT}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, default=4)
    main(parser.parse_args().parts)
