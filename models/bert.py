"""BERT: an encoder-only transformer that reads in both directions (Devlin et al., 2019, arXiv 1810.04805).

The modules carry the names of the published checkpoints (encoder.layer.0.attention.self.query.weight, ...). Three
heads stand on the encoder: a masked language model, a classifier of sequences, and sentence embeddings (`Bert.embed`,
which has no weights of its own; Reimers and Gurevych, arXiv 1908.10084). RoBERTa (roberta.py) is made of these blocks.

Shapes in comments: B sequences, T tokens, C = hidden_size channels, H heads of D = C / H channels, V the vocabulary.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

from .. import nn
from ..backends.dtypes import is_float
from ..engine.tensor import Tensor
from ..nn import functional as F
from ..nn.attention import padding
from ..nn.module import parameter
from .base import PretrainedModel
from .gpt import ACTIVATIONS

Output = tuple[Tensor, Optional[Tensor]]


@dataclass
class BertConfig:
    """The sizes of a BERT under the names of config.json; the defaults are those of BERT base."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512  # the most tokens of a sequence
    type_vocab_size: int = 2  # segments
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02  # small models learn sooner from more: attention starts less even
    pad_token_id: Optional[int] = 0
    hidden_dropout_prob: float = 0.1  # of the embeddings and of what each sublayer adds
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: Optional[float] = None  # None: as hidden_dropout_prob
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")  # the names of a classifier's classes
    problem_type: Optional[str] = None  # of a classifier's loss; None: what the targets look like

    def __post_init__(self) -> None:
        kind = type(self).__name__
        self.labels = tuple(self.labels)
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*sizes, "max_position_embeddings", "type_vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{kind}: {name} must be at least 1, not {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{kind}: hidden_size {self.hidden_size} must be a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            value = getattr(self, name) or 0.0
            if not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
                raise ValueError(f"{kind}: {name} must be in [0, 1), not {getattr(self, name)}")
        if self.hidden_act not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"{kind}: unknown hidden_act {self.hidden_act!r}; known: {known}")
        if self.pad_token_id is not None and self.pad_token_id not in range(self.vocab_size):
            raise ValueError(f"{kind}: pad_token_id {self.pad_token_id!r} is no token of {self.vocab_size}")
        if not self.labels:
            raise ValueError(f"{kind}: labels must name at least one class")
        if self.problem_type not in (None, *PROBLEMS):
            raise ValueError(f"{kind}: unknown problem_type {self.problem_type!r}; known: {', '.join(PROBLEMS)}")

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


# problem_type -> loss of logits (B, labels) and targets
PROBLEMS = {
    "regression": lambda logits, y: F.mse_loss(logits.reshape(y.shape), y),
    "single_label_classification": F.cross_entropy,  # y (B), the class of each
    "multi_label_classification": F.binary_cross_entropy_with_logits,  # y (B, labels), 1.0 for each class that holds
}

LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def initialize(module: nn.Module, std: float) -> None:
    """BERT's first values: weights N(0, std²), biases 0, and the padding's row 0."""
    for child in module.modules():
        if isinstance(child, nn.Embedding):
            with Tensor.no_grad():  # it starts N(0, 1), but for that row
                child.weight.assign(child.weight * std)
        elif isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, 0.0, std)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


class Embeddings(nn.Module):
    """Tokens, their positions and their segments, summed and normalised."""

    def __init__(self, config: BertConfig):
        C = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, C, padding_idx=config.pad_token_id)
        self.position_embeddings: Any = nn.LearnedPositions(config.max_position_embeddings, C)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, C)
        self.LayerNorm = nn.LayerNorm(C, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def places(self, tokens: Tensor) -> Tensor:
        """The embeddings of the positions of tokens (B, T), as (T, C) or (B, T, C)."""
        return self.position_embeddings.first(tokens.shape[1])

    def forward(self, tokens: Tensor, segments: Optional[Tensor]) -> Tensor:
        if segments is None:
            segments = Tensor.zeros(1, 1, dtype="int32", device=tokens.device)
        x = self.word_embeddings(tokens) + self.token_type_embeddings(segments) + self.places(tokens)  # (B, T, C)
        return self.dropout(self.LayerNorm(x))


class SelfAttention(nn.Module):
    """Multi-head attention of every token to every one that `mask` (B, 1, 1, T) lets through."""

    def __init__(self, config: BertConfig):
        C = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.query, self.key, self.value = nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, C)

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            project(x).reshape(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, H, T, D)
            for project in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)  # (B, H, T, D)
        return y.transpose(1, 2).reshape(B, T, C)


class AddAndNorm(nn.Module):
    """What ends a sublayer: its last projection, dropout, the residual, and then the normalisation (post-LN)."""

    def __init__(self, channels: int, config: BertConfig):
        self.dense = nn.Linear(channels, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class Attention(nn.Module):
    def __init__(self, config: BertConfig):
        self.self = SelfAttention(config)
        self.output = AddAndNorm(config.hidden_size, config)

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        return self.output(self.self(x, mask), x)


class Layer(nn.Module):
    def __init__(self, config: BertConfig):
        self.attention = Attention(config)
        self.intermediate = nn.Sequential(
            {
                "dense": nn.Linear(config.hidden_size, config.intermediate_size),
                "activation": ACTIVATIONS[config.hidden_act](),
            }
        )
        self.output = AddAndNorm(config.intermediate_size, config)

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    def __init__(self, config: BertConfig):
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class BertPretrained(PretrainedModel):
    """What the checkpoints of all heads have in common."""

    Config: ClassVar[type[BertConfig]] = BertConfig
    config: BertConfig
    fields = {field.name: (field.name, field.default) for field in dataclasses.fields(BertConfig)}
    fields["pad_token_id"] = ("pad_token_id", None)  # may be null
    fixed = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }
    prefix = "bert."
    presets = {
        "bert-base": {},
        "bert-large": LARGE,
        "minilm-l6": dict(hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
    }

    @classmethod
    def config_from(cls, content: dict[str, Any]) -> BertConfig:
        names = content.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
        if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))}:
            raise ValueError(f"id2label must name the classes 0, 1, ..., not {str(names)[:80]}")
        labels = tuple(str(names[str(i)]) for i in range(len(names)))
        return super().config_from({"pad_token_id": cls.Config.pad_token_id} | content | {"labels": labels})

    @classmethod
    def config_to(cls, config: BertConfig) -> dict[str, Any]:
        content = super().config_to(config)
        labels = content.pop("labels")
        return content | {
            "id2label": {str(i): name for i, name in enumerate(labels)},
            "label2id": {name: i for i, name in enumerate(labels)},
        }


class Bert(BertPretrained):
    """The encoder without a head, or with that of sentence embeddings, which has no weights.

    `pooling` adds what BERT learnt to predict following sentences with: a layer over the first token's features.
    """

    model_type = "bert"
    architectures = ("BertModel",)
    ignored = re.compile(r"(^|\.)position_ids$|^(cls|lm_head|classifier)\.")  # a head, if the checkpoint has one
    fresh = re.compile(r"pooler\.")
    embeddings_class: ClassVar[type[Embeddings]] = Embeddings

    def __init__(self, config: BertConfig, pooling: bool = True):
        self.config = config
        self.embeddings = self.embeddings_class(config)
        self.encoder = Encoder(config)
        self.pooler: Optional[nn.Module] = None
        if pooling:
            C = config.hidden_size
            self.pooler = nn.Sequential({"dense": nn.Linear(C, C), "activation": nn.Tanh()})
        initialize(self, config.initializer_range)

    @property
    def context_length(self) -> int:
        """The most tokens of a sequence."""
        return self.config.max_position_embeddings

    def features(self, tokens: Tensor, mask: Optional[Tensor] = None, segments: Optional[Tensor] = None) -> Tensor:
        """(B, T) integers to (B, T, C).

        Args:
            tokens: (B, T).
            mask: (B, T), True or 1 for what is read, False or 0 for padding.
            segments: (B, T), the segment of each token; all are of segment 0 without it.

        Raises ValueError for other shapes, and for more tokens than there are positions.
        """
        kind = type(self).__name__
        if tokens.ndim != 2:
            raise ValueError(f"{kind}: tokens must be of shape (batch, time), not {tokens.shape}")
        if tokens.shape[1] > self.context_length:
            raise ValueError(
                f"{kind}: {tokens.shape[1]} tokens are more than its {self.context_length} positions; cut them"
            )
        for name, other in (("mask", mask), ("segments", segments)):
            if other is not None and other.shape != tokens.shape:
                raise ValueError(f"{kind}: {name} {other.shape} must have the shape of the tokens {tokens.shape}")
        return self.encoder(self.embeddings(tokens, segments), padding(mask))

    def forward(self, tokens: Tensor, mask: Optional[Tensor] = None, segments: Optional[Tensor] = None) -> Output:
        """Features (B, T, C), and the pooled first of them (B, C) if there is a pooler. See `features`."""
        x = self.features(tokens, mask, segments)
        return x, None if self.pooler is None else self.pooler(x[:, 0])

    def embed(self, tokens: Tensor, mask: Optional[Tensor] = None, segments: Optional[Tensor] = None) -> Tensor:
        """Sentences (B, T) as vectors (B, C) of length 1, whose products are their cosines: the mean of the features.

        The mean is that of the tokens of the mask. See `features` and `contrastive_loss`.
        """
        x = self.features(tokens, mask, segments)  # (B, T, C)
        if mask is None:
            return F.normalize(x.mean(axis=1))
        real = mask.ne(0).cast(x.dtype).unsqueeze(-1)  # (B, T, 1)
        return F.normalize((x * real).sum(axis=1) / real.sum(axis=1).clamp(1e-9))


class Predictions(nn.Module):
    """Features to the logits of what stood there; the last projection is the tokens' embedding, and has a bias."""

    def __init__(self, config: BertConfig, embedding: nn.Embedding):
        C = config.hidden_size
        self.transform = nn.Sequential(
            {
                "dense": nn.Linear(C, C),
                "activation": ACTIVATIONS[config.hidden_act](),
                "LayerNorm": nn.LayerNorm(C, config.layer_norm_eps),
            }
        )
        initialize(self, config.initializer_range)
        self.bias = parameter(config.vocab_size)
        self.decoder = nn.Linear(C, config.vocab_size)
        self.decoder.weight, self.decoder.bias = embedding.weight, self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class BertForMaskedLM(BertPretrained):
    """The encoder and the head that says what stood at each place."""

    model_type = "bert"
    architectures: ClassVar[tuple[str, ...]] = ("BertForMaskedLM", "BertForPreTraining")
    ignored = re.compile(r"(^|\.)(position_ids$|pooler\.)|^(cls\.seq_relationship|classifier)\.")

    def __init__(self, config: BertConfig):
        self.config = config
        self.bert = Bert(config, pooling=False)
        self.cls = nn.Sequential({"predictions": Predictions(config, self.bert.embeddings.word_embeddings)})

    def logits(self, features: Tensor) -> Tensor:
        """(..., C) to (..., V)."""
        return self.cls(features)

    def forward(
        self,
        tokens: Tensor,
        targets: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        segments: Optional[Tensor] = None,
    ) -> Output:
        """Logits (B, T, V) for tokens (B, T), and the mean cross-entropy with `targets` (B, T), if they are given.

        Targets of -100 are left out of the mean: those at places that were not masked (see `masking.mask_tokens`).
        `mask` and `segments` are those of `Bert.features`, which also says what is raised.
        """
        logits = self.logits(self.body.features(tokens, mask, segments))
        if targets is None:
            return logits, None
        if targets.shape != tokens.shape:
            raise ValueError(
                f"{type(self).__name__}: targets {targets.shape} must have the shape of the tokens {tokens.shape}"
            )
        return logits, F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


class BertForSequenceClassification(BertPretrained):
    """The encoder with its pooler, and a projection to a number for each of `config.labels`.

    A checkpoint without a classifier gives a model to be trained, whose classifier has its first random values.
    """

    model_type = "bert"
    architectures = ("BertForSequenceClassification",)
    ignored = re.compile(r"(^|\.)position_ids$|^(cls|lm_head)\.")
    fresh = re.compile(r"classifier\.|bert\.pooler\.")

    def __init__(self, config: BertConfig):
        self.config = config
        self.bert = Bert(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier: nn.Module = nn.Linear(config.hidden_size, len(config.labels))
        initialize(self.classifier, config.initializer_range)

    def logits(self, tokens: Tensor, mask: Optional[Tensor], segments: Optional[Tensor]) -> Tensor:
        _, pooled = self.bert(tokens, mask, segments)
        return self.classifier(self.dropout(pooled))

    def forward(
        self,
        tokens: Tensor,
        targets: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        segments: Optional[Tensor] = None,
    ) -> Output:
        """Logits (B, labels) for tokens (B, T), and the loss, if there are targets.

        The loss is what `config.problem_type` says, or else the targets' look: for a single label the mean squared
        error with numbers (B) or (B, 1); for classes (B) cross-entropy; for floats (B, labels) binary cross-entropy.
        `mask` and `segments` are those of `Bert.features`. Raises ValueError for targets of another shape.
        """
        logits = self.logits(tokens, mask, segments)  # (B, labels)
        if targets is None:
            return logits, None
        problem = self.config.problem_type
        if problem is None:
            kinds = list(PROBLEMS)
            problem = kinds[0] if len(self.config.labels) == 1 else kinds[2] if is_float(targets.dtype) else kinds[1]
        return logits, PROBLEMS[problem](logits, targets)


def contrastive_loss(a: Tensor, b: Tensor, scale: float = 20.0) -> Tensor:
    """How badly each row of a (B, C) finds its partner among the rows of b (B, C), both as `Bert.embed` gives them.

    The cross-entropy of softmax(scale a bᵀ) with the diagonal: the partners of the others serve as wrong answers
    (Henderson et al., arXiv 1705.00652; what MiniLM's published sentence encoder was trained with).
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"contrastive_loss: two batches of embeddings of one shape (B, C), not {a.shape}, {b.shape}")
    return F.cross_entropy(a @ b.transpose() * scale, Tensor.arange(a.shape[0], dtype="int32", device=a.device))
