"""Which of several ways to quantize is worth the next step: the simplest that is not told apart from the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.schemes import SchemeResult
from quark_eagle.parity.paired import Conversations, paired_difference

Counts = Mapping[str, Sequence[PromptResult]]
"""What each way got accepted, prompt by prompt, by its name; all on the same prompts."""


def suggested(results: Sequence[SchemeResult], counts: Counts, confidence: float) -> str | None:
    """Name of one of the results; None if none of them is verified and measured.

    The best is the one with the highest τ. Whatever does not lose against it by an interval of their paired difference
    may be as good; of these the first that needs no calibration is taken, or else the first. A difference that these
    prompts do not show is no reason to calibrate.
    """
    sound = {
        result.name: result.difference.estimate
        for result in results
        if result.is_usable and result.difference is not None
    }
    if not sound:
        return None
    best = max(sound, key=lambda name: sound[name])
    alike = [it for it in results if it.name in sound and not loses(counts[it.name], counts[best], confidence)]
    return min(alike, key=lambda result: result.needs_calibration).name  # min takes the first of equals


def loses(own: Sequence[PromptResult], other: Sequence[PromptResult], confidence: float) -> bool:
    """Whether one way's τ is below another's by the whole of its interval, paired by conversation."""
    pairs = [mine.model_copy(update={"baseline": his.candidate}) for mine, his in zip(own, other, strict=True)]
    difference = paired_difference(Conversations.of(pairs), confidence)
    return difference is not None and difference.interval is not None and difference.interval.high < 0
