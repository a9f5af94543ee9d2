"""BLEU, and the translator by example that a model has to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Optional

import numpy as np


def bleu(found: Sequence[str], references: Sequence[str]) -> Optional[float]:
    """Corpus BLEU as sacrebleu computes it, 0 to 100; None where sacrebleu is not installed."""
    try:
        import sacrebleu
    except ImportError:
        return None
    return sacrebleu.corpus_bleu(list(found), [list(references)]).score


def nearest(sentences: Sequence[str], queries: Sequence[str]) -> np.ndarray:
    """For each query the index of the most similar sentence, the first of equals: int (len(queries)).

    Similar means a large cosine between counts of words and of runs of three to four characters, each weighted by
    log(n / how many sentences have it), n the number of sentences.

    >>> nearest(["the red house", "a blue car", "nothing"], ["her blue cars", "that house"]).tolist()
    [1, 0]
    """
    counts = [Counter(features(sentence)) for sentence in sentences]
    having = Counter(feature for count in counts for feature in count)
    weight = {feature: np.log((1 + len(sentences)) / n) for feature, n in having.items()}
    postings: dict[str, list[tuple[int, float]]] = {}
    lengths = np.ones(len(sentences))
    for i, count in enumerate(counts):
        lengths[i] = max(sum((n * weight[f]) ** 2 for f, n in count.items()) ** 0.5, 1e-9)
        for feature, n in count.items():
            postings.setdefault(feature, []).append((i, n * weight[feature]))
    arrays = {f: (np.array([i for i, _ in p]), np.array([w for _, w in p])) for f, p in postings.items()}
    best = np.zeros(len(queries), np.int64)
    for q, query in enumerate(queries):
        score = np.zeros(len(sentences))
        for feature, n in Counter(features(query)).items():
            if feature in arrays:
                where, values = arrays[feature]
                score[where] += n * weight[feature] * values
        best[q] = int((score / lengths).argmax())
    return best


def features(sentence: str) -> list[str]:
    """The words of a sentence, and its runs of three and four characters."""
    text = f" {' '.join(sentence.casefold().split())} "
    return text.split() + [text[i : i + n] for n in (3, 4) for i in range(len(text) - n + 1)]
