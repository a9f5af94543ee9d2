"""Models written with `nn`, reading published weights, and generation from them."""

from .base import PretrainedModel, from_pretrained
from .generation import generate
from .gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "PretrainedModel", "from_pretrained", "generate"]
