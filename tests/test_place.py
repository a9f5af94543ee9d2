"""Layers of one model on several devices: what crosses between them, forward, backward and in generation."""

import numpy as np
import pytest
from small_models import tiny, tokens

from clgrad import Tensor, jit, nn
from clgrad.models import T5, Llama, LlamaConfig, T5Config, Transformer, TransformerConfig, generate


@pytest.mark.parametrize("jitted", [pytest.param(False, marks=pytest.mark.sweep), True])
def test_a_model_on_two_devices_learns_what_it_learns_on_one(cl, jitted):
    losses = []
    for split in (False, True):
        model = tiny().to("NUMPY")
        if split:
            model.transformer.h[1].place(cl)
            model.transformer.ln_f.place("NUMPY")
            assert {p.device for p in model.parameters()} == {"NUMPY", cl}
        optimizer = nn.optim.AdamW(model.parameters(), lr=1e-2)

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(x, y)[1]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss

        run = jit(lambda x, y, step=step: step(x, y)) if jitted else step
        x, y = (Tensor(t, device="NUMPY") for t in tokens())
        losses.append([run(x, y).item() for _ in range(4)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[0][3] < losses[0][0]


def test_layers_elsewhere_are_given_what_comes_in_tuples_and_generate(cl):
    """The rotation that every layer of a Llama shares, and the keys and values that a cache holds on one device."""
    sizes = dict(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    model = Llama(LlamaConfig(**sizes)).to("NUMPY")
    before = list(generate(model, [1, 2], 3, temperature=0)), model(Tensor([[1, 2]], device="NUMPY"))[0].numpy()
    model.model.layers[0].place(cl)
    model.model.layers[1].place("NUMPY")
    assert list(generate(model, [1, 2], 3, temperature=0)) == before[0]
    np.testing.assert_allclose(model(Tensor([[1, 2]], device="NUMPY"))[0].numpy(), before[1], atol=1e-5)


@pytest.mark.parametrize("name", ["2017", "T5"])
def test_layers_of_an_encoder_decoder_lie_elsewhere(cl, name):
    """What the decoder remembers of the source is made where its layers are, on another device than the encoder's."""
    if name == "T5":
        config = T5Config(vocab_size=11, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1, num_heads=2)
        model = T5(config).to("NUMPY").eval()
        layer = model.decoder.block[0]
    else:
        config = TransformerConfig(vocab_size=11, d_model=8, num_heads=2, d_ff=8, encoder_layers=1, decoder_layers=1)
        model = Transformer(config).to("NUMPY").eval()
        layer = model.decoder.layers[0]
    source, target = Tensor([[3, 4, 5]], device="NUMPY"), Tensor([[1, 7]], device="NUMPY")
    before = list(generate(model, [3, 4, 5], 3, temperature=0)), model(source, target)[0].numpy()
    model.place("NUMPY")
    layer.place(cl)
    assert {p.device for p in model.parameters()} == {"NUMPY", cl}
    np.testing.assert_allclose(model(source, target)[0].numpy(), before[1], atol=1e-5)
    assert list(generate(model, [3, 4, 5], 3, temperature=0)) == before[0]


def test_the_example_of_two_devices(example, english, cl):
    found = example("two_devices").main(("NUMPY", cl), 3, english, n_layer=2, n_head=2, n_embd=16, block_size=16)
    assert found["two"] == pytest.approx(found["one"], abs=1e-4)


def test_two_devices_that_are_not_there_are_named(example):
    with pytest.raises(SystemExit, match="CL:77"):
        example("two_devices").main(("NUMPY", "CL:77"))
