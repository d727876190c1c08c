"""Walks of two drafts whose true difference is known: what the gate's errors are measured on.

A conversation has a chance p that a proposed token is right; its logit is the category's mean plus a normal deviation.
A chain ends at its first wrong token, so at every start j of k tokens are accepted with chance p^j (1 - p). The
candidate draws at each start the same number as the baseline, or, with chance `redraw`, one of its own: the arms agree
in most places, as a BF16 draft and its FP8 copy do. Its logit is lower by a shift that is the same for all, or falls on
a share of the conversations, and varies between them. Both walk the path as a server would, so accepted + rounds =
T - 1 holds of every conversation exactly.

**The truth** is of a ratio of sums, for the mix of categories that was chosen: expected tokens per expected round, of
the candidate over the baseline, minus 1, the expectations being weighted by how many conversations each category has.
It is what the estimate tends to as conversations are added in that mix. It is computed, not simulated: a path's
expected rounds are a renewal sum, and the normal deviation is integrated out by Gauss-Hermite quadrature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from quark_eagle.documents.counts import PromptResult
from quark_eagle.parity.paired import Conversations, standard_error, strata_of

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)  # of a standard normal, once the weights sum to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Where conversations come from.

    Attributes:
        lengths: tokens after the first; each conversation draws one of them.
        means: mean logit of p in each category.
        spread: its standard deviation within a category.
        redraw: chance that the candidate's number at a start is its own.
        shift_spread: standard deviation of the candidate's shift between conversations.
        share: of the conversations that the shift falls on.
        k: tokens proposed per draft.
    """

    lengths: tuple[int, ...]
    means: tuple[float, ...]
    spread: float
    redraw: float
    shift_spread: float
    share: float = 1.0
    k: int = 3

    def sizes(self, num_conversations: int) -> IntArray:
        """[categories] conversations of each, as equal as can be."""
        whole, rest = divmod(num_conversations, len(self.means))
        return np.array([whole + (place < rest) for place in range(len(self.means))], dtype=np.int64)

    def true_change(self, shift: float, num_conversations: int) -> float:
        """Of τ, relative: see the module."""
        sizes, wide = self.sizes(num_conversations), float(np.hypot(self.spread, self.shift_spread))
        before = self._expected_rounds(self.spread, 0.0) @ sizes
        hit, spared = (self._expected_rounds(wide, by) @ sizes for by in (shift, 0.0))
        return float(before / (self.share * hit + (1 - self.share) * spared)) - 1

    def shift_of(self, change: float, num_conversations: int) -> float:
        """The shift whose true change this is, by bisection."""
        low, high = -3.0, 3.0  # a higher shift loses more
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.true_change(middle, num_conversations) > change else (low, middle)
        return (low + high) / 2

    def deviation(self, num_conversations: int, num_drawn: int = 10_000) -> float:
        """Of one conversation's influence on log(1 + change) at no true change, as `parity.power` means it."""
        size = 100 * len(self.means)
        sets = max(1, num_drawn // size)
        many = replace(self, means=self.means * 100)  # the same mix, many times over
        counts, categories = simulate(many, self.shift_of(0.0, num_conversations), size, sets, np.random.default_rng(0))
        errors = [standard_error(conversations(rows, categories % len(self.means))) for rows in counts]
        return float(np.sqrt(size * np.mean(np.square(np.array(errors, dtype=np.float64)))))

    def _expected_rounds(self, spread: float, shift: float) -> FloatArray:
        """[categories], over lengths and deviations."""
        logits = np.asarray(self.means)[:, None] - shift + spread * _NODES  # [categories, nodes]
        p = 1 / (1 + np.exp(-logits))
        accepted = [p**j * (1 - p) for j in range(self.k)] + [p**self.k]  # chance of j accepted
        rounds = [np.zeros_like(p)]  # on a path with n tokens left
        for n in range(1, max(self.lengths) + 1):
            rounds.append(1 + sum(chance * rounds[max(0, n - 1 - j)] for j, chance in enumerate(accepted)))
        lengths, times = np.unique(self.lengths, return_counts=True)
        mean = sum(rounds[length] * often for length, often in zip(lengths, times, strict=True)) / times.sum()
        expected: FloatArray = mean @ (_WEIGHTS / _WEIGHTS.sum())
        return expected


def simulate(
    population: Population, shift: float, num_conversations: int, num_sets: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Data sets of conversations: counts [sets, C, 4] as `Conversations` has them, and categories [C]."""
    categories = np.repeat(np.arange(len(population.means)), population.sizes(num_conversations))
    shape = (num_sets, num_conversations)
    length = rng.choice(population.lengths, shape)
    logit = np.asarray(population.means)[categories] + population.spread * rng.standard_normal(shape)
    falls = rng.random(shape) < population.share
    shifted = logit - shift * falls + population.shift_spread * rng.standard_normal(shape)
    powers = [_powers(values, population.k) for values in (logit, shifted)]
    at = [np.zeros(shape, np.int64) for _ in powers]  # the start where each arm stands
    rounds = [np.zeros(shape, np.int64) for _ in powers]
    for start in range(max(population.lengths)):
        common = rng.random(shape, dtype=np.float32)
        own = np.where(rng.random(shape, dtype=np.float32) < population.redraw, rng.random(shape, np.float32), common)
        for arm, drawn in enumerate((common, own)):
            here = (at[arm] == start) & (start < length)
            rounds[arm] += here
            accepted = sum((drawn < power).astype(np.int64) for power in powers[arm])
            at[arm] += here * (accepted + 1)  # past the end is where it was clipped
    counts = np.stack([length, rounds[0], length, rounds[1]], axis=-1)
    return counts.astype(np.int64), categories


def conversations(counts: IntArray, categories: IntArray) -> Conversations:
    """One data set as the gate takes it."""
    strata = strata_of([str(category) for category in categories])
    return Conversations(counts=counts, strata=strata, num_prompts=len(counts))


def fit(prompts: Sequence[PromptResult], lengths: Sequence[int] | None = None) -> Population:
    """The population whose moments a measurement has.

    Mean and spread of p are those of the baseline's prompts, the binomial noise of each taken off. The variance of the
    change is matched half by independent draws and half by a shift that varies: which of the two it is cannot be told
    from some dozens of prompts, and the second is the harder for an interval.
    """
    k = len(prompts[0].baseline.walk) - 1
    tried = np.array([[_successes(p.baseline.walk), _trials(p.baseline.walk)] for p in prompts], dtype=np.float64)
    categories = sorted({p.category for p in prompts})
    member = np.array([categories.index(p.category) for p in prompts])
    totals = np.array([tried[member == c].sum(axis=0) for c in range(len(categories))])
    pooled, trials = totals[member, 0] / totals[member, 1], tried[:, 1]
    binomial = trials * pooled * (1 - pooled)
    excess = (tried[:, 0] - trials * pooled) ** 2 - binomial  # beyond chance: of p, times trials²
    spread = np.sqrt(max(0.0, excess.sum() / (binomial**2).sum()))  # of the logit: d logit = dp / (p (1 - p))
    population = Population(
        lengths=tuple(lengths or (p.num_generated_tokens - 1 for p in prompts if p.num_generated_tokens > 1)),
        means=tuple(_logit(totals[:, 0], totals[:, 1]).tolist()),
        spread=float(spread),
        redraw=0.0,
        shift_spread=0.0,
        k=k,
    )
    measured = Conversations.of(prompts)
    deviation = (standard_error(measured) or 0.0) * np.sqrt(len(measured))
    population = _matched(population, "redraw", 1.0, deviation * np.sqrt(0.5))
    return _matched(population, "shift_spread", 2.0, deviation)


def _matched(population: Population, field: str, high: float, deviation: float) -> Population:
    """The population with one field set so that it has this deviation."""
    low = 0.0
    for _ in range(12):
        middle = (low + high) / 2
        found = replace(population, **{field: middle}).deviation(len(population.means), 4_000)
        low, high = (middle, high) if found < deviation else (low, middle)
    return replace(population, **{field: (low + high) / 2})


def _powers(logit: FloatArray, k: int) -> list[npt.NDArray[np.float32]]:
    p = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return [p**j for j in range(1, k + 1)]


def _successes(walk: Sequence[int]) -> int:
    return sum(j * count for j, count in enumerate(walk))


def _trials(walk: Sequence[int]) -> int:
    """Proposals that were looked at: a chain's accepted ones and the first wrong one."""
    return _successes(walk) + sum(walk[:-1])


def _logit(successes: FloatArray, trials: FloatArray) -> FloatArray:
    result: FloatArray = np.log((successes + 0.5) / (trials - successes + 0.5))  # finite where none or all were right
    return result
