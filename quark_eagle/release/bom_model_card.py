"""The model card inside the ML-BOM: what the draft is for, what was measured of it, and what was not.

For machines that read many models. What people read is README.md; both are rendered from the same evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quark_eagle.documents.verdict import Difference
from quark_eagle.release.evidence import Evidence

_LENGTH = "mean acceptance length"
_CHANGE = "relative change of the mean acceptance length"
_ONLY_ACCEPTANCE = "What was measured is acceptance. Latency and throughput were not."


def model_card(evidence: Evidence, datasets: Sequence[str]) -> dict[str, Any]:
    """The ``modelCard`` of CycloneDX 1.6; every value of a metric is a string there.

    Args:
        evidence: of the release.
        datasets: references to the data that it was measured on.
    """
    release, verdict = evidence.release, evidence.verdict
    return {
        "bom-ref": "model-card",
        "modelParameters": {
            "task": "speculative decoding: proposes tokens for a target to verify",
            "architectureFamily": "transformer",
            "modelArchitecture": str(evidence.verification.get("architecture") or "Eagle3"),
            "datasets": [{"ref": reference} for reference in datasets],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(evidence))},
        "considerations": {
            "useCases": [f"As the draft of {release.target} in an engine that runs Eagle3."],
            "technicalLimitations": [
                *release.overrides,
                f"It was made for {release.target}: another target accepts next to nothing of it.",
                _ONLY_ACCEPTANCE,
            ],
        },
        "properties": [
            {"name": f"quark-eagle:{name}", "value": str(value)}
            for name, value in (
                ("verdict", verdict.outcome),
                ("verdict_reason", verdict.reason),
                ("margin", verdict.margin),
                ("num_speculative_tokens", evidence.parity.num_speculative_tokens),
                ("measured_by", evidence.environment.measured.measured_by),
                ("arch", evidence.environment.measured.arch),
            )
        ],
    }


def _metrics(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Of all prompts, then of each category."""
    yield from _of(evidence.verdict.difference)
    for category in evidence.verdict.categories:
        yield from _of(category.difference, slice=category.name)


def _of(difference: Difference | None, **where: str) -> Iterator[dict[str, Any]]:
    if difference is None:
        return
    lengths = (difference.candidate_mean_acceptance_length, difference.baseline_mean_acceptance_length)
    for draft, length in zip(("FP8", "BF16"), lengths, strict=True):
        yield {"type": f"{_LENGTH}, {draft}", "value": str(length), **where}
    change: dict[str, Any] = {"type": _CHANGE, "value": str(difference.estimate), **where}
    if difference.interval is not None:
        low, high = difference.interval.low, difference.interval.high
        change["confidenceInterval"] = {"lowerBound": str(low), "upperBound": str(high)}
    yield change
