"""Models written with `nn`, reading published weights, and generation from them."""

from .bart import Bart, BartConfig
from .base import PretrainedModel, from_pretrained
from .beam import beam_search
from .bert import Bert, BertConfig, BertForMaskedLM, BertForSequenceClassification
from .generation import generate, generate_batch, stop_at
from .gpt import GPT, GPTConfig
from .gpt1 import GPT1, GPT1Config
from .llama import Llama, LlamaConfig
from .roberta import Roberta, RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification
from .t5 import T5, T5Config, T5Encoder
from .transformer import Transformer, TransformerConfig

__all__ = [
    "Bart",
    "BartConfig",
    "Bert",
    "BertConfig",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "GPT",
    "GPT1",
    "GPT1Config",
    "GPTConfig",
    "Llama",
    "LlamaConfig",
    "PretrainedModel",
    "Roberta",
    "RobertaConfig",
    "RobertaForMaskedLM",
    "RobertaForSequenceClassification",
    "T5",
    "T5Config",
    "T5Encoder",
    "Transformer",
    "TransformerConfig",
    "beam_search",
    "from_pretrained",
    "generate",
    "generate_batch",
    "stop_at",
]
