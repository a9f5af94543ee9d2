"""jit: trace a function once, replay the plan ever after.

Comes in: a Python function of Tensors. Goes out: a callable that does the same. The first call with a signature
(shapes, dtypes, devices, the other arguments, and whatever the trace depended on) traces the function, schedules
everything that it returns or rebinds as one graph, and plans its memory; that call and every later one runs the very
same plan. A replay builds no node, compiles nothing, and allocates nothing but the Tensors that it returns.

A trace captures names, not buffers. Each replay reads what every captured Tensor is bound to at that moment, and binds
anew, `.grad` included, what the function bound. A new value goes into the memory of the old one if the schedule reads
the old one no later than that element is written, and nobody else holds it; otherwise into a spare buffer, and the two
take turns.

>>> from clgrad import Tensor, jit
>>> total = Tensor([0.0])
>>> @jit
... def add(x):
...     total.assign(total + x)
...     return total * 2
>>> [add(Tensor([float(i)])).item() for i in range(4)], add.traces
([0.0, 2.0, 6.0, 12.0], 1)
"""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from math import prod
from operator import is_
from typing import Any, Optional

from ..backends.base import Buffer, adjacent
from . import debug, profile, random, tensor, trace
from . import node as nodes
from . import realize as realizing
from .arguments import filled, flattened, signature
from .device import Device
from .memory import Life, place
from .node import Node
from .schedule import Schedule, Step, divided, schedule
from .simplify import simplify
from .tensor import Tensor
from .trace import Capture


class jit:
    """Decorator: `step = jit(step)`.

    The function may return Tensors, None, and tuples, lists and dicts of them. `traces` counts the signatures traced.
    Numbers that change from call to call must come as 0-d Tensors, or each value is a signature of its own.
    Raises TypeError for a result that is no Tensor, RuntimeError when a value is read inside.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.plans: dict[Hashable, list[Plan]] = {}
        self.traces = 0
        functools.update_wrapper(self, function)

    def __get__(self, instance, owner=None):
        """A jitted method: one set of plans for each instance, kept in its dictionary."""
        if instance is None:
            return self
        bound = jit(self.function.__get__(instance, owner))
        instance.__dict__[self.function.__name__] = bound
        return bound

    @profile.span("call")
    def __call__(self, *args, **kwargs):
        if trace.active() is not None:  # inside another traced function: part of it
            return self.function(*args, **kwargs)
        tensors: list[Tensor] = []
        key = (signature((args, kwargs), tensors), tensor.grad_enabled())
        with trace.LOCK:
            for plan in self.plans.get(key, ()):
                if plan.holds():
                    return plan.run(tensors)
            plan = Plan(self.function, args, kwargs, tensors)
            self.plans.setdefault(key, []).append(plan)
            self.traces += 1
            return plan.run(tensors)

    @property
    def last(self) -> Plan:
        """The plan traced last, for those who want to look at its schedule."""
        return list(self.plans.values())[-1][-1]


class Captured:
    """One captured Tensor of a plan: where to find it at a replay, and what the replay binds it to."""

    def __init__(self, capture: Capture, argument: Optional[int]):
        self.tensor: Optional[Tensor] = None if argument is not None else capture.tensor
        self.argument = argument
        self.parent: Optional[Captured] = None  # this Tensor is the .grad of that one
        self.stand_in = capture.stand_in
        node = capture.node
        self.shape, self.dtype, self.device, self.requires_grad = (
            node.shape,
            node.dtype,
            node.device,
            node.requires_grad,
        )
        self.has_grad = capture.grad is not None
        self.grad_read = capture.grad_read
        self.value: Optional[int] = None  # number of the result that it is bound to
        self.grad: Optional[int] = None
        self.grad_changed = capture.grad_changed
        self.donated = False

    def find(self, arguments: list[Tensor]) -> Tensor:
        if self.argument is not None:
            return arguments[self.argument]
        if self.parent is not None:
            grad = self.parent.find(arguments)._grad
            assert grad is not None
            return grad
        assert self.tensor is not None
        return self.tensor

    def holds(self) -> bool:
        """Whether the captured Tensor still is what was traced. Arguments are checked by the signature."""
        t = self.tensor
        if t is None or self.parent is not None:
            return True
        node = t._node
        return (
            node.shape == self.shape
            and node.dtype == self.dtype
            and node.device == self.device
            and node.requires_grad == self.requires_grad
            and (not self.grad_read or (t._grad is not None) == self.has_grad)
        )


@dataclass
class Joined:
    """A `cat` of captured Tensors (`parts`, numbers of captures) and the leaf that stands for it."""

    node: Node
    leaf: Node
    parts: list[int]


class Plan:
    """One traced signature: a schedule, its executables, and where every value lies.

    `schedule.steps` are the kernels in order; `arena_bytes` is the memory shared by all intermediate values.
    """

    def __init__(self, function: Callable, args, kwargs, arguments: list[Tensor]):
        name = getattr(function, "__name__", "the function")
        for generator in random.generators():
            generator.settle()
        found: list[Tensor] = []
        tracing = trace.Trace(name)
        with tracing:
            self.structure = flattened(profile.span("trace")(function)(*args, **kwargs), found, f"jit: {name}")
            for generator in random.generators():
                generator.settle()
            returned = [t.node for t in found]
        for state in random.generators():  # what this trace reserved is counted by the plan
            state.pending = 0
        self.guards = tracing.guards
        self._collect(tracing, arguments, returned)
        tracing.captures.clear()  # whatever else held the old values would keep them from being overwritten
        self._build()

    # --- from the trace to a plan -------------------------------------------------------------------------------

    def _collect(self, tracing: trace.Trace, arguments: list[Tensor], returned: list[Node]) -> None:
        """What the plan reads (`captures`) and what it has to produce (`results`)."""
        number_of = {id(t): i for i, t in enumerate(arguments)}
        captures = list(tracing.captures.values())
        self.captures = [Captured(c, number_of.get(id(c.tensor))) for c in captures]
        by_tensor = {id(c.tensor): captured for c, captured in zip(captures, self.captures, strict=True)}
        results: list[Node] = []
        places: dict[Node, int] = {}

        def result(node: Node) -> int:
            own = node if node.op == "barrier" else nodes.make("contiguous", (node,))
            if own not in places:
                places[own] = len(results)
                results.append(own)
            return places[own]

        for capture, captured in zip(captures, self.captures, strict=True):
            if capture.grad is not None and id(capture.grad) in by_tensor:
                by_tensor[id(capture.grad)].parent = captured
            if capture.new_node is not None:
                captured.value = result(capture.new_node)
            if captured.grad_changed and capture.new_grad is not None:
                captured.grad = result(capture.new_grad._node)
        self.returned = [result(node) for node in returned]
        self.results = results
        # What a replay goes through, so that it need not look at all captures every time.
        self.stand_ins = [c.stand_in for c in self.captures]
        self.outer = [c.tensor for c in self.captures if c.tensor is not None and c.parent is None]
        self.flags = [c.requires_grad for c in self.captures if c.tensor is not None and c.parent is None]
        self.inner = [(i, c) for i, c in enumerate(self.captures) if c.tensor is None or c.parent is not None]
        self.rebound = [(i, c) for i, c in enumerate(self.captures) if c.value is not None or c.grad_changed]
        self.reads_grads = any(c.grad_read for c in self.captures)
        self.seen: list[weakref.ref[Node]] = []  # what `outer` was bound to when it was last looked at closely

    def _build(self) -> None:
        image = simplify(self.results)
        self.joined = self._join(image)
        if self.joined:
            image = simplify(self.results, {j.node: j.leaf for j in self.joined})
        self.wanted = [image[node] for node in self.results]
        computed = [w for w in dict.fromkeys(self.wanted) if not w.in_memory]
        self.schedule: Schedule = schedule(computed)
        if debug.level() >= 2:
            from .explain import announce

            announce(computed, self.schedule, specialise=True)
        self.number_of = {node: number for number, node in reversed(list(enumerate(self.wanted)))}
        self.whole_of = {piece.node: whole for whole, pieces in self.schedule.slices.items() for piece in pieces}
        self._copy_first()
        self._donate()
        # A profile wants to see each kernel by itself.
        steps = self.schedule.steps
        self.chains = [[step] for step in steps] if profile.log() is not None else realizing.chains_of(steps)
        self.executables = realizing.lower_chains(self.chains, specialise=True)
        self._place()

    def _join(self, image: dict[Node, Node]) -> list[Joined]:
        """Every `cat` of captured Tensors that this plan rebinds to the parts of one new value, in that order.

        An optimiser does that with its parameters. From the second call on they lie side by side, and nothing has to
        be moved to see them as one.
        """
        captured = {c.stand_in: i for i, c in enumerate(self.captures) if c.value is not None}
        slices = divided(image[node] for node in self.results)
        wholes = {tuple(piece.node for piece in pieces) for pieces in slices.values()}
        joined = []
        for node in nodes.topological(self.results) if wholes else ():
            if node.op != "cat":
                continue
            parts = [captured.get(_under_reshapes(source)) for source in node.src]
            known = [i for i in parts if i is not None]
            new = tuple(image[self.results[self.captures[i].value]] for i in known)  # type: ignore[index]
            if len(known) == len(parts) and new in wholes:
                joined.append(Joined(node, nodes.leaf(node.shape, node.dtype, node.device), known))
        return joined

    def _copy_first(self) -> None:
        """Bring copies of captured values that rows are replaced in to the front: where nothing has to be copied, what
        follows is then one chain of kernels."""
        captured = {c.stand_in for c in self.captures}
        written = Counter(node for step in self.schedule.steps for node in step.outputs)

        def is_first(step: Step) -> bool:
            plain = step.kernel is not None and step.kernel.is_copy
            return plain and captured.issuperset(step.inputs) and written[step.outputs[0]] > 1

        self.schedule.steps.sort(key=lambda step: not is_first(step))

    def _donate(self) -> None:
        """Which results may overwrite the value that they replace: see `_overwrites`."""
        steps = self.schedule.steps
        written: dict[Node, int] = {}  # the number of the step that first writes a node
        for number, step in enumerate(steps):
            for node in step.outputs:
                written.setdefault(node, number)
        last_read = {node: i for i, s in enumerate(steps) for node in s.inputs}
        results_used = [c.grad for c in self.captures] + list(self.returned)

        def overwrites(old: Node, new: Node) -> bool:
            step, last = written.get(new), last_read.get(old, -1)
            if step is None or not (last < step or (last == step and self._overwrites(step, old, new))):
                return False
            if last == step:
                self._tell_kernel(steps[step], old, new)
            return True

        for captured in self.captures:
            if captured.value is None:
                continue
            node = self.wanted[captured.value]
            shared = self.wanted.count(node) > 1 or captured.value in results_used
            if shared or captured.stand_in in self.wanted:
                continue
            whole = self.whole_of.get(node)
            if whole is None:
                captured.donated = overwrites(captured.stand_in, node)
            else:  # the parts are read by themselves too
                captured.donated = last_read.get(captured.stand_in, -1) < written[whole]
        renewed: set[int] = set()  # parts of a value that is overwritten as a whole
        for joined in self.joined:
            parts = [self.captures[i] for i in joined.parts]
            whole = self.whole_of[self.wanted[parts[0].value]]  # type: ignore[index]
            fits = [self.whole_of.get(self.wanted[c.value]) for c in parts] == [whole] * len(parts)  # type: ignore[index]
            if fits and all(c.donated for c in parts) and overwrites(joined.leaf, whole):
                renewed.update(joined.parts)
        for i, captured in enumerate(self.captures):
            if captured.value is not None and self.wanted[captured.value] in self.whole_of and i not in renewed:
                captured.donated = False

    def _overwrites(self, number: int, old: Node, new: Node) -> bool:
        """Whether a step reads `old` only at the very element of `new` that it is about to write, to compute something.

        What is merely copied to another output, as when two states change places, may be read after it is overwritten.
        """
        step = self.schedule.steps[number]
        kernel = step.kernel
        if kernel is None or kernel.kind != "loop":
            return False
        slot = step.inputs.index(old)
        view = kernel.outputs[step.outputs.index(new)].view
        for instr in kernel.body:
            if instr.op in ("load", "gather") and instr.arg[0] == slot and (instr.op != "load" or instr.arg[1] != view):
                return False
        copied = [kernel.body[output.value] for output in kernel.outputs]
        return len(copied) == 1 or all(instr.op != "load" or instr.arg[0] != slot for instr in copied)

    def _tell_kernel(self, step: Step, old: Node, new: Node) -> None:
        """Record in the Kernel that `new` may lie where `old` does."""
        assert step.kernel is not None
        pair = (step.outputs.index(new), step.inputs.index(old))
        step.kernel = replace(step.kernel, in_place=(*step.kernel.in_place, pair))

    def _place(self) -> None:
        """Put the intermediate values of each device into arenas."""
        steps = self.schedule.steps
        final = {*self.wanted, *self.schedule.slices}
        first: dict[Node, int] = {}
        for i, step in enumerate(steps):
            for node in step.outputs:
                if node not in final:
                    first.setdefault(node, i)
        last = {node: i for i, step in enumerate(steps) for node in (*step.outputs, *step.inputs)}
        self.fixed: dict[Node, Buffer] = {}
        self.arena_bytes = 0
        for device in dict.fromkeys(node.device for node in first):
            own = [node for node in first if node.device == device]
            backend = Device[device]
            lives = [Life(prod(n.shape) * n.dtype.itemsize, first[n], last[n]) for n in own]
            places, sizes = place(lives, backend.alignment, backend.describe().largest_allocation)
            arenas = [backend.allocate(size) for size in sizes]
            self.arena_bytes += sum(sizes)
            for node, life, (arena, offset) in zip(own, lives, places, strict=True):
                self.fixed[node] = arenas[arena].slice(offset, life.nbytes)
        self.launches: list[Any] = [None] * len(self.chains)
        outputs = [node for chain in self.chains for step in chain for node in step.outputs]
        self.backend = Device[outputs[0].device] if outputs else None  # which launches what is on other devices, too
        self.bound: dict[Node, tuple[Any, int]] = {}  # memory and offset that the launches have for what may move
        self.where: Optional[tuple[list[Any], list[int]]] = None  # the same of all, in the order of a replay
        self.users: dict[Node, list[int]] = {}
        for number, chain in enumerate(self.chains):
            for node in dict.fromkeys(node for step in chain for node in (*step.inputs, *step.outputs)):
                if node not in self.fixed:
                    self.users.setdefault(node, []).append(number)
        self.spare: dict[int, Buffer] = {}

    # --- replay -------------------------------------------------------------------------------------------------

    def holds(self) -> bool:
        """Whether everything that the trace depended on still is so."""
        for owner, attribute, value in self.guards:
            if getattr(owner, attribute) != value:
                return False
        bound = [t._node for t in self.outer]
        if (
            not self.reads_grads
            and bound == [r() for r in self.seen]
            and self.flags == [n.requires_grad for n in bound]
        ):
            return True
        if not all(c.holds() for c in self.captures):
            return False
        self.seen = [weakref.ref(node) for node in bound]
        return True

    @profile.span("replay")
    def run(self, arguments: list[Tensor]) -> Any:
        """One replay: the results, in the structure that the function returned."""
        for generator in random.generators():
            generator.settle()
        targets: list[Tensor] = self.outer.copy()
        for i, captured in self.inner:  # in the order of the captures
            targets.insert(i, captured.find(arguments))
        _own_memory(targets)
        # Asked before anything here holds their buffers too.
        alone = {i: trace.alone(targets[i]) for i, c in self.rebound if c.value is not None}
        buffers: dict[Node, Buffer] = dict(zip(self.stand_ins, [t._node.buffer for t in targets]))  # type: ignore[misc]
        grads = {i: self._old_grad(c, targets[i]) for i, c in self.rebound}
        output = self._output_buffers(targets, alone, grads)
        self._join_buffers(buffers)
        self._divide_buffers(buffers, output)
        for number, node in enumerate(self.wanted):
            if node not in buffers and node.buffer is None:
                buffers[node] = output[number]
        self._launch(buffers)
        for number, node in enumerate(self.wanted):
            if node.in_memory:  # returned as it came in: a copy, so that it stays what it was
                output[number] = realizing.duplicate(buffers.get(node) or node.buffer, node)
        self._rebind(targets, alone, grads, output)
        results = [Tensor._wrap(self._leaf(number, output)) for number in self.returned]
        return filled(self.structure, results)

    def _old_grad(self, captured: Captured, t: Tensor) -> Optional[Tensor]:
        """The Tensor in `.grad`, if the plan replaces it and nobody else holds it: its memory serves again."""
        if captured.grad is None or t._grad is None or not trace.sole_grad(t):
            return None
        return t._grad

    def _output_buffers(
        self, targets: list[Tensor], alone: dict[int, bool], grads: dict[int, Optional[Tensor]]
    ) -> dict[int, Buffer]:
        """Memory for each result: that of the value which it replaces, a spare, or new. What is part of a larger value
        gets the first only."""
        output: dict[int, Buffer] = {}
        for i, captured in self.rebound:
            grad = grads[i]
            if captured.value is not None and captured.donated and alone[i]:
                buffer = targets[i]._node.buffer
                assert buffer is not None
                output[captured.value] = buffer
            if captured.grad is not None and grad is not None and captured.grad not in output:
                assert grad._node.buffer is not None
                output[captured.grad] = grad._node.buffer
        for number, node in enumerate(self.wanted):
            if number not in output and not node.in_memory and node not in self.whole_of:
                spare = self.spare.pop(number, None)
                output[number] = spare or _allocate(node)
        for number, node in enumerate(self.wanted):
            first = self.number_of[node]  # results that are one node share its buffer
            if first != number and first in output:
                output[number] = output[first]
        return output

    def _join_buffers(self, buffers: dict[Node, Buffer]) -> None:
        """Show captured Tensors as one: where they lie side by side, or in a copy."""
        for joined in self.joined:
            parts = [buffers[self.captures[i].stand_in] for i in joined.parts]
            one = adjacent(parts)
            if one is None:
                one, start = _allocate(joined.leaf), 0
                for part in parts:
                    realizing.copy(part, one.slice(start, part.nbytes))
                    start += part.nbytes
            buffers[joined.leaf] = one

    def _divide_buffers(self, buffers: dict[Node, Buffer], output: dict[int, Buffer]) -> None:
        """Memory for every value whose parts are results: that of the parts which they replace, or new."""
        for whole, pieces in self.schedule.slices.items():
            numbers = [self.number_of[piece.node] for piece in pieces]
            old = [output[n] for n in numbers if n in output]
            one = adjacent(old) if len(old) == len(numbers) else None
            if one is None:
                one, width = _allocate(whole), whole.dtype.itemsize
                places = [(piece.start * width, piece.size * width) for piece in pieces]
                output.update(zip(numbers, one.divide(places), strict=True))
            buffers[whole] = one
        for number, node in enumerate(self.wanted):
            if node in self.whole_of:
                output[number] = output[self.number_of[node]]

    def _launch(self, buffers: dict[Node, Buffer]) -> None:
        self._bind(buffers)
        log = profile.log()
        if log is None:
            if self.backend is not None:
                self.backend.launch_all(self.launches)
            return
        for (step, *_), launch in zip(self.chains, self.launches, strict=True):
            if step.kernel is not None:
                log.launch(step, launch, Device[step.outputs[0].device])
            else:
                launch()
        log.notes.append(f"{self.arena_bytes:,} bytes for intermediate values")

    def _bind(self, buffers: dict[Node, Buffer]) -> None:
        """Make the launches whose buffers are not where they were at the last replay."""
        where = [buffer.handle for buffer in buffers.values()], [buffer.offset for buffer in buffers.values()]
        if self.where is not None and all(map(is_, where[0], self.where[0])) and where[1] == self.where[1]:
            return
        self.where = None
        moved = {number for number, launch in enumerate(self.launches) if launch is None}
        for node, buffer in buffers.items():
            handle, offset = self.bound.get(node, (None, 0))
            if buffer.handle is not handle or buffer.offset != offset:
                self.bound[node] = buffer.handle, buffer.offset
                moved.update(self.users.get(node, ()))
        for number in moved:
            self.launches[number] = None  # so that a failure below is made good by the next replay
        for number in moved:
            chain, executable = self.chains[number], self.executables[number]
            used: list = [
                self.fixed.get(node) or buffers.get(node) or node.buffer
                for step in chain
                for node in (*step.inputs, *step.outputs)
            ]
            if len(chain) == 1 and _changes_nothing(chain[0], used):
                self.launches[number] = _nothing
            elif executable is None:
                self.launches[number] = functools.partial(realizing.copy, used[0], used[1])
            else:
                self.launches[number] = executable.bind(used)

        self.where = where

    def _rebind(
        self,
        targets: list[Tensor],
        alone: dict[int, bool],
        grads: dict[int, Optional[Tensor]],
        output: dict[int, Buffer],
    ) -> None:
        for i, captured in self.rebound:
            t, sole, grad = targets[i], alone.get(i), grads[i]
            if captured.grad_changed:
                if captured.grad is None:
                    t._grad = None
                elif grad is None or grad._node.buffer is not output[captured.grad]:
                    t._grad = Tensor._wrap(self._leaf(captured.grad, output))
            if captured.value is None:
                continue
            new = output[captured.value]
            old = t._node.buffer
            if old is new:
                continue
            if sole:
                assert old is not None
                t._node.buffer = new
                node = self.wanted[captured.value]
                if self.wanted.count(node) == 1 and node not in self.whole_of:
                    self.spare[captured.value] = old
            else:
                leaf = self._leaf(captured.value, output)
                leaf.requires_grad, leaf.owner = t._node.requires_grad, t._node.owner
                t._node = leaf

    def _leaf(self, number: int, output: dict[int, Buffer]) -> Node:
        node = self.wanted[number]
        return nodes.leaf(node.shape, node.dtype, node.device, output[number])


def _changes_nothing(step: Step, used: list[Buffer]) -> bool:
    """Whether a step copies a value onto itself: rows are replaced in a value that is overwritten."""
    kernel = step.kernel
    if kernel is None or not kernel.in_place or not kernel.is_copy:
        return False
    source, target = used
    return source.handle is target.handle and source.offset == target.offset


def _nothing() -> None:
    pass


def _allocate(node: Node) -> Buffer:
    return Device[node.device].allocate(prod(node.shape) * node.dtype.itemsize)


def _under_reshapes(node: Node) -> Node:
    while node.op in ("reshape", "detach"):
        node = node.src[0]
    return node


def _own_memory(tensors: list[Tensor]) -> None:
    """Make every Tensor a leaf with contiguous memory, those that are not yet in one schedule."""
    bound = [t._node for t in tensors]
    if None not in [n.buffer for n in bound] and not any([n.src for n in bound]):
        return
    pending = [t for t in tensors if t._node.buffer is None or t._node.src]
    fresh = []
    for t in pending:
        node = t._node
        if node.op != "barrier":
            source = nodes.make("detach", (node,)) if node.requires_grad else node
            node = nodes.make("barrier", (source,))
        fresh.append(node)
    realizing.realize(fresh)
    for t, node in zip(pending, fresh, strict=True):
        if node is not t._node:
            node.requires_grad, node.owner = t._node.requires_grad, t._node.owner
            t._node = node
