"""Sizes: what the draft weighed before, what it weighs now, and which parts and dtypes that is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from quark_eagle.documents.weights import ModuleWeights
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html.amounts import change, size
from quark_eagle.release.html.blocks import Figure, Section, Series, Table
from quark_eagle.release.html.svg import drawing, element
from quark_eagle.reporting.wording import NOTHING, count

_BAR, _GAP = 34, 22
_LOOKS = ("part-1", "part-2", "part-3", "part-4", "part-5")
_OTHERS = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Tensors that share a fate; bytes before are None where the BF16 draft was not at hand."""

    name: str
    num_tensors: int
    before: int | None
    after: int


def sizes(evidence: Evidence) -> Section:
    """What became of the bytes."""
    statistics = evidence.weights
    parts = parts_of(statistics.modules)
    if statistics.cache_scales:
        cached = Part(
            name="scales of the KV cache",
            num_tensors=len(statistics.cache_scales),
            before=None if statistics.size_bytes_before is None else 0,
            after=statistics.cache_scales_bytes,
        )
        parts = [*parts, cached]
    before, after = statistics.size_bytes_before, statistics.size_bytes_after
    told = (
        f"{size(after)}" if before is None else f"{size(before)} before, {size(after)} after ({change(before, after)})"
    )
    shown = _at_most(parts, len(_LOOKS))
    figure = Figure(
        svg=_bars(shown, before, after),
        caption="Bytes of all tensors by part. Scales are counted with the weights that they are of.",
        legend=[
            Series(look=look, name=f"{part.name}: {_both(part)}") for look, part in zip(_LOOKS, shown, strict=False)
        ],
        shape="wide",
        table=_table("Bytes by part of the draft", "part", parts),
    )
    return Section(
        anchor="size",
        title="Size",
        lead=f"The weights are {told}.",
        blocks=[figure, _table("Bytes by dtype", "dtype, before → after", by_dtype(statistics.modules))],
    )


def parts_of(modules: Sequence[ModuleWeights]) -> list[Part]:
    """The quantized weights together, and what was kept by the reason for which it was; the largest after first."""
    return _grouped([("quantized to FP8" if it.action == "quantize" else _kept(it.reason), it) for it in modules])


def by_dtype(modules: Sequence[ModuleWeights]) -> list[Part]:
    """The same by what each tensor's numbers were and are."""
    return _grouped([(f"{it.dtype_before or NOTHING} → {it.dtype_after}", it) for it in modules])


def _kept(reason: str) -> str:
    """The part that a reason is about: what stands before the plan's explanation."""
    return reason.split(":")[0].split(" (")[0]


def _grouped(named: Sequence[tuple[str, ModuleWeights]]) -> list[Part]:
    groups: dict[str, list[ModuleWeights]] = defaultdict(list)
    for name, module in named:
        groups[name].append(module)
    parts = [
        Part(
            name=name,
            num_tensors=len(modules),
            before=_sum([it.size_bytes_before for it in modules]),
            after=sum(it.size_bytes_after for it in modules),
        )
        for name, modules in groups.items()
    ]
    return sorted(parts, key=lambda part: (-part.after, part.name))


def _at_most(parts: Sequence[Part], number: int) -> list[Part]:
    """The largest, and all others as one."""
    if len(parts) <= number:
        return list(parts)
    rest = parts[number - 1 :]
    others = Part(
        name=_OTHERS,
        num_tensors=sum(it.num_tensors for it in rest),
        before=_sum([it.before for it in rest]),
        after=sum(it.after for it in rest),
    )
    return [*parts[: number - 1], others]


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _bars(parts: Sequence[Part], before: int | None, after: int) -> Markup:
    """Both drafts as bars to one scale."""
    longest = max(before or 0, after, 1)
    rows = [("after", [part.after for part in parts], after)]
    if before is not None:
        rows.insert(0, ("before", [part.before or 0 for part in parts], before))
    drawn: list[Markup] = []
    for place, (name, lengths, total) in enumerate(rows):
        top = place * (_BAR + _GAP) + 18
        drawn.append(element("text", f"{name}: {size(total)}", x="0", y=top - 5, class_="label"))
        start = 0.0
        for look, length in zip(_LOOKS, lengths, strict=False):
            width = 100 * length / longest
            drawn.append(element("rect", x=f"{start:.2f}%", y=top, width=f"{width:.2f}%", height=_BAR, class_=look))
            start += width
    label = f"Bytes of all tensors: {'' if before is None else f'{size(before)} before, '}{size(after)} after."
    return drawing(drawn, height=len(rows) * (_BAR + _GAP), label=label)


def _both(part: Part) -> str:
    return size(part.after) if part.before is None else f"{size(part.before)} → {size(part.after)}"


def _table(caption: str, what: str, parts: Sequence[Part]) -> Table:
    return Table(
        caption=caption,
        headers=(what, "tensors", "bytes before", "bytes after", "change"),
        rows=[
            (
                part.name,
                count(part.num_tensors),
                NOTHING if part.before is None else count(part.before),
                count(part.after),
                NOTHING if not part.before else change(part.before, part.after),
            )
            for part in parts
        ],
        right=(1, 2, 3, 4),
    )
