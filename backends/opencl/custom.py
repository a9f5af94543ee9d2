"""Operations of one's own in OpenCL C: a function for each dtype, made from the user's text.

The text is an expression of the operands, or the body of a function (it then has a `return`). `T` stands for the type
in which the operands are computed, which is float for halves. The function's name holds a digest of the text, so that
two operations of one name are two functions, and the same text is built once.

>>> import numpy as np
>>> from clgrad.backends.kernel import Custom
>>> from clgrad.backends.opencl.functions import definitions, elementwise
>>> scaled = Custom("scaled", ("x", "by"), np.multiply, "x * by")
>>> text = elementwise("custom", ["v0", "v1"], np.dtype("float32"), np.dtype("float32"), scaled)
>>> text.code
'scaled_9d59c1_float(v0, v1)'
>>> print(definitions(text.helpers))
float scaled_9d59c1_float(float x, float by) {
    return (float)(x * by);
}
<BLANKLINE>
"""

from __future__ import annotations

import hashlib
import re

from ..kernel import Custom


def function_name(operation: Custom, result: str) -> str:
    """The name of the function for results of the C type `result`, without that of its operands."""
    digest = hashlib.sha256(repr((operation.operands, operation.opencl, result)).encode()).hexdigest()[:6]
    plain = re.sub(r"\W|^(?=\d)", "_", operation.name, flags=re.ASCII)
    return f"{plain}_{digest}"


def definition(operation: Custom, result: str) -> str:
    """The function, with {T} where the type of the operands belongs."""
    assert operation.opencl is not None
    text = re.sub(r"\bT\b", "{T}", operation.opencl.strip())
    if not re.search(r"\breturn\b", text):
        text = f"return ({result})(({text}) != 0);" if result == "uchar" else f"return ({result})({text});"
    body = "\n".join("    " + line for line in text.splitlines())
    parameters = ", ".join(f"{{T}} {name}" for name in operation.operands)
    return f"{result} {function_name(operation, result)}_{{T}}({parameters}) {{\n{body}\n}}\n"
