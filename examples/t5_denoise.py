"""T5's training: spans of a text are cut out, and a small T5 learns to say what stood in each of them.

    python examples/t5_denoise.py
    python examples/t5_denoise.py --steps 300

    To be, or n<0>be: that i<1>question.    ->    <0>ot to <1>s the <end>

15 % of the letters are hidden, in spans of 3 or so (Raffel et al., arXiv 1910.10683). The encoder reads the text with
a sentinel in place of each span; the decoder writes the sentinels, each followed by what it stands for. So the target
is short, which makes a step cheap. Beside the model stand two guesses without one: always the most frequent letter,
and the letter that is most frequent after the two before it, which is all that can be known from the left at a glance.

Nothing is gained from the text until both attentions have found their way, and 2,500 steps are too few for it: the
model says 20 % of the letters rightly, where the most frequent one is 15 % and the guess from two letters 37 %.
"""

from __future__ import annotations

import argparse

import numpy as np
from small import SEED, Text, adamw, fit, plain_step, read_text

from clgrad import Tensor
from clgrad.models import T5, T5Config, generate_batch

SIZES = dict(d_model=96, d_ff=256, d_kv=24, num_heads=4, num_layers=3)
BLOCK, BATCH, STEPS = 64, 32, 2500
SHARE, SPAN = 0.15, 3  # of the letters that are hidden, and how many stand together in the mean


class Spans(Text):
    """Batches for T5. After the letters come the sentinels, the end of a target, and what a decoder starts with."""

    def count(self, block: int) -> int:
        """How many spans are hidden in each text."""
        return max(1, round(block * SHARE / SPAN))

    def end(self, block: int) -> int:
        return len(self.characters) + self.count(block)

    def corrupt(self, row: np.ndarray, chance: np.random.Generator) -> tuple[list[int], list[int]]:
        """Source and target of one text. However the spans fall, they have the same lengths, so nothing is padded."""
        count, hidden = self.count(len(row)), round(len(row) * SHARE)
        source, target, place = [], [], 0
        for number, (kept, cut) in enumerate(
            zip(parts(chance, len(row) - hidden, count), parts(chance, hidden, count), strict=True)
        ):
            sentinel = len(self.characters) + number
            source += [*row[place : place + kept], sentinel]
            target += [sentinel, *row[place + kept : place + kept + cut]]
            place += kept + cut
        return source, [*target, self.end(len(row))]

    def arrays(self, iteration: int, block: int, size: int, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
        rows = super().batch(iteration, block, size, held_out)[0].numpy()
        chance = np.random.default_rng([SEED, held_out, iteration])
        sources, targets = zip(*(self.corrupt(row, chance) for row in rows), strict=True)
        return np.array(sources, np.int32), np.array(targets, np.int32)

    def batch(self, iteration: int, block: int, size: int = BATCH, held_out: bool = False) -> tuple[Tensor, Tensor]:
        sources, targets = self.arrays(iteration, block, size, held_out)
        return Tensor(sources), Tensor(targets)

    def after_two(self) -> np.ndarray:
        """(V, V): the most frequent letter of the training text after two others."""
        counts = np.zeros((len(self.characters),) * 3, np.int32)
        np.add.at(counts, (self.training[:-2], self.training[1:-1], self.training[2:]), 1)
        return counts.argmax(axis=2)

    def spans(self, written: list[int]) -> dict[int, list[int]]:
        """What a target says that each sentinel stands for."""
        said: dict[int, list[int]] = {}
        for token in written:
            if token >= len(self.characters):
                said[token] = []
            elif said:
                said[list(said)[-1]].append(token)
        return said

    def restore(self, source: list[int], written: list[int]) -> list[int]:
        """The text: the source with what was written in place of each sentinel."""
        said = self.spans(written)
        return [t for token in source for t in (said.get(token, []) if token >= len(self.characters) else [token])]

    def decode(self, tokens: list[int]) -> str:
        V = len(self.characters)
        return "".join(self.characters[t] if t < V else f"<{t - V}>" for t in tokens)


def parts(chance: np.random.Generator, total: int, count: int) -> np.ndarray:
    """`count` random numbers above 0 whose sum is `total`."""
    cuts = np.sort(chance.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff([0, *cuts, total])


def loss_of(model: T5, source: Tensor, targets: Tensor) -> Tensor:
    loss = model(source, targets=targets)[1]
    assert loss is not None
    return loss


def measure(model: T5, text: Spans, block: int, batches: int = 8) -> dict[str, float]:
    """Shares of hidden letters of held-out text that the model, told the letters before, and the two guesses name; the
    share of spans that the model writes rightly from beginning to end; and its loss."""
    table, right, letters, spans, loss = text.after_two(), np.zeros(3), 0, [], 0.0
    frequent = np.bincount(text.training).argmax()
    model.eval()
    for i in range(batches):
        sources, targets = text.arrays(i, block, BATCH, held_out=True)
        with Tensor.no_grad():
            logits, mean = model(Tensor(sources), targets=Tensor(targets))
        loss += mean.item() / batches
        guesses = logits.argmax(-1).numpy()
        written = generate_batch(model, sources, targets.shape[1], temperature=0)
        for source, target, guess, said in zip(sources.tolist(), targets.tolist(), guesses, written, strict=True):
            truth, whole = text.spans(target[:-1]), text.restore(source, target[:-1])
            place = 0
            for token in source:
                for letter in truth.get(token, []):
                    right[0] += letter == frequent
                    right[1] += letter == table[whole[place - 2], whole[place - 1]]
                    place += 1
                place += token not in truth
            right[2] += sum(g == t for g, t in zip(guess, target, strict=True) if t < len(text.characters))
            letters += sum(t < len(text.characters) for t in target)
            spans += [text.spans(said).get(sentinel) == letters_ for sentinel, letters_ in truth.items()]
    result = dict(zip(("most frequent", "after two", "T5"), right / letters, strict=True))
    return result | {"whole spans": float(np.mean(spans)), "loss": loss}


def main(steps: int = STEPS, content: str | None = None, block: int = BLOCK, **sizes: int) -> dict[str, float]:
    """What `measure` finds."""
    text = Spans(**vars(read_text(content)))
    Tensor.manual_seed(SEED)
    end = text.end(block)
    config = T5Config(
        vocab_size=end + 2, eos_token_id=end, pad_token_id=end + 1, decoder_start_token_id=end + 1, dropout_rate=0.0,
        relative_attention_num_buckets=16, relative_attention_max_distance=block, **SIZES | sizes,
    )  # fmt: skip
    model = T5(config)
    optimizer = adamw(model)
    print(f"{model.num_parameters():,} parameters, {len(text.training):,} letters to learn from")
    seconds = fit(plain_step(model, optimizer, loss_of), optimizer, text, steps, block=block)
    result = measure(model, text, block)
    print(f"{steps} steps in {seconds:.0f} s; of held-out text's hidden letters are said rightly:")
    for name in ("most frequent", "after two", "T5"):
        print(f"{result[name]:7.1%}  {name}")
    print(f"{result['whole spans']:.1%} of the spans are written as they were; the loss is {result['loss']:.3f}")
    sources, targets = text.arrays(0, block, BATCH, held_out=True)
    for source, target, said in zip(
        sources[:3].tolist(), targets.tolist(), generate_batch(model, sources[:3], block, temperature=0), strict=False
    ):
        for what, tokens in (("read", source), ("wrote", said), ("was", target[:-1])):
            print(f"{what:>6}: {text.decode(tokens)!r}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A small T5 learns to say what was cut out of a text.")
    parser.add_argument("--steps", type=int, default=STEPS)
    main(parser.parse_args().steps)
