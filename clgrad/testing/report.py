"""Programs that show a failure: they can be pasted into a file, and fail when they are run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Optional

from ..backends.dtypes import is_float
from .sample import Sample
from .source import function_source

HELPERS = {
    "clgrad": ("jit",),
    "clgrad.testing": ("gradcheck", "gradgradcheck"),
    "clgrad.testing.modes": ("assert_same", "computed", "unfused", "values_and_gradients"),
}


def program(
    fn: Callable[..., Any], arguments: Sequence[Any], device: str, lines: Sequence[str], dtype: Optional[str] = None
) -> str:
    """The text of a program: the function, its inputs (floats as `dtype`, leaves if gradients follow), then `lines`."""
    before, name = function_source(fn)
    text = "\n".join(lines)
    wants_gradient = "gradient(" in text
    result = ["import numpy as np", "from clgrad import Tensor"]
    for module, names in HELPERS.items():
        used = [
            n
            for n in names
            if re.search(rf"\b{n}\(", text) or (n == "values_and_gradients" and re.search(r"\brun\b", text))
        ]
        if used:
            result.append(f"from {module} import {', '.join(used)}")
    result += [line for line in before if line.startswith(("import ", "from "))] + [""]
    result += [line for line in before if not line.startswith(("import ", "from "))]
    if name != "fn":
        result.append(f"fn = {name}")
    result += ["inputs = ["]
    for argument in arguments:
        if isinstance(argument, Sample):
            floats = is_float(argument.dtype)
            result.append(f"    {argument.code(device, dtype if floats else None, wants_gradient and floats)},")
        else:
            result.append(f"    {argument!r},")
    result += ["]"]
    if re.search(r"\brun\b", text):
        result.append("run = values_and_gradients(fn)")
    if "each(" in text:
        result.append("each = lambda change: [change(x) if isinstance(x, Tensor) else x for x in inputs]")
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join([*result, *lines])) + "\n"
