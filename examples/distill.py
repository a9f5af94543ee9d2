"""Distillation: does a small model learn more from a large one than from the text alone?

    python examples/distill.py

A small student is trained twice from the same first weights, on the same batches, for as many steps: on the letters
that come next, and on what a trained teacher expects there.
"""

from __future__ import annotations

import argparse

from small import STEPS, adamw, base_model, fit, plain_step, read_text, small_gpt, validation_loss

from clgrad import Tensor, nn
from clgrad.models import GPT

STUDENT = dict(n_layer=1, n_head=2, n_embd=32)


def main(steps: int = STEPS, teaching: int = STEPS, content: str | None = None, **sizes: int) -> dict[str, float]:
    """Validation losses of the teacher, of the student alone, and of the distilled one."""
    text = read_text(content)
    teacher = base_model(text, teaching, **sizes).eval()
    block = teacher.config.block_size
    results = {"teacher": validation_loss(teacher, text)}
    print(f"teacher            validation loss {results['teacher']:.4f}, {teacher.num_parameters():,} parameters")

    def distilled(model: GPT, x: Tensor, y: Tensor) -> Tensor:
        with Tensor.no_grad():
            expected, _ = teacher(x)  # (B, T, V)
        logits, _ = model(x)
        return nn.distill.loss(logits, expected, y, temperature=1.0, alpha=0.9)

    for name in ("alone", "distilled"):
        student = small_gpt(text, block_size=block, **STUDENT)
        optimizer = adamw(student, weight_decay=0.0)
        step = plain_step(student, optimizer, distilled) if name == "distilled" else plain_step(student, optimizer)
        seconds = fit(step, optimizer, text, steps, peak=3e-3, block=block)
        results[name] = validation_loss(student, text)
        print(
            f"student {name:10} validation loss {results[name]:.4f}, {student.num_parameters():,} parameters, "
            f"{steps} steps in {seconds:.0f} s"
        )
    print(f"distillation is worth {results['alone'] - results['distilled']:.4f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--teaching", type=int, default=STEPS)
    options = parser.parse_args()
    main(options.steps, options.teaching)
