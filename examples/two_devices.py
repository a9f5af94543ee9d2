"""One model on two devices: the first half of the blocks on one, the second half on the other.

    python examples/two_devices.py                           # CL and CL:1
    python examples/two_devices.py --devices NUMPY CL
    POCL_DEVICES="pthread pthread" python examples/two_devices.py    # PoCL shows the processor as two devices

Activations cross from one to the other in the forward pass, and their gradients cross back. The same model on one
device has the same losses.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from small import adamw, fit, plain_step, read_text, small_gpt, validation_loss

from clgrad import Device
from clgrad.models import GPT


def split(model: GPT, first: str, second: str) -> GPT:
    """The model with the first half of its blocks on one device, and all else on the other."""
    blocks = list(model.transformer.h)
    model.place(second)
    for block in blocks[: len(blocks) // 2]:
        block.place(first)
    return model


def main(
    devices: Sequence[str] = ("CL", "CL:1"), steps: int = 50, content: str | None = None, **sizes: int
) -> dict[str, float]:
    """Validation losses on one device and on two."""
    first, second = map(Device.canonical, devices)
    known = Device.names()
    if not {first, second} <= set(known):
        sys.exit(
            f"there are {', '.join(known)} here, and not both {first} and {second}: pass --devices A B "
            '(PoCL shows two devices with POCL_DEVICES="pthread pthread")'
        )
    text = read_text(content)
    results = {}
    for name in ("one", "two"):
        model = small_gpt(text, **{"n_layer": 4, "n_embd": 32, **sizes})
        model = split(model, first, second) if name == "two" else model.place(second)
        optimizer = adamw(model)
        seconds = fit(plain_step(model, optimizer), optimizer, text, steps, block=model.config.block_size)
        results[name] = validation_loss(model, text, batches=4)
        where = ", ".join(f"{sum(p.numel() for p in model.parameters() if p.device == d):,} parameters on {d}"
                          for d in dict.fromkeys((first, second)))  # fmt: skip
        print(f"{name} device{'s' * (name == 'two')}: validation loss {results[name]:.4f}, {where}, {seconds:.0f} s")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", nargs=2, default=("CL", "CL:1"), metavar=("FIRST", "SECOND"))
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    main(options.devices, options.steps)
