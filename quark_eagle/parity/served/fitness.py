"""Fitness: whether a served measurement may be judged at all, from its document alone.

Four things make it unusable, whatever its interval says: requests that failed, since what is left is a choice of
prompts; failures in one arm alone, since then the choice depends on the draft; text that is not the target's own, since
then the engine accepted what it should not; and serving that differs from itself by more than the margin.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from quark_eagle.documents.served import Losslessness, Noise, Served, ServedArmName

MAX_FAILED_SHARE = 0.01
ARM_NAMES: dict[ServedArmName, str] = {
    "none": "the target alone",
    "baseline": "the BF16 draft",
    "candidate": "the candidate",
}


def unfit(
    served: Served, noise: Noise | None, margin: float
) -> tuple[Literal["evidence", "serving noise"], str] | None:
    """Why a served measurement may not be judged, with the rule that says so; None if it may."""
    problems = [*_failures(served), *(_not_lossless(found) for found in served.lossless if found.real)]
    if problems:
        return "evidence", " ".join(problems)
    if noise is not None and (noise.low < -margin or noise.high > margin):
        return "serving noise", (
            f"Serving differs from itself by {noise.low:+.2%} … {noise.high:+.2%} between two arms of the same draft "
            f"({noise.confidence:.0%}, {noise.num_blocks} blocks), which is more than the margin of {margin:.2%}: no "
            "change of that size could be told from it. Serve more blocks or more prompts, with --deterministic, or "
            "state a wider margin."
        )
    return None


def _failures(served: Served) -> list[str]:
    """What is against judging by requests that brought no answer."""
    failed, sent = Counter[str](), Counter[str]()
    for it in served.passes:
        failed[it.arm] += it.num_failed
        sent[it.arm] += it.num_requests
    told = [
        f"{failed[arm]} of {sent[arm]} requests to {ARM_NAMES[arm]}" for arm in ARM_NAMES if failed[arm] and sent[arm]
    ]
    if any(failed[arm] > MAX_FAILED_SHARE * sent[arm] for arm in sent):
        return [
            f"{', '.join(told)} brought no answer that could be counted, more than {MAX_FAILED_SHARE:.0%}: what is "
            "left is a choice of prompts. The report lists them (served.left_out); mend the server and measure again."
        ]
    if bool(failed["baseline"]) != bool(failed["candidate"]):
        return [
            f"{', '.join(told)} brought no answer that could be counted, and none to the other draft: which prompts "
            "are left depends on the draft. The report lists them (served.left_out); measure again."
        ]
    return []


def _not_lossless(found: Losslessness) -> str:
    first = found.real[0]
    margin = "by an unknown margin" if first.margin is None else f"by {first.margin:.3f}"
    return (
        f"The engine is not lossless: {len(found.real)} of {found.num_compared} answers with {ARM_NAMES[found.arm]} "
        f"are not the target's own, and not for a tie. First: prompt {first.prompt}, position {first.position}, token "
        f"{first.found} for {first.expected}, which the target preferred {margin}. Accepted tokens that the target "
        "would not have chosen count for no draft. Look for a fault of the engine, of its build or of its settings."
    )
