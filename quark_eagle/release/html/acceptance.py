"""Acceptance: by position in the draft, by category of prompt, and by the number of tokens proposed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from markupsafe import Markup

from quark_eagle.documents.parity import TauPoint
from quark_eagle.documents.verdict import Category
from quark_eagle.parity.explain import Explanation, explain
from quark_eagle.parity.positions import Position, Share
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html.blocks import Block, Figure, Section, Series, Table
from quark_eagle.release.html.ruler import Change, axis_of, row, scale
from quark_eagle.release.html.svg import Axis, dot, drawing, element, levels
from quark_eagle.release.model_card_acceptance import confidence_of
from quark_eagle.reporting.wording import CATEGORY_HEADERS, NOTHING, bounds, category_rows, count, percent

BOTH = (Series(look="before", name="BF16 draft"), Series(look="after", name="FP8 draft"))
_HEIGHT, _TOP, _BOTTOM = 240, 20, 212
_APART = 1.6  # percent between the marks of both drafts


def by_position(evidence: Evidence) -> Section:
    """How deep into a draft the target agrees."""
    explained = explain(evidence.parity, confidence=confidence_of(evidence.verdict))
    share = f"{explained.confidence:.0%}"
    figure = Figure(
        svg=_positions(explained),
        caption=(
            f"Bars: each draft's own {share} interval, by conversation. The drafts are paired, so bars that overlap do "
            "not say that nothing changed: the change has an interval of its own, in the table."
        ),
        legend=BOTH,
        table=Table(
            caption="Marginal acceptance by position, with counts",
            headers=("position", "BF16 draft", "of drafts", "FP8 draft", "of drafts", "change", f"{share} interval"),
            rows=[_position_row(it) for it in explained.walk],
            right=range(7),
        ),
    )
    return Section(
        anchor="position",
        title="Acceptance by position in the draft",
        lead="The share of drafts whose tokens up to this position were all accepted. It falls from left to right, for "
        "a token counts only if all before it did.",
        blocks=[figure, *_tau_curve(evidence)],
    )


def by_category(evidence: Evidence) -> Section:
    """Whether a kind of prompt loses what another gains."""
    verdict = evidence.verdict
    changes = [_change(it) for it in verdict.categories]
    margins = [it.margin for it in verdict.categories if it.margin is not None]
    axis = axis_of([it for it in changes if it is not None], margins)
    rows: list[Sequence[str | Markup]] = [
        (category.name, count(category.num_prompts), row(change, axis, category.margin), _in_numbers(category))
        for category, change in zip(verdict.categories, changes, strict=True)
    ]
    gates = "Categories gate, too: each has a margin." if margins else "Categories are shown and do not gate."
    return Section(
        anchor="category",
        title="Change by category of prompt",
        lead=f"The relative change of τ with its interval; right of the line is a gain. {gates} Few prompts make "
        "a wide interval.",
        blocks=[
            Table(
                caption="Change of τ by category",
                headers=("category", "prompts", "change of τ, with interval", ""),
                rows=[*rows, ("", "", scale(axis), "")],
                right=(1, 3),
                is_open=True,
                hides=(1,),
            ),
            Table(
                caption="τ, intervals and margins by category",
                headers=CATEGORY_HEADERS,
                rows=category_rows(verdict),
                right=range(1, 7),
            ),
        ],
    )


def _positions(explained: Explanation) -> Markup:
    """Two marks with intervals for each position."""
    shares = [share for it in explained.walk for share in (it.marginal.baseline, it.marginal.candidate)]
    highest = max((end for it in shares for end in (it.rate or 0.0, *(it.interval or ()))), default=0.0) or 1.0
    axis = Axis(low=0.0, high=highest, start=_BOTTOM, stop=_TOP)
    parts = levels(axis)
    for it in explained.walk:
        middle = (it.position + 0.5) * 100 / len(explained.walk)
        for share, look, shift in (
            (it.marginal.baseline, "before", -_APART),
            (it.marginal.candidate, "after", +_APART),
        ):
            parts += _upright(share, axis, middle + shift, look)
        text = f"position {it.position}" if len(explained.walk) < 5 else str(it.position)
        parts.append(element("text", text, x=f"{middle:.2f}%", y=_HEIGHT - 8, text_anchor="middle", class_="tick"))
    said = "; ".join(f"position {it.position}: {_both(it)}" for it in explained.walk)
    return drawing(parts, height=_HEIGHT, label=f"Marginal acceptance, BF16 draft and FP8 draft. {said}.")


def _upright(share: Share, axis: Axis, across: float, look: str) -> Iterator[Markup]:
    if share.rate is None:
        return
    x = f"{across:.2f}%"
    if share.interval is not None:
        low, high = (axis.at(end) for end in share.interval)
        yield element("line", x1=x, x2=x, y1=low, y2=high, class_=f"whisker {look}")
    yield dot(x, axis.at(share.rate), look, f"{share.rate:.4f}: {count(share.count)} of {count(share.of)} drafts")


def _position_row(it: Position) -> Sequence[str]:
    before, after, change = it.marginal.baseline, it.marginal.candidate, it.marginal.change
    interval = it.marginal.interval
    return (
        str(it.position),
        _rate(before.rate),
        f"{count(before.count)} of {count(before.of)}",
        _rate(after.rate),
        f"{count(after.count)} of {count(after.of)}",
        NOTHING if change is None else f"{change:+.4f}",
        NOTHING if interval is None else " … ".join(f"{end:+.4f}" for end in interval),
    )


def _both(it: Position) -> str:
    return f"{_rate(it.marginal.baseline.rate)} and {_rate(it.marginal.candidate.rate)}"


def _rate(rate: float | None) -> str:
    return NOTHING if rate is None else f"{rate:.4f}"


def _change(category: Category) -> Change | None:
    found = category.difference
    if found is None:
        return None
    ends = None if found.interval is None else (found.interval.low, found.interval.high)
    return Change(estimate=found.estimate, ends=ends)


def _in_numbers(category: Category) -> str:
    """What is drawn beside it: the change, and its interval below it."""
    found = category.difference
    if found is None:
        return NOTHING
    return Markup("{}<small>{}</small>").format(percent(found.estimate), bounds(found.interval))


def _tau_curve(evidence: Evidence) -> Iterator[Block]:
    """τ at every k, where the replay counted it."""
    curve = evidence.parity.summary.tau_curve
    if curve is None or len(curve) < 2:
        return
    measured = evidence.parity.num_speculative_tokens
    yield Figure(
        svg=_curve(curve, measured),
        caption=(
            "τ, the tokens that a round emits, if this many are proposed in it; 1 is a draft that is never right. The "
            f"verdict is about k = {measured}."
        ),
        legend=BOTH,
        table=Table(
            caption="τ by number of speculative tokens, with counts",
            headers=("k", "τ BF16", "τ FP8", "drafts BF16", "drafts FP8"),
            rows=[
                (
                    str(point.num_speculative_tokens),
                    _rate(point.baseline_mean_acceptance_length),
                    _rate(point.candidate_mean_acceptance_length),
                    count(point.baseline_num_drafts),
                    count(point.candidate_num_drafts),
                )
                for point in curve
            ],
            right=range(5),
        ),
    )


def _curve(curve: Sequence[TauPoint], measured: int) -> Markup:
    lengths = {
        look: [getattr(point, f"{arm}_mean_acceptance_length") or 1.0 for point in curve]
        for look, arm in (("before", "baseline"), ("after", "candidate"))
    }
    highest = max(length for both in lengths.values() for length in both)
    down = Axis(low=1.0, high=max(highest, 1.05), start=_BOTTOM, stop=_TOP)
    across = Axis(low=1.0, high=len(curve), start=14, stop=97)
    parts = levels(down)
    if measured <= len(curve):
        here = across.across(measured)
        parts.append(element("line", x1=here, x2=here, y1=0, y2=_BOTTOM, class_="axis"))
    for look, values in lengths.items():
        places = [(across.across(k), down.at(value)) for k, value in enumerate(values, start=1)]
        parts += [
            element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"line {look}")
            for (x1, y1), (x2, y2) in pairwise(places)
        ]
        parts += [
            dot(x, y, look, f"k = {k}: τ {value:.4f}")
            for k, ((x, y), value) in enumerate(zip(places, values, strict=True), start=1)
        ]
    for k in range(1, len(curve) + 1):
        text = f"k = {k}" if k == 1 else str(k)
        parts.append(element("text", text, x=across.across(k), y=_HEIGHT - 8, text_anchor="middle", class_="tick"))
    place = min(measured, len(curve))
    first, last = lengths["before"][place - 1], lengths["after"][place - 1]
    label = f"τ by the number of tokens proposed, 1 to {len(curve)}: at {place}, {first:.3f} BF16 and {last:.3f} FP8."
    return drawing(parts, height=_HEIGHT, label=label)
