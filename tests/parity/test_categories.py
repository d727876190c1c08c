from __future__ import annotations

from collections.abc import Sequence

import pytest

from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.verdict import Category
from quark_eagle.parity.categories import MIN_CATEGORY_CONVERSATIONS, judge_categories
from tests.parity.counted import counted, many


def judged(
    prompts: Sequence[PromptResult], margin: float | None = 0.05, bias: float = 0.0, alpha: float = 0.05
) -> dict[str, Category]:
    found = judge_categories(prompts, margin, confidence=1 - 2 * alpha, bias=bias, num_resamples=499, seed=0)
    return {category.name: category for category in found}


def test_every_category_is_shown_in_order_with_its_own_interval() -> None:
    found = judged(many(40, categories=("qa", "coding")), margin=None)
    assert list(found) == ["coding", "qa"]
    for category in found.values():
        assert category.difference is not None
        assert category.difference.interval is not None
        assert (category.margin, category.outcome, category.p_fail) == (None, None, None)


def test_a_category_with_nothing_to_propose_is_not_dropped() -> None:
    found = judged([*many(30), counted("b", [0, 0], [0, 0], category="empty")])
    assert found["empty"].note == "nothing to propose in its answers"
    assert found["empty"].outcome == "inconclusive"


def test_a_category_of_few_conversations_decides_nothing() -> None:
    found = judged(many(MIN_CATEGORY_CONVERSATIONS - 1, loss=0.3))["coding"]
    assert found.outcome == "inconclusive"
    assert "fewer than 20 conversations" in found.note


def test_many_turns_of_few_conversations_are_few_conversations() -> None:
    prompts = many(40, loss=0.3)
    turns = [p.model_copy(update={"sha256": prompts[i % 10].sha256}) for i, p in enumerate(prompts)]
    assert judged(turns)["coding"].outcome == "inconclusive"


def test_a_category_that_loses_more_than_its_margin_fails_and_the_others_pass() -> None:
    found = judged([*many(30), *many(30, loss=0.2, categories=("math",))])
    assert (found["coding"].outcome, found["math"].outcome) == ("pass", "fail")


def test_any_failure_fails_by_holm_and_not_by_each_p_value_alone() -> None:
    """A loss that is significant alone is not so beside many categories that lose nothing."""
    lossy = many(30, loss=0.065, noise=3, categories=("lossy",), seed=1)
    alone = judged(lossy)["lossy"]
    assert alone.p_fail is not None
    assert 0.001 < alone.p_fail <= 0.05
    assert alone.outcome == "fail"
    others = [p for i in range(50) for p in many(20, categories=(f"other-{i}",), seed=i)]
    assert judged([*lossy, *others])["lossy"].outcome == "inconclusive"


def test_replays_own_error_makes_passing_and_failing_harder() -> None:
    assert judged(many(30), bias=0.2)["coding"].outcome == "inconclusive"
    assert judged(many(30, loss=0.2), bias=0.2)["coding"].outcome == "inconclusive"


@pytest.mark.parametrize("bias", [0.95, 3.0])
def test_an_error_larger_than_everything_decides_nothing(bias: float) -> None:
    assert judged(many(30, loss=0.2), bias=bias)["coding"].outcome == "inconclusive"


def test_a_category_that_is_the_same_everywhere_passes() -> None:
    same = [counted(f"p{i}", [20, 40], [20, 40]) for i in range(25)]
    found = judged(same)["coding"]
    assert (found.outcome, found.p_fail) == ("pass", 1.0)
