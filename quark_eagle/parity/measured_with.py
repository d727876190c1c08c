"""Whether drafts and a trace are those that a report was made with: a report holds their hashes, not where they are."""

from __future__ import annotations

from pathlib import Path

from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import TraceMismatchError, UsageError, findings
from quark_eagle.parity.side import Side
from quark_eagle.trace.target_trace import TargetTrace


def require_measured(report: ParityReport, baseline: Path, candidate: Path, trace: Path) -> None:
    """See that these are the drafts and the trace that a report was made with. Reads all bytes of the drafts.

    Raises:
        UsageError: the report's drafts drew their proposals, so there is none to show again; or they were served.
        TraceMismatchError: some differ; all are listed, wanted and found.
    """
    if report.provenance.trace_sha256 is None:
        raise UsageError(
            "the report's drafts were served, and a server tells how many of its proposals were accepted, not which "
            "they were. Record a trace, compare with `quark-eagle parity --trace`, and explain that report."
        )
    if report.provenance.draft_sample_method != "greedy":
        raise UsageError(
            f"the report was measured with {report.provenance.draft_sample_method} drafts, which draw their proposals, "
            "but places can be shown of drafts that propose their argmax. Leave out --baseline and --candidate."
        )
    first, second = Side.open(baseline).arm(), Side.open(candidate).arm()
    fields = (
        (f"baseline {baseline}, weights", report.baseline.weights_sha256, first.weights_sha256),
        (f"baseline {baseline}, config.json", report.baseline.config_sha256, first.config_sha256),
        (f"candidate {candidate}, weights", report.candidate.weights_sha256, second.weights_sha256),
        (f"candidate {candidate}, config.json", report.candidate.config_sha256, second.config_sha256),
        (f"trace {trace}", report.provenance.trace_sha256, TargetTrace.open(trace).sha256),
    )
    problems = [
        f"{name}: wanted sha256 {wanted[:16]}… (report), found {found[:16]}…."
        for name, wanted, found in fields
        if wanted != found
    ]
    if problems:
        raise TraceMismatchError(
            findings(
                "not what the report was made with",
                problems,
                "What they would show is not where the report's acceptance was lost. Give the drafts and the trace of "
                "that measurement, or measure these with `quark-eagle parity`.",
            )
        )
