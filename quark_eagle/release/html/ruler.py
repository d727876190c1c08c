"""Rulers: relative changes of τ with their intervals, beside no change at all and the margin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from quark_eagle.release.html.svg import LEFT, RIGHT, Axis, dot, drawing, element, spelled, whisker
from quark_eagle.reporting.wording import percent

_ROW = 30
_MIDDLE = _ROW / 2
_ROOM_LEFT, _ROOM_RIGHT = 0.3, 0.16  # of what is in view; labels stand left of their lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A relative change, and the ends of its interval if it has one."""

    estimate: float
    ends: tuple[float, float] | None = None

    @property
    def extent(self) -> tuple[float, ...]:
        """What has to be in view."""
        return (self.estimate, *(self.ends or ()))


def axis_of(changes: Iterable[Change], margins: Sequence[float] = ()) -> Axis:
    """One axis for all of them, with no change and the margins in view, and room at both ends."""
    places = [0.0, *(-margin for margin in margins), *(place for change in changes for place in change.extent)]
    low, high = min(places), max(places)
    room = (high - low) or 0.01
    return Axis(low=low - _ROOM_LEFT * room, high=high + _ROOM_RIGHT * room)


def ruler(change: Change, margin: float, label: str) -> Markup:
    """The change that decided, large: the losses that the margin forbids lie to its left, shaded."""
    axis = axis_of([change], [margin])
    edge, none, middle, bottom = axis.across(-margin), axis.across(0.0), 46, 92
    parts = [
        element("rect", x="0", y=0, width=edge, height=bottom, class_="forbidden"),
        element("line", x1=edge, x2=edge, y1=0, y2=bottom, class_="margin"),
        element("line", x1=none, x2=none, y1=0, y2=bottom, class_="axis"),
        element("text", percent(-margin), x=edge, y=bottom + 18, text_anchor="end", dx=8, class_="tick bad"),
        element("text", "no change", x=none, y=bottom + 18, text_anchor="start", dx=-8, class_="tick"),
    ]
    if change.ends is not None:
        parts.append(whisker(axis, *change.ends, middle, "decided"))
    parts.append(dot(axis.across(change.estimate), middle, "after"))
    anchor = "end" if axis.at(change.estimate) > (LEFT + RIGHT) * 0.8 else "middle"
    parts.append(
        element(
            "text", percent(change.estimate), x=axis.across(change.estimate), y=26, text_anchor=anchor, class_="value"
        )
    )
    return drawing(parts, height=bottom + 26, label=label)


def row(change: Change | None, axis: Axis, margin: float | None = None) -> Markup:
    """The same small, in a row of a table whose other cells have the numbers."""
    none = axis.across(0.0)
    parts = [element("line", x1=none, x2=none, y1=0, y2=_ROW, class_="axis")]
    if margin is not None:
        edge = axis.across(-margin)
        parts.append(element("rect", x="0", y=0, width=edge, height=_ROW, class_="forbidden"))
        parts.append(element("line", x1=edge, x2=edge, y1=0, y2=_ROW, class_="margin"))
    if change is not None:
        if change.ends is not None:
            parts.append(whisker(axis, *change.ends, _MIDDLE, "after"))
        parts.append(dot(axis.across(change.estimate), _MIDDLE, "after"))
    return drawing(parts, height=_ROW, label="")


def scale(axis: Axis) -> Markup:
    """The numbers below such rows; a narrow screen shows the ends and the middle."""
    drawn: list[Markup] = []
    marks = axis.ticks(4)
    for mark, number in zip(marks, spelled([100 * mark for mark in marks]), strict=True):
        text = "0" if mark == 0 else f"{'+' if mark > 0 else ''}{number}%"
        place, ends = axis.across(mark), (marks[0], 0, marks[-1])
        look = "tick" if mark in ends else "tick minor"
        drawn.append(element("text", text, x=place, y=13, text_anchor="middle", class_=look))
    return drawing(drawn, height=18, label="")
