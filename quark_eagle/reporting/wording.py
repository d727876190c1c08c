"""Wording: what every rendering of a verdict says, in the same words and with the same rounding.

Console, JUnit, Markdown and GitHub take their titles, rows and sentences from here, so that they differ in their marks
only.
"""

from __future__ import annotations

import shlex

from quark_eagle.documents.arithmetic import Fp8Arithmetic
from quark_eagle.documents.parity import Provenance
from quark_eagle.documents.served import Noise
from quark_eagle.documents.verdict import Category, Difference, Interval, Outcome, Verdict

TITLES: dict[Outcome, str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "INCONCLUSIVE",
    "unusable": "NOT EVALUATED",
}
"""The first word of every rendering."""

NOTHING = "–"
DRAFT_HEADERS = ("draft", "drafts", "accepted", "τ", "draft acc. rate")
CATEGORY_HEADERS = ("category", "prompts", "τ before", "τ after", "change", "interval", "margin", "outcome", "note")

Row = tuple[str, ...]


def headline(verdict: Verdict) -> str:
    """Title and reason."""
    return f"{TITLES[verdict.outcome]}: {verdict.reason}"


def subject(verdict: Verdict) -> str:
    """Which draft is judged against which."""
    if verdict.evidence is None:
        return "acceptance of an FP8 draft"
    return f"{verdict.evidence.candidate.name} against {verdict.evidence.baseline.name}"


def draft_rows(verdict: Verdict) -> list[Row]:
    """Both drafts with counts and the rates made of them, in the columns of `DRAFT_HEADERS`."""
    found, evidence = verdict.difference, verdict.evidence
    if found is None or evidence is None:
        return []
    sides = (
        (evidence.baseline.name, found.baseline_num_drafts, found.baseline_num_accepted_tokens),
        (evidence.candidate.name, found.candidate_num_drafts, found.candidate_num_accepted_tokens),
    )
    lengths = (found.baseline_mean_acceptance_length, found.candidate_mean_acceptance_length)
    return [
        (
            name,
            count(drafts),
            count(accepted),
            f"{length:.3f}",
            f"{accepted / (drafts * evidence.num_speculative_tokens):.3f}",
        )
        for (name, drafts, accepted), length in zip(sides, lengths, strict=True)
    ]


def facts(verdict: Verdict) -> list[tuple[str, str]]:
    """What the verdict stands on, as pairs of a name and a text."""
    found = verdict.difference
    rows: list[tuple[str, str]] = []
    if found is not None:
        rows.append(("change of τ", percent(found.estimate)))
        rows += [
            (f"{interval.confidence:.0%} interval", f"{bounds(interval)} ({interval.method})")
            for interval in (found.interval, found.second_interval)
            if interval is not None
        ]
        rows.append(("conversations", _conversations(found)))
    tail = f"{verdict.looks.alpha_of_this_look:.1%} error in each direction"
    rows.append(("margin", f"a loss of {verdict.margin:.2%} of τ is still parity; {tail}"))
    rows.append(("look", f"{verdict.looks.look} of {verdict.looks.planned} planned"))
    if verdict.noise is not None:
        rows.append(("serving's own noise", a_against_a(verdict.noise)))
    anchor = f"±{verdict.bias.bound:.2%}, " if verdict.bias.anchored and verdict.noise is None else ""
    rows.append(("replay's own error", f"{anchor}{verdict.bias.source}"))
    if verdict.expected_baseline is not None:
        rows.append(("expected τ before", f"{verdict.expected_baseline:.3f} within 5%"))
    if verdict.power is not None:
        rows.append(("to decide", needed(verdict)))
    return rows


def a_against_a(noise: Noise) -> str:
    """How much two arms of the same draft would differ, by serving alone."""
    return (
        f"{percent(noise.low)} … {percent(noise.high)} between two arms of the same draft (A/A, {noise.confidence:.0%} "
        f"interval from {noise.num_blocks} blocks of each arm)"
    )


def how_measured(provenance: Provenance | None) -> str:
    """The last line of every rendering: where the counts come from, and what they do not say."""
    if provenance is None or provenance.measured_by == "replay":
        computed = None if provenance is None else provenance.candidate_fp8
        return f"Measured by replay{_in_place_of(computed)}: acceptance only, not latency."
    return f"Counted while serving: {provenance.engine} on {provenance.arch}. Acceptance only, not latency."


def _in_place_of(computed: Fp8Arithmetic | None) -> str:
    """What replay stood for that an engine does otherwise; PTPC is computed as engines compute it."""
    if computed is None:
        return ""
    parts = []
    if computed.activation_scales == "static":
        parts.append("static activation scales" + (", emulated" if computed.products == "emulated" else ""))
    if computed.kv_cache_dtype == "fp8":
        parts.append(f"an emulated FP8 KV cache (scales: {computed.kv_cache_scales})")
    return f" with {' and '.join(parts)}" if parts else ""


def needed(verdict: Verdict) -> str:
    """How many conversations the margin needs, and what margin these conversations can show."""
    power = verdict.power
    if power is None:
        return NOTHING
    measured = "" if power.num_if_as_measured is None else f", {count(power.num_if_as_measured)} if it is as measured"
    if power.num_if_unchanged is None:
        return "no number of conversations: error that they do not lessen, of replay or of serving, takes up the margin"
    return (
        f"about {count(power.num_if_unchanged)} conversations if nothing is lost{measured}; {power.num_conversations} "
        f"can show a margin of {power.detectable_margin:.2%} ({power.power:.0%} power)"
    )


def category_rows(verdict: Verdict) -> list[Row]:
    """Every category in the columns of `CATEGORY_HEADERS`; none is left out."""
    return [_category_row(verdict, category) for category in verdict.categories]


def category_outcome(verdict: Verdict, category: Category) -> Outcome | None:
    """Of a category that gates; None if it does not, or if the evidence as a whole is unusable."""
    return None if verdict.outcome == "unusable" else category.outcome


def warnings(verdict: Verdict) -> list[str]:
    """What a reader has to know of the drafts beside the numbers."""
    if verdict.evidence is None:
        return []
    found = [
        f"{arm.name} was computed with {', '.join(arm.miscast)} cast into FP8 without a scale, as the engine loads it."
        for arm in (verdict.evidence.baseline, verdict.evidence.candidate)
        if arm.miscast
    ]
    candidate = verdict.evidence.candidate
    if candidate.misread and verdict.rule != "verification":  # there the reason says it
        found.append(f"An engine would not load {candidate.name} as it was meant: {', '.join(candidate.misread)}.")
    if candidate.calibrated_on == "unknown":
        found.append(
            f"{candidate.name} has static scales, calibrated on: unknown. No record says which prompts it saw."
        )
    stored = verdict.evidence.provenance.stored_baseline
    if stored is not None:
        noted = f"; {'; '.join(stored.noted)}" if stored.noted else ""
        found.append(f"The baseline's counts are those of {stored.file}, measured on {stored.created}{noted}.")
    return found


def next_command(verdict: Verdict) -> str | None:
    """What to run next; None after a pass, and where the reason itself says what to mend."""
    if verdict.evidence is None or verdict.outcome in ("pass", "unusable"):
        return None
    parity = shlex.quote(verdict.evidence.parity)
    if verdict.outcome == "fail":
        return f"quark-eagle explain {parity}"
    margins = [category.margin for category in verdict.categories if category.margin is not None]
    margin = margins[0] if verdict.rule == "category" and margins else verdict.margin
    return f"quark-eagle plan-prompts {parity} --margin {margin:g}"


def percent(fraction: float) -> str:
    """A signed change.

    >>> percent(-0.00256)
    '-0.26%'
    """
    return f"{fraction:+.2%}"


def bounds(interval: Interval | None) -> str:
    """Both ends of an interval; a dash where there is none."""
    return NOTHING if interval is None else f"{percent(interval.low)} … {percent(interval.high)}"


def count(number: int) -> str:
    """A count with its thousands apart.

    >>> count(61204)
    '61 204'
    """
    return f"{number:,}".replace(",", " ")


def _conversations(found: Difference) -> str:
    strata = "1 stratum" if found.num_strata == 1 else f"{found.num_strata} strata"
    return f"{count(found.num_conversations)} of {count(found.num_prompts)} prompts, in {strata}"


def _category_row(verdict: Verdict, category: Category) -> Row:
    found = category.difference
    outcome = category_outcome(verdict, category)
    numbers = (
        (NOTHING,) * 4
        if found is None
        else (
            f"{found.baseline_mean_acceptance_length:.3f}",
            f"{found.candidate_mean_acceptance_length:.3f}",
            percent(found.estimate),
            bounds(found.interval),
        )
    )
    margin = "not gated" if category.margin is None else f"{category.margin:.2%}"
    said = NOTHING if outcome is None else TITLES[outcome]
    return (category.name, count(category.num_prompts), *numbers, margin, said, category.note)
