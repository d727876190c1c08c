"""`quark-eagle plan-prompts`: how many conversations a margin needs, from the variance that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quark_eagle.cli.options import JsonFlag

if TYPE_CHECKING:
    from quark_eagle.documents.counts import PromptResult
    from quark_eagle.documents.verdict import Power
    from quark_eagle.errors import QuarkEagleError

USUAL_MARGINS = (0.005, 0.01, 0.02)


def plan_prompts(
    report: Annotated[
        Path,
        typer.Argument(metavar="PARITY_JSON", help="Written by `quark-eagle parity`: a pilot of a few dozen prompts."),
    ],
    margin: Annotated[
        float, typer.Option(help="The loss of τ that would still be parity, as a fraction; others are shown beside it.")
    ] = 0.01,
    alpha: Annotated[float, typer.Option(help="Probability of a false pass; half of it for each of two looks.")] = 0.05,
    power: Annotated[float, typer.Option(help="Probability with which the gate should decide.")] = 0.8,
    json_: JsonFlag = False,
) -> None:
    """Say how many conversations a margin needs, before they are recorded.

    From the variance between the conversations of PARITY_JSON: more of the same kind and length are assumed.
    Example: quark-eagle plan-prompts parity.json --margin 0.005
    """
    from quark_eagle.cli import render
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.parity.categories import MIN_CATEGORY_CONVERSATIONS
    from quark_eagle.parity.verdict import MIN_CONVERSATIONS

    _check_probabilities(margin, alpha, power)
    prompts = ParityReport.read(report).prompts
    plans = [_plan(prompts, each, alpha, power, MIN_CONVERSATIONS) for each in sorted({*USUAL_MARGINS, margin})]
    found = [plan for plan in plans if plan is not None]
    if not found:
        raise _nothing_to_plan_from(report)
    names = sorted({prompt.category for prompt in prompts})
    categories = {
        name: _plan([p for p in prompts if p.category == name], margin, alpha, power, MIN_CATEGORY_CONVERSATIONS)
        for name in names
    }
    if json_:
        render.emit_json(_document(report, found, categories))
    else:
        _show(found, categories, margin)


def _check_probabilities(margin: float, alpha: float, power: float) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: an option is out of its range.
    """
    from quark_eagle.errors import UsageError

    problems = []
    if not 1e-4 <= margin < 1:
        problems.append(f"--margin {margin:g}: a loss of τ as a fraction was needed, from 0.0001 to below 1.")
    if not 0.001 <= alpha < 0.5:
        problems.append(f"--alpha {alpha:g}: an error probability from 0.001 to below 0.5 was needed.")
    if not 0.5 <= power < 1:
        problems.append(f"--power {power:g}: a probability of at least 0.5 and below 1 was needed.")
    if problems:
        raise UsageError("\n".join(problems))


def _plan(prompts: Sequence[PromptResult], margin: float, alpha: float, power: float, at_least: int) -> Power | None:
    """What a margin needs by these conversations, never fewer than the gate takes; None without a variance."""
    from quark_eagle.parity.paired import Conversations, change, noise_between_passes, standard_error
    from quark_eagle.parity.power import plan

    conversations = Conversations.of(prompts)
    totals = conversations.counts.sum(axis=0)
    error = None if (totals == 0).any() else standard_error(conversations)
    noise = noise_between_passes(conversations)
    if error is None or noise is None:
        return None
    deviation, estimate = error * len(conversations) ** 0.5, float(change(totals))
    return plan(
        deviation,
        len(conversations),
        estimate,
        margin=margin,
        alpha=alpha,
        power=power,
        at_least=at_least,
        noise=noise,
    )


def _nothing_to_plan_from(report: Path) -> QuarkEagleError:
    from quark_eagle.errors import QuarkEagleError

    return QuarkEagleError(
        f"{report}: fewer than two conversations in which a draft proposed anything, but the variance between them "
        "is what a plan is made of. Measure on more prompts."
    )


def _document(report: Path, plans: list[Power], categories: Mapping[str, Power | None]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "parity": str(report),
        "plans": [plan.model_dump(mode="json") for plan in plans],
        "categories": {name: plan and plan.model_dump(mode="json") for name, plan in categories.items()},
    }


def _show(plans: list[Power], categories: Mapping[str, Power | None], margin: float) -> None:
    from quark_eagle.cli import render
    from quark_eagle.parity.categories import MIN_CATEGORY_CONVERSATIONS
    from quark_eagle.parity.verdict import MIN_CONVERSATIONS
    from quark_eagle.reporting.wording import count

    first = plans[0]
    if first.num_conversations >= MIN_CONVERSATIONS:
        margin_shown, probability = f"{first.detectable_margin:.2%}", f"{first.power:.0%}"
        shows = f"which can show a margin of {margin_shown} with {probability} probability if nothing is lost"
    else:
        shows = "too few to show any margin, and they say little of how conversations vary"
    render.say(f"Measured on {count(first.num_conversations)} conversations, {shows}.\n")
    needs = ("now", "needed if nothing is lost", "if the change is as measured")
    rows = [(f"{plan.margin:.2%}{' *' if plan.margin == margin else ''}", *_numbers(plan)) for plan in plans]
    render.show(render.table(("margin", *needs), rows, right=(1, 2, 3)))
    render.say()
    each = [(name, *_numbers(plan)) for name, plan in categories.items()]
    render.show(render.table((f"category, at {margin:.2%}", *needs), each, right=(1, 2, 3)))
    render.say(
        f"\nConversations for a decision with {first.power:.0%} probability at alpha {first.alpha:g}. "
        f"The gate takes at least {MIN_CONVERSATIONS}, and {MIN_CATEGORY_CONVERSATIONS} of a category."
    )


def _numbers(plan: Power | None) -> tuple[str, str, str]:
    """Conversations that there are, and that are needed."""
    from quark_eagle.reporting.wording import NOTHING, count

    if plan is None:
        return (NOTHING,) * 3
    unchanged, measured = (
        NOTHING if number is None else count(number) for number in (plan.num_if_unchanged, plan.num_if_as_measured)
    )
    return count(plan.num_conversations), unchanged, measured
