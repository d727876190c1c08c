"""PairedDifference: the relative change of walk τ between two drafts on the same paths, with its interval.

τ is a ratio of sums, so the change is one of totals: with E tokens emitted in R rounds, (E_c / R_c) / (E_b / R_b) - 1;
on one path E_c = E_b and it is R_b / R_c - 1. Positions of one conversation are correlated, so the conversation is what
is resampled, both drafts' counts of it together (paired), and within its category (stratified), because the mix of
categories was chosen and not drawn. Small categories are resampled together.

Two roads to the interval: a BCa bootstrap (Efron 1987; `parity.bca`), whose ends decide, and a t interval
of log(1 + change) by the delta method. A verdict that they do not share is none.

Drafts that were served made every conversation once in each of several blocks, and passes over the same conversations
differ. Conversations are resampled with their blocks summed, and the error between passes, which no choice of
conversations shows, is added by t of its few degrees of freedom (`parity.noise`, with the reason why blocks are not
resampled): to both ends of the bootstrap in quadrature, and to the variance of the t interval with Satterthwaite's
degrees of freedom. Simulated at three blocks with tails of 5 %, the first errs in 4.0 to 4.7 %, the second, whose
approximation is on the short side, in 4.7 to 5.6 %, both together as the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.verdict import Difference, Interval
from quark_eagle.parity.bca import bca, expanded
from quark_eagle.parity.delta import (
    NO_SPREAD,
    Bounds,
    Spread,
    degrees_of_freedom,
    standard_error_of,
    t_interval,
    together,
)
from quark_eagle.parity.noise import noise_of, widened

NUM_RESAMPLES = 9999
MIN_STRATUM = 20
"""Conversations of one stratum at least: a bootstrap within n of them has (n - 1) / n of the true variance. In
simulation strata of six or seven turn the one-sided error at 64 conversations from 5 % into 8 %."""
DELTA_METHOD = "t interval of the logarithm, delta method"
BOOTSTRAP = "BCa bootstrap, paired by conversation, stratified by category, level expanded for small samples"
WITH_NOISE = ", with the noise between passes"

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """What both drafts did on each of C conversations, in an order of their own.

    Attributes:
        counts: [C, 4] int64: tokens emitted and rounds made by the baseline, then by the candidate.
        by_block: [C, B, 4] int64: the same in each block, whose sum they are; None where the drafts were replayed.
        strata: [C] int64: which conversations are resampled together.
        num_prompts: of the report: more than C where there was nothing to propose, or one prompt has several ids.
    """

    counts: IntArray
    strata: IntArray
    num_prompts: int
    by_block: IntArray | None = None

    @classmethod
    def of(cls, prompts: Sequence[PromptResult]) -> Conversations:
        """Of a report's prompts, in whatever order."""
        turns = by_conversation(prompts)
        rows = [np.sum([four_counts(prompt) for prompt in own], axis=0) for own in turns.values()]
        blocks = [_by_block(own) for own in turns.values()]
        return cls(
            counts=np.array(rows, dtype=np.int64).reshape(len(rows), 4),
            strata=strata_of([category for category, _ in turns]),
            num_prompts=len(prompts),
            by_block=np.stack([block for block in blocks if block is not None])
            if blocks and all(block is not None for block in blocks)
            else None,
        )

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def identical(self) -> bool:
        """Whether both drafts did the same on every conversation."""
        counts = self.counts if self.by_block is None else self.by_block
        return bool((counts[..., :2] == counts[..., 2:]).all())


def by_conversation(prompts: Iterable[PromptResult]) -> dict[tuple[str, str], list[PromptResult]]:
    """The prompts of each conversation by category and hash, in an order of their own.

    The same prompt under two ids is one conversation. An answer of one token, which came from prefill, is none.
    """
    gathered: dict[tuple[str, str], list[PromptResult]] = {}
    for prompt in prompts:
        if prompt.num_generated_tokens > 1:
            gathered.setdefault((prompt.category, prompt.sha256), []).append(prompt)
    by_name = sorted(gathered, key=lambda key: (key[0], min(prompt.id for prompt in gathered[key])))
    return {key: gathered[key] for key in by_name}


def strata_of(categories: Sequence[str]) -> IntArray:
    """[C] int64: a stratum for each category of `MIN_STRATUM` conversations and more; the others share the first."""
    sizes = Counter(categories)
    large = [name for name, size in sizes.items() if size >= MIN_STRATUM]
    numbers = {name: place for place, name in enumerate(large, start=1)}
    left_over = len(categories) - sum(sizes[name] for name in large)
    shared = 0 if left_over >= MIN_STRATUM or not large else 1  # too few to stand alone: they join another
    return np.array([numbers.get(name, shared) for name in categories], dtype=np.int64)


def paired_difference(
    conversations: Conversations, confidence: float, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Difference | None:
    """The change and both its intervals; None if a draft made no round.

    Args:
        conversations: counts of both drafts.
        confidence: of the two-sided interval: 0.90 has one-sided 95 % bounds.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    totals = conversations.counts.sum(axis=0)
    if (totals[[1, 3]] == 0).any():
        return None
    error, second = spread(conversations), delta_interval(conversations, confidence)
    method = DELTA_METHOD if conversations.by_block is None else DELTA_METHOD + WITH_NOISE
    return Difference(
        num_prompts=conversations.num_prompts,
        num_conversations=len(conversations),
        num_strata=len(set(conversations.strata.tolist())),
        baseline_num_drafts=int(totals[1]),
        candidate_num_drafts=int(totals[3]),
        baseline_num_accepted_tokens=int(totals[0] - totals[1]),
        candidate_num_accepted_tokens=int(totals[2] - totals[3]),
        baseline_mean_acceptance_length=float(totals[0] / totals[1]),
        candidate_mean_acceptance_length=float(totals[2] / totals[3]),
        estimate=float(change(totals)),
        standard_error=None if error is None else error.error,
        degrees_of_freedom=None if error is None else error.freedom,
        interval=_bootstrap(conversations, confidence, num_resamples, seed),
        second_interval=Interval(low=second[0], high=second[1], confidence=confidence, method=method)
        if second is not None
        else None,
        num_resamples=num_resamples,
        seed=seed,
    )


def change(totals: IntArray | FloatArray) -> FloatArray:
    """Relative change of τ from totals [..., 4]; [...] float64.

    >>> round(float(change(np.array([100, 50, 100, 60]))), 4)  # τ 2.0 before, 1.667 after
    -0.1667
    """
    emitted_b, rounds_b, emitted_c, rounds_c = np.moveaxis(np.asarray(totals, dtype=np.float64), -1, 0)
    result: FloatArray = (emitted_c * rounds_b) / (rounds_c * emitted_b) - 1.0
    return result


def standard_error(conversations: Conversations) -> float | None:
    """Of log(1 + change) by the choice of conversations, by the delta method; None below two of them."""
    return standard_error_of(influences(conversations), conversations.strata)


def noise_between_passes(conversations: Conversations) -> Spread | None:
    """Of log(1 + change) by serving: none where the drafts were replayed; None where the blocks do not tell it."""
    return NO_SPREAD if conversations.by_block is None else noise_of(conversations.by_block)


def spread(conversations: Conversations) -> Spread | None:
    """Of log(1 + change), by the choice of conversations and by serving; None where one of them is not known."""
    error, noise = standard_error(conversations), noise_between_passes(conversations)
    if error is None or noise is None:
        return None
    return together(Spread(error=error, freedom=degrees_of_freedom(conversations.strata)), noise)


def influences(conversations: Conversations) -> FloatArray:
    """[C] float64: what each conversation adds to log(1 + change), to first order; they sum to 0."""
    shares = conversations.counts / conversations.counts.sum(axis=0)
    result: FloatArray = shares[:, 2] - shares[:, 3] - shares[:, 0] + shares[:, 1]
    return result


def delta_interval(conversations: Conversations, confidence: float) -> Bounds | None:
    """The second road: a t interval of the logarithm; None below two conversations, or where noise is not known."""
    centre, error = float(np.log1p(change(conversations.counts.sum(axis=0)))), spread(conversations)
    ends = None if error is None else t_interval(centre, error.error, error.freedom, confidence)
    return None if ends is None else (float(np.expm1(ends[0])), float(np.expm1(ends[1])))


def _bootstrap(conversations: Conversations, confidence: float, num_resamples: int, seed: int) -> Interval | None:
    """The first road; None below two conversations, or where noise is not known."""
    error, noise = standard_error(conversations), noise_between_passes(conversations)
    if conversations.identical:
        error = 0.0  # also of one conversation alone
    if error is None or noise is None:
        return None
    method, estimate = BOOTSTRAP, float(change(conversations.counts.sum(axis=0)))
    ends: Bounds | None = (estimate, estimate)
    if error == 0:  # decided here: there is nothing to resample
        alike = "identical counts everywhere" if conversations.identical else "all conversations change alike"
        method = f"{method}: {alike}"
    else:
        groups = [conversations.counts[conversations.strata == own] for own in np.unique(conversations.strata)]
        level = expanded(confidence, len(conversations), len(groups))
        ends = bca(groups, change, level, num_resamples=num_resamples, seed=seed)
    if ends is None:
        return None
    low, high = widened(ends, estimate, noise, confidence)
    if conversations.by_block is not None:
        method += WITH_NOISE
    return Interval(low=low, high=high, confidence=confidence, method=method)


def four_counts(prompt: PromptResult) -> list[int]:
    """Tokens emitted and rounds made on one prompt by the baseline, then by the candidate."""
    return _four(prompt.baseline.walk, prompt.candidate.walk)


def _four(baseline: Sequence[int], candidate: Sequence[int]) -> list[int]:
    """The same of two walks [k + 1]."""
    return [
        count for walk in (baseline, candidate) for count in (sum((j + 1) * n for j, n in enumerate(walk)), sum(walk))
    ]


def _by_block(turns: Sequence[PromptResult]) -> IntArray | None:
    """[B, 4] of one conversation; None if it was not counted by block."""
    rows = [
        [_four(before.walk, after.walk) for before, after in zip(p.baseline.blocks, p.candidate.blocks, strict=True)]
        for p in turns
        if p.baseline.blocks is not None and p.candidate.blocks is not None
    ]
    return np.array(rows, dtype=np.int64).sum(axis=0) if len(rows) == len(turns) else None
