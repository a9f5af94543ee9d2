"""Scaling: how the loss falls with parameters and with compute.

    python examples/scaling.py            # five GPTs of growing size; writes scaling.png

Every size is trained on the same batches. The loss that each ends with is fitted as E + A / N^a over the parameters N,
and the lowest loss that any of them has reached for so many operations as E + A / C^a over C = 6 N tokens (Kaplan et
al., arXiv 2001.08361; Hoffmann et al., arXiv 2203.15556). Embeddings do not count among N.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from small import BATCH, adamw, fit, plain_step, read_text, small_gpt, validation_loss

from clgrad import jit

SIZES = ((2, 8), (2, 16), (2, 32), (2, 64), (2, 96))  # layers, width: of one depth, so that only one thing changes


class Law(NamedTuple):
    """loss = floor + scale / x^exponent; `error` is the largest that it is off."""

    floor: float
    scale: float
    exponent: float
    error: float

    def __call__(self, x: float) -> float:
        return self.floor + self.scale * x**-self.exponent

    def __str__(self) -> str:
        return f"{self.floor:.2f} + {self.scale:.3g} / x^{self.exponent:.3f} (within {self.error:.3f})"


def law(x: Sequence[float], losses: Sequence[float]) -> Law:
    """The law nearest to the losses: for each floor a straight line through log x and log(loss - floor)."""
    logs, found = np.log(np.asarray(x)), []
    for floor in np.linspace(0.0, min(losses) * 0.99, 200):
        slope, start = np.polyfit(logs, np.log(np.asarray(losses) - floor), 1)
        fitted = floor + np.exp(start + slope * logs)
        errors = np.abs(fitted - losses)
        found.append((float((errors**2).sum()), Law(float(floor), math.exp(start), float(-slope), float(errors.max()))))
    return min(found)[1]


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (compute, loss) those that no cheaper one is as good as."""
    best: list[tuple[float, float]] = []
    for compute, loss in sorted(points):
        if not best or loss < best[-1][1]:
            best.append((compute, loss))
    return best


def main(
    steps: int = 500, content: str | None = None, sizes: Sequence[tuple[int, int]] = SIZES, out: str = "scaling.png"
) -> dict[str, Law]:
    """The laws of parameters and of compute."""
    text = read_text(content)
    ends: list[tuple[float, float]] = []  # parameters and loss
    curves: list[list[tuple[float, float]]] = []  # compute and loss, of each model
    for layers, width in sizes:
        model = small_gpt(text, n_layer=layers, n_embd=width, n_head=max(1, width // 16))
        block = model.config.block_size
        counted = sum(p.numel() for p in model.transformer.h.parameters())
        optimizer, curve, done, seconds = adamw(model), [], 0, 0.0
        step, peak = jit(plain_step(model, optimizer)), 3e-3 * (64 / width) ** 0.5  # narrow ones take larger steps
        for until in (steps // 4, steps // 2, steps):  # each ends a schedule of its own
            seconds += fit(step, optimizer, text, until - done, peak=peak, block=block, first=done)
            done = until
            curve.append((6.0 * counted * done * BATCH * block, validation_loss(model, text, batches=8)))
        curves.append(curve)
        ends.append((float(counted), curve[-1][1]))
        print(f"{layers} x {width:3}: {counted:7,} parameters, loss {curve[-1][1]:.4f}, {seconds:.0f} s")
    best = frontier([point for curve in curves for point in curve])
    laws = {"parameters": law(*zip(*ends, strict=True)), "compute": law(*zip(*best, strict=True))}
    for name, found in laws.items():
        print(f"loss over {name}: {found}")
    if out:
        plot(Path(out), ends, curves, laws)
    return laws


def plot(
    path: Path, ends: list[tuple[float, float]], curves: list[list[tuple[float, float]]], laws: dict[str, Law]
) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('no picture: matplotlib is not installed (pip install "clgrad[demo]")', file=sys.stderr)
        return
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(*zip(*ends, strict=True), "o")
    for (counted, _), curve in zip(ends, curves, strict=True):
        right.plot(*zip(*curve, strict=True), "o-", label=f"{int(counted):,} parameters")
    points = {"parameters": [n for n, _ in ends], "compute": [c for curve in curves for c, _ in curve]}
    for axes, (name, found) in zip((left, right), laws.items(), strict=True):
        x = np.geomspace(min(points[name]), max(points[name]), 50)
        axes.plot(x, [found(value) for value in x], "k--", label=str(found))
        axes.set(xscale="log", xlabel={"parameters": "parameters", "compute": "operations, 6 N tokens"}[name])
        axes.legend(fontsize=7)
    left.set_ylabel("validation loss")
    figure.savefig(path, dpi=120)
    print(f"drawn: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", default="scaling.png")
    options = parser.parse_args()
    main(options.steps, out=options.out)
