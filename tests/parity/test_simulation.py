"""The gate's errors under a known truth, small and seeded; `benchmarks/gate_simulation.py` prints the whole table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.many_intervals import intervals
from benchmarks.simulated_walks import Population, conversations, fit, simulate
from quark_eagle.parity.acceptance import walk_histogram
from quark_eagle.parity.paired import Conversations, paired_difference, standard_error
from quark_eagle.parity.power import plan
from tests.parity.counted import counted

POPULATION = Population(
    lengths=(20, 60, 100, 127, 127, 127), means=(-0.4, -0.1, -1.4, -0.7), spread=0.5, redraw=0.014, shift_spread=0.025
)
MARGIN, SETS, RESAMPLES = 0.01, 4000, 299


def shares(change: float, n: int, margin: float = MARGIN) -> tuple[float, float]:
    """(passes, fails) of both intervals together, as shares of the data sets."""
    rng = np.random.default_rng(7)
    counts, categories = simulate(POPULATION, POPULATION.shift_of(change, n), n, SETS, rng)
    strata = conversations(counts[0], categories).strata
    both = intervals(counts, strata, 0.90, RESAMPLES)
    passes = np.all([found[:, 0] > -margin for found in both], axis=0)
    fails = np.all([found[:, 1] < -margin for found in both], axis=0)
    return float(passes.mean()), float(fails.mean())


def test_at_exactly_the_margin_each_error_is_at_most_alpha() -> None:
    passes, fails = shares(-MARGIN, 64)
    noise = 3 * (0.05 * 0.95 / SETS) ** 0.5
    assert 0.02 < passes <= 0.05 + noise
    assert 0.02 < fails <= 0.05 + noise


def test_the_planned_number_of_conversations_passes_in_four_of_five() -> None:
    deviation = POPULATION.deviation(80)
    margin = plan(deviation, 80, 0.0, margin=MARGIN, alpha=0.05).detectable_margin
    asked = plan(deviation, 80, 0.0, margin=margin, alpha=0.05).num_if_unchanged
    passes, fails = shares(0.0, asked, margin)
    assert passes >= 0.80 - 2 * (0.8 * 0.2 / SETS) ** 0.5
    assert fails == 0


def test_what_is_simulated_is_what_the_gate_finds() -> None:
    counts, categories = simulate(POPULATION, 0.04, 90, 2, np.random.default_rng(1))
    strata = conversations(counts[0], categories).strata
    assert len(set(strata.tolist())) == 4
    both = intervals(counts, strata, 0.90, 2500)
    for place, rows in enumerate(counts):
        found = paired_difference(conversations(rows, categories), 0.90, num_resamples=2500)
        assert found is not None
        for ends, interval in zip(both, (found.interval, found.second_interval), strict=True):
            assert interval is not None
            assert (interval.low, interval.high) == pytest.approx(tuple(ends[place]), abs=1e-12)


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_the_truth_is_what_the_estimate_tends_to(share: float) -> None:
    population = replace(POPULATION, share=share)
    n = 40_000
    shift = population.shift_of(-0.03, n)
    assert population.true_change(shift, n) == pytest.approx(-0.03, abs=1e-9)
    counts, _ = simulate(population, shift, n, 1, np.random.default_rng(3))
    totals = counts[0].sum(axis=0)
    assert totals[1] / totals[3] - 1 == pytest.approx(-0.03, abs=0.001)


def test_walks_emit_their_path_and_no_more() -> None:
    counts, _ = simulate(POPULATION, 0.1, 50, 3, np.random.default_rng(0))
    assert (counts[..., 0] == counts[..., 2]).all()
    rounds = counts[..., [1, 3]]
    assert ((rounds >= -(-counts[..., :1] // (POPULATION.k + 1))) & (rounds <= counts[..., :1])).all()


def test_arms_that_always_draw_alike_walk_alike() -> None:
    same = replace(POPULATION, redraw=0.0, shift_spread=0.0)
    counts, _ = simulate(same, 0.0, 50, 3, np.random.default_rng(0))
    assert (counts[..., :2] == counts[..., 2:]).all()


def test_a_population_fitted_to_what_it_made_is_like_itself() -> None:
    """Through prompts' histograms, as a report has them: accepted lengths drawn start by start and walked."""
    rng = np.random.default_rng(0)
    prompts = []
    for i in range(400):
        p = 1 / (1 + np.exp(-(-0.5 + 0.4 * rng.standard_normal())))
        own = rng.random((127, 3))
        other = np.where(rng.random((127, 1)) < 0.02, rng.random((127, 3)), own)
        walks = [walk_histogram((drawn < p).cumprod(axis=1).sum(axis=1).tolist(), 3) for drawn in (own, other)]
        prompts.append(counted(f"p{i}", *walks))
    found = fit(prompts)
    assert found.means == pytest.approx([-0.5], abs=0.1)
    assert found.spread == pytest.approx(0.4, abs=0.08)
    error = standard_error(Conversations.of(prompts))
    assert error is not None
    assert found.deviation(64) == pytest.approx(error * len(prompts) ** 0.5, rel=0.1)
