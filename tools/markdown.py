"""Text as a table of Markdown takes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

GENERATED_NOTE = "<!-- Made by `python -m tools.reference`; a test holds that it is current. -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are Markdown already.

    >>> print(table(("a", "b"), [("1", "2")]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listed(words: Sequence[str], joint: str) -> str:
    """Words as a sentence lists them.

    >>> listed(["1", "2", "3"], "or"), listed(["1"], "or")
    ('1, 2 or 3', '1')
    """
    return f" {joint} ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def escaped(text: str) -> str:
    r"""Plain text in which nothing but `code` is markup.

    >>> print(escaped("keep '*.down_proj' | see `a|b*`"))
    keep '\*.down_proj' \| see `a\|b*`
    """
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part.replace("|", "\\|") if part.startswith("`") else re.sub(r"([*<|])", r"\\\1", part) for part in parts
    )
