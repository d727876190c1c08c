"""Categories: each has its own change and interval, and a margin of its own if it gates; none is dropped in silence.

"All must pass" needs no correction for their number; "any failure fails" does: Holm's, over one-sided p-values of the
delta method's t statistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.verdict import Category, Difference
from quark_eagle.parity.paired import Conversations, paired_difference

MIN_CATEGORY_CONVERSATIONS = 20
"""To gate a category: below, the interval's one-sided error is more than 6.4 % where 5 % was meant."""


def judge_categories(
    prompts: Sequence[PromptResult],
    margin: float | None,
    *,
    confidence: float,
    bias: float,
    num_resamples: int,
    seed: int,
) -> list[Category]:
    """Every category in alphabetical order, judged against ``margin`` if there is one.

    Args:
        prompts: of the whole report.
        margin: of each category; None: shown, not gated.
        confidence: of the intervals.
        bias: replay's error, on both ends.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    found: list[Category] = []
    for name in sorted({prompt.category for prompt in prompts}):
        own = Conversations.of([prompt for prompt in prompts if prompt.category == name])
        difference = paired_difference(own, confidence, num_resamples=num_resamples, seed=seed)
        p_fail = None if difference is None or margin is None else p_of_a_loss_beyond(difference, margin + bias)
        found.append(
            Category(
                name=name,
                num_prompts=own.num_prompts,
                difference=difference,
                margin=margin,
                outcome=None if margin is None else _passes(difference, margin, bias),
                p_fail=p_fail,
                note=_note(difference, margin),
            )
        )
    return found if margin is None else _fail_by_holm(found, (1 - confidence) / 2)


def p_of_a_loss_beyond(difference: Difference, margin: float) -> float | None:
    """One-sided p-value against "no more than the margin is lost"; None without a standard error."""
    if difference.standard_error is None or difference.degrees_of_freedom is None:
        return None
    if margin >= 1:  # with replay's error added: no loss is beyond it
        return 1.0
    distance = math.log1p(difference.estimate) - math.log1p(-margin)
    if difference.standard_error == 0:
        return 1.0 if distance >= 0 else 0.0
    from scipy.special import stdtr

    return float(stdtr(difference.degrees_of_freedom, distance / difference.standard_error))


def _passes(difference: Difference | None, margin: float, bias: float) -> Literal["pass", "inconclusive"]:
    if difference is None or not _enough(difference):
        return "inconclusive"
    intervals = (difference.interval, difference.second_interval)
    return "pass" if all(it is not None and it.low - bias > -margin for it in intervals) else "inconclusive"


def _fail_by_holm(categories: list[Category], alpha: float) -> list[Category]:
    """Those that lose more than the margin, from the smallest p-value until one is not small enough."""
    tested = sorted((c for c in categories if c.p_fail is not None and _is_large(c)), key=lambda c: (c.p_fail, c.name))
    failed: set[str] = set()
    for place, category in enumerate(tested):
        assert category.p_fail is not None
        if category.p_fail > alpha / (len(tested) - place):
            break
        failed.add(category.name)
    return [c.model_copy(update={"outcome": "fail"}) if c.name in failed else c for c in categories]


def _is_large(category: Category) -> bool:
    difference = category.difference
    return difference is not None and difference.num_conversations >= MIN_CATEGORY_CONVERSATIONS


def _enough(difference: Difference | None) -> bool:
    return difference is not None and difference.num_conversations >= MIN_CATEGORY_CONVERSATIONS


def _note(difference: Difference | None, margin: float | None) -> str:
    if difference is None:
        return "nothing to propose in its answers"
    if difference.num_conversations < 2:
        return "one conversation has no interval"
    if margin is not None and not _enough(difference):
        return f"fewer than {MIN_CATEGORY_CONVERSATIONS} conversations decide nothing"
    return ""
