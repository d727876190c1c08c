"""ActivationScales: what a calibration found, and the tensors that a static scheme writes of it."""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quark_eagle.checkpoint.family import DraftFamily
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.errors import QuantizationError, findings
from quark_eagle.quantize.exclude import module_of
from quark_eagle.quantize.plan import QuantPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationScales:
    """The scale of each quantized activation of a draft: a number of float32 that multiplies ``q`` on the way back.

    A scale is what the observer took for the largest magnitude, divided by 448.

    Attributes:
        inputs: of what enters a linear, by canonical module: ``layers.0.self_attn.q_proj``, or ``fc``.
        keys: of the keys in the draft's KV cache (after RoPE), by the draft's layer; empty if none are given.
        values: of its values, likewise.
        calibration: what they stand on, as JSON values: the hash of the calibration's document, the observer, and the
            hashes of the prompts that were seen; empty if nobody knows.
    """

    inputs: Mapping[str, float]
    keys: Mapping[int, float] = field(default_factory=dict)
    values: Mapping[int, float] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_the_cache(self) -> bool:
        """Whether there are scales for an FP8 KV cache."""
        return bool(self.keys or self.values)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, for ``quark_eagle.json``."""
        return {
            "inputs": dict(self.inputs),
            "keys": dict(self.keys),
            "values": dict(self.values),
            "calibration": dict(self.calibration),
        }


def scale_tensors(scales: ActivationScales | None, plan: QuantPlan, layout: Eagle3Layout) -> dict[str, float]:
    """Every scale of an activation by the name of its tensor on disk; empty for a scheme that needs none.

    An input's stands beside its weight as ``<module>.input_scale``; those of a KV cache are called as in the format
    (`quark_eagle.quantize.format`).

    Raises:
        QuantizationError: scales are needed and not there, or there and not needed, no positive numbers of float32, or
            not the same throughout a module that runs fused. All findings at once.
    """
    wanted = _inputs(plan, layout)
    if scales is None:
        if wanted:
            raise QuantizationError(
                f"scheme {plan.scheme.value}: writes the scale of every activation into the checkpoint, and none were "
                "given. Calibrate the draft first, or take ptpc_fp8, which needs no calibration."
            )
        return {}
    problems = [*_about_inputs(scales, wanted, plan, layout), *_about_cache(scales, layout)]
    if problems:
        raise QuantizationError(findings("activation scales", problems, "Calibrate this draft again."))
    named = {f"{disk}.input_scale": scales.inputs[module] for module, disk in wanted.items()}
    for part, found in (("k_proj", scales.keys), ("v_proj", scales.values)):
        for layer, scale in found.items():
            weight = layout.by_canonical[f"layers.{layer}.self_attn.{part}.weight"]
            named[plan.format.cache_scale_name(module_of(weight))] = scale
    return named


def scale_bytes(scale: float) -> bytes:
    """A scale as it lies in the file: float32, little endian."""
    return struct.pack("<f", scale)


def _inputs(plan: QuantPlan, layout: Eagle3Layout) -> dict[str, str]:
    """Canonical module → module on disk, of every weight whose input has a scale in the file."""
    if not plan.scheme.needs_calibration:
        return {}
    return {module_of(layout.slots[name].canonical): module_of(name) for name in plan.quantized}


def _about_inputs(
    scales: ActivationScales, wanted: Mapping[str, str], plan: QuantPlan, layout: Eagle3Layout
) -> list[str]:
    problems = [f"{module} has none." for module in wanted if module not in scales.inputs]
    spare = "is not quantized" if plan.scheme.needs_calibration else f"is scaled as it comes under {plan.scheme.value}"
    problems += [f"{module} has one, but {spare}." for module in scales.inputs if module not in wanted]
    problems += [problem for module, scale in scales.inputs.items() for problem in _about_number(module, scale)]
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for name in plan.quantized:
        slot = layout.slots[name]
        module = module_of(slot.canonical)
        if slot.fusion_group is not None and module in scales.inputs:
            groups[slot.fusion_group][module] = scales.inputs[module]
    for group, found in groups.items():
        if len(set(found.values())) > 1:
            each = ", ".join(f"{module.rpartition('.')[2]} {scale:g}" for module, scale in found.items())
            problems.append(f"{group} runs as one module with one input, but its parts have {each}.")
    return problems


def _about_cache(scales: ActivationScales, layout: Eagle3Layout) -> list[str]:
    if not scales.of_the_cache:
        return []
    if layout.family is DraftFamily.DEEPSEEK_MLA:
        return ["the KV cache of an MLA draft has some, but no vLLM has a parameter for them (MLAAttention)."]
    layers = range(layout.geometry.num_layers)
    problems = []
    for part, found in (("keys", scales.keys), ("values", scales.values)):
        problems += [f"the {part} of layer {layer} have none." for layer in layers if layer not in found]
        problems += [
            f"the {part} of layer {layer} have one, but there is no such layer."
            for layer in found
            if layer not in layers
        ]
        problems += [
            problem for layer, scale in found.items() for problem in _about_number(f"{part} of layer {layer}", scale)
        ]
    return problems


def _about_number(what: str, scale: float) -> list[str]:
    if math.isfinite(scale) and scale > 0 and _is_float32(scale):
        return []
    return [f"{what} has {scale!r}, but a scale is a finite positive number of float32."]


def _is_float32(scale: float) -> bool:
    """Whether it survives being written: neither overflows nor is rounded."""
    try:
        return bool(struct.unpack("<f", struct.pack("<f", scale))[0] == scale)
    except OverflowError:
        return False
