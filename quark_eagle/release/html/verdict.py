"""The verdict: what a reader who has ten seconds sees, and what it stands on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from quark_eagle.documents.verdict import Outcome, Verdict
from quark_eagle.parity.arch import UNKNOWN, measured_on
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html.amounts import change, size
from quark_eagle.release.html.blocks import Facts, Section, Table, Text
from quark_eagle.release.html.ruler import Change, ruler
from quark_eagle.release.html.svg import element
from quark_eagle.release.model_card_limits import on_shipping_hardware
from quark_eagle.reporting.wording import (
    DRAFT_HEADERS,
    TITLES,
    bounds,
    count,
    draft_rows,
    facts,
    percent,
    subject,
    warnings,
)

_STROKES: dict[Outcome, tuple[str, str]] = {
    "pass": ("M12 2a10 10 0 1 0 0 20a10 10 0 1 0 0-20z", "M7 12.5l3.5 3.5L17 9"),
    "fail": ("M8 2h8l6 6v8l-6 6H8l-6-6V8z", "M8.5 8.5l7 7M15.5 8.5l-7 7"),
    "inconclusive": ("M12 1.5L22.5 12L12 22.5L1.5 12z", "M9.5 9.5a2.5 2.5 0 1 1 2.5 3v1.5M12 16.5v.5"),
    "unusable": ("M3 3h18v18H3z", "M8 12h8"),
}
"""Outline and mark: a tick in a circle, a cross in an octagon, a question in a diamond, a dash in a square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFigure:
    """A number that is read first."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    """The outcome by word, colour and shape, why, and the change beside its margin."""

    outcome: Outcome
    word: str
    shape: Markup
    subject: str
    reason: str
    causes: list[str]
    warnings: list[str]
    ruler: Markup | None
    figures: list[KeyFigure]


def banner(evidence: Evidence) -> Banner:
    """What stands at the top of the page."""
    verdict = evidence.verdict
    outline, mark = _STROKES[verdict.outcome]
    paths = (element("path", d=outline, class_="outline"), element("path", d=mark, class_="mark"))
    return Banner(
        outcome=verdict.outcome,
        word=TITLES[verdict.outcome],
        shape=element("svg", *paths, viewBox="0 0 24 24", width=56, height=56, aria_hidden="true"),
        subject=subject(verdict),
        reason=verdict.reason,
        causes=verdict.causes,
        warnings=warnings(verdict),
        ruler=_ruler(verdict),
        figures=list(_figures(evidence)),
    )


def what_was_measured(evidence: Evidence) -> Section:
    """The counts, and the rules that they were judged by."""
    verdict, report = evidence.verdict, evidence.parity
    how = "replayed over the target's recorded path" if report.served is None else "served by an engine"
    where = "; ".join(
        f"{part}, nobody noted where" if machine == UNKNOWN else f"{part} on {machine}"
        for part, machine in measured_on(report).items()
    )
    splits = {} if verdict.evidence is None else verdict.evidence.splits
    prompts = ", ".join(f"{count(number)} prompts of the {split} split" for split, number in splits.items())
    rows = [
        ("prompts", prompts),
        ("how", how),
        ("on", where),
        ("on MI355X", on_shipping_hardware(evidence)),
        ("sampling", _sampling(evidence)),
        *facts(verdict),
    ]
    notes = [] if report.served is None else report.served.notes
    return Section(
        anchor="measured",
        title="What was measured",
        lead="A round proposes k tokens; the target accepts the first few and adds one of its own. τ, the acceptance "
        "length, is how many tokens a round emits: the higher it is, the fewer rounds an answer takes.",
        blocks=[
            Table(
                caption="Both drafts, with counts",
                headers=DRAFT_HEADERS,
                rows=draft_rows(verdict),
                right=range(1, len(DRAFT_HEADERS)),
                is_open=True,
            ),
            Facts(rows=[(name, text) for name, text in rows if text]),
            *([Text(lines=notes, is_list=True)] if notes else []),
            *_beside(evidence),
        ],
    )


def _beside(evidence: Evidence) -> Iterator[Table]:
    """The other measurement of the same two drafts, if there is one."""
    others = {"replayed": evidence.replayed, "served": evidence.served}
    rows = [
        (how, count(len(it.prompts)), f"{before:.3f}", f"{after:.3f}", percent(after / before - 1), it.provenance.arch)
        for how, it in others.items()
        if it is not None
        and (before := it.summary.overall.walk.baseline.mean_acceptance_length) is not None
        and (after := it.summary.overall.walk.candidate.mean_acceptance_length) is not None
    ]
    if rows:
        headers = ("beside it, not judged", "prompts", "τ BF16", "τ FP8", "change", "on")
        yield Table(caption="Measured beside it", headers=headers, rows=rows, right=(1, 2, 3, 4), is_open=True)


def _ruler(verdict: Verdict) -> Markup | None:
    found = verdict.difference
    if found is None:
        return None
    ends = None if found.interval is None else (found.interval.low, found.interval.high)
    label = (
        f"Change of τ {percent(found.estimate)}, interval {bounds(found.interval)}, margin {percent(-verdict.margin)}."
    )
    return ruler(Change(estimate=found.estimate, ends=ends), verdict.margin, label)


def _figures(evidence: Evidence) -> Iterator[KeyFigure]:
    found, report, record = evidence.verdict.difference, evidence.parity, evidence.record
    if found is not None:
        before, after = found.baseline_mean_acceptance_length, found.candidate_mean_acceptance_length
        yield KeyFigure(name="acceptance length τ", value=f"{before:.3f} → {after:.3f}", note="BF16 → FP8")
        note = f"{bounds(found.interval)}" if found.interval is not None else "no interval"
        yield KeyFigure(name="change of τ", value=percent(found.estimate), note=note)
    files = (int(record["tensors_before_bytes"]), int(record["tensors_after_bytes"]))
    yield KeyFigure(name="weights", value=change(*files), note=f"{size(files[0])} → {size(files[1])}")
    how = "replayed" if report.served is None else "served"
    yield KeyFigure(
        name="evidence",
        value=f"{count(len(report.prompts))} prompts",
        note=f"{how}, k = {report.num_speculative_tokens}, {report.provenance.arch}",
    )


def _sampling(evidence: Evidence) -> str:
    sampling = evidence.parity.provenance.sampling
    said = [
        f"{name.replace('_', ' ')} {sampling[name]}"
        for name in ("temperature", "top_p", "max_tokens")
        if name in sampling
    ]
    return ", ".join([f"k = {evidence.parity.num_speculative_tokens}", *said])
