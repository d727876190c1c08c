"""BCa: Efron's bias-corrected and accelerated bootstrap interval (1987; Efron and Tibshirani 1993, 14.3 and 15.36).

Written out, because importing `scipy.stats` takes longer than everything else that a verdict does. From the same seed
`scipy.stats.bootstrap` draws the same resamples: that both ends are equal is a test.

Units may have been measured several times, in blocks that all of them share. Then units and blocks are drawn
independently of each other (the pigeonhole bootstrap: Owen 2007, "The pigeonhole bootstrap", Annals of Applied
Statistics 1), which counts what belongs to a unit, to a block, and to neither; of the last it counts up to three times
too much, so its interval errs on the wide side. How skewed the statistic is (the acceleration) is still told from the
units: a handful of blocks cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_BATCH = 2000  # resamples held at once: 330 conversations of them are 21 MB, and so many more in each block

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Statistic = Callable[[IntArray], FloatArray]


def bca(
    groups: Sequence[IntArray], statistic: Statistic, confidence: float, *, num_resamples: int, seed: int
) -> tuple[float, float] | None:
    """Both ends of the interval of a function of totals; None where the resamples all lie on one side of it.

    Args:
        groups: [n, c] int64 each: counts of the n units of one stratum, two or more, resampled within it; or [n, B, c],
            of B blocks that all units share.
        statistic: from totals [..., c] to [...].
        confidence: of the two-sided interval.
        num_resamples: drawn of each stratum, as many units as it has.
        seed: of the draws.
    """
    from scipy.special import ndtr, ndtri

    whole = [own if own.ndim == 2 else own.sum(axis=1) for own in groups]  # [n, c] each
    found = float(statistic(_total(whole)))
    resampled = _resampled(groups, statistic, num_resamples, seed)
    # Ties count half: totals are whole numbers, so many resamples are exactly what was found.
    bias = ndtri(((resampled < found).sum() + (resampled <= found).sum()) / (2 * num_resamples))
    z = bias + np.array([-1.0, 1.0]) * ndtri((1 + confidence) / 2)
    with np.errstate(invalid="ignore"):  # an infinite bias is told as no interval
        levels = ndtr(bias + z / (1 - _acceleration(whole, statistic) * z))
    if not np.isfinite(levels).all():
        return None
    low, high = np.quantile(resampled, levels)
    return float(low), float(high)


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
        totals: IntArray = np.sum(drawn, axis=0)  # [size, c] or [size, B, c]
        parts.append(statistic(totals if totals.ndim == 2 else _blocks_drawn(totals, rng)))
    return np.concatenate(parts)


def _blocks_drawn(totals: IntArray, rng: np.random.Generator) -> IntArray:
    """[size, c] of totals [size, B, c]: in each resample as many blocks as there are, drawn with replacement."""
    size, num_blocks, _ = totals.shape
    blocks = rng.integers(0, num_blocks, (size, num_blocks))
    drawn: IntArray = np.take_along_axis(totals, blocks[:, :, None], axis=1).sum(axis=1)
    return drawn


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
