"""The reference pages in `docs/reference/`, made of the command line itself and of the documents' JSON Schemas.

    python -m tools.reference

writes `commands/`, `documents/` and `exit-codes.md`; a test holds that they are current. Nothing here knows a command
or a document by name: what `quark_eagle.cli.app` and `quark_eagle.documents.schema` list is what gets a page. Help is
read from the parameters and not from printed help, whose lines depend on the width of a terminal.
"""

from __future__ import annotations

from pathlib import Path

from tools.reference_commands import command_pages, exit_code_page
from tools.reference_documents import document_pages

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
GENERATED = ("commands", "documents")
"""Folders in which every page is made here, so that one of a command that is gone is gone too."""


def pages() -> dict[str, str]:
    """Every page by its path below `docs/reference`."""
    return {**command_pages(), **document_pages(), "exit-codes.md": exit_code_page()}


def stale() -> list[str]:
    """Pages that are not what the program says now: missing, outdated, or of something that is gone."""
    current = pages()
    written = {f"{folder}/{path.name}" for folder in GENERATED for path in (REFERENCE / folder).glob("*.md")}
    return sorted(
        name
        for name in {*current, *written}
        if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text(encoding="utf-8") != current.get(name)
    )


def main() -> None:
    """Write all pages, and remove those of what is gone."""
    current = pages()
    for name in stale():
        path = REFERENCE / name
        if name in current:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(current[name], encoding="utf-8")
        else:
            path.unlink()
        print(f"{'wrote' if name in current else 'removed'} docs/reference/{name}")


if __name__ == "__main__":
    main()
