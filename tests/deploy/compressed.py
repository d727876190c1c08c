"""The exporter of `tests.deploy.export` in the spelling of compressed-tensors, as llm-compressor saves FP8_DYNAMIC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.deploy.export import GOOD_EXCLUDE, Export

NAIVE_IGNORE = ["fc", "lm_head"]
GOOD_IGNORE = GOOD_EXCLUDE
WEIGHTS = {
    "num_bits": 8,
    "type": "float",
    "symmetric": True,
    "group_size": None,
    "strategy": "channel",
    "block_structure": None,
    "dynamic": False,
    "actorder": None,
    "observer": "minmax",
    "observer_kwargs": {},
}
INPUTS = WEIGHTS | {"strategy": "token", "dynamic": True, "observer": None}
KV_CACHE = WEIGHTS | {"strategy": "tensor"}


def group(
    weights: Any = None, inputs: Any = INPUTS, targets: Sequence[str] = ("Linear",), **more: Any
) -> dict[str, Any]:
    """One of ``config_groups``."""
    return {
        "targets": list(targets),
        "weights": WEIGHTS if weights is None else weights,
        "input_activations": inputs,
        "output_activations": None,
        **more,
    }


def compressed_config(ignore: Sequence[str] = GOOD_IGNORE, **changes: Any) -> dict[str, Any]:
    """A ``quantization_config``; ``changes`` are keys of it."""
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group()},
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
    } | changes


def compressed(export: Export) -> None:
    """The same draft with the other format's scales and config."""
    export.config["quantization_config"] = compressed_config()
    for name in scales(export):
        export.tensors[name] = export.tensors[name][:, None]


def also(change: Callable[[Export], None]) -> Callable[[Export], None]:
    """A change of what was exported in this format."""

    def both(export: Export) -> None:
        compressed(export)
        change(export)

    return both


def scales(export: Export) -> list[str]:
    """Names of all scales of weights."""
    return [name for name in export.tensors if name.endswith("weight_scale")]


def per_tensor(export: Export) -> None:
    """Static per-tensor scales, the library's preset FP8."""
    import torch

    export.quant["config_groups"] = {
        "group_0": group(WEIGHTS | {"strategy": "tensor"}, INPUTS | {"strategy": "tensor", "dynamic": False})
    }
    for name in scales(export):
        export.tensors[name] = torch.tensor([0.01])
    static_inputs(export)


def channel_static(export: Export) -> None:
    """Per-channel weights beside static per-tensor activations."""
    export.quant["config_groups"] = {"group_0": group(inputs=INPUTS | {"strategy": "tensor", "dynamic": False})}
    static_inputs(export)


def fc_too(export: Export) -> None:
    """``fc`` in FP8, and nothing ignored."""
    export.quantize("fc.weight")
    export.tensors["fc.weight_scale"] = export.tensors["fc.weight_scale"][:, None]
    del export.quant["ignore"]


def head_too(export: Export) -> None:
    """The LM head in FP8, by a target that means it."""
    export.quantize("lm_head.weight")
    export.tensors["lm_head.weight_scale"] = export.tensors["lm_head.weight_scale"][:, None]
    export.quant["config_groups"]["group_0"]["targets"] += ["re:.*lm_head"]
    export.quant["ignore"] = ["model.fc"]


def static_inputs(export: Export) -> None:
    """A scale of every quantized module's input."""
    import torch

    for name in scales(export):
        export.tensors[name.replace("weight_scale", "input_scale")] = torch.tensor([0.02])


def kv_cache(export: Export) -> None:
    """Scales of an FP8 KV cache, as llm-compressor names them."""
    import torch

    export.quant["kv_cache_scheme"] = KV_CACHE
    attention = export.find("o_proj.weight").removesuffix(".o_proj.weight")
    for part in "kv":
        export.tensors[f"{attention}.{part}_scale"] = torch.tensor([0.03])
