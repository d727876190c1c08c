"""Summary: every number that is printed or gated, from the prompts' histograms and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from quark_eagle.documents.counts import PromptAcceptance, PromptResult
from quark_eagle.documents.parity import Pair, Population, Rates, Summary, TauPoint
from quark_eagle.parity.acceptance import AcceptanceHistogram

ArmName = Literal["baseline", "candidate"]
Counting = Literal["walk", "every_start"]


def histogram(
    prompts: Sequence[PromptResult], arm: ArmName, counting: Counting, num_speculative_tokens: int
) -> AcceptanceHistogram | None:
    """Counts [P, k + 1] of one arm; None where it was not counted that way."""
    rows = [getattr(_of(prompt, arm), counting) for prompt in prompts]
    if any(row is None for row in rows):
        return None
    return AcceptanceHistogram.of(np.array(rows, dtype=np.int64).reshape(len(rows), num_speculative_tokens + 1))


def rates(counts: AcceptanceHistogram) -> Rates:
    """A histogram's totals and rates as they stand in documents."""
    return Rates(
        num_drafts=counts.num_drafts,
        num_draft_tokens=counts.num_draft_tokens,
        num_accepted_tokens=counts.num_accepted_tokens,
        acceptance_histogram=counts.acceptance_histogram,
        mean_acceptance_length=counts.mean_acceptance_length,
        draft_acceptance_rate=counts.draft_acceptance_rate,
        marginal_acceptance=counts.marginal_acceptance,
        conditional_acceptance=counts.conditional_acceptance,
    )


def summarize(prompts: Sequence[PromptResult], num_speculative_tokens: int) -> Summary:
    """The summary of a measurement; categories in alphabetical order, none left out."""
    categories = sorted({prompt.category for prompt in prompts})
    return Summary(
        overall=_population(prompts, num_speculative_tokens),
        categories={
            name: _population([prompt for prompt in prompts if prompt.category == name], num_speculative_tokens)
            for name in categories
        },
        tau_curve=_tau_curve(prompts),
        num_proposals_compared=_total([prompt.num_proposals_compared for prompt in prompts]),
        num_proposals_shared=_total([prompt.num_proposals_shared for prompt in prompts]),
    )


def _population(prompts: Sequence[PromptResult], k: int) -> Population:
    walk = _pair(prompts, "walk", k)
    assert walk is not None  # the walk is always counted
    return Population(num_prompts=len(prompts), walk=walk, every_start=_pair(prompts, "every_start", k))


def _pair(prompts: Sequence[PromptResult], counting: Counting, k: int) -> Pair | None:
    baseline, candidate = (histogram(prompts, arm, counting, k) for arm in ("baseline", "candidate"))
    if baseline is None or candidate is None:
        return None
    return Pair(baseline=rates(baseline), candidate=rates(candidate))


def _tau_curve(prompts: Sequence[PromptResult]) -> list[TauPoint] | None:
    """τ at k = 1, 2, …: on one path accepted + rounds = T - 1, so rounds alone tell it."""
    baseline = [row for prompt in prompts if (row := prompt.baseline.walk_num_drafts) is not None]
    candidate = [row for prompt in prompts if (row := prompt.candidate.walk_num_drafts) is not None]
    emitted = sum(max(0, prompt.num_generated_tokens - 1) for prompt in prompts)
    if not prompts or len(baseline) < len(prompts) or len(candidate) < len(prompts):
        return None
    totals = [
        (sum(before), sum(after))
        for before, after in zip(zip(*baseline, strict=True), zip(*candidate, strict=True), strict=True)
    ]
    return [
        TauPoint(
            num_speculative_tokens=k,
            baseline_num_drafts=before,
            candidate_num_drafts=after,
            baseline_num_accepted_tokens=emitted - before,
            candidate_num_accepted_tokens=emitted - after,
            baseline_mean_acceptance_length=emitted / before if before else None,
            candidate_mean_acceptance_length=emitted / after if after else None,
        )
        for k, (before, after) in enumerate(totals, start=1)
    ]


def _total(counts: Sequence[int | None]) -> int | None:
    """Their sum; None where one of them is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _of(prompt: PromptResult, arm: ArmName) -> PromptAcceptance:
    return prompt.baseline if arm == "baseline" else prompt.candidate
