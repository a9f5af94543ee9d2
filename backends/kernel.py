"""Kernels: what the engine asks a backend to run, as data.

A Kernel computes over one *iteration space*, `shape`. Its `body` is a list of instructions in the order of
their dependencies (static single assignment: `src` are indices of earlier instructions); its `outputs` say
which values reach memory and where. All movement (reshape, permute, expand, ...) has been pushed into the
Views of the loads, so a body holds arithmetic only.

    softmax(x) over rows of 64:  kind "row", shape (3072, 64), reduce_axes (1,)

    %0 = load        input 0, View((3072, 64), (64, 1))
    %1 = reduce_max  %0                     -> varies over axis 0 only
    %2 = sub         %0 %1
    %3 = exp         %2
    %4 = reduce_sum  %3
    %5 = div         %3 %4
    output 0 = %5 at View((3072, 64), (64, 1))

What each instruction means (T is its dtype; every operand of arithmetic has T unless said otherwise):

    load         arg (input slot, View over `shape`); where the View's mask excludes a point, 0
    const        arg a Python bool, int or float; the same everywhere
    iota         arg View over `shape`; the value is the View's flat position (0 outside its mask), an integer
    random       src (key, counter), both uint64 scalars; arg View over `shape`; T is uint32. With p the flat
                 position: word p % 4 of Philox4x32-10 (Salmon et al., SC 2011) with the key split into
                 (low, high) words and the counter words (low, high of counter + p // 4, 0, 0); 0 outside its mask
    valid        arg View over `shape`; T is bool: whether the point lies inside the View's mask
    gather       src (index,): an integer of any width; arg (input slot, View over `shape`, stride, rows):
                 the element at View position + index * stride, or 0 outside the View's mask; an index outside
                 0 <= index < rows reads nothing, gives 0 and is reported (see Backend)
    reduce_sum, reduce_max, reduce_prod
                 src (value,); the reduction over all of `reduce_axes`; result constant along them. NaN wins in
                 reduce_max. A sum of halves is accumulated in float32 and rounded once
    dot          arg (left slot, left View (*batch, M, K), right slot, right View (*batch, K, N)), both inputs of
                 dtype T; the iteration space is (*batch, M, N); halves accumulate in float32. No masks.
                 If the kernel has a `packing`, the right operand is uint8 (bytes, N), contiguous along its bytes: each
                 column holds K numbers of T, which is float32, in blocks of that packing
    elementwise  see ELEMENTWISE
    custom       src any number of operands of one dtype; arg a Custom, the function to apply to each point

`kind` is "loop" (no reduction), "row" (reductions over `reduce_axes`), "dot" (exactly one dot; elementwise work on
its result follows), "scatter", "sort" or "attention". A row kernel's reductions may depend on one another: a value that
uses a reduction is known after a full pass over `reduce_axes`. Outputs of a row kernel whose View has stride 0 on every
reduce axis are written once a row. The Views of outputs never overlap themselves.

A scatter kernel has an empty body and `scatter` set: output 0, contiguous (rows, *rest), is the sum
over i of values[i] into row index[i], added in the order of i, starting from zero, each sum rounded to the dtype.
Its inputs are 0 (values) and 1 (index). If it is to `replace`, output 0 holds rows already, and row index[i] becomes
values[i]; of equal indices the last wins.

A sort kernel has an empty body and `sort` set: see there.

An attention kernel has an empty body and `attention` set: see there. Its `shape` is (*batch, queries, keys), and output
number i, at its View, is the result that `attention.results[i]` names.

An output shares memory with no input, but for the pairs (output number, input slot) in `in_place`: there the two are
one buffer, and every load of that slot has the View of that output, so that a point is read before it is written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Optional

from .dtypes import DType
from .packing import Packing
from .view import View

ELEMENTWISE: dict[str, int] = {
    # one operand. Floats only, but for neg, which wraps on integers.
    "neg": 1, "exp": 1, "log": 1, "sin": 1, "cos": 1, "tanh": 1, "sqrt": 1, "reciprocal": 1, "erf": 1,
    "expm1": 1, "log1p": 1, "exp2": 1, "log2": 1, "log10": 1, "tan": 1, "asin": 1, "acos": 1, "atan": 1, "sinh": 1,
    "cosh": 1, "asinh": 1, "acosh": 1, "atanh": 1, "floor": 1,
    # two operands. Integers wrap. On bool, add and max are "or", mul is "and"; sub, neg, div do not exist.
    "add": 2, "sub": 2, "mul": 2,
    "div": 2,         # floats only, IEEE: x/0 is inf or NaN
    "idiv": 2,        # rounds down; integer x//0 = 0, INT_MIN//-1 = INT_MIN; floats as numpy.floor_divide
    "mod": 2,         # integers and floats, the sign of the divisor; integer x%0 = 0, float x%0 = NaN; as numpy.mod
    "max": 2,         # NaN if either is; max(0.0, -0.0) may be either zero
    "pow": 2,         # floats as C's pow; integers wrap, and x**-n is 1 // x**n rounded towards 0, and 0**-n = 0
    "lt": 2, "eq": 2,  # result bool, operands of one dtype; any comparison with NaN is False
    "and": 2, "or": 2, "xor": 2,  # integers and bool
    "shl": 2, "shr": 2,  # integers; by the width or more, or by a negative amount: 0, and -1 for shr of a negative
    "where": 3,       # src (bool, T, T)
    "cast": 1,        # to T: float to integer truncates, saturates, NaN gives 0; integers wrap; to bool is x != 0
    "bitcast": 1,     # the same bits under a dtype of the same width; never bool
    "custom": 0,      # any number of operands, and arg the function: see Custom
}  # fmt: skip
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_prod")


@dataclass(frozen=True, eq=False)
class Custom:
    """An elementwise function of the user's, as a backend has to know it. Itself only is equal to it.

    `numpy` takes arrays that broadcast and gives one of their common shape; halves come as float32. `opencl` is an
    expression in OpenCL C of the `operands`, or the body of a function, in which T names their type.
    """

    name: str
    operands: tuple[str, ...]
    numpy: Callable[..., Any]
    opencl: Optional[str]


class Instr(NamedTuple):
    """One value of a Kernel's body. `src` are indices into the body."""

    op: str
    src: tuple[int, ...]
    arg: Any
    dtype: DType


class Output(NamedTuple):
    """Value number `value` of the body is written to output buffer number = position in `Kernel.outputs`, at `view`."""

    value: int
    view: View


@dataclass(frozen=True)
class Scatter:
    """Sizes of a scatter: `count` values of `width` elements each into `rows` rows, added or replaced.

    `values` is a View of shape (count, width) over input 0, `index` one of shape (count,) over input 1.
    """

    count: int
    width: int
    rows: int
    values: View
    index: View
    replace: bool = False


@dataclass(frozen=True)
class Sort:
    """Positions that sort each run of `run` neighbours in each of `rows` rows of `length`; a row's last may be shorter.

    Output 0, contiguous (rows, length), int32, holds for each run the positions in the row of its elements, in the
    order of their `keys`, of equal ones the earlier first. The keys are integers, a View of shape (rows, length) over
    input 0. Where there is an `order`, a View over input 1, it is such an output for runs of half the length.
    """

    rows: int
    length: int
    run: int
    keys: View
    order: Optional[View] = None


@dataclass(frozen=True)
class Attention:
    """softmax(S) v, or what its gradient needs, with the scores S = scale q k^T + mask never in memory as a whole.

    The operands are (name, input slot, View over its shape):

        q (*batch, queries, D), k (*batch, keys, D), v (*batch, keys, E)
        mask (*batch, queries, keys), where there is one: added to the scores, or bool, and -inf where it is False
        output, grad (*batch, queries, E), logsumexp (*batch, queries, 1): for the gradients only

    With `causal`, query t sees keys 0 to t. The `results` are some of

        output      softmax(S) v                       logsumexp   log sum_j exp(S_ij)
        query       dS k scale                         key         dS^T q scale
        value       P^T grad                           with P = exp(S - logsumexp), dP = grad v^T
                                                       and dS = P (dP - sum_e grad output)

    (Dao et al., FlashAttention, arXiv 2205.14135). Where a row of S is all -inf, its output and logsumexp are 0, and so
    is its P: such a query gets and gives nothing. All of one floating dtype, but for a bool mask, and the logsumexp of
    halves, which is float32: halves are computed in float32 throughout. Whether a NaN or an infinity of a key or value
    reaches the queries that causality hides it from is left open, so that whole blocks of such pairs may be skipped.
    """

    operands: tuple[tuple[str, int, View], ...]
    results: tuple[str, ...]
    scale: float
    causal: bool


@dataclass(frozen=True, eq=False)
class Kernel:
    """One launch. `inputs` and `output_dtypes` give the element type of each buffer, in the order of its arguments."""

    kind: str
    shape: tuple[int, ...]
    reduce_axes: tuple[int, ...]
    body: tuple[Instr, ...]
    outputs: tuple[Output, ...]
    inputs: tuple[DType, ...]
    output_dtypes: tuple[DType, ...]
    scatter: Optional[Scatter] = None
    sort: Optional[Sort] = None
    attention: Optional[Attention] = None
    packing: Optional[Packing] = None
    in_place: tuple[tuple[int, int], ...] = ()
    name: str = "kernel"  # for people: "row_8_max_exp_sum"; not part of what is computed

    @cached_property
    def key(self) -> tuple:
        """Everything that is computed, and no name. Constants by their bits: 0.0 is not -0.0, and NaN is itself."""
        body = tuple(
            (i.op, struct.pack("d", i.arg), i.dtype) if i.op == "const" and isinstance(i.arg, float) else i
            for i in self.body
        )
        return (
            self.kind, self.shape, self.reduce_axes, body, self.outputs, self.inputs, self.output_dtypes, self.scatter,
            self.sort, self.attention, self.packing, self.in_place,
        )  # fmt: skip

    @cached_property
    def _hash(self) -> int:
        return hash(self.key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other) -> bool:
        return isinstance(other, Kernel) and self.key == other.key

    @property
    def is_copy(self) -> bool:
        """Whether one value is moved, and nothing else is done."""
        return len(self.outputs) == 1 and len(self.body) == 1 and self.body[0].op == "load"

    @cached_property
    def inner(self) -> tuple[bool, ...]:
        """For each value of the body, whether it varies along the reduce axes (must be evaluated inside the row)."""
        flags: list[bool] = []
        for instr in self.body:
            view = _view_of(instr)
            own = view is not None and any(
                view.strides[a] != 0 or (view.mask is not None and view.mask[a] != (0, view.shape[a]))
                for a in self.reduce_axes
            )
            flags.append(instr.op not in REDUCTIONS and (own or any(flags[s] for s in instr.src)))
        return tuple(flags)

    @cached_property
    def stage(self) -> tuple[int, ...]:
        """For each value, how many passes over the row must have ended before it can be computed."""
        stages: list[int] = []
        for instr in self.body:
            ready = max((stages[s] for s in instr.src), default=0)
            stages.append(ready + (instr.op in REDUCTIONS))
        return tuple(stages)

    def __str__(self) -> str:
        lines = [
            f"{self.kind} {self.name} over {self.shape}" + (f" reducing {self.reduce_axes}" if self.reduce_axes else "")
        ]
        for i, (op, src, arg, dtype) in enumerate(self.body):
            operands = " ".join(f"%{s}" for s in src)
            lines.append(f"  %{i} = {op:<10} {operands:<12} {'' if arg is None else arg}  {dtype.name}".rstrip())
        for special in (self.scatter, self.sort):
            if special is not None:
                lines.append(f"  {special}")
        if self.packing is not None:
            lines.append(f"  {self.packing}")
        if self.attention is not None:
            a = self.attention
            lines.append(f"  scale {a.scale}" + (", causal" if a.causal else ""))
            lines += [f"  {name:<9} = input {slot} at {view}" for name, slot, view in a.operands]
            names = zip(a.results, self.outputs, strict=True)
            return "\n".join(lines + [f"  output {i} = {name} at {view}" for i, (name, (_, view)) in enumerate(names)])
        lines += [f"  output {i} = %{value} at {view}" for i, (value, view) in enumerate(self.outputs)]
        return "\n".join(lines)


def _view_of(instr: Instr) -> Optional[View]:
    """The View over the iteration space through which an instruction reads, if it has one."""
    if instr.op in ("load", "gather"):
        return instr.arg[1]
    return instr.arg if instr.op in ("iota", "random", "valid") else None
