"""The pages that people read, and what is in them: headings, links, blocks, command lines."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
GENERATED = ("docs/reference/commands/", "docs/reference/documents/", "docs/reference/exit-codes.md")


def pages() -> list[Path]:
    """README and everything below docs/ and examples/."""
    found = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "examples").rglob("*.md")]
    return sorted(found)


def name_of(page: Path) -> str:
    """A page as a person calls it."""
    return page.relative_to(REPOSITORY).as_posix()


def without_code(text: str) -> str:
    """A page's prose: links and headings in code are none."""
    return re.sub(r"`[^`\n]*`", "``", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))


def links(text: str) -> list[str]:
    """Targets of a page's links, but for those that lead out of the repository."""
    return re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", without_code(text))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings.

    >>> sorted(anchors("# One `two`: three?\\n## Same\\n## Same\\n"))
    ['one-two-three', 'same', 'same-1']
    """
    seen: Counter[str] = Counter()
    found = set()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#{1,6} +(.*?) *$", prose, flags=re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A command line on a page, and the lines of output that the page shows after it."""

    line: str
    output: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """As a shell splits it, up to the first pipe or redirection."""
        lexer = shlex.shlex(self.line, posix=True, punctuation_chars="|>;&")
        lexer.whitespace_split = True
        words = []
        for word in lexer:
            if set(word) <= set("|>;&"):
                break
            words.append(word)
        return words


def blocks(text: str, *languages: str) -> Iterator[str]:
    """Contents of a page's blocks in these languages."""
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        if language in languages:
            yield block


def commands(text: str) -> list[Shown]:
    """Every `quark-eagle` line in a page's blocks: of bash each line, of a console what follows a `$`."""
    found = []
    for block in blocks(text, "bash", "sh"):
        lines = block.replace("\\\n", " ").splitlines()
        found += [Shown(line=line.strip(), output=()) for line in lines if line.strip().startswith("quark-eagle ")]
    for block in blocks(text, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, *output = re.sub(r"\A(?:.*\\\n)+", _joined, part).rstrip("\n").split("\n")
            if line.startswith("quark-eagle "):
                found.append(Shown(line=line, output=tuple(output)))
    return found


def _joined(continued: re.Match[str]) -> str:
    return continued[0].replace("\\\n", " ")


def inline_commands(text: str) -> list[str]:
    """Every `quark-eagle …` in running text."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`(quark-eagle [a-z][^`]*)`", prose)
