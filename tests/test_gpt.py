"""GPT computes what transformers' GPT2LMHeadModel computes, learns as it learns, and exchanges checkpoints with it."""

import json

import numpy as np
import pytest
import torch
from gpt_helpers import BLOCK, SIZES, config, ours, reference
from transformers import GPT2LMHeadModel, GPT2Model

from clgrad import Tensor, jit, nn
from clgrad.models import GPT, GPTConfig
from clgrad.models.gpt import ACTIVATIONS


def batch(seed=0, size=3, length=BLOCK):
    tokens = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], (size, length + 1))
    return tokens[:, :-1], tokens[:, 1:]


def torch_loss(model, x, y):
    logits = model(torch.tensor(x)).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(y).flatten())


def test_names_and_shapes_are_gpt2s():
    model, gpt = reference(), GPT(config())
    assert {k: v.shape for k, v in gpt.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert gpt.num_parameters() == sum(p.numel() for p in model.parameters())
    assert GPTConfig() == GPTConfig(12, 12, 768, 1024, 50257, 0.0, True, "gelu_new", 1e-5)


def test_logits_loss_and_gradients_equal_transformers(device):
    model = reference()
    gpt = ours(model, device)
    x, y = batch()
    logits, loss = gpt(Tensor(x, device=device), Tensor(y, device=device))
    expected = torch_loss(model, x, y)
    np.testing.assert_allclose(logits.numpy(), model(torch.tensor(x)).logits.detach().numpy(), rtol=0, atol=1e-4)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    expected.backward()
    theirs = {name: p.grad.numpy() for name, p in model.named_parameters()}
    largest = max(np.linalg.norm(g) for g in theirs.values())
    parameters = dict(gpt.named_parameters())
    assert parameters.keys() == theirs.keys()
    for name, g in theirs.items():
        difference = np.linalg.norm(parameters[name].grad.numpy() - g)
        assert difference <= 1e-3 * np.linalg.norm(g) + 1e-6 * largest, name


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_equals_transformers(activation):
    model = reference(activation)
    x, _ = batch(length=5)
    logits, loss = ours(model, activation_function=activation)(Tensor(x))
    assert loss is None
    np.testing.assert_allclose(logits.numpy(), model(torch.tensor(x)).logits.detach().numpy(), rtol=0, atol=1e-4)


def test_twenty_adamw_steps_give_transformers_losses(device):
    model = reference()
    gpt = ours(model, device)
    options = dict(lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    theirs = torch.optim.AdamW(model.parameters(), **options)
    optimizer = nn.optim.AdamW(gpt.parameters(), **options)

    @jit
    def step(x, y):
        optimizer.zero_grad()
        _, loss = gpt(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        return loss

    for i in range(20):
        x, y = batch(seed=i % 4)
        loss = step(Tensor(x, device=device), Tensor(y, device=device))
        theirs.zero_grad()
        expected = torch_loss(model, x, y)
        expected.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-3), f"step {i}"
    assert step.traces == 1


def test_initial_weights_have_gpt2s_scale():
    Tensor.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer=8, n_head=4, n_embd=64, block_size=64, vocab_size=100))
    for name, p in gpt.named_parameters():
        values = p.numpy()
        if name.endswith("c_proj.weight"):
            assert values.std() == pytest.approx(0.02 / 4, rel=0.1)
        elif p.ndim == 2:
            assert values.std() == pytest.approx(0.02, rel=0.1)
        else:
            assert (values == ("ln_" in name and name.endswith("weight"))).all()


def test_without_biases_there_are_none():
    gpt = GPT(config(bias=False))
    assert not any(name.endswith("bias") for name in gpt.state_dict())
    _, loss = gpt(*map(Tensor, batch()))
    assert np.isfinite(loss.item())


def test_dropout_acts_in_training_only():
    Tensor.manual_seed(0)
    gpt = GPT(config(dropout=0.5))
    x = Tensor(batch()[0])
    assert (gpt(x)[0].numpy() != gpt(x)[0].numpy()).any()
    gpt.eval()
    np.testing.assert_array_equal(gpt(x)[0].numpy(), gpt(x)[0].numpy())


def test_targets_of_minus_100_do_not_count():
    gpt, (x, y) = GPT(config()), batch()
    masked = y.copy()
    masked[1:] = -100
    whole, part = gpt(Tensor(x), Tensor(masked))[1].item(), gpt(Tensor(x[:1]), Tensor(y[:1]))[1].item()
    assert whole == pytest.approx(part, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GPTConfig(n_embd=10, n_head=3), "n_embd 10 must be a multiple of n_head 3"),
        (lambda: GPTConfig(n_layer=0), "n_layer must be at least 1"),
        (lambda: GPTConfig(dropout=1.0), "dropout"),
        (lambda: GPTConfig(activation_function="mish"), "'mish'; known: .*gelu_new"),
        (lambda: GPT(config())(Tensor(batch(length=BLOCK + 1)[0])), "13 tokens are more than block_size 12"),
        (lambda: GPT(config())(Tensor([1, 2])), r"\(batch, time\), not \(2,\)"),
        (lambda: GPT(config())(Tensor([[1, 2]]), Tensor([[1]])), r"targets \(1, 1\) .* tokens \(1, 2\)"),
    ],
)
def test_bad_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- checkpoints


def assert_same_logits(gpt, model):
    x, _ = batch()
    theirs = model(torch.tensor(x)).logits.detach().numpy()
    np.testing.assert_allclose(gpt(Tensor(x))[0].numpy(), theirs, rtol=0, atol=1e-4)


def test_a_checkpoint_of_transformers_is_read_whole_in_shards_and_as_a_file(tmp_path):
    model = reference("gelu_pytorch_tanh", layer_norm_epsilon=1e-3)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for path in ("whole", "shards", "whole/model.safetensors"):
        gpt = GPT.from_pretrained(tmp_path / path)
        assert gpt.config == config(activation_function="gelu_pytorch_tanh", layer_norm_epsilon=1e-3)
        assert not gpt.training
        assert gpt.lm_head.weight is gpt.transformer.wte.weight
        assert_same_logits(gpt, model)
    assert GPT.from_pretrained(tmp_path / "whole", dropout=0.2).config.dropout == 0.2


def test_a_bare_model_with_masks_in_its_file_is_read(tmp_path):
    import safetensors.numpy

    model = reference()
    bare = GPT2Model(model.config)
    bare.load_state_dict(model.transformer.state_dict())
    bare.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = safetensors.numpy.load_file(file)
    assert "wte.weight" in state
    state |= {
        "h.0.attn.bias": np.tril(np.ones((1, 1, BLOCK, BLOCK), np.float32)),
        "h.0.attn.masked_bias": np.array(-1e4),
    }
    safetensors.numpy.save_file(state, file)
    assert_same_logits(GPT.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("bias", [True, False])
def test_transformers_reads_what_save_pretrained_writes(tmp_path, bias):
    gpt = GPT(config(bias=bias, activation_function="relu", dropout=0.1)).eval()
    gpt.save_pretrained(tmp_path / "new" / "folder")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "new" / "folder").eval()
    assert_same_logits(gpt, model)
    again = GPT.from_pretrained(tmp_path / "new" / "folder")
    assert_same_logits(again, model)
    assert again.config.dropout == 0.1


def change(path, **options):
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda d: (d / "model.safetensors").unlink(), FileNotFoundError, "no model.safetensors in"),
        (lambda d: (d / "config.json").unlink(), FileNotFoundError, "config.json"),
        (lambda d: (d / "config.json").write_text("{"), ValueError, "config.json is damaged"),
        (lambda d: (d / "config.json").write_text("[]"), ValueError, "one JSON object"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\x10"), ValueError, "model.safetensors is cut short"),
        (lambda d: change(d / "config.json", n_embd=32), ValueError, r"has shape \(48,\) in the file, \(96,\)"),
        (lambda d: change(d / "config.json", n_layer=3), ValueError, "missing .*transformer.h.2"),
        (lambda d: change(d / "config.json", n_layer=1), ValueError, "unexpected .*transformer.h.1"),
        (lambda d: change(d / "config.json", activation_function="mish"), ValueError, "'mish'"),
        (lambda d: change(d / "config.json", n_inner=17), ValueError, "n_inner is 17"),
        (lambda d: change(d / "config.json", model_type="llama"), ValueError, "model_type is .llama."),
        (lambda d: change(d / "config.json", scale_attn_by_inverse_layer_idx=True), ValueError, "inverse_layer"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_says_why(tmp_path, break_it, error, message):
    GPT(config()).save_pretrained(tmp_path)
    break_it(tmp_path)
    with pytest.raises(error, match=message):
        GPT.from_pretrained(tmp_path)


def test_a_missing_folder_and_pickled_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GPT.from_pretrained(tmp_path / "nowhere")
    GPT(config()).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="save them again"):
        GPT.from_pretrained(tmp_path)
