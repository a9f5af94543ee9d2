"""Each kernel against its limit: time, share of what the machine can do, ratio to PyTorch.

    python benchmarks/kernels.py --config nanogpt-cpu --devices NUMPY,CL --peers torch --only 'dot|softmax'

The cases are those of one training step of a configuration: all products, forward and for both gradients, as the
operands lie in memory (transposed or not); attention, softmax, layer norm, GELU, cross-entropy, the embedding, each
forward and forward with gradient; and AdamW over all parameters.

A case is a jitted function of values in memory that writes into the same memory each time. Its time is that of its
kernels alone: on OpenCL by the device's own clock, on NumPy around the calls; `host us` is what a call takes beyond
that, from Python to the device and back. Results are compared with PyTorch's before anything is timed. Participants
take turns; every number is the median of all rounds.

`limit` is, for products and attention, the best GFLOP/s that NumPy's BLAS reached in this run on any case; for the
others the bandwidth of a copy with as many bytes in all, measured in the same turns with one and with all threads.
`share` is how much of that limit a case reaches. Bytes are what must be read and written once, whatever the caches do;
a forward pass with its gradient reads its input twice.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple, Optional

from common import copier, described, in_turns, median, names, seconds, table, timer, use_threads, write_json
from train_step import CONFIGS, OPTIMIZER

Arrays = dict[str, Any]
# Calls of which the kernels are timed together: as many as take IN_A_ROW_SECONDS, within these limits.
IN_A_ROW, IN_A_ROW_SECONDS = (4, 64), 0.03


class Case(NamedTuple):
    """`ours` and `theirs` get the inputs as a dictionary of Tensors and give a list of results; `wants` names the
    inputs whose gradients are taken. `flops` is 0 where memory is the limit. `blas` (a, b): a product of NumPy."""

    name: str
    inputs: Arrays
    ours: Callable[[dict[str, Any]], list[Any]]
    theirs: Callable[[dict[str, Any]], list[Any]]
    nbytes: int
    flops: int = 0
    wants: tuple[str, ...] = ()
    blas: Optional[tuple[Any, Any]] = None
    tolerance: float = 1e-3
    in_place: bool = False  # the results are what `wants` names


# --- the cases -------------------------------------------------------------------------------------------------------


def products(sizes: dict[str, int], rng) -> list[Case]:
    """Every plain product of a training step: (M, N) = (M, K) (K, N), with operands transposed where they lie so."""
    rows, width, vocabulary = sizes["batch"] * sizes["block_size"], sizes["n_embd"], sizes["vocab_size"]
    layers = [
        ("qkv", width, 3 * width),
        ("proj", width, width),
        ("fc", width, 4 * width),
        ("fc proj", 4 * width, width),
    ]
    wanted = []
    for name, fan_in, fan_out in layers:
        wanted += [
            (f"{name} forward", "nn", rows, fan_out, fan_in),
            (f"{name} input gradient", "nt", rows, fan_in, fan_out),
            (f"{name} weight gradient", "tn", fan_in, fan_out, rows),
        ]
    wanted += [
        ("head forward", "nt", rows, vocabulary, width),
        ("head input gradient", "nn", rows, width, vocabulary),
        ("head weight gradient", "tn", vocabulary, width, rows),
    ]
    return [_product(f"dot {name} {kind} {M}x{K} {K}x{N}", kind, (), M, N, K, rng) for name, kind, M, N, K in wanted]


def batched_products(sizes: dict[str, int], rng) -> list[Case]:
    """Those of attention if it is not one kernel: operands of one head lie (B, T, H, D), probabilities (B, H, T, T)."""
    B, H, T, D = heads(sizes)
    return [
        _product(f"dot batched {name} {kind} {B}x{H}x{M}x{K} {K}x{N}", kind, (B, H), M, N, K, rng, swapped)
        for name, kind, M, N, K, swapped in (
            ("scores", "nt", T, T, D, "ab"),
            ("values", "nn", T, D, T, "b"),
            ("value gradient", "tn", T, D, T, "b"),
        )
    ]


def _product(name: str, kind: str, batch: tuple[int, ...], M: int, N: int, K: int, rng, swapped: str = "") -> Case:
    """`kind` n or t for each operand: whether it lies transposed. In `swapped` ones the head axis lies behind rows."""
    shapes = {"a": (M, K) if kind[0] == "n" else (K, M), "b": (K, N) if kind[1] == "n" else (N, K)}
    inputs = {}
    for operand, (rows, columns) in shapes.items():
        shape = (*batch[:-1], rows, *batch[-1:], columns) if operand in swapped else (*batch, rows, columns)
        inputs[operand] = rng.standard_normal(shape, dtype="float32")

    def seen(x, operand: str, exchange: Callable[[Any, int, int], Any]):
        if operand in swapped:
            x = exchange(x, -3, -2)
        return exchange(x, -1, -2) if kind["ab".index(operand)] == "t" else x

    def multiply(t, exchange):
        return [seen(t["a"], "a", exchange) @ seen(t["b"], "b", exchange)]

    import numpy as np

    blas = (seen(inputs["a"], "a", np.swapaxes), seen(inputs["b"], "b", np.swapaxes))
    transpose = lambda x, a, b: x.transpose(a, b)  # noqa: E731 (both libraries call it so)
    ours = theirs = lambda t: multiply(t, transpose)
    elements = prod(batch) * (M * K + K * N + M * N)
    return Case(name, inputs, ours, theirs, 4 * elements, 2 * prod(batch) * M * N * K, blas=blas, tolerance=1e-4 * K)


def heads(sizes: dict[str, int]) -> tuple[int, int, int, int]:
    """(B, H, T, D) of the attention of a configuration."""
    return sizes["batch"], sizes["n_head"], sizes["block_size"], sizes["n_embd"] // sizes["n_head"]


def attention(sizes: dict[str, int], rng) -> list[Case]:
    """Causal; FLOPs are of the pairs that causality leaves, and of recomputing the scores for the gradient."""
    B, H, T, D = heads(sizes)
    inputs = {n: rng.standard_normal((B, T, H, D), dtype="float32") for n in ("q", "k", "v", "g")}

    def ours(t):
        q, k, v = (t[n].transpose(1, 2) for n in "qkv")
        return q.scaled_dot_product_attention(k, v, is_causal=True).transpose(1, 2)  # (B, T, H, D), as models go on

    def theirs(t):
        import torch.nn.functional as F

        q, k, v = (t[n].transpose(1, 2) for n in "qkv")
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    size, pairs = 4 * B * H * T * D, B * H * T * (T + 1) // 2
    shape = f"{B}x{H}x{T}x{D}"
    return both(
        f"attention {{}} {shape}", inputs, ours, theirs, "qkv", 4 * size, 10 * size, 4 * pairs * D, 14 * pairs * D
    )


def both(
    name: str,
    inputs: Arrays,
    ours: Callable,
    theirs: Callable,
    wants: str | tuple[str, ...],
    forward_bytes: int,
    gradient_bytes: int,
    forward_flops: int = 0,
    gradient_flops: int = 0,
) -> list[Case]:
    """Forward alone, and forward with the gradient for `wants`, given that of the result as input "g", or of a loss."""

    def ours_gradient(t):
        return ours(t).gradient(*(t[w] for w in wants), gradient=t.get("g"))

    def theirs_gradient(t):
        import torch

        return list(torch.autograd.grad(theirs(t), [t[w] for w in wants], t.get("g")))

    return [
        Case(
            name.format("forward"), inputs, lambda t: [ours(t).detach()], lambda t: [theirs(t).detach()],
            forward_bytes, forward_flops,
        ),
        Case(
            name.format("with gradient"), inputs, ours_gradient, theirs_gradient,
            gradient_bytes, gradient_flops, tuple(wants),
        ),
    ]  # fmt: skip


def memory_bound(sizes: dict[str, int], rng) -> list[Case]:
    """Softmax, layer norm, GELU, cross-entropy, and the embedding, at the shapes of a configuration."""
    from clgrad.nn import functional as F

    def torch_functional():
        import torch.nn.functional as F

        return F

    B, H, T, D = heads(sizes)
    rows, width, vocabulary = B * T, H * D, sizes["vocab_size"]

    def normal(*shape):
        return rng.standard_normal(shape, dtype="float32")

    scores, features, inner, logits = 4 * B * H * T * T, 4 * rows * width, 16 * rows * width, 4 * rows * vocabulary
    x = {"x": normal(B * H * T, T), "g": normal(B * H * T, T)}
    cases = both(
        f"softmax {{}} {B * H * T}x{T}", x,
        lambda t: t["x"].softmax(-1), lambda t: t["x"].softmax(-1),
        "x", 2 * scores, 4 * scores,
    )  # fmt: skip
    x = {"x": normal(rows, width), "g": normal(rows, width), "w": normal(width), "b": normal(width)}
    cases += both(
        f"layer norm {{}} {rows}x{width}", x,
        lambda t: F.layer_norm(t["x"], (width,), t["w"], t["b"]),
        lambda t: torch_functional().layer_norm(t["x"], (width,), t["w"], t["b"]),
        "xwb", 2 * features, 4 * features,
    )  # fmt: skip
    x = {"x": normal(rows, 4 * width), "g": normal(rows, 4 * width)}
    cases += both(
        f"gelu {{}} {rows}x{4 * width}", x,
        lambda t: F.gelu(t["x"], "tanh"), lambda t: torch_functional().gelu(t["x"], approximate="tanh"),
        "x", 2 * inner, 3 * inner,
    )  # fmt: skip
    target = rng.integers(0, vocabulary, rows)
    x = {"x": normal(rows, vocabulary), "target": target}
    cases += both(
        f"cross-entropy {{}} {rows}x{vocabulary}", x,
        lambda t: F.cross_entropy(t["x"], t["target"]),
        lambda t: torch_functional().cross_entropy(t["x"], t["target"]),
        "x", logits, 3 * logits,
    )  # fmt: skip
    x = {"w": normal(vocabulary, width), "index": target, "g": normal(rows, width)}
    table_bytes = 4 * vocabulary * width
    cases += both(
        f"embedding {{}} {rows} of {vocabulary}x{width}", x,
        lambda t: F.embedding(t["index"], t["w"]),
        lambda t: torch_functional().embedding(t["index"], t["w"]),
        "w", features + table_bytes, features + table_bytes,
    )  # fmt: skip
    return cases


def optimizer(sizes: dict[str, int], rng) -> list[Case]:
    """AdamW over all parameters: reads them, their gradients and both moments, and writes all but the gradients."""
    from clgrad.models import GPT, GPTConfig

    model = GPT(GPTConfig(**{k: v for k, v in sizes.items() if k != "batch"}, dropout=0.0, bias=True))
    shapes = [p.shape for p in model.parameters()]
    inputs = {f"p{i}": rng.standard_normal(shape, dtype="float32") for i, shape in enumerate(shapes)}
    inputs |= {f"g{i}": rng.standard_normal(shape, dtype="float32") for i, shape in enumerate(shapes)}
    parameters = [f"p{i}" for i in range(len(shapes))]

    def stepper(make: Callable[[list], Any]) -> Callable:
        def step(t):
            if "optimizer" not in t:
                for i, p in enumerate(parameters):
                    t[p].grad = t[f"g{i}"]
                t["optimizer"] = make([t[p] for p in parameters])
            t["optimizer"].step()
            return []

        return step

    def ours(params):
        from clgrad import nn

        return nn.optim.AdamW(params, **OPTIMIZER)

    def theirs(params):
        import torch

        return torch.optim.AdamW(params, **OPTIMIZER)

    count = sum(prod(shape) for shape in shapes)
    name = f"adamw {count:,} parameters in {len(shapes)}"
    return [Case(name, inputs, stepper(ours), stepper(theirs), 28 * count, wants=tuple(parameters), in_place=True)]


GROUPS = (products, batched_products, attention, memory_bound, optimizer)


# --- one case --------------------------------------------------------------------------------------------------------


class Ours:
    """A case on one of clgrad's devices."""

    def __init__(self, case: Case, device: str):
        import numpy as np

        from clgrad import Device, Tensor, jit

        self.backend = Device[device]
        self.inputs = {
            name: Tensor(
                a if a.dtype == np.float32 else a.astype(np.int32), device=device, requires_grad=name in case.wants
            )
            for name, a in case.inputs.items()
        }
        results = [] if case.in_place else case.ours(self.inputs)
        self.outputs = [Tensor(np.zeros(r.shape, np.float32), device=device) for r in results]

        @jit
        def run():  # into the same memory each time, as values inside a training step are
            for output, result in zip(self.outputs, case.ours(self.inputs), strict=True):
                output.assign(result)

        self.run = run

    def results(self, case: Case) -> list[Any]:
        self.run()
        state = [self.inputs[name] for name in case.wants] if case.in_place else self.outputs
        return [t.numpy() for t in state]

    def call(self) -> None:
        self.run()
        self.backend.synchronize()

    def kernel_seconds(self) -> float:
        """The time of the kernels alone in one call, of many in a row as in a training step: of their second half.

        The first find the device's threads asleep, or woken up on one core, from which it takes the system some
        milliseconds to move them.
        """
        from clgrad.engine import profile

        least, most = IN_A_ROW
        calls = min(max(least, round(IN_A_ROW_SECONDS / seconds(self.call))), most)
        with profile.recording() as log:
            for _ in range(calls):
                self.run()
            launches = log.finished()
        self.kernels = len(launches) // calls
        counted = launches[self.kernels * (calls // 2) :]
        return sum(launch.end - launch.start for launch in counted) * 1e-9 / (calls - calls // 2)


class Theirs:
    """A case in PyTorch."""

    def __init__(self, case: Case):
        import torch

        self.case = case
        self.inputs = {name: torch.from_numpy(a.copy()) for name, a in case.inputs.items()}
        for name in case.wants:
            self.inputs[name].requires_grad_()

    def results(self, case: Case) -> list[Any]:
        found = self.run()
        return [t.detach().numpy() for t in found or [self.inputs[name] for name in case.wants]]

    def run(self) -> list[Any]:
        return self.case.theirs(self.inputs)


def check(case: Case, device: str, mine: list[Any], expected: list[Any]) -> None:
    """Raise SystemExit if clgrad and PyTorch disagree by more than rounding."""
    import numpy as np

    for a, b in zip(mine, expected, strict=True):
        worst = float(np.abs(a - b).max()) if a.size else 0.0
        if not worst <= case.tolerance * max(1.0, float(np.abs(b).max())):
            raise SystemExit(f"{case.name}: {device} and torch differ by up to {worst:.2g}")


def measure(
    case: Case, devices: list[str], peers: list[str], threads: int, rounds: int, least: float
) -> dict[str, Any]:
    """Medians of one case, in seconds: of each participant, of each device's whole call, and of the limits."""
    import numpy as np

    ours = {device: Ours(case, device) for device in devices}
    turns: dict[str, Callable[[], float]] = {}
    if not case.flops:
        for n in dict.fromkeys((1, threads)):
            turns[f"copy {n}"] = timer(copier(case.nbytes, n), least)
    expected = None
    if "torch" in peers:
        torch_case = Theirs(case)
        expected = [e.copy() for e in torch_case.results(case)]
        turns["torch"] = timer(torch_case.run, least)
    if case.blas is not None:
        a, b = case.blas
        out = np.empty((*a.shape[:-1], b.shape[-1]), np.float32)
        turns["blas"] = timer(lambda: np.matmul(a, b, out=out), least)
    for device, one in ours.items():
        if expected is not None:
            check(case, device, one.results(case), expected)
        turns[device] = timer(one.call, least, one.kernel_seconds)
        turns[f"{device} wall"] = timer(one.call, least)
    medians = {name: median(values) for name, values in in_turns(turns, rounds).items()}
    return medians | {f"{device} kernels": one.kernels for device, one in ours.items()}


# --- the report ------------------------------------------------------------------------------------------------------


def rows_of(results: dict[str, dict[str, Any]], cases: list[Case], participants: list[str], peak: float) -> list[dict]:
    """One row a case and participant. `peak` in FLOPs a second."""
    rows = []
    for case in cases:
        times = results[case.name]
        copy = min((t for name, t in times.items() if name.startswith("copy")), default=None)
        for name in participants:
            t = times[name]
            limit = case.flops / peak if case.flops and peak else copy
            rows.append(
                {
                    "case": case.name,
                    "on": name,
                    "us": t * 1e6,
                    "gflops": case.flops / t / 1e9 if case.flops else None,
                    "gbs": case.nbytes / t / 1e9,
                    "share": limit / t if limit else None,
                    "to_blas": t / times["blas"] if "blas" in times else None,
                    "to_torch": t / times["torch"] if "torch" in times else None,
                    "host_us": (times[f"{name} wall"] - t) * 1e6 if f"{name} wall" in times else None,
                    "kernels": times.get(f"{name} kernels"),
                }
            )
    return rows


def shown(rows: list[dict]) -> str:
    def number(value: Optional[float], digits: int) -> Optional[str]:
        return None if value is None else f"{value:.{digits}f}"

    header = ("case", "on", "us", "GFLOP/s", "GB/s", "share", "/ BLAS", "/ torch", "host us", "kernels")
    digits = {"us": 1, "gflops": 1, "gbs": 1, "share": 2, "to_blas": 2, "to_torch": 2, "host_us": 0}
    cells, last = [], None
    for row in rows:
        name = row["case"] if row["case"] != last else ""
        last = row["case"]
        cells.append([name, row["on"], *(number(row[key], n) for key, n in digits.items()), row["kernels"]])
    return table(header, cells)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="nanogpt-cpu,nanogpt-b", help=f"of {', '.join(CONFIGS)}; commas between")
    parser.add_argument("--devices", default="NUMPY,CL", help="clgrad's devices, with commas between them")
    parser.add_argument("--peers", default="torch", help='"torch", or nothing: --peers ""')
    parser.add_argument("--only", metavar="PATTERN", help="cases whose name this regular expression finds")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and measure nothing")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-ms", type=float, default=4.0, help="about how long a turn of a participant takes")
    parser.add_argument("--threads", type=int, default=2, help="of each participant")
    parser.add_argument("--json", metavar="FILE", help="write all that was measured there too")
    options = parser.parse_args(arguments)
    for name in names(options.config):
        if name not in CONFIGS:
            parser.error(f"unknown configuration {name!r}; there are {', '.join(CONFIGS)}")
    if set(names(options.peers)) - {"torch"}:
        parser.error(f"unknown peer {options.peers!r}; there is torch")
    use_threads(options.threads)
    # Woken for a few kernels, PoCL's threads may share one core for milliseconds, which a training step outlasts.
    os.environ.setdefault("POCL_AFFINITY", "1")
    os.environ.pop("CLGRAD_DEBUG", None)
    import numpy as np

    from clgrad.backends.base import Backend

    Backend.keeps_times = True  # OpenCL devices are opened after this, and time their kernels by themselves
    devices, peers = names(options.devices), names(options.peers)
    if "torch" in peers:
        import torch

        torch.set_num_threads(options.threads)
    rng = np.random.default_rng(1)
    cases: list[Case] = []
    for config in names(options.config):
        for group in GROUPS:
            cases += group(CONFIGS[config], rng)
    cases = [case for case in cases if not options.only or re.search(options.only, case.name)]
    cases = list({case.name: case for case in cases}.values())  # configurations may share a shape
    if options.list or not cases:
        print("\n".join(case.name for case in cases) or "no case has such a name")
        return
    results = {}
    for case in cases:
        results[case.name] = measure(case, devices, peers, options.threads, options.rounds, options.turn_ms / 1e3)
    best = max((c.flops / results[c.name]["blas"] for c in cases if c.blas is not None), default=0.0)
    rows = rows_of(results, cases, [*devices, *peers], best)
    print(shown(rows))
    if best:
        print(f"\nlimit of products and attention: {best / 1e9:.1f} GFLOP/s, the best of NumPy's BLAS in this run")
    for name in devices:
        slow = [r["case"] for r in rows if r["on"] == name and (r["to_torch"] or 0) > 1.05]
        if slow:
            print(f"slower than torch on {name}: {len(slow)} of {len(cases)}")
    report = {"threads": options.threads, "rounds": options.rounds, "devices": described(devices)}
    write_json(options.json, report | {"best_blas_gflops": best / 1e9, "rows": rows})


if __name__ == "__main__":
    main()
