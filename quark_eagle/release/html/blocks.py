"""Blocks: what a page is put together from. Text in them is text, and only SVG is markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Hash:
    """A sha256, shown by its first digits; all of it is there to be copied."""

    sha256: str

    @property
    def short(self) -> str:
        """Enough to compare by eye."""
        return f"{self.sha256[:12]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headers.

    Attributes:
        caption: what the table holds, for those who do not see what stands around it.
        right: columns of numbers, from 0.
        is_open: whether it is shown at once, or behind its caption.
        hides: columns that a narrow screen has no room for.
    """

    kind: ClassVar[str] = "table"

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str | Markup | Hash]]
    right: Sequence[int] = ()
    is_open: bool = False
    hides: Sequence[int] = ()

    def looks(self, column: int) -> str:
        """Classes of a column's cells."""
        return " ".join([*["right"] * (column in self.right), *["hides"] * (column in self.hides)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """An entry of a legend: a mark, and what it stands for."""

    look: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A drawing, what it shows in words, and its numbers.

    Attributes:
        svg: the drawing.
        caption: below it: how to read it.
        table: the same numbers, for those who do not see the drawing or want to copy them.
        shape: of the space it takes: "wide", "plot" or "square".
    """

    kind: ClassVar[str] = "figure"

    svg: Markup
    caption: str
    table: Table | None = None
    legend: Sequence[Series] = ()
    shape: str = "plot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A small drawing among others like it.

    Attributes:
        name: of what it shows.
        note: its most telling number.
    """

    name: str
    svg: Markup
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """Small drawings under one caption, all to the same scale."""

    kind: ClassVar[str] = "panels"

    title: str
    panels: Sequence[Panel]
    caption: str
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"

    rows: Sequence[tuple[str, str | Hash]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph, or a list of several."""

    kind: ClassVar[str] = "text"

    lines: Sequence[str]
    is_list: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """What can be pasted into a shell."""

    kind: ClassVar[str] = "commands"

    text: str


Block = Table | Figure | Panels | Facts | Text | Commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        anchor: by which the page's contents refer to it.
        lead: its first paragraph: what the reader is about to see.
    """

    anchor: str
    title: str
    lead: str
    blocks: Sequence[Block]
