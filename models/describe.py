"""What a model is made of, without its weights: every stage in the order of the data, with shapes and parameters.

Tensors are lazy, so a model of any size can be built, and its forward pass written down as a graph, while no weight is
ever drawn. The graph says it all: walked from the logits back to the tokens, sources first, it meets the parameters in
the order in which data do, and the shapes of what is made with them. Batch and time are two primes that appear nowhere
else in the model, and are printed as the letters B and T (S and T for the source and the target of two stacks).

>>> from clgrad.models import GPT
>>> about = describe(GPT, GPT.preset("gpt2"))
>>> about.parameters, [row.stage for row in about.rows[:3]]
(124439808, ['tokenisation', 'embedding', 'positions'])
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..engine.node import Node
from ..engine.ops import MOVEMENT
from ..engine.tensor import Tensor
from .base import PretrainedModel, class_for, classes

# A parameter's stage: the first of these that is found in its name, behind the number of its block
STAGES = {
    "head": r"^(lm_head|cls|pooler|classifier)\.",
    "segments": r"token_type_embeddings\.",
    "positions": r"(wpe|positions_embed|position_embeddings|embed_positions|relative_attention_bias)\.",
    "normalisation": r"(^|\.)(ln_\w+|\w*norm\w*|LayerNorm)\.",
    "embedding": r"(wte|tokens_embed|embed_tokens|word_embeddings|shared|embedding)\.",
    "cross-attention": r"(encoder_attn|multihead_attn|EncDecAttention)\.",
    "attention": r"(attn|attention|SelfAttention)\.",
    "feed-forward, back": r"(mlp\.(c_proj|down_proj)|wo|fc2|linear2|output\.dense)\.",
    "feed-forward": r"(mlp|wi\w*|fc1|linear1|intermediate)\.",
}
BLOCK = re.compile(r"^(.*?\.)?(?:h|layers?|block)\.(\d+)\.")  # of a parameter's name
PRIMES = (89, 83, 97, 79, 101, 73, 103, 71, 107, 67, 61, 59, 53, 47, 43, 41, 37, 31, 29, 23, 19, 17, 13, 11, 7, 5, 3, 2)
USUAL_CONTEXT = 512  # tokens, where a model has no longest sequence
ACTIVATIONS = ("activation_function", "hidden_act", "feed_forward_proj")


@dataclass
class Row:
    """One stage: what comes out of it, and what is learnt in it (nothing, or something that stands elsewhere too)."""

    stage: str
    block: Optional[int] = None
    stack: str = ""  # encoder or decoder, where there are both
    shapes: list[tuple] = field(default_factory=list)
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)  # parameters that an earlier stage counts

    @property
    def count(self) -> int:
        return sum(math.prod(shape) for shape in self.parameters.values())

    def like(self) -> tuple:
        """What is the same in the same stage of another block."""
        suffixes = tuple((_short(name), shape) for name, shape in self.parameters.items())
        return self.stage, self.stack, tuple(self.shapes), suffixes


@dataclass
class Description:
    """A model's stages and sums. `flops` are those of a forward pass for each token, with `context` tokens in all."""

    name: str
    config: Any
    rows: list[Row]
    parameters: int
    context: int
    flops: float
    activations: int  # numbers that products give, of one sequence of `context` tokens

    @property
    def memory(self) -> dict[str, int]:
        """Bytes to train in float32 with Adam, and how they come about."""
        weights = 4 * self.parameters
        return {"weights": weights, "gradients": weights, "Adam's two moments": 2 * weights}

    def groups(self) -> Iterator[tuple[int, list[Row]]]:
        """(how many blocks in a row are alike, the rows of the first of them); rows outside of blocks are alone."""
        blocks: list[list[Row]] = []
        for row in self.rows:
            if row.block is None or not blocks or (row.block, row.stack) != (blocks[-1][0].block, blocks[-1][0].stack):
                blocks.append([])
            blocks[-1].append(row)
        at = 0
        while at < len(blocks):
            first, alike = blocks[at], 1
            same = _likes(first)
            while first[0].block is not None and at + alike < len(blocks) and _likes(blocks[at + alike]) == same:
                alike += 1
            yield alike, first
            at += alike

    def __str__(self) -> str:
        total = sum(self.memory.values())
        parts = " + ".join(f"{name} {_bytes(size)}" for name, size in self.memory.items())
        options = ", ".join(f"{key}={value}" for key, value in vars(self.config).items() if value is not None)
        lines = [
            f"{self.name}: {self.parameters:,} parameters",
            options,
            f"memory to train in float32: {_bytes(total)} ({parts}),",
            f"    and for activations at least {_bytes(4 * self.activations)} a sequence of {self.context} tokens",
            f"FLOPs a token, one of {self.context}: {self.flops:.3g} forward, {3 * self.flops:.3g} to train",
            "",
            _line("stage", "what comes out", "parameters", "learnt here"),
        ]
        stack = ""
        for alike, rows in self.groups():
            if rows[0].stack != stack:
                stack = rows[0].stack
                lines.append(f"-- {stack}")
            if rows[0].block is not None:
                first, last = rows[0].block, rows[0].block + alike - 1
                which = f"block {first}" if alike == 1 else f"{alike} blocks ({first} to {last}), each"
                lines.append(_line(which, "", f"{sum(row.count for row in rows):,}", ""))
            for row in rows:
                learnt = ", ".join(f"{_short(name)} {shape}" for name, shape in row.parameters.items())
                shared = f"as above: {', '.join(map(_short, row.shared))}" if row.shared else ""
                indent = "  " * (row.block is not None)
                count = f"{row.count:,}" if row.count else "none"
                shapes = " → ".join(map(_shape, row.shapes)) if row.shapes else "text → (B, T) integers"
                lines.append(_line(indent + row.stage, shapes, count, "; ".join(filter(None, (learnt, shared)))))
        return "\n".join(lines)


def find(name: str) -> tuple[type[PretrainedModel], Any]:
    """The class and the Config of a preset of any architecture, or of a folder's config.json. Raises ValueError."""
    file = Path(name) / "config.json"
    if file.is_file():
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            chosen = class_for(content)
            return chosen, chosen.config_from(content)
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file}: {error}") from None
    known = presets()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(f"there is no preset {name!r}. {hint}There are: {', '.join(known)}")
    return known[name], known[name].preset(name)


def presets() -> dict[str, type[PretrainedModel]]:
    """Every published size and the class that it is one of: the first that names it."""
    known: dict[str, type[PretrainedModel]] = {}
    for cls in classes():
        for name in cls.presets:
            known.setdefault(name, cls)
    return known


@Tensor.no_grad()
def describe(cls: type[PretrainedModel], config: Any, context: Optional[int] = None) -> Description:
    """The stages of a model of this class and configuration, of which no weight is made.

    `context` is the number of tokens for which FLOPs and activations are counted: the longest sequence unless given, or
    512 where there is none. Raises ValueError for a context that is longer than the longest or less than 1.
    """
    model: Any = cls(config).eval()  # one of several families
    longest = getattr(model, "context_length", None)
    context = (longest or USUAL_CONTEXT) if context is None else context
    if context < 1 or (longest and context > longest):
        raise ValueError(f"{cls.__name__} reads up to {longest or 'any number of'} tokens, so not {context}")
    letters = _letters(config, longest)
    B, S, T = letters
    tokens = {n: Tensor(np.zeros((B, n), np.int32)) for n in (S, T)}
    if hasattr(model, "encode"):
        encoded = model.encode(tokens[S])
        features = model.features(tokens[T], memories=model.memories(encoded))
        roots = [("encoder", encoded), ("decoder", model.logits(features))]
    else:
        outputs = model(tokens[T])
        found = outputs if isinstance(outputs, tuple) else (outputs,)
        roots = [("", output) for output in found if isinstance(output, Tensor)]
    walk = _Walk(model, letters, context)
    for stack, root in roots:
        walk.follow(root.node, stack)
    rows = [Row("tokenisation"), *walk.rows]
    if unused := {name: shape for name, shape in walk.sizes.items() if name not in walk.met}:
        rows.append(Row("not met by this pass", parameters=unused))
    if hasattr(model, "logits"):
        rows.append(Row("softmax", stack=roots[-1][0], shapes=[walk.shape(roots[-1][1].shape)]))
    return Description(
        cls.__name__, config, rows, model.num_parameters(), context, walk.flops / context, walk.activations
    )


def _letters(config: Any, longest: Optional[int]) -> tuple[int, int, int]:
    """Three numbers for batch, source and target, which divide no size of the model, where there are such."""
    sizes = [value for value in vars(config).values() if type(value) is int and value > 0]
    free = [prime for prime in PRIMES if all(size % prime for size in sizes)]
    times = [prime for prime in free if prime <= (longest or prime)] or [longest or 1]
    batch = next(prime for prime in free if prime not in times[:2])
    return batch, times[-1] if len(times) < 2 else times[1], times[0]


class _Walk:
    """Collects rows from the graph of a forward pass: depth first, sources before what is made of them."""

    def __init__(self, model: PretrainedModel, letters: tuple[int, int, int], context: int):
        self.names = {id(parameter.node): name for name, parameter in model.named_parameters()}
        self.sizes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.activation = next(
            (getattr(model.config, key) for key in ACTIVATIONS if hasattr(model.config, key)), "relu"
        )
        B, S, T = letters
        self.letter = {B: ("B",), B * S: ("B", "S"), B * T: ("B", "T"), S: ("S",), T: ("T",)}
        self.size = {"B": 1, "S": context, "T": context}
        self.rows: list[Row] = []
        self.met: set[str] = set()
        self.flops, self.activations = 0, 0
        self.stack, self.looking = "", "attention"
        self.block: Optional[int] = None
        self._keys: dict[tuple, Row] = {}
        self._seen: set[Node] = set()
        self._origin: dict[Node, str] = {}  # a parameter, or its numbers in another shape -> its name

    def follow(self, root: Node, stack: str) -> None:
        self.stack, self.block = stack, None
        pending = [(root, False)]
        while pending:
            node, ready = pending.pop()
            if ready:
                self._visit(node)
            elif node not in self._seen:
                self._seen.add(node)
                if id(node) in self.names:
                    self._origin[node] = self.names[id(node)]
                else:
                    pending.append((node, True))
                    pending += [(source, False) for source in reversed(node.src)]

    def shape(self, sizes: tuple[int, ...]) -> tuple:
        """Sizes with letters for batch and time."""
        return tuple(part for n in sizes for part in self.letter.get(n, (n,)))

    def _visit(self, node: Node) -> None:
        used = [self._origin[source] for source in node.src if source in self._origin]
        if used and (node.op in MOVEMENT or node.op in ("cast", "detach")):
            self._origin[node] = used[0]
        for name in () if node in self._origin else used:
            self._use(name, node)
        if node.op == "dot":
            self._count((*node.shape, node.src[0].shape[-1]), node.shape)
            if not used:  # scores, or what they weight, of an attention that has no kernel of its own
                self._core(node.shape)
        elif node.op == "attention" and node.arg.result == "output":
            q, k, v = (source.shape for source in node.src[:3])
            heads = (q[0], math.prod(q[1:-2]), q[-2])
            self._core((*heads, k[-2]), (*heads, v[-1]))
            self._count((*q[:-1], k[-2], q[-1] + v[-1]), (*q[:-1], v[-1]))
        elif node.op == "sin" and (self.stack, "turned") not in self._keys:
            row = self._keys[self.stack, "turned"] = Row(
                "positions: sines, cosines", stack=self.stack, shapes=[self.shape(node.shape)]
            )
            inside = (i for i, row in enumerate(self.rows) if row.stack == self.stack and row.block is not None)
            self.rows.insert(next(inside, len(self.rows)), row)  # what turns queries and keys is made once for all

    def _use(self, name: str, node: Node) -> None:
        """A parameter meets data, of which `node` comes."""
        block = BLOCK.match(name)
        self.block = int(block[2]) if block else None
        path = name[block.end() :] if block else name
        stage = next((stage for stage, pattern in STAGES.items() if re.search(pattern, path)), "others")
        which: Any = None
        if stage == "embedding" and node.op == "dot":
            stage = "head"
        elif stage == "normalisation":
            which = path.rpartition(".")[0]
            if block is None and any(row.block is not None and row.stack == self.stack for row in self.rows):
                stage = "final normalisation"
        elif stage.endswith("attention"):
            self.looking = stage
            stage += ": output" if self._key(f"{stage}: softmax(QKᵀ)V") in self._keys else ": queries, keys, values"
        elif stage == "feed-forward, back":
            self._row(f"activation: {self.activation}", None, self._row("feed-forward").shapes[-1])
        row = self._row(stage, which, self.shape(node.shape) if node.op in ("dot", "gather") else None)
        if not row.shapes:
            row.shapes.append(self.shape(node.shape))
        if name not in self.met:
            self.met.add(name)
            row.parameters[name] = self.sizes[name]
        elif name not in row.parameters and name not in row.shared:
            row.shared.append(name)

    def _core(self, *shapes: tuple[int, ...]) -> None:
        for shape in shapes:
            self._row(f"{self.looking}: softmax(QKᵀ)V", None, self.shape(shape))

    def _row(self, stage: str, which: Any = None, shape: Optional[tuple] = None) -> Row:
        """The row of a stage of the block at hand, made if need be, with one shape more unless it is the last again."""
        key = self._key(stage, which)
        if key not in self._keys:
            self._keys[key] = Row(stage, self.block, self.stack)
            self.rows.append(self._keys[key])
        row = self._keys[key]
        if shape is not None and row.shapes[-1:] != [shape]:
            row.shapes.append(shape)
        return row

    def _key(self, stage: str, which: Any = None) -> tuple:
        return self.stack, self.block, stage, which

    def _count(self, product: tuple[int, ...], result: tuple[int, ...]) -> None:
        """Two FLOPs for each multiplication of a product of these sizes."""
        full = [math.prod(self.size.get(n, n) for n in self.shape(sizes)) for sizes in (product, result)]
        self.flops += 2 * full[0]
        self.activations += full[1]


def _likes(rows: list[Row]) -> list[tuple]:
    return [row.like() for row in rows]


def _line(stage: str, shapes: str, count: str, learnt: str) -> str:
    return f"{stage:<36} {shapes:<40} {count:>15}  {learnt}".rstrip()


def _shape(shape: tuple) -> str:
    return f"({', '.join(map(str, shape))})"


def _short(name: str) -> str:
    """The last two parts of a parameter's name."""
    return ".".join(name.split(".")[-2:])


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.4g} TB"
