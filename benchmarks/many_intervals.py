"""The gate's two intervals for thousands of data sets at once: what makes a simulation of it a matter of minutes.

All data sets of one design are resampled alike (the gate's seed is fixed, too), so their resamples are one product of
a matrix of multiplicities with all counts. The draws are those that scipy makes from the same seed: each interval is
the one that `parity.paired` finds, to rounding, which `gate_simulation.py` sees to.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import t

from quark_eagle.parity.bca import expanded
from quark_eagle.parity.paired import change

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_SCIPY_BATCH = 2000  # as `parity.paired` passes it: it decides the order of draws
_SETS_AT_ONCE = 200


def intervals(
    counts: IntArray,
    strata: IntArray,
    confidence: float,
    num_resamples: int,
    seed: int = 0,
    by_block: IntArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """(BCa, delta method) of every data set, each [sets, 2].

    Args:
        counts: [sets, C, 4], as `Conversations` has them.
        strata: [C], the same for all data sets.
        confidence: of the two-sided intervals.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
        by_block: [sets, B, 4], totals over all conversations; None where the drafts were replayed.
    """
    multiplicities = np.concatenate(list(_multiplicities(strata, num_resamples, seed)))  # [resamples, C]
    level = expanded(confidence, len(strata), len(np.unique(strata)))
    found = [
        _bca(counts[start : start + _SETS_AT_ONCE], strata, level, multiplicities)
        for start in range(0, len(counts), _SETS_AT_ONCE)
    ]
    noise = None if by_block is None else _noise(by_block)
    bootstrapped = np.concatenate(found)
    if noise is not None:
        bootstrapped = _widened(bootstrapped, change(counts.sum(axis=1)), *noise, confidence)
    return bootstrapped, _delta(counts, strata, confidence, noise)


def _multiplicities(strata: IntArray, num_resamples: int, seed: int) -> Iterator[npt.NDArray[np.float32]]:
    """How often each resample holds each conversation."""
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    for start in range(0, num_resamples, _SCIPY_BATCH):
        size = min(_SCIPY_BATCH, num_resamples - start)
        drawn = np.concatenate([group[rng.integers(0, len(group), (size, len(group)))] for group in groups], axis=1)
        flat = drawn + np.arange(size)[:, None] * len(strata)
        yield np.bincount(flat.ravel(), minlength=size * len(strata)).reshape(size, -1).astype(np.float32)


def _bca(counts: IntArray, strata: IntArray, confidence: float, multiplicities: npt.NDArray[np.float32]) -> FloatArray:
    sets, n, _ = counts.shape
    laid = counts.transpose(1, 0, 2).reshape(n, -1).astype(np.float32)  # sums below 2**24 are exact
    drawn = np.sort(change((multiplicities @ laid).reshape(-1, sets, 4)), axis=0)  # [resamples, sets]
    totals = counts.sum(axis=1)
    estimate = change(totals)
    z0 = ndtri(((drawn < estimate).mean(axis=0) + (drawn <= estimate).mean(axis=0)) / 2)
    left_out = change(totals[:, None] - counts)  # [sets, C]
    cubes, squares = np.zeros(sets), np.zeros(sets)
    for stratum in np.unique(strata):
        own = left_out[:, strata == stratum]
        size = own.shape[1]
        influence = (size - 1) * (own.mean(axis=1, keepdims=True) - own)
        cubes += (influence**3).sum(axis=1) / size**3
        squares += (influence**2).sum(axis=1) / size**2
    acceleration = cubes / (6 * squares**1.5)
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = z0 + ndtri(tail)
        ends.append(_quantile(drawn, ndtr(z0 + z / (1 - acceleration * z))))
    return np.stack(ends, axis=1)


def _noise(by_block: IntArray) -> tuple[FloatArray, int]:
    """The squared standard error that serving adds to log(1 + change), [sets], and its degrees of freedom."""
    logs = np.log(by_block[..., ::2] / by_block[..., 1::2])  # [sets, B, arms]
    num_blocks = logs.shape[1]
    variance: FloatArray = logs.var(axis=1, ddof=1).sum(axis=1) / num_blocks  # of two means of B
    return variance, 2 * (num_blocks - 1)


def _widened(
    ends: FloatArray, estimate: FloatArray, variance: FloatArray, freedom: int, confidence: float
) -> FloatArray:
    centre, floor = np.log1p(estimate), t.ppf((1 + confidence) / 2, freedom) * np.sqrt(variance)
    reach = np.hypot(np.log1p(ends) - centre[:, None], floor[:, None])
    result: FloatArray = np.expm1(centre[:, None] + reach * [-1, 1])
    return result


def _delta(counts: IntArray, strata: IntArray, confidence: float, noise: tuple[FloatArray, int] | None) -> FloatArray:
    totals = counts.sum(axis=1)
    shares = counts / totals[:, None]
    influence = shares[..., 2] - shares[..., 3] - shares[..., 0] + shares[..., 1]
    variance = np.zeros(len(counts))
    for stratum in np.unique(strata):
        own = influence[:, strata == stratum]
        variance += own.shape[1] * own.var(axis=1, ddof=1)
    freedom: FloatArray | int = counts.shape[1] - len(np.unique(strata))
    if noise is not None:  # Satterthwaite
        freedom = (variance + noise[0]) ** 2 / (variance**2 / freedom + noise[0] ** 2 / noise[1])
        variance = variance + noise[0]
    half = np.sqrt(variance) * t.ppf((1 + confidence) / 2, freedom)
    centre = np.log1p(change(totals))
    ends: FloatArray = np.expm1(np.stack([centre - half, centre + half], axis=1))
    return ends


def _quantile(ordered: FloatArray, share: FloatArray) -> FloatArray:
    """Of each column, at a share of its own, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = np.floor(place).astype(np.int64).clip(0, len(ordered) - 2)
    columns = np.arange(ordered.shape[1])
    low, high = ordered[below, columns], ordered[below + 1, columns]
    result: FloatArray = low + (place - below) * (high - low)
    return result
