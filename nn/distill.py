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


def loss(
    student: Tensor,
    teacher: Tensor,
    targets: Optional[Tensor] = None,
    temperature: float = 2.0,
    alpha: float = 0.5,
) -> Tensor:
    """alpha τ² KL(softmax(teacher / τ) ‖ softmax(student / τ)) + (1 - alpha) cross-entropy with `targets`.

    Logits are (..., classes), `targets` (...) integers; without them the first term is all of it. The mean over the
    rows; nothing flows into the teacher. τ² keeps the gradients' size the same for every temperature (Hinton et al.,
    arXiv 1503.02531). Raises ValueError for shapes that differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"distill.loss: the student's logits {student.shape} are not like the teacher's {teacher.shape}"
        )
    rows, expected = student.flatten(0, -2), teacher.detach().flatten(0, -2)  # (N, classes)
    soft = F.kl_div(
        (rows / temperature).log_softmax(-1), (expected / temperature).log_softmax(-1), "batchmean", log_target=True
    )
    soft = soft * temperature**2
    if targets is None:
        return soft
    return alpha * soft + (1 - alpha) * F.cross_entropy(rows, targets.flatten())
