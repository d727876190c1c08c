from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.parity import ParityReport
from quark_eagle.parity.delta import IntArray
from quark_eagle.parity.explain import Explanation, explain
from quark_eagle.parity.paired import Conversations
from quark_eagle.parity.positions import Position, positions
from tests.parity.counted import counted
from tests.reports import AT_PAR, WORSE, report


def histograms(seed: int, conversations: int = 64, loss: float = 0.02, k: int = 3) -> tuple[IntArray, IntArray]:
    """Counts of two drafts [C, k + 1]: each conversation has its own ease, and the candidate loses some everywhere."""
    rng = np.random.default_rng(seed)
    ease = rng.beta(6, 6, size=conversations)
    both = []
    for rate in (ease, ease - loss):
        chances = np.stack([*(rate**j * (1 - rate) for j in range(k)), rate**k], axis=1)
        both.append(np.stack([rng.multinomial(int(rng.integers(40, 90)), row) for row in chances]))
    return both[0], both[1]


def one_stratum(counts: IntArray) -> IntArray:
    return np.zeros(len(counts), dtype=np.int64)


def tau(counts: IntArray) -> float:
    return 1 + float((counts * np.arange(counts.shape[1])).sum() / counts.sum())


def edited(measured: ParityReport, prompts: Sequence[PromptResult]) -> ParityReport:
    return measured.model_copy(update={"prompts": list(prompts)})


def cuts(found: Explanation) -> object:
    return json.loads(json.dumps(found.to_json(), allow_nan=False))


@pytest.mark.parametrize("seed", range(5))
def test_the_changes_of_all_positions_sum_to_the_change_of_tau(seed: int) -> None:
    baseline, candidate = histograms(seed)
    found = positions(baseline, candidate, one_stratum(baseline), 0.9)
    marginal = [one.marginal.change for one in found]
    assert None not in marginal
    change = tau(candidate) - tau(baseline)
    assert sum(value for value in marginal if value is not None) == pytest.approx(change, abs=1e-12)
    assert sum(one.effect_on_tau for one in found) == pytest.approx(change, abs=1e-12)


def test_a_loss_at_one_position_is_charged_to_that_position_alone() -> None:
    baseline = np.tile([40, 20, 10, 30], (8, 1))
    candidate = np.tile([40, 30, 5, 25], (8, 1))  # as many first tokens; the second token is accepted 30 times, not 40
    found = positions(baseline, candidate, one_stratum(baseline), 0.9)
    assert found[0].effect_on_tau == 0
    assert found[1].effect_on_tau < 0 < found[2].effect_on_tau  # 30 / 40 of the second became 25 / 30
    assert found[1].conditional.baseline.count == 40 * 8
    assert found[1].conditional.baseline.of == 60 * 8


def test_the_interval_agrees_with_a_paired_bootstrap_of_conversations() -> None:
    from scipy.stats import bootstrap

    baseline, candidate = histograms(1)
    indices = np.arange(len(baseline))

    def change(chosen: IntArray, axis: int) -> np.ndarray:
        first, second = baseline[chosen].sum(axis=-2), candidate[chosen].sum(axis=-2)
        return second[..., 1:].sum(-1) / second.sum(-1) - first[..., 1:].sum(-1) / first.sum(-1)

    other = bootstrap(
        (indices,), change, n_resamples=4000, confidence_level=0.9, vectorized=True, rng=np.random.default_rng(0)
    ).confidence_interval
    interval = positions(baseline, candidate, one_stratum(baseline), 0.9)[0].marginal.interval
    assert interval is not None
    width = other.high - other.low
    assert interval == pytest.approx((other.low, other.high), abs=width / 10)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Over the conversations' distribution, of which each data set is a draw; the true change is the same for all."""
    hits = 0
    for seed in range(400):
        baseline, candidate = histograms(seed, loss=0.02, k=1)
        interval = positions(baseline, candidate, one_stratum(baseline), 0.9)[0].marginal.interval
        assert interval is not None
        hits += interval[0] <= -0.02 <= interval[1]
    assert 0.86 <= hits / 400 <= 0.94


def test_conversations_that_differ_make_a_wider_interval_than_independent_rounds_would() -> None:
    baseline = np.array([[90, 10], [10, 90]] * 20)
    share = positions(baseline, baseline, one_stratum(baseline), 0.9)[0].marginal.baseline
    assert share.interval is not None
    binomial = 2 * 1.645 * (0.25 / baseline.sum()) ** 0.5
    assert share.interval[1] - share.interval[0] > 5 * binomial


def test_pairing_narrows_the_interval_of_the_change() -> None:
    baseline, _ = histograms(3)
    shuffled = np.random.default_rng(0).permutation(baseline)

    def width(candidate: IntArray) -> float:
        interval = positions(baseline, candidate, one_stratum(baseline), 0.9)[0].marginal.interval
        assert interval is not None
        return interval[1] - interval[0]

    assert width(baseline) == 0
    assert width(shuffled) > 0.02


def test_only_what_varies_within_a_category_widens_an_interval() -> None:
    """Prompts of a category are the same here, and the categories are not; their order is not the alphabet's."""
    found = explain(report((1, 2, 3) * 20, categories=("qa", "coding", "math")))
    for one in found.walk:
        for interval in (one.marginal.interval, one.marginal.baseline.interval, one.conditional.interval):
            assert interval is not None
            assert interval[1] - interval[0] == pytest.approx(0, abs=1e-9)
    mixed = explain(report((1, 2, 3) * 20, categories=("qa", "coding"))).walk[0].marginal.interval
    assert mixed is not None
    assert mixed[1] - mixed[0] > 1e-3


def test_nothing_accepted_anywhere_has_a_rate_but_no_interval_of_it() -> None:
    dead = np.array([[50, 0], [60, 0], [70, 0]])
    found = positions(dead, dead, one_stratum(dead), 0.9)[0].marginal.baseline
    assert (found.rate, found.interval) == (0.0, None)


def test_a_draft_against_itself_lost_nothing() -> None:
    found = explain(report((0,) * 40))
    assert found.overall.change == 0
    assert found.overall.interval == (0, 0)
    assert found.worst == ()
    assert found.concentration.share_of_loss is None
    assert all(one.marginal.interval == (0, 0) and one.effect_on_tau == 0 for one in found.walk)


def test_rounds_lost_less_rounds_gained_is_the_difference_of_the_rounds() -> None:
    found = explain(report(AT_PAR, categories=("coding", "math", "qa")))
    for part in (found.overall, *found.categories):
        net = part.rounds.candidate_num_drafts - part.rounds.baseline_num_drafts
        assert part.num_drafts_lost - part.num_drafts_gained == net
    assert (found.overall.num_drafts_lost, found.overall.num_drafts_gained) == (50, 50)


def test_shares_of_the_loss_add_up_to_all_of_it() -> None:
    found = explain(report(WORSE, categories=("coding", "math", "qa")))
    assert [part.name for part in found.categories] == ["coding", "math", "qa"]
    assert sum(part.share_of_loss or 0 for part in found.categories) == pytest.approx(1)


def test_the_change_of_a_category_is_the_verdicts_second_road() -> None:
    from quark_eagle.parity.paired import Conversations, paired_difference

    measured = report(WORSE)
    found = explain(measured)
    other = paired_difference(Conversations.of(measured.prompts), 0.9, num_resamples=99)
    assert other is not None
    assert other.second_interval is not None
    assert found.overall.change == pytest.approx(other.estimate)
    assert found.overall.interval == pytest.approx((other.second_interval.low, other.second_interval.high))


def test_the_worst_conversations_come_first_and_only_those_that_lost() -> None:
    found = explain(report((0, 3, -2, 7, 0, 5, 0, 0)), num_worst=5)
    assert [(one.id, one.extra_num_drafts) for one in found.worst] == [
        ("prompt-3", 7),
        ("prompt-5", 5),
        ("prompt-1", 3),
    ]
    assert len(explain(report(WORSE), num_worst=2).worst) == 2


def test_a_loss_in_one_conversation_is_said_to_be_concentrated_there() -> None:
    spread, single = explain(report((2,) * 20)).concentration, explain(report((0,) * 19 + (12,))).concentration
    assert (single.num_worst, single.share_of_loss, single.num_losing) == (2, 1.0, 1)
    assert (spread.num_worst, spread.share_of_loss, spread.num_losing) == (2, 0.1, 20)


def test_the_order_of_prompts_changes_nothing() -> None:
    measured = report(WORSE, categories=("coding", "math"))
    shuffled = [measured.prompts[i] for i in np.random.default_rng(0).permutation(len(measured.prompts))]
    assert cuts(explain(edited(measured, shuffled))) == cuts(explain(measured))


def test_a_prompt_that_was_asked_twice_is_one_conversation() -> None:
    measured = report((2, 3, 4, 5))
    same = [
        prompt.model_copy(
            update={"id": f"talk-{place // 2}", "sha256": measured.prompts[place // 2].sha256, "category": "qa"}
        )
        for place, prompt in enumerate(measured.prompts)
    ]
    found = explain(edited(measured, same))
    assert (found.overall.rounds.num_prompts, found.overall.rounds.num_conversations) == (4, 2)
    assert [(one.id, one.extra_num_drafts, one.rounds.num_prompts) for one in found.worst] == [
        ("talk-1", 9, 2),
        ("talk-0", 5, 2),
    ]


def test_agreement_of_a_stored_baseline_is_not_known() -> None:
    measured = report((1, 2, 3))
    found = explain(measured).agreement
    assert (found.num_shared, found.num_compared, found.rate) == (270, 300, 0.9)
    unknown = [
        prompt.model_copy(update={"num_proposals_compared": None, "num_proposals_shared": None})
        for prompt in measured.prompts
    ]
    stored = explain(edited(measured, unknown)).agreement
    assert (stored.num_shared, stored.num_compared, stored.rate) == (None, None, None)


def test_every_start_is_null_after_a_walk_only_measurement_and_else_there() -> None:
    measured = report((1, 2, 3, 4))
    assert explain(measured).every_start is None
    full = [
        prompt.model_copy(
            update={
                arm: getattr(prompt, arm).model_copy(update={"every_start": [50, 30, 10, 8]})
                for arm in ("baseline", "candidate")
            }
        )
        for prompt in measured.prompts
    ]
    every_start = explain(edited(measured, full)).every_start
    assert every_start is not None
    assert [one.marginal.baseline.count for one in every_start] == [4 * 48, 4 * 18, 4 * 8]
    assert [one.marginal.baseline.of for one in every_start] == [4 * 98] * 3


@pytest.mark.parametrize("losses", [(), (3,)])
def test_too_little_to_vary_has_no_interval_and_no_number_that_is_none(losses: tuple[int, ...]) -> None:
    found = explain(report(losses))
    assert found.overall.interval is None
    walk: Sequence[Position] = found.walk
    assert all(one.marginal.interval is None for one in walk)
    cuts(found)  # no NaN anywhere


def test_an_explanation_counts_the_conversations_that_the_verdict_counts() -> None:
    """Copies of a prompt are one conversation and an empty answer is none, here as there."""
    measured = report(AT_PAR[:70])
    copy = measured.prompts[0].model_copy(update={"id": "a-copy"})
    empty = counted("empty", [0] * 4, [0] * 4)
    prompts = [*measured.prompts, copy, empty]
    found = explain(edited(measured, prompts)).overall.rounds
    assert (found.num_prompts, found.num_conversations) == (72, 70)
    assert len(Conversations.of(prompts)) == 70
