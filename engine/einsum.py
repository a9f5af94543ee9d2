"""einsum: a formula for sums of products, contracted two operands at a time.

Comes in: a formula such as "bij,bjk->bik" and one operand for each of its terms. Goes out: products of matrices, in an
order that keeps what lies between them small. Before two operands meet, each is made as small as the formula allows:
indices that repeat within a term become a diagonal, and what no other term and no output mentions is summed at once.

>>> from clgrad import Tensor
>>> a, b = Tensor([[1.0, 2.0], [3.0, 4.0]]), Tensor([10.0, 1.0])
>>> Tensor.einsum("ij,j->i", a, b).tolist(), Tensor.einsum("ii", a).item()
([12.0, 34.0], 5.0)
"""

from __future__ import annotations

from functools import reduce
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ..backends import dtypes
from .ops import ShapeError
from .products import matmul

if TYPE_CHECKING:
    from .tensor import Tensor


class Term(NamedTuple):
    """An operand and the name of each of its axes: a letter, or a negative number for one of those under `...`."""

    x: Tensor
    axes: tuple

    def __repr__(self) -> str:
        return f"{''.join(a for a in self.axes if isinstance(a, str))} of shape {self.x.shape}"


def einsum(formula: str, *operands, dtype=None) -> Tensor:
    """The sum over all indices that are not in the output of the products of the operands, as in PyTorch and NumPy.

    `formula` names the axes of each operand by letters, and after "->" those of the result; without "->" these are the
    letters that occur once, in alphabetical order, after the axes under "...". A letter that occurs twice in one term
    means its diagonal; "..." stands for any number of axes, which broadcast; size 1 broadcasts to any other.

    The operands (or one list of them) meet in one dtype, and the result is cast to `dtype` if that is given. Raises
    ShapeError for a formula that does not parse or does not fit the operands.
    """
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
    names, output = _parse(formula, [x.shape for x in tensors])
    met = reduce(dtypes.promote, (x.dtype for x in tensors))
    sizes = _sizes(formula, names, tensors)
    terms = [_reduced(_spread(Term(x.cast(met), axes), sizes)) for x, axes in zip(tensors, names, strict=True)]
    terms = [_summed(term, _needed(terms, (term,), output)) for term in terms]
    while len(terms) > 1:
        pairs = [(*pair, _needed(terms, pair, output)) for pair in combinations(terms, 2)]
        a, b, needed = min(pairs, key=lambda pair: _growth(pair[0], pair[1], pair[2], sizes))
        terms = [t for t in terms if t is not a and t is not b] + [_product(a, b, needed, sizes)]
    (x, axes) = terms[0]
    x = x.permute(*(axes.index(a) for a in output))
    return x if dtype is None else x.cast(dtype)


# --- the formula ------------------------------------------------------------------------------------------------------


def _parse(formula: str, shapes: list[tuple[int, ...]]) -> tuple[list[tuple], tuple]:
    """The names of the axes of every operand, and of the result."""
    left, arrow, right = formula.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes) or not shapes:
        raise ShapeError(f"einsum: {formula!r} has {len(terms)} terms, and there are {len(shapes)} operands")
    names = [_named(formula, term, len(shape), shape) for term, shape in zip(terms, shapes, strict=True)]
    dots = tuple(sorted({a for axes in names for a in axes if isinstance(a, int)}))
    if not arrow:
        letters = [a for axes in names for a in axes if isinstance(a, str)]
        return names, (*dots, *sorted(a for a in set(letters) if letters.count(a) == 1))
    output = _named(formula, right, len(right.replace("...", "")) + len(dots) * ("..." in right), ())
    known = {a for axes in names for a in axes}
    for a in output:
        if output.count(a) > 1 or a not in known:
            raise ShapeError(
                f"einsum: {a!r} of the output of {formula!r} must be in one operand, and once in the output"
            )
    return names, output


def _named(formula: str, term: str, rank: int, shape: tuple[int, ...]) -> tuple:
    """One name an axis; those under `...` are counted from the last, -1, so that they broadcast from the right."""
    before, dots, after = term.partition("...")
    if not all(c.isascii() and c.isalpha() for c in before + after):
        raise ShapeError(f"einsum: {term!r} of {formula!r} must be letters, and perhaps one '...'")
    hidden = rank - len(before + after)
    if hidden < 0 or (hidden and not dots):
        raise ShapeError(f"einsum: {term!r} of {formula!r} does not name the {rank} axes of shape {shape}")
    return (*before, *range(-hidden, 0), *after)


def _sizes(formula: str, names: list[tuple], tensors: list[Tensor]) -> dict:
    """The size of every axis: that of all operands which have it, but for those where it is 1."""
    sizes: dict = {}
    for x, axes in zip(tensors, names, strict=True):
        for a, n in zip(axes, x.shape, strict=True):
            known = sizes.setdefault(a, n)
            if known == 1:
                sizes[a] = n
            elif n not in (1, known):
                shapes = ", ".join(str(t.shape) for t in tensors)
                raise ShapeError(f"einsum: {formula!r} with operands {shapes} gives {a!r} the sizes {known} and {n}")
    return sizes


# --- one operand ------------------------------------------------------------------------------------------------------


def _spread(term: Term, sizes: dict) -> Term:
    """Without the axes of size 1 where others have more: what is left out broadcasts. But a diagonal needs them."""
    x, axes = term
    if len(set(axes)) < len(axes):
        return Term(x.expand(*(sizes[a] for a in axes)), axes)
    kept = [i for i, a in enumerate(axes) if x.shape[i] == sizes[a]]
    return Term(x.reshape(tuple(x.shape[i] for i in kept)), tuple(axes[i] for i in kept))


def _reduced(term: Term) -> Term:
    """Diagonals instead of names that occur twice."""
    x, axes = term
    for name in dict.fromkeys(axes):
        while axes.count(name) > 1:
            first = axes.index(name)
            second = axes.index(name, first + 1)
            x = _diagonal(x, first, second)
            axes = (*(a for i, a in enumerate(axes) if i not in (first, second)), name)
    return Term(x, axes)


def _diagonal(x: Tensor, first: int, second: int) -> Tensor:
    """The elements whose indices on two axes of one size n are equal, on a new last axis: every n + 1st of n^2."""
    rest = [a for a in range(x.ndim) if a not in (first, second)]
    n, outer = x.shape[first], tuple(x.shape[a] for a in rest)
    whole = [None] * len(outer)
    flat = x.permute(*rest, first, second).reshape((*outer, n * n)).pad([*whole, (0, n)])
    return flat.reshape((*outer, n, n + 1)).shrink([*whole, None, (0, 1)]).reshape((*outer, n))


def _needed(terms: list[Term], but: tuple[Term, ...], output: tuple) -> set:
    """The names that somebody needs beside these terms."""
    return {a for t in terms if all(t is not b for b in but) for a in t.axes}.union(output)


def _summed(term: Term, needed: set) -> Term:
    """Summed over what nobody else needs."""
    x, axes = term
    lonely = tuple(i for i, a in enumerate(axes) if a not in needed)
    return Term(x.sum(lonely, dtype=x.dtype), tuple(a for a in axes if a in needed)) if lonely else term


# --- two operands -----------------------------------------------------------------------------------------------------


def _growth(a: Term, b: Term, needed: set, sizes: dict) -> tuple[int, int]:
    """How much more there is to hold after a pair is contracted, and the work that it takes."""
    union = {*a.axes, *b.axes}
    size = [prod(sizes[n] for n in names) for names in (union & needed, a.axes, b.axes, union)]
    return size[0] - size[1] - size[2], size[3]


def _product(a: Term, b: Term, needed: set, sizes: dict) -> Term:
    """The product of two operands, summed over what nobody needs afterwards (which both have)."""
    shared = [n for n in a.axes if n in b.axes]
    batch, inner = [n for n in shared if n in needed], [n for n in shared if n not in needed]
    rows, columns = [n for n in a.axes if n not in shared], [n for n in b.axes if n not in shared]

    def laid(term: Term, *groups: list) -> Tensor:
        order = [n for group in groups for n in group]
        x = term.x.permute(*(term.axes.index(n) for n in order))
        return x.reshape((*(sizes[n] for n in groups[0]), *(prod(sizes[n] for n in g) for g in groups[1:])))

    left, right = laid(a, batch, rows, inner), laid(b, batch, inner, columns)
    names = (*batch, *rows, *columns)
    result = left * right if not inner else matmul(left, right)  # an outer product needs no sums
    return Term(result.reshape(tuple(sizes[n] for n in names)), names)
