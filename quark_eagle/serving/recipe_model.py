"""ServedModel: what a recipe and a doctor have to know of a target or a draft, from its config and its files' sizes.

Nothing is loaded and nothing is fetched. A model that is not on the disk is known by its name alone, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quark_eagle.errors import CheckpointError

Family = Literal["kimi-k2", "minimax-m2", "generic"]

_INDEX_NAME = "model.safetensors.index.json"
_CACHE_ELEMENT_BYTES = 2  # a KV cache in bfloat16
# By model_type of the config that holds the language model, and by what ids are spelled with.
_FAMILIES: tuple[tuple[Family, tuple[str, ...], str], ...] = (
    ("kimi-k2", ("kimi_k2", "kimi_k25"), "kimi-k2"),
    ("minimax-m2", ("minimax_m2",), "minimax-m2"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A target or a draft; None where its directory would have to be there to know.

    Attributes:
        name: directory or Hugging Face id, as vLLM is given it.
        directory: where it lies.
        family: which recipe it takes.
        model_type: of the config that holds the language model (Kimi's is nested in ``text_config``).
        is_mla: whether its attention is latent (MLA), which has backends of its own.
        quantization: ``quark``, ``compressed-tensors``, …; None of a model in BF16.
        size_bytes: of its safetensors files.
        hidden_size: width of its hidden states.
        cache_bytes: of one token's keys and values in all layers, over all GPUs.
        max_positions: that it was made for.
    """

    name: str
    directory: Path | None = None
    family: Family = "generic"
    model_type: str | None = None
    is_mla: bool | None = None
    quantization: str | None = None
    size_bytes: int | None = None
    hidden_size: int | None = None
    cache_bytes: int | None = None
    max_positions: int | None = None

    @classmethod
    def of(cls, name: str, directory: Path | None) -> ServedModel:
        """The model in a directory; without one, what its name tells.

        Raises:
            CheckpointError: the directory's config.json is missing or cannot be read.
        """
        if directory is None:
            return cls(name=name, family=_family_of_name(name))
        config = _config(directory)
        text = _language_model(config)
        model_type = str(text.get("model_type", config.get("model_type", "")))
        return cls(
            name=name,
            directory=directory,
            family=_family_of_type(model_type, str(config.get("model_type", ""))),
            model_type=model_type or None,
            is_mla=text.get("kv_lora_rank") is not None,
            quantization=_quantization(config),
            size_bytes=_size_of(directory),
            hidden_size=text.get("hidden_size"),
            cache_bytes=_cache_bytes(text),
            max_positions=text.get("max_position_embeddings"),
        )

    @property
    def is_on_disk(self) -> bool:
        """Whether more than its name is known."""
        return self.directory is not None


def _config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}), but a model's config is needed. Check the directory."
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no JSON object, but a model's config is one. Check the directory.")
    return found


def _language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that describes the language model: nested in multimodal targets and in speculators' drafts."""
    for nested in ("text_config", "transformer_layer_config"):
        if isinstance(config.get(nested), Mapping):
            return dict(config[nested])
    return config


def _quantization(config: Mapping[str, Any]) -> str | None:
    for part in (config, _language_model(config)):
        found = part.get("quantization_config")
        if isinstance(found, Mapping):
            return str(found.get("quant_method", "unnamed"))
    return None


def _family_of_type(*model_types: str) -> Family:
    return next((family for family, types, _ in _FAMILIES if set(types) & set(model_types)), "generic")


def _family_of_name(name: str) -> Family:
    """From an id's spelling, the last resort where its config is not on the disk.

    >>> [_family_of_name(name) for name in ("amd/Kimi-K2.5-MXFP4", "MiniMaxAI/MiniMax-M2.5", "Qwen/Qwen3-8B")]
    ['kimi-k2', 'minimax-m2', 'generic']
    """
    return next((family for family, _, spelled in _FAMILIES if spelled in name.lower()), "generic")


def _size_of(directory: Path) -> int | None:
    """Of the safetensors files (through the links of a Hugging Face cache), else what the index promises."""
    files = [path.stat().st_size for path in directory.glob("*.safetensors") if path.exists()]
    if files:
        return sum(files)
    index = directory / _INDEX_NAME
    if not index.is_file():
        return None
    total = json.loads(index.read_text(encoding="utf-8")).get("metadata", {}).get("total_size")
    return int(total) if total else None


def _cache_bytes(text: Mapping[str, Any]) -> int | None:
    """Of one token. MLA keeps one compressed row a layer; others the keys and values of all KV heads."""
    layers = text.get("num_hidden_layers")
    if layers is None:
        return None
    if text.get("kv_lora_rank") is not None:
        width = text["kv_lora_rank"] + text.get("qk_rope_head_dim", 0)
        return int(layers * width * _CACHE_ELEMENT_BYTES)
    heads = text.get("num_attention_heads")
    if heads is None or text.get("hidden_size") is None:
        return None
    width = text.get("head_dim") or text["hidden_size"] // heads
    return int(2 * layers * (text.get("num_key_value_heads") or heads) * width * _CACHE_ELEMENT_BYTES)
