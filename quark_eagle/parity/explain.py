"""Explanation: where acceptance was lost, from a report's counts alone.

Four cuts of the same loss: by position in the draft, by category, by conversation, and by how often the two drafts
proposed the same token at all. On one path a loss of τ is rounds made in excess (τ = emitted / rounds), so categories
and conversations are charged in rounds: those that lost and those that gained apart, since their sum hides both. Drafts
that were served may have answered at different lengths; the candidate is then charged with the rounds that it would
have made for as many tokens as the baseline. Nothing here decides; `gate` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.parity import ParityReport
from quark_eagle.parity.delta import Bounds, IntArray
from quark_eagle.parity.paired import (
    Conversations,
    by_conversation,
    change,
    delta_interval,
    four_counts,
    strata_of,
)
from quark_eagle.parity.positions import METHOD, Position, positions

EXPLANATION_SCHEMA_VERSION = 1
CONFIDENCE = 0.90  # two-sided: its ends are one-sided 95 % bounds, as in a verdict
WORST_SHARE = 0.10

Key = tuple[str, str]  # category and hash: what makes a conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What both drafts did over some conversations; τ is null where a draft made no round.

    Attributes:
        num_emitted_tokens: by the baseline; on one path by the candidate too.
    """

    num_prompts: int
    num_conversations: int
    num_emitted_tokens: int
    baseline_num_drafts: int
    candidate_num_drafts: int
    baseline_mean_acceptance_length: float | None
    candidate_mean_acceptance_length: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A category, or everything, and its part in the loss.

    Attributes:
        change: of τ, relative: candidate / baseline - 1; null where a draft made no round.
        interval: of the change; null below two conversations.
        num_drafts_lost: rounds in excess, over the conversations in which the candidate needs more.
        num_drafts_gained: rounds saved, over those in which it needs fewer.
        share_of_loss: of the rounds lost everywhere; null where none was lost.
    """

    name: str
    rounds: Rounds
    change: float | None
    interval: Bounds | None
    num_drafts_lost: int
    num_drafts_gained: int
    share_of_loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationLoss:
    """One conversation in which the candidate needs more rounds."""

    id: str
    category: str
    rounds: Rounds
    extra_num_drafts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Concentration:
    """Whether a few conversations hold the loss.

    Attributes:
        num_worst: conversations in the worst tenth, at least one.
        num_drafts_lost_there: by those.
        share_of_loss: that they hold; null where nothing was lost. A tenth, if all had lost alike.
    """

    num_losing: int
    num_gaining: int
    num_unchanged: int
    num_worst: int
    num_drafts_lost_there: int
    share_of_loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often both drafts proposed the same token where both proposed one; null where it was not recorded."""

    num_shared: int | None
    num_compared: int | None
    rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where acceptance was lost.

    Attributes:
        walk: by position, over the rounds that a server makes.
        every_start: the same with each position of the text once, so that both drafts start in the same places; null
            after a walk-only measurement.
        worst: conversations that lose most, in rounds, the worst first.
    """

    baseline: str
    candidate: str
    num_speculative_tokens: int
    confidence: float
    method: str
    overall: Part
    walk: tuple[Position, ...]
    every_start: tuple[Position, ...] | None
    categories: tuple[Part, ...]
    worst: tuple[ConversationLoss, ...]
    concentration: Concentration
    agreement: Agreement

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, with its schema version."""
        return {"schema_version": EXPLANATION_SCHEMA_VERSION, **asdict(self)}


def explain(report: ParityReport, *, num_worst: int = 5, confidence: float = CONFIDENCE) -> Explanation:
    """The explanation of a report.

    Args:
        report: of any split: it explains what was measured.
        num_worst: conversations that are named.
        confidence: of all intervals.
    """
    turns = by_conversation(report.prompts)
    extra = {key: _extra(prompts) for key, prompts in turns.items()}
    lost = _lost(extra.values())
    strata = strata_of([category for category, _ in turns])
    whole = all(p.baseline.every_start is not None and p.candidate.every_start is not None for p in report.prompts)
    walk, every_start = (
        positions(*_histograms(turns, counting, report.num_speculative_tokens), strata, confidence)
        for counting in ("walk", "every_start" if whole else "walk")
    )
    categories = sorted({category for category, _ in turns})
    return Explanation(
        baseline=report.baseline.name,
        candidate=report.candidate.name,
        num_speculative_tokens=report.num_speculative_tokens,
        confidence=confidence,
        method=METHOD,
        overall=_part("all", report.prompts, lost, confidence),
        walk=tuple(walk),
        every_start=tuple(every_start) if whole else None,
        categories=tuple(
            _part(name, [prompt for prompt in report.prompts if prompt.category == name], lost, confidence)
            for name in categories
        ),
        worst=tuple(
            ConversationLoss(
                id=turns[key][0].id, category=key[0], rounds=_rounds(turns[key]), extra_num_drafts=extra[key]
            )
            for key in _worst_first(extra)[:num_worst]
            if extra[key] > 0
        ),
        concentration=_concentration(extra, lost),
        agreement=_agreement(report.prompts),
    )


def _histograms(turns: dict[Key, list[PromptResult]], counting: str, k: int) -> tuple[IntArray, IntArray]:
    """[C, k + 1] of both drafts."""
    both = [
        np.array(
            [np.sum([getattr(getattr(p, arm), counting) for p in prompts], axis=0) for prompts in turns.values()],
            dtype=np.int64,
        ).reshape(len(turns), k + 1)
        for arm in ("baseline", "candidate")
    ]
    return both[0], both[1]


def _rounds(prompts: Sequence[PromptResult]) -> Rounds:
    emitted_b, before, emitted_c, after = _totals(prompts)
    return Rounds(
        num_prompts=len(prompts),
        num_conversations=len(by_conversation(prompts)),
        num_emitted_tokens=emitted_b,
        baseline_num_drafts=before,
        candidate_num_drafts=after,
        baseline_mean_acceptance_length=emitted_b / before if before else None,
        candidate_mean_acceptance_length=emitted_c / after if after else None,
    )


def _part(name: str, prompts: Sequence[PromptResult], lost_everywhere: int, confidence: float) -> Part:
    rounds, conversations = _rounds(prompts), Conversations.of(prompts)
    extra = [_extra(turns) for turns in by_conversation(prompts).values()]
    lost = _lost(extra)
    estimate, interval = None, None
    if rounds.baseline_num_drafts and rounds.candidate_num_drafts:
        estimate = float(change(conversations.counts.sum(axis=0)))
        interval = delta_interval(conversations, confidence)
    return Part(
        name=name,
        rounds=rounds,
        change=estimate,
        interval=interval,
        num_drafts_lost=lost,
        num_drafts_gained=lost - sum(extra),
        share_of_loss=lost / lost_everywhere if lost_everywhere else None,
    )


def _concentration(extra: dict[Key, int], lost: int) -> Concentration:
    worst = _worst_first(extra)[: math.ceil(WORST_SHARE * len(extra))]
    there = _lost(extra[key] for key in worst)
    return Concentration(
        num_losing=sum(rounds > 0 for rounds in extra.values()),
        num_gaining=sum(rounds < 0 for rounds in extra.values()),
        num_unchanged=sum(rounds == 0 for rounds in extra.values()),
        num_worst=len(worst),
        num_drafts_lost_there=there,
        share_of_loss=there / lost if lost else None,
    )


def _agreement(prompts: Sequence[PromptResult]) -> Agreement:
    shared = _sum(prompt.num_proposals_shared for prompt in prompts)
    compared = _sum(prompt.num_proposals_compared for prompt in prompts)
    if shared is None or compared is None:
        return Agreement(num_shared=None, num_compared=None, rate=None)
    return Agreement(num_shared=shared, num_compared=compared, rate=shared / compared if compared else None)


def _extra(prompts: Sequence[PromptResult]) -> int:
    """Rounds that the candidate needs beyond the baseline's for as many tokens; negative if fewer."""
    emitted_b, before, emitted_c, after = _totals(prompts)
    return (round(after * emitted_b / emitted_c) if emitted_c else after) - before  # on one path after - before


def _totals(prompts: Sequence[PromptResult]) -> list[int]:
    """Tokens emitted and rounds made by the baseline, then by the candidate."""
    return [sum(column) for column in zip(*map(four_counts, prompts), strict=True)] or [0, 0, 0, 0]


def _lost(extra: Iterable[int]) -> int:
    return sum(rounds for rounds in extra if rounds > 0)


def _worst_first(extra: dict[Key, int]) -> list[Key]:
    return sorted(extra, key=lambda key: -extra[key])  # ties stay in the order of categories and names


def _sum(counts: Iterable[int | None]) -> int | None:
    """None if any is: a baseline that was stored by its counts alone has no proposals to compare."""
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)
