from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import Bias, Difference, Interval
from quark_eagle.errors import UsageError
from quark_eagle.parity.compare import Comparison
from quark_eagle.parity.verdict import COLLAPSE_CAUSES, MIN_CONVERSATIONS, Judgement, Rules, judge, judge_difference
from tests.parity.counted import counted, many, walk_of


@pytest.fixture(scope="module")
def measured(pair: tuple[Path, Path]) -> ParityReport:
    """A real report, whose prompts each test replaces."""
    return Comparison.open(pair[0], pair[0], pair[1], walk_only=True).run()


def judged(report: ParityReport, prompts: Sequence[PromptResult], **rules: object) -> Judgement:
    quick = {"num_resamples": 999, **rules}
    return judge(report.model_copy(update={"prompts": list(prompts)}), Rules(**quick))  # type: ignore[arg-type]


def difference(interval: tuple[float, float], second: tuple[float, float] | None = None, num: int = 64) -> Difference:
    """What was measured, with the intervals that a test wants."""
    found = [
        Interval(low=low, high=high, confidence=0.9, method="given") for low, high in (interval, second or interval)
    ]
    return Difference(
        num_prompts=num,
        num_conversations=num,
        num_strata=1,
        baseline_num_drafts=100,
        candidate_num_drafts=100,
        baseline_num_accepted_tokens=50,
        candidate_num_accepted_tokens=50,
        baseline_mean_acceptance_length=1.5,
        candidate_mean_acceptance_length=1.5,
        estimate=sum(interval) / 2,
        standard_error=0.01,
        interval=found[0],
        second_interval=found[1],
        num_resamples=999,
        seed=0,
    )


@pytest.mark.parametrize("prompts", [[], [counted("a", [0, 0], [0, 0])]], ids=["no prompt", "no round"])
def test_nothing_evaluated_is_never_a_pass(measured: ParityReport, prompts: list[PromptResult]) -> None:
    found = judged(measured, prompts)
    assert (found.outcome, found.rule) == ("unusable", "nothing evaluated")
    assert "longer answers" in found.reason


def test_a_draft_against_itself_is_exactly_no_change_and_passes(measured: ParityReport) -> None:
    found = judged(measured, [counted(f"p{i}", walk_of(60, 100), walk_of(60, 100)) for i in range(MIN_CONVERSATIONS)])
    assert found.difference is not None
    assert found.difference.interval is not None
    assert (found.difference.interval.low, found.difference.interval.high) == (0, 0)
    assert (found.outcome, found.rule) == ("pass", "interval")


@pytest.mark.parametrize("split", ["calibration", "selection"])
def test_prompts_of_another_split_are_unusable(measured: ParityReport, split: str) -> None:
    found = judged(measured, [*many(64), *many(3, split=split, categories=("other",))])
    assert (found.outcome, found.rule) == ("unusable", "evidence")
    assert f"3 of {split}" in found.reason


def test_a_baseline_that_accepts_next_to_nothing_cannot_be_compared_with(measured: ParityReport) -> None:
    alive = [counted(f"p{i}", [88, 6], [88, 6]) for i in range(64)]
    found = judged(measured, [counted(f"p{i}", [96, 4], [96, 4]) for i in range(64)])
    assert (found.outcome, found.rule) == ("unusable", "dead baseline")
    assert "1.040" in found.reason
    assert judged(measured, alive).outcome == "pass"


def test_a_dead_candidate_of_a_dead_baseline_is_not_called_a_collapse(measured: ParityReport) -> None:
    assert judged(measured, [counted(f"p{i}", [96, 4], [104, 0]) for i in range(64)]).rule == "dead baseline"


@pytest.mark.parametrize(("expected", "rule"), [(1.6, "interval"), (1.7, "interval"), (1.9, "unexpected baseline")])
def test_a_baseline_that_is_not_as_expected_is_unusable(measured: ParityReport, expected: float, rule: str) -> None:
    same = [counted(f"p{i}", walk_of(60, 100), walk_of(60, 100)) for i in range(64)]  # τ is 1.667
    found = judged(measured, same, expected_baseline=expected)
    assert found.rule == rule
    assert found.outcome == ("pass" if rule == "interval" else "unusable")


def test_a_fault_that_depresses_both_drafts_alike_is_seen_by_the_expected_baseline_alone(
    measured: ParityReport,
) -> None:
    both = [counted(f"p{i}", walk_of(80, 100), walk_of(80, 100)) for i in range(64)]
    assert judged(measured, both).outcome == "pass"
    assert judged(measured, both, expected_baseline=100 / 60).rule == "unexpected baseline"


def test_losing_more_than_half_of_the_accepted_tokens_is_a_collapse_whatever_the_number(measured: ParityReport) -> None:
    half, more = ([counted("p", walk_of(60, 100), walk_of(after, 100))] for after in (80, 81))
    assert judged(measured, half).rule == "too few conversations"
    found = judged(measured, more)
    assert (found.outcome, found.rule) == ("fail", "collapse")
    assert found.causes == COLLAPSE_CAUSES
    assert "exclude" in found.causes[0]
    assert "19 tokens accepted where the BF16 draft has 40" in found.reason


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_fewer_than_64_conversations_decide_nothing(measured: ParityReport, loss: float) -> None:
    found = judged(measured, many(63, loss=loss))
    assert (found.outcome, found.rule) == ("inconclusive", "too few conversations")
    assert judged(measured, many(64, loss=loss)).rule == "interval"


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        ((-0.009, 0.002), "pass"),
        ((-0.010, 0.002), "inconclusive"),
        ((-0.020, -0.010), "inconclusive"),
        ((-0.020, -0.011), "fail"),
        ((0.010, 0.020), "pass"),
    ],
)
def test_the_intervals_place_beside_the_margin_is_the_outcome(interval: tuple[float, float], outcome: str) -> None:
    found = judge_difference(difference(interval), Rules(margin=0.01))
    assert (found.outcome, found.rule) == (outcome, "interval")


@pytest.mark.parametrize(("interval", "low", "high"), [("pass", -0.009, 0.0), ("fail", -0.020, -0.011)])
def test_replays_own_error_widens_both_ends(interval: str, low: float, high: float) -> None:
    bias = Bias(bound=0.002, anchored=True, source="a served run")
    assert judge_difference(difference((low, high)), Rules(margin=0.01)).outcome == interval
    assert judge_difference(difference((low, high)), Rules(margin=0.01, bias=bias)).outcome == "inconclusive"


@pytest.mark.parametrize("second", [(-0.011, 0.002), (-0.020, -0.012)])
def test_a_verdict_that_two_methods_do_not_share_is_none(second: tuple[float, float]) -> None:
    found = judge_difference(difference((-0.009, 0.002), second), Rules(margin=0.01))
    assert (found.outcome, found.rule) == ("inconclusive", "methods disagree")


def test_an_inconclusive_verdict_says_how_many_conversations_would_settle_it(measured: ParityReport) -> None:
    found = judged(measured, many(64, noise=6), margin=0.005)
    assert found.outcome == "inconclusive"
    assert found.power is not None
    assert f"about {found.power.num_if_unchanged} conversations (now 64)" in found.reason


def test_categories_do_not_gate_unless_they_have_a_margin(measured: ParityReport) -> None:
    prompts = [*many(300), *many(30, loss=0.1, categories=("math",))]
    found = judged(measured, prompts, margin=0.05)
    assert found.outcome == "pass"
    assert [category.outcome for category in found.categories] == [None, None]


def test_one_category_that_fails_fails_the_whole(measured: ParityReport) -> None:
    prompts = [*many(300), *many(30, loss=0.2, categories=("math",))]
    found = judged(measured, prompts, margin=0.05, category_margin=0.1)
    assert (found.outcome, found.rule) == ("fail", "category")
    assert "in math" in found.reason


def test_every_category_must_pass(measured: ParityReport) -> None:
    found = judged(measured, [*many(100), *many(5, categories=("rare",))], margin=0.05, category_margin=0.1)
    assert (found.outcome, found.rule) == ("inconclusive", "category")
    assert "not excluded in rare" in found.reason


def test_categories_never_make_a_failure_a_pass(measured: ParityReport) -> None:
    found = judged(measured, many(80, loss=0.2), margin=0.05, category_margin=0.4)
    assert (found.outcome, found.rule) == ("fail", "interval")
    assert [category.outcome for category in found.categories] == ["pass"]


def test_each_of_two_looks_spends_half_of_alpha() -> None:
    rules = Rules(looks=2, alpha=0.05)
    assert rules.confidence == pytest.approx(0.95)
    assert rules.look.alpha_of_this_look == pytest.approx(0.025)
    assert (rules.look.look, rules.look.planned) == (1, 2)


def test_all_that_is_wrong_with_the_rules_is_told_at_once() -> None:
    wrong = {"margin": 0.0, "alpha": 0.7, "category_margin": 1.5, "looks": 3, "expected_baseline": 0.5}
    with pytest.raises(UsageError) as caught:
        Rules(**wrong)  # type: ignore[arg-type]
    options = ("--margin", "--category-margin", "--alpha", "--looks", "--expect-baseline")
    assert [line.split()[0] for line in str(caught.value).splitlines()] == list(options)


def test_a_category_margin_is_not_narrower_than_the_whole() -> None:
    with pytest.raises(UsageError, match=r"--category-margin 0.005: at least the margin"):
        Rules(margin=0.01, category_margin=0.005)


def test_answers_without_a_token_to_propose_are_no_conversations(measured: ParityReport) -> None:
    """One real conversation among empty ones has no variance, and must not pass for that."""
    real = many(1, loss=0.005)
    empty = [counted(f"empty-{i}", [0, 0], [0, 0]) for i in range(63)]
    found = judged(measured, [*real, *empty])
    assert (found.outcome, found.rule) == ("unusable", "evidence")
    assert "63 of 64 answers end with their first token" in found.reason
    some = judged(measured, [*many(70), *empty[:5]])
    assert some.difference is not None
    assert (some.difference.num_conversations, some.difference.num_prompts) == (70, 75)


def test_one_prompt_under_many_ids_is_one_conversation(measured: ParityReport) -> None:
    (prompt,) = many(1, loss=0.005)
    copies = [prompt.model_copy(update={"id": f"copy-{i}"}) for i in range(64)]
    found = judged(measured, copies)
    assert found.difference is not None
    assert found.difference.num_conversations == 1
    assert (found.outcome, found.rule) == ("inconclusive", "too few conversations")


def test_a_category_does_not_fail_where_the_whole_is_not_decided_by_its_interval(measured: ParityReport) -> None:
    prompts = [*many(30, loss=0.2), *many(30, categories=("math",))]
    found = judged(measured, prompts, category_margin=0.02)
    assert (found.outcome, found.rule) == ("inconclusive", "too few conversations")
    assert [category.outcome for category in found.categories] == [None, None]


def test_replays_own_error_asks_for_more_conversations_and_as_large_as_the_margin_for_any(
    measured: ParityReport,
) -> None:
    def needed(bias: float) -> int | None:
        anchor = Bias(bound=bias, anchored=True, source="a served run")
        power = judged(measured, many(80, noise=6), margin=0.01, bias=anchor).power
        assert power is not None
        return power.num_if_unchanged

    without, with_some = needed(0.0), needed(0.005)
    assert without is not None
    assert with_some is not None
    assert with_some > 3 * without
    assert needed(0.01) is None
