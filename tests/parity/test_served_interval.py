"""The interval of a served change: conversations vary, and so do passes, of which there are few."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.many_intervals import intervals
from benchmarks.simulated_serving import SCALE, Served, Serving, alike, conversations, serve
from quark_eagle.documents.verdict import Interval
from quark_eagle.parity.bca import bca
from quark_eagle.parity.categories import p_of_a_loss_beyond
from quark_eagle.parity.delta import NO_SPREAD, Spread, together
from quark_eagle.parity.noise import noise_of
from quark_eagle.parity.paired import Conversations, change, delta_interval, paired_difference
from quark_eagle.parity.power import plan

MARGIN, SETS, RESAMPLES = 0.01, 4000, 299
PASSES = Serving(of_pass=0.003)


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def one(serving: Serving, num: int = 80, *, deviation: float = 0.02, seed: int = 0) -> Conversations:
    rng = np.random.default_rng(seed)
    served = serve(alike(num, deviation, -0.01, 1, rng), serving, rng)
    return conversations(served.first[0], np.zeros(num, dtype=np.int64))


def shares(served: Served, num: int, margin: float = MARGIN) -> list[tuple[float, float]]:
    """(passes, fails) of the first interval, of the second, and of both together."""
    both = intervals(served.counts, np.zeros(num, dtype=np.int64), 0.90, RESAMPLES, by_block=served.by_block)
    passes, fails = [it[:, 0] > -margin for it in both], [it[:, 1] < -margin for it in both]
    passes, fails = [*passes, passes[0] & passes[1]], [*fails, fails[0] & fails[1]]
    return [(float(p.mean()), float(f.mean())) for p, f in zip(passes, fails, strict=True)]


def drawn(num: int, deviation: float, true_change: float, serving: Serving) -> Served:
    rng = np.random.default_rng(7)
    return serve(alike(num, deviation, true_change, SETS, rng), serving, rng)


@pytest.mark.parametrize(("num", "deviation"), [(64, 0.03), (200, 0.01), (330, 0.02)])
def test_at_exactly_the_margin_passes_that_differ_make_no_more_errors_than_alpha(num: int, deviation: float) -> None:
    """Each road alone; resampling three blocks, or leaving them out, makes 12 to 32 % at 200 and 330."""
    at_most = 0.05 + 2 * (0.05 * 0.95 / SETS) ** 0.5
    first, second, verdict = shares(drawn(num, deviation, -MARGIN, PASSES), num)
    assert max(first) <= at_most
    assert max(second) <= 0.055 + 2 * (0.055 * 0.945 / SETS) ** 0.5  # Satterthwaite's approximation: 5.6 % at worst
    assert max(verdict) <= at_most
    assert min(verdict) > 0.02, "far below alpha it would cost power"


@pytest.mark.parametrize(("num", "deviation"), [(200, 0.01), (330, 0.02)])
def test_where_nothing_is_lost_noisy_passes_still_pass(num: int, deviation: float) -> None:
    assert shares(drawn(num, deviation, 0.0, PASSES), num)[2][0] > 0.90


def test_the_planned_number_of_served_conversations_passes_in_four_of_five() -> None:
    deviation = 0.02
    margin = plan(deviation, 100, 0.0, margin=MARGIN, alpha=0.05, noise=PASSES.noise).detectable_margin
    asked = plan(deviation, 100, 0.0, margin=margin, alpha=0.05, noise=PASSES.noise).num_if_unchanged
    assert asked is not None
    passes, fails = shares(drawn(asked, deviation, 0.0, PASSES), asked, margin)[2]
    assert 0.80 - 2 * (0.8 * 0.2 / SETS) ** 0.5 <= passes < 0.87
    assert fails == 0


def test_noise_of_single_answers_errs_on_the_safe_side() -> None:
    """It is in both errors, and so counted twice."""
    answers = Serving(of_pass=0.0, of_answer=0.02)
    first, second, _ = shares(drawn(200, 0.02, -MARGIN, answers), 200)
    assert max(*first, *second) < 0.045


def test_what_is_simulated_is_what_the_gate_finds() -> None:
    served = drawn(200, 0.01, -MARGIN, PASSES)
    strata = np.zeros(200, dtype=np.int64)
    both = intervals(served.counts[:3], strata, 0.90, 999, by_block=served.by_block[:3])
    for place, whole in enumerate(served.first):
        found = paired_difference(conversations(whole, strata), 0.90, num_resamples=999)
        assert found is not None
        for simulated, interval in zip(both, (found.interval, found.second_interval), strict=True):
            assert ends(interval) == pytest.approx(tuple(simulated[place]), abs=1e-12)


def naive_variances(cells: list[list[list[int]]]) -> tuple[float, float]:
    """Of log(1 + change), by plain loops: what the choice of conversations adds, and what the passes add."""
    num, blocks = len(cells), len(cells[0])
    sums = [[sum(cell[b][i] for b in range(blocks)) for i in range(4)] for cell in cells]
    totals = [sum(row[i] for row in sums) for i in range(4)]
    pulls = [row[2] / totals[2] - row[3] / totals[3] - row[0] / totals[0] + row[1] / totals[1] for row in sums]
    mean = sum(pulls) / num
    between = num * sum((pull - mean) ** 2 for pull in pulls) / (num - 1)
    squares = 0.0
    for emitted, rounds in ((0, 1), (2, 3)):
        logs = [
            math.log(sum(cell[b][emitted] for cell in cells) / sum(cell[b][rounds] for cell in cells))
            for b in range(blocks)
        ]
        squares += sum((value - sum(logs) / blocks) ** 2 for value in logs)
    return between, squares / (2 * (blocks - 1)) * 2 / blocks


@pytest.mark.parametrize("num_blocks", [2, 3, 5])
def test_the_standard_error_is_that_of_conversations_and_passes_by_plain_loops(num_blocks: int) -> None:
    made = one(Serving(num_blocks=num_blocks, of_pass=0.004), 50)
    assert made.by_block is not None
    choice, passes = naive_variances(made.by_block.tolist())
    found = paired_difference(made, 0.90, num_resamples=499)
    assert found is not None
    assert found.standard_error == pytest.approx(math.sqrt(choice + passes), rel=1e-9)
    freedom = (choice + passes) ** 2 / (choice**2 / 49 + passes**2 / (2 * (num_blocks - 1)))
    assert found.degrees_of_freedom == pytest.approx(freedom)
    assert min(49, 2 * (num_blocks - 1)) < freedom < 49 + 2 * (num_blocks - 1)


def test_both_roads_add_the_floor_at_t_of_its_few_degrees_of_freedom() -> None:
    """As in the table of t: 2.132 for 4 degrees, where the normal's quantile is 1.645."""
    made = one(PASSES)
    assert made.by_block is not None
    found = paired_difference(made, 0.90, num_resamples=999)
    plain = paired_difference(replace(made, by_block=None), 0.90, num_resamples=999)
    assert found is not None
    assert plain is not None
    floor = 2.1318 * math.sqrt(naive_variances(made.by_block.tolist())[1])
    centre = math.log1p(found.estimate)
    low, high = ends(plain.interval)
    wider = math.hypot(centre - math.log1p(low), floor), math.hypot(math.log1p(high) - centre, floor)
    assert [math.log1p(end) - centre for end in ends(found.interval)] == pytest.approx([-wider[0], wider[1]], rel=1e-4)
    assert ends(found.second_interval)[0] < ends(plain.second_interval)[0]
    assert ends(found.second_interval)[1] > ends(plain.second_interval)[1]
    assert found.estimate == plain.estimate
    for interval in (found.interval, found.second_interval):
        assert interval is not None
        assert interval.method.endswith("with the noise between passes")


def test_a_deterministic_engine_has_exactly_the_interval_of_its_conversations() -> None:
    made = one(Serving(of_pass=0.0))
    assert noise_of(made.by_block) == Spread(error=0.0, freedom=4)  # type: ignore[arg-type]
    found, plain = (paired_difference(it, 0.90, num_resamples=999) for it in (made, replace(made, by_block=None)))
    assert found is not None
    assert plain is not None
    for served, replayed in ((found.interval, plain.interval), (found.second_interval, plain.second_interval)):
        assert ends(served) == ends(replayed)
    assert (found.standard_error, found.degrees_of_freedom) == (plain.standard_error, plain.degrees_of_freedom)


def test_blocks_that_repeat_each_other_add_nothing_to_the_interval() -> None:
    once = one(Serving(num_blocks=1, of_answer=0.05))
    first, second = (bca([counts], change, 0.9, num_resamples=999, seed=1) for counts in (once.counts, 3 * once.counts))
    assert first is not None
    assert second == pytest.approx(first, abs=1e-12)


def test_conversations_that_all_change_alike_still_have_the_noise_of_their_passes() -> None:
    rounds = [[60, 60], [61, 60], [60, 62]]  # of both arms in each block, the same in every conversation
    cells = np.array([[[100, before, 100, after] for before, after in rounds]] * 30)
    found = paired_difference(conversations(cells, np.zeros(30, dtype=np.int64)), 0.90)
    assert found is not None
    for low, high in (ends(found.interval), ends(found.second_interval)):
        assert low < found.estimate - 0.005 < found.estimate + 0.005 < high
    assert ends(found.interval) == pytest.approx(ends(found.second_interval))


def test_arms_that_were_the_same_throughout_have_no_smaller_noise_for_that() -> None:
    """They drifted together, which two arms of one session need not do."""
    cells = np.array([[[100, rounds, 100, rounds] for rounds in (60, 61, 62)]] * 30)
    found = paired_difference(conversations(cells, np.zeros(30, dtype=np.int64)), 0.90)
    assert found is not None
    low, high = ends(found.interval)
    assert low < found.estimate == 0 < high


@pytest.mark.parametrize("cells", [[[[100, 60, 100, 61]]] * 30, [[[100, 60, 100, 61], [0, 0, 100, 60]]] * 30])
def test_blocks_that_do_not_tell_the_noise_leave_no_interval(cells: list[list[list[int]]]) -> None:
    made = conversations(np.array(cells), np.zeros(30, dtype=np.int64))
    found = paired_difference(made, 0.90)
    assert found is not None
    assert (found.interval, found.second_interval, found.standard_error, found.degrees_of_freedom) == (None,) * 4
    assert delta_interval(made, 0.90) is None
    assert p_of_a_loss_beyond(found, MARGIN) is None


def test_the_p_value_of_a_loss_knows_of_the_noise() -> None:
    """It is that of the second interval: at the level where its upper end is the margin."""
    made = one(PASSES, 200, deviation=0.01)
    found = paired_difference(made, 0.90, num_resamples=499)
    assert found is not None
    p = p_of_a_loss_beyond(found, 0.005)
    assert p is not None
    bounds = delta_interval(made, 1 - 2 * p)
    assert bounds is not None
    assert bounds[1] == pytest.approx(-0.005)


def test_two_sources_have_the_degrees_of_freedom_of_welch() -> None:
    """Welch 1947: two means of 5 and 10 observations with variances 20 and 5."""
    first, second = Spread(error=2.0, freedom=4), Spread(error=0.5**0.5, freedom=9)
    both = together(first, second)
    assert both.error**2 == pytest.approx(4.5)
    assert both.freedom == pytest.approx(4.5**2 / (16 / 4 + 0.25 / 9))
    assert together(second, first) == both
    assert together(first, NO_SPREAD) == together(NO_SPREAD, first) == first


def test_noise_asks_for_more_conversations_and_as_large_as_the_margin_for_any() -> None:
    def needed(of_pass: float) -> int | None:
        return plan(0.1, 64, 0.0, margin=MARGIN, alpha=0.05, noise=Serving(of_pass=of_pass).noise).num_if_unchanged

    none, some, twice = needed(0.0), needed(0.002), needed(0.0035)
    assert none is not None
    assert some is not None
    assert twice is not None
    assert none == plan(0.1, 64, 0.0, margin=MARGIN, alpha=0.05).num_if_unchanged
    assert none < some < twice / 2
    assert needed(0.0042) is None


def test_serving_changes_no_count_but_rounds() -> None:
    rng = np.random.default_rng(0)
    made = rng.integers(50, 99, (2, 5, 4))
    quiet = serve(made, Serving(of_pass=0.0), rng)
    assert (quiet.counts == 3 * SCALE * made).all()
    noisy = serve(made, PASSES, rng)
    assert (noisy.counts[..., ::2] == quiet.counts[..., ::2]).all()
    assert (noisy.counts[..., 1::2] != quiet.counts[..., 1::2]).all()
    assert (noisy.first.sum(axis=2) == noisy.counts).all()
    assert (noisy.first.sum(axis=1) == noisy.by_block).all()
