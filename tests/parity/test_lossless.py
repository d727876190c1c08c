"""The reference speculative loop, against which replay is held: it gives the target's own distribution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from tests.rejection_sampling import Outcome, Probs, Speculation, Tokens, greedy, random_pair

PROMPT = (0,)
VOCABULARY, NUM_TOKENS = 8, 4
NUM_SAMPLES = 5_000  # of a smaller pair, whose chains come up again and again
FALSE_ALARMS = 1e-4  # of the chi-square test, at its fixed seed


@cache
def pair_of(kind: str, vocabulary: int = VOCABULARY) -> Speculation:
    pair = random_pair(vocabulary, k=3)
    return pair if kind == "probabilistic" else replace(pair, draft=greedy(pair.draft))


@cache
def outcomes_of(kind: str, vocabulary: int = VOCABULARY) -> Mapping[Outcome, float]:
    return pair_of(kind, vocabulary).outcomes(PROMPT, NUM_TOKENS)


def distance(outcomes: Mapping[Outcome, float], pair: Speculation) -> float:
    """Total variation between the answers of the loop and those of the target alone."""
    emitted: dict[Tokens, float] = defaultdict(float)
    for (path, _), mass in outcomes.items():
        emitted[path] += mass
    target = pair.paths(PROMPT, NUM_TOKENS)
    return 0.5 * sum(abs(emitted.get(path, 0.0) - target.get(path, 0.0)) for path in emitted.keys() | target.keys())


@pytest.mark.parametrize("kind", ["greedy", "probabilistic"])
def test_speculation_emits_the_targets_distribution_exactly(kind: str) -> None:
    assert distance(outcomes_of(kind), pair_of(kind)) < 1e-12


def accept_by_inverse_ratio(target: float, draft: float) -> float:
    return min(1.0, draft / target)


def accept_by_target(target: float, draft: float) -> float:
    return target


def residual_without_draft(target: Probs, draft: Probs) -> Probs:
    return target


def residual_of_the_draft(target: Probs, draft: Probs) -> Probs:
    left = np.maximum(0.0, draft - target)
    wrong: Probs = left / left.sum()
    return wrong


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("accept", accept_by_inverse_ratio),
        ("accept", accept_by_target),
        ("residual", residual_without_draft),
        ("residual", residual_of_the_draft),
    ],
)
def test_a_wrong_rule_is_not_lossless(part: str, wrong: Callable[..., Any]) -> None:
    pair = replace(pair_of("probabilistic", 4), **{part: wrong})
    assert distance(pair.outcomes(PROMPT, NUM_TOKENS), pair) > 0.01


def judged(pair: Speculation, path: Tokens, lengths: Tokens, share: Callable[[float, float], float]) -> float:
    """P(lengths | path), if an emitted token y had been accepted with probability share(draft(y), target(y))."""
    known, place, factors = PROMPT + path[:1], 1, []
    for length in lengths:
        chain = path[place : place + length + 1]  # the accepted tokens, and the one that ended the round
        for step, y in enumerate(chain[: pair.k]):
            is_last = place + step == len(path) - 1  # whether that one was accepted makes no clipped length another
            draft, target = pair.draft(known, chain[:step])[y], pair.target(known + chain[:step])[y]
            accepted = share(draft, target)
            factors.append(accepted if step < length else 1.0 if is_last else 1.0 - accepted)
        known, place = known + chain, place + len(chain)
    return prod(factors)


@pytest.mark.parametrize("kind", ["greedy", "probabilistic"])
def test_an_emitted_token_was_accepted_with_probability_min_of_1_and_draft_over_target(kind: str) -> None:
    """The law of replay, on every outcome: P(path, lengths) = P(path) · P(lengths | path)."""
    pair = pair_of(kind)
    paths = pair.paths(PROMPT, NUM_TOKENS)
    for (path, lengths), mass in outcomes_of(kind).items():
        conditional = judged(pair, path, lengths, lambda draft, target: min(1.0, draft / target))
        assert mass == pytest.approx(paths[path] * conditional, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    "share",
    [lambda draft, target: draft / target, lambda draft, target: min(1.0, target / draft), lambda draft, target: draft],
    ids=["no min", "inverse", "no target"],
)
def test_another_probability_of_acceptance_is_not_that_of_the_loop(share: Callable[[float, float], float]) -> None:
    pair = pair_of("probabilistic")
    paths = pair.paths(PROMPT, NUM_TOKENS)
    off = (
        abs(mass - paths[path] * judged(pair, path, lengths, share))
        for (path, lengths), mass in outcomes_of("probabilistic").items()
    )
    assert sum(off) > 0.1


@pytest.mark.parametrize("kind", ["greedy", "probabilistic"])
def test_the_loop_with_random_numbers_has_the_outcomes_of_the_sum(kind: str) -> None:
    """Chi-square over accepted lengths and second tokens: the sum is what replay is held against, the loop a server."""
    pair = pair_of(kind, 4)
    expected: dict[tuple[Tokens, int], float] = defaultdict(float)
    for (path, lengths), mass in outcomes_of(kind, 4).items():
        expected[lengths, path[1]] += mass
    rng = np.random.default_rng(1)
    observed: dict[tuple[Tokens, int], int] = defaultdict(int)
    for _ in range(NUM_SAMPLES):
        path, lengths = pair.sample(PROMPT, NUM_TOKENS, rng)
        observed[lengths, path[1]] += 1
    assert observed.keys() <= expected.keys()
    common = [key for key, mass in expected.items() if mass * NUM_SAMPLES >= 5]
    rest = 1 - sum(expected[key] for key in common)
    cells = [(observed[key], expected[key] * NUM_SAMPLES) for key in common]
    if rest * NUM_SAMPLES >= 5:
        cells.append((NUM_SAMPLES - sum(observed[key] for key in common), rest * NUM_SAMPLES))
    statistic = sum((seen - mean) ** 2 / mean for seen, mean in cells)
    assert statistic < chi2.ppf(1 - FALSE_ALARMS, len(cells) - 1)
    assert len({lengths for lengths, _ in expected}) == 4, "(0, 0, 0), (0, 1), (1, 0) and (2,) should occur"
