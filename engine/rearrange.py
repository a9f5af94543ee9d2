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
Group = tuple[str, ...]  # the axes that one axis is made of
BARE: Group = (DOTS,)  # ... outside of brackets, told apart by identity from one inside


def rearrange(self: Tensor, formula: str, /, **sizes: int) -> Tensor:
    """The axes named on the left of "->" in the order and groups of the right; `sizes` says what a group divides into.

    (a b) is one axis made of two, b varying faster; ... stands for any further axes; 1 and () for one of size 1.
    Raises ShapeError for a formula that is none, and for sizes that do not fit, and says which.
    """
    sides = formula.replace("\u2026", DOTS).split("->")
    if len(sides) != 2:
        raise ShapeError(f'rearrange: "{formula}" needs one ->')
    left, right = (_groups(side, formula) for side in sides)
    names, given = ([name for group in side for name in group] for side in (left, right))
    if len(set(names)) != len(names) or sorted(names) != sorted(given):
        raise ShapeError(f'rearrange: "{formula}" must name each axis once on the left and once on the right')
    open_ended = any(group is BARE for group in left)
    if DOTS in names and not open_ended:
        raise ShapeError(
            f'rearrange: "{formula}" has ... in a group on the left; what it stands for is not known there'
        )
    unknown = sorted(set(sizes) - set(names))
    if unknown:
        raise ShapeError(f'rearrange: "{formula}" has no axis {", ".join(unknown)}')
    extra = self.ndim - len(left) + open_ended
    if extra < 0 or (extra and not open_ended):
        raise ShapeError(f'rearrange: the left of "{formula}" does not have the {self.ndim} axes of {self.shape}')
    dots = tuple(f"{DOTS}{i}" for i in range(extra))
    left, right = _spelt_out(left, dots), _spelt_out(right, dots)

    known: dict[str, int] = {}
    for group, size in zip(left, self.shape, strict=True):
        known |= _divided(group, size, sizes, formula, self.shape)
    order = list(known)
    split = self.reshape(tuple(known.values()))
    moved = split.permute(tuple(order.index(name) for group in right for name in group))
    return moved.reshape(tuple(prod(known[name] for name in group) for group in right))


def _groups(side: str, formula: str) -> list[Group]:
    """The axes of one side, each a tuple of names."""
    groups: list[Group] = []
    inside = False
    for token in TOKEN.findall(side):
        if token in "()":
            if inside == (token == "("):
                raise ShapeError(f'rearrange: the brackets of "{formula}" do not match, or are nested')
            inside = not inside
            if inside:
                groups.append(())
        elif token not in ("1", DOTS) and not token.isidentifier():
            raise ShapeError(f'rearrange: "{token}" in "{formula}" is no name of an axis')
        elif inside:
            groups[-1] = (*groups[-1], *(() if token == "1" else (token,)))
        else:
            groups.append(BARE if token == DOTS else () if token == "1" else (token,))
    if inside:
        raise ShapeError(f'rearrange: the brackets of "{formula}" do not match')
    return groups


def _spelt_out(groups: list[Group], dots: Group) -> list[Group]:
    """With the axes that ... stands for in its place."""
    parts = [part for group in groups for part in ([(dot,) for dot in dots] if group is BARE else [group])]
    return [tuple(name for part in group for name in (dots if part == DOTS else (part,))) for group in parts]


def _divided(group: Group, size: int, sizes: dict[str, int], formula: str, shape: tuple) -> dict[str, int]:
    """The size of each axis of a group that makes up `size`; one of them may follow from the rest."""
    free = [name for name in group if name not in sizes]
    rest = prod(sizes[name] for name in group if name in sizes)
    if len(free) > 1:
        raise ShapeError(f'rearrange: of "{formula}" give the sizes of all but one of {", ".join(free)} by keyword')
    if (free and (not rest or size % rest)) or (not free and rest != size):
        raise ShapeError(f'rearrange: ({" ".join(group)}) of "{formula}" does not make up {size} of {shape}')
    return {name: sizes[name] if name in sizes else size // rest for name in group}
