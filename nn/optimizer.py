"""What optimisers share: parameter groups, state, steps over bundles of parameters, state dicts.

All that changes from step to step is a Tensor which the constructor makes: moments, a group's step count, and a 0-d
mirror of its learning rate. A jitted step therefore goes on being right when `group["lr"] = 3e-4` is set between two
calls; a change of any other option makes a new trace. An update is one expression of all parameters of a bundle
(`flat.py`), so the scheduler makes one loop of it, and the moments are flat Tensors. Two departures from PyTorch: the
count of steps belongs to the group, where PyTorch counts for every parameter (they differ only for parameters that go
without a gradient for some steps), and the state exists before the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np

from ..backends.dtypes import DType, accumulator, float32, float64
from ..engine.tensor import Tensor
from ..engine.trace import depend
from .flat import bundles, join, parts

Params = Union[Iterable[Tensor], Iterable[dict[str, Any]]]


class ParamGroup(dict):
    """A parameter group: a dict with PyTorch's keys, and the Tensors that a traced step reads.

    Setting "lr" to a float or a 0-d Tensor assigns it to `learning_rate`. A Tensor given when the group is made *is*
    its learning rate, so that assigning to that Tensor is enough.
    """

    def __init__(self, options: Mapping[str, Any]):
        super().__init__(options)
        lr, params = self["lr"], self["params"]
        _check_learning_rate(lr)
        device = params[0].device if params else None
        dtype = float64 if any(p.dtype == float64 for p in params) else float32
        self.learning_rate: Tensor = lr if isinstance(lr, Tensor) else _number(lr, device, dtype)
        self.step: Tensor = _number(0.0, device, dtype)  # float32 counts exactly to 16 million

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "lr":
            _check_learning_rate(value)
            with Tensor.no_grad():
                self.learning_rate.assign(value)
        super().__setitem__(key, value)

    def on(self, device: str) -> ParamGroup:
        """This group with its Tensors on `device`, for parameters that are there."""
        if device == self.learning_rate.device == self.step.device:
            return self
        other = ParamGroup.__new__(ParamGroup)
        dict.update(other, self)
        other.learning_rate, other.step = self.learning_rate.to(device), self.step.to(device)
        return other


class Bundle:
    """Parameters that are updated as one, and their state: one flat Tensor for each name."""

    def __init__(self, params: list[Tensor]):
        self.params = params
        self.state: dict[str, Tensor] = {}

    def add_state(self, start: Mapping[str, float]) -> None:
        """The starting value under each name that is not there yet."""
        size, first = sum(p.numel() for p in self.params), self.params[0]
        for name, value in start.items():
            if name not in self.state:
                self.state[name] = Tensor(np.full(size, value, first.dtype), device=first.device)


class Optimizer:
    """What the optimisers share. A subclass says in `_initial_state` what it remembers, and writes `_update`."""

    not_negative: tuple[str, ...] = ("weight_decay",)

    def __init__(self, params: Params, defaults: dict[str, Any]):
        if isinstance(params, (Tensor, dict)):
            raise TypeError(
                f"{self._name}: params must be a list of Tensors or of groups, not one {type(params).__name__}"
            )
        self.defaults = defaults
        self.param_groups: list[ParamGroup] = []
        self._bundles: list[list[Bundle]] = []  # of each group
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError(f"{self._name}: got an empty list of parameters")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add {"params": [...], option: value, ...}; options that it lacks are the constructor's.

        Raises TypeError for what is no Tensor, ValueError for a Tensor that requires no grad or is here already.
        """
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        taken = {id(p) for other in self.param_groups for p in other["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"{self._name}: parameters must be Tensors, not {type(p).__name__}")
            if not p.requires_grad:
                raise ValueError(f"{self._name}: a parameter of shape {p.shape} has requires_grad=False")
            if id(p) in taken:
                raise ValueError(f"{self._name}: a parameter of shape {p.shape} appears twice")
            taken.add(id(p))
        options = ParamGroup({**self.defaults, **group, "params": params})
        self._check(options)
        self.param_groups.append(options)
        self._bundles.append([Bundle(tensors) for tensors in bundles(params)])
        for bundle in self._bundles[-1]:
            bundle.add_state(self._initial_state(options))

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """For each parameter its "step" and, by name, its part of the state as it is now."""
        state: dict[Tensor, dict[str, Tensor]] = {}
        for group, group_bundles in zip(self.param_groups, self._bundles, strict=True):
            found: dict[Tensor, dict[str, Tensor]] = {p: {"step": group.step} for p in group["params"]}
            for bundle in group_bundles:
                for name, flat in bundle.state.items():
                    for p, part in zip(bundle.params, parts(flat, bundle.params), strict=True):
                        found[p][name] = part
            state |= found
        return state

    def _initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        """What is remembered of each parameter, by name: with which number each element starts."""
        return {}

    def _check(self, group: Mapping[str, Any]) -> None:
        for name in self.not_negative:
            if not group[name] >= 0:
                raise ValueError(f"{self._name}: {name} must not be negative, got {group[name]}")

    @property
    def signature(self) -> tuple:
        """What a traced step is specialised to: every option but the learning rates, and the numbers of parameters."""
        return tuple(
            (len(group["params"]), *((key, value) for key, value in group.items() if key not in ("lr", "params")))
            for group in self.param_groups
        )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or make them zero."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None if set_to_none or p.grad is None else Tensor.zeros_like(p)

    @Tensor.no_grad()
    def step(self, allowed: Optional[Tensor] = None) -> None:
        """Update every parameter that has a gradient, and compute the new values (under jit, the replay does).

        Where `allowed`, a 0-d Tensor of bool, is False, everything stays as it was, the state included.
        """
        depend(self, "signature")
        changed = []
        for group, group_bundles in zip(self.param_groups, self._bundles, strict=True):
            before = group.step.detach()
            group.step.assign(before + 1)
            changed.append(group.step)
            contexts: dict[str, tuple[ParamGroup, Any]] = {}  # of each device
            for bundle in group_bundles:
                device = bundle.params[0].device
                if device not in contexts:
                    there = group.on(device)
                    contexts[device] = there, self._prepare(there)
                changed += self._step_bundle(bundle, *contexts[device], allowed)
            if allowed is not None:
                group.step.assign(allowed.to(before.device).where(group.step, before))
        Tensor.realize_all(changed)

    def _step_bundle(
        self, bundle: Bundle, group: ParamGroup, context: Any, allowed: Optional[Tensor] = None
    ) -> list[Tensor]:
        """Update those of a bundle's parameters that have a gradient. Returns what changed."""
        live = [p for p in bundle.params if p.grad is not None]
        if not live:
            return []
        whole = len(live) == len(bundle.params)
        before = {name: flat.detach() for name, flat in bundle.state.items()}
        # Halves are updated in float32 and rounded once: in them a small eps is 0 and a small step is none.
        dtype = accumulator(live[0].dtype)
        state = {name: flat.cast(dtype) for name, flat in bundle.state.items()}
        if not whole:
            state = {name: join(self._live(flat, bundle)).cast(dtype) for name, flat in bundle.state.items()}
        gradient = join([p.grad for p in live if p.grad is not None]).cast(dtype)
        gradient = -gradient if group.get("maximize") else gradient
        new = self._update(join(live).cast(dtype), gradient, state, group, context, live)
        for name, flat in bundle.state.items():
            if whole and state[name] is not flat:
                flat.assign(state[name])
            elif not whole:
                fresh = iter(parts(state[name], live))
                kept = parts(flat, bundle.params)
                flat.assign(
                    join([old if p.grad is None else next(fresh) for p, old in zip(bundle.params, kept, strict=True)])
                )
        if allowed is not None:
            allowed = allowed.to(new.device)
            new = allowed.where(new, join(live).cast(dtype))
            for name, flat in bundle.state.items():
                flat.assign(allowed.where(flat, before[name]))
        for p, part in zip(live, parts(new, live), strict=True):
            p.assign(part)
        return [*live, *bundle.state.values()]

    @staticmethod
    def _live(flat: Tensor, bundle: Bundle) -> list[Tensor]:
        pieces = zip(bundle.params, parts(flat, bundle.params), strict=True)
        return [piece for p, piece in pieces if p.grad is not None]

    def _prepare(self, group: ParamGroup) -> Any:
        """What all parameters of a group share in this step."""

    def _update(
        self,
        p: Tensor,
        gradient: Tensor,
        state: dict[str, Tensor],
        group: ParamGroup,
        context: Any,
        like: Sequence[Tensor],
    ) -> Tensor:
        """The new value of `p`, the parameters `like` as one flat Tensor. Assigns the new state, flat too."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: {name: Tensor}}, "param_groups": [options with the numbers of their parameters]}."""
        state = self.state
        numbers = {id(p): i for i, p in enumerate(state)}
        groups = []
        for group in self.param_groups:
            lr = group["lr"].item() if isinstance(group["lr"], Tensor) else group["lr"]
            groups.append({**group, "lr": lr, "params": [numbers[id(p)] for p in group["params"]]})
        return {"state": {numbers[id(p)]: known for p, known in state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, here or in PyTorch: state (copied) and every option that is known here.

        Raises ValueError, and changes nothing, when groups, parameters, names or shapes do not match.
        """
        groups, states = state_dict["param_groups"], state_dict["state"]
        lengths, expected = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if lengths != expected:
            raise ValueError(
                f"{self._name}.load_state_dict: groups of {lengths} parameters do not fit groups of {expected}"
            )
        loaded = [self._read(group, saved, states) for group, saved in zip(self.param_groups, groups, strict=True)]
        for group, group_bundles, (options, step, arrays) in zip(self.param_groups, self._bundles, loaded, strict=True):
            for key, value in options.items():
                group[key] = value
            found = {id(p): values for p, values in zip(group["params"], arrays, strict=True)}
            with Tensor.no_grad():
                group.step.assign(_number(step, group.step.device, group.step.dtype))
                for bundle in group_bundles:
                    bundle.add_state(self._initial_state(group))
                    for name in self._initial_state(group):
                        flat = np.concatenate([found[id(p)][name].ravel() for p in bundle.params])
                        bundle.state[name].assign(Tensor(flat, device=bundle.params[0].device))

    def _read(
        self, group: ParamGroup, saved: Mapping[str, Any], states: Mapping[int, Mapping[str, Any]]
    ) -> tuple[dict[str, Any], float, list[dict[str, np.ndarray]]]:
        """(options, step count, state of each parameter) that `saved` has for `group`. Raises ValueError."""
        options = {key: saved[key] for key in group.keys() & saved.keys() - {"params"}}
        self._check({**group, **saved})
        kept = [states.get(number, {}) for number in saved["params"]]
        steps = {float(_array(state["step"])) for state in kept if "step" in state}
        if len(steps) > 1:
            raise ValueError(f"{self._name}.load_state_dict: one group has parameters at different steps {steps}")
        if not steps:  # PyTorch's SGD counts none; its buffers tell whether there were some
            steps = {float(any(value is not None for state in kept for value in state.values()))}
        arrays: list[dict[str, np.ndarray]] = []
        for p, number, state in zip(group["params"], saved["params"], kept, strict=True):
            arrays.append({})
            for name, start in self._initial_state({**group, **options}).items():
                value = state.get(name)
                array = np.full(p.shape, start) if value is None else _array(value)
                if array.shape != p.shape:
                    raise ValueError(
                        f"{self._name}.load_state_dict: {name} of parameter {number} has shape {array.shape} in the "
                        f"state, {p.shape} here"
                    )
                arrays[-1][name] = np.asarray(array, p.dtype)
        return options, steps.pop(), arrays


def _number(value: float, device: Any, dtype: DType) -> Tensor:
    """A 0-d Tensor with memory of its own, which a trace reads afresh, rather than a constant."""
    return Tensor(np.array(value, dtype), device=device)


def _array(value: Any) -> np.ndarray:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)


def _check_learning_rate(lr: Any) -> None:
    if isinstance(lr, Tensor):
        if lr.shape != ():
            raise ValueError(f"learning rate must be a number or a 0-d Tensor, not a Tensor of shape {lr.shape}")
    elif not lr >= 0:
        raise ValueError(f"learning rate must not be negative, got {lr}")
