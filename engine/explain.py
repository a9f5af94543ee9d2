"""explain: every stage of one value, from the user's line to the text that ran.

Comes in: a Tensor. Goes out: a text with the lines that made it, its graph, the graph of its gradient, the schedule
with the reason of every decision, the kernels and their sources, and what the run did. Nothing is changed: the Tensor
is as lazy, or as realised, as before; what was computed already shows as a leaf.
"""

from __future__ import annotations

import linecache
import os
import time
from math import prod
from typing import TYPE_CHECKING

from . import debug, realize
from . import node as nodes
from .device import Device
from .gradient import gradients
from .node import Node
from .schedule import Schedule
from .simplify import simplify

if TYPE_CHECKING:
    from .tensor import Tensor


def explain(tensor: Tensor) -> str:
    """The report, as text."""
    node = tensor.node
    parts = [_heading("The lines"), lines_of(node), _heading("The graph"), draw([node])]
    if node.requires_grad:
        start = nodes.constant(1, node.dtype, node.shape, node.device)
        found = gradients(node, start)
        parts += [_heading("The gradient"), draw(list(found.values()), known=[node])]
    image = simplify([node])
    parts += [_heading("Simplified"), draw([image[node]])]
    if realize.is_view_of_memory(node):
        parts += [_heading("The schedule"), "Nothing to run: the value is in memory."]
        return "\n".join(parts) + "\n"
    plan = plan_of(node)
    parts += [_heading("The schedule"), describe(plan), _heading("The source")]
    executables = realize.lower(plan.steps, specialise=False)
    sources: dict[str, list[str]] = {}  # kernels of one structure may share a source
    for executable, step in zip(executables, plan.steps, strict=True):
        if executable is not None and step.kernel is not None:
            sources.setdefault(executable.source, []).append(step.kernel.name)
    parts += [f"// {', '.join(dict.fromkeys(names))}\n{source}".rstrip() for source, names in sources.items()]
    parts += [_heading("The run"), "\n".join(measure(plan))]
    return "\n".join(parts) + "\n"


def _heading(title: str) -> str:
    return f"\n=== {title} " + "=" * (70 - len(title))


def plan_of(node: Node) -> Schedule:
    """The schedule that realising `node` would run."""
    return realize.plan_for([node])[1]


def lines_of(node: Node) -> str:
    """The user's lines among what `node` is made of, in the order of the file."""
    places = {n.where for n in nodes.topological([node]) if n.where is not None}
    shown = []
    for filename, number in sorted(places):
        text = linecache.getline(filename, number).strip()
        shown.append(f"{os.path.basename(filename)}:{number}  {text}")
    return "\n".join(shown)


def draw(roots: list[Node], known: list[Node] | None = None) -> str:
    """One line a node, sources first. `known` nodes and what is below them are drawn elsewhere and only named."""
    below = set(nodes.topological(known)) if known else set()
    names: dict[Node, str] = {}
    shown = []
    for node in nodes.topological(roots, lambda n: () if n in below else n.src):
        names[node] = f"n{len(names)}"
        sources = " ".join(names[s] for s in node.src if s in names)
        line = f"{names[node]:>5} = {node.op:<12} {sources:<12} {_shape(node)}"
        if node in below:
            line += "   (from the graph above)"
        elif node.op not in ("buffer", "barrier", "composite", "copy") and node.arg is not None:
            line += f"   {node.arg}"
        elif node.op == "composite":
            line += f"   {node.arg.name}"
        if node.buffer is not None:
            line += "   in memory"
        if node.owner is not None:
            line += "   wants a gradient"
        shown.append(line.rstrip())
    return "\n".join(shown)


def _shape(node: Node) -> str:
    return f"{node.dtype.name}{list(node.shape)}"


def describe(plan: Schedule) -> str:
    """The decisions, then the kernels as the backend gets them."""
    shown = [f"{node.op:<11} {_shape(node):<20} {reason}" for node, reason in plan.decisions]
    for number, step in enumerate(plan.steps):
        shown.append(f"\nkernel {number} of {len(plan.steps)}")
        shown.append(str(step.kernel) if step.kernel is not None else "  copy between devices")
    return "\n".join(shown)


def announce(roots: list[Node], plan: Schedule, specialise: bool) -> None:
    """What CLGRAD_DEBUG shows of a schedule before it runs: 2 the sources, 3 the decisions too, 4 the graph too."""
    level = debug.level()
    if level >= 4:
        debug.say(draw(roots))
    if level >= 3:
        debug.say(describe(plan))
    if level >= 2:
        executables = realize.lower(plan.steps, specialise)
        debug.say("\n".join(dict.fromkeys(e.source for e in executables if e is not None)))


def measure(plan: Schedule) -> list[str]:
    """Run a schedule on buffers of its own and time each kernel."""
    buffers = {}
    shown = []
    for step, executable in zip(plan.steps, realize.lower(plan.steps, specialise=False), strict=True):
        for node in (*step.inputs, *step.outputs):
            if node not in buffers:
                size = prod(node.shape) * node.dtype.itemsize
                buffers[node] = node.buffer or Device[node.device].allocate(size)
        used = [buffers[node] for node in (*step.inputs, *step.outputs)]
        if executable is None or step.kernel is None:
            realize.copy(used[0], used[1])
            continue
        backend = Device[step.outputs[0].device]
        launch = executable.bind(used)
        launch()
        backend.synchronize()
        start = time.perf_counter()
        launch()
        backend.synchronize()
        shown.append(debug.line(step.kernel, backend.name, time.perf_counter() - start))
    return shown
