"""Fitness: whether a served measurement may be judged at all, from its document alone.

Four things make it unusable, whatever its interval says: requests that failed, since what is left is a choice of
prompts; failures in one arm alone, since then the choice depends on the draft; text that is not the target's own, since
then the engine accepted what it should not; and serving that differs from itself by more than the margin.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from quark_eagle.documents.served import Losslessness, Noise, Served, ServedArmName
from quark_eagle.parity.served.schedule import MIN_BLOCKS

MAX_FAILED_SHARE = 0.01
NOT_CHECKED = "Losslessness was not checked"  # how a note begins that says why
ARM_NAMES: dict[ServedArmName, str] = {
    "none": "the target alone",
    "baseline": "the BF16 draft",
    "candidate": "the candidate",
}


def unfit(
    served: Served, noise: Noise | None, margin: float, num_prompts: int
) -> tuple[Literal["evidence", "serving noise"], str] | None:
    """Why a served measurement of so many prompts may not be judged, with the rule that says so; None if it may."""
    problems = [
        *_contradictions(served, num_prompts),
        *_failures(served),
        *(_not_lossless(found) for found in served.lossless if found.real),
    ]
    if problems:
        return "evidence", " ".join(problems)
    if noise is None:
        return "evidence", (
            f"{served.num_blocks} blocks do not tell how much serving differs from itself, and at least {MIN_BLOCKS} "
            "were needed. Serve more blocks (--blocks)."
        )
    if noise.low < -margin or noise.high > margin:
        return "serving noise", (
            f"Serving differs from itself by {noise.low:+.2%} … {noise.high:+.2%} between two arms of the same draft "
            f"({noise.confidence:.0%}, {noise.num_blocks} blocks), which is more than the margin of {margin:.2%}: no "
            "change of that size could be told from it. Serve more blocks or more prompts, with --deterministic, or "
            "state a wider margin."
        )
    return None


def _contradictions(served: Served, num_prompts: int) -> list[str]:
    """Where the passes are not those of the prompts that are counted: some are missing, or were cut out."""
    made = Counter((it.arm, it.block) for it in served.passes if it.arm != "none")
    wanted = Counter((arm, block) for arm in ("baseline", "candidate") for block in range(served.num_blocks))
    if made != wanted:
        return [f"The report is not whole: one pass of each draft in each of {served.num_blocks} blocks was wanted."]
    asked = num_prompts + len({it.id for it in served.left_out})
    if any(it.num_requests != asked for it in served.passes):
        return [
            f"The report is not whole: {num_prompts} prompts are counted and {asked - num_prompts} left out, but other "
            "numbers were asked. Prompts that are in neither list make the counts those of a choice."
        ]
    is_checked = {it.arm for it in served.lossless} >= {"baseline", "candidate"}
    is_said = any(note.startswith(NOT_CHECKED) for note in served.notes)
    if any(it.arm == "none" for it in served.passes) and not is_checked and not is_said:
        return ["The report is not whole: the target was asked alone, but no answer is held against its own."]
    return []


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
