"""One training step of a GPT (forward, backward, clip, AdamW): clgrad's devices and torch eager, side by side.

    python benchmarks/train_step.py --config nanogpt-cpu --devices NUMPY,CL --peers torch --steps 60 --json out.json
    python benchmarks/train_step.py --config nanogpt-cpu --steps 0 --memory --first-step

All participants start from the same weights and see the same batches, and their losses must agree, or the run fails.
They take turns, a few steps at a time in one process, so that a busy machine slows all of them: read the ratios, not
the milliseconds. A step ends when its loss has been read. torch runs eagerly, with its own attention kernel and its
default (multi-tensor) AdamW. `floor` is what the step would take if all of it were products at the best rate that
NumPy's BLAS reached in the same run.

`--memory` and `--first-step` run each participant in a process of its own, OpenCL ones first with empty caches (of
clgrad, pyopencl and the runtime) and then with what the first one left there. The peak is of resident memory, all
libraries included; the first loss counts from the start of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from common import described, matmul_timers, names, settle, table, use_threads, write_json

CONFIGS: dict[str, dict[str, int]] = {
    "nanogpt-cpu": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch": 12, "vocab_size": 65},
    "nanogpt-b": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch": 16, "vocab_size": 65},
    "tiny": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch": 2, "vocab_size": 11},
}
OPTIMIZER: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
CLIP = 1.0
BURST = 5  # steps in one turn
STEPS_ALONE = 5  # in a process of one's own: the peak is reached by then

# A participant's step: (tokens, targets), both (B, T) int32 -> the loss.
Step = Callable[[Any, Any], float]


def training_step(model):
    """A function of tokens and targets, two Tensors (B, T), that trains `model` by one step: the loss."""
    from clgrad import nn

    optimizer = nn.optim.AdamW(model.parameters(), **OPTIMIZER)

    def step(x, y):
        optimizer.zero_grad()
        _, loss = model(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss

    return step


def clgrad_step(device: str, sizes: dict[str, int], weights) -> Step:
    """A jitted training step on `device`. Without `weights` they are drawn."""
    from clgrad import Tensor, jit
    from clgrad.models import GPT, GPTConfig

    model = GPT(GPTConfig(**{k: v for k, v in sizes.items() if k != "batch"}, dropout=0.0, bias=True)).to(device)
    if weights is not None:
        model.load_state_dict(weights)
    step = jit(training_step(model))
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
    for name, value in (weights or {}).items():
        if name.startswith("transformer."):
            transposed = name.endswith(".weight") and any(f".{part}." in name for part in ("c_attn", "c_proj", "c_fc"))
            state[name.removeprefix("transformer.")] = torch.from_numpy(value.T.copy() if transposed else value.copy())
    if weights is not None:
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
    last = None
    for start in range(0, len(batches), BURST):
        for name, step in participants.items():
            settle(last, name)
            last = name
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


def flops(sizes: dict[str, int]) -> int:
    """Of the products of one step: twice each multiply and add, forward and for both gradients."""
    width, tokens = sizes["n_embd"], sizes["batch"] * sizes["block_size"]
    weights = sizes["n_layer"] * 12 * width**2 + sizes["vocab_size"] * width
    attention = sizes["n_layer"] * 2 * sizes["block_size"] * width  # a token: scores and values, the hidden half too
    return 6 * tokens * (weights + attention)


def batches_of(sizes: dict[str, int], count: int) -> list[tuple[Any, Any]]:
    """Random tokens and their successors, both (B, T) int32."""
    import numpy as np

    shape = (count, sizes["batch"], sizes["block_size"] + 1)
    tokens = np.random.default_rng(1).integers(0, sizes["vocab_size"], shape, np.int32)
    return [(np.ascontiguousarray(t[:, :-1]), np.ascontiguousarray(t[:, 1:])) for t in tokens]


# --- a process of one's own ------------------------------------------------------------------------------------------


def participate(name: str, sizes: dict[str, int], threads: int) -> None:
    """What the process of one participant does: says its losses as it has them, then what it took."""
    if name == "torch":
        step = torch_step(sizes, None, threads)
    else:
        from clgrad import Device, Tensor

        Device.DEFAULT = name
        Tensor.manual_seed(1)
        step = clgrad_step(name, sizes, None)
    for x, y in batches_of(sizes, STEPS_ALONE):
        print(step(x, y), flush=True)
    took: dict[str, Any] = {"peak_resident_bytes": peak_resident()}
    if name != "torch":
        took["peak_device_bytes"] = Device[name].counters.peak_bytes
    print(json.dumps(took), flush=True)


def peak_resident() -> int:
    """The most memory that this process has had resident, in bytes."""
    try:  # getrusage would count the parent's, from before this program was loaded
        status = Path("/proc/self/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def alone(name: str, options: argparse.Namespace, cache: Optional[str]) -> dict[str, Any]:
    """Run one participant in its own process, with all OpenCL caches in the folder `cache`."""
    variables = dict(os.environ)
    if cache is not None:
        variables |= {"XDG_CACHE_HOME": cache, "POCL_CACHE_DIR": os.path.join(cache, "pocl")}
        os.makedirs(variables["POCL_CACHE_DIR"], exist_ok=True)
    command = [sys.executable, __file__, "--alone", name, "--config", options.config, "--threads", str(options.threads)]
    start = time.perf_counter()
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        losses = [process.stdout.readline()]
        first = time.perf_counter() - start
        *more, last = process.stdout.read().splitlines() or [""]
    if process.returncode:
        raise SystemExit(f"{name} alone: its process ended with {process.returncode}")
    return {"first_loss_s": first, "losses": [float(x) for x in losses + more], **json.loads(last)}


def all_alone(participants: list[str], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each participant by itself; OpenCL devices with empty caches, then with full ones."""
    results = {}
    for name in participants:
        if not name.upper().startswith("CL"):
            results[name] = alone(name, options, None)
            continue
        with tempfile.TemporaryDirectory() as cache:
            results[f"{name}, empty cache"] = alone(name, options, cache)
            results[f"{name}, warm cache"] = alone(name, options, cache)
    return results


def alone_table(results: dict[str, dict[str, Any]], memory: bool, first_step: bool) -> str:
    header = ["alone"] + ["first loss s"] * first_step + ["peak resident MB", "peak device MB"] * memory
    rows = []
    for name, result in results.items():
        device = result.get("peak_device_bytes")
        row = [name] + [f"{result['first_loss_s']:.2f}"] * first_step
        if memory:
            row += [f"{result['peak_resident_bytes'] / 1e6:.0f}", None if device is None else f"{device / 1e6:.1f}"]
        rows.append(row)
    return table(header, rows)


# --- all together ----------------------------------------------------------------------------------------------------


def compare(options: argparse.Namespace, devices: list[str]) -> dict[str, Any]:
    """The interleaved run: what was measured of each participant, and the floor. Prints a table."""
    import copy

    import numpy as np

    from clgrad import Device, Tensor
    from clgrad.models import GPT, GPTConfig

    sizes = CONFIGS[options.config]
    Tensor.manual_seed(1)
    model = GPT(GPTConfig(**{k: v for k, v in sizes.items() if k != "batch"}, dropout=0.0, bias=True))
    weights = {name: np.array(value.numpy()) for name, value in model.state_dict().items()}
    participants: dict[str, Step] = {name: clgrad_step(name, sizes, weights) for name in devices}
    if options.peers:
        participants["torch"] = torch_step(sizes, weights, options.threads)
    rates = [count / min(turn() for _ in range(5)) for _, count, turn in matmul_timers(0.01)]
    results = measure(
        participants,
        batches_of(sizes, options.steps),
        lambda name: copy.copy(Device[name].counters) if name in devices else None,
    )
    rates += [count / min(turn() for _ in range(5)) for _, count, turn in matmul_timers(0.01)]
    check_losses(results)

    rows = []
    for name, result in results.items():
        if "torch" in results:
            result["ratio_to_torch"] = result["median_ms"] / results["torch"]["median_ms"]
        ratio = f"{result['ratio_to_torch']:.2f}" if "ratio_to_torch" in result else None
        peak = f"{result['peak_bytes'] / 1e6:.1f}" if "peak_bytes" in result else None
        first = f"{result['first_step_ms'] / 1e3:.2f}"
        rows.append((name, f"{result['median_ms']:.2f}", ratio, first, result.get("kernels"), peak))
    floor = {"flops": flops(sizes), "gflops": max(rates) / 1e9, "ms": 1e3 * flops(sizes) / max(rates)}
    rows.append(("floor", f"{floor['ms']:.2f}", None, None, None, None))
    print(f"{options.config}, {options.steps} steps in turns of {BURST}, {options.threads} threads; the losses agree")
    print(table(("", "median ms", "/ torch", "first s", "kernels", "peak device MB"), rows))
    print(f"floor: {floor['flops'] / 1e9:.2f} GFLOP at {floor['gflops']:.1f} GFLOP/s, the best of BLAS in this run")
    return {"results": results, "floor": floor}


def main(arguments: Optional[list[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="nanogpt-cpu")
    parser.add_argument("--devices", default="NUMPY,CL", help="clgrad's devices, with commas between them")
    parser.add_argument("--peers", default="torch", help='"torch", or nothing: --peers ""')
    parser.add_argument("--steps", type=int, default=60, help="of the interleaved run; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=2, help="of each participant")
    parser.add_argument("--memory", action="store_true", help="also peak memory, each in a process of its own")
    parser.add_argument("--first-step", action="store_true", help="also the time from process start to first loss")
    parser.add_argument("--json", metavar="FILE", help="write all that was measured there too")
    parser.add_argument("--alone", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    if options.alone:
        participate(options.alone, CONFIGS[options.config], options.threads)
        return
    alone_too = options.memory or options.first_step
    if options.steps < 2 and not (options.steps == 0 and alone_too):
        parser.error("--steps must be at least 2: the first builds kernels and is not counted")
    if options.peers not in ("", "torch"):
        parser.error(f"unknown peer {options.peers!r}; there is torch")
    devices = names(options.devices)
    if not devices and not options.peers:
        parser.error("nothing to measure: name --devices or --peers")

    report: dict[str, Any] = {"config": options.config, "sizes": CONFIGS[options.config]}
    report |= {"threads": options.threads, "steps": options.steps}
    if alone_too:  # before anything else is loaded here
        report["alone"] = all_alone(devices + names(options.peers), options)
        print(alone_table(report["alone"], options.memory, options.first_step))
    if options.steps:
        report |= compare(options, devices)
    write_json(options.json, report | {"devices": described(devices)})


if __name__ == "__main__":
    main()
