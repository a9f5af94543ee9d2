"""BART's training: a text is damaged, and a small BART learns to write it as it was.

    python examples/bart_denoise.py
    python examples/bart_denoise.py --steps 300

    To be, or n_be: that i_question.    ->    To be, or not to be: that is the question.

30 % of the letters are taken out, in spans whose lengths are Poisson-distributed with mean 3, and one mask stands for
each span, however long it was, an empty one too (text infilling; Lewis et al., arXiv 1910.13461). Unlike T5's, the
target is the whole text: the model has to find out how much is missing as well as what, and to copy the rest. Beside
it stands a guess without a model: the letter that is most frequent after the two before it.
"""

from __future__ import annotations

import argparse

import numpy as np
from small import SEED, Text, adamw, fit, plain_step, read_text

from clgrad import Tensor
from clgrad.models import Bart, BartConfig, beam_search

LAYERS, WIDTH, HEADS = 3, 96, 4
BLOCK, BATCH, STEPS = 48, 32, 2500
SHARE, SPAN = 0.3, 3.0


class Infilled(Text):
    """Batches for BART. After the letters come the mask, what pads a source, the end, and the beginning of a target."""

    @property
    def mask(self) -> int:
        return len(self.characters)

    @property
    def padding(self) -> int:
        return self.mask + 1

    @property
    def end(self) -> int:
        return self.mask + 2

    @property
    def start(self) -> int:
        return self.mask + 3

    def damage(self, row: np.ndarray, chance: np.random.Generator) -> tuple[list[int], np.ndarray]:
        """The source for one text, no longer than it, and which of its letters are hidden."""
        hidden, masks = np.zeros(len(row), bool), np.zeros(len(row) + 1, bool)  # a mask stands before letter i
        while hidden.sum() < SHARE * len(row):
            length, place = chance.poisson(SPAN), chance.integers(len(row))
            hidden[place : place + length] = True
            masks[place] = True
        source: list[int] = []
        for letter, gone, masked in zip(row.tolist(), hidden, masks, strict=False):
            if masked and source[-1:] != [self.mask]:
                source.append(self.mask)
            if not gone:
                source.append(letter)
        return source[: len(row)], hidden

    def arrays(
        self, iteration: int, block: int, size: int, held_out: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sources (B, T), targets (B, T + 1) and which of these were hidden (B, T + 1)."""
        rows = super().batch(iteration, block, size, held_out)[0].numpy()
        chance = np.random.default_rng([SEED, held_out, iteration])
        sources = np.full((size, block), self.padding, np.int32)
        targets = np.pad(rows, ((0, 0), (0, 1)), constant_values=self.end)
        hidden = np.zeros(targets.shape, bool)
        for number, row in enumerate(rows):
            source, hidden[number, :-1] = self.damage(row, chance)
            sources[number, : len(source)] = source
        return sources, targets.astype(np.int32), hidden

    def batch(self, iteration: int, block: int, size: int = BATCH, held_out: bool = False) -> tuple[Tensor, Tensor]:
        sources, targets, _ = self.arrays(iteration, block, size, held_out)
        return Tensor(sources), Tensor(targets)

    def after_two(self) -> np.ndarray:
        """(V, V): the most frequent letter of the training text after two others."""
        counts = np.zeros((len(self.characters),) * 3, np.int32)
        np.add.at(counts, (self.training[:-2], self.training[1:-1], self.training[2:]), 1)
        return counts.argmax(axis=2)

    def decode(self, tokens: list[int]) -> str:
        return "".join((*self.characters, "_", "", "", "")[token] for token in tokens)


def loss_of(model: Bart, source: Tensor, targets: Tensor) -> Tensor:
    loss = model(source, targets=targets, source_mask=source != model.config.pad_token_id)[1]
    assert loss is not None
    return loss


def measure(model: Bart, text: Infilled, block: int, batches: int = 16) -> dict[str, float]:
    """Shares of the letters of held-out text that the model, told those before, names, and that the guess names; of
    those that were hidden and of the others. And the loss."""
    table, right, letters, loss = text.after_two(), np.zeros(3), np.zeros(2), 0.0
    model.eval()
    for i in range(batches):
        sources, targets, hidden = text.arrays(i, block, BATCH, held_out=True)
        source = Tensor(sources)
        with Tensor.no_grad():
            logits, mean = model(source, targets=Tensor(targets), source_mask=source != text.padding)
        loss += mean.item() / batches
        hidden, visible = hidden[:, 2:-1], ~hidden[:, 2:-1]  # the guess needs two letters
        model_right = (logits.argmax(-1).numpy() == targets)[:, 2:-1]
        guess_right = table[targets[:, :-3], targets[:, 1:-2]] == targets[:, 2:-1]
        right += [(guess_right & hidden).sum(), (model_right & hidden).sum(), (model_right & visible).sum()]
        letters += [hidden.sum(), visible.sum()]
    result = dict(zip(("after two", "BART", "BART, visible"), right / letters[[0, 0, 1]], strict=True))
    return result | {"loss": loss}


def main(
    steps: int = STEPS, content: str | None = None, block: int = BLOCK, layers: int = LAYERS, width: int = WIDTH
) -> dict[str, float]:
    """What `measure` finds."""
    text = Infilled(**vars(read_text(content)))
    Tensor.manual_seed(SEED)
    config = BartConfig(
        vocab_size=text.start + 1, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, max_position_embeddings=block + 1, dropout=0.0, bos_token_id=text.start,
        pad_token_id=text.padding, eos_token_id=text.end, decoder_start_token_id=text.start,
    )  # fmt: skip
    model = Bart(config)
    optimizer = adamw(model)
    print(f"{model.num_parameters():,} parameters, {len(text.training):,} letters to learn from")
    seconds = fit(plain_step(model, optimizer, loss_of), optimizer, text, steps, peak=1e-3, block=block)
    result = measure(model, text, block)
    print(f"{steps} steps in {seconds:.0f} s; of the letters of held-out text are said rightly:")
    print(f"{result['after two']:7.1%}  of those hidden, by what is most frequent after two letters")
    print(f"{result['BART']:7.1%}  of those hidden, by BART")
    print(f"{result['BART, visible']:7.1%}  of those that it sees, by BART; the loss over all is {result['loss']:.3f}")
    sources, targets, _ = text.arrays(0, block, BATCH, held_out=True)
    for source, target in zip(sources[:3].tolist(), targets.tolist(), strict=False):
        source = [token for token in source if token != text.padding]
        said = beam_search(model, source, block + 1, num_beams=4)[0].tokens
        for what, tokens in (("read", source), ("wrote", said), ("was", target)):
            print(f"{what:>6}: {text.decode(tokens)!r}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A small BART learns to write damaged texts as they were.")
    parser.add_argument("--steps", type=int, default=STEPS)
    main(parser.parse_args().steps)
