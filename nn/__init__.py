"""Layers, losses, optimisers and schedules on the Tensor, under PyTorch's names.

One family a file: `module` (the tree), `layers`, `functional` (layers and losses as functions), `init`, `optim`,
`schedule`, `flat` (many Tensors as one), `utils` (gradient clipping), `state` (safetensors files).
"""

from . import functional, init, optim, schedule, state, utils
from .layers import (
    GELU,
    Conv1D,
    CrossEntropyLoss,
    Dropout,
    Embedding,
    Flatten,
    Identity,
    LayerNorm,
    Linear,
    MSELoss,
    QuickGELU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from .module import Module, ModuleList, Sequential

__all__ = [
    "Conv1D",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GELU",
    "Identity",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "Module",
    "ModuleList",
    "QuickGELU",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "init",
    "optim",
    "schedule",
    "state",
    "utils",
]
