"""Models in GGUF files: weights that stay packed, the configuration, and the tokenizer, all from one file.

    model = from_pretrained("SmolLM2-135M-Instruct.Q4_1.gguf", device="CL")
    tokenizer = tokenizer_from("SmolLM2-135M-Instruct.Q4_1.gguf")

Models of the architecture "llama" are read (Llama, Mistral, SmolLM2, TinyLlama, ...). Their files have the rows of Q
and K in the order of pairs of neighbouring channels, which is what `rope_interleaved` of the configuration says.

Tokenizers of the kinds "gpt2" (byte-level BPE with merges) and "llama" (SentencePiece with scores) are built with the
package `tokenizers`.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Optional, Union

import numpy as np

from .. import nn
from ..backends.packing import PACKINGS
from ..engine.tensor import Tensor
from ..nn.quantized import QuantizedEmbedding, QuantizedLinear, replace
from .gguf_file import GGUF, PathLike
from .huggingface import listed
from .llama import Llama, LlamaConfig
from .tokenizers import GPT2_PATTERN, SubwordTokenizer, _package, check_belongs

# --- weights ----------------------------------------------------------------------------------------------------------

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"  # what the frequencies are divided by: Llama 3.1's stretched context


def from_pretrained(
    path: Union[PathLike, GGUF], packed: bool = True, device: Optional[str] = None, **overrides: Any
) -> Llama:
    """The Llama of a GGUF file, which may be open already, in evaluation mode.

    Args:
        packed: whether packed weights stay so; otherwise they become float32, which takes six times the memory.
        overrides: options of LlamaConfig in place of the file's.

    Raises FileNotFoundError, and ValueError for a damaged file, another architecture, options that Llama does not
    compute, and tensors that are missing, left over or of another shape.
    """
    file = path if isinstance(path, GGUF) else GGUF(path)
    try:
        config = config_from(file, **overrides)
        model = Llama(config)
        _check(file, model)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    with Tensor.no_grad():
        _put(file, model, packed, device)
        if ROPE_FACTORS in file.tensors:
            rotary = model.model.rotary_emb
            rotary.frequencies = rotary.frequencies / file.floats(ROPE_FACTORS)
        if config.tie_word_embeddings:
            embedding = model.model.embed_tokens
            if isinstance(embedding, QuantizedEmbedding):
                columns, rows = embedding.embedding_dim, embedding.num_embeddings
                replace(model, "lm_head", QuantizedLinear(columns, rows, embedding.packing, embedding.weight))
            else:
                model.lm_head.weight = embedding.weight
    return model.eval()


def config_from(file: GGUF, **overrides: Any) -> LlamaConfig:
    """The configuration that the keys of a file say. Raises ValueError."""
    found = file.metadata.get("general.architecture")
    if not isinstance(found, str) or found != "llama":
        raise ValueError(f"its architecture is {found!r:.60}, and 'llama' alone is read from GGUF files")

    def get(key: str, kind: type, default: Any = None) -> Any:
        value = file.metadata.get(f"llama.{key}", default)
        if value is None:
            raise ValueError(f"llama.{key} is missing")
        if type(value) is not kind or (isinstance(value, float) and not isfinite(value)):
            raise ValueError(f"llama.{key} is {str(value)[:60]!r}, and must be one {kind.__name__}")
        return value

    if get("expert_count", int, 0):
        raise ValueError("it is a mixture of experts, which Llama here does not compute")
    heads, layers = get("attention.head_count", int), get("block_count", int)
    if not 1 <= layers <= len(file.tensors):  # as many modules as there are tensors, at most, are built
        raise ValueError(f"llama.block_count is {layers}, and there are {len(file.tensors)} tensors in all")
    embedding = _shape(file, "token_embd.weight", 2)
    head_dim = get("attention.key_length", int, embedding[1] // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if get(key, int, head_dim) != head_dim:
            raise ValueError(f"llama.{key} is not the {head_dim} channels of a head, as Llama here has it")
    scaling = get("rope.scaling.type", str, "none")
    if scaling not in ("none", "linear"):
        raise ValueError(f"llama.rope.scaling.type is {scaling!r}; 'none' and 'linear' are computed")
    options = dict(
        vocab_size=embedding[0],
        hidden_size=get("embedding_length", int),
        intermediate_size=get("feed_forward_length", int),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=get("attention.head_count_kv", int, heads),
        head_dim=head_dim,
        max_position_embeddings=get("context_length", int),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon", float),
        rope_theta=get("rope.freq_base", float, 10000.0),
        rope_scaling={"rope_type": scaling, "factor": get("rope.scaling.factor", float)} if scaling != "none" else None,
        rope_interleaved=True,
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        tie_word_embeddings="output.weight" not in file.tensors,
        bos_token_id=_token(file, "bos"),
        eos_token_id=_token(file, "eos"),
    )
    width, wide = options["hidden_size"], options["intermediate_size"]
    wanted = {
        "token_embd.weight": (embedding[0], width),
        "blk.0.attn_q.weight": (heads * head_dim, width),
        "blk.0.ffn_up.weight": (wide, width),
    }
    for name, shape in wanted.items():  # before modules of such sizes are built
        if _shape(file, name, 2) != shape:
            raise ValueError(f"{name!r} has the shape {file.tensors[name].shape}, and the keys say {shape}")
    return LlamaConfig(**options | overrides)


def _shape(file: GGUF, name: str, rank: int) -> tuple[int, ...]:
    if name not in file.tensors:
        raise ValueError(f"the tensor {name!r} is missing")
    shape = file.tensors[name].shape
    if len(shape) != rank:
        raise ValueError(f"{name!r} has the shape {shape}; wanted {rank} dimensions")
    return shape


def _token(file: GGUF, name: str) -> Optional[int]:
    """The id of the token that begins ("bos") or ends ("eos") a text, or is what is not known ("unknown")."""
    value = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
    return value if type(value) is int else None


def _paths(model: Llama) -> dict[str, str]:
    """The file's name of each module with weights, without ".weight", and the model's."""
    found = {}
    for name, path in NAMES.items():
        if path.startswith(("model.", "lm_head")):
            found[name] = path
        else:
            layers = range(model.config.num_hidden_layers)
            found |= {f"blk.{layer}.{name}": f"model.layers.{layer}.{path}" for layer in layers}
    if model.config.tie_word_embeddings:
        del found["output"]
    return found


def _check(file: GGUF, model: Llama) -> None:
    """Raise ValueError unless the file has the tensors of the model, all of them and no others."""
    own = model.state_dict()
    wanted = {
        f"{name}.{kind}": own[f"{path}.{kind}"].shape
        for name, path in _paths(model).items()
        for kind in ("weight", "bias")
        if f"{path}.{kind}" in own
    }
    missing = [name for name in wanted if name not in file.tensors]
    unknown = [name for name in file.tensors if name not in wanted and name != ROPE_FACTORS]
    problems = [f"missing {listed(missing)}"] * bool(missing) + [f"unexpected {listed(unknown)}"] * bool(unknown)
    if problems:
        raise ValueError("; ".join(problems))
    for name, shape in wanted.items():
        if file.tensors[name].shape != shape:
            raise ValueError(f"{name!r} has the shape {file.tensors[name].shape}, and the model has {shape}")
    if ROPE_FACTORS in file.tensors and file.tensors[ROPE_FACTORS].shape != model.model.rotary_emb.frequencies.shape:
        raise ValueError(f"{ROPE_FACTORS!r} has the shape {file.tensors[ROPE_FACTORS].shape}")


def _put(file: GGUF, model: Llama, packed: bool, device: Optional[str]) -> None:
    """Put the tensors of the file into the model; packed ones make their layers packed."""
    modules = dict(model.named_modules())
    for name, path in _paths(model).items():
        layer = modules[path]
        for kind in ("weight", "bias"):
            entry = file.tensors.get(f"{name}.{kind}")
            if entry is None:
                continue
            packing = PACKINGS.get(entry.type)
            if not packed or packing is None or len(entry.shape) != 2 or entry.shape[1] % packing.elements:
                tensor = Tensor(file.floats(entry.name), device=device, requires_grad=True)
                setattr(layer, kind, tensor)
                continue
            weight = Tensor(np.asarray(file.raw(entry.name)), device=device)
            rows, columns = entry.shape
            new: nn.Module
            if isinstance(layer, nn.Embedding):
                new = QuantizedEmbedding(rows, columns, packing.name, weight)
            else:
                new = QuantizedLinear(columns, rows, packing.name, weight, getattr(layer, "bias", None))
            parent, _, child = path.rpartition(".")
            replace(modules[parent], child, new)
            layer = new


# --- the tokenizer ----------------------------------------------------------------------------------------------------

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# tokenizer.ggml.pre -> how a text is cut into words. SmolLM's takes digits one by one, before anything else.
PATTERNS = {
    "default": GPT2_PATTERN,
    "gpt-2": GPT2_PATTERN,
    "smollm": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+",
    "llama-bpe": rf"{_LETTERS}|\p{{N}}{{1,3}}|{_OTHERS}",
    "qwen2": rf"{_LETTERS}|\p{{N}}|{_OTHERS}",
}
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space
LONGEST_PIECE = 256  # characters of a token; a hostile file's could have millions, and as many ways to cut them
CONTROL, OWN_WORD = 3, 4  # token types: special tokens, and words that are never cut


def tokenizer_from(path: Union[PathLike, GGUF]) -> SubwordTokenizer:
    """The tokenizer inside a GGUF file.

    Raises FileNotFoundError, ImportError without the package tokenizers, and ValueError for a damaged file, kinds of
    tokenizers that are not read, and one that does not belong to the model.
    """
    file = path if isinstance(path, GGUF) else GGUF(path)
    try:
        tokenizer = _tokenizer(file)
        if "token_embd.weight" in file.tensors:
            check_belongs(tokenizer, file.tensors["token_embd.weight"].shape[0])
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    return tokenizer


def _tokenizer(file: GGUF) -> SubwordTokenizer:
    keys = file.metadata
    kind, tokens = str(keys.get("tokenizer.ggml.model"))[:60], keys.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError("it has no tokenizer.ggml.tokens")
    types = keys.get("tokenizer.ggml.token_type", np.ones(len(tokens), np.int32))
    if not isinstance(types, np.ndarray) or len(types) != len(tokens):
        raise ValueError("tokenizer.ggml.token_type has not one type for each token")
    special = [token for token, number in zip(tokens, types.tolist()) if number in (CONTROL, OWN_WORD)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ValueError("tokenizer.ggml.tokens repeats a token")
    bos, eos = _token(file, "bos"), _token(file, "eos")
    for name, token in (("bos", bos), ("eos", eos)):
        if token is not None and not 0 <= token < len(tokens):
            raise ValueError(f"tokenizer.ggml.{name}_token_id {token} is none of the {len(tokens)} tokens")
    if kind == "gpt2":
        pattern = PATTERNS.get(str(keys.get("tokenizer.ggml.pre", "default")))
        if pattern is None:
            found = str(keys["tokenizer.ggml.pre"])[:60]
            raise ValueError(f"tokenizer.ggml.pre is {found!r}; known: {', '.join(PATTERNS)}")
        merges = keys.get("tokenizer.ggml.merges")
        pairs = [merge.split(" ") for merge in merges] if isinstance(merges, list) else []
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise ValueError("tokenizer.ggml.merges must hold pairs of tokens with a space between")
        tokenizer = SubwordTokenizer.byte_level(vocabulary, pairs, special, pattern, eos)
    elif kind == "llama":
        tokenizer = _sentencepiece(file, vocabulary, special, eos)
    else:
        raise ValueError(f"its tokenizer is of the kind {kind!r}; 'gpt2' and 'llama' are read")
    if keys.get("tokenizer.ggml.add_bos_token", kind == "llama") is True and bos is not None:
        first = tokens[bos]
        tokenizer.inner.post_processor = _package().processors.TemplateProcessing(
            single=[first, "$A"], special_tokens=[(first, bos)]
        )
    return tokenizer


def _sentencepiece(file: GGUF, vocabulary: dict[str, int], special: list[str], eos: Optional[int]) -> SubwordTokenizer:
    """SentencePiece's BPE: of all neighbours that together are a token, those with the highest score merge first."""
    package, scores = _package(), file.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(vocabulary) or not np.isfinite(scores).all():
        raise ValueError("tokenizer.ggml.scores has not one number for each token")
    known, kept = vocabulary.keys(), set(special)
    merges = [
        (token[:cut], token[cut:])
        for token in sorted(known - kept, key=lambda token: (-scores[vocabulary[token]], vocabulary[token]))
        for cut in range(1, min(len(token), LONGEST_PIECE))
        if token[:cut] in known and token[cut:] in known
    ]
    number_of_unknown = _token(file, "unknown") or 0
    unknown = next((token for token, number in vocabulary.items() if number == number_of_unknown), None)
    model = package.models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback="<0x00>" in known)
    inner = package.Tokenizer(model)
    prefix = file.metadata.get("tokenizer.ggml.add_space_prefix", True) is True
    spaces = [package.normalizers.Prepend(SPACE)] * prefix + [package.normalizers.Replace(" ", SPACE)]
    inner.normalizer = package.normalizers.Sequence(spaces)
    decoders = package.decoders
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)
    inner.add_special_tokens([package.AddedToken(name, special=True, normalized=False) for name in special])
    return SubwordTokenizer(inner, eos)
