"""What served run stands behind a replayed measurement, and what a verdict allows for because of it.

A trace that transformers recorded is the target as its authors wrote it. One that an engine recorded holds what that
engine handed out; it may gate only once replay of the BF16 draft has found what the engine itself counted while it
served that draft along this very path.
"""

from __future__ import annotations

from quark_eagle.documents.anchor import TOLERANCE
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import Bias

# Engines whose traces need an anchor, as `TargetId.engine` begins.
ENGINES = ("vllm ",)
HOW = "Record it with `quark-eagle trace TARGET --draft BF16_DRAFT --engine vllm`, which serves that draft along."


def bias_of(report: ParityReport, stated: Bias) -> Bias:
    """Replay's own error in a measurement: as the user stated it, or as the trace's anchor measured it."""
    anchor = report.provenance.anchor
    if stated.anchored or anchor is None or _against(report):
        return stated
    return Bias(bound=anchor.bound, anchored=True, source=anchor.in_words)


def unanchored(report: ParityReport, bias: Bias) -> str | None:
    """Why a measurement may not be judged for want of an anchor; None if it may."""
    engine = str(report.provenance.target.get("engine", ""))
    if bias.anchored or not engine.startswith(ENGINES):
        return None
    return _against(report) or (
        f"The trace was recorded by {engine} and has no anchor: no served run says that replay over it counts what the "
        f"engine would. {HOW}"
    )


def _against(report: ParityReport) -> str | None:
    """What is wrong with the anchor that a measurement has."""
    anchor = report.provenance.anchor
    if anchor is None:
        return None
    if anchor.trace_sha256 != report.provenance.trace_sha256:
        return f"The anchor belongs to another trace ({anchor.trace_sha256[:12]}…). {HOW}"
    if anchor.draft_weights_sha256 != report.baseline.weights_sha256:
        return (
            f"The anchor is of a draft with weights {anchor.draft_weights_sha256[:12]}…, but the baseline's are "
            f"{report.baseline.weights_sha256[:12]}…. {HOW}"
        )
    if anchor.num_speculative_tokens != report.num_speculative_tokens:
        return (
            f"The anchor was served at k = {anchor.num_speculative_tokens}, but k = {report.num_speculative_tokens} "
            f"was replayed. Measure with -k {anchor.num_speculative_tokens}, or record with the other k. {HOW}"
        )
    if not anchor.matches:
        return (
            f"The anchor does not hold: {anchor.in_words}. They differ by {anchor.difference:.1%}, and more than "
            f"{TOLERANCE:.0%} is a fault. Were there few prompts, record more; else compare aux layers and dtype."
        )
    return None
