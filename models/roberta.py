"""RoBERTa: BERT's encoder, trained for longer and without segments (Liu et al., 2019, arXiv 1907.11692).

What differs from bert.py: positions are counted over the tokens that are no padding, from the row after the padding's
on; the heads have another layout; there is one segment. The names are those of the published checkpoints.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Optional

from .. import nn
from ..engine.tensor import Tensor
from ..nn import functional as F
from ..nn.module import parameter
from . import bert
from .bert import LARGE, BertConfig, BertPretrained, initialize


@dataclass
class RobertaConfig(BertConfig):
    """The sizes of a RoBERTa; the defaults are those of RoBERTa base."""

    vocab_size: int = 50265
    max_position_embeddings: int = 514  # rows: pad_token_id + 1 of them are no positions
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_token_id is None:
            raise ValueError("RobertaConfig: pad_token_id must be a token, since positions are counted from it")
        if self.max_position_embeddings <= self.pad_token_id + 1:
            raise ValueError(
                f"RobertaConfig: max_position_embeddings {self.max_position_embeddings} leaves no position after "
                f"pad_token_id {self.pad_token_id}"
            )


class RobertaPretrained(BertPretrained):
    """What the checkpoints of all heads have in common."""

    Config = RobertaConfig
    config: RobertaConfig
    fields = {field.name: (field.name, field.default) for field in dataclasses.fields(RobertaConfig)}
    fields["pad_token_id"] = ("pad_token_id", None)
    prefix = "roberta."
    presets = {"roberta-base": {}, "roberta-large": LARGE}


class Embeddings(bert.Embeddings):
    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.padding = config.pad_token_id
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size, self.padding)

    def places(self, tokens: Tensor) -> Tensor:
        real = tokens.ne(self.padding).cast("int32")  # (B, T)
        return self.position_embeddings(real.cumsum(1).cast("int32") * real + self.padding)  # (B, T, C)


class Roberta(RobertaPretrained, bert.Bert):
    """The encoder without a head, or with that of sentence embeddings."""

    model_type = "roberta"
    architectures = ("RobertaModel",)
    embeddings_class = Embeddings

    @property
    def context_length(self) -> int:
        return self.config.max_position_embeddings - self.config.pad_token_id - 1


class Predictions(nn.Module):
    """Features to the logits of what stood there; the last projection is the tokens' embedding, and has a bias."""

    def __init__(self, config: RobertaConfig, embedding: nn.Embedding):
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        initialize(self, config.initializer_range)
        self.bias = parameter(config.vocab_size)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.decoder.weight, self.decoder.bias = embedding.weight, self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(F.gelu(self.dense(x))))


class RobertaForMaskedLM(RobertaPretrained, bert.BertForMaskedLM):
    model_type = "roberta"
    architectures = ("RobertaForMaskedLM",)

    def __init__(self, config: RobertaConfig):
        self.config = config
        self.roberta = Roberta(config, pooling=False)
        self.lm_head = Predictions(config, self.roberta.embeddings.word_embeddings)

    def logits(self, features: Tensor) -> Tensor:
        return self.lm_head(features)


class Classifier(nn.Module):
    """The features (B, C) of the first token to logits (B, labels)."""

    def __init__(self, config: RobertaConfig):
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.head_dropout)
        self.out_proj = nn.Linear(config.hidden_size, len(config.labels))
        initialize(self, config.initializer_range)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.dense(self.dropout(x)).tanh()))


class RobertaForSequenceClassification(RobertaPretrained, bert.BertForSequenceClassification):
    model_type = "roberta"
    architectures = ("RobertaForSequenceClassification",)
    ignored = re.compile(r"(^|\.)(position_ids$|pooler\.)|^lm_head\.")
    fresh = re.compile(r"classifier\.")

    def __init__(self, config: RobertaConfig):
        self.config = config
        self.roberta = Roberta(config, pooling=False)
        self.classifier = Classifier(config)

    def logits(self, tokens: Tensor, mask: Optional[Tensor], segments: Optional[Tensor]) -> Tensor:
        return self.classifier(self.roberta.features(tokens, mask, segments)[:, 0])
