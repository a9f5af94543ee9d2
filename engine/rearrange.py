"""rearrange: reshape, permute and reshape again, said in one formula (einops, Rogozhnikov 2022).

>>> from clgrad import Tensor
>>> x = Tensor.arange(24).reshape(2, 12)
>>> x.rearrange("b (h w) -> w h b", w=4).shape
(4, 3, 2)
"""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING

from .ops import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

TOKEN = re.compile(r"\.\.\.|[()]|[^\s().]+|\.")
DOTS = "..."


def rearrange(self: Tensor, formula: str, **sizes: int) -> Tensor:
    """The axes named on the left of "->" in the order and the groups of the right; `sizes` says what a group divides into.

    (a b) is one axis made of two, b varying faster; ... stands for any further axes; 1 and () for one of size 1.
    Raises ShapeError for a formula that is none, and for sizes that do not fit, and says which.
    """
    sides = formula.replace("\u2026", DOTS).split("->")
    if len(sides) != 2:
        raise ShapeError(f'rearrange: "{formula}" needs one ->')
    left, right = (_groups(side, formula) for side in sides)
    if [DOTS] not in left and any(DOTS in group for group in left):
        raise ShapeError(f'rearrange: "{formula}" has ... in a group on the left; what it stands for is not known there')
    names = [name for group in left for name in group]
    given = [name for group in right for name in group]
    if len(set(names)) != len(names) or sorted(names) != sorted(given):
        raise ShapeError(f'rearrange: "{formula}" must name each axis once on the left and once on the right')
    unknown = sorted(set(sizes) - set(names))
    if unknown:
        raise ShapeError(f'rearrange: "{formula}" has no axis {", ".join(unknown)}')
    extra = self.ndim - len(left) + ([DOTS] in left)
    if extra < 0 or (extra and [DOTS] not in left):
        raise ShapeError(f'rearrange: the left of "{formula}" does not have the {self.ndim} axes of {self.shape}')
    dots = [f"{DOTS}{i}" for i in range(extra)]
    left = [part for group in left for part in ([[dot] for dot in dots] if group == [DOTS] else [group])]
    right = [part for group in right for part in ([[dot] for dot in dots] if group == [DOTS] else [group])]
    right = [[name for part in group for name in (dots if part == DOTS else [part])] for group in right]

    known: dict[str, int] = {}
    for group, size in zip(left, self.shape, strict=True):
        known |= _divided(group, size, sizes, formula, self.shape)
    order = list(known)
    split = self.reshape(tuple(known.values()))
    moved = split.permute(tuple(order.index(name) for group in right for name in group))
    return moved.reshape(tuple(prod(known[name] for name in group) for group in right))


def _groups(side: str, formula: str) -> list[list[str]]:
    """The axes of one side, each a list of names."""
    groups: list[list[str]] = []
    inside = False
    for token in TOKEN.findall(side):
        if token in "()":
            if inside == (token == "("):
                raise ShapeError(f'rearrange: the brackets of "{formula}" do not match, or are nested')
            inside = not inside
            if inside:
                groups.append([])
        elif token != "1" and token != DOTS and not token.isidentifier():
            raise ShapeError(f'rearrange: "{token}" in "{formula}" is no name of an axis')
        elif inside:
            groups[-1] += [] if token == "1" else [token]
        else:
            groups.append([] if token == "1" else [token])
    if inside:
        raise ShapeError(f'rearrange: the brackets of "{formula}" do not match')
    return groups


def _divided(group: list[str], size: int, sizes: dict[str, int], formula: str, shape: tuple) -> dict[str, int]:
    """The size of each axis of a group that makes up `size`; one of them may follow from the rest."""
    free = [name for name in group if name not in sizes]
    rest = prod(sizes[name] for name in group if name in sizes)
    if len(free) > 1:
        raise ShapeError(f'rearrange: of "{formula}" give the sizes of all but one of {", ".join(free)} by keyword')
    if (free and (not rest or size % rest)) or (not free and rest != size):
        raise ShapeError(f'rearrange: ({" ".join(group)}) of "{formula}" does not make up {size} of {shape}')
    return {name: sizes[name] if name in sizes else size // rest for name in group}
