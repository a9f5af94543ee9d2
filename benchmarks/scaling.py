"""How the time of a training step grows with depth, width, length and batch, beside PyTorch.

    python benchmarks/scaling.py --devices NUMPY,CL --peers torch --plot scaling.png
    python benchmarks/scaling.py --quick                              three points an axis instead of five

One size of the configuration is varied at a time; with the width the number of heads grows, so that a head keeps its
size. Participants take turns at each point, with the same weights and batches; a time is the median of its rounds.

The table shows for each time the local exponent: log(t / t before) / log(n / n before). A cost that is linear has 1;
a fixed cost pulls it below. Depth and batch should not rise above 1, width and length not above 2; where it is above
that by more than 0.3, there is a cliff, and a `!` marks it.
"""

from __future__ import annotations

import argparse
import gc
from math import log
from typing import Any

from common import described, in_turns, median, names, table, timer, use_threads, write_json
from train_step import CONFIGS, clgrad_step, torch_step

AXES = {"depth": "n_layer", "width": "n_embd", "length": "block_size", "batch": "batch"}
HIGHEST = {"depth": 1.0, "width": 2.0, "length": 2.0, "batch": 1.0}  # exponents that the mathematics allows
FACTORS = {
    "depth": (1 / 4, 1 / 2, 1, 2, 4),
    "width": (1 / 4, 1 / 2, 1, 2, 4),
    "length": (1 / 2, 1, 2, 4, 8),
    "batch": (1 / 4, 1 / 2, 1, 2, 4),
}
TOLERATED = 0.3


def points(config: str, axis: str, quick: bool) -> list[dict[str, int]]:
    """The sizes along one axis of a configuration, smallest first."""
    base, field = CONFIGS[config], AXES[axis]
    factors = (1 / 2, 1, 2) if quick else FACTORS[axis]
    found = []
    for factor in factors:
        heads = max(1, round(base["n_head"] * factor))
        sizes = dict(base) | {field: max(1, round(base[field] * factor))}
        if axis == "width":
            sizes |= {"n_head": heads, "n_embd": heads * (base["n_embd"] // base["n_head"])}
        if sizes not in found:
            found.append(sizes)
    return found


def measure(sizes: dict[str, int], devices: list[str], peers: list[str], threads: int, rounds: int) -> dict[str, float]:
    """Seconds of a step of each participant."""
    import numpy as np

    from clgrad import Tensor
    from clgrad.models import GPT, GPTConfig

    Tensor.manual_seed(1)
    model = GPT(GPTConfig(**{k: v for k, v in sizes.items() if k != "batch"}, dropout=0.0, bias=True))
    weights = {name: np.array(value.numpy()) for name, value in model.state_dict().items()}
    tokens = np.random.default_rng(1).integers(
        0, sizes["vocab_size"], (sizes["batch"], sizes["block_size"] + 1), np.int32
    )
    x, y = np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
    participants = {name: clgrad_step(name, sizes, weights) for name in devices}
    if "torch" in peers:
        participants["torch"] = torch_step(sizes, weights, threads)
    losses = {name: step(x, y) for name, step in participants.items()}  # builds and warms up
    first, *others = losses.items()
    for name, loss in others:
        if not abs(loss - first[1]) < 1e-3:
            raise SystemExit(f"{sizes}: the loss is {first[1]:.6f} on {first[0]} and {loss:.6f} on {name}")
    turns = {name: timer(lambda step=step: step(x, y), 0.02) for name, step in participants.items()}
    result = {name: median(values) for name, values in in_turns(turns, rounds).items()}
    del participants, turns
    gc.collect()  # the memory of this point is not the next one's
    return result


def exponents(amounts: list[int], times: list[float]) -> list[float | None]:
    """The slope of log(time) over log(amount) between each point and the one before it."""
    pairs = zip(zip(amounts, times), zip(amounts[1:], times[1:]))
    return [None] + [log(t / s) / log(n / m) for (m, s), (n, t) in pairs]


def rows_of(axis: str, amounts: list[int], results: list[dict[str, float]], torch: bool) -> list[list[Any]]:
    columns: list[list[Any]] = [list(map(str, amounts))]
    for name in results[0]:
        times = [r[name] for r in results]
        columns.append([f"{1e3 * t:.1f}" for t in times])
        slopes = exponents(amounts, times)
        columns.append([None if e is None else f"{e:.2f}" + "!" * (e > HIGHEST[axis] + TOLERATED) for e in slopes])
        if torch and name != "torch":
            columns.append([f"{r[name] / r['torch']:.2f}" for r in results])
    return [list(row) for row in zip(*columns, strict=True)]


def plot(path: str, report: dict[str, Any]) -> None:
    """Time over size on double logarithmic axes, one panel an axis; a straight line has one exponent."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(report), figsize=(4 * len(report), 3.5), squeeze=False, layout="constrained"
    )
    for panel, (axis, found) in zip(panels[0], report.items(), strict=True):
        for name in found["seconds"][0]:
            panel.loglog(found["amounts"], [1e3 * s[name] for s in found["seconds"]], marker="o", label=name)
        panel.set_xticks(found["amounts"], [str(n) for n in found["amounts"]])
        panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("ms a step")
    panels[0][0].legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="nanogpt-cpu", help="what is varied")
    parser.add_argument("--axes", default=",".join(AXES), help="with commas between them")
    parser.add_argument("--devices", default="NUMPY,CL", help="clgrad's devices, with commas between them")
    parser.add_argument("--peers", default="torch", help='"torch", or nothing: --peers ""')
    parser.add_argument("--rounds", type=int, help="turns of a few steps at each point; 7, or 5 with --quick")
    parser.add_argument("--threads", type=int, default=2, help="of each participant")
    parser.add_argument("--quick", action="store_true", help="half, once and twice each size")
    parser.add_argument("--plot", metavar="FILE", help="draw it too, with matplotlib")
    parser.add_argument("--json", metavar="FILE", help="write all that was measured there too")
    options = parser.parse_args(arguments)
    for axis in names(options.axes):
        if axis not in AXES:
            parser.error(f"unknown axis {axis!r}; there are {', '.join(AXES)}")
    if set(names(options.peers)) - {"torch"}:
        parser.error(f"unknown peer {options.peers!r}; there is torch")
    use_threads(options.threads)
    devices, peers = names(options.devices), names(options.peers)
    if not devices + peers:
        parser.error("nothing to measure: name --devices or --peers")
    rounds = options.rounds or (5 if options.quick else 7)

    report: dict[str, Any] = {}
    for axis in names(options.axes):
        sizes = points(options.config, axis, options.quick)
        amounts = [s[AXES[axis]] for s in sizes]
        found = [measure(s, devices, peers, options.threads, rounds) for s in sizes]
        report[axis] = {"amounts": amounts, "sizes": sizes, "seconds": found}
        header = [axis]
        for name in found[0]:
            header += [f"{name} ms", "exponent"] + (["/ torch"] if "torch" in peers and name != "torch" else [])
        print(table(header, rows_of(axis, amounts, found, "torch" in peers)) + "\n", flush=True)
    if options.plot:
        plot(options.plot, report)
    about = {"config": options.config, "threads": options.threads, "rounds": rounds, "devices": described(devices)}
    write_json(options.json, about | {"axes": report})


if __name__ == "__main__":
    main()
