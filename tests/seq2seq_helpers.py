"""What the tests of encoder-decoders share: tiny batches with padding, and comparing with transformers."""

import json

import numpy as np
import torch

from clgrad import Tensor
from clgrad.models import beam_search, generate, generate_batch

IGNORED = -100


def perturb(model, std=0.3):
    """Weights large enough for the activations and the attention to matter, and biases that are not zero."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(std * torch.randn_like(p) / (p.shape[0] ** 0.5 if p.ndim > 1 else 1))
    return model


def load(model, reference, device="NUMPY"):
    """`model` with the weights of `reference`."""
    model.to(device).load_state_dict({name: t.detach().numpy() for name, t in reference.state_dict().items()})
    return model


def batch(vocabulary, size=3, source_length=14, target_length=11, seed=0):
    """(source (B, S), which of its tokens are real (B, S), targets (B, T) of which some are left out)."""
    rng = np.random.default_rng(seed)
    source = rng.integers(3, vocabulary, (size, source_length))
    mask = np.arange(source_length) < np.linspace(source_length, 2, size).astype(int)[:, None]
    target = rng.integers(3, vocabulary, (size, target_length))
    target[-1, 4:] = IGNORED
    return source, mask, target


def logits_of(model, source, target, device="NUMPY", **masks):
    """Of one of our models, for the decoder's input `target`."""
    masks = {name: Tensor(mask, device=device) for name, mask in masks.items()}
    return model(Tensor(source, device=device), Tensor(target, device=device), **masks)[0].numpy()


def logits_of_torch(reference, source, target, source_mask=None, target_mask=None):
    masks = {"attention_mask": source_mask, "decoder_attention_mask": target_mask}
    masks = {name: torch.tensor(mask).long() for name, mask in masks.items() if mask is not None}
    with torch.no_grad():
        return reference(torch.tensor(source), decoder_input_ids=torch.tensor(target), **masks).logits.numpy()


def assert_same_logits(model, reference):
    source, mask, target = batch(model.config.vocab_size)
    target = abs(target) % model.config.vocab_size
    ours = logits_of(model, source, target, source_mask=mask)
    np.testing.assert_allclose(ours, logits_of_torch(reference, source, target, mask), rtol=0, atol=1e-4)


def assert_same_training(model, reference, device):
    """Logits, loss and gradients, for a source with padding and targets of which some are left out."""
    source, mask, target = batch(model.config.vocab_size)
    logits, loss = model(
        Tensor(source, device=device), targets=Tensor(target, device=device), source_mask=Tensor(mask, device=device)
    )
    expected = reference(torch.tensor(source), attention_mask=torch.tensor(mask).long(), labels=torch.tensor(target))
    np.testing.assert_allclose(logits.numpy(), expected.logits.detach().numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(loss.item(), expected.loss.item(), rtol=0, atol=1e-5)
    loss.backward()
    expected.loss.backward()
    assert_same_gradients(model, reference)


def assert_same_gradients(model, reference):
    """Of every parameter, to a thousandth of the reference's norm and a millionth of the largest."""
    theirs = {name: p.grad.numpy() for name, p in reference.named_parameters()}
    largest = max(np.linalg.norm(g) for g in theirs.values())
    parameters = dict(model.named_parameters())
    assert parameters.keys() == theirs.keys()
    for name, g in theirs.items():
        difference = np.linalg.norm(parameters[name].grad.numpy() - g)
        assert difference <= 1e-3 * np.linalg.norm(g) + 1e-6 * largest, name


def assert_same_dropouts(model, reference, monkeypatch):
    """In training both drop elements of as many values, of the same shapes; in evaluation of none."""
    ours, theirs = [], []
    drop, drop_torch = Tensor.dropout, torch.nn.functional.dropout

    def counted(self, p=0.5):
        ours.append((p, self.shape))
        return drop(self, p)

    def counted_torch(x, p=0.5, training=True, inplace=False):
        if training and p > 0:
            theirs.append((p, tuple(x.shape)))
        return drop_torch(x, p, training, inplace)

    monkeypatch.setattr(Tensor, "dropout", counted)
    monkeypatch.setattr(torch.nn.functional, "dropout", counted_torch)
    source, _, target = batch(model.config.vocab_size)
    target = abs(target) % model.config.vocab_size
    logits_of(model.eval(), source, target)
    assert not ours
    logits_of(model.train(), source, target)
    logits_of_torch(reference.train(), source, target)
    assert theirs
    assert sorted(ours) == sorted(theirs)


def change(folder, **options):
    """Change options of the config.json in `folder`; None removes one."""
    content = json.loads((folder / "config.json").read_text()) | options
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def texts_of_torch(reference, sources, end, most, **options):
    """What transformers makes of sources of different lengths, without start and end token."""
    width = max(map(len, sources))
    tokens = torch.tensor([[*source, *[0] * (width - len(source))] for source in sources])
    mask = torch.tensor([[1] * len(source) + [0] * (width - len(source)) for source in sources])
    options |= dict(max_new_tokens=most, do_sample=False, eos_token_id=end, forced_eos_token_id=None)
    found = reference.generate(tokens, attention_mask=mask, **options)[:, 1:].tolist()
    return [text[: text.index(end)] if end in text else text for text in found]


MOST = 12  # tokens of a text


def sources_of(model):
    """Three, of different lengths."""
    return [row[:n].tolist() for row, n in zip(batch(model.config.vocab_size)[0], (14, 9, 3), strict=True)]


def lively(reference, last_norm):
    """Weights with which it says different things about different sources. With those that it has, the head likes best
    the token that the decoder has just read, as its weights are those of the embedding."""
    with torch.no_grad():
        for name, p in reference.named_parameters():
            if p.ndim > 1 and "shared" not in name and "relative" not in name:
                p.mul_(2)
        for seed in range(20):
            torch.manual_seed(seed)
            last_norm.weight.normal_()
            texts = texts_of_torch(reference, sources_of(reference), reference.config.vocab_size, MOST)
            if max(len(set(text)) for text in texts) > 2 and len(set(map(tuple, texts))) == len(texts):
                return reference
    raise AssertionError("no such weights found")


def assert_same_greedy_texts(model, reference):
    """Alone and in a batch; without an end, and with one of the tokens that came as the end."""
    sources, never = sources_of(model), model.config.vocab_size
    whole = texts_of_torch(reference, sources, never, MOST)
    assert generate_batch(model, sources, MOST, temperature=0.0, end=never) == whole
    text = max(whole, key=lambda text: len(set(text)))
    end = max(text, key=text.index)  # the token that comes last for the first time
    ended = texts_of_torch(reference, sources, end, MOST)
    assert ended != whole
    assert [list(generate(model, source, MOST, temperature=0.0, end=end)) for source in sources] == ended


def assert_same_beams(model, reference):
    """The best texts of a search, with ends that short texts have and without."""
    sources, never = sources_of(model)[1:], model.config.vocab_size
    ends = [never, texts_of_torch(reference, sources[:1], never, 3)[0][2]]
    found = []
    for end in ends:
        for options in (dict(num_beams=4), dict(num_beams=3, length_penalty=2.0, early_stopping=True)):
            for source in sources:
                text = beam_search(model, source, 9, end=end, **options)[0].tokens
                assert [text] == texts_of_torch(reference, [source], end, 9, **options)
                found.append(tuple(text))
    assert len(set(found)) > 2
