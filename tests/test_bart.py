"""Bart computes what transformers' BartForConditionalGeneration computes, and exchanges checkpoints with it."""

import numpy as np
import pytest
import torch
import transformers
from seq2seq_helpers import assert_same_gradients, batch, perturb

from clgrad import Tensor
from clgrad.models.bart import Bart, BartConfig

SIZES = dict(
    vocab_size=29,
    d_model=12,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=2,
    decoder_attention_heads=3,
    encoder_ffn_dim=20,
    decoder_ffn_dim=14,
    max_position_embeddings=15,
)


def reference(seed=0, cls=transformers.BartForConditionalGeneration, **options):
    torch.manual_seed(seed)
    model = perturb(cls(transformers.BartConfig(**SIZES | options, dropout=0.0)).eval())
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    return model


def config(**options):
    return BartConfig(**SIZES | dict(dropout=0.0) | options)


def ours(model, device="NUMPY", **options):
    bart = Bart(config(**options)).to(device)
    bart.load_state_dict({name: t.detach().numpy() for name, t in model.state_dict().items()})
    return bart


def test_names_and_shapes_are_those_of_transformers():
    model, bart = reference(), Bart(config())
    assert {k: v.shape for k, v in bart.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert bart.num_parameters() == sum(p.numel() for p in model.parameters())


def test_logits_loss_and_gradients_equal_transformers(device):
    model = reference()
    bart = ours(model, device)
    source, mask, target = batch(SIZES["vocab_size"])
    source[~mask] = 1
    logits, loss = bart(
        Tensor(source, device=device), targets=Tensor(target, device=device), source_mask=Tensor(mask, device=device)
    )
    expected = model(torch.tensor(source), attention_mask=torch.tensor(mask).long(), labels=torch.tensor(target))
    np.testing.assert_allclose(logits.numpy(), expected.logits.detach().numpy(), rtol=0, atol=1e-4)
    assert loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    loss.backward()
    expected.loss.backward()
    assert_same_gradients(bart, model)
