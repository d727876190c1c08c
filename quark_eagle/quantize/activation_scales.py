"""ActivationScales: what a calibration found, and what a static scheme writes into the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationScales:
    """The scale of each quantized activation of a draft: a number of float32 that multiplies ``q`` on the way back.

    A scale is what the observer took for the largest magnitude, divided by 448.

    Attributes:
        inputs: of what enters a linear, by canonical module: ``layers.0.self_attn.q_proj``, or ``fc``.
        keys: of the keys in the draft's KV cache (after RoPE), by the draft's layer; empty if none are given.
        values: of its values, likewise.
    """

    inputs: Mapping[str, float]
    keys: Mapping[int, float] = field(default_factory=dict)
    values: Mapping[int, float] = field(default_factory=dict)
