"""A masked language model from scratch: a small BERT learns to say which letters were hidden from it.

    python examples/mlm.py
    python examples/mlm.py --steps 300 --fill "My kin_dom for a h_rse"

Of Shakespeare's letters 15 % are hidden as BERT's paper does it: 80 % of them become a mask, 10 % another letter, and
10 % stay. A GPT sees only what comes before; this model also sees what comes after. Two guesses without a model stand
beside it: always the most frequent letter, and the letter that is most frequent between the two neighbours.
"""

from __future__ import annotations

import argparse

import numpy as np
from small import SEED, Text, adamw, fit, plain_step, read_text

from clgrad import Tensor
from clgrad.models import BertConfig, BertForMaskedLM
from clgrad.models.masking import mask_tokens

# A hidden letter says nothing of itself, so nothing is learnt before attention has found the neighbours. First values
# larger than BERT's 0.02, which is for 768 channels, shorten the wait.
SIZES = dict(num_hidden_layers=2, num_attention_heads=4, hidden_size=64, intermediate_size=256, initializer_range=0.12)
BLOCK, BATCH, STEPS, PEAK = 32, 32, 2000, 4e-3
FILL = "To be, or n_t to be, t_at is"


class Hidden(Text):
    """Batches for a masked language model: letters of which some are hidden, and which they were."""

    @property
    def mask(self) -> int:
        """The token of a hidden letter: the one after all letters."""
        return len(self.characters)

    def arrays(self, iteration: int, block: int, size: int, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
        x, _ = super().batch(iteration, block, size, held_out)
        chance = np.random.default_rng([SEED, held_out, iteration])
        return mask_tokens(x.numpy(), chance, mask_token=self.mask, vocab_size=self.mask)

    def batch(self, iteration: int, block: int, size: int = BATCH, held_out: bool = False) -> tuple[Tensor, Tensor]:
        inputs, targets = self.arrays(iteration, block, size, held_out)
        return Tensor(inputs), Tensor(targets)

    def neighbours(self) -> np.ndarray:
        """(V + 1, V + 1): the most frequent letter of the training text between two, where V stands for any."""
        V = self.mask
        counts = np.zeros((V + 1, V, V + 1), np.int64)
        np.add.at(counts, (self.training[:-2], self.training[1:-1], self.training[2:]), 1)
        counts[V] = counts[:V].sum(axis=0)
        counts[:, :, V] = counts[:, :, :V].sum(axis=2)
        return counts.argmax(axis=1)


def measure(model: BertForMaskedLM, text: Hidden, batches: int = 24) -> dict[str, float]:
    """The shares of hidden letters of held-out text that the model and the two guesses name, and the model's loss."""
    table, right, hidden, loss = text.neighbours(), np.zeros(3), 0, 0.0
    model.eval()
    for i in range(batches):
        inputs, targets = text.arrays(i, model.config.max_position_embeddings, BATCH, held_out=True)
        with Tensor.no_grad():
            logits, mean = model(Tensor(inputs), Tensor(targets))
        loss += mean.item() / batches
        around = np.pad(inputs, ((0, 0), (1, 1)), constant_values=text.mask)
        guesses = (np.full_like(inputs, table[-1, -1]), table[around[:, :-2], around[:, 2:]], logits.argmax(-1).numpy())
        right += [((guess == targets) & (targets >= 0)).sum() for guess in guesses]
        hidden += (targets >= 0).sum()
    shares = (right / hidden).tolist()
    return dict(zip(("most frequent", "neighbours", "BERT"), shares, strict=True)) | {"loss": loss}


def fill(model: BertForMaskedLM, text: Hidden, sentence: str) -> str:
    """The sentence with the likeliest letter in place of each _."""
    tokens = np.array([text.mask if letter == "_" else text.characters.find(letter) for letter in sentence])
    if (tokens < 0).any():
        raise SystemExit(f"the text has only the characters {text.characters!r}")
    with Tensor.no_grad():
        said = model(Tensor(tokens[None]))[0][0, :, : text.mask].argmax(-1).numpy()
    return "".join(text.characters[a] if b == text.mask else c for a, b, c in zip(said, tokens, sentence, strict=True))


def main(
    steps: int = STEPS,
    content: str | None = None,
    sentence: str = "",
    block: int = BLOCK,
    peak: float = PEAK,
    **sizes: float,
) -> dict[str, float]:
    """The shares of hidden letters that are said rightly, and the model's loss."""
    text = Hidden(**vars(read_text(content)))
    Tensor.manual_seed(SEED)
    config = BertConfig(
        vocab_size=text.mask + 1, max_position_embeddings=block, pad_token_id=None, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **SIZES | sizes,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    optimizer = adamw(model)
    print(f"{model.num_parameters():,} parameters, {len(text.training):,} letters to learn from")
    seconds = fit(plain_step(model, optimizer), optimizer, text, steps, peak, block)
    result = measure(model, text)
    print(f"{steps} steps in {seconds:.0f} s; of held-out text's hidden letters are said rightly:")
    for name in ("most frequent", "neighbours", "BERT"):
        print(f"{result[name]:7.1%}  {name}")
    print(f"BERT's loss there is {result['loss']:.3f}")
    if sentence:
        print(f"{sentence}\n{fill(model, text, sentence)}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A small BERT learns to say which letters were hidden from it.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--fill", default=FILL, help="a sentence with _ for hidden letters")
    options = parser.parse_args()
    main(options.steps, sentence=options.fill)
