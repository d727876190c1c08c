"""What pages show is what the commands print: those that are quick are run, on the measurement that the pages show."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from tests.docs.pages import REPOSITORY, Shown, commands, name_of, pages

MEASURED = REPOSITORY / "tests" / "docs" / "demo.parity.json"
"""The counts that step 6 of the tutorial wrote."""
PLACE = "/tmp/tutorial"
TUTORIAL = "docs/tutorial.md"
READ_IT = ("gate", "explain", "plan-prompts")  # need neither trace nor Quark nor an engine
LEFT_OUT = "…"
ENDS = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}
OUTPUTS = ("--output", "--junit", "--parity-output")


def is_quick(shown: Shown) -> bool:
    """Whether it reads that measurement alone, or the shipped draft's headers."""
    name, of = shown.words[1], shown.words[2] if len(shown.words) > 2 else ""
    return of.endswith("/smollm2-135m-eagle3") if name == "inspect" else name in READ_IT and of.endswith("parity.json")


RUN = [
    (name_of(page), shown)
    for page in pages()
    for shown in commands(page.read_text(encoding="utf-8"))
    if shown.output and is_quick(shown)
]


def printed(shown: Shown, place: Path) -> tuple[int, list[str]]:
    """What a command prints, as if it had been run where the page was written."""
    words = [f"{place}/{word}" if word == "parity.json" else word.replace(PLACE, str(place)) for word in shown.words]
    result = CliRunner().invoke(app, words[1:])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, [line.rstrip() for line in result.stdout.replace(str(place), PLACE).splitlines()]


def in_order(wanted: list[str], found: list[str]) -> str | None:
    """The first line that is not among the others, in their order; None if all are."""
    rest = iter(found)
    return next((line for line in wanted if line not in rest), None)


@pytest.fixture(autouse=True)
def _as_the_pages_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for name in ("COLUMNS", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("name", "shown"), RUN, ids=[f"{name}: {it.line}"[:80] for name, it in RUN])
def test_what_is_shown_is_what_is_printed(name: str, shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "parity.json").write_bytes(MEASURED.read_bytes())
    code, lines = printed(shown, tmp_path)
    wanted = [line.rstrip() for line in shown.output if line not in (LEFT_OUT, "")]
    assert in_order(wanted, lines) is None
    assert code == ENDS.get(wanted[0].partition(":")[0], 0)


def test_a_line_that_was_not_printed_is_found() -> None:
    assert in_order(["a", "c"], ["a", "b", "c"]) is None
    assert in_order(["a", "x"], ["a", "b", "c"]) == "x"
    assert in_order(["c", "a"], ["a", "b", "c"]) == "a"


def test_every_quick_command_of_the_tutorial_is_run() -> None:
    assert {shown.words[1] for name, shown in RUN if name == TUTORIAL} == {"inspect", *READ_IT}


def test_a_step_reads_what_an_earlier_one_wrote() -> None:
    """Nothing is read below the tutorial's directory that nothing before has made."""
    by_the_shell = ("target", "broken", "key.pem", "public.pem", "changed")
    made = {f"{PLACE}/{name}" for name in by_the_shell}
    for shown in commands((REPOSITORY / TUTORIAL).read_text(encoding="utf-8")):
        words = shown.words
        outputs = {words[at + 1] for at, word in enumerate(words) if word in OUTPUTS}
        read = {word for word in words if word.startswith(f"{PLACE}/")} - outputs
        assert read <= made, shown.line
        made |= outputs
