"""What goes into a jitted function, and what comes out of it.

Comes in: arguments and results made of Tensors in tuples, lists and dicts. Goes out: a key that is equal for calls that
one plan serves, and the structure of a result apart from its Tensors, so that a replay can put others there.

>>> from clgrad import Tensor
>>> from clgrad.engine.arguments import filled, flattened
>>> found = []
>>> structure = flattened({"a": Tensor([1.0]), "b": (Tensor([2.0]), None)}, found, "f")
>>> structure, filled(structure, [10, 20])
({'a': 0, 'b': (1, None)}, {'a': 10, 'b': (20, None)})
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from .tensor import Tensor


def signature(value: Any, tensors: list[Tensor]) -> Hashable:
    """What must be equal for a plan to serve again; Tensors are appended to `tensors` on the way."""
    if isinstance(value, Tensor):
        place = next((i for i, t in enumerate(tensors) if t is value), len(tensors))
        if place == len(tensors):
            tensors.append(value)
        node = value._node
        return place, node.shape, node.dtype, node.device, node.requires_grad
    if isinstance(value, (tuple, list)):
        return type(value).__name__, *(signature(v, tensors) for v in value)
    if isinstance(value, dict):
        return "dict", *((k, signature(v, tensors)) for k, v in value.items())
    if isinstance(value, slice):  # not hashable before Python 3.12
        return "slice", *(signature(v, tensors) for v in (value.start, value.stop, value.step))
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"jit: an argument of type {type(value).__name__} cannot be part of a signature; "
            "pass a Tensor, a hashable value, or a tuple, list or dict of those"
        ) from None
    return type(value).__name__, value


def flattened(value: Any, found: list[Tensor], name: str) -> Any:
    """The structure of a result with each Tensor replaced by its number in `found`."""
    if isinstance(value, Tensor):
        found.append(value)
        return len(found) - 1
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        parts = [flattened(v, found, name) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {k: flattened(v, found, name) for k, v in value.items()}
    raise TypeError(
        f"{name} returned a value of type {type(value).__name__}; it can only return Tensors (and tuples, lists and "
        "dicts of them), because everything else would keep the value that it had while tracing"
    )


def filled(structure: Any, results: list[Tensor]) -> Any:
    """A result of that structure, with `results` in place of their numbers."""
    if structure is None:
        return None
    if isinstance(structure, int):
        return results[structure]
    if isinstance(structure, dict):
        return {k: filled(v, results) for k, v in structure.items()}
    parts = [filled(v, results) for v in structure]
    return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
