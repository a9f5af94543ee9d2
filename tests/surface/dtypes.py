"""Casts by name, and bits read in another width. Floats that an integer cannot hold are `tests/primitives.py`'s."""

from __future__ import annotations

import torch

from .entry import ALL, BOOL, FLOATS, HALVES, INTS, WIDE, Entry, Operand


def packed(x):
    """torch views the bits of what has a last stride of 1, on an axis of 1 too."""
    return x.clone(memory_format=torch.contiguous_format)


def narrow(x):
    """The bits of x in elements of half its width; in torch's words, a view."""
    if isinstance(x, torch.Tensor):
        return packed(x).view({8: torch.int32, 4: torch.int16, 2: torch.int8}[x.element_size()])
    return x.bitcast({8: "int32", 4: "int16", 2: "int8"}[x.element_size()])


def wide(x):
    """The bits of x, two elements in one."""
    if isinstance(x, torch.Tensor):
        return packed(x).view({1: torch.int16, 2: torch.int32, 4: torch.int64}[x.element_size()])
    return x.bitcast({1: "int16", 2: "int32", 4: "int64"}[x.element_size()])


# fmt: off
ENTRIES = [
    Entry("half", "Tensor.half", lambda x: x.half(), dtypes=ALL, derivatives=0),
    Entry("bfloat16", "Tensor.bfloat16", lambda x: x.bfloat16(), dtypes=ALL, derivatives=0),
    Entry("float", "Tensor.float", lambda x: x.float() * 0.5, dtypes=ALL, tolerance=1e-6),
    Entry("double", "Tensor.double", lambda x: x.double() * x, dtypes=ALL),
    # torch rounds a float64 twice on its way to a half
    Entry("half there and back", (), lambda x: x.half().float(), dtypes=(*BOOL, *INTS, *HALVES, "float32"),
          derivatives=0),
    Entry("short", "Tensor.short", lambda x: x.short(), dtypes=ALL, derivatives=0, special=False),
    Entry("int", "Tensor.int", lambda x: x.int(), dtypes=ALL, derivatives=0, special=False),
    Entry("long", "Tensor.long", lambda x: x.long(), dtypes=ALL, derivatives=0, special=False),
    Entry("bool", "Tensor.bool", lambda x: x.bool(), dtypes=ALL, derivatives=0),
    Entry("cast by name", "Tensor.cast", lambda x: x.cast("float64"), lambda x: x.double(), dtypes=ALL),
    Entry("bitcast to halves", "Tensor.bitcast", narrow, dtypes=("int16", "int32", "int64", *WIDE), derivatives=0,
          operands=(Operand(min_dims=1),), special=False),
    # of what is empty torch wants strides that it does not give it
    Entry("bitcast to twice the width", "Tensor.bitcast", wide, dtypes=("int8", "int16", "int32", "uint8", "float32"),
          derivatives=0, operands=(Operand(min_dims=1, min_size=1),), special=False),
    # dtypes meet, whatever the dimensions
    Entry("integers meet a number", (), lambda x: (x + 1, x * 2.5, x + True), dtypes=INTS + BOOL, derivatives=0),
    Entry("floats meet a number", (), lambda x: (x + 1, x * 2.5, x + True), dtypes=FLOATS, special="mild"),
    Entry("a dtype meets int16", (), lambda x, y: x + y, operands=(Operand(), Operand(dtype="int16", constant=True)),
          dtypes=ALL, special="mild"),
    Entry("a dtype meets int64 without dimensions", (), lambda x, y: x * y,
          operands=(Operand(), Operand((), dtype="int64", low=-9, high=9, constant=True)), dtypes=ALL, special="mild"),
    Entry("a dtype meets float32", (), lambda x, y: x * y,
          operands=(Operand(), Operand(dtype="float32", constant=True)), dtypes=ALL, special="mild"),
    Entry("a dtype meets float64 without dimensions", (), lambda x, y: x * y,
          operands=(Operand(), Operand((), dtype="float64", constant=True)), dtypes=ALL, special="mild"),
]
