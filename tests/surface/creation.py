"""Tensors from rules: numbers, ranges, random numbers.

Random numbers are not torch's; their shapes, dtypes and ranges are, and so is what leaves nothing to chance.
`tests/test_random.py` tests how they are distributed. The operand lends its shape, its dtype and its device.
"""

from __future__ import annotations

import torch

from clgrad import Tensor

from .entry import ALL, FLOATS, INTS, WIDE, Entry, Operand

# Where torch computes with vectors, numbers depend on the processor's: ours are the nearest to the exact ones.
NEAREST = 2


def _made(rule):
    """`rule(maker, x, **where)` for each of the two: `maker` makes Tensors or torch's tensors as `where` says."""

    def ours(x):
        return rule(Tensor, x, dtype=x.dtype, device=x.device)

    def theirs(x):
        return rule(torch, x, dtype=x.dtype)

    return {"ours": ours, "theirs": theirs}


def _within(x, low, high):
    """Zeros of its shape and dtype, and whether all of it lies in [low, high]."""
    return x * 0, (x >= low).all(), (x <= high).all()


def _rows(ours, theirs):
    """Two functions of a shape, made functions of the operand."""
    return {
        "ours": lambda x: ours(*x.shape, dtype=x.dtype, device=x.device),
        "theirs": lambda x: theirs(x.shape, dtype=x.dtype),
    }


def _uniform(bound):
    """Zeros of a weight's shape, and whether it lies within a bound that follows from that."""
    return lambda x: _within(torch.zeros_like(x), -bound(x.shape), bound(x.shape))


def _size(shape) -> int:
    return max(1, torch.Size(shape).numel())


def _standardised(x):
    """Zeros of its shape and dtype, and whether all of it is finite."""
    return x * 0, (x * 0 == 0).all()


WEIGHTS = (Operand(min_dims=1, max_dims=3, min_size=1),)
NUMBER = (Operand(shape=()),)  # of which nothing but dtype and device matters
COMMON = {"derivatives": 0, "special": False}
SPREAD = {"derivatives": 0, "special": False, "dtypes": FLOATS}

# fmt: off
ENTRIES = [
    Entry("full", "Tensor.full", lambda x: Tensor.full(x.shape, 3, dtype=x.dtype, device=x.device),
          lambda x: torch.full(x.shape, 3, dtype=x.dtype), dtypes=ALL, **COMMON),
    Entry("full(no dtype)", "Tensor.full",
          lambda x: tuple(Tensor.full(x.shape, v, device=x.device) for v in (3, 2.5, True)),
          lambda x: tuple(torch.full(x.shape, v) for v in (3, 2.5, True)), **COMMON),
    Entry("zeros", "Tensor.zeros", **_rows(Tensor.zeros, torch.zeros), dtypes=ALL, **COMMON),
    Entry("ones", "Tensor.ones", **_rows(Tensor.ones, torch.ones), dtypes=ALL, **COMMON),
    Entry("empty", "Tensor.empty", **_rows(Tensor.empty, torch.zeros), dtypes=ALL, **COMMON),
    Entry("_like", ("Tensor.full_like", "Tensor.zeros_like", "Tensor.ones_like", "Tensor.empty_like"),
          lambda x: (x.full_like(2), x.zeros_like(), x.ones_like(), x.empty_like()),
          lambda x: (torch.full_like(x, 2), torch.zeros_like(x), torch.ones_like(x), torch.zeros_like(x)),
          dtypes=ALL, **COMMON),
    Entry("_like(dtype)", ("Tensor.full_like", "Tensor.zeros_like", "Tensor.ones_like", "Tensor.empty_like"),
          lambda x: (x.full_like(2.5, dtype="float64"), x.zeros_like(dtype="int8"), x.ones_like(dtype="bool"),
                     x.empty_like(dtype="int32")),
          lambda x: (torch.full_like(x, 2.5, dtype=torch.float64), torch.zeros_like(x, dtype=torch.int8),
                     torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x, dtype=torch.int32)),
          dtypes=ALL, **COMMON),
    Entry("arange", "Tensor.arange", lambda x: tuple(
              Tensor.arange(*a, device=x.device) for a in ((5,), (0,), (2, 7), (7, 2, -2), (2.5,), (0.5, 3, 0.25))),
          lambda x: tuple(
              torch.arange(*a) for a in ((5,), (0,), (2, 7), (7, 2, -2), (2.5,), (0.5, 3, 0.25))),
          operands=NUMBER, **COMMON),
    Entry("arange(dtype)", "Tensor.arange", **_made(lambda make, x, **where: (
              make.arange(7, **where), make.arange(3, 20, 5, **where), make.arange(9, 2, -3, **where),
              make.arange(0.5, 7, 1.75, **where))), operands=NUMBER, dtypes=INTS + FLOATS, **COMMON),
    Entry("arange(float steps)", "Tensor.arange", **_made(lambda make, x, **where: (
              make.arange(-3.3, 9.9, 0.7, **where), make.arange(0, 100, 0.1, **where),
              make.arange(5, -5, -0.01, **where))), operands=NUMBER, dtypes=WIDE, ulp=NEAREST, derivatives=0,
          special="mild"),
    Entry("linspace", "Tensor.linspace", **_made(lambda make, x, **where: (
              make.linspace(0, 10, 11, **where), make.linspace(3, 90, 8, **where), make.linspace(50, 0, 7, **where),
              make.linspace(2, 9, 1, **where), make.linspace(2, 9, 0, **where))),
          operands=NUMBER, dtypes=INTS + FLOATS, ulp=NEAREST, **COMMON),
    Entry("linspace of fractions", "Tensor.linspace", **_made(lambda make, x, **where: (
              make.linspace(-3.3, 10, 70, **where), make.linspace(0.1, 0.2, 20, **where))),
          operands=NUMBER, dtypes=FLOATS, ulp=NEAREST, **COMMON),
    Entry("eye", "Tensor.eye", **_made(lambda make, x, **where: (
              make.eye(3, **where), make.eye(2, 4, **where), make.eye(4, 0, **where), make.eye(3, 1, **where))),
          operands=NUMBER, dtypes=ALL, **COMMON),
    Entry("clone", "Tensor.clone", lambda x: x.clone() * x.clone(), dtypes=ALL),
    # --- random numbers: shapes, dtypes and ranges ---
    Entry("rand", "Tensor.rand", lambda x: _within(Tensor.rand(*x.shape, dtype=x.dtype, device=x.device), 0, 1),
          lambda x: _within(torch.rand(x.shape, dtype=x.dtype), 0, 1), **SPREAD),
    Entry("rand_like", "Tensor.rand_like", lambda x: _within(x.rand_like(), 0, 1),
          lambda x: _within(torch.rand_like(x), 0, 1), **SPREAD),
    Entry("uniform", "Tensor.uniform",
          lambda x: _within(Tensor.uniform(*x.shape, low=-2, high=5, dtype=x.dtype, device=x.device), -2, 5),
          lambda x: _within(torch.empty_like(x).uniform_(-2, 5), -2, 5), **SPREAD),
    Entry("randn", "Tensor.randn", lambda x: _standardised(Tensor.randn(*x.shape, dtype=x.dtype, device=x.device)),
          lambda x: _standardised(torch.randn(x.shape, dtype=x.dtype)), **SPREAD),
    Entry("randn_like", "Tensor.randn_like", lambda x: _standardised(x.randn_like()),
          lambda x: _standardised(torch.randn_like(x)), **SPREAD),
    Entry("normal(std=0)", "Tensor.normal",
          lambda x: Tensor.normal(*x.shape, mean=1.5, std=0, dtype=x.dtype, device=x.device),
          lambda x: torch.empty_like(x).normal_(1.5, 0), **SPREAD),
    Entry("randint", "Tensor.randint",
          lambda x: _within(Tensor.randint(*x.shape, low=2, high=9, dtype=x.dtype, device=x.device), 2, 8),
          lambda x: _within(torch.randint(2, 9, x.shape, dtype=x.dtype), 2, 8), dtypes=INTS + FLOATS, **COMMON),
    Entry("randint(one)", "Tensor.randint",
          lambda x: Tensor.randint(*x.shape, low=-7, high=-6, device=x.device),
          lambda x: torch.randint(-7, -6, x.shape), **COMMON),
    Entry("randint_like", "Tensor.randint_like", lambda x: _within(x.randint_like(3, 100), 3, 99),
          lambda x: _within(torch.randint_like(x, 3, 100), 3, 99), dtypes=INTS + FLOATS, **COMMON),
    Entry("randperm", "Tensor.randperm",
          lambda x: (Tensor.randperm(30, device=x.device).sort()[0], Tensor.randperm(1, device=x.device),
                     Tensor.randperm(0, device=x.device), Tensor.randperm(9, dtype="int8", device=x.device) * 0),
          lambda x: (torch.randperm(30).sort()[0], torch.randperm(1), torch.randperm(0),
                     torch.randperm(9, dtype=torch.int8) * 0), operands=NUMBER, **COMMON),
    Entry("multinomial", "Tensor.multinomial", lambda x: (
              (x == x.max(-1, keepdim=True)).cast(x.dtype).multinomial(3, replacement=True),
              (x == x.max(-1, keepdim=True)).cast(x.dtype).multinomial()),
          lambda x: ((x == x.amax(-1, keepdim=True)).to(x.dtype).multinomial(3, True),
                     (x == x.amax(-1, keepdim=True)).to(x.dtype).multinomial(1)), dtypes=WIDE, **COMMON,
          operands=(Operand(shape=(2, 6), distinct=True),)),
    Entry("scaled_uniform", "Tensor.scaled_uniform",
          lambda x: _within(Tensor.scaled_uniform(*x.shape, dtype=x.dtype, device=x.device),
                            -(_size(x.shape) ** -0.5), _size(x.shape) ** -0.5),
          _uniform(lambda shape: _size(shape) ** -0.5), dtypes=WIDE, **COMMON),
    Entry("glorot_uniform", "Tensor.glorot_uniform",
          lambda x: _within(Tensor.glorot_uniform(*x.shape, dtype=x.dtype, device=x.device), *_glorot(x.shape)),
          _uniform(lambda shape: _glorot(shape)[1]), operands=WEIGHTS, dtypes=WIDE, **COMMON),
    Entry("kaiming_uniform", "Tensor.kaiming_uniform",
          lambda x: _within(Tensor.kaiming_uniform(*x.shape, a=0.5, dtype=x.dtype, device=x.device), *_he(x.shape)),
          _uniform(lambda shape: _he(shape)[1]), operands=WEIGHTS, dtypes=WIDE, **COMMON),
    Entry("kaiming_normal", "Tensor.kaiming_normal",
          lambda x: _standardised(Tensor.kaiming_normal(*x.shape, a=0.5, dtype=x.dtype, device=x.device)),
          lambda x: _standardised(torch.zeros_like(x)), operands=WEIGHTS, dtypes=WIDE, **COMMON),
]
# fmt: on


def _glorot(shape) -> tuple[float, float]:
    bound = (6 / (shape[0] + _size(shape[1:]))) ** 0.5
    return -bound, bound


def _he(shape) -> tuple[float, float]:
    bound = (6 / 1.25 / _size(shape[1:])) ** 0.5
    return -bound, bound
