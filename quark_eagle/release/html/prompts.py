"""Prompt by prompt: every pair that the verdict was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from quark_eagle.documents.counts import PromptAcceptance, PromptResult
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html.blocks import Figure, Section, Series, Table
from quark_eagle.release.html.svg import Axis, drawing, element, levels, spelled
from quark_eagle.reporting.wording import NOTHING, count

_TOP, _SIDE = 30, 370
_LOOKS = {"gained": "after", "unchanged": "same", "lost": "lost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """τ of both drafts on one prompt; None where a draft made no round."""

    prompt: PromptResult
    before: float | None
    after: float | None

    @property
    def fate(self) -> str:
        """What became of τ there."""
        if self.before is None or self.after is None:
            return "not compared"
        return "unchanged" if self.before == self.after else "gained" if self.after > self.before else "lost"


def mean_acceptance_length(counts: PromptAcceptance) -> float | None:
    """τ = 1 + accepted / drafts of one prompt; None where there was no draft.

    >>> mean_acceptance_length(PromptAcceptance(walk=[2, 1, 1], every_start=None, walk_num_drafts=None))
    1.75
    """
    drafts = sum(counts.walk)
    return 1 + sum(j * number for j, number in enumerate(counts.walk)) / drafts if drafts else None


def prompt_by_prompt(evidence: Evidence) -> Section:
    """Whether the change is everywhere a little, or on a few prompts a lot."""
    pairs = [
        Pair(prompt=it, before=mean_acceptance_length(it.baseline), after=mean_acceptance_length(it.candidate))
        for it in evidence.parity.prompts
    ]
    fates = {fate: sum(pair.fate == fate for pair in pairs) for fate in (*_LOOKS, "not compared")}
    told = ", ".join(f"{count(number)} {fate}" for fate, number in fates.items() if number)
    figure = Figure(
        svg=_scatter([pair for pair in pairs if pair.fate in _LOOKS], told),
        caption="Each mark is a prompt: τ of the BF16 draft across, of the FP8 draft upwards, on the same axes. On the "
        "diagonal nothing changed. Hold the pointer over a mark to see which prompt it is.",
        legend=[Series(look=look, name=f"{fate}: {count(fates[fate])}") for fate, look in _LOOKS.items()],
        shape="square",
        table=Table(
            caption=f"All {count(len(pairs))} prompts",
            headers=("prompt", "category", "τ BF16", "τ FP8", "drafts BF16", "drafts FP8"),
            rows=[_row(pair) for pair in pairs],
            right=(2, 3, 4, 5),
        ),
    )
    return Section(
        anchor="prompts",
        title="Prompt by prompt",
        lead=f"{count(len(pairs))} prompts: {told}. A prompt is short, so single ones scatter; what counts is whether "
        "they scatter evenly around the diagonal.",
        blocks=[figure],
    )


def _scatter(pairs: Sequence[Pair], told: str) -> Markup:
    values = [value for pair in pairs for value in (pair.before, pair.after) if value is not None] or [1.0, 2.0]
    room = 0.06 * (max(values) - min(values)) or 0.1
    across = Axis(low=min(values) - room, high=max(values) + room, start=0, stop=100)
    down = Axis(low=across.low, high=across.high, start=_SIDE, stop=_TOP)
    marks = across.ticks()
    parts = [
        element("line", x1="0", x2="100%", y1=_SIDE, y2=_TOP, class_="axis"),
        *levels(down),
        *(
            element("line", x1=across.across(it), x2=across.across(it), y1=_TOP, y2=_SIDE, class_="grid")
            for it in marks
        ),
        *(
            element("text", text, x=across.across(it), y=_SIDE + 16, text_anchor="middle", class_="tick")
            for it, text in zip(marks, spelled(marks), strict=True)
        ),
        *(_mark(pair, across, down) for pair in pairs),
        element("text", "τ BF16 →", x="100%", y=_SIDE - 6, text_anchor="end", class_="tick"),
        element("text", "↑ τ FP8", x="2", y=12, class_="tick"),
    ]
    return drawing(parts, height=_SIDE + 22, label=f"τ of both drafts on each prompt, paired: {told}.")


def _mark(pair: Pair, across: Axis, down: Axis) -> Markup:
    assert pair.before is not None
    assert pair.after is not None
    title = element("title", f"{pair.prompt.id}: τ {pair.before:.3f} → {pair.after:.3f}")
    x, y = across.across(pair.before), down.at(pair.after)
    return element("circle", title, cx=x, cy=y, r=4, class_=f"pair {_LOOKS[pair.fate]}")


def _row(pair: Pair) -> Sequence[str]:
    return (
        pair.prompt.id,
        pair.prompt.category,
        NOTHING if pair.before is None else f"{pair.before:.3f}",
        NOTHING if pair.after is None else f"{pair.after:.3f}",
        count(sum(pair.prompt.baseline.walk)),
        count(sum(pair.prompt.candidate.walk)),
    )
