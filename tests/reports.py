"""Measurements that were never made: reports with the counts a test wants, and verdicts of every outcome on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from quark_eagle.documents.base import sha256_of_prompts
from quark_eagle.documents.counts import PromptAcceptance, PromptResult
from quark_eagle.documents.parity import Arm, ParityReport, Provenance, StepBytes
from quark_eagle.documents.served import (
    BlockCounts,
    FirstDifference,
    Losslessness,
    Pass,
    Served,
    ServedArm,
    ServedArmName,
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


def served_report(
    losses: Sequence[int] = (0,) * 80, *, drift: Sequence[int] = (0, 0, 0), **served: Any
) -> ParityReport:
    """A report of served blocks.

    Args:
        losses: rounds that the candidate needs more than the baseline, per prompt and block.
        drift: rounds that every answer of both arms needs more in each block.
        served: fields of `Served` that are not as in an undisturbed run.
    """
    made = report(losses)
    prompts = [
        prompt.model_copy(
            update={
                "num_proposals_compared": None,
                "num_proposals_shared": None,
                "baseline": _in_blocks(prompt.baseline, drift),
                "candidate": _in_blocks(prompt.candidate, drift),
            }
        )
        for prompt in made.prompts
    ]
    asked = len(prompts) + len({it.id for it in served.get("left_out", ())})
    as_asked = {"num_blocks": len(drift), "passes": passes({}, asked, len(drift))}
    provenance = {"measured_by": "vllm served", "engine": "vLLM 0.32.0", "trace": None, "trace_sha256": None}
    return ParityReport.model_validate(
        {
            **made.model_dump(),
            "provenance": made.provenance.model_copy(update=provenance).model_dump(),
            "summary": summarize(prompts, K).model_dump(),
            "served": _SERVED.model_copy(update={**as_asked, **served}).model_dump(),
            "prompts": [prompt.model_dump() for prompt in prompts],
        }
    )


def _in_blocks(counts: PromptAcceptance, drift: Sequence[int]) -> PromptAcceptance:
    """The same rounds in every block, but for its drift."""
    walks = [_acceptance(sum(counts.walk) + more).walk for more in drift]
    return PromptAcceptance(
        walk=[sum(column) for column in zip(*walks, strict=True)],
        every_start=None,
        walk_num_drafts=None,
        blocks=[BlockCounts(num_generated_tokens=NUM_GENERATED, walk=walk) for walk in walks],
    )


def passes(failed: Mapping[str, int], num_requests: int = 100, num_blocks: int = 3) -> list[Pass]:
    """The passes of both drafts in every block, and one of the target alone; of each arm's so many requests failed."""
    made: list[tuple[ServedArmName, int]] = [("none", 0)]
    made += [(arm, block) for block in range(num_blocks) for arm in ("baseline", "candidate")]
    return [
        Pass(
            arm=arm,
            block=block,
            seconds=1.0,
            num_requests=num_requests,
            num_retries=0,
            num_failed=failed.get(arm, 0),
            num_generated_tokens=0,
            counters=None,
        )
        for arm, block in made
    ]


def lossless(margin: float | None) -> Losslessness:
    """100 answers of the candidate, one of which the target did not give, and preferred another by so much."""
    first = FirstDifference(prompt="prompt-7", block=1, position=12, expected=5, found=6, margin=margin)
    return Losslessness(
        arm="candidate", num_compared=100, num_equal=99, num_ties=0, tie_margin=1.0, real=[first], ties=[]
    )


_SERVED = Served(
    layout="side by side",
    deterministic=False,
    num_blocks=3,
    concurrency=16,
    order=["none 0"],
    rendering_sha256=hashlib.sha256(b"").hexdigest(),
    arms=[
        ServedArm(
            arm="baseline",
            command=["vllm", "serve"],
            environment={},
            devices=[None],
            settings={},
            unknown=[],
            load_seconds=[1.0],
        )
    ],
    passes=[],
    left_out=[],
    lossless=[],
    noise=None,
    notes=["Losslessness was not checked."],
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
    "served": lambda: verdict_on(served_report(AT_PAR)),
    "served and worse": lambda: verdict_on(served_report(WORSE)),
    "serving noise": lambda: verdict_on(served_report(AT_PAR, drift=(-5, 0, 5))),
    "not lossless": lambda: verdict_on(served_report(AT_PAR, lossless=[lossless(2.0)])),
    "requests failed": lambda: verdict_on(served_report(AT_PAR[:100], passes=passes({"baseline": 2, "candidate": 2}))),
    "evidence": lambda: verdict_on(report(AT_PAR, split="selection")),
    "nothing evaluated": lambda: verdict_on(report(())),
    "not evaluated": lambda: not_evaluated(UNREADABLE, Rules()),
}
"""A verdict for every way of deciding."""

OUTCOMES: Mapping[str, Outcome] = {
    name: outcome
    for outcome, names in {
        "pass": ("pass", "pass with categories", "a draft against itself", "served"),
        "fail": ("fail", "collapse", "misread", "a category fails", "served and worse"),
        "inconclusive": ("inconclusive", "too few conversations", "a category is inconclusive", "first look"),
        "unusable": (
            *("dead baseline", "unexpected baseline", "evidence", "nothing evaluated", "not evaluated"),
            *("serving noise", "not lossless", "requests failed"),
        ),
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
    target={"name": "tiny-target", "config_sha256": "0" * 64},
    sampling={"temperature": 0.0},
    recorded_with={"engine": "tests"},
    seconds=1.0,
)
