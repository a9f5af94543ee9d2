"""Tokens a second: clgrad's devices and PyTorch with a hand-written cache, side by side.

    python benchmarks/generation.py --config nanogpt-cpu --devices NUMPY,CL --peers torch

Batch 1, greedy, 200 tokens after a prompt of one token, with a context of 256 (the models of train_step.py with that
block size), the choice of the token included. All have the same weights and must give the same tokens, or the run
fails. clgrad runs `clgrad.models.generate` with its cache of keys and values; PyTorch runs in inference mode on
preallocated keys and values, at one thread and at --threads. They take turns, one text each; a rate is the median.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from common import described, in_turns, median, names, table, use_threads, write_json
from train_step import CONFIGS

CONTEXT = 256
PROMPT = 1  # a token

# Writes so many tokens after the prompt.
Writer = Callable[[int], list[int]]


def clgrad_writer(device: str, sizes: dict[str, int], weights) -> Writer:
    """`generate` on `device`."""
    from clgrad.models import GPT, GPTConfig, generate

    model = GPT(GPTConfig(**sizes, dropout=0.0, bias=True)).to(device)
    model.load_state_dict(weights)
    return lambda count: list(generate(model, [PROMPT], count, temperature=0.0))


def torch_writer(sizes: dict[str, int], weights, threads: int) -> Writer:
    """The same model, one token at a time, with keys and values kept in place."""
    import torch
    from torch.nn import functional as F

    width, heads, context = sizes["n_embd"], sizes["n_head"], sizes["block_size"]
    w = {name.removeprefix("transformer."): torch.from_numpy(value.copy()) for name, value in weights.items()}
    w = {name: value.T.contiguous() if is_conv1d(name) else value for name, value in w.items()}
    layers = range(sizes["n_layer"])
    keys = [torch.zeros(1, heads, context, width // heads) for _ in layers]
    values = [torch.zeros(1, heads, context, width // heads) for _ in layers]

    def norm(x, name: str):
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x, name: str):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def next_token(token: int, position: int) -> int:
        x = w["wte.weight"][token] + w["wpe.weight"][position]  # (C)
        for i in layers:
            parts = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").view(3, 1, heads, 1, width // heads)
            keys[i][:, :, position : position + 1] = parts[1]
            values[i][:, :, position : position + 1] = parts[2]
            seen = slice(0, position + 1)
            y = F.scaled_dot_product_attention(parts[0], keys[i][:, :, seen], values[i][:, :, seen])  # (1, H, 1, D)
            x = x + linear(y.reshape(width), f"h.{i}.attn.c_proj")
            inner = F.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")  # (4 C)
            x = x + linear(inner, f"h.{i}.mlp.c_proj")
        return int(F.linear(norm(x, "ln_f"), w["wte.weight"]).argmax())  # the head is tied

    def write(count: int) -> list[int]:
        torch.set_num_threads(threads)
        token, text = PROMPT, []
        with torch.inference_mode():
            for position in range(count):
                token = next_token(token, position)
                text.append(token)
        return text

    return write


def is_conv1d(name: str) -> bool:
    """Whether GPT-2's checkpoints hold this weight as (in, out)."""
    return name.endswith(".weight") and any(f".{part}." in name for part in ("c_attn", "c_proj", "c_fc"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="nanogpt-cpu")
    parser.add_argument("--devices", default="NUMPY,CL", help="clgrad's devices, with commas between them")
    parser.add_argument("--peers", default="torch", help='"torch", or nothing: --peers ""')
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of each participant; torch runs with one thread too")
    parser.add_argument("--json", metavar="FILE", help="write all that was measured there too")
    options = parser.parse_args(arguments)
    if not 1 <= options.tokens <= CONTEXT:
        parser.error(f"--tokens must be 1 to {CONTEXT}, the context: what lies beyond is another benchmark")
    if set(names(options.peers)) - {"torch"}:
        parser.error(f"unknown peer {options.peers!r}; there is torch")
    use_threads(options.threads)
    import numpy as np

    from clgrad import Tensor
    from clgrad.models import GPT, GPTConfig

    sizes = {k: v for k, v in CONFIGS[options.config].items() if k != "batch"} | {"block_size": CONTEXT}
    Tensor.manual_seed(1)
    model = GPT(GPTConfig(**sizes, dropout=0.0, bias=True))
    weights = {name: np.array(value.numpy()) for name, value in model.state_dict().items()}
    writers: dict[str, Writer] = {d: clgrad_writer(d, sizes, weights) for d in names(options.devices)}
    if "torch" in names(options.peers):
        for threads in dict.fromkeys((options.threads, 1)):
            writers[f"torch, {threads} thread{'s' if threads > 1 else ''}"] = torch_writer(sizes, weights, threads)
    if not writers:
        parser.error("nothing to measure: name --devices or --peers")

    texts = {name: write(options.tokens) for name, write in writers.items()}  # builds and warms up
    (reference, text), *others = texts.items()
    for name, other in others:
        for i, (a, b) in enumerate(zip(text, other, strict=True)):
            if a != b:
                raise SystemExit(f"token {i} is {a} on {reference} and {b} on {name}")

    def turn(write: Writer) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            write(options.tokens)
            return options.tokens / (time.perf_counter() - start)

        return run

    rates = in_turns({name: turn(write) for name, write in writers.items()}, options.rounds)
    results = {name: {"tokens_a_second": median(r), "all": r} for name, r in rates.items()}
    best = max((median(r) for name, r in rates.items() if name.startswith("torch")), default=None)
    rows = []
    for name, r in rates.items():
        relative = f"{median(r) / best:.2f}" if best else None
        rows.append((name, f"{median(r):.0f}", f"{min(r):.0f} to {max(r):.0f}", relative))
    bytes_of_weights = sum(value.nbytes for name, value in weights.items() if "wpe" not in name)
    print(f"{options.config}, {options.tokens} tokens, context {CONTEXT}, batch 1, greedy; all gave the same tokens")
    print(table(("", "tokens/s", "range", "x best torch"), rows))
    print(f"a token has to read {bytes_of_weights / 1e6:.1f} MB of weights")
    report = {"config": options.config, "sizes": sizes, "tokens": text, "threads": options.threads}
    write_json(options.json, report | {"devices": described(names(options.devices)), "results": results})


if __name__ == "__main__":
    main()
