"""What the tutorial shows is what its commands print; those that are quick are run, on the measurement it shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, Shown, commands

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
SHOWN = commands(PAGE)
MEASURED = REPOSITORY / "tests" / "docs" / "demo.parity.json"
PLACE = "/tmp/tutorial"
QUICK = {"inspect", "gate", "explain", "plan-prompts"}  # need no trace, no Quark and no engine
LEFT_OUT = "…"
RUN = [it for it in SHOWN if it.words[1] in QUICK and "--trace" not in it.words]
ENDS = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}


def printed(shown: Shown, place: Path) -> tuple[int, list[str]]:
    """What a command of the tutorial prints, as if it had been run where the tutorial was."""
    words = [word.replace(PLACE, str(place)) for word in shown.words[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "quark_eagle", *words],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},  # as on a wide terminal
        check=False,
    )
    assert done.returncode in ENDS.values(), done.stderr
    return done.returncode, [line.rstrip() for line in done.stdout.replace(str(place), PLACE).splitlines()]


def in_order(wanted: list[str], found: list[str]) -> str | None:
    """The first line that is not among the others, in their order; None if all are."""
    rest = iter(found)
    return next((line for line in wanted if line not in rest), None)


@pytest.mark.parametrize("shown", RUN, ids=lambda it: " ".join(it.words[1:])[:70])
def test_what_is_shown_is_what_is_printed(shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "parity.json").write_bytes(MEASURED.read_bytes())
    code, lines = printed(shown, tmp_path)
    wanted = [line.rstrip() for line in shown.output if line not in (LEFT_OUT, "")]
    assert wanted, "a command without output shows nothing"
    assert in_order(wanted, lines) is None
    outcome = wanted[0].partition(":")[0]
    assert code == ENDS.get(outcome, 0)


def test_a_line_that_was_not_printed_is_found() -> None:
    assert in_order(["a", "c"], ["a", "b", "c"]) is None
    assert in_order(["a", "x"], ["a", "b", "c"]) == "x"
    assert in_order(["c", "a"], ["a", "b", "c"]) == "a"


def test_the_quick_commands_are_shown_at_all() -> None:
    assert {it.words[1] for it in RUN} == QUICK


def test_a_step_reads_what_an_earlier_one_wrote() -> None:
    """Nothing is read below the tutorial's directory that nothing before has made."""
    made = {f"{PLACE}/target", f"{PLACE}/broken"}  # by the two blocks of the shell
    for shown in SHOWN:
        words = shown.words
        outputs = {words[at + 1] for at, word in enumerate(words) if word in OUTPUTS}
        read = {word for word in words if word.startswith(f"{PLACE}/")} - outputs
        assert read <= made, shown.line
        made |= outputs


OUTPUTS = ("--output", "--junit", "--parity-output")
