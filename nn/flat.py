"""Many Tensors seen as one, for what treats every element alike: norms, clipping, optimisers.

Tensors that may share memory form a bundle. Joined, they are one flat Tensor; the parts of a flat Tensor have their
shapes again. Neither moves an element: the engine computes what is joined where it will lie, and gives parts of one
value to the names that take them. So an optimiser has one update to run, and not one for each parameter.

>>> from clgrad import Tensor
>>> weight, bias = Tensor.ones(16, 4), Tensor.zeros(64)
>>> [len(bundle) for bundle in bundles([bias, weight])]
[2]
>>> flat = join([weight, bias])
>>> flat.shape, [part.shape for part in parts(flat + 1, [weight, bias])]
((128,), [(16, 4), (64,)])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..backends.base import ALIGNMENT
from ..engine.tensor import Tensor


def bundles(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Lists of Tensors of one device and dtype, matrices first, so that the usual groups of an optimiser (what decays,
    and what does not) are stretches of what clipping joins. A Tensor that would leave the next one unaligned is alone.
    """
    together: dict[tuple, list[Tensor]] = {}
    alone: list[list[Tensor]] = []
    for t in sorted(tensors, key=lambda t: -t.ndim):
        nbytes = t.numel() * t.dtype.itemsize
        if nbytes == 0 or nbytes % ALIGNMENT:
            alone.append([t])
        else:
            together.setdefault((t.device, t.dtype), []).append(t)
    return [*together.values(), *alone]


def join(tensors: Sequence[Tensor]) -> Tensor:
    """One flat Tensor of all elements, in order."""
    return tensors[0].reshape(-1) if len(tensors) == 1 else Tensor.cat(*(t.reshape(-1) for t in tensors))


def parts(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """`flat` cut into the shapes of `like`: the inverse of `join`."""
    pieces = flat.split([t.numel() for t in like])
    return [piece.reshape(t.shape) for piece, t in zip(pieces, like, strict=True)]
