"""What a translator that `clgrad train --task translate` has trained says, and what it looks at while it says it.

    clgrad train --task translate --data /usr/share/trans/de-en --out runs/de-en
    python examples/translate.py runs/de-en "Er ist nicht zu Hause." --plot attention.png

For each token of the translation, the picture shows which tokens of the source the decoder's cross-attention reads, in
the mean of its heads and layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clgrad import Device, Tensor
from clgrad.cli.generate import load_task


def attention(task, sentence: str) -> tuple[np.ndarray, list[str], list[str]]:
    """The shares (T, S), each row of sum 1, and the texts of the target's T and the source's S tokens."""
    tokenizer, model = task.tokenizer, task.model
    device = next(iter(model.parameters())).device
    source = tokenizer.encode(sentence) + [model.end_token]
    target = tokenizer.encode(task.translate([sentence], beams=1)[0]) + [model.end_token]
    given = [model.start_token, *target[:-1]]
    with Tensor.no_grad():
        x, y = (Tensor(np.array([ids], np.int32), device=device) for ids in (source, given))
        layers = range(model.config.decoder_layers)
        shares = np.mean([model.cross_attention(x, y, layer).numpy()[0] for layer in layers], axis=(0, 1))
    names = [[tokenizer.decode([token]) or "end" for token in ids] for ids in (target, source)]
    return shares, names[0], names[1]


def draw(pictures: Sequence[tuple[np.ndarray, list[str], list[str]]], path: Path) -> None:
    """One map of shares after the other, rows the target's tokens, columns the source's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(pictures), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (shares, target, source) in zip(np.atleast_1d(figure.subplots(1, len(pictures))), pictures, strict=True):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=max(0.5, shares.max()), aspect="auto")
        axes.set_xticks(range(len(source)), source, rotation=60, ha="right")
        axes.set_yticks(range(len(target)), target)
        axes.set_xlabel("source")
        axes.set_ylabel("translation")
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder of clgrad train --task translate")
    parser.add_argument("sentences", nargs="+")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--device", default=Device.DEFAULT)
    options = parser.parse_args(arguments)
    task = load_task(options.run, options.device)
    found = task.translate(options.sentences, options.beams)
    for sentence, translation in zip(options.sentences, found, strict=True):
        print(f"{sentence}\n    {translation}")
    if options.plot:
        draw([attention(task, sentence) for sentence in options.sentences], options.plot)
        print(f"what the cross-attention looks at: {options.plot}")
    return found


if __name__ == "__main__":
    main()
