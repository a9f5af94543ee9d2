"""GPT-2 checkpoints in the form of Hugging Face's transformers: config.json beside model.safetensors.

Reading gives the options of a GPTConfig and arrays under GPT's own names; writing does the reverse.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from ..engine.tensor import Tensor
from ..nn.state import atomic_write, read, safe_save

if TYPE_CHECKING:
    from .gpt import GPTConfig

PathLike = Union[str, os.PathLike]

# GPTConfig's field -> config.json's key, and the value that GPT-2 has where the key is left out
FIELDS: dict[str, tuple[str, Any]] = {
    "n_layer": ("n_layer", 12),
    "n_head": ("n_head", 12),
    "n_embd": ("n_embd", 768),
    "block_size": ("n_positions", 1024),
    "vocab_size": ("vocab_size", 50257),
    "dropout": ("resid_pdrop", 0.1),
    "activation_function": ("activation_function", "gelu_new"),
    "layer_norm_epsilon": ("layer_norm_epsilon", 1e-5),
}

# Options of config.json that change what is computed, with the only value that GPT computes
FIXED: dict[str, Any] = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
# Causal masks that old checkpoints hold beside their weights
MASKS = re.compile(r"\.attn\.(bias|masked_bias)$")


def read_pretrained(path: PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(options of GPTConfig, arrays by GPT's names) of a folder, or of a .safetensors file beside its config.json.

    Raises FileNotFoundError and ImportError, and ValueError for a damaged file or a model that is no plain GPT-2.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    options = _options(folder / "config.json")
    state = {}
    for file in [path] if path.is_file() and path.suffix == ".safetensors" else _weight_files(folder):
        state.update(read(file)[0])
    if not any(name.startswith("transformer.") for name in state):  # a bare GPT2Model
        state = {name if name == "lm_head.weight" else f"transformer.{name}": array for name, array in state.items()}
    return options, {name: array for name, array in state.items() if not MASKS.search(name)}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one JSON object")
    return content


def _options(path: Path) -> dict[str, Any]:
    config = _read_json(path)
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{path}: {key} is {config[key]!r}, and GPT computes only {value!r}")
    options = {field: config.get(key, default) for field, (key, default) in FIELDS.items()}
    if config.get("n_inner") not in (None, 4 * options["n_embd"]):
        raise ValueError(f"{path}: n_inner is {config['n_inner']}, and GPT's MLP is always 4 n_embd wide")
    return options


def _weight_files(folder: Path) -> list[Path]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        hint = ""
        if list(folder.glob("*.bin")):
            hint = "; it has pickled .bin weights: save them again with transformers' save_pretrained, as safetensors"
        raise FileNotFoundError(f"no model.safetensors in {folder}{hint}")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{index} has no weight_map of names to files")
    return [folder / os.path.basename(name) for name in sorted(set(weight_map.values()))]


def write_pretrained(folder: PathLike, config: GPTConfig, state: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors, each atomically, making the folder if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {key: getattr(config, field) for field, (key, _) in FIELDS.items()}
    content |= FIXED | {
        "architectures": ["GPT2LMHeadModel"],
        "n_inner": None,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        # GPT-2's own are tokens of its vocabulary of 50257, which another vocabulary does not have
        "bos_token_id": None,
        "eos_token_id": None,
    }
    arrays = {name: tensor.numpy() for name, tensor in state.items() if name != "lm_head.weight"}
    if not config.bias:  # GPT-2 always has them
        arrays |= {
            name.removesuffix("weight") + "bias": np.zeros(array.shape[-1], array.dtype)
            for name, array in arrays.items()
            if not name.endswith(("wte.weight", "wpe.weight"))
        }
    safe_save(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    atomic_write(folder / "config.json", (json.dumps(content, indent=2) + "\n").encode())
