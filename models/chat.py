"""Talking with a model: its chat template, and a conversation whose earlier turns are not read again.

    template = ChatTemplate.of(GGUF(path))
    conversation = Conversation(model, tokenizer, template)
    for piece in conversation.answer("What is the capital of France?"):
        print(piece, end="", flush=True)

A template is a program in Jinja that turns messages into text. It comes with the model, so it is run in Jinja's sandbox
and within bounds. Without the package jinja2 the one form that most models share is written out here: ChatML.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import reduce, wraps
from inspect import isgenerator
from math import prod
from typing import Any, Optional

from .decoding import borrow, evaluating, sizes_for
from .gguf_file import GGUF
from .sampling import Sampling, draws
from .tokenizers import Tokenizer, stream

Message = dict[str, str]  # {"role": "system", "user" or "assistant", "content": text}

LONGEST_TEMPLATE = 1 << 18  # characters
BUDGET, STEP = 1 << 24, 64  # what a template may do and make, and what anything costs at least: see `_sandbox`
# the operators, filters and methods that may make as much as the product of the sizes of what they are given
MULTIPLY = frozenset(
    "* replace join center ljust rjust zfill expandtabs translate indent wordwrap tojson round".split()
)
# filters that do not go into the parts of a list
LOOK = frozenset("length count first last list items map select reject selectattr rejectattr default d".split())
ENDS = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>")  # besides the tokenizer's own


class ChatTemplate:
    """Messages to the text that the model continues as the assistant.

    `source` is the Jinja program; `tokens` the texts of special tokens that it may name, "bos_token" and "eos_token".
    """

    def __init__(self, source: str, tokens: Optional[dict[str, str]] = None):
        if len(source) > LONGEST_TEMPLATE:
            raise ValueError(f"the chat template has {len(source):,} characters; {LONGEST_TEMPLATE:,} make sense")
        self.source, self.tokens = source, tokens or {}

    @classmethod
    def of(cls, file: GGUF) -> ChatTemplate:
        """The template in a GGUF file. Raises ValueError if there is none: the model was not made for chats."""
        source = file.metadata.get("tokenizer.chat_template")
        if not isinstance(source, str):
            raise ValueError(
                f"{file.path} has no chat template; use clgrad generate for models that only continue texts"
            )
        words = file.metadata.get("tokenizer.ggml.tokens")
        tokens = {}
        for name in ("bos", "eos"):
            number = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
            if isinstance(words, list) and type(number) is int and 0 <= number < len(words):
                tokens[f"{name}_token"] = words[number]
        return cls(source, tokens)

    def render(self, messages: Sequence[Message]) -> str:
        """The text up to where the assistant's next message begins.

        Raises ValueError for a template that is damaged, goes beyond the bounds or refuses the messages, ImportError
        for one other than ChatML without the package jinja2.
        """
        try:
            import jinja2.ext
            import jinja2.sandbox
            import jinja2.visitor
        except ImportError as error:
            return _chatml(self.source, messages, error)
        try:
            template = _sandbox(jinja2).from_string(self.source)
            return template.render(messages=list(messages), add_generation_prompt=True, **self.tokens)
        except Exception as error:  # a template may raise whatever it likes
            raise ValueError(f"the chat template cannot be used: {str(error) or type(error).__name__}") from None


def _sandbox(jinja2: Any) -> Any:
    """What makes a template of its source, for one rendering, in which everything is paid from one budget: a pass of a
    loop and every operation, by the sizes of its operands, which are multiplied where a result may be as large as that.
    So memory and time stay within bounds, whatever a file says."""
    nodes, left = jinja2.nodes, float(BUDGET)

    def size(x: Any) -> float:
        if isinstance(x, (str, bytes)):
            return len(x)
        if isinstance(x, (int, float)):
            return abs(x)
        total = float(STEP)
        for part in [*x, *x.values()] if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ():
            total += size(part)
            if total > left:  # small lists in lists may hold one another many times
                break
        return total

    def spend(*operands: Any) -> None:
        nonlocal left
        left -= STEP + sum(map(size, operands))
        if left < 0:
            raise jinja2.TemplateRuntimeError("it makes too much text, or takes too long")

    def shown(x: Any) -> Any:
        spend(x)
        return x

    def each(values: Any) -> Iterator[Any]:
        for value in values:
            spend()
            yield value

    def pay_for(name: str, *operands: Any) -> None:
        if name in LOOK:
            spend(*(len(x) for x in operands if isinstance(x, (str, bytes, list, tuple, dict))))
        else:
            spend(*([prod(max(1, size(x)) for x in operands)] if name in MULTIPLY else operands))

    def paid(name: str, function: Any) -> Any:
        @wraps(function)
        def run(*args: Any, **named: Any) -> Any:
            args = tuple(list(x) if isgenerator(x) else x for x in args)
            pay_for(name, *args, *named.values())
            return function(*args, **named)

        return run

    class Paid(jinja2.visitor.NodeTransformer):
        """Loops and the operator ~ in a form that the environment sees."""

        def visit_For(self, node: Any) -> Any:
            self.generic_visit(node)
            node.iter = nodes.Filter(node.iter, "each", [], [], None, None)
            return node

        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            return reduce(nodes.Add, (nodes.Filter(part, "string", [], [], None, None) for part in node.nodes))

    class Generation(jinja2.ext.Extension):
        """{% generation %}, with which some templates mark what a model is trained to say."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    class Bounded(jinja2.sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("+", "*", "**", "%"))

        def call_binop(self, context: Any, operator: str, one: Any, other: Any) -> Any:
            if operator == "**" or operator == "%" and isinstance(one, (str, bytes)):
                raise jinja2.TemplateRuntimeError("powers and the formatting of text by % are not computed")
            pay_for(operator, one, other)
            return super().call_binop(context, operator, one, other)

        def call(self, context: Any, function: Any, *args: Any, **named: Any) -> Any:
            method = getattr(function, "__wrapped__", function)  # the sandbox wraps format()
            owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
            if isinstance(owner, (str, bytes)) and name.startswith("format"):
                raise jinja2.TemplateRuntimeError("format() is not computed")
            pay_for(name, owner, *args, *named.values())
            return super().call(context, function, *args, **named)

        def from_string(self, source: str, *args: Any) -> Any:
            tree = Paid().visit(self.parse(source))
            tree.set_environment(self)
            return super().from_string(tree, *args)

    def tojson(x: Any, ensure_ascii: bool = False, **options: Any) -> str:  # without the escapes for HTML of Jinja's
        return json.dumps(x, ensure_ascii=ensure_ascii, **options)

    def refuse(message: str) -> None:
        raise jinja2.TemplateRuntimeError(message)

    extensions = ["jinja2.ext.loopcontrols", Generation]
    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=shown)
    environment.filters = {name: paid(name, f) for name, f in (environment.filters | {"tojson": tojson}).items()}
    environment.filters["each"] = each
    del environment.filters["format"], environment.globals["lipsum"]
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment


def _chatml(source: str, messages: Sequence[Message], error: ImportError) -> str:
    if "<|im_start|>" not in source or "<|im_end|>" not in source:
        raise ImportError('the chat template needs jinja2: pip install "clgrad[chat]"') from error
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


class Conversation:
    """A model, and what it and the user have said. Keys and values of the text so far are kept.

    Args:
        system: what the model is told before everything; what the template says unless given.
        max_tokens: the most tokens of one answer.
        sampling: see `Sampling`; greedy unless given.
        seed: of all draws; None differs every time.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        system: Optional[str] = None,
        max_tokens: int = 512,
        sampling: Optional[Sampling] = None,
        seed: Optional[int] = None,
    ):
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.max_tokens, self.sampling = max_tokens, sampling or Sampling(0.0)
        self.generator = draws(seed)
        named = (tokenizer.id_of(name) for name in ENDS)
        self.ends = tokenizer.ends | {token for token in named if token is not None}
        self.decoder = borrow(model, sizes_for(model, 1, 1))
        self.read: list[int] = []  # the tokens whose keys and values the decoder has

    def answer(self, text: str) -> Iterator[str]:
        """What the model says to `text`, piece by piece. Both join the conversation, as far as the answer was taken.

        Where the context is full, the oldest turns are forgotten. Raises ValueError for a text that alone is too long.
        """
        self.messages.append({"role": "user", "content": text})
        said: list[str] = []
        try:
            for piece in stream(self.tokenizer, self._tokens(self._prompt())):
                said.append(piece)
                yield piece
        finally:  # also where the caller stops, or the user interrupts
            if said:
                self.messages.append({"role": "assistant", "content": "".join(said)})
            else:
                del self.messages[-1]

    def _prompt(self) -> list[int]:
        """The conversation as tokens, of which the oldest turns go until an answer has room."""
        context = self.model.context_length
        room = min(self.max_tokens, context // 2)
        messages = list(self.messages)
        while True:
            ids = self.tokenizer.encode(self.template.render(messages))
            if len(ids) + room <= context:
                self.messages = messages
                return ids
            first = messages[0]["role"] == "system"
            if len(messages) < first + 3:
                raise ValueError(
                    f"the text takes {len(ids)} tokens, and an answer {room}: more than the context of {context}"
                )
            del messages[first : first + 2]  # a question and its answer

    def _tokens(self, ids: list[int]) -> Iterator[int]:
        with evaluating(list(self.model.modules())):
            while len(ids) > self.decoder.columns:
                self.decoder = self.decoder.grown()
            known = len(os.path.commonprefix([self.read, ids[:-1]]))
            self.read = []  # lest an interrupt leaves it wrong
            self.decoder.read([ids], known)
            read, seen = list(ids), set(ids)
            for count in range(self.max_tokens):
                token = self.sampling.choose(self.decoder.logits.numpy()[0], seen, self.generator)
                self.read = read
                if token in self.ends:
                    return
                yield token
                if count + 1 == self.max_tokens or len(read) >= self.model.context_length:
                    return
                if self.decoder.is_full:
                    self.decoder = self.decoder.grown()
                self.decoder.step([token])
                read.append(token)
                seen.add(token)
