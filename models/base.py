"""What every model with published weights has in common: its configuration, and reading and writing checkpoints.

An architecture is a subclass with tables: which key of config.json each option is, which names its checkpoints have.
Its modules carry the names of the published checkpoints, so a checkpoint's arrays go to the Tensors of the same names,
but for three liberties that published files take: the prefix of the bare model may be there or not, tied weights may be
there once or several times, and there may be names that are no weights.

>>> from clgrad.models import GPT, GPTConfig
>>> GPT(GPTConfig(n_layer=1, n_head=2, n_embd=4, block_size=8, vocab_size=10)).num_parameters()
324
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, Optional, Self, Union

import numpy as np

from .. import nn
from ..backends.dtypes import is_float
from ..engine.tensor import Tensor
from .huggingface import Checkpoint, PathLike, listed, open_checkpoint, write_checkpoint

__all__ = ["PretrainedModel", "class_for", "classes", "from_pretrained"]

NOTHING = re.compile(r"(?!)")
LARGEST_SIZE = 2**24  # of the integers in a config.json: positions, of which some models have ten million
LARGEST_FLOAT = 1e30


class PretrainedModel(nn.Module):
    """A model that reads and writes checkpoints as Hugging Face has them. Subclasses fill in the tables below.

    `config` is a `Config`, a dataclass, which is also what `__init__` takes.
    """

    Config: ClassVar[type]
    config: Any
    model_type: ClassVar[Union[str, tuple[str, ...]]] = ()  # config.json's model_type; the first is what is written
    architectures: ClassVar[tuple[str, ...]] = ()  # transformers' names of this class; the first is what is written
    fields: ClassVar[dict[str, tuple[str, Any]]] = {}  # option -> config.json's key, and what holds if it is left out
    fixed: ClassVar[dict[str, Any]] = {}  # keys of config.json that change the result -> the value that is computed
    prefix: ClassVar[str] = ""  # of the bare model's names inside the model with a head, "transformer."
    ignored: ClassVar[re.Pattern[str]] = NOTHING  # searched in a checkpoint's names: what is no weight of this model
    fresh: ClassVar[re.Pattern[str]] = NOTHING  # matched with own names: heads that a checkpoint may lack
    presets: ClassVar[dict[str, dict[str, Any]]] = {}  # published name -> the options of its Config

    def __init__(self, config: Any):
        self.config = config

    # -- configuration

    @classmethod
    def config_from(cls, content: dict[str, Any]) -> Any:
        """The Config that a config.json says. Raises ValueError for options that this class does not compute."""
        for key, value in cls.fixed.items():
            if content.get(key, value) != value:
                raise ValueError(f"{key} is {content[key]!r}, and {cls.__name__} computes only {value!r}")
        options = {}
        for field, (key, default) in cls.fields.items():
            options[field] = value = content.get(key, default)
            if not _same_kind(value, default):
                raise ValueError(f"{key} is {str(value)[:80]!r}, and must be of type {type(default).__name__}")
            fine = 0 <= value < LARGEST_FLOAT if isinstance(default, float) else not _huge(value)
            if not fine:
                raise ValueError(f"{key} is {str(value)[:80]}, and no model has such a number")
        return cls.Config(**options)

    @classmethod
    def config_to(cls, config: Any) -> dict[str, Any]:
        """The content of config.json for this configuration, for `config_from` and for transformers."""
        content = {key: getattr(config, field) for field, (key, _) in cls.fields.items()}
        return cls.fixed | content | {"model_type": cls.model_types()[0], "architectures": list(cls.architectures[:1])}

    @classmethod
    def model_types(cls) -> tuple[str, ...]:
        return (cls.model_type,) if isinstance(cls.model_type, str) else cls.model_type

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Any:
        """The Config of a published size, with `overrides` in place of its options. Raises ValueError."""
        if name not in cls.presets:
            raise ValueError(f"{cls.__name__} has no preset {name!r}; it has {', '.join(cls.presets)}")
        return cls.Config(**cls.presets[name] | overrides)

    @property
    def body(self) -> Any:
        """The model without its head."""
        return getattr(self, self.prefix.removesuffix("."))

    def num_parameters(self) -> int:
        """How many numbers are trained; tied weights count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    # -- reading

    @classmethod
    def from_pretrained(cls, path: PathLike, **overrides: Any) -> Self:
        """A checkpoint as transformers saves it: config.json beside model.safetensors, whole or in shards; or a GGUF.

        Args:
            path: the folder, or the .safetensors file in it; or the .gguf file, whose packed weights stay packed.
            overrides: options of the Config in place of the checkpoint's, such as dropout=0.1 to train on.

        Returns the model in evaluation mode, its weights in float32. A head that the checkpoint lacks starts at random
        values, and a warning names it. Raises FileNotFoundError, and ValueError for a damaged file, a checkpoint of
        another architecture or with options that this class does not compute, and arrays that are missing, left over or
        of another shape.
        """
        if os.fspath(path).endswith(".gguf"):
            model = from_pretrained(path, **overrides)
            if not isinstance(model, cls):
                raise ValueError(f"{os.fspath(path)} holds a {type(model).__name__}, and {cls.__name__} was to be read")
            return model
        return cls._from_checkpoint(open_checkpoint(path), overrides)

    @classmethod
    def _from_checkpoint(cls, checkpoint: Checkpoint, overrides: dict[str, Any]) -> Self:
        file = checkpoint.path / "config.json" if checkpoint.path.is_dir() else checkpoint.path.with_name("config.json")
        found = checkpoint.config.get("model_type", cls.model_types()[0])
        if found not in cls.model_types():
            raise ValueError(
                f"{file}: the model_type is {found!r}, and {cls.__name__} reads {' or '.join(cls.model_types())}; "
                "clgrad.models.from_pretrained chooses the class"
            )
        shapes = {name: shape for name, shape in checkpoint.shapes().items() if not cls.ignored.search(name)}
        try:
            config = cls.config_from(checkpoint.config)
            if unknown := overrides.keys() - vars(config).keys():
                raise ValueError(
                    f"there is no option {listed(map(repr, unknown))}; there are {', '.join(vars(config))}"
                )
            config = dataclasses.replace(config, **overrides)
            for field in dataclasses.fields(config):  # as many modules as there are arrays, at most, are built
                value = getattr(config, field.name)
                if "layer" in field.name and isinstance(value, int) and value > len(shapes):
                    raise ValueError(f"{field.name} is {value}, and there are {len(shapes)} arrays in all")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: {error}") from None
        model = cls(config)
        try:
            model._load(shapes, checkpoint.arrays())
        except ValueError as error:
            raise ValueError(f"{checkpoint.path}: the weights are not those of its config.json: {error}") from None
        return model.eval()

    def _load(self, shapes: dict[str, tuple[int, ...]], arrays: Iterator[tuple[str, np.ndarray]]) -> None:
        """Put the arrays into the Tensors of their names, and ties into one. No array is read before all fit."""
        own = self.state_dict()
        name_of: dict[str, str] = {}  # a checkpoint's name -> the own one
        for name in shapes:
            alternatives = (name, self.prefix + name, name.removeprefix(self.prefix))
            name_of[name] = next((alternative for alternative in alternatives if alternative in own), name)
        unknown = [name for name, target in name_of.items() if target not in own]
        reached = {id(own[target]) for target in name_of.values() if target in own}
        lacking = [name for name, tensor in own.items() if id(tensor) not in reached]
        fresh = [name for name in lacking if self.fresh.match(name)]
        missing = [name for name in lacking if name not in fresh]
        problems = [f"missing {listed(missing)}"] * bool(missing) + [f"unexpected {listed(unknown)}"] * bool(unknown)
        if problems:
            raise ValueError("; ".join(problems))
        if len(set(name_of.values())) < len(name_of):
            raise ValueError(f"some arrays are there with and without the prefix {self.prefix!r}")
        for name, target in name_of.items():
            if shapes[name] != own[target].shape:
                raise ValueError(f"{name} has shape {shapes[name]} in the file, {own[target].shape} in the model")
        first: dict[int, tuple[str, np.ndarray]] = {}  # of each tied Tensor what has been read
        tied = {key for key, count in Counter(map(id, own.values())).items() if count > 1}
        with Tensor.no_grad():
            for name, array in arrays:
                if name not in name_of:
                    continue
                tensor = own[name_of[name]]
                if not is_float(array.dtype):
                    raise ValueError(f"{name} is of {array.dtype}, and weights are floats")
                if id(tensor) in first and not np.array_equal(first[id(tensor)][1], array):
                    raise ValueError(f"{first[id(tensor)][0]} and {name} differ, and are one Tensor in this model")
                if id(tensor) in tied:
                    first[id(tensor)] = name, array
                tensor.assign(Tensor(array.astype(tensor.dtype, copy=False), device=tensor.device))
        if untrained := [name for name in fresh if own[name].requires_grad]:
            warnings.warn(
                f"{type(self).__name__}: the checkpoint has no {listed(untrained)}: random values, to be trained",
                stacklevel=4,
            )

    # -- writing

    def saved_state(self) -> dict[str, Tensor]:
        """What `save_pretrained` writes: every Tensor once, tied ones under their first name."""
        state: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, tensor in self.state_dict().items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                state[name] = tensor
        return state

    def save_pretrained(self, folder: PathLike, max_shard_size: Union[int, str, None] = None) -> None:
        """Write config.json and model.safetensors, for `from_pretrained` and for transformers.

        With a `max_shard_size`, bytes or text such as "5GB", larger weights are spread over several files and an index.
        Raises OSError, and ValueError for a model with packed weights or LoRA layers, which such files do not have.
        """
        if any(hasattr(module, "packing") for module in self.modules()):
            raise ValueError(
                f"{type(self).__name__} has packed weights, which no safetensors checkpoint holds; read the GGUF file "
                "with packed=False, or save the state dict"
            )
        if any(isinstance(module, nn.lora.LoRA) for module in self.modules()):
            raise ValueError(
                f"{type(self).__name__} has LoRA layers, which such a checkpoint does not have: nn.lora.merge the "
                "model first, or save nn.lora.state_dict(model)"
            )
        write_checkpoint(folder, self.config_to(self.config), self.saved_state(), max_shard_size)


def _same_kind(value: Any, default: Any) -> bool:
    """Whether a value of config.json may stand where `default` does; an integer may where a float does."""
    if default is None or type(value) is type(default):
        return True
    return isinstance(default, float) and type(value) is int


def _huge(value: Any) -> bool:
    return isinstance(value, (int, float)) and not abs(value) < LARGEST_SIZE


def classes(base: type[PretrainedModel] = PretrainedModel) -> Iterator[type[PretrainedModel]]:
    """Every class that reads checkpoints, in the order of definition."""
    for cls in base.__subclasses__():
        if cls.model_type:
            yield cls
        yield from classes(cls)


def class_for(config: dict[str, Any]) -> type[PretrainedModel]:
    """The class for a config.json: by its `architectures`, else by its model_type. Raises ValueError."""
    kind, architectures = config.get("model_type"), config.get("architectures")
    known = list(classes())
    named = architectures if isinstance(architectures, list) else []
    choice: Optional[type[PretrainedModel]] = next(
        (cls for name in named for cls in known if name in cls.architectures), None
    ) or next((cls for cls in known if kind in cls.model_types()), None)
    if choice is None:
        types = ", ".join(sorted({name for cls in known for name in cls.model_types()}))
        raise ValueError(f"no model here reads a checkpoint of model_type {kind!r} ({named}); known are {types}")
    if named and not any(name in choice.architectures for name in named):
        warnings.warn(f"{named[0]} is no model here; its checkpoint is read as {choice.__name__}", stacklevel=3)
    return choice


def from_pretrained(path: PathLike, **overrides: Any) -> Any:
    """The model of a checkpoint of any architecture here: a folder or a .safetensors file beside its config.json, or a
    .gguf file. `overrides` are options of its Config. Raises as `PretrainedModel.from_pretrained` does."""
    if os.fspath(path).endswith(".gguf"):
        from . import gguf

        return gguf.from_pretrained(path, **overrides)
    checkpoint = open_checkpoint(path)
    try:
        chosen = class_for(checkpoint.config)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    return chosen._from_checkpoint(checkpoint, overrides)
