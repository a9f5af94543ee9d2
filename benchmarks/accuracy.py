"""How far elementwise functions of float32 are from the exact result, in units in the last place (ulp).

    python benchmarks/accuracy.py                          # every 257th of the 2**32 bit patterns, a minute or two
    python benchmarks/accuracy.py --all --only 'exp|log'   # all of them: some minutes each, and device
    python benchmarks/accuracy.py --devices NUMPY,CL,CL:1

The exact result is float64's, whose own error is some 2**-29 of what is measured. One ulp is the distance between
floats at the exact result; for activations, at the larger of it and the argument, which is what a sum in a network
sees. A result beyond the largest float counts as 2**128; a subnormal one may be flushed to 0. The sample takes an odd
step through the bit patterns, so it meets every exponent with its share of mantissas, and adds what lies next to zeros,
infinities, NaN, ones and powers of two. Functions of two operands get pairs of such patterns, drawn from a fixed seed.

Ends with status 1 if a function exceeds its bound.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from common import described, names, table, write_json

STEP = 257  # of the sample through the bit patterns
CHUNK = 1 << 18  # what float64 makes of it stays in a cache
PATTERNS = 1 << 32


class Function(NamedTuple):
    """`ours` of Tensors against `exact` of float64 arrays; no more than `bound` ulp, of the result or of the `larger`
    of it and the argument."""

    ours: Callable[..., Any]
    exact: Callable[..., Any]
    bound: float = 4
    larger: bool = False
    operands: int = 1


def functions() -> dict[str, Function]:
    """What is measured. NumPy's names of what has others."""
    import numpy as np

    renamed = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
               "atanh": "arctanh", "neg": "negative", "round": "rint"}  # fmt: skip

    def library(name: str, bound: float = 4) -> Function:
        return Function(lambda x: getattr(x, name)(), getattr(np, renamed.get(name, name)), bound)

    def activation(name: str, exact: Callable[..., Any], bound: float = 4) -> Function:
        return Function(lambda x: getattr(x, name)(), exact, bound, larger=True)

    def pairs(ours: Callable[..., Any], exact: Callable[..., Any], bound: float = 4) -> Function:
        return Function(ours, exact, bound, operands=2)

    def erf(x):
        inside = np.abs(x) < 6
        result = np.sign(x)
        result[inside] = np.array([math.erf(v) for v in x[inside].tolist()])
        return np.where(np.isnan(x), x, result)

    def logistic(x):
        return 1 / (1 + np.exp(-x))

    def gelu(x):
        return x * logistic(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))

    def exponential(x, alpha=1.0):
        return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))

    exactly = ("neg", "abs", "square", "sign", "floor", "ceil", "trunc", "round")
    found = {name: library(name, 0) if name != "square" else library(name, 0.5) for name in exactly}
    found |= {name: library(name) for name in (
        "sqrt", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin",
        "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
    )}  # fmt: skip
    found["rsqrt"] = Function(lambda x: x.rsqrt(), lambda x: 1 / np.sqrt(x))
    found["erf"] = Function(lambda x: x.erf(), erf)
    found |= {
        "sigmoid": activation("sigmoid", logistic),
        "logsigmoid": activation("logsigmoid", lambda x: -np.logaddexp(0, -x)),
        "softplus": activation("softplus", lambda x: np.logaddexp(0, x)),
        "silu": activation("silu", lambda x: x * logistic(x)),
        "mish": activation("mish", lambda x: x * np.tanh(np.logaddexp(0, x))),
        "quick_gelu": activation("quick_gelu", lambda x: x * logistic(1.702 * x)),
        "gelu": activation("gelu", gelu),
        "gelu(none)": Function(lambda x: x.gelu("none"), lambda x: x * 0.5 * (1 + erf(x * math.sqrt(0.5))), 4, True),
        "relu": activation("relu", lambda x: np.where(x <= 0, 0, x), 0),
        "relu6": activation("relu6", lambda x: np.clip(x, 0, 6), 0),
        "leaky_relu": activation("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x)),
        "hardtanh": activation("hardtanh", lambda x: np.clip(x, -1, 1), 0),
        "hardsigmoid": activation("hardsigmoid", lambda x: np.clip(x + 3, 0, 6) / 6),
        "hardswish": activation("hardswish", lambda x: x * (np.clip(x + 3, 0, 6) / 6)),
        "elu": activation("elu", exponential),
        "celu": activation("celu", exponential),
        "selu": activation("selu", lambda x: 1.0507009873554805 * exponential(x, 1.6732632423543772)),
        "softsign": activation("softsign", lambda x: x / (1 + np.abs(x))),
        "add": pairs(lambda a, b: a + b, np.add, 0.5),
        "sub": pairs(lambda a, b: a - b, np.subtract, 0.5),
        "mul": pairs(lambda a, b: a * b, np.multiply, 0.5),
        "div": pairs(lambda a, b: a / b, np.divide),
        "//": pairs(lambda a, b: a // b, np.floor_divide),
        "mod": pairs(lambda a, b: a % b, np.mod, 0.5),
        "fmod": pairs(lambda a, b: a.fmod(b), np.fmod, 0),
        "pow": pairs(lambda a, b: a**b, np.power),
        "maximum": pairs(lambda a, b: a.maximum(b), np.maximum, 0),
        "minimum": pairs(lambda a, b: a.minimum(b), np.minimum, 0),
        "copysign": pairs(lambda a, b: a.copysign(b), np.copysign, 0),
        "logaddexp": pairs(lambda a, b: a.logaddexp(b), np.logaddexp)._replace(larger=True),
    }  # fmt: skip
    return found


def neighbours() -> Any:
    """Bit patterns next to those at which functions change: powers of two, 0, infinity, NaN; of both signs."""
    import numpy as np

    around = (np.arange(0, 256, dtype=np.int64)[:, None] << 23) + np.arange(-64, 65)
    around = around[(around >= 0) & (around < 1 << 31)]
    return np.concatenate([around, around | 1 << 31]).astype(np.uint32)


def samples(operands: int, everything: bool, count: int) -> Iterator[list[Any]]:
    """Chunks of float32 operands, all of one length."""
    import numpy as np

    if operands == 1:
        step = 1 if everything else STEP
        for start in range(0, PATTERNS, step * CHUNK):
            bits = np.arange(start, start + step * CHUNK, step, dtype=np.uint64)
            yield [np.minimum(bits, PATTERNS - 1).astype(np.uint32).view(np.float32)]
        yield [np.resize(neighbours(), CHUNK).view(np.float32)]
        return
    rng, special = np.random.default_rng(0), neighbours()
    for _ in range(count * (1 << 20) // CHUNK):
        a = rng.integers(0, PATTERNS, CHUNK, dtype=np.uint32)
        b = rng.integers(0, PATTERNS, CHUNK, dtype=np.uint32)
        near = rng.integers(-(8 << 23), 8 << 23, CHUNK)  # of like size, which random patterns seldom are
        b[::3] = np.clip((a & 0x7FFFFFFF).astype(np.int64) + near, 0, 0x7F800000)[::3].astype(np.uint32)
        a[1::3], b[2::3] = rng.choice(special, len(a[1::3])), rng.choice(special, len(b[2::3]))
        moderate = slice(0, CHUNK // 4)  # where powers neither overflow nor vanish
        values = [bits.view(np.float32) for bits in (a, b)]
        values[0][moderate] = np.exp(rng.normal(size=CHUNK // 4) * 4)
        values[1][moderate] = rng.normal(size=CHUNK // 4) * 8
        yield values


def suspects(got: Any, exact: Any, worst: float) -> Any:
    """Where `got` may be off by more than `worst`: floats between it and the rounded exact result say so to 0.5 ulp.

    A few passes over integers, where `error` takes a dozen over float64.
    """
    import numpy as np

    between = got.view(np.int32) - exact.astype(np.float32).view(np.int32)
    if worst <= 0.5:
        return np.flatnonzero(between) if worst else slice(None)
    return np.flatnonzero(np.abs(between, out=between).view(np.uint32) > worst - 0.5)


def error(got: Any, exact: Any, arguments: list[Any], larger: bool) -> Any:
    """How far each result is off, in ulp; infinite where one of the two is NaN and the other is not."""
    import numpy as np

    top = 2.0**128
    wide, exact = np.clip(got.astype(np.float64), -top, top), np.clip(exact, -top, top)
    size = np.abs(exact)
    for x in arguments if larger else ():
        size = np.maximum(size, np.nan_to_num(np.abs(x.astype(np.float64)), nan=0.0, posinf=0.0))
    exponent = (size.view(np.int64) & 0x7FF0000000000000).view(np.float64)  # the power of two at or below
    ulp = np.clip(exponent, 2.0**-126, 2.0**127) * 2.0**-23
    off = np.abs(wide - exact) / ulp
    off[(got == 0) & (size < 2.0**-126)] = 0  # flushed
    off[np.isnan(wide) & np.isnan(exact)] = 0
    off[np.isnan(off)] = np.inf
    return off


class Worst(NamedTuple):
    ulp: float
    at: list[float]
    got: float
    exact: float


def measure(function: Function, devices: list[str], everything: bool, count: int) -> dict[str, Worst]:
    """The largest error on each device, and where it is."""
    import numpy as np

    from clgrad import Tensor

    worst = {device: Worst(0.0, [], 0.0, 0.0) for device in devices}
    with np.errstate(all="ignore"):
        for operands in samples(function.operands, everything, count):
            exact = function.exact(*(x.astype(np.float64) for x in operands))
            for device in devices:
                got = function.ours(*(Tensor(x, device=device) for x in operands)).numpy()
                at = suspects(got, exact, worst[device].ulp)
                where = [x[at] for x in operands]
                off = error(got[at], exact[at], where, function.larger)
                i = int(off.argmax()) if off.size else 0
                if off.size and off[i] > worst[device].ulp:
                    values = [float(x[i]) for x in where]
                    worst[device] = Worst(float(off[i]), values, float(got[at][i]), float(exact[at][i]))
    return worst


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="NUMPY,CL", help="clgrad's devices, between commas")
    parser.add_argument("--only", default="", help="a regular expression: the functions to measure")
    parser.add_argument("--all", action="store_true", help="all bit patterns instead of a sample")
    parser.add_argument("--pairs", type=int, default=8, help="millions of pairs for functions of two operands")
    parser.add_argument("--json", help="write all that was measured to this file")
    options = parser.parse_args(arguments)
    devices = names(options.devices)
    report: dict[str, Any] = {"devices": described(devices), "all": options.all, "functions": {}}
    for name, text in report["devices"].items():
        print(f"{name}: {text}")
    rows, exceeded = [], []
    for name, function in functions().items():
        if not re.search(options.only, name):
            continue
        found = measure(function, devices, options.all, options.pairs)
        report["functions"][name] = {device: worst._asdict() for device, worst in found.items()}
        rows.append((name, *(f"{w.ulp:.2f}" for w in found.values()), f"{function.bound:g}",
                     "result or argument" if function.larger else "result"))  # fmt: skip
        for device, worst in found.items():
            if worst.ulp > function.bound:
                exceeded.append(f"{name} on {device}: {worst.ulp:.2f} ulp at {worst.at}: {worst.got!r}, exactly "
                                f"{worst.exact!r}")  # fmt: skip
        if sys.stderr.isatty():
            print(f"\r{name:<12}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    print(table(("float32, ulp", *devices, "bound", "ulp of"), rows))
    write_json(options.json, report)
    if exceeded:
        print("\nexceeded:\n" + "\n".join(exceeded))
        sys.exit(1)


if __name__ == "__main__":
    main()
