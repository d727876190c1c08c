"""What was measured, on the model card: both drafts, the change and its interval, by position and by category."""

from __future__ import annotations

from quark_eagle.documents.parity import ParityReport, Rates
from quark_eagle.documents.verdict import Verdict
from quark_eagle.parity.arch import UNKNOWN, measured_on
from quark_eagle.parity.explain import explain
from quark_eagle.parity.positions import Position, ShareChange
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.model_card_text import escape, table, visible
from quark_eagle.reporting.wording import (
    CATEGORY_HEADERS,
    DRAFT_HEADERS,
    NOTHING,
    Row,
    category_rows,
    count,
    draft_rows,
    facts,
    how_measured,
    percent,
)

_ALWAYS = 6  # columns of a category that are there whether it gates or not


def acceptance(evidence: Evidence) -> str:
    """The section, or what is to be said where nothing was counted."""
    verdict = evidence.verdict
    if verdict.difference is None:
        return "## What was measured\n\nNothing that a verdict could be made of."
    parts = [
        "## What was measured",
        "A round proposes k tokens; the target accepts the first few and adds one of its own. τ is what a round emits.",
        table(DRAFT_HEADERS, draft_rows(verdict), right=range(1, len(DRAFT_HEADERS))),
        table(("", ""), facts(verdict)),
        escape(how_measured(evidence.parity.provenance)),
        *_also(evidence),
        "### By position",
        *_positions(evidence.parity, confidence_of(verdict)),
        "### By category",
        _whether_they_gate(verdict),
        _categories(verdict),
    ]
    return "\n\n".join(parts)


def measured_where(report: ParityReport) -> str:
    """Which machine computed what, a part of the evidence after the other."""
    return "; ".join(
        f"{part} on {'a machine that was not noted' if found == UNKNOWN else visible(found)}"
        for part, found in measured_on(report).items()
    )


def confidence_of(verdict: Verdict) -> float:
    """Of the two-sided intervals: as the verdict's own, whose ends are the bounds that decide."""
    interval = None if verdict.difference is None else verdict.difference.interval
    return 1 - 2 * verdict.looks.alpha_of_this_look if interval is None else interval.confidence


def _also(evidence: Evidence) -> list[str]:
    """The other way of counting the same drafts, if they were counted that way too."""
    said = []
    for how, report in (("Replayed", evidence.replayed), ("Served", evidence.served)):
        walk = None if report is None else report.summary.overall.walk
        if report is None or walk is None:
            continue
        before, after = walk.baseline.mean_acceptance_length, walk.candidate.mean_acceptance_length
        if before is not None and after is not None:
            said.append(
                f"{how} as well, beside the verdict and not judged: τ {before:.3f} before and {after:.3f} after, "
                f"{percent(after / before - 1)} ({escape(measured_where(report))})."
            )
    return said


def _positions(report: ParityReport, confidence: float) -> list[str]:
    explained = explain(report, confidence=confidence)
    walk = report.summary.overall.walk
    rows = [_position_row(it, walk.baseline, walk.candidate) for it in explained.walk]
    headers = ("position", "before", "after", "change", f"{confidence:.0%} interval", "alone before", "alone after")
    noise = "" if report.served is None else "; without the noise between passes"
    return [
        table(headers, rows, right=range(len(headers))),
        "Share of rounds whose tokens up to this position were all accepted, with the counts; alone: of the rounds "
        "whose tokens before it were accepted, those whose token there was. "
        f"Intervals: {escape(explained.method)}{noise}.",
    ]


def _position_row(found: Position, before: Rates, after: Rates) -> Row:
    marginal = found.marginal
    return (
        str(found.position),
        _share(marginal, "baseline"),
        _share(marginal, "candidate"),
        NOTHING if marginal.change is None else f"{marginal.change:+.4f}",
        NOTHING if marginal.interval is None else " … ".join(f"{end:+.4f}" for end in marginal.interval),
        _rate(before.conditional_acceptance[found.position]),
        _rate(after.conditional_acceptance[found.position]),
    )


def _share(marginal: ShareChange, arm: str) -> str:
    share = marginal.baseline if arm == "baseline" else marginal.candidate
    return f"{_rate(share.rate)} ({count(share.count)} of {count(share.of)})"


def _rate(rate: float | None) -> str:
    return NOTHING if rate is None else f"{rate:.3f}"


def _whether_they_gate(verdict: Verdict) -> str:
    """What an interval beyond the margin means here."""
    if verdict.category_margin is not None:
        return "Categories gate, too: each has a margin of its own."
    return "Categories are shown and do not gate: few prompts make wide intervals, and of many some lie to one side."


def _categories(verdict: Verdict) -> str:
    """All categories; the columns about their gates only where there are gates, or notes."""
    rows = category_rows(verdict)
    gates = any(it.margin is not None or it.note for it in verdict.categories)
    shown = len(CATEGORY_HEADERS) if gates else _ALWAYS
    return table(CATEGORY_HEADERS[:shown], [row[:shown] for row in rows], right=range(1, _ALWAYS))
