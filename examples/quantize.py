"""Quantisation: what do 8 and 4 bits a weight cost a model of one's own?

    python examples/quantize.py

Every matrix of a trained GPT is rounded in blocks of 32 weights with one scale each. The weights stay packed in memory;
the kernel that multiplies by them unpacks as it goes.
"""

from __future__ import annotations

import argparse

from small import STEPS, base_model, read_text, validation_loss

from clgrad.nn.quantized import quantize


def main(steps: int = STEPS, content: str | None = None, **sizes: int) -> dict[str, float]:
    """Validation losses in float32, and rounded to 8 and to 4 bits."""
    text, results = read_text(content), {}
    for packing in ("", "Q8_0", "Q4_0"):
        model = base_model(text, steps, **sizes)
        if packing:
            quantize(model, packing)
        unique = {id(t): t.nbytes() for t in model.state_dict().values()}
        loss = results[packing or "float32"] = validation_loss(model, text)
        cost = loss - results["float32"]
        print(f"{packing or 'float32':8} validation loss {loss:.4f} ({cost:+.4f}), {sum(unique.values()):,} bytes")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    main(parser.parse_args().steps)
