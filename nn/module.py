"""Module: a tree of layers whose Tensors have dotted names.

A Module's attributes are its contents: a Tensor that requires grad is a parameter, any other Tensor a buffer, a Module
a child. Nothing is registered, so a layer is an `__init__` that makes Tensors and a `forward` that uses them. Keys of
the state dict are attribute names joined by dots, which are PyTorch's keys wherever the attributes are PyTorch's.

>>> from clgrad import nn
>>> mlp = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1, bias=False))
>>> {name: tensor.shape for name, tensor in mlp.state_dict().items()}
{'0.weight': (8, 2), '0.bias': (8,), '2.weight': (1, 8)}

One Tensor under two names is one parameter (`lm_head.weight = wte.weight` ties two layers): `parameters()` gives it
once, `state_dict()` under each of its names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional, Self, Union

import numpy as np

from ..backends.dtypes import is_float
from ..engine.device import Device
from ..engine.tensor import Tensor
from ..engine.trace import depend


def parameter(*shape: int, value: float = 0.0, dtype: Any = None, device: Optional[str] = None) -> Tensor:
    """A Tensor of float32, or of `dtype`, that requires grad: `value` everywhere."""
    return Tensor.full(shape, value, dtype=dtype or "float32", device=device, requires_grad=True)


class Module:
    """The base of every layer. Subclasses write `forward`; calling the module calls it."""

    training: bool = True
    _place: Optional[str] = None  # the device that arguments are moved to
    buffer_names: tuple[str, ...] = ()  # Tensors that never become parameters: statistics

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        depend(self, "training")  # a trace holds for the mode that it was made in
        if self._place is not None:
            args = tuple(self._moved(value) for value in args)
            kwargs = {name: self._moved(value) for name, value in kwargs.items()}
        return self.forward(*args, **kwargs)

    def _moved(self, value: Any) -> Any:
        if type(value) is tuple:  # keys and values, or what a rotation is made of
            return tuple(map(self._moved, value))
        return value.to(self._place) if isinstance(value, Tensor) and self._place is not None else value

    # -- the tree

    def _members(self) -> Iterator[tuple[str, Union[Tensor, Module]]]:
        """The Tensors and Modules that belong to this module itself, in the order in which they were set."""
        for name, value in vars(self).items():
            if isinstance(value, (Tensor, Module)):
                yield name, value

    def _named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every Tensor of the tree under every one of its names."""
        for name, value in self._members():
            if isinstance(value, Module):
                yield from value._named_tensors(f"{prefix}{name}.")
            else:
                yield prefix + name, value

    def named_children(self) -> Iterator[tuple[str, Module]]:
        for name, value in self._members():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (under the name "") and all below it."""
        yield prefix.rstrip("."), self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}{name}.")

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The Tensors that require grad, each once, under its first name."""
        return _unique((name, tensor) for name, tensor in self._named_tensors() if tensor.requires_grad)

    def parameters(self) -> Iterator[Tensor]:
        return (tensor for _, tensor in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The Tensors that do not require grad, each once: running statistics, tables, frozen weights."""
        return _unique((name, tensor) for name, tensor in self._named_tensors() if not tensor.requires_grad)

    def buffers(self) -> Iterator[Tensor]:
        return (tensor for _, tensor in self.named_buffers())

    # -- state

    def state_dict(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name. The Tensors are the module's own, not copies."""
        return dict(self._named_tensors())

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy values (Tensors, or whatever numpy.asarray takes) into the Tensors of the same names.

        Values are cast to the dtype and moved to the device of the Tensor that they go into. Returns the names that
        the state lacked and those that it has too many, both empty when `strict`.

        Raises:
            KeyError: `strict`, and the names do not match.
            ValueError: a value has another shape. In both cases nothing has been changed.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        kind = type(self).__name__
        if strict and (missing or unexpected):
            problems = [f"missing {missing}"] * bool(missing) + [f"unexpected {unexpected}"] * bool(unexpected)
            raise KeyError(f"{kind}.load_state_dict: {'; '.join(problems)}. Pass strict=False to load what matches")
        updates: list[tuple[Tensor, Tensor]] = []
        for name, tensor in own.items():
            if name in missing:
                continue
            value = state[name]
            array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
            if array.shape != tensor.shape:
                raise ValueError(
                    f"{kind}.load_state_dict: {name!r} has shape {array.shape} in the state, {tensor.shape} in the "
                    "module; build the module with the sizes that the state was saved with"
                )
            updates.append((tensor, Tensor(array.astype(tensor.dtype, copy=False), device=tensor.device)))
        with Tensor.no_grad():
            for tensor, update in updates:
                tensor.assign(update)
        return missing, unexpected

    def to(self, device: str) -> Self:
        """Move every parameter and buffer to `device`, in place: optimisers and ties keep their Tensors."""
        for _, tensor in _unique(self._named_tensors()):
            tensor.to_(device)
        return self

    def place(self, device: str) -> Self:
        """Move this module to `device`, and from now on every Tensor that it and its parts are called with, alone or in
        a tuple.

        So the layers of one model lie on several devices: what one gives crosses to where the next one is, and the
        gradient crosses back. Place the whole model first, then the layers that lie elsewhere.
        """
        for module in self.modules():
            module._place = Device.canonical(device)
        return self.to(device)

    def train(self, mode: bool = True) -> Self:
        """Set `training`, which Dropout and its like obey, throughout the tree."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        return self.train(False)

    def requires_grad_(self, flag: bool = True) -> Self:
        """Freeze (False) or free (True) every floating-point Tensor of the tree but the statistics."""
        for module in self.modules():
            for name, value in module._members():
                if isinstance(value, Tensor) and is_float(value.dtype) and name not in module.buffer_names:
                    value.requires_grad_(flag)
        return self

    def zero_grad(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    # -- printing

    def extra_repr(self) -> str:
        """What stands between the parentheses of a layer without children."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(children) + "\n)"


class ModuleList(Module):
    """A list of modules, named "0", "1", ... in state dicts."""

    def __init__(self, modules: Iterable[Module] = ()):
        self._modules = list(modules)

    def _members(self) -> Iterator[tuple[str, Union[Tensor, Module]]]:
        yield from ((str(index), module) for index, module in enumerate(self._modules))
        yield from super()._members()

    def append(self, module: Module) -> Self:
        self._modules.append(module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        self._modules.insert(index, module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules)

    def __getitem__(self, index: Union[int, slice]) -> Any:
        """A module; for a slice a list of modules of this kind, which numbers them anew."""
        return type(self)(self._modules[index]) if isinstance(index, slice) else self._modules[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self._modules[index] = module

    def __delitem__(self, index: Union[int, slice]) -> None:
        del self._modules[index]


class Sequential(ModuleList):
    """Modules applied one after the other: several, or one dict of names and modules, whose names are attributes.

    >>> from clgrad import nn
    >>> net = nn.Sequential({"first": nn.Linear(2, 3), "act": nn.ReLU()}).append(nn.Linear(3, 1, bias=False))
    >>> list(net.state_dict()), net.first is net[0], len(net[1:])
    (['first.weight', 'first.bias', '2.weight'], True, 2)
    """

    def __init__(self, *modules: Union[Module, Mapping[str, Module]]):
        first = modules[0] if len(modules) == 1 else None
        named = first if isinstance(first, Mapping) else {str(i): module for i, module in enumerate(modules)}
        super().__init__()
        self._names = list(named)
        for name, module in named.items():
            if not isinstance(module, Module):
                raise TypeError(f"Sequential: {name!r} is a {type(module).__name__}, no Module")
            self._modules.append(module)

    def _members(self) -> Iterator[tuple[str, Union[Tensor, Module]]]:
        yield from zip(self._names, self._modules, strict=True)
        yield from Module._members(self)

    def __getattr__(self, name: str) -> Module:
        names = vars(self).get("_names", [])
        if name not in names:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self._modules[names.index(name)]

    def append(self, module: Module) -> Self:
        self._names.append(str(len(self._names)))
        return super().append(module)

    def insert(self, index: int, module: Module) -> Self:
        super().insert(index, module)
        self._names = [str(i) for i in range(len(self))]
        return self

    def __getitem__(self, index: Union[int, slice]) -> Any:
        """A module; for a slice a Sequential of modules that keep their names."""
        if not isinstance(index, slice):
            return self._modules[index]
        return type(self)(dict(zip(self._names[index], self._modules[index], strict=True)))

    def __delitem__(self, index: Union[int, slice]) -> None:
        super().__delitem__(index)
        self._names = [str(i) for i in range(len(self))]

    def forward(self, x: Any) -> Any:
        for module in self._modules:
            x = module(x)
        return x


def _unique(pairs: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The pairs whose Tensor has not been seen before."""
    seen: set[int] = set()
    for name, tensor in pairs:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor
