"""Models written with `nn`, reading published weights, and generation from them."""

from .generation import generate
from .gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "generate"]
