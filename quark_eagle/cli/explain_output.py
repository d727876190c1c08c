"""How an explanation is printed and drawn: tables of counts and rates first, then the tokens that were lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quark_eagle.parity.contexts import Contexts, Place, ReplayedPrompt
    from quark_eagle.parity.delta import Bounds
    from quark_eagle.parity.divergence import Divergence
    from quark_eagle.parity.explain import Explanation, Part
    from quark_eagle.parity.positions import Position, Share, ShareChange

CONTEXT_CHARACTERS = 72  # of the text before a place
CONTEXT_IDS = 10  # of its tokens, where there is no text

Row = tuple[str, ...]


def show_explanation(explanation: Explanation) -> None:
    """Print where acceptance was lost, cut in four ways."""
    from quark_eagle.cli import render
    from quark_eagle.reporting.wording import count, percent

    overall = explanation.overall
    rounds = overall.rounds
    lengths = f"{_rate(rounds.baseline_mean_acceptance_length)} → {_rate(rounds.candidate_mean_acceptance_length)}"
    change = "" if overall.change is None else f", {percent(overall.change)} {_bounds(overall.interval)}"
    render.say(
        f"Where acceptance was lost: {explanation.candidate} against {explanation.baseline}\n"
        f"{count(rounds.num_prompts)} prompts, {count(rounds.num_conversations)} conversations, "
        f"k = {explanation.num_speculative_tokens}\n"
        f"τ {lengths}{change}\n"
        f"rounds {count(rounds.baseline_num_drafts)} → {count(rounds.candidate_num_drafts)}\n"
        f"Intervals: {explanation.confidence:.0%}, {explanation.method}.\n"
        "Each stands for itself: of ten that hold nothing, one leaves out 0 by chance."
    )
    render.say("\nBy position: the walk, the rounds that a server makes")
    _show_positions(explanation.walk, kinds=("marginal", "conditional"))
    if explanation.every_start is not None:
        render.say(
            "\nBy position: every start, where both drafts begin in the same places; no server makes these rounds"
        )
        _show_positions(explanation.every_start, kinds=("conditional",))
    render.say("\nBy category: rounds lost and gained are counted by conversation")
    headers = ["category (prompts)", "τ before", "τ after", "change", "interval", "lost", "gained", "of the loss"]
    rows = [_part_row(part) for part in (overall, *explanation.categories)]
    render.show(render.table(headers, rows, right=range(1, len(headers))))
    _show_conversations(explanation)
    render.say(f"\n{agreement_sentence(explanation)}")


def show_contexts(contexts: Contexts) -> None:
    """Print the tokens that the candidate lost in the worst conversations."""
    from quark_eagle.cli import render

    render.say("\nTokens lost, at the starts of the baseline's walk")
    if not contexts.prompts:
        render.say("No conversation needs more rounds: there is nothing to show.")
        return
    for prompt in contexts.prompts:
        _show_prompt(prompt)
    shared, compared = contexts.num_step_1_shared, contexts.num_step_1_compared
    share = f" ({shared / compared:.1%})" if compared else ""
    render.say(
        f"\nKL(baseline || candidate) of the next token in nats, draft vocabulary, temperature 1:\n"
        f"  places shown       {_divergence(contexts.divergence_where_lost)}\n"
        f"  step 1, all starts {_divergence(contexts.divergence_at_step_1)}\n"
        f"Both drafts propose the same first token at {shared} of {compared} starts{share} of these prompts."
    )


def draw(explanation: Explanation, path: Path) -> None:
    """Plot the walk's marginal acceptance."""
    from quark_eagle.reporting.plot import Curve, plot
    from quark_eagle.reporting.wording import count

    rounds = explanation.overall.rounds
    sides = (
        (explanation.baseline, rounds.baseline_num_drafts, [one.marginal.baseline for one in explanation.walk]),
        (explanation.candidate, rounds.candidate_num_drafts, [one.marginal.candidate for one in explanation.walk]),
    )
    first, second = (
        Curve(
            name=name,
            num_drafts=drafts,
            rates=[share.rate for share in shares],
            intervals=[share.interval for share in shares],
        )
        for name, drafts, shares in sides
    )
    plot(
        (first, second),
        f"Marginal acceptance of the walk, k = {explanation.num_speculative_tokens}: "
        f"{count(rounds.num_prompts)} prompts, {count(rounds.num_conversations)} conversations",
        f"Bars: each draft's own {explanation.confidence:.0%} t interval, by conversation. The drafts are paired, so\n"
        "bars that overlap do not say that nothing changed: the change has an interval of its own.",
        path,
    )


def agreement_sentence(explanation: Explanation) -> str:
    """How often both drafts propose the same token."""
    from quark_eagle.reporting.wording import count

    found = explanation.agreement
    if found.num_shared is None or found.num_compared is None:
        return (
            "How often the drafts propose the same token is not known: the report's baseline was stored as counts, or "
            "its drafts drew their proposals."
        )
    share = "" if found.rate is None else f" ({found.rate:.1%})"
    return (
        f"The drafts propose the same token in {count(found.num_shared)} of {count(found.num_compared)} places{share}."
    )


def _show_positions(positions: Sequence[Position], kinds: Sequence[str]) -> None:
    from quark_eagle.cli import render

    rows: list[Row] = []
    for kind in kinds:
        for one in positions:
            found: ShareChange = getattr(one, kind)
            effect = f"{one.effect_on_tau:+.4f}" if kind == "conditional" else ""
            change = "–" if found.change is None else f"{found.change:+.4f}"
            label = f"{kind} {one.position}"
            interval = _bounds(found.interval, ".4f")
            rows.append((label, _share(found.baseline), _share(found.candidate), change, interval, effect))
    # Effects are of the conditional acceptances: they sum to the change of τ.
    headers = ["acceptance", "before", "after", "change", "interval", "effect on τ"]
    render.show(render.table(headers, rows, right=range(1, len(headers))))


def _part_row(part: Part) -> Row:
    from quark_eagle.reporting.wording import percent

    return (
        f"{part.name} ({part.rounds.num_prompts})",
        _rate(part.rounds.baseline_mean_acceptance_length),
        _rate(part.rounds.candidate_mean_acceptance_length),
        "–" if part.change is None else percent(part.change),
        _bounds(part.interval),
        str(part.num_drafts_lost),
        str(part.num_drafts_gained),
        "–" if part.share_of_loss is None else f"{part.share_of_loss:.0%}",
    )


def _show_conversations(explanation: Explanation) -> None:
    from quark_eagle.cli import render

    found, lost = explanation.concentration, explanation.overall.num_drafts_lost
    render.say(
        f"\nBy conversation: {found.num_losing} need more rounds, {found.num_gaining} fewer, {found.num_unchanged} as "
        "many"
    )
    if found.share_of_loss is not None:
        render.say(
            f"The worst tenth ({found.num_worst} conversations) holds {found.num_drafts_lost_there} of the {lost} "
            f"rounds lost ({found.share_of_loss:.0%})."
        )
    rows = [
        (
            one.id,
            one.category,
            f"{one.rounds.baseline_num_drafts} → {one.rounds.candidate_num_drafts}",
            f"+{one.extra_num_drafts}",
            _rate(one.rounds.baseline_mean_acceptance_length),
            _rate(one.rounds.candidate_mean_acceptance_length),
        )
        for one in explanation.worst
    ]
    if rows:
        headers = ["conversation", "category", "rounds", "extra", "τ before", "τ after"]
        render.show(render.table(headers, rows, right=range(2, len(headers))))


def _show_prompt(prompt: ReplayedPrompt) -> None:
    from quark_eagle.cli import render

    render.say(
        f"\n{prompt.id} ({prompt.category}): of {prompt.num_drafts} rounds {prompt.num_drafts_lost} lose tokens, "
        f"{prompt.num_drafts_gained} gain some"
    )
    if not prompt.as_reported:
        render.say("  Counts differ from the report's: a tie fell otherwise on this machine, or with this torch.")
    for place in prompt.places:
        render.say("\n".join(f"  {line}" for line in _place(place)))


def _place(place: Place) -> list[str]:
    """Where it is, what came before, and what each draft proposed."""
    if place.context is None:
        before = "… " + " ".join(map(str, place.context_token_ids[-CONTEXT_IDS:]))
    else:
        before = f"…{_printable(place.context[-CONTEXT_CHARACTERS:])}"
    kl = "–" if place.kl_divergence is None else f"{place.kl_divergence:.4f}"
    return [
        f"answer token {place.answer_token}, position {place.position} of the draft, KL {kl}",
        f"    {before}",
        f"    baseline  {_token(place.baseline_token_id, place.baseline_token)}, accepted "
        f"(gives it {_rate(place.baseline_probability)}, the candidate {_rate(place.candidate_probability)})",
        f"    candidate {_token(place.candidate_token_id, place.candidate_token)}",
    ]


def _token(token_id: int, text: str | None) -> str:
    return str(token_id) if text is None else f"{_printable(text)} [{token_id}]"


def _printable(text: str) -> str:
    """In quotes, with whatever could move a terminal's cursor written as an escape."""
    return repr(text)


def _divergence(found: Divergence) -> str:
    if found.mean is None or found.median is None or found.max is None:
        return f"not known at {found.num_places} places"
    broken = f", not finite at {found.num_not_finite}" if found.num_not_finite else ""
    return (
        f"mean {found.mean:.4f}, median {found.median:.4f}, max {found.max:.4f} over {found.num_places} places{broken}"
    )


def _share(share: Share) -> str:
    return f"{_rate(share.rate)} ({share.count}/{share.of})"


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _bounds(bounds: Bounds | None, form: str = ".2%") -> str:
    """Both ends with their signs; a dash where there is no interval."""
    return "–" if bounds is None else f"[{bounds[0]:+{form}}, {bounds[1]:+{form}}]"
