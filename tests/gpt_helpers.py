"""A tiny GPT-2 with random weights, as transformers has it and as clgrad has it."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from clgrad.models import GPT, GPTConfig

SIZES = dict(n_layer=2, n_head=2, n_embd=16, vocab_size=23)
BLOCK = 12


def reference(activation="gelu_new", seed=0, std=0.3, **options):
    """A GPT-2 with random weights, large enough for the activations and the attention to matter."""
    torch.manual_seed(seed)
    config = GPT2Config(
        **SIZES,
        n_positions=BLOCK,
        activation_function=activation,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        **options,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(std * torch.randn_like(p) / (p.shape[0] ** 0.5 if p.ndim > 1 else 1))
    return model


def config(**options):
    return GPTConfig(**SIZES | dict(block_size=BLOCK) | options)


def ours(model, device="NUMPY", **options):
    """The GPT with the weights of `model`."""
    gpt = GPT(config(**options)).to(device)
    gpt.load_state_dict({name: t.detach().numpy() for name, t in model.state_dict().items()})
    return gpt
