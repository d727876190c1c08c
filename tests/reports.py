"""Measurements that were never made: reports with the counts a test wants, and verdicts of every outcome on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from quark_eagle.documents.base import sha256_of_prompts
from quark_eagle.documents.parity import (
    Arm,
    ParityReport,
    PromptAcceptance,
    PromptResult,
    Provenance,
    StepBytes,
)
from quark_eagle.documents.verdict import Outcome, Verdict
from quark_eagle.errors import QuarkEagleError
from quark_eagle.parity.gate import gate, not_evaluated
from quark_eagle.parity.summary import summarize
from quark_eagle.parity.verdict import Rules
from quark_eagle.worth import worth

K = 3
NUM_GENERATED = 101  # 100 tokens after the first


def report(
    losses: Sequence[int] = (0,) * 80,
    *,
    baseline_rounds: int = 50,
    categories: Sequence[str] = ("coding", "math"),
    split: str = "parity",
    name: str = "draft-fp8",
) -> ParityReport:
    """A report of one prompt for each loss.

    Args:
        losses: rounds that the candidate needs more than the baseline, per prompt.
        baseline_rounds: that the baseline needs, from 25 (τ = 4) to 100 (τ = 1).
        categories: taken in turns.
        split: of all prompts.
        name: of the candidate.
    """
    prompts = [
        PromptResult(
            id=f"prompt-{place}",
            sha256=_sha256(f"prompt-{place}"),
            category=categories[place % len(categories)],
            split=split,
            num_generated_tokens=NUM_GENERATED,
            num_proposals_compared=100,
            num_proposals_shared=90,
            baseline=_acceptance(baseline_rounds + place % 3),
            candidate=_acceptance(baseline_rounds + place % 3 + loss),
        )
        for place, loss in enumerate(losses)
    ]
    return ParityReport(
        schema_version=1,
        num_speculative_tokens=K,
        baseline=_arm("draft", "BF16", StepBytes(layers=20_000_000, head=5_000_000, embedding=1_000, first_step=0)),
        candidate=_arm(name, "F8_E4M3", StepBytes(layers=10_000_000, head=5_000_000, embedding=1_000, first_step=0)),
        provenance=_provenance_of(prompts),
        summary=summarize(prompts, K),
        prompts=prompts,
    )


# Varied, because no variance at all is a case of its own: these average to no loss, 10 % and about 1 %.
AT_PAR = tuple((-1, 0, 1, 0)[place % 4] for place in range(200))
WORSE = tuple((4, 6, 5, 7)[place % 4] for place in range(200))
UNCLEAR = tuple((-8, 8, 10, -8)[place % 4] for place in range(80))


def verdict_on(
    measured: ParityReport, parity: str = "parity.json", misread: Sequence[str] = (), **rules: Any
) -> Verdict:
    """The verdict on a report, by these rules; fewer resamples than usual, for speed."""
    made = Rules(**{"num_resamples": 999, **rules})
    gain = worth(measured, margin=made.margin)
    return gate(measured, made, parity=Path(parity), worth=gain, misread=misread, command_line=["gate"])


MATH_LOSES = tuple(6 if place % 2 else (-5, -7)[place // 2 % 2] for place in range(200))
MATH_IS_UNCLEAR = tuple((-9, 10, 9, -8)[place // 2 % 4] if place % 2 else 0 for place in range(80))
UNREADABLE = QuarkEagleError("parity.json: 2 problems.\n  - one | two\n  - 5% ::error::")

VERDICTS: Mapping[str, Callable[[], Verdict]] = {
    "pass": lambda: verdict_on(report(AT_PAR)),
    "pass with categories": lambda: verdict_on(report(AT_PAR), category_margin=0.03),
    "a draft against itself": lambda: verdict_on(report()),
    "fail": lambda: verdict_on(report(WORSE)),
    "collapse": lambda: verdict_on(report((45,) * 80, baseline_rounds=45)),
    "misread": lambda: verdict_on(report(AT_PAR), misread=["model.fc"]),
    "a category fails": lambda: verdict_on(report(MATH_LOSES), category_margin=0.05),
    "inconclusive": lambda: verdict_on(report(UNCLEAR)),
    "too few conversations": lambda: verdict_on(report(AT_PAR[:12])),
    "a category is inconclusive": lambda: verdict_on(report(MATH_IS_UNCLEAR), margin=0.05, category_margin=0.05),
    "first look": lambda: verdict_on(report(UNCLEAR), looks=2),
    "dead baseline": lambda: verdict_on(report((0,) * 80, baseline_rounds=96), category_margin=0.05),
    "unexpected baseline": lambda: verdict_on(report(AT_PAR), expected_baseline=3.0),
    "evidence": lambda: verdict_on(report(AT_PAR, split="selection")),
    "nothing evaluated": lambda: verdict_on(report(())),
    "not evaluated": lambda: not_evaluated(UNREADABLE, Rules()),
}
"""A verdict for every way of deciding."""

OUTCOMES: Mapping[str, Outcome] = {
    name: outcome
    for outcome, names in {
        "pass": ("pass", "pass with categories", "a draft against itself"),
        "fail": ("fail", "collapse", "misread", "a category fails"),
        "inconclusive": ("inconclusive", "too few conversations", "a category is inconclusive", "first look"),
        "unusable": ("dead baseline", "unexpected baseline", "evidence", "nothing evaluated", "not evaluated"),
    }.items()
    for name in names
}
"""What each of them must be: told here, not taken from the document."""


@cache
def verdict(name: str) -> Verdict:
    """One of `VERDICTS`, made once."""
    return VERDICTS[name]()


def _acceptance(rounds: int) -> PromptAcceptance:
    """The plainest histogram that emits 100 tokens in so many rounds."""
    emitted = NUM_GENERATED - 1
    short, walk = rounds, [0] * (K + 1)
    while short:
        accepted = min(K, emitted - short)  # the rest of the rounds emit a token each at least
        walk[accepted] += 1
        emitted -= accepted + 1
        short -= 1
    assert emitted == 0
    return PromptAcceptance(walk=walk, every_start=None, walk_num_drafts=None)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _arm(name: str, dtype: str, step_bytes: StepBytes) -> Arm:
    return Arm(
        name=name,
        weights_sha256=_sha256(name),
        config_sha256=_sha256(f"{name}'s config"),
        family="llama",
        weight_dtype=dtype,
        miscast=[],
        step_bytes=step_bytes,
    )


def _provenance_of(prompts: Sequence[PromptResult]) -> Provenance:
    """With the hash of these prompts, without which the report is refused."""
    digest = sha256_of_prompts((it.id, it.category, it.split, it.sha256) for it in prompts)
    return _PROVENANCE.model_copy(update={"prompts_sha256": digest})


_PROVENANCE = Provenance(
    created="2026-01-02T03:04:05+00:00",
    command_line=["quark-eagle", "parity"],
    versions={"quark_eagle": "0.1.0"},
    arch="x86_64",
    num_threads=1,
    engine="tests",
    dtype="bfloat16",
    walk_only=True,
    trace="trace",
    trace_sha256=_sha256("trace"),
    prompts_sha256=_sha256("prompts"),
    target={"name": "tiny-target"},
    sampling={"temperature": 0.0},
    recorded_with={"engine": "tests"},
    seconds=1.0,
)
