"""Models written with `nn`, reading published weights, and generation from them."""

from .base import PretrainedModel, from_pretrained
from .generation import generate
from .gpt import GPT, GPTConfig
from .gpt1 import GPT1, GPT1Config
from .llama import Llama, LlamaConfig

__all__ = [
    "GPT",
    "GPT1",
    "GPT1Config",
    "GPTConfig",
    "Llama",
    "LlamaConfig",
    "PretrainedModel",
    "from_pretrained",
    "generate",
]
