"""DraftFamily and Convention: which attention a draft has, and how its tensors are named.

Both are told by tensors and config, never by a path. The tensors say what the draft *is*; the config says
what an engine will build for it, and the two must agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any


class DraftFamily(Enum):
    """What the decoder layer of the draft is made of."""

    LLAMA = "llama"
    QWEN3 = "qwen3"
    """Llama's layer with an RMSNorm on every query and key head."""
    DEEPSEEK_MLA = "deepseek_mla"
    """Multi-head latent attention: keys and values pass through a low-rank bottleneck."""


class Convention(Enum):
    """How the tensors of the first decoder layer are called on disk."""

    MIDLAYER = "midlayer"
    LAYERS = "layers"
    MODEL_LAYERS = "model_layers"
    SPECULATORS = "speculators"
    """The names of LAYERS, with the layer's config nested in ``transformer_layer_config``."""


# Who asks for which family: the Eagle3 rows of vLLM 0.32's registry (model_executor/models/registry.py),
# SGLang's name, ModelOpt's for several layers (export/unified_export_megatron.py), and the plain names of drafts
# published before there were others; vLLM puts "Eagle3" before those (transformers_utils/configs/eagle.py).
ARCHITECTURES: Mapping[str, DraftFamily] = MappingProxyType(
    {
        "LlamaForCausalLMEagle3": DraftFamily.LLAMA,
        "Eagle3LlamaForCausalLM": DraftFamily.LLAMA,
        "LlamaForCausalLM": DraftFamily.LLAMA,
        "LlamaForCausalLMEagle3Deep": DraftFamily.LLAMA,
        "Eagle3MiniMaxM2ForCausalLM": DraftFamily.LLAMA,
        "Eagle3Qwen2_5vlForCausalLM": DraftFamily.LLAMA,
        "Eagle3Qwen3vlForCausalLM": DraftFamily.LLAMA,
        "PEagleDraftModel": DraftFamily.LLAMA,
        "PeagleLlamaForCausalLM": DraftFamily.LLAMA,
        "Eagle3Qwen3ForCausalLM": DraftFamily.QWEN3,
        "PeagleQwen3ForCausalLM": DraftFamily.QWEN3,
        "Qwen3ForCausalLM": DraftFamily.QWEN3,
        "Eagle3DeepseekV2ForCausalLM": DraftFamily.DEEPSEEK_MLA,
        "Eagle3DeepseekV3ForCausalLM": DraftFamily.DEEPSEEK_MLA,
        "DeepseekV2ForCausalLM": DraftFamily.DEEPSEEK_MLA,
        "DeepseekV3ForCausalLM": DraftFamily.DEEPSEEK_MLA,
    }
)

_FIRST_LAYER: Mapping[Convention, str] = MappingProxyType(
    {Convention.MIDLAYER: "midlayer.", Convention.LAYERS: "layers.0.", Convention.MODEL_LAYERS: "model.layers.0."}
)

# speculators' drafts go by speculators_model_type and the nested model_type instead
# (vLLM 0.32, transformers_utils/configs/speculators/algos.py).
SPECULATORS_TYPES = ("eagle3", "peagle")
SPECULATORS_MODEL_TYPES: Mapping[str, DraftFamily] = MappingProxyType(
    {"llama": DraftFamily.LLAMA, "qwen3": DraftFamily.QWEN3}
)


def family_of_tensors(names: Iterable[str]) -> DraftFamily:
    """The family that the tensors' names show."""
    modules = {name.rsplit(".", 2)[-2] for name in names if name.count(".") >= 2}
    if modules & {"kv_a_proj_with_mqa", "kv_b_proj"}:
        return DraftFamily.DEEPSEEK_MLA
    return DraftFamily.QWEN3 if modules & {"q_norm", "k_norm"} else DraftFamily.LLAMA


def convention_of(names: Iterable[str], config: Mapping[str, Any]) -> Convention | None:
    """The convention of a checkpoint, told by its first decoder layer; None if it has no decoder layer."""
    names = tuple(names)
    for convention, prefix in _FIRST_LAYER.items():
        if any(name.startswith(prefix) for name in names):
            return Convention.SPECULATORS if is_speculators(config) else convention
    return None


def is_speculators(config: Mapping[str, Any]) -> bool:
    """Whether config.json is written the way the speculators library does."""
    return "speculators_model_type" in config or "transformer_layer_config" in config


def canonical_name(name: str) -> str:
    """A tensor's name with the convention taken off: ``layers.0.…``, ``fc.weight``, ``embed_tokens.weight``.

    >>> canonical_name("midlayer.self_attn.q_proj.weight"), canonical_name("model.embed_tokens.weight")
    ('layers.0.self_attn.q_proj.weight', 'embed_tokens.weight')
    """
    name = name.removeprefix("model.")
    return "layers.0." + name.removeprefix("midlayer.") if name.startswith("midlayer.") else name


def disk_name(canonical: str, convention: Convention) -> str:
    """What a canonical name is called on disk: `canonical_name` the other way round."""
    if canonical.startswith("layers.0."):
        return _FIRST_LAYER.get(convention, "layers.0.") + canonical.removeprefix("layers.0.")
    is_prefixed = convention is Convention.MODEL_LAYERS and not canonical.startswith(("lm_head.", "d2t", "t2d"))
    return f"model.{canonical}" if is_prefixed else canonical
