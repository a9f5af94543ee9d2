"""The text of a function, for a program that can be pasted and run elsewhere.

A function that can be imported is imported; of another one the source is copied, with what it names: modules,
functions and plain values around it.

>>> from clgrad.testing.source import function_source
>>> from math import gcd
>>> function_source(gcd)
(['from math import gcd'], 'gcd')
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any, Optional

import numpy as np

from ..engine.tensor import Tensor
from .sample import code, literal

PROVIDED = {"np", "Tensor"}  # what every program imports


def function_source(fn: Callable) -> tuple[list[str], str]:
    """(lines that must come before, the name by which it can then be called)."""
    lines: dict[str, None] = {}
    name = _named(fn, "fn", lines)
    return list(lines), name


def _named(value: Any, name: str, lines: dict[str, None]) -> str:
    """An expression for a value, with the lines that it needs added to `lines`."""
    if isinstance(value, ModuleType):
        lines[f"import {value.__name__}" + (f" as {name}" if value.__name__ != name else "")] = None
        return name
    own = getattr(value, "__name__", "")
    if own and getattr(Tensor, own, None) is value:
        return f"Tensor.{own}"
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    if own and module is not None and module.__name__ != "__main__" and getattr(module, own, None) is value:
        if module is builtins:
            return own
        lines[f"from {module.__name__} import {own}" + (f" as {name}" if name not in (own, "fn") else "")] = None
        return own if name == "fn" else name
    if isinstance(value, FunctionType):
        return _copied(value, name, lines)
    text = _plain(value)
    lines[f"{name} = {text}" if text else f"{name} = ...  # {type(value).__name__}: as in your code"] = None
    return name


def _plain(value: Any) -> Optional[str]:
    if isinstance(value, Tensor):
        return f'Tensor({literal(value.numpy())}, dtype="{value.dtype.name}", device={value.device!r})'
    if isinstance(value, (int, float, str, bool, type(None), slice, np.ndarray)):
        return code(value)
    if isinstance(value, (tuple, list)) and all(_plain(v) for v in value):
        return code(value)
    return None


def _copied(fn: FunctionType, name: str, lines: dict[str, None]) -> str:
    text, used = _text(fn, name)
    around = {**fn.__globals__, **inspect.getclosurevars(fn).nonlocals}
    for needed in used:
        if needed in around and needed not in PROVIDED and not hasattr(builtins, needed):
            if around[needed] is not fn:
                _named(around[needed], needed, lines)
    lines[text] = None
    return name if fn.__name__ == "<lambda>" else fn.__name__


def _text(fn: FunctionType, name: str) -> tuple[str, list[str]]:
    """The definition, without decorators or as `name = lambda ...`, and the names in it."""
    if hasattr(fn, "__clgrad_source__"):  # a random program: its own text
        return f"\n\n{fn.__clgrad_source__}\n\n", []
    try:
        source = textwrap.dedent(inspect.getsource(fn))
    except (OSError, TypeError):
        return f"{name} = ...  # {fn.__qualname__}: as in your code", []
    wanted = ast.Lambda if fn.__name__ == "<lambda>" else ast.FunctionDef
    for node in ast.walk(_parsed(source) or ast.Module([], [])):
        if isinstance(node, wanted) and _is(node, fn):
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = []
            text = ast.unparse(node)
            names = sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & _around(fn.__code__))
            return (f"{name} = {text}" if wanted is ast.Lambda else f"\n\n{text}\n\n"), names
    return f"{name} = ...  # {fn.__qualname__}: as in your code", []


def _around(code: CodeType) -> set[str]:
    """The names that a function has from around it (and those of attributes)."""
    inside = [set(c.co_names) | _around(c) for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(code.co_freevars, *inside)


def _parsed(source: str) -> Optional[ast.Module]:
    """The syntax tree of lines that may be a part of a statement: brackets around are left out until they fit."""
    for start in range(min(len(source), 400)):
        if start and not source.startswith("lambda", start):
            continue
        for end in range(len(source), start, -1):
            try:
                return ast.parse(source[start:end].strip())
            except (SyntaxError, ValueError):
                if not start and end == len(source):
                    break
    return None


def _is(node: Any, fn: FunctionType) -> bool:
    """Whether a definition in the source is that of `fn`, as its compiled code tells."""
    if isinstance(node, ast.FunctionDef):
        return node.name == fn.__name__
    built = compile(ast.Expression(node), "source", "eval").co_consts[0]
    ours, theirs = ((set(c.co_names) | set(c.co_freevars), c.co_varnames) for c in (built, fn.__code__))
    constants = [[v for v in c.co_consts if not hasattr(v, "co_code")] for c in (built, fn.__code__)]
    return ours == theirs and constants[0] == constants[1]
