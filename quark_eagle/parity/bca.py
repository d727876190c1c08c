"""BCa: Efron's bias-corrected and accelerated bootstrap interval (1987; Efron and Tibshirani 1993, 14.3 and 15.36).

Written out, because importing `scipy.stats` takes longer than everything else that a verdict does. From the same seed
`scipy.stats.bootstrap` draws the same resamples: that both ends are equal is a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_BATCH = 2000  # resamples held at once: 330 conversations of them are 21 MB

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Statistic = Callable[[IntArray], FloatArray]


def bca(
    groups: Sequence[IntArray], statistic: Statistic, confidence: float, *, num_resamples: int, seed: int
) -> tuple[float, float] | None:
    """Both ends of the interval of a function of totals; None where the resamples all lie on one side of it.

    Args:
        groups: [n, c] int64 each: counts of the n units of one stratum, two or more, resampled within it.
        statistic: from totals [..., c] to [...].
        confidence: of the two-sided interval.
        num_resamples: drawn of each stratum, as many units as it has.
        seed: of the draws.
    """
    from scipy.special import ndtr, ndtri

    found = float(statistic(_total(groups)))
    resampled = _resampled(groups, statistic, num_resamples, seed)
    # Ties count half: totals are whole numbers, so many resamples are exactly what was found.
    bias = ndtri(((resampled < found).sum() + (resampled <= found).sum()) / (2 * num_resamples))
    z = bias + np.array([-1.0, 1.0]) * ndtri((1 + confidence) / 2)
    with np.errstate(invalid="ignore"):  # an infinite bias is told as no interval
        levels = ndtr(bias + z / (1 - _acceleration(groups, statistic) * z))
    if not np.isfinite(levels).all():
        return None
    low, high = np.quantile(resampled, levels)
    return float(low), float(high)


def expanded(confidence: float, num_conversations: int, num_strata: int) -> float:
    """The level at which the bootstrap is asked for an interval of this confidence, so that it is not too short.

    Its spread lacks the factor √(n / (n - strata)) and the normal quantile stands in for t's; both are given back in
    the level (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", expanded percentile interval).

    >>> round(expanded(0.90, 64, 1), 4)
    0.9075
    """
    from scipy.special import ndtr, stdtrit

    freedom = num_conversations - num_strata
    z = math.sqrt(num_conversations / freedom) * float(stdtrit(freedom, (1 + confidence) / 2))
    return min(1 - 2 * float(ndtr(-z)), 0.9999)  # two conversations would ask for a probability of 1


def _total(groups: Sequence[IntArray]) -> IntArray:
    total: IntArray = np.sum([own.sum(axis=0) for own in groups], axis=0)
    return total


def _resampled(groups: Sequence[IntArray], statistic: Statistic, num_resamples: int, seed: int) -> FloatArray:
    """[num_resamples] the statistic of resamples of all strata."""
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, num_resamples, _BATCH):
        size = min(_BATCH, num_resamples - start)
        drawn = [own[rng.integers(0, len(own), (size, len(own)))].sum(axis=1) for own in groups]
        parts.append(statistic(np.sum(drawn, axis=0)))
    return np.concatenate(parts)


def _acceleration(groups: Sequence[IntArray], statistic: Statistic) -> float:
    """The skewness of the statistic, by leaving out one unit at a time."""
    everything = _total(groups)
    third, second = 0.0, 0.0
    for own in groups:
        left_out = statistic(everything - own)
        influence = (left_out.mean() - left_out) * (len(own) - 1) / len(own)
        third += float((influence**3).sum())
        second += float((influence**2).sum())
    return third / (6 * second**1.5) if second > 0 else float("nan")
