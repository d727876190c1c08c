"""Estimate: what a measurement will take, before it starts: the time from a probe, the rest from sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from quark_eagle.model.linear import KEEP_WIDENED_BYTES, cpu_multiplies_bf16
from quark_eagle.parity.measurement import WALK_GROUP_TOKENS, Measurement

PROBED_WALKS = 8  # prompts that the duration of a walk is estimated from
PROCESS_BYTES = 400 << 20  # Python with torch, and the blocks that products are made in


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a measurement will take.

    Attributes:
        seconds: of replay, about.
        trace_bytes: of the trace's files, read once.
        draft_bytes: of the drafts' files, read once to be hashed and once to be computed with.
        memory_bytes: of resident memory at its peak; files are mapped, so part of it can be dropped again.
    """

    seconds: float
    trace_bytes: int
    draft_bytes: int
    memory_bytes: int

    @classmethod
    def of(cls, measurement: Measurement) -> Estimate:
        """What replaying all prompts will take; replays a few of median length to learn the pace."""
        return cls(
            seconds=_seconds(measurement),
            trace_bytes=measurement.trace.size_bytes,
            draft_bytes=sum(side.checkpoint.size_bytes for side in measurement.sides),
            memory_bytes=PROCESS_BYTES + _weight_bytes(measurement) + _group_bytes(measurement),
        )


def _seconds(measurement: Measurement) -> float:
    """Of all prompts, from a few of median length.

    What is paid once (weights read and widened) is kept out of what is scaled. A group of walks pays for its rounds and
    for its prompts: two probes of different size tell the one from the other.
    """
    infos = measurement.trace.prompts
    total = sum(info.num_tokens for info in infos)
    by_length = sorted(range(len(infos)), key=lambda i: infos[i].num_tokens)
    middle = by_length[len(infos) // 2 :]
    once = _time(measurement, by_length[:1])
    if not measurement.settings.walk_only or len(middle) < PROBED_WALKS:
        share = sum(infos[i].num_tokens for i in middle[:1]) / max(1, total)
        return once + (_time(measurement, middle[:1]) / share if share else 0.0)
    few, many = middle[:2], middle[2:PROBED_WALKS]
    first, second = _time(measurement, few), _time(measurement, many)
    each = max(0.0, second - first) / (len(many) - len(few))
    rounds = max(0.0, first - len(few) * each)
    return once + rounds * -(-total // WALK_GROUP_TOKENS) + each * len(infos)


def _time(measurement: Measurement, places: Sequence[int]) -> float:
    """Seconds of replaying these prompts together."""
    started = time.perf_counter()
    measurement.replay_group([measurement.trace.prompt(i) for i in places])
    return time.perf_counter() - started


def _weight_bytes(measurement: Measurement) -> int:
    """Of all tensors, those that two drafts share once, and of the float32 copies that products keep of them."""
    drafts = measurement.drafts
    tensors = {id(tensor): tensor for draft in drafts for tensor in draft.weights.values()}
    held = sum(tensor.nbytes for tensor in tensors.values())
    if cpu_multiplies_bf16() or measurement.settings.activations == torch.float32:
        return held
    multiplied = [draft.weights[f"{module}.weight"] for draft in drafts for module in draft.linears]
    weights = {id(weight): weight for weight in multiplied}
    widened = (4 * weight.numel() for weight in weights.values() if weight.dtype != torch.float32)
    return held + sum(size for size in widened if size <= KEEP_WIDENED_BYTES)


def _group_bytes(measurement: Measurement) -> int:
    """Of the states of prompts replayed together, as the trace holds them and as one draft at a time needs them."""
    lengths = [info.num_tokens for info in measurement.trace.prompts]
    tokens = max([0, *lengths])
    if measurement.settings.walk_only:
        tokens = max(tokens, min(WALK_GROUP_TOKENS, sum(lengths)))
    geometry, states = measurement.sides[0].layout.geometry, measurement.trace.states
    needed = 2 * geometry.hidden_size + geometry.cache_width
    return tokens * (states.width * (4 if states.dtype == "float32" else 2) + needed * 2)
