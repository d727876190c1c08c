"""Static scales put into the exporter of these tests, so that a mistake can be put into each of them."""

from __future__ import annotations

from typing import Literal

from tests.deploy.export import INPUT, WEIGHT, Export

CACHE = {"dtype": "fp8_e4m3", "is_dynamic": False, "qscheme": "per_tensor"}


def make_static(export: Export, weight: Literal["per_tensor", "per_channel"] = "per_tensor") -> None:
    """Static inputs, and under ``per_tensor`` one scale for all that runs fused, as Quark's scheme fp8 has them."""
    import torch

    from quark_eagle.fp8 import Fp8Weight, quantize_per_tensor

    layer = export.quant["global_quant_config"]
    layer["input_tensors"] = INPUT | {"qscheme": "per_tensor", "is_dynamic": False, "ch_axis": None}
    names = [name.removesuffix("_scale") for name in export.tensors if name.endswith("weight_scale")]
    for name in names:
        export.tensors[f"{name.removesuffix('.weight')}.input_scale"] = torch.tensor(0.02)
    if weight == "per_tensor":
        layer["weight"] = WEIGHT | {"qscheme": "per_tensor", "ch_axis": None}
        originals = {
            name: Fp8Weight(q=export.tensors[name], scale=export.tensors[f"{name}_scale"]).dequantize()
            for name in names
        }
        amax = torch.stack([weight.abs().amax() for weight in originals.values()]).amax()
        for name, original in originals.items():
            made = quantize_per_tensor(original, amax)
            export.tensors[name], export.tensors[f"{name}_scale"] = made.q, made.scale.clone()


def scale_cache(export: Export) -> None:
    """Scales of an FP8 KV cache, declared as Quark declares them."""
    import torch

    config = export.quant["global_quant_config"] | {"output_tensors": CACHE}
    export.quant["layer_quant_config"] = {"*k_proj": config, "*v_proj": dict(config)}
    export.quant["export"]["kv_cache_group"] = ["*k_proj", "*v_proj"]
    for name in [name for name in export.tensors if name.endswith(("k_proj.weight", "v_proj.weight"))]:
        export.tensors[name.replace("_proj.weight", "_scale")] = torch.tensor(0.25)
