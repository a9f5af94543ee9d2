"""A GPT that is trained in an instant, and tokens for it."""

import numpy as np

from clgrad import Tensor
from clgrad.models import GPT, GPTConfig

TINY = dict(n_layer=2, n_head=2, n_embd=16, block_size=16)


def tiny(seed=0, **sizes):
    Tensor.manual_seed(seed)
    return GPT(GPTConfig(**{**TINY, "vocab_size": 20, **sizes}))


def tokens(seed=0, rows=3, length=16):
    both = np.random.default_rng(seed).integers(0, 20, (rows, length + 1)).astype(np.int32)
    return both[:, :-1], both[:, 1:]
