"""How the model card writes names, sizes and shell commands down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from quark_eagle.reporting import markdown
from quark_eagle.reporting.wording import Row

_HUB = "https://huggingface.co"
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def escape(text: str) -> str:
    r"""Text that reads as itself, without the characters that nobody sees and that turn others round.

    >>> print(escape("a|b\x1b<i>"))
    a\|b &lt;i&gt;
    """
    return markdown.escape(visible(text))


def visible(text: str) -> str:
    r"""Text in one line, a space for each run of what cannot be printed: control, format and bidirectional characters.

    >>> visible("a\n\u202eb")
    'a b'
    """
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


def table(headers: Sequence[str], rows: Sequence[Row], *, right: Sequence[int] = ()) -> str:
    """A table of such text; the columns in `right` are set flush right."""
    return markdown.table(headers, [tuple(map(visible, row)) for row in rows], right=right)


def code(text: str) -> str:
    """Text in a paragraph as it would be typed, whatever backticks it holds. Not for tables, whose bars end a cell.

    >>> code("fc"), code("a`b")
    ('`fc`', '`` a`b ``')
    """
    shown = visible(text) or " "
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    return f"`{shown}`" if not longest else f"{'`' * (longest + 1)} {shown} {'`' * (longest + 1)}"


def shell(commands: str) -> str:
    """Commands as a block that can be pasted into a shell."""
    return markdown.fenced(commands.rstrip("\n")).replace("text\n", "sh\n", 1)


def link(name: str, hub_id: str | None) -> str:
    """A model's name, and where it is on the hub if it is known to be there."""
    return f"**{escape(name)}**" if hub_id is None else f"[{escape(name)}]({_HUB}/{quote(hub_id)})"


def sizes(before: int, after: int) -> str:
    """Two sizes in bytes as people say them, in one unit, and by how much the second differs.

    >>> sizes(19_730_944, 15_659_776)
    '19.7 MB before, 15.7 MB after (-20.6%)'
    """
    unit, name = next((it for it in _UNITS if max(before, after) >= it[0]), _UNITS[-1])
    return f"{before / unit:.1f} {name} before, {after / unit:.1f} {name} after ({change(before, after)})"


def change(before: int, after: int) -> str:
    """By how much a size changed.

    >>> change(100, 77)
    '-23.0%'
    """
    return f"{after / before - 1:+.1%}" if before else "+0.0%"
