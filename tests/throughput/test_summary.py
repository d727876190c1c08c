"""Means, intervals and predictions of a sweep are those of its runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from quark_eagle.documents.throughput import ArmName, Cell, ThroughputRun
from quark_eagle.throughput.summary import (
    DraftTimes,
    cells,
    geometric_mean,
    implied_draft_round_ms,
    predicted_speedup,
)
from tests.throughput.asked import run


def by_arm(found: list[Cell], concurrency: int = 4) -> dict[ArmName, Cell]:
    return {cell.arm: cell for cell in found if cell.concurrency == concurrency}


def test_the_interval_is_scipys_t_interval_of_the_logarithms() -> None:
    values = [1.9, 2.0, 1.8, 1.95]
    logs = np.log(values)
    low, high = stats.t.interval(0.9, 3, loc=logs.mean(), scale=stats.sem(logs))
    found = geometric_mean(values, 0.9)
    assert found.low is not None
    assert found.high is not None
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((low, high))


def test_one_repeat_has_no_interval() -> None:
    assert geometric_mean([2.0], 0.9).low is None


def test_what_a_repeat_does_to_all_arms_alike_is_not_in_the_speed_up() -> None:
    drift = [1.0, 0.5, 2.0]
    runs = [run("none", repeat=i, output_rate=100 * factor) for i, factor in enumerate(drift)]
    runs += [run("baseline", repeat=i, output_rate=180 * factor) for i, factor in enumerate(drift)]
    cell = by_arm(cells(runs, 1, 0.9, 3))["baseline"]
    assert cell.speedup is not None
    assert cell.speedup.value == pytest.approx(1.8)
    assert cell.speedup.low == pytest.approx(1.8)
    assert cell.output_tokens_per_second_per_gpu.low is not None
    assert cell.output_tokens_per_second_per_gpu.low < 100


def test_the_order_of_runs_changes_nothing() -> None:
    """Repeats are paired by their number, in whatever order each arm's were measured."""
    plain = [run("none", repeat=i, output_rate=90 + 10 * i) for i in range(3)]
    drafted = [run("baseline", repeat=i, output_rate=200 - 10 * i, accepted=900) for i in range(3)]
    assert cells(plain + drafted, 1, 0.9, 3) == cells(drafted[::-1] + plain, 1, 0.9, 3)


def test_per_gpu_is_by_gpu_and_a_cpu_counts_as_one() -> None:
    whole, quarter = (cells([run()], num_gpus, 0.9, 3)[0] for num_gpus in (0, 4))
    assert whole.total_tokens_per_second_per_gpu.value == pytest.approx(200.0)  # 1000 in and 1000 out, in 10 s
    assert whole.output_tokens_per_second_per_gpu.value == pytest.approx(100.0)
    assert quarter.total_tokens_per_second_per_gpu.value == pytest.approx(50.0)


def test_tau_is_a_ratio_of_sums_over_repeats() -> None:
    found = cells([run("baseline", repeat=0, accepted=500), run("baseline", repeat=1, accepted=1500)], 1, 0.9, 3)[0]
    assert (found.num_drafts, found.num_accepted_tokens, found.mean_acceptance_length) == (2000, 2000, 2.0)


@pytest.mark.parametrize("tau", [1.0, 1.7, 3.5])
def test_a_draft_that_costs_nothing_makes_tau_times_as_many_tokens(tau: float) -> None:
    assert predicted_speedup(tau, 0.0, 20.0) == tau


def test_the_implied_time_predicts_the_speed_that_implied_it() -> None:
    implied = implied_draft_round_ms(2.4, tpot_ms=11.0, target_step_ms=20.0)
    assert predicted_speedup(2.4, implied, 20.0) == pytest.approx(20.0 / 11.0)


def three_arms() -> list[ThroughputRun]:
    """A target step of 20 ms; a BF16 round of 30 ms and τ 2.5."""
    return [
        run("none", tpot_ms=20.0),
        run("baseline", tpot_ms=12.0, output_rate=160, accepted=1500),
        run("candidate", tpot_ms=11.0, output_rate=176, accepted=1500),
    ]


def test_the_candidate_is_predicted_from_the_baselines_speed_and_the_bytes() -> None:
    found = by_arm(cells(three_arms(), 1, 0.9, 3, DraftTimes(candidate_share=0.8)))
    predicted = found["candidate"].predicted
    assert predicted is not None
    assert predicted.draft_round_ms == pytest.approx(8.0)
    assert predicted.speedup == pytest.approx(2.5 / (1 + 8 / 20))
    assert found["baseline"].predicted is None  # it would be predicted from itself


def test_a_stated_step_time_goes_before_bytes() -> None:
    found = by_arm(cells(three_arms(), 1, 0.9, 4, DraftTimes(step_ms={"candidate": 1.0}, candidate_share=0.8)))
    predicted = found["candidate"].predicted
    assert predicted is not None
    assert predicted.draft_round_ms == pytest.approx(4.0)


def test_nothing_is_predicted_where_nothing_is_known() -> None:
    assert all(cell.predicted is None for cell in cells(three_arms(), 1, 0.9, 3))


def test_the_candidate_is_compared_with_the_baseline_too() -> None:
    over = by_arm(cells(three_arms(), 1, 0.9, 3))["candidate"].over_baseline
    assert over is not None
    assert over.value == pytest.approx(1.1)


def test_latencies_have_intervals_over_repeats_too() -> None:
    runs = [run("none", repeat=i, tpot_ms=20.0 + i) for i in range(3)]
    (cell,) = cells(runs, 1, 0.9, 3)
    assert cell.tpot_ms.mean == geometric_mean([20.0, 21.0, 22.0], 0.9)
    assert cell.ttft_ms.p99.low == pytest.approx(99.0)
