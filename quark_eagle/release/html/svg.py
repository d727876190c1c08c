"""SVG that is as wide as its place: across in percent, down in pixels, so that text and marks keep their size.

An element's colour is its class; `report.css` has one for light and one for dark. Text is escaped by `markupsafe`, and
holds nothing that nobody sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from quark_eagle.release.model_card_text import visible

LEFT, RIGHT = 1.5, 98.5  # percent between which values are drawn, so that marks at the ends are whole


def element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """One element; underscores in the names of attributes are hyphens, and one at the end is dropped.

    >>> print(element("text", "a<b", text_anchor="end", y=2.0))
    <text text-anchor="end" y="2">a&lt;b</text>
    """
    pairs = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    written = Markup("").join(Markup(' {}="{}"').format(name, _written(value)) for name, value in pairs)
    inside = Markup("").join(it if isinstance(it, Markup) else visible(it) for it in children)
    return (
        Markup("<{}{}>{}</{}>").format(tag, written, inside, tag) if inside else Markup("<{}{}/>").format(tag, written)
    )


def drawing(children: Iterable[str], *, height: int, label: str) -> Markup:
    """A whole drawing, as wide as its place; without a label it is for the eye alone, beside the numbers it shows."""
    said = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    return element("svg", *children, width="100%", height=height, **said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """From numbers to places: percent across, pixels down; ``start`` is where ``low`` is."""

    low: float
    high: float
    start: float = LEFT
    stop: float = RIGHT

    def at(self, value: float) -> float:
        """Where a number is; beyond the ends for one outside."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def across(self, value: float) -> str:
        """The same as an attribute, for what lies across."""
        return f"{_written(self.at(value))}%"

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers between the ends."""
        return ticks(self.low, self.high, about)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high, about so many.

    >>> ticks(0.0, 0.41)
    [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (1, 2, 5, 10) if step * power >= rough * 0.7) * power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def whisker(axis: Axis, low: float, high: float, y: float, look: str) -> Markup:
    """An interval lying down, with caps."""
    left, right = axis.across(low), axis.across(high)
    lines = [element("line", x1=left, x2=right, y1=y, y2=y)]
    lines += [element("line", x1=x, x2=x, y1=y - 5, y2=y + 5) for x in (left, right)]
    return element("g", *lines, class_=f"whisker {look}")


def spelled(marks: Sequence[float]) -> list[str]:
    """Round numbers in as few digits as tell them apart.

    >>> spelled([1.0, 1.5, 2.0]), spelled([1.92, 1.94])
    (['1.0', '1.5', '2.0'], ['1.92', '1.94'])
    """
    step = min((high - low for low, high in pairwise(marks)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{mark:.{decimals}f}" for mark in marks]


def levels(axis: Axis) -> list[Markup]:
    """Lines across a plot at round numbers of its axis, which goes up; each number stands above its line's left end."""
    drawn = []
    marks = axis.ticks()
    for mark, text in zip(marks, spelled(marks), strict=True):
        y = axis.at(mark)
        drawn.append(element("line", x1="0", x2="100%", y1=y, y2=y, class_="grid"))
        drawn.append(element("text", text, x="2", y=y - 4, class_="tick"))
    return drawn


def dot(x: str, y: float, look: str, title: str = "") -> Markup:
    """A point: of the BF16 draft a circle, of the FP8 draft a square, told apart without colour as well."""
    told = [element("title", title)] if title else []
    if look == "after":
        # A rectangle has no centre to be placed by: moved by half its size, whatever its place in percent.
        return element("rect", *told, x=x, y=y, width=8, height=8, transform="translate(-4 -4)", class_=look)
    return element("circle", *told, cx=x, cy=y, r=6, class_=look)


def _written(value: str | float) -> str:
    if isinstance(value, str):
        return visible(value)
    rounded = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if rounded == "-0" else rounded
