"""``quantization_config`` in the spelling of compressed-tensors, with our ignore list.

Every key is as compressed-tensors 0.17 writes it for the same scheme (``quantization/quant_scheme.py``: the presets
FP8_DYNAMIC and FP8; ``compressors/model_compressors/model_compressor.py``: `update_config`); a test has the library
quantize a module, and holds the two configs equal, the ignore list apart.

What vLLM 0.32 makes of it for a draft is in `quark_eagle.deploy.compressed_tensors_config`. Two readers want more in
the list than under Quark's config:

* ``targets: ["Linear"]`` means, to the library's own converters, every tensor called ``….weight`` whose module does not
  end in ``norm`` (``utils/match.py``, `match_quantizable_tensors`): the embedding, and the norms of the aux states,
  ``fc_norm.0``. So each of these is ignored by its name on disk.
* transformers matches names on disk, and with ``Linear`` the LM head, which `quark_eagle.quantize.exclude` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quark_eagle.quantize.exclude import module_of
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.scheme import Granularity

_FORMAT = "float-quantized"
_STRATEGIES: Mapping[Granularity, str] = {"per_tensor": "tensor", "per_channel": "channel", "per_token": "token"}
_OF_WEIGHTS, _OF_ACTIVATIONS = "memoryless_minmax", "static_minmax"  # observers, as the library's presets name them


def compressed_tensors_config(plan: QuantPlan, *, kv_cache: bool = False) -> dict[str, Any]:
    """The ``quantization_config`` of a plan.

    Args:
        plan: what is quantized how, and what is kept.
        kv_cache: whether scales of an FP8 KV cache are in the file.
    """
    scheme = plan.scheme
    group = {
        "targets": ["Linear"],
        "weights": _spec(scheme.weight, observer=_OF_WEIGHTS),
        "input_activations": _spec(scheme.activation, observer=_OF_ACTIVATIONS if scheme.needs_calibration else None),
        "output_activations": None,
        "format": _FORMAT,
    }
    return {
        "config_groups": {"group_0": group},
        "format": _FORMAT,
        "global_compression_ratio": None,
        "ignore": ignore_list(plan),
        "kv_cache_scheme": _spec("per_tensor", observer=_OF_ACTIVATIONS) if kv_cache else None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.17.0",
    }


def ignore_list(plan: QuantPlan) -> list[str]:
    """What is kept, in every spelling that a reader looks for, sorted."""
    taken_for_linear = {
        module for name in plan.kept if name.endswith(".weight") and not (module := module_of(name)).endswith("norm")
    }
    return sorted({*plan.exclude, *taken_for_linear})


def _spec(granularity: Granularity, *, observer: str | None) -> dict[str, Any]:
    """The library's QuantizationArgs of an FP8 tensor, dumped; what is scaled per token is scaled as it comes."""
    return {
        "num_bits": 8,
        "type": "float",
        "symmetric": True,
        "group_size": None,
        "strategy": _STRATEGIES[granularity],
        "block_structure": None,
        "dynamic": granularity == "per_token",
        "actorder": None,
        "scale_dtype": None,
        "zp_dtype": None,
        "observer": observer,
        "observer_kwargs": {},
    }
