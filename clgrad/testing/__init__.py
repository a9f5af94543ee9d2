"""clgrad.testing: hold a function of Tensors to everything that should be true of it.

>>> from clgrad.testing import tensors
>>> tensors().example().numpy().ndim <= 4
True

Needs Hypothesis: `pip install "clgrad[testing]"`.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError('clgrad.testing needs Hypothesis: pip install "clgrad[testing]"') from error

from .checking import PARTS, CheckFailure, check
from .gradients import GradientError, NotCheckable, NotDifferentiable, gradcheck, gradgradcheck
from .program import Program, programs
from .sample import FEATURES, Sample
from .strategies import LAYOUTS, axes, broadcastable_shapes, dtypes, indices, operands, shapes, tensors

__all__ = [
    "FEATURES",
    "LAYOUTS",
    "PARTS",
    "CheckFailure",
    "GradientError",
    "NotCheckable",
    "NotDifferentiable",
    "Program",
    "Sample",
    "axes",
    "broadcastable_shapes",
    "check",
    "dtypes",
    "gradcheck",
    "gradgradcheck",
    "indices",
    "operands",
    "programs",
    "shapes",
    "tensors",
]
