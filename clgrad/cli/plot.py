"""loss.png: how training and validation loss went."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..nn.state import atomic_write

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#4a5568"


def plot_losses(path: Path, entries: Sequence[dict[str, Any]], title: str, unit: str = "a character") -> bool:
    """Draw the entries of metrics.jsonl as a PNG: the training loss faint and smoothed, validation as points.

    Returns False where matplotlib is not installed. Raises OSError when the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    iterations = np.array([entry["iter"] for entry in entries])
    losses = np.array([entry["train_loss"] for entry in entries])
    axes.plot(iterations, losses, color=BLUE, alpha=0.22, linewidth=0.8)
    axes.plot(iterations, smooth(losses), color=BLUE, linewidth=2.0, label="training, smoothed")
    evaluated = [(entry["iter"], entry["val_loss"]) for entry in entries if "val_loss" in entry]
    if evaluated:
        axes.plot(*zip(*evaluated, strict=True), "o-", color=ORANGE, linewidth=1.5, markersize=5, label="validation")
        last_iteration, last_loss = evaluated[-1]
        axes.annotate(
            f"{last_loss:.3f}",
            (last_iteration, last_loss),
            xytext=(0, 10),
            textcoords="offset points",
            ha="right",
            color=ORANGE,
            weight="bold",
        )
    axes.set_title(title, loc="left", color=GREY, weight="bold")
    axes.set_xlabel("iteration", color=GREY)
    axes.set_ylabel(f"cross-entropy, nats {unit}", color=GREY)
    axes.tick_params(colors=GREY)
    axes.grid(alpha=0.25)
    axes.margins(x=0.02)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    atomic_write(path, image.getvalue())
    return True


def smooth(values: np.ndarray, fraction: float = 0.02) -> np.ndarray:
    """A centred moving mean over about `fraction` of the run, shorter at the ends, of the same length.

    >>> smooth(np.array([1.0, 2.0, 3.0, 4.0]), fraction=0.75).tolist()
    [1.5, 2.0, 3.0, 3.5]
    """
    half = int(len(values) * fraction) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)
