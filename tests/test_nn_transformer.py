"""Attention and the transformer's layers are torch.nn's: state dicts, outputs, masks, weights, and every gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn as torch_nn

from clgrad import Tensor, nn
from clgrad.nn.attention import both, causal
from clgrad.nn.positions import rotate

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # torch, of a shortcut that it does not take

E, HEADS, B, T, S = 8, 2, 3, 5, 7
SIZES = dict(d_model=E, nhead=HEADS, dim_feedforward=12, dropout=0.0)
RNG = np.random.default_rng(0)
SOURCE = RNG.standard_normal((B, S, E)).astype(np.float32)
TARGET = RNG.standard_normal((B, T, E)).astype(np.float32)
PADDED = np.arange(S) >= np.array([[7], [4], [2]])  # (B, S): True where there is no token
TARGET_PADDED = np.arange(T) >= np.array([[5], [2], [3]])
CAUSAL = np.triu(np.ones((T, T), bool), 1)
SOME = RNG.random((T, S)) < 0.3
OF_HEADS = RNG.random((B * HEADS, T, S)) < 0.3
for mask in (SOME, OF_HEADS):
    mask[..., 0] = False  # every query sees something: PyTorch has NaN for one that does not
BIASES = RNG.standard_normal((B * HEADS, T, S)).astype(np.float32)


def pair(build, device="NUMPY", seed=0):
    """What `build` makes of torch.nn, with random parameters, and of ours, which loads its state dict."""
    torch.manual_seed(seed)
    theirs = build(torch_nn)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.3 * torch.randn_like(p))
    ours = build(nn).to(device)
    ours.load_state_dict({name: t.detach().numpy() for name, t in theirs.state_dict().items()})
    return ours, theirs


def compare(ours, theirs, *inputs, device="NUMPY", call=lambda layer, *xs, **masks: layer(*xs, **masks), **masks):
    """Outputs to 1e-5 and the gradients of a weighted sum of them, for inputs and parameters, to 1e-4 of their norm."""
    xs = [Tensor(x, device=device, requires_grad=True) for x in inputs]
    theirs_xs = [torch.tensor(x, requires_grad=True) for x in inputs]
    flags = {key: value for key, value in masks.items() if isinstance(value, bool)}
    arrays = {key: value for key, value in masks.items() if not isinstance(value, bool)}
    y = call(ours, *xs, **{key: Tensor(value, device=device) for key, value in arrays.items()}, **flags)
    expected = call(theirs, *theirs_xs, **{key: torch.tensor(value) for key, value in arrays.items()}, **flags)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=0, atol=2e-5)
    weights = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    (y * Tensor(weights, device=device)).sum().backward()
    (expected * torch.tensor(weights)).sum().backward()
    parameters = dict(theirs.named_parameters())
    mine = dict(ours.named_parameters())
    assert list(mine) == list(parameters)
    gradients = [(name, mine[name].grad, parameters[name].grad) for name in parameters]
    gradients += [(f"input {i}", a.grad, b.grad) for i, (a, b) in enumerate(zip(xs, theirs_xs, strict=True))]
    largest = max(g.norm().item() for _, _, g in gradients if g is not None)
    for name, got, want in gradients:
        if want is None:
            assert got is None, name
        else:
            assert np.linalg.norm(got.numpy() - want.numpy()) <= 1e-4 * want.norm().item() + 1e-6 * largest, name


# --- attention --------------------------------------------------------------------------------------------------------

ATTENTIONS = [
    dict(),
    dict(bias=False),
    dict(add_bias_kv=True),
    dict(add_zero_attn=True),
    dict(kdim=3),
    dict(kdim=3, vdim=5, add_bias_kv=True, add_zero_attn=True, bias=False),
]
MASKS = {
    "none": dict(),
    "padding": dict(key_padding_mask=PADDED),
    "bool": dict(attn_mask=SOME),
    "bool of heads": dict(attn_mask=OF_HEADS),
    "float": dict(attn_mask=BIASES[0]),
    "float of heads and padding": dict(attn_mask=BIASES, key_padding_mask=np.where(PADDED, -np.inf, 0).astype("f")),
    "all": dict(attn_mask=OF_HEADS, key_padding_mask=PADDED),
}


@pytest.mark.parametrize("options", ATTENTIONS, ids=str)
def test_attention_of_every_kind_is_torchs(options, device, everything):
    if device != "NUMPY" and not everything:
        pytest.skip("each has kernels to build; by default test_transformer_2017.py has a whole model on OpenCL")
    ours, theirs = pair(lambda m: m.MultiheadAttention(E, HEADS, batch_first=True, **options), device)
    keys, values = SOURCE[..., : options.get("kdim", E)], SOURCE[..., : options.get("vdim", E)]
    compare(ours, theirs, TARGET, keys, values, device=device, call=output, **MASKS["all"])


def output(layer, *xs, **options):
    return layer(*xs, **options)[0]


def mean_weights(layer, *xs, **options):
    return layer(*xs, **options)[1]


def weights_of_heads(layer, *xs, **options):
    return layer(*xs, average_attn_weights=False, **options)[1]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("extra", [{}, dict(add_bias_kv=True, add_zero_attn=True)], ids=["", "extra keys"])
def test_masks_mean_what_they_mean_in_torch(mask, extra):
    for result in (output, mean_weights, weights_of_heads):
        ours, theirs = pair(lambda m: m.MultiheadAttention(E, HEADS, batch_first=True, **extra))
        xs = [Tensor(x) for x in (TARGET, SOURCE, SOURCE)]
        y = result(ours, *xs, **{key: Tensor(value) for key, value in MASKS[mask].items()})
        masks = {key: torch.tensor(value) for key, value in MASKS[mask].items()}
        expected = result(theirs, *(torch.tensor(x.numpy()) for x in xs), **masks)
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=0, atol=1e-5)


def test_outputs_without_weights_and_without_batch():
    ours, theirs = pair(lambda m: m.MultiheadAttention(E, HEADS))
    with torch.no_grad():
        expected = theirs(torch.tensor(TARGET[0]), torch.tensor(SOURCE[0]), torch.tensor(SOURCE[0]))
    got = ours(Tensor(TARGET[0]), Tensor(SOURCE[0]), Tensor(SOURCE[0]))
    for mine, want in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), want.numpy(), atol=1e-5)
    y, weights = ours(*(Tensor(TARGET[0]) for _ in range(3)), need_weights=False, is_causal=True)
    assert weights is None
    alone = torch.tensor(TARGET[0])
    want = theirs(alone, alone, alone, need_weights=False, is_causal=True, attn_mask=torch.tensor(CAUSAL))[0]
    np.testing.assert_allclose(y.numpy(), want.detach().numpy(), atol=1e-5)
    inputs = {name: np.zeros((T, B, E), np.float32) for name in ("query", "key", "value")}
    assert ours(**{name: Tensor(x) for name, x in inputs.items()})[0].shape == (T, B, E)


@pytest.mark.parametrize("extra", [{}, dict(add_bias_kv=True)], ids=["", "extra keys"])
def test_the_causal_flag_is_the_causal_mask_with_and_without_padding(extra):
    ours, _ = pair(lambda m: m.MultiheadAttention(E, HEADS, batch_first=True, **extra))
    x = Tensor(TARGET)
    for padding in (None, Tensor(TARGET_PADDED)):
        for one in (0, 1):
            flag = ours(x, x, x, key_padding_mask=padding, is_causal=True)[one]
            mask = ours(x, x, x, key_padding_mask=padding, attn_mask=Tensor(CAUSAL))[one]
            np.testing.assert_allclose(flag.numpy(), mask.numpy(), atol=1e-6)


def test_a_query_that_sees_nothing_gets_zeros_and_no_nan():
    ours = nn.MultiheadAttention(E, HEADS, bias=False)
    x = Tensor(TARGET[0], requires_grad=True)
    mask = CAUSAL | (np.arange(T) == 2)[:, None]
    y, weights = ours(x, x, x, attn_mask=Tensor(mask))
    assert (y.numpy()[2] == 0).all() and (weights.numpy()[2] == 0).all() and (y.numpy()[3] != 0).any()
    y.sum().backward()
    assert np.isfinite(x.grad.numpy()).all() and np.isfinite(ours.in_proj_weight.grad.numpy()).all()


def test_a_target_read_in_pieces_with_a_past_is_the_target_read_whole():
    ours = nn.MultiheadAttention(E, HEADS, batch_first=True)
    x, kept = Tensor(TARGET), []

    def past(k, v):
        kept.append((k, v))
        k, v = (kept[0][i].cat(*(pair[i] for pair in kept[1:]), dim=2) if len(kept) > 1 else kept[0][i] for i in (0, 1))
        where = Tensor.arange(k.shape[2])
        return k, v, where <= where[-kept[-1][0].shape[2] :].unsqueeze(-1)

    pieces = [ours(piece, piece, piece, past=past)[0].numpy() for piece in (x[:, :2], x[:, 2:3], x[:, 3:])]
    whole = ours(x, x, x, is_causal=True)[0].numpy()
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=1e-6)


def test_dropout_drops_weights_in_training_only():
    Tensor.manual_seed(0)
    ours = nn.MultiheadAttention(E, HEADS, dropout=0.5, batch_first=True)
    x = Tensor(TARGET)
    assert (ours(x, x, x)[0].numpy() != ours(x, x, x)[0].numpy()).any()
    ours.eval()
    np.testing.assert_array_equal(ours(x, x, x)[0].numpy(), ours(x, x, x)[0].numpy())


def test_initial_values_are_torchs_in_distribution():
    Tensor.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = (m.MultiheadAttention(64, 4, add_bias_kv=True).state_dict() for m in (nn, torch_nn))
    assert list(ours) == list(theirs)
    for name, t in theirs.items():
        assert ours[name].numpy().std() == pytest.approx(t.std().item(), rel=0.2, abs=0), name
        bound = t.abs().max().item()
        assert np.abs(ours[name].numpy()).max() == pytest.approx(bound, rel=0.05 if t.numel() > 999 else 0.5, abs=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, x, m: a(x, x[0], x), "three axes, with a batch, or all two"),
        (lambda a, x, m: a(x, m, m, attn_mask=Tensor(np.zeros((T, T), bool))), r"attn_mask \(5, 5\) must be \(5, 7\)"),
        (lambda a, x, m: a(x, m, m, key_padding_mask=Tensor(TARGET_PADDED)), r"key_padding_mask \(3, 5\)"),
        (lambda a, x, m: a(x, m, m, attn_mask=Tensor(np.zeros((T, S), np.int32))), "attn_mask must be bool, or floats"),
        (lambda a, x, m: a(x, m[:1], m[:1]), "of one batch"),
        (lambda a, x, m: a(x, m, m[:, :-1]), "as many keys as values"),
        (lambda a, x, m: nn.MultiheadAttention(6, 4), "multiple of num_heads 4"),
        (lambda a, x, m: nn.GroupedQueryAttention(8, 4, 3), "multiple of num_kv_heads 3"),
        (lambda a, x, m: nn.TransformerEncoderLayer(8, 2, activation="swoosh"), "must be a function or one of"),
        (lambda a, x, m: nn.Transformer(E, 2, 1, 1, 8, batch_first=True)(m, x[:2]), "must be of one batch"),
        (lambda a, x, m: nn.Transformer(6, 2, 1, 1, 8)(m, x), "must both end in 6"),
        (lambda a, x, m: nn.RotaryEmbedding(5), "must be even"),
        (lambda a, x, m: nn.RotaryEmbedding(4, scaling={"rope_type": "yarn"}), "unknown rope_type 'yarn'"),
        (lambda a, x, m: rotate(x, *nn.RotaryEmbedding(4)(Tensor.arange(T))), "half of the channels"),
        (lambda a, x, m: nn.RelativePositionBias(2, 32, 8), "cannot reach max_distance 8"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message):
    attention = nn.MultiheadAttention(E, HEADS, batch_first=True)
    with pytest.raises((ValueError, TypeError), match=message):
        call(attention, Tensor(TARGET), Tensor(SOURCE))


# --- layers and stacks ------------------------------------------------------------------------------------------------


def encoder(m, **options):
    return m.TransformerEncoder(m.TransformerEncoderLayer(**SIZES, **options), 2, m.LayerNorm(E))


def decoder(m, **options):
    return m.TransformerDecoder(m.TransformerDecoderLayer(**SIZES, **options), 2)


def transformer(m, **options):
    return m.Transformer(**SIZES, num_encoder_layers=1, num_decoder_layers=1, **options)


VARIANTS = {
    "post-LN": dict(),
    "pre-LN, GELU": dict(norm_first=True, activation="gelu"),
    "without biases": dict(bias=False, layer_norm_eps=1e-2),
}
BUILDS = {"encoder": (encoder, 1), "decoder": (decoder, 2), "transformer": (transformer, 2)}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", BUILDS)
def test_outputs_and_every_gradient_are_torchs(name, variant, device, everything):
    if device != "NUMPY" and not everything:
        pytest.skip(
            "kernels to build for half a minute; by default test_transformer_2017.py has a whole model on OpenCL"
        )
    build, inputs = BUILDS[name]
    ours, theirs = pair(lambda m: build(m, batch_first=True, **VARIANTS[variant]), device)
    xs = {"encoder": (TARGET,), "decoder": (TARGET, SOURCE), "transformer": (SOURCE, TARGET)}[name]
    masks = {
        "encoder": dict(mask=CAUSAL, src_key_padding_mask=TARGET_PADDED),
        "decoder": dict(tgt_mask=CAUSAL, memory_mask=SOME, memory_key_padding_mask=PADDED),
        "transformer": dict(tgt_mask=CAUSAL, src_key_padding_mask=PADDED, memory_key_padding_mask=PADDED,
                            tgt_key_padding_mask=TARGET_PADDED),
    }[name]  # fmt: skip
    compare(ours, theirs, *xs, device=device, **masks)


@pytest.mark.parametrize("name", BUILDS)
def test_time_comes_first_unless_said_otherwise(name):
    build, inputs = BUILDS[name]
    ours, theirs = pair(build)
    xs = [x.swapaxes(0, 1).copy() for x in (SOURCE, TARGET)[:inputs]]
    for values in (xs, [x[:, 0] for x in xs]):  # with a batch and without
        expected = theirs(*(torch.tensor(x) for x in values)).detach().numpy()
        np.testing.assert_allclose(ours(*(Tensor(x) for x in values)).numpy(), expected, atol=1e-5)


def test_activations_may_be_functions_of_tensors():
    def build(m):
        return m.TransformerEncoderLayer(**SIZES, activation=lambda x: x.sigmoid())

    ours, theirs = pair(build)
    compare(ours, theirs, TARGET)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_the_causal_flag_of_a_stack_needs_no_mask(name):
    build, inputs = BUILDS[name]
    ours, _ = pair(lambda m: build(m, batch_first=True))
    xs = [Tensor(x) for x in (TARGET, SOURCE)[:inputs]]
    flag, mask = {"encoder": ("is_causal", "mask"), "decoder": ("tgt_is_causal", "tgt_mask")}[name]
    both_ways = [ours(*xs, **{flag: True}).numpy(), ours(*xs, **{mask: Tensor(CAUSAL)}).numpy()]
    np.testing.assert_allclose(*both_ways, atol=1e-6)


def test_dropout_acts_where_torch_has_it_and_in_training_only():
    layer = nn.TransformerDecoderLayer(**SIZES | dict(dropout=0.5))
    rates = [(name, module.p) for name, module in layer.named_modules() if isinstance(module, nn.Dropout)]
    theirs = torch_nn.TransformerDecoderLayer(**SIZES | dict(dropout=0.5))
    assert rates == [
        (name, module.p) for name, module in theirs.named_modules() if isinstance(module, torch_nn.Dropout)
    ]
    assert layer.self_attn.dropout == layer.multihead_attn.dropout == 0.5
    x = Tensor(TARGET)
    layer.eval()
    np.testing.assert_array_equal(layer(x, x).numpy(), layer(x, x).numpy())


def test_layers_of_a_stack_are_copies_that_learn_apart():
    stack = encoder(nn)
    first, second = stack.layers
    np.testing.assert_array_equal(first.linear1.weight.numpy(), second.linear1.weight.numpy())
    assert first.linear1.weight is not second.linear1.weight and first.linear1 is not second.linear1
    assert len(list(stack.parameters())) == 2 * len(list(first.parameters())) + 2


def test_the_mask_of_future_tokens_is_torchs():
    ours, theirs = (m.Transformer.generate_square_subsequent_mask(4) for m in (nn, torch_nn))
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


# --- grouped heads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "pairs"])
def test_grouped_heads_are_attention_with_repeated_keys(interleaved, device):
    """Each head of queries against its group's keys and values, in float64, with channels turned as complex numbers."""
    heads, groups, width = 4, 2, 6
    layer = nn.GroupedQueryAttention(E, heads, groups, head_dim=width, interleaved=interleaved).to(device)
    positions = np.array([3, 4, 5, 9, 11])
    rotation = nn.RotaryEmbedding(width, base=100.0)(Tensor(positions, device=device))
    y = layer(Tensor(TARGET, device=device), rotation).numpy()
    weights = {name: t.numpy().astype(np.float64) for name, t in layer.state_dict().items()}

    def turned(x):  # (B, T, D)
        unit = np.exp(1j * positions[:, None] * 100.0 ** (-np.arange(0, width, 2) / width))
        pairs = x[..., ::2] + 1j * x[..., 1::2] if interleaved else x[..., :3] + 1j * x[..., 3:]
        pairs = pairs * unit
        if not interleaved:
            return np.concatenate([pairs.real, pairs.imag], -1)
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    parts = []
    for head in range(heads):
        group = head * groups // heads
        q = turned(TARGET @ weights["q_proj.weight"][head * width : (head + 1) * width].T)
        k, v = (TARGET @ weights[f"{n}_proj.weight"][group * width : (group + 1) * width].T for n in "kv")
        scores = np.where(CAUSAL, -np.inf, q @ turned(k).swapaxes(1, 2) / np.sqrt(width))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(shares / shares.sum(-1, keepdims=True) @ v)
    np.testing.assert_allclose(y, np.concatenate(parts, -1) @ weights["o_proj.weight"].T, rtol=0, atol=1e-5)


def test_a_bias_such_as_alibi_is_added_to_causal_scores():
    layer = nn.GroupedQueryAttention(E, 4, 1)
    where = Tensor.arange(T, dtype="int32")
    x, bias = Tensor(TARGET), nn.ALiBi(4)(where, where)
    np.testing.assert_allclose(
        layer(x, mask=bias).numpy(), layer(x, mask=both(bias, causal(T, T)), is_causal=False).numpy(), atol=1e-6
    )
    assert np.abs(layer(x, mask=bias).numpy() - layer(x).numpy()).max() > 1e-3


# --- positions --------------------------------------------------------------------------------------------------------


def test_turned_queries_and_keys_know_only_their_distance():
    q, k = (Tensor(RNG.standard_normal((1, 1, T, 6))) for _ in range(2))
    rope = nn.RotaryEmbedding(6)

    def scores(start, interleaved):
        cos, sin = rope(Tensor.arange(start, start + T, dtype="int32"))
        return (rotate(q, cos, sin, interleaved) @ rotate(k, cos, sin, interleaved).transpose(-1, -2)).numpy()

    for interleaved in (False, True):
        np.testing.assert_allclose(scores(0, interleaved), scores(50, interleaved), atol=1e-4)
        assert np.abs(scores(0, interleaved) - (q @ k.transpose(-1, -2)).numpy()).max() > 0.01


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "linear", "factor": 4.0},
        dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
             original_max_position_embeddings=64),
    ],
    ids=["default", "linear", "llama3"],
)  # fmt: skip
def test_rotation_and_its_scalings_are_transformers(scaling):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=32, num_attention_heads=2)
    config.rope_parameters = {"rope_theta": 500.0, **(scaling or {"rope_type": "default"})}
    x = torch.randn(2, 2, 4, 16, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 3], [60, 61, 62, 90]])
    expected, _ = apply_rotary_pos_emb(x, x, *LlamaRotaryEmbedding(config)(x, positions))
    cos, sin = nn.RotaryEmbedding(16, 500.0, scaling)(Tensor(positions.numpy()))
    assert cos.shape == (2, 1, 4, 8)
    np.testing.assert_allclose(rotate(Tensor(x.numpy()), cos, sin).numpy(), expected.numpy(), rtol=0, atol=5e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "reach"), [(32, 128), (8, 20), (16, 1000)])
def test_buckets_of_distances_are_t5s(bidirectional, buckets, reach):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-1200, 1200)
    expected = T5Attention._relative_position_bucket(distances, bidirectional, buckets, reach)
    bias = nn.RelativePositionBias(2, buckets, reach, bidirectional)
    np.testing.assert_array_equal(bias.bucket(Tensor(distances.numpy())).numpy(), expected.numpy())


@pytest.mark.parametrize("heads", [1, 3, 8, 12])
def test_alibis_slopes_are_blooms(heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    slopes = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1].numpy()
    where = Tensor.arange(4, dtype="int32")
    bias = nn.ALiBi(heads)(where, where).numpy()
    np.testing.assert_allclose(bias[:, 3, 1], -2 * slopes, rtol=1e-6)
    np.testing.assert_allclose(bias[:, 1, 3], -2 * slopes, rtol=1e-6)


def test_positions_of_rows_differ():
    rows = Tensor(np.array([[0, 1, 2], [5, 6, 7]]))
    for layer, shape in ((nn.SinusoidalPositions(4), (2, 3, 4)), (nn.LearnedPositions(8, 4), (2, 3, 4))):
        assert layer(rows).shape == shape
        np.testing.assert_array_equal(layer(rows).numpy()[1], layer(rows[1]).numpy())
    for layer in (nn.ALiBi(2), nn.RelativePositionBias(2, 8, 20)):
        assert layer(rows, rows).shape == (2, 2, 3, 3)
        np.testing.assert_array_equal(layer(rows, rows).numpy()[0], layer(rows, rows).numpy()[1])  # only distances


def test_learned_positions_and_biases_learn():
    table, bias = nn.LearnedPositions(6, 4, offset=2), nn.RelativePositionBias(2, 8, 20)
    where = Tensor.arange(3, dtype="int32")
    (table(where).sum() + bias(where, where).sum()).backward()
    np.testing.assert_array_equal(table.weight.grad.numpy().sum(1), [0, 0, 4, 4, 4, 0, 0, 0])
    assert bias.weight.grad.numpy()[:, 0].tolist() == [3, 2, 1, 0, 0, 2, 1, 0]
