"""What served run stands behind a replayed measurement, and what a verdict allows for because of it.

A trace that transformers recorded is the target as its authors wrote it. One that an engine recorded holds what that
engine handed out; it may gate only once replay of the BF16 draft has found what the engine itself counted while it
served that draft along this very path.
"""

from __future__ import annotations

from quark_eagle.documents.anchor import TOLERANCE
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import STATED, Bias

# Engines whose traces need an anchor, as `TargetId.engine` begins.
ENGINES = ("vllm ",)
MIN_ANCHORED = 64  # prompts, as many conversations as a verdict needs
SERVED = Bias(bound=0.0, anchored=True, source="none: served, not replayed")
HOW = "Record it with `quark-eagle trace TARGET --draft BF16_DRAFT --engine vllm`, which serves that draft along."


def bias_of(report: ParityReport, stated: Bias) -> Bias:
    """Replay's own error in the change: none of served counts, else what the anchor measured or, if more, was stated.

    An anchor measures one arm, and stands for the difference of two: what replay does to the one it does, on the same
    path and mostly at the same ties, to the other.
    """
    if report.served is not None:
        return SERVED
    anchor = report.provenance.anchor
    if anchor is None or _against(report) or (stated.source == STATED and stated.bound > anchor.bound):
        return stated
    return Bias(bound=anchor.bound, anchored=True, source=f"taken from the baseline's: {anchor.in_words}")


def unanchored(report: ParityReport) -> str | None:
    """Why a measurement may not be judged for want of an anchor, which nothing stated replaces; None if it may."""
    engine = str(report.provenance.target.get("engine", ""))
    against = _against(report)
    if against is not None or report.provenance.anchor is not None or not engine.startswith(ENGINES):
        return against
    return (
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
    if report.provenance.draft_sample_method != "greedy":
        return (
            f"The anchor is of a draft that proposed its argmax, but {report.provenance.draft_sample_method} proposals "
            "were measured. Leave --draft-sample-method out."
        )
    if anchor.replay_dtype != report.provenance.dtype:
        return (
            f"The anchor was replayed in {anchor.replay_dtype}, but the drafts in {report.provenance.dtype}: it says "
            f"nothing of that arithmetic. Measure with --dtype {anchor.replay_dtype}, or leave --dtype out."
        )
    if anchor.num_prompts < min(MIN_ANCHORED, anchor.num_prompts_of_trace):
        return (
            f"The anchor holds for {anchor.num_prompts} prompts of {anchor.num_prompts_of_trace}, but at least "
            f"{min(MIN_ANCHORED, anchor.num_prompts_of_trace)} were needed: the rest of the served rounds could not be "
            f"counted. Record with a smaller --batch-size, or more memory for vLLM's cache."
        )
    if not anchor.matches:
        return (
            f"The anchor does not hold: {anchor.in_words}. They differ by {anchor.difference:.1%}, and more than "
            f"{TOLERANCE:.0%} is a fault. Were there few prompts, record more; else compare aux layers and dtype."
        )
    return None
