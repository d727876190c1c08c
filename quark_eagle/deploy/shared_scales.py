"""Scales of which a fused module has one, and its parts several: what the engine makes of those that differ.

Sources, vLLM 0.19 to 0.32, below ``layers/quantization``: ``quark/schemes/quark_w8a8_fp8.py``,
`process_weights_after_loading`, and ``utils/w8a8_utils.py``, `requantize_with_max_scale`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.findings import Finding, Parameter, RuntimeModule, errors
from quark_eagle.deploy.values import values_of

SMALLEST, LARGEST = 2.0**-15, 65504.0 / 448
"""Of a per-tensor weight scale: FP16, through which vLLM takes the weight, cannot tell all FP8 numbers apart below, and
overflows above."""


def check_shared_scales(checkpoint: Checkpoint, modules: Sequence[RuntimeModule]) -> list[Finding]:
    """Findings about scales of one number each, of which a module takes one for all its parts."""
    found: list[Finding] = []
    for module in modules:
        for parameter in module.parameters:
            scales = _single_numbers(checkpoint, parameter)
            if parameter.name.endswith(".input_scale"):
                found += errors(module.name, _about_inputs(scales), "content")
            elif parameter.name.endswith(".weight_scale"):
                found += errors(module.name, _about_weights(scales), "content")
    return found


def _single_numbers(checkpoint: Checkpoint, parameter: Parameter) -> dict[str, float]:
    """Tensor → its number, of those that are one positive number; what is wrong with others is told elsewhere."""
    infos = [checkpoint.tensors[name] for name in parameter.sources if name is not None]
    read = {
        info.name: float(values_of(info, checkpoint.read_bytes(info)).float().reshape(()))
        for info in infos
        if info.shape in ((), (1,)) and info.dtype in ("F32", "BF16", "F16")
    }
    return {name: scale for name, scale in read.items() if 0 < scale < float("inf")}


def _about_inputs(scales: Mapping[str, float]) -> Iterator[str]:
    if len(set(scales.values())) > 1:
        largest = max(scales.values())
        yield (
            f"its parts run with one input, but have {_listed(scales)}. vLLM takes the largest, {largest:g}, for all "
            "of them. Calibrate them together."
        )


def _about_weights(scales: Mapping[str, float]) -> Iterator[str]:
    if len(set(scales.values())) > 1:
        yield (
            f"its parts run under one weight scale, but have {_listed(scales)}. vLLM puts them back into FP16 and "
            "quantizes them again to the largest as it loads: they are rounded twice, and what runs is not what is "
            "stored. Quantize them with one scale."
        )
    for name, scale in scales.items():
        if not SMALLEST <= scale <= LARGEST:
            yield (
                f"{name} is {scale:.3g}, outside of {SMALLEST:.3g} … {LARGEST:.4g}: vLLM takes the weight through FP16 "
                "as it loads, and runs other numbers than are stored. Take a scale per channel."
            )


def _listed(scales: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {scale:g}" for name, scale in scales.items())
