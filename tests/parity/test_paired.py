from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quark_eagle.documents.verdict import Interval
from quark_eagle.parity.bca import expanded
from quark_eagle.parity.paired import (
    MIN_STRATUM,
    Conversations,
    influences,
    paired_difference,
    standard_error,
    strata_of,
)
from tests.parity.counted import counted, many, walk_of

NORMAL = NormalDist()
COUNTS = st.lists(
    st.tuples(st.integers(50, 99), st.integers(50, 99)).map(lambda rounds: (100, rounds[0], 100, rounds[1])),
    min_size=2,
    max_size=12,
)


def conversations(rows: Sequence[Sequence[int]], strata: Sequence[int] | None = None) -> Conversations:
    return Conversations(
        counts=np.array(rows, dtype=np.int64),
        strata=np.array(strata or [0] * len(rows), dtype=np.int64),
        num_prompts=len(rows),
    )


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def skewed(num: int, seed: int) -> list[tuple[int, int, int, int]]:
    """Long and short conversations; a few of the long ones lose a lot."""
    chooser = random.Random(seed)
    rows = []
    for i in range(num):
        tokens = chooser.choice([20, 60, 200, 600])
        before = round(tokens * chooser.uniform(0.4, 0.9))
        after = round(before * (1.25 if i % 9 == 0 else chooser.uniform(0.99, 1.02)))
        rows.append((tokens, before, tokens, min(after, tokens)))
    return rows


def naive_change(rows: Sequence[Sequence[int]]) -> float:
    emitted_b, rounds_b, emitted_c, rounds_c = (sum(row[i] for row in rows) for i in range(4))
    return (emitted_c / rounds_c) / (emitted_b / rounds_b) - 1


def naive_bca(
    groups: Sequence[Sequence[Sequence[int]]], level: float, num_resamples: int, corrected: bool = True
) -> tuple[float, float]:
    """Efron's BCa by plain loops, of several samples (Efron 1987; Davison and Hinkley 1997, 5.3.2)."""
    chooser = random.Random(12345)
    drawn = sorted(
        naive_change([row for group in groups for row in chooser.choices(group, k=len(group))])
        for _ in range(num_resamples)
    )
    estimate = naive_change([row for group in groups for row in group])
    below = sum(value < estimate for value in drawn) + sum(value == estimate for value in drawn) / 2
    z0, cubes, squares = NORMAL.inv_cdf(below / num_resamples), 0.0, 0.0
    for place, group in enumerate(groups):
        others = [row for other, rows in enumerate(groups) if other != place for row in rows]
        left_out = [naive_change([*others, *group[:i], *group[i + 1 :]]) for i in range(len(group))]
        mean = sum(left_out) / len(group)
        pulls = [(len(group) - 1) * (mean - value) / len(group) for value in left_out]
        cubes += sum(pull**3 for pull in pulls)
        squares += sum(pull**2 for pull in pulls)
    acceleration = cubes / (6 * squares**1.5) if corrected else 0.0
    found = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = (z0 if corrected else 0.0) + NORMAL.inv_cdf(tail)
        share = NORMAL.cdf((z0 if corrected else 0.0) + z / (1 - acceleration * z))
        found.append(drawn[round(share * (num_resamples - 1))])
    return found[0], found[1]


@pytest.mark.parametrize("sizes", [(40,), (24, 30)], ids=["one stratum", "two strata"])
def test_the_interval_is_that_of_a_naive_bca(sizes: tuple[int, ...]) -> None:
    groups = [skewed(size, seed) for seed, size in enumerate(sizes)]
    strata = [place for place, size in enumerate(sizes) for _ in range(size)]
    found = paired_difference(conversations([row for group in groups for row in group], strata), 0.90)
    assert found is not None
    level = expanded(0.90, sum(sizes), len(sizes))
    low, high = ends(found.interval)
    naive = naive_bca(groups, level, 4000)
    tolerance = 0.04 * (high - low)  # of two independent bootstraps; an end's own noise is some 1 % of the width
    assert (low, high) == pytest.approx(naive, abs=tolerance)
    plain = naive_bca(groups, level, 4000, corrected=False)
    assert abs(low - plain[0]) > tolerance or abs(high - plain[1]) > tolerance, "the data should tell BCa from plain"


def test_the_expanded_level_gives_back_what_small_samples_lack() -> None:
    assert expanded(0.90, 1_000_000, 10) == pytest.approx(0.90, abs=1e-4)
    assert expanded(0.90, 20, 1) > expanded(0.90, 64, 1) > 0.90
    assert expanded(0.90, 2, 1) < 1


def test_identical_arms_are_exactly_no_change() -> None:
    found = paired_difference(conversations([(100, 60, 100, 60), (80, 70, 80, 70)]), 0.90)
    assert found is not None
    assert found.estimate == 0
    assert ends(found.interval) == ends(found.second_interval) == (0, 0)


def test_conversations_that_all_change_alike_leave_nothing_to_resample() -> None:
    found = paired_difference(conversations([(100, 50, 100, 60), (200, 100, 200, 120), (100, 50, 100, 60)]), 0.90)
    assert found is not None
    assert found.estimate == pytest.approx(-1 / 6)
    assert ends(found.interval) == pytest.approx(ends(found.second_interval)) == (found.estimate, found.estimate)


def test_one_conversation_has_no_interval() -> None:
    found = paired_difference(conversations([(100, 60, 100, 61)]), 0.90)
    assert found is not None
    assert (found.interval, found.second_interval, found.standard_error) == (None, None, None)


@pytest.mark.parametrize("row", [(0, 0, 0, 0), (100, 60, 0, 0)])
def test_a_draft_that_made_no_round_has_no_difference(row: tuple[int, ...]) -> None:
    assert paired_difference(conversations([row]), 0.90) is None


def test_the_change_is_a_ratio_of_sums_and_not_a_mean_of_ratios() -> None:
    found = paired_difference(conversations([(1000, 500, 1000, 500), (10, 5, 10, 10)]), 0.90)
    assert found is not None
    assert found.estimate == pytest.approx(505 / 510 - 1)


def test_the_order_of_prompts_does_not_change_anything() -> None:
    prompts = many(50, loss=0.02, categories=("coding", "math"))
    shuffled = random.Random(3).sample(prompts, len(prompts))
    there, here = (paired_difference(Conversations.of(p), 0.90, num_resamples=999) for p in (prompts, shuffled))
    assert there == here


def test_the_turns_of_one_conversation_are_one_conversation() -> None:
    whole = counted("a", walk_of(120, 200), walk_of(130, 200))
    turns = [counted("a", walk_of(60, 100), walk_of(70, 100)), counted("a", walk_of(60, 100), walk_of(60, 100))]
    other = counted("b", walk_of(60, 100), walk_of(60, 100))
    together, apart = Conversations.of([whole, other]), Conversations.of([*turns, other])
    assert together.counts.tolist() == apart.counts.tolist()
    assert (together.num_prompts, apart.num_prompts) == (2, 3)


def test_equal_ids_in_two_categories_are_two_conversations() -> None:
    same = [counted("a", [20, 40], [20, 40], category=category) for category in ("coding", "math")]
    assert len(Conversations.of(same)) == 2


def test_the_interval_does_not_depend_on_what_categories_are_called() -> None:
    prompts = many(60, loss=0.02, categories=("coding", "math", "qa"))
    renamed = [p.model_copy(update={"category": f"x-{p.category}"}) for p in prompts]
    there, here = (paired_difference(Conversations.of(p), 0.90, num_resamples=999) for p in (prompts, renamed))
    assert there == here
    assert there is not None
    assert there.num_strata == 3


def test_small_categories_are_resampled_together() -> None:
    large, small = ["coding"] * MIN_STRATUM, ["math", "qa"] * (MIN_STRATUM // 2)
    assert strata_of([*large, *small]).tolist() == [1] * MIN_STRATUM + [0] * MIN_STRATUM
    assert len(set(strata_of(small).tolist())) == 1
    assert set(strata_of([*large, "math"]).tolist()) == {1}, "one that is left over cannot be resampled alone"


def test_many_small_categories_do_not_make_the_interval_shorter() -> None:
    # Within strata of two a bootstrap has half of the variance: this is what made false passes.
    one = many(60, loss=0.01, noise=4)
    thirty = [p.model_copy(update={"category": f"category-{i // 2:02}"}) for i, p in enumerate(one)]
    first, second = (paired_difference(Conversations.of(p), 0.90, num_resamples=1999) for p in (one, thirty))
    assert first is not None
    assert second is not None
    widths = [high - low for low, high in (ends(first.interval), ends(second.interval))]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


@given(COUNTS)
@settings(max_examples=50, deadline=None)
def test_influences_sum_to_nothing(rows: list[tuple[int, int, int, int]]) -> None:
    assert influences(conversations(rows)).sum() == pytest.approx(0, abs=1e-12)


@given(COUNTS)
@settings(max_examples=30, deadline=None)
def test_swapping_the_arms_inverts_the_change(rows: list[tuple[int, int, int, int]]) -> None:
    forth = paired_difference(conversations(rows), 0.90, num_resamples=99)
    back = paired_difference(conversations([(c, d, a, b) for a, b, c, d in rows]), 0.90, num_resamples=99)
    assert forth is not None
    assert back is not None
    assert (1 + forth.estimate) * (1 + back.estimate) == pytest.approx(1)
    (low, high), (back_low, back_high) = ends(forth.second_interval), ends(back.second_interval)
    assert (1 + low) * (1 + back_high) == pytest.approx(1)
    assert (1 + high) * (1 + back_low) == pytest.approx(1)


def test_swapping_the_arms_inverts_the_bootstrap_too() -> None:
    rows = skewed(60, 1)
    forth = paired_difference(conversations(rows), 0.90)
    back = paired_difference(conversations([(c, d, a, b) for a, b, c, d in rows]), 0.90)
    assert forth is not None
    assert back is not None
    (low, high), (back_low, back_high) = ends(forth.interval), ends(back.interval)
    assert 1 / (1 + back_high) - 1 == pytest.approx(low, abs=0.02 * (high - low))
    assert 1 / (1 + back_low) - 1 == pytest.approx(high, abs=0.02 * (high - low))


@given(COUNTS, st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_as_many_tokens_in_every_conversation_do_not_make_it_surer(
    rows: list[tuple[int, int, int, int]], times: int
) -> None:
    longer = [tuple(times * value for value in row) for row in rows]
    assert standard_error(conversations(longer)) == pytest.approx(standard_error(conversations(rows)))


@pytest.mark.parametrize("copies", [4, 9])
def test_four_times_the_conversations_halve_the_standard_error(copies: int) -> None:
    rows = skewed(50, 2)
    few, more = standard_error(conversations(rows)), standard_error(conversations(rows * copies))
    assert few is not None
    assert more == pytest.approx(few / copies**0.5, rel=0.02)


def test_the_seed_alone_decides_the_draws() -> None:
    drawn: Callable[[int], object] = lambda seed: paired_difference(  # noqa: E731
        conversations(skewed(40, 0)), 0.90, num_resamples=500, seed=seed
    )
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
