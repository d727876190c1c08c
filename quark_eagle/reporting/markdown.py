"""Markdown: the verdict as a comment on a pull request, or as the summary of a CI step.

Names and messages come from files that a stranger may have written; they are shown as they are and never as markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from quark_eagle.documents.verdict import Verdict
from quark_eagle.reporting.wording import (
    CATEGORY_HEADERS,
    DRAFT_HEADERS,
    TITLES,
    Row,
    category_rows,
    draft_rows,
    facts,
    how_measured,
    next_command,
    subject,
    warnings,
)

_MARKS = re.compile(r"([\\`*_\[\]#|~$@&<>])")


def to_markdown(verdict: Verdict) -> str:
    """The verdict as GitHub-flavoured Markdown."""
    parts = [f"## {TITLES[verdict.outcome]}: {escape(subject(verdict))}", _reason(verdict)]
    if verdict.causes:
        causes = "\n".join(f"{place}. {escape(cause)}." for place, cause in enumerate(verdict.causes, 1))
        parts.append(f"Likely causes, the likeliest first:\n\n{causes}")
    parts += [escape(warning) for warning in warnings(verdict)]
    drafts = draft_rows(verdict)
    if drafts:
        parts.append(table(DRAFT_HEADERS, drafts, right=range(1, len(DRAFT_HEADERS))))
        parts.append(table(("", ""), facts(verdict)))
    if verdict.categories:
        parts.append("<details><summary>By category</summary>")
        parts.append(table(CATEGORY_HEADERS, category_rows(verdict), right=range(1, 5)))
        parts.append("</details>")
    if verdict.worth is not None:
        parts.append(escape(verdict.worth.sentence))
    command = next_command(verdict)
    if command is not None:
        parts.append(f"Next:\n\n{fenced(command)}")
    measured = how_measured(None if verdict.evidence is None else verdict.evidence.provenance)
    parts.append(f"Exit code {verdict.exit_code}. {escape(measured)}")
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    r"""Text that reads as itself: no markup, no HTML, no mention, no second line.

    >>> print(escape("a|b <i>*"))
    a\|b &lt;i&gt;\*
    """
    marks = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "@&#8203;"}  # a mention is broken by a space of no width
    return _MARKS.sub(lambda mark: marks.get(mark[0], f"\\{mark[0]}"), " ".join(text.split()))


def fenced(text: str) -> str:
    """Text as a block of code, line by line, whatever backticks it holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def table(headers: Sequence[str], rows: Sequence[Row], *, right: Sequence[int] = ()) -> str:
    """A table; the columns in `right` are set flush right."""
    rule = ["---:" if column in right else "---" for column in range(len(headers))]
    lines = [list(headers), rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _reason(verdict: Verdict) -> str:
    """The reason; an error's message keeps its lines."""
    return fenced(verdict.reason) if verdict.rule == "not evaluated" else escape(verdict.reason)
