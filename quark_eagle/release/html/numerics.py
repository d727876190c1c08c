"""Numerics: for each quantized weight how its scales spread, and how far rounding moved its elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from markupsafe import Markup

from quark_eagle.documents.weights import Distribution, ModuleWeights
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html.blocks import Panel, Panels, Section, Table
from quark_eagle.release.html.svg import Axis, drawing, element
from quark_eagle.reporting.wording import count

_HEIGHT, _FLOOR = 84, 66
_FARTHEST = 0.08  # of the errors' axis; the last bin, of all that lie beyond 7 %, is drawn in what is left
_RANKS = ("number", "least", "1 %", "median", "99 %", "greatest")


def numerics(evidence: Evidence) -> Section:
    """Whether a weight was hurt more than its neighbours."""
    quantized = [it for it in evidence.weights.modules if it.action == "quantize"]
    errors = [(it, it.relative_error) for it in quantized if it.relative_error is not None]
    blocks = [_scales([(it, it.scales) for it in quantized if it.scales is not None])]
    if errors:
        blocks.insert(0, _errors(errors))
    without = "" if errors else " The BF16 draft was not at hand, so what rounding did is not known."
    return Section(
        anchor="numerics",
        title="Weights in FP8",
        lead=f"Every quantized weight, element by element.{without} Panels of one kind have the same axis, so that a "
        "weight that was hurt more than its neighbours stands out.",
        blocks=blocks,
    )


def _errors(found: Sequence[tuple[ModuleWeights, Distribution]]) -> Panels:
    axis = Axis(low=0.0, high=_FARTHEST)
    panels = [
        Panel(
            name=_module(it.tensor),
            note=f"median {error.p50:.1%}, 99 % below {error.p99:.1%}",
            svg=_histogram(
                error, axis, lambda number: number, [(0.0, "0"), (0.02, "2 %"), (0.04, "4 %"), (0.06, "6 %")]
            ),
        )
        for it, error in found
    ]
    rows = [
        (*_ranks(it, error, lambda number: f"{number:.3%}"), count(error.counts[-1]), count(it.zeros or 0))
        for it, error in found
    ]
    return Panels(
        title="How far rounding moved each element",
        panels=panels,
        caption=(
            "|scale · q − w| / |w| of every element. Rounding to e4m3 moves an element by 1/17 = 5.9 % at most, a "
            "little more where the division was in BF16. The bar at the right end, if there is one, is of elements "
            "that are too small for their scale."
        ),
        table=Table(
            caption="Relative error by weight",
            headers=("weight", *_RANKS, "beyond 7 %", "zeros"),
            rows=rows,
            right=range(1, 9),
        ),
    )


def _scales(found: Sequence[tuple[ModuleWeights, Distribution]]) -> Panels:
    ends = [math.log2(edge) for _, scales in found for edge in (scales.edges[0], scales.edges[-1])]
    axis = Axis(low=min(ends, default=0.0), high=max(ends, default=1.0))
    panels = [
        Panel(name=_module(it.tensor), note=_spread(scales), svg=_histogram(scales, axis, math.log2, _powers(axis)))
        for it, scales in found
    ]
    static = any(it.input_scale is not None for it, _ in found)
    rows = [
        (
            *_ranks(it, scales, lambda number: f"{number:.3e}"),
            *([f"{it.input_scale:.3e}" if it.input_scale is not None else "–"] if static else []),
        )
        for it, scales in found
    ]
    headers = ("weight", *_RANKS, *(("input scale",) if static else ()))
    return Panels(
        title="Scales of the weights",
        panels=panels,
        caption="weight_scale, on a logarithmic axis. It is the largest magnitude that shares it, over 448.",
        table=Table(caption="Scales by weight", headers=headers, rows=rows, right=range(1, len(headers))),
    )


def _histogram(
    found: Distribution, axis: Axis, place: Callable[[float], float], marks: Sequence[tuple[float, str]]
) -> Markup:
    """Bars as high as their share of the fullest bin; an empty bin has none, and a full one is never invisible."""
    fullest = max(found.counts)
    bars = []
    for (low, high), number in zip(pairwise(found.edges), found.counts, strict=True):
        if number:
            left, right = axis.at(place(low)), axis.at(min(place(high), axis.high))
            height = max(1.0, number / fullest * (_FLOOR - 6))
            bars.append(
                element(
                    "rect",
                    x=f"{left:.2f}%",
                    width=f"{max(right - left, 0.8):.2f}%",
                    y=_FLOOR - height,
                    height=height,
                    class_="bar",
                )
            )
    drawn = [element("line", x1="0", x2="100%", y1=_FLOOR, y2=_FLOOR, class_="axis"), *bars]
    drawn += [
        element("text", text, x=axis.across(at), y=_HEIGHT - 3, text_anchor="middle", class_="tick")
        for at, text in marks
    ]
    return drawing(drawn, height=_HEIGHT, label="")


def _powers(axis: Axis) -> list[tuple[float, str]]:
    """Powers of two on a logarithmic axis, four of them at most."""
    first, last = math.ceil(axis.low + 0.3), math.floor(axis.high - 0.3)
    step = max(1, math.ceil((last - first) / 3))
    exponents = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return [(float(power), f"2{str(power).translate(exponents)}") for power in range(first, last + 1, step)]


def _spread(scales: Distribution) -> str:
    if scales.count == 1:
        return f"one scale: {scales.max:.2e}"
    return f"{count(scales.count)} scales, factor {scales.max / scales.min:.0f}"


def _ranks(it: ModuleWeights, found: Distribution, written: Callable[[float], str]) -> list[str]:
    ranks = (found.min, found.p1, found.p50, found.p99, found.max)
    return [it.tensor, count(found.count), *map(written, ranks)]


def _module(tensor: str) -> str:
    return tensor.removesuffix(".weight")
