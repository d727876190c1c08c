"""A target of the right geometry and nothing else: as many layers, as wide a state, and weights that vLLM makes up.

What a draft becomes depends on its target's number of layers (which is part of the names that ``quantization_config``
is asked with), on the width of its states and on its vocabulary. A target of a terabyte tells no more about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quark_eagle.errors import VerificationError

_LAYERS = 8
_AFTER_THE_LAST_AUX_LAYER = 3
_HEAD = 64  # the CPU attention kernel has no 16
_MLA = {"q_lora_rank": None, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32}


def stand_in(draft: Mapping[str, Any], target: Mapping[str, Any] | None, dtype: str) -> dict[str, Any]:
    """The config.json of a stand-in.

    Args:
        draft: its config.json; its attention is the target's, as a KV cache must hold both.
        target: the real target's, perhaps nested as a multimodal one's is; None invents one that fits the draft.
        dtype: of the target.

    Raises:
        VerificationError: neither config says how wide a state is, or how large the vocabulary.
    """
    layer = draft.get("transformer_layer_config", draft)
    text = _text_config(target) if target is not None else _fitting(draft, layer)
    missing = [key for key in ("hidden_size", "num_hidden_layers", "vocab_size") if not isinstance(text.get(key), int)]
    if missing:
        whose = "the target's" if target is not None else "the draft's"
        raise VerificationError(
            f"config.json: {whose} has no {', '.join(missing)}, but a target of its geometry was to be made up."
        )
    is_mla = layer.get("kv_lora_rank") is not None
    return {
        "architectures": ["DeepseekV2ForCausalLM" if is_mla else "LlamaForCausalLM"],
        "model_type": "deepseek_v2" if is_mla else "llama",
        "hidden_size": text["hidden_size"],
        "num_hidden_layers": text["num_hidden_layers"],
        "vocab_size": text["vocab_size"],
        "intermediate_size": _HEAD,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        **(_mla(layer, text["num_hidden_layers"]) if is_mla else {"head_dim": _HEAD}),
    }


def _mla(layer: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    """Latent attention of the draft's own sizes, and no expert anywhere."""
    sizes = {key: layer.get(key, default) for key, default in _MLA.items()}
    return sizes | {"q_lora_rank": None, "first_k_dense_replace": num_layers}


def _text_config(target: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the language model's sizes are: Kimi-K2.5 and other multimodal targets nest them."""
    nested = target.get("text_config")
    return nested if isinstance(nested, Mapping) else target


def _fitting(draft: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    eagle = draft.get("eagle_config")
    places = (draft, eagle if isinstance(eagle, Mapping) else {})
    ids = next((found for place in places if (found := place.get("eagle_aux_hidden_state_layer_ids"))), None)
    highest = max((each for each in ids if isinstance(each, int)), default=0) if isinstance(ids, list) else 0
    return {
        "hidden_size": draft.get("target_hidden_size") or layer.get("hidden_size"),
        "num_hidden_layers": max(_LAYERS, highest + _AFTER_THE_LAST_AUX_LAYER),
        "vocab_size": layer.get("vocab_size"),
    }
