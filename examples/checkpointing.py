"""Gradient checkpointing: what the backward pass of 24 layers needs in memory.

    python examples/checkpointing.py

Without it every block keeps its activations until its gradient is computed. With `nn.checkpoint` a block keeps its
input alone, and computes the rest again when its gradient is there. The gradients are the same, dropout included.
`nn.utils.checkpoint_layers` does so for every block; `clgrad train --checkpointing` is the flag.
"""

from __future__ import annotations

import argparse
import gc
import time

import numpy as np
from small import read_text, small_gpt

from clgrad import Device, Tensor, jit, nn
from clgrad.models import GPT


def main(layers: int = 24, content: str | None = None, batch: int = 8, **sizes: int | float) -> dict[str, float]:
    """Bytes of activations without and with checkpoints, under jit and without it; the largest difference."""
    text, results = read_text(content), {}
    sizes = {"n_layer": layers, "n_embd": 32, "n_head": 2, "block_size": 64, "dropout": 0.1, **sizes}
    counters = Device[Device.DEFAULT].counters
    for mode in ("eager", "jit"):
        gradients = []
        for name in ("plain", "checkpointed"):
            model = small_gpt(text, **sizes)
            parameters = list(model.parameters())
            if name == "checkpointed":
                nn.utils.checkpoint_layers(model)
            x, y = text.batch(0, model.config.block_size, batch)
            Tensor.realize_all([x, y, *parameters])
            Tensor.manual_seed(2)  # the same elements are dropped

            def backward(x: Tensor, y: Tensor, model: GPT = model) -> Tensor:
                loss = model(x, y)[1]
                assert loss is not None
                loss.backward()
                return loss

            began = time.perf_counter()
            if mode == "jit":
                step = jit(lambda x, y, backward=backward: backward(x, y))
                step(x, y)
                needed = step.last.arena_bytes
            else:
                gc.collect()  # or what earlier work left behind would be freed while this is measured
                before = counters.peak_bytes = counters.live_bytes
                backward(x, y).item()  # the forward pass alone
                Tensor.realize_all(p.grad for p in parameters if p.grad is not None)
                needed = counters.peak_bytes - before - sum(p.nbytes() for p in parameters)  # less the gradients
            seconds = time.perf_counter() - began
            gradients.append([p.grad.numpy() for p in parameters if p.grad is not None])
            results[f"{mode} {name}"] = needed
            print(f"{mode:5} {name:12} {needed:12,} bytes of activations, {seconds:.1f} s with tracing")
        off = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(*gradients, strict=True))
        results[f"{mode} difference"] = off
        ratio = results[f"{mode} plain"] / results[f"{mode} checkpointed"]
        print(f"{mode:5} {ratio:.1f} times less, gradients within {off:.1e}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    main(parser.parse_args().layers)
