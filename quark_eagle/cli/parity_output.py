"""What `quark-eagle parity` prints: every rate with its counts, walk and every start apart, then what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from quark_eagle.cli.counts import count, rate

if TYPE_CHECKING:
    from quark_eagle.documents.baseline import BaselineReport
    from quark_eagle.documents.parity import Pair, ParityReport, Population, Rates
    from quark_eagle.parity.verdict import Judgement

Row = tuple[str, ...]


def show_baseline(report: BaselineReport) -> None:
    """Print what was stored: τ with its counts."""
    from quark_eagle.cli import render
    from quark_eagle.parity.acceptance import AcceptanceHistogram

    k = report.num_speculative_tokens
    counts = AcceptanceHistogram.of([[0] * (k + 1), *(prompt.baseline.walk for prompt in report.prompts)])
    render.say(
        f"{report.baseline.name}: τ {rate(counts.mean_acceptance_length)} of the walk at k = {k} over "
        f"{len(report.prompts)} prompts ({count(counts.num_accepted_tokens)} tokens accepted in "
        f"{count(counts.num_drafts)} drafts)"
    )


def show_report(report: ParityReport, judgement: Judgement) -> None:
    """Print a measurement for people: every rate with its counts, walk and every-start apart, then what it means."""
    from quark_eagle.cli import render
    from quark_eagle.cli.served_output import show_served
    from quark_eagle.reporting.wording import how_measured

    names = arm_names(report)
    everything = report.summary.overall
    k, sampling = report.num_speculative_tokens, report.provenance.sampling
    rounds = everything.walk.baseline.num_drafts
    temperature = sampling.get("temperature", 0)
    how = "greedy" if temperature == 0 else f"temperature {temperature}, top-p {sampling.get('top_p', 1)}"
    render.say(
        f"Parity of {report.candidate.name} with {report.baseline.name}: {everything.num_prompts} prompts, "
        f"{count(rounds)} drafts of {k} tokens, {how}, {'replayed' if report.served is None else 'served'} in "
        f"{report.provenance.dtype}\n"
    )
    render.say("walk: the rounds that a server makes")
    show_rates(report, "walk", names)
    if everything.every_start is not None:
        render.say("\nevery start: each position once; it explains, no server makes these rounds")
        show_rates(report, "every_start", names)
    if report.summary.tau_curve is not None:
        render.say("\nτ of the walk by number of speculative tokens")
        show_curve(report, names)
    if report.served is not None:
        show_served(report, report.served)
    else:
        render.say(f"\n{how_alike(report)}")
    for side in (report.baseline, report.candidate):
        if side.miscast:
            render.say(
                f"{side.name}: computed with {', '.join(side.miscast)} cast into FP8 without a scale, as vLLM loads it."
            )
    render.say(judgement_text(judgement))
    render.say(how_measured(report.provenance))


def how_alike(report: ParityReport) -> str:
    """How often the drafts propose the same token, or why that is not known."""
    shared, compared = report.summary.num_proposals_shared, report.summary.num_proposals_compared
    stored = report.provenance.stored_baseline
    if shared is not None and compared is not None:
        share = f" ({shared / compared:.1%})" if compared else ""
        return f"The drafts propose the same token in {count(shared)} of {count(compared)} places{share}."
    if stored is not None:
        return f"The baseline's counts are stored ({stored.file}, {stored.created}); its proposals are not known."
    return "The drafts draw their proposals; both were judged by the same uniform numbers (provenance: sampling seed)."


def show_rates(report: ParityReport, counting: Literal["walk", "every_start"], names: tuple[str, str]) -> None:
    """One table: all prompts first, then each category."""
    from quark_eagle.cli import render

    rows: list[Row] = []
    for label, population in (("all", report.summary.overall), *report.summary.categories.items()):
        pair = _pair(population, counting)
        if pair is not None:
            rows += _rows(f"{label} ({population.num_prompts})", pair, names)
    positions = f"0…{report.num_speculative_tokens - 1}"
    headers = [
        "category (prompts)",
        "draft",
        "drafts",
        "accepted",
        "τ",
        "draft acc. rate",
        f"marginal {positions}",
        f"conditional {positions}",
    ]
    render.show(render.table(headers, rows, right=(2, 3, 4, 5)))


def _pair(population: Population, counting: Literal["walk", "every_start"]) -> Pair | None:
    return population.walk if counting == "walk" else population.every_start


def _rows(label: str, pair: Pair, names: tuple[str, str]) -> Iterator[Row]:
    for place, name, rates in ((0, names[0], pair.baseline), (1, names[1], pair.candidate)):
        yield (
            "" if place else label,
            name,
            count(rates.num_drafts),
            count(rates.num_accepted_tokens),
            rate(rates.mean_acceptance_length),
            rate(rates.draft_acceptance_rate),
            " ".join(rate(x) for x in rates.marginal_acceptance or ()),
            " ".join(rate(x) for x in rates.conditional_acceptance),
        )
    yield ("", "change", "", "", _change(pair.baseline, pair.candidate), "", "", "")


def _change(baseline: Rates, candidate: Rates) -> str:
    before, after = baseline.mean_acceptance_length, candidate.mean_acceptance_length
    return "–" if before is None or after is None else f"{after - before:+.3f}"


def show_curve(report: ParityReport, names: tuple[str, str]) -> None:
    """τ for every k, with the rounds that each walk made."""
    from quark_eagle.cli import render

    curve = report.summary.tau_curve or []
    headers = ["k", *(str(point.num_speculative_tokens) for point in curve)]
    rows = [
        [f"{names[0]} τ", *(rate(point.baseline_mean_acceptance_length) for point in curve)],
        [f"{names[1]} τ", *(rate(point.candidate_mean_acceptance_length) for point in curve)],
        [f"{names[0]} drafts", *(count(point.baseline_num_drafts) for point in curve)],
        [f"{names[1]} drafts", *(count(point.candidate_num_drafts) for point in curve)],
    ]
    render.show(render.table(headers, rows, right=range(1, len(headers))))


def arm_names(report: ParityReport) -> tuple[str, str]:
    """What the tables call the two drafts: their dtypes where these tell them apart."""
    short = {"BF16": "bf16", "F8_E4M3": "fp8"}
    names = tuple(short.get(arm.weight_dtype, arm.weight_dtype) for arm in (report.baseline, report.candidate))
    return (names[0], names[1]) if names[0] != names[1] else ("baseline", "candidate")


def judgement_text(judgement: Judgement) -> str:
    """What `gate` would say with its default rules, with the causes to look for where it is a failure."""
    word = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE", "unusable": "NOT EVALUATED"}
    lines = [f"{word[judgement.outcome]}: {judgement.reason}"]
    if judgement.causes:
        lines.append("Likely causes, the likeliest first:")
        lines += [f"  {place}. {cause}." for place, cause in enumerate(judgement.causes, 1)]
    return "\n".join(lines)
