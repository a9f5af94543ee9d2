"""T5 computes what transformers' T5ForConditionalGeneration computes, and exchanges checkpoints with it."""

import numpy as np
import pytest
import torch
import transformers
from seq2seq_helpers import assert_same_gradients, batch, perturb

from clgrad import Tensor
from clgrad.models.t5 import T5, T5Config

SIZES = dict(
    vocab_size=29,
    d_model=12,
    d_kv=6,  # H D is not C
    d_ff=20,
    num_layers=2,
    num_decoder_layers=3,
    num_heads=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=9,  # the longest batch reaches beyond
)
FIRST = dict(feed_forward_proj="relu", tie_word_embeddings=True)
V1_1 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)


def reference(seed=0, cls=transformers.T5ForConditionalGeneration, **options):
    torch.manual_seed(seed)
    config = transformers.T5Config(**SIZES | options, decoder_start_token_id=0, dropout_rate=0.0)
    model = cls(config).eval()
    if options.get("tie_word_embeddings") is False:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(SIZES["vocab_size"], SIZES["d_model"]))
    return perturb(model)


def config(**options):
    return T5Config(**SIZES | dict(dropout_rate=0.0) | options)


def ours(model, device="NUMPY", **options):
    t5 = T5(config(**options)).to(device)
    t5.load_state_dict({name: t.detach().numpy() for name, t in model.state_dict().items()})
    return t5


@pytest.mark.parametrize("options", [FIRST, V1_1], ids=["first", "v1.1"])
def test_names_and_shapes_are_those_of_transformers(options):
    model, t5 = reference(**options), T5(config(**options))
    assert {k: v.shape for k, v in t5.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert t5.num_parameters() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("options", [FIRST, V1_1], ids=["first", "v1.1"])
def test_logits_loss_and_gradients_equal_transformers(device, options):
    model = reference(**options)
    t5 = ours(model, device, **options)
    source, mask, target = batch(SIZES["vocab_size"])
    logits, loss = t5(
        Tensor(source, device=device), targets=Tensor(target, device=device), source_mask=Tensor(mask, device=device)
    )
    expected = model(torch.tensor(source), attention_mask=torch.tensor(mask).long(), labels=torch.tensor(target))
    np.testing.assert_allclose(logits.numpy(), expected.logits.detach().numpy(), rtol=0, atol=1e-4)
    assert loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    loss.backward()
    expected.loss.backward()
    assert_same_gradients(t5, model)
