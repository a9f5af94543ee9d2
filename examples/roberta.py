"""RoBERTa's dynamic masking: is it better to hide other letters every time a text is read?

    python examples/roberta.py

Two small RoBERTas read the same 4,000 letters again and again. For one, each passage has the same letters hidden every
time, as the data of BERT had; for the other they are drawn anew (Liu et al., arXiv 1907.11692, section 4.1). The one
learns its gaps by heart, which shows on passages that neither has read.
"""

from __future__ import annotations

import argparse

import numpy as np
from small import SEED, Text, adamw, fit, plain_step, read_text

from clgrad import Tensor
from clgrad.models import RobertaConfig, RobertaForMaskedLM
from clgrad.models.masking import mask_tokens

SIZES = dict(num_hidden_layers=2, num_attention_heads=4, hidden_size=64, intermediate_size=256)
LETTERS, BLOCK, BATCH, STEPS = 4000, 32, 32, 400


class Passages(Text):
    """Batches of passages with hidden letters; `dynamic` says whether each reading hides other ones."""

    dynamic = False

    def batch(self, iteration: int, block: int, size: int = BATCH, held_out: bool = False) -> tuple[Tensor, Tensor]:
        text = self.validation if held_out else self.training[:LETTERS]
        rows = text[: len(text) // block * block].reshape(-1, block)
        which = np.random.default_rng([SEED, held_out, iteration]).integers(0, len(rows), size)
        mask = len(self.characters)
        hidden = [
            mask_tokens(
                rows[row : row + 1],
                np.random.default_rng([SEED, row, iteration if self.dynamic or held_out else 0]),
                mask_token=mask,
                vocab_size=mask,
            )
            for row in which
        ]
        inputs, targets = map(np.concatenate, zip(*hidden, strict=True))
        return Tensor(inputs), Tensor(targets)


def main(steps: int = STEPS, content: str | None = None, block: int = BLOCK, **sizes: int) -> dict[str, float]:
    """Losses on what was read and on held-out text, for both ways."""
    text, results = Passages(**vars(read_text(content))), {}
    padding = len(text.characters) + 1  # that no text has
    for name in ("static", "dynamic"):
        text.dynamic = name == "dynamic"
        Tensor.manual_seed(SEED)
        config = RobertaConfig(
            vocab_size=padding + 1, pad_token_id=padding, max_position_embeddings=padding + 1 + block,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.12, **SIZES | sizes,
        )  # fmt: skip
        model = RobertaForMaskedLM(config)
        optimizer = adamw(model)
        seconds = fit(plain_step(model, optimizer), optimizer, text, steps, peak=4e-3, block=block)
        model.eval()
        for what, held_out in (("read", False), ("held out", True)):
            with Tensor.no_grad():
                losses = [model(*text.batch(steps + i, block, held_out=held_out))[1].item() for i in range(8)]
            results[f"{name} {what}"] = float(np.mean(losses))
        print(
            f"{name:8} masks: loss {results[f'{name} read']:.3f} on what was read, "
            f"{results[f'{name} held out']:.3f} on held-out text, {steps} steps in {seconds:.0f} s"
        )
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    main(parser.parse_args().steps)
