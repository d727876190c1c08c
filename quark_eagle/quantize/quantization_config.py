"""What is added to config.json: ``quantization_config`` in Quark's own spelling, with our exclude list.

The keys are those that Quark 0.13 writes itself (a test holds the two equal, the exclude list apart), because its
readers look for them: vLLM 0.32 fails without ``exclude``, ``layer_type_quant_config`` and ``export``, and wants
``export.kv_cache_group`` to be a list.

It stands at the top level of config.json in every format. vLLM reads it there before it looks at anything else
(transformers_utils/config.py), and for a speculators config, whose nested ``transformer_layer_config`` it takes out, it
puts the top-level one back on top.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from quark_eagle.quantize.compressed_tensors import compressed_tensors_config
from quark_eagle.quantize.format import Format
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.scheme import Granularity, Scheme
from quark_eagle.quantize.shared_scale import merge_groups

KEY = "quantization_config"

# What all tensors of a layer have in common (quark 0.13, QTensorConfig.to_dict).
_FP8_TENSOR: Mapping[str, Any] = {
    "dtype": "fp8_e4m3",
    "is_dynamic": False,
    "group_size": None,
    "block_size": None,
    "symmetric": True,
    "round_method": "half_even",
    "scale_type": "float",
    "zero_point_type": "int32",
    "scale_format": None,
    "scale_calculation_mode": None,
    "mx_element_dtype": None,
    "is_scale_quant": False,
    "enable_buffer_reuse": False,
    "max_input_numel": 4194304,
}
_PER_CHANNEL: Mapping[str, Any] = {
    **_FP8_TENSOR,
    "qscheme": "per_channel",
    "ch_axis": 0,
    "observer_cls": "PerChannelMinMaxObserver",
}
# ch_axis 1 of an activation [tokens, features] is how Quark says "one scale per token".
_PER_TOKEN: Mapping[str, Any] = {**_PER_CHANNEL, "ch_axis": 1, "is_dynamic": True}
_PER_TENSOR: Mapping[str, Any] = {
    **_FP8_TENSOR,
    "qscheme": "per_tensor",
    "ch_axis": None,
    "observer_cls": "PerTensorMinMaxObserver",
}
_CACHED: Mapping[str, Any] = {**_PER_TENSOR, "scale_type": None}  # as Quark's template leaves it
_SPECS: Mapping[Granularity, Mapping[str, Any]] = {
    "per_tensor": _PER_TENSOR,
    "per_channel": _PER_CHANNEL,
    "per_token": _PER_TOKEN,
}

KV_CACHE_GROUP = ("*k_proj", "*v_proj")
"""Quark's template for Llama; it quantizes a KV cache as the output of these."""


def quantization_config(
    scheme: Scheme,
    exclude: Sequence[str],
    *,
    weight_merge_groups: Sequence[Sequence[str]] = (),
    kv_cache: bool = False,
) -> dict[str, Any]:
    """The ``quantization_config`` of a scheme with an exclude list, as Quark 0.13 spells it.

    Args:
        scheme: of the quantized layers.
        exclude: what is kept, in every spelling.
        weight_merge_groups: modules whose weights were given one scale; none if each has its own.
        kv_cache: whether scales of an FP8 KV cache are in the file.
    """
    layer = {
        "input_tensors": dict(_SPECS[scheme.activation]),
        "output_tensors": None,
        "weight": dict(_SPECS[scheme.weight]),
        "bias": None,
        "target_device": None,
    }
    # vLLM takes `*v_proj` for its qkv_proj as well, and drops the output that it finds there for the cache's.
    cached = {name: {**layer, "output_tensors": _CACHED} for name in KV_CACHE_GROUP} if kv_cache else {}
    return copy.deepcopy(
        {
            "global_quant_config": layer,
            "exclude": list(exclude),
            "algo_config": None,
            "softmax_quant_spec": None,
            "quant_method": "quark",
            "layer_type_quant_config": {},
            "layer_quant_config": cached,
            "kv_cache_quant_config": cached,
            # True would be scales of a cache object, under names that vLLM does not know. These are of the linears.
            "kv_cache_post_rope": False,
            "quant_mode": "eager_mode",
            "version": "0.13",
            "export": {
                "kv_cache_group": list(cached),
                "min_kv_scale": 0.0,
                "pack_method": "reorder",
                "weight_format": "real_quantized",
                "weight_merge_groups": [list(group) for group in weight_merge_groups] or None,
            },
        }
    )


def quantized_config(config: Mapping[str, Any], plan: QuantPlan, *, kv_cache: bool = False) -> dict[str, Any]:
    """A draft's config.json with ``quantization_config`` added at its end; every other field as it was."""
    if plan.format is Format.COMPRESSED_TENSORS:
        return {**config, KEY: compressed_tensors_config(plan, kv_cache=kv_cache)}
    merged = merge_groups(plan) if plan.scheme.weight == "per_tensor" else ()
    return {
        **config,
        KEY: quantization_config(plan.scheme, plan.exclude, weight_merge_groups=merged, kv_cache=kv_cache),
    }
