from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from quark_eagle.parity.bca import bca
from quark_eagle.parity.paired import change


def groups_of(sizes: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Counts of strata, as conversations have them: emitted tokens and rounds of two drafts."""
    rng = np.random.default_rng(seed)
    groups = []
    for size in sizes:
        emitted = rng.integers(20, 128, size)
        rounds = [np.ceil(emitted / rng.uniform(1.2, 2.6, size)).astype(np.int64) for _ in range(2)]
        groups.append(np.stack([emitted, rounds[0], emitted, rounds[1]], axis=1))
    return groups


@pytest.mark.parametrize(("sizes", "seed"), [((64,), 0), ((20, 33, 41), 1), ((2, 90), 2), ((330,), 3)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_both_ends_are_those_of_scipys_bootstrap(sizes: tuple[int, ...], seed: int, confidence: float) -> None:
    groups = groups_of(sizes, seed)
    starts = np.cumsum([0, *sizes[:-1]])
    table = np.concatenate(groups)

    def statistic(*chosen: np.ndarray, axis: int) -> np.ndarray:
        return change(sum(table[indices].sum(axis=-2) for indices in chosen))

    reference = bootstrap(
        [start + np.arange(size) for start, size in zip(starts, sizes, strict=True)],
        statistic,
        n_resamples=4999,
        confidence_level=confidence,
        method="BCa",
        vectorized=True,
        batch=2000,
        rng=np.random.default_rng(7),
    ).confidence_interval
    ends = bca(groups, change, confidence, num_resamples=4999, seed=7)
    assert ends == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_resamples_that_cannot_differ_have_no_interval() -> None:
    alike = np.tile(np.array([[30, 20, 30, 21]]), (12, 1))
    assert bca([alike], change, 0.9, num_resamples=499, seed=0) is None
