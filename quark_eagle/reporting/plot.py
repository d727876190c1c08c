"""A plot of marginal acceptance by position in the draft, for both drafts, with intervals by conversation.

Equal input makes equal bytes: no date, a fixed salt for SVG's ids, matplotlib's own defaults whatever the user's
settings are. Blue circles and orange squares (Okabe and Ito's palette) are told apart by the colour-blind and in print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quark_eagle.documents.base import refuse_existing, write_bytes
from quark_eagle.errors import QuarkEagleError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
LOOKS = (("#0072B2", "o", -0.08), ("#D55E00", "s", +0.08))  # colour, marker, shift: intervals stand side by side
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "quark-eagle",
    "svg.fonttype": "none",  # text stays text: smaller, searchable, read aloud
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One draft's marginal acceptance.

    Attributes:
        name: in the legend.
        num_drafts: rounds behind each share.
        rates: [k] 0…1; None is left out.
        intervals: [k] ends; None has no bar.
    """

    name: str
    num_drafts: int
    rates: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None]


def require_plottable(path: Path, *, overwrite: bool) -> None:
    """See before the work that a plot can be drawn and its file written.

    Raises:
        UsageError: the suffix is of no format, or the file exists and may not be replaced.
        QuarkEagleError: matplotlib is not installed.
    """
    from importlib.util import find_spec

    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: a file name that ends in .png or .svg was needed. Choose one of them.")
    refuse_existing(path, overwrite=overwrite)
    if find_spec("matplotlib") is None:
        raise QuarkEagleError(
            "matplotlib: not installed, but it draws the plot. Install it: pip install 'quark-eagle[plot]'. "
            "Without --plot the numbers are printed."
        )


def plot(curves: tuple[Curve, Curve], title: str, note: str, path: Path) -> None:
    """Draw both drafts into a file, whole or not at all.

    Args:
        curves: of baseline and candidate.
        title: with the counts.
        note: below: what the bars are.
        path: .png or .svg; an existing file is replaced.

    Raises:
        StorageError: the file could not be written.
    """
    write_bytes(path, draw(curves, title, note, path.suffix.lower().removeprefix(".")))


def draw(curves: tuple[Curve, Curve], title: str, note: str, suffix: str) -> bytes:
    """The plot as the content of a file; ``suffix`` is png or svg."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        for curve, look in zip(curves, LOOKS, strict=True):
            _draw_curve(axes, curve, *look)
        _label(axes, curves, _plain(title))
        figure.supxlabel(_plain(note), fontsize=8.5, color="#555555")
        content = BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
        figure.savefig(content, format=suffix, metadata=metadata)
    return content.getvalue()


def _draw_curve(axes: Axes, curve: Curve, colour: str, marker: str, shift: float) -> None:
    places = [i for i, rate in enumerate(curve.rates) if rate is not None]
    rates = [rate for rate in curve.rates if rate is not None]
    ends = [curve.intervals[i] or (rate, rate) for i, rate in zip(places, rates, strict=True)]
    axes.errorbar(
        [i + shift for i in places],
        rates,
        yerr=[
            [rate - low for rate, (low, _) in zip(rates, ends, strict=True)],
            [high - rate for rate, (_, high) in zip(rates, ends, strict=True)],
        ],
        label=f"{_plain(curve.name)} ({curve.num_drafts:,} drafts)".replace(",", " "),
        color=colour,
        marker=marker,
        markersize=6,
        linestyle="none",  # beside each other as they stand, lines would seem to run apart
        elinewidth=1.4,
        capsize=4,
    )


def _label(axes: Axes, curves: tuple[Curve, Curve], title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("position in the draft")
    axes.set_ylabel("marginal acceptance")
    axes.set_xticks(range(len(curves[0].rates)))
    axes.set_xlim(-0.5, len(curves[0].rates) - 0.5)
    highest = [end for curve in curves for pair in curve.intervals if pair is not None for end in pair]
    highest += [rate for curve in curves for rate in curve.rates if rate is not None]
    axes.set_ylim(0, min(1.0, 1.12 * max(highest, default=1.0)) or 1.0)  # from 0: a small loss looks small
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", fontsize=10, framealpha=1.0, edgecolor="none")


def _plain(text: str) -> str:
    """Text in which a dollar sign is one: matplotlib would read what stands between two as mathematics."""
    return text.replace("$", r"\$")
