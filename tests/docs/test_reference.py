"""The reference is what the command line and the schemas say, and a page that is not current fails by name."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from types import ModuleType

import pytest

from quark_eagle.cli.app import COMMANDS, command
from quark_eagle.cli.exit_codes import ExitCode
from quark_eagle.documents.schema import PUBLISHED
from tools import markdown, reference, reference_commands, reference_documents
from tools.reference_commands import exit_codes, told

HOW = "`python -m tools.reference` writes the reference anew"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


def test_every_page_is_current(pages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "pages", lambda: pages)
    assert reference.stale() == [], HOW


def test_a_changed_page_and_one_of_a_command_that_is_gone_are_told(
    tmp_path: Path, pages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "REFERENCE", tmp_path)
    monkeypatch.setattr(reference, "pages", lambda: pages)
    reference.main()
    assert reference.stale() == []
    (tmp_path / "commands" / "gate.md").write_text(pages["commands/gate.md"].replace("0.01", "0.02"))
    (tmp_path / "commands" / "gone.md").write_text("# quark-eagle gone\n")
    (tmp_path / "exit-codes.md").unlink()
    assert reference.stale() == ["commands/gate.md", "commands/gone.md", "exit-codes.md"]


def test_the_width_of_the_terminal_changes_nothing(pages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "33")
    assert reference.pages() == pages


def test_every_command_and_every_document_has_a_page(pages: dict[str, str]) -> None:
    wanted = {f"commands/{name}.md" for name in COMMANDS} | {f"documents/{name}.md" for name in PUBLISHED}
    assert wanted <= set(pages)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_every_option_and_an_example(name: str, pages: dict[str, str]) -> None:
    page = pages[f"commands/{name}.md"]
    for parameter in command(name).params:
        for option in parameter.opts:
            if option.startswith("-"):
                assert re.search(rf"^\| `(-\w, )?(--[\w-]+, )*{re.escape(option)}[ `,]", page, flags=re.MULTILINE), (
                    option
                )
    assert f"```bash\nquark-eagle {name} " in page, "its help ends with `Example: quark-eagle …`"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_the_answers_that_the_table_of_exit_codes_tells(name: str) -> None:
    """A command that is named at 3 or 4 says so in its own help, where its user looks."""
    told_by_help = exit_codes(told(command(name).help or "")[0])
    for code in (ExitCode.NO, ExitCode.INCONCLUSIVE):
        if re.search(rf"`{re.escape(name)}[` ]", code.meaning):
            assert code in told_by_help


@pytest.mark.parametrize("module", [markdown, reference_commands, reference_documents], ids=lambda it: it.__name__)
def test_the_examples_in_the_generator_are_right(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0
