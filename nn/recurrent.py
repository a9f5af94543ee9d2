"""Recurrent cells: one step in time, from an input and a state to a new state.

>>> from clgrad import Tensor, nn
>>> cell = nn.LSTMCell(3, 4)
>>> hidden, memory = cell(Tensor.zeros(2, 3))
>>> hidden.shape, memory.shape
((2, 4), (2, 4))
"""

from __future__ import annotations

import math
from typing import Optional

from ..engine.ops import ShapeError
from ..engine.tensor import Tensor
from . import init
from .module import Module, parameter


class LSTMCell(Module):
    """One step of a long short-term memory (Hochreiter and Schmidhuber, 1997, with Gers' forget gate).

    i, f, g, o = x W_ih' + b_ih + h W_hh' + b_hh, cut in four;
    c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c').

    x (N, input_size) or (input_size), and the state (h, c), each (N, hidden_size) or (hidden_size), zeros if there is
    none, give (h', c'). weight_ih is (4 hidden_size, input_size), weight_hh (4 hidden_size, hidden_size), and all start
    uniform in ±1/sqrt(hidden_size).
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Optional[str] = None, dtype=None):
        self.input_size, self.hidden_size = input_size, hidden_size
        bound = 1.0 / math.sqrt(max(hidden_size, 1))

        def uniform(*shape: int) -> Tensor:
            return init.uniform_(parameter(*shape, dtype=dtype, device=device), -bound, bound)

        self.weight_ih, self.weight_hh = uniform(4 * hidden_size, input_size), uniform(4 * hidden_size, hidden_size)
        self.bias_ih = uniform(4 * hidden_size) if bias else None
        self.bias_hh = uniform(4 * hidden_size) if bias else None

    def forward(self, x: Tensor, hx: Optional[tuple[Tensor, Tensor]] = None) -> tuple[Tensor, Tensor]:
        shape = (*x.shape[:-1], self.hidden_size)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(f"LSTMCell: input {x.shape} must be (N, {self.input_size}) or ({self.input_size},)")
        if hx is None:
            hx = (Tensor.zeros(*shape, dtype=x.dtype, device=x.device),) * 2
        hidden, memory = hx
        if hidden.shape != shape or memory.shape != shape:
            raise ShapeError(f"LSTMCell: state {hidden.shape}, {memory.shape} must be twice {shape}")
        gates = x.linear(self.weight_ih.T, self.bias_ih) + hidden.linear(self.weight_hh.T, self.bias_hh)
        i, f, g, o = gates.chunk(4, dim=-1)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        return o.sigmoid() * memory.tanh(), memory

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias_ih is not None else ", bias=False")
