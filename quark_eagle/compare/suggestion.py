"""Which of several ways to quantize is worth the next step: the simplest that is not told apart from the best."""

from __future__ import annotations

from collections.abc import Sequence

from quark_eagle.documents.schemes import SchemeResult


def suggested(results: Sequence[SchemeResult]) -> str | None:
    """Name of one of the results; None if none of them is verified and measured.

    The best is the one with the highest τ. Every other whose interval reaches up to the best's change may be as good;
    of these the first that needs no calibration is taken, or else the first. A difference that these prompts do not
    show is no reason to calibrate.
    """
    measured = [
        (result, result.difference)
        for result in results
        if result.verification == "ok" and result.difference is not None
    ]
    if not measured:
        return None
    highest = max(difference.estimate for _, difference in measured)
    alike = [
        result
        for result, difference in measured
        if (difference.estimate if difference.interval is None else difference.interval.high) >= highest
    ]
    return min(alike, key=lambda result: result.needs_calibration).name  # min takes the first of equals
