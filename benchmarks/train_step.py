"""One training step of a GPT (forward, backward, clip, AdamW): clgrad's devices and torch eager, side by side.

    python benchmarks/train_step.py --config nanogpt-cpu --devices NUMPY,CL --peers torch --steps 60 --json out.json

All participants start from the same weights and see the same batches, and their losses must agree, or the run fails.
They take turns, a few steps at a time in one process, so that a busy machine slows all of them: read the ratios, not
the milliseconds. A step ends when its loss has been read. torch runs eagerly, with its own attention kernel and its
default (multi-tensor) AdamW.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Only the installed package will do: this folder's parent holds the front door alone.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent.parent]

CONFIGS: dict[str, dict[str, int]] = {
    "nanogpt-cpu": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch": 12, "vocab_size": 65},
    "nanogpt-b": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch": 16, "vocab_size": 65},
    "tiny": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch": 2, "vocab_size": 11},
}
OPTIMIZER: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
CLIP = 1.0
BURST = 5  # steps in one turn

# A participant's step: (tokens, targets), both (B, T) int32 -> the loss.
Step = Callable[[Any, Any], float]


def clgrad_step(device: str, sizes: dict[str, int], weights) -> Step:
    """A jitted training step on `device`."""
    from clgrad import Tensor, jit, nn
    from clgrad.models import GPT, GPTConfig

    model = GPT(GPTConfig(**{k: v for k, v in sizes.items() if k != "batch"}, dropout=0.0, bias=True)).to(device)
    model.load_state_dict(weights)
    optimizer = nn.optim.AdamW(model.parameters(), **OPTIMIZER)

    @jit
    def step(x, y):
        optimizer.zero_grad()
        _, loss = model(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss

    return lambda x, y: step(Tensor(x, device=device), Tensor(y, device=device)).item()


def torch_step(sizes: dict[str, int], weights, threads: int) -> Step:
    """The same step in PyTorch, on the CPU."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    width, heads = sizes["n_embd"], sizes["n_head"]

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x):
            B, T, C = x.shape
            q, k, v = (t.view(B, T, heads, C // heads).transpose(1, 2) for t in self.c_attn(x).split(C, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
            return self.c_proj(y.transpose(1, 2).reshape(B, T, C))

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.attn, self.ln_2, self.mlp = nn.LayerNorm(width), Attention(), nn.LayerNorm(width), MLP()

        def forward(self, x):
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(sizes["vocab_size"], width)
            self.wpe = nn.Embedding(sizes["block_size"], width)
            self.h = nn.ModuleList(Block() for _ in range(sizes["n_layer"]))
            self.ln_f = nn.LayerNorm(width)

        def forward(self, tokens):
            x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
            for block in self.h:
                x = block(x)
            return self.ln_f(x) @ self.wte.weight.T  # (B, T, V): the head is tied

    model = Transformer()
    state = {}
    for name, value in weights.items():
        if name.startswith("transformer."):
            transposed = name.endswith(".weight") and any(f".{part}." in name for part in ("c_attn", "c_proj", "c_fc"))
            state[name.removeprefix("transformer.")] = torch.from_numpy(value.T.copy() if transposed else value.copy())
    model.load_state_dict(state)
    optimizer = torch.optim.AdamW(model.parameters(), **OPTIMIZER)

    def step(x, y) -> float:
        optimizer.zero_grad()
        logits = model(torch.from_numpy(x).long())
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), torch.from_numpy(y).long().view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return step


def measure(participants: dict[str, Step], batches, counters) -> dict[str, dict[str, Any]]:
    """Every participant over all batches, in turns of BURST steps: losses, milliseconds, and kernels of a last step."""
    results: dict[str, dict[str, Any]] = {name: {"losses": [], "step_ms": []} for name in participants}
    for start in range(0, len(batches), BURST):
        for name, step in participants.items():
            for x, y in batches[start : start + BURST]:
                before, began = counters(name), time.perf_counter()
                results[name]["losses"].append(step(x, y))
                results[name]["step_ms"].append(1e3 * (time.perf_counter() - began))
                if before is not None:
                    results[name]["kernels"] = counters(name).kernels - before.kernels
    for name, result in results.items():
        result["first_step_ms"], *rest = result["step_ms"]
        result["median_ms"] = statistics.median(rest)
        if counters(name) is not None:
            result["peak_bytes"] = counters(name).peak_bytes
    return results


def check_losses(results: dict[str, dict[str, Any]]) -> None:
    """Raise SystemExit if the participants did not compute the same: to 1e-3 for 20 steps, to 1e-2 after."""
    (reference, first), *others = results.items()
    for name, result in others:
        for i, (a, b) in enumerate(zip(first["losses"], result["losses"], strict=True)):
            if not abs(a - b) <= (1e-3 if i < 20 else 1e-2):
                raise SystemExit(f"step {i}: the loss is {a:.6f} on {reference} and {b:.6f} on {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="nanogpt-cpu")
    parser.add_argument("--devices", default="NUMPY,CL", help="clgrad's devices, with commas between them")
    parser.add_argument("--peers", default="torch", help='"torch", or nothing: --peers ""')
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2, help="of each participant")
    parser.add_argument("--json", metavar="FILE", help="write all that was measured there too")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps must be at least 2: the first builds kernels and is not counted")
    if options.peers not in ("", "torch"):
        parser.error(f"unknown peer {options.peers!r}; there is torch")

    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "POCL_MAX_PTHREAD_COUNT"):
        os.environ.setdefault(variable, str(options.threads))  # read when the libraries below are first loaded
    import copy

    import numpy as np

    from clgrad import Device, Tensor
    from clgrad.models import GPT, GPTConfig

    sizes = CONFIGS[options.config]
    Tensor.manual_seed(1)
    model = GPT(GPTConfig(**{k: v for k, v in sizes.items() if k != "batch"}, dropout=0.0, bias=True))
    weights = {name: np.array(value.numpy()) for name, value in model.state_dict().items()}
    tokens = np.random.default_rng(1).integers(
        0, sizes["vocab_size"], (options.steps, sizes["batch"], sizes["block_size"] + 1), np.int32
    )
    batches = [(np.ascontiguousarray(t[:, :-1]), np.ascontiguousarray(t[:, 1:])) for t in tokens]

    devices = [name for name in options.devices.split(",") if name]
    participants: dict[str, Step] = {name: clgrad_step(name, sizes, weights) for name in devices}
    if options.peers:
        participants["torch"] = torch_step(sizes, weights, options.threads)
    if not participants:
        parser.error("nothing to measure: name --devices or --peers")
    results = measure(participants, batches, lambda name: copy.copy(Device[name].counters) if name in devices else None)
    check_losses(results)

    print(f"{options.config}, {options.steps} steps in turns of {BURST}, {options.threads} threads; the losses agree")
    print(f"{'':8}{'median ms':>10}{'/ torch':>9}{'first s':>9}{'kernels':>9}{'peak MB':>9}")
    for name, result in results.items():
        if "torch" in results:
            result["ratio_to_torch"] = result["median_ms"] / results["torch"]["median_ms"]
        ratio = f"{result['ratio_to_torch']:.2f}" if "ratio_to_torch" in result else "-"
        peak = f"{result['peak_bytes'] / 1e6:.1f}" if "peak_bytes" in result else "-"
        first = result["first_step_ms"] / 1e3
        print(f"{name:8}{result['median_ms']:10.2f}{ratio:>9}{first:9.2f}{result.get('kernels', '-'):>9}{peak:>9}")
    if options.json:
        described = {name: Device[name].describe().description for name in devices}
        report = {"config": options.config, "sizes": sizes, "threads": options.threads, "steps": options.steps}
        Path(options.json).write_text(json.dumps(report | {"devices": described, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
