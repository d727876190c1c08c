"""The delta method: a t interval from what each conversation adds to an estimate, to first order (its influence).

The variance is taken between conversations, within strata, for they are what was drawn; it is in closed form and has no
seed. Here is the one place where it is worked out: for the verdict's second road, for plans, and for `explain`.

An error with two independent sources has the sum of their variances. Each is an estimate of its own quality, and the
sum is as good as Welch and Satterthwaite's degrees of freedom say (Satterthwaite 1946, "An Approximate Distribution of
Estimates of Variance Components", Biometrics Bulletin 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ROUNDING = 1e-12  # a standard error below it is of conversations that are all alike

Bounds = tuple[float, float]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A standard error, and how well it is known.

    Attributes:
        error: the standard error, 0 or more.
        freedom: degrees of freedom of the variance whose root it is; of two sources not a whole number.
    """

    error: float
    freedom: float


NO_SPREAD = Spread(error=0.0, freedom=1)


def together(first: Spread, second: Spread) -> Spread:
    """Of two independent sources; exactly one of them where the other is 0.

    >>> together(Spread(error=3.0, freedom=9), Spread(error=4.0, freedom=4))  # 625 / (81 / 9 + 256 / 4)
    Spread(error=5.0, freedom=8.561643835616438)
    """
    if first.error == 0 or second.error == 0:
        return second if first.error == 0 < second.error else first
    one, two = first.error**2, second.error**2
    freedom = (one + two) ** 2 / (one**2 / first.freedom + two**2 / second.freedom)
    return Spread(error=float(np.sqrt(one + two)), freedom=freedom)


def standard_error_of(influence: FloatArray, strata: IntArray) -> float | None:
    """Of the sum of influences [C]; None without a degree of freedom."""
    if degrees_of_freedom(strata) < 1:
        return None
    groups = (influence[strata == stratum] for stratum in np.unique(strata))
    # Of a sum of len(group) independent terms; a lone conversation of a stratum tells no variance.
    variance = sum(len(group) * float(group.var(ddof=1)) for group in groups if len(group) > 1)
    return float(np.sqrt(variance)) if variance > _ROUNDING**2 else 0.0


def degrees_of_freedom(strata: IntArray) -> int:
    """Of that variance: conversations less strata."""
    return len(strata) - len(set(strata.tolist()))


def t_interval(estimate: float, error: float | None, freedom: float, confidence: float) -> Bounds | None:
    """``estimate`` ± t · ``error``; None without an error or a degree of freedom.

    >>> [round(end, 2) for end in t_interval(0.0, 1.0, 5, 0.90)]
    [-2.02, 2.02]
    """
    if error is None or freedom < 1:
        return None
    from scipy.special import stdtrit  # a tenth of the second that scipy.stats takes to import

    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return estimate - half, estimate + half
