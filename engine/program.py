"""Programs: schedules that run again on every graph of the same structure.

Comes in: a graph, as a list of nodes, sources first. Goes out: a key that two graphs share if they differ in nothing
but the buffers of their leaves, and a `Program`: a schedule in which every node is replaced by a number. A loop that
does the same thing again and again without jit so simplifies and schedules once.

    graph          0: buffer    1: buffer    2: dot 0 1    3: exp 2
    program        the kernel reads slots 0 and 1 and writes slot 4;    node 3 gets slot 4

A program holds numbers, kernels and executables. It keeps no node and no buffer alive.

>>> from clgrad import Tensor
>>> from clgrad.engine.program import structure
>>> def key(x):
...     return structure([x.node])[1]
>>> a, b = Tensor([1.0, 2.0]), Tensor([3.0, 4.0])
>>> key(a + a) == key(b + b), key(a + a) == key(a + b), key(a * 2) == key(a * 3)
(True, False, False)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from math import prod
from typing import NamedTuple, Optional

from ..backends.base import Backend, Buffer, Executable, adjacent
from ..backends.dtypes import uint8
from . import profile
from .device import Device
from .lowering import operand
from .node import Node, topological
from .schedule import Schedule, Step

MOST_NODES = 1 << 15  # in all graphs whose programs are kept; key and program take about 600 bytes a node


def structure(roots: list[Node]) -> tuple[list[Node], Hashable]:
    """The nodes from which `roots` are computed, sources first, and all that a schedule depends on of them.

    What lies in memory is a leaf, whatever made it. Of leaves, constants alone differ in more than shape and dtype.
    """
    order = topological(roots, lambda n: () if n.in_memory or _lies_together(n) else n.src)
    number: dict[Node, int] = {}
    parts: list[Hashable] = []
    for i, node in enumerate(order):
        number[node] = i
        flags = node.requires_grad + 2 * (node.owner is not None) + 4 * (node.buffer is not None) + 8 * bool(node.src)
        op, arg = node.op, node.arg
        if op == "const":
            arg = node._key  # the bits, the dtype, the shape
        elif op == "composite":
            arg = (arg.name, arg.arg)  # the rule is the gradient's business
        elif op == "barrier":
            arg = None  # a number that only tells it from other barriers, as its place in the order does
        if node.in_memory:
            parts.append((flags, arg if op == "const" else None, node.shape, node.dtype, node.device))
        elif not node.src:
            parts.append((flags, op, arg, node.shape, node.device))
        else:
            parts.append((flags, op, arg, *[number[s] for s in node.src]))
    backends = frozenset(Device[name] for name in {node.device for node in order})
    return order, (tuple(parts), tuple([number[root] for root in roots]), backends)


def _lies_together(node: Node) -> bool:
    """Whether `node` says one after another what lies so in memory. It then is in memory itself, from now on."""
    if node.op != "cat" or prod(node.shape[: node.arg]) != 1:
        return False
    buffers = []
    for part in node.src:
        while part.op in ("reshape", "detach") and part.buffer is None:
            part = part.src[0]
        if part.buffer is None:
            return False
        buffers.append(part.buffer)
    node.buffer = adjacent(buffers)
    return node.buffer is not None


class Task(NamedTuple):
    """One launch on the buffers in `slots`, inputs first. `outputs` (slot, bytes) are allocated before it.

    The pieces of an output are slots that are part of it: (slot, start, bytes). `dead` are the slots that nobody reads
    afterwards. `executable` is None for a copy between devices.
    """

    step: Step  # without its nodes
    executable: Optional[Executable]
    backend: Backend
    slots: tuple[int, ...]
    outputs: tuple[tuple[int, int, tuple[tuple[int, int, int], ...]], ...]
    dead: tuple[int, ...]


class Program:
    """A schedule by numbers: slot i is the buffer of node i of the graph, and the slots above are what is computed.

    `foreign` holds buffers from outside the graph, which there are when simplifying a node gave one that exists
    elsewhere and has a value. Such a program is right for this very graph only.
    """

    def __init__(self, order: list[Node], image: dict[Node, Node], plan: Schedule, retained: set[Node], lowered: list):
        """`plan` computes the simplified images of the nodes in `order`, `lowered` are its executables, and the
        buffers of `retained` images outlive the run."""
        self._slots = {node: i for i, node in enumerate(order) if node.in_memory}
        self.size, self.count = len(order), len(order)
        self.foreign: dict[int, Buffer] = {}
        last_reader = {node: number for number, step in enumerate(plan.steps) for node in step.inputs}
        self.tasks: list[Task] = []
        for number, (step, executable) in enumerate(zip(plan.steps, lowered, strict=True)):
            inputs = [self._slot(node) for node in step.inputs]
            outputs = []
            for node in step.outputs:
                if node not in self._slots:  # several steps may each compute a part of one value
                    width = node.dtype.itemsize
                    whole, pieces = self._new_slot(node), plan.slices.get(node, ())
                    parts = tuple((self._new_slot(p.node), p.start * width, p.size * width) for p in pieces)
                    outputs.append((whole, prod(node.shape) * width, parts))
            own = [n for n in step.inputs if last_reader[n] == number and not n.in_memory and n not in retained]
            self.tasks.append(
                Task(
                    Step(step.kernel, [], [], step.lines),
                    executable,
                    Device[step.outputs[0].device],
                    (*inputs, *[self._slots[node] for node in step.outputs]),
                    tuple(outputs),
                    tuple({self._slots[node] for node in own}),
                )
            )
        lasting = retained.intersection(self._slots)
        self.results: list[tuple[int, int]] = []  # (number of a node, slot of its value)
        for i, node in enumerate(order):
            if not node.in_memory:
                slot = self._place(node, image[node], lasting)
                if slot is not None:
                    self.results.append((i, slot))
        valued = {i for i, _ in self.results}
        self.forgetful = [
            i
            for i, node in enumerate(order)
            if (i in valued or (node.buffer is not None and node.src))
            and (not node.requires_grad or node.owner is not None)
        ]
        read = {slot for task in self.tasks for slot in task.slots} | {slot for _, slot in self.results}
        self.leaves = [i for i, node in enumerate(order) if i in read]
        del self._slots

    def _new_slot(self, node: Node) -> int:
        self._slots[node] = self.count
        self.count += 1
        return self.count - 1

    def _slot(self, node: Node) -> int:
        if node not in self._slots:
            assert node.buffer is not None
            self.foreign[self._new_slot(node)] = node.buffer
        return self._slots[node]

    def _place(self, node: Node, simple: Node, lasting: set[Node]) -> Optional[int]:
        """The slot with the value of `node`, if its image lies in memory as it is."""
        if simple is node and node not in lasting:
            return None
        base, view = operand(simple, lasting.__contains__)
        lies = base.buffer is not None or base in lasting
        whole = view is not None and view.is_contiguous() and prod(base.shape) == view.size
        return self._slot(base) if lies and whole else None

    @profile.span("run")
    def run(self, order: list[Node]) -> None:
        """Run on the graph whose nodes `order` are, and give them their values. History that is done goes."""
        buffers: list[Optional[Buffer]] = [None] * self.count
        for i in self.leaves:
            buffers[i] = order[i].buffer
        for i, buffer in self.foreign.items():
            buffers[i] = buffer
        log = profile.log()
        for step, executable, backend, slots, outputs, dead in self.tasks:
            for slot, nbytes, pieces in outputs:
                whole = buffers[slot] = backend.allocate(nbytes)
                parts = whole.divide([(start, size) for _, start, size in pieces])
                for (part, _, _), buffer in zip(pieces, parts, strict=True):
                    buffers[part] = buffer
            used: list = [buffers[slot] for slot in slots]
            if executable is None:
                copy(used[0], used[1])
            elif log is not None:
                log.launch(step, executable.bind(used), backend)
            else:
                executable.run(used)
            for slot in dead:
                buffers[slot] = None
        for i, slot in self.results:
            order[i].buffer = buffers[slot]
        for i in self.forgetful:
            order[i].forget_sources()


def copy(source: Buffer, target: Buffer) -> None:
    """Move bytes between devices, through the host."""
    target.backend.upload(target, source.backend.download(source, uint8, target.nbytes))


class Programs:
    """The programs of the graphs that were realised last, by structure. `hits` and `misses` count what was asked."""

    def __init__(self, most_nodes: int = MOST_NODES):
        self.most_nodes, self.nodes = most_nodes, 0
        self.hits = self.misses = 0
        self._known: OrderedDict[Hashable, Program] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> Optional[Program]:
        """The program kept for `key`, or None."""
        with self._lock:
            program = self._known.get(key)
            if program is None:
                self.misses += 1
            else:
                self.hits += 1
                self._known.move_to_end(key)
            return program

    def keep(self, key: Hashable, program: Program) -> None:
        """Keep `program` for `key`, and forget those that were of no use for the longest time."""
        if program.foreign:
            return
        with self._lock:
            before = self._known.pop(key, None)
            self._known[key] = program
            self.nodes += program.size - (before.size if before is not None else 0)
            while self.nodes > self.most_nodes:
                self.nodes -= self._known.popitem(last=False)[1].size

    def clear(self) -> None:
        """Forget all programs."""
        with self._lock:
            self._known.clear()
            self.nodes = 0


PROGRAMS = Programs()
