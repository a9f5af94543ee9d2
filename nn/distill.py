"""Distillation: a small model learns what a large one expects, rather than only what came.

>>> from clgrad import Tensor, nn
>>> logits = Tensor([[2.0, 0.0, -1.0]])
>>> round(nn.distill.loss(logits, logits).item(), 6)
0.0
"""

from __future__ import annotations

from typing import Optional

from ..engine.tensor import Tensor
from . import functional as F

IGNORED = -100  # the target that cross-entropy leaves out


def loss(
    student: Tensor,
    teacher: Tensor,
    targets: Optional[Tensor] = None,
    temperature: float = 2.0,
    alpha: float = 0.5,
) -> Tensor:
    """alpha τ² KL(softmax(teacher / τ) ‖ softmax(student / τ)) + (1 - alpha) cross-entropy with `targets`.

    Logits are (..., classes), `targets` (...) integers; without them the first term is all of it. The mean over the
    rows, less those whose target is -100; nothing flows into the teacher. τ² keeps the gradients' size the same for
    every temperature (Hinton et al., arXiv 1503.02531). Raises ValueError for shapes that differ, and for a temperature
    or an alpha that is out of range.
    """
    if temperature <= 0 or not 0 <= alpha <= 1:
        raise ValueError(f"distill.loss: needs temperature > 0 and 0 <= alpha <= 1, not {temperature} and {alpha}")
    if student.shape != teacher.shape:
        raise ValueError(
            f"distill.loss: the student's logits {student.shape} are not like the teacher's {teacher.shape}"
        )
    found, expected = ((t / temperature).log_softmax(-1) for t in (student, teacher.detach()))  # (..., classes)
    soft = F.kl_div(found, expected, "none", log_target=True).sum(-1) * temperature**2  # (...)
    if targets is None:
        return soft.mean()
    hard = F.cross_entropy(student.reshape(-1, student.shape[-1]), targets.flatten())
    counts = (targets != IGNORED).cast(soft.dtype)
    return alpha * (soft * counts).sum() / counts.sum() + (1 - alpha) * hard
