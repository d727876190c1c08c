"""What README says is what the program does; `tests/docs` holds the pages behind it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quark_eagle.cli.app import COMMANDS, command
from quark_eagle.cli.exit_codes import ExitCode

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def help_of(*arguments: str) -> str:
    """What the program prints, 80 columns wide, as README shows it."""
    finished = subprocess.run(
        [sys.executable, "-m", "quark_eagle", *arguments, "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
    )
    return "\n".join(line.rstrip() for line in finished.stdout.strip().splitlines())


def test_readmes_help_block_is_the_real_one() -> None:
    block = re.search(r"```console\n\$ quark-eagle --help\n(.*?)```", README, flags=re.DOTALL)
    assert block, "README has no `$ quark-eagle --help` block"
    shown = "\n".join(line.rstrip() for line in block.group(1).strip().splitlines())
    assert shown == help_of(), "README's help block has drifted: paste `COLUMNS=80 quark-eagle --help`"


def test_help_lists_every_command() -> None:
    listed = help_of().split("Commands:", 1)[1].strip().splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_appears_in_readme(name: str) -> None:
    assert f"`quark-eagle {name} " in README


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_parameter_has_help(name: str) -> None:
    made = command(name)
    assert made.help
    assert made.help.splitlines()[0].rstrip().endswith("."), "the first line is a sentence"
    silent = [parameter.name for parameter in made.params if not getattr(parameter, "help", None)]
    assert not silent, f"quark-eagle {name}: no help for {silent}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_answers_has_json(name: str) -> None:
    assert "--json" in {option for parameter in command(name).params for option in parameter.opts}


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.name)
def test_every_exit_code_is_in_readmes_table(code: ExitCode) -> None:
    assert f"| {int(code)} | {code.meaning} |" in README


def test_readmes_exit_table_has_no_other_code() -> None:
    table = README.split("## Exit codes", 1)[1].split("\n## ", 1)[0]
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)} == set(map(int, ExitCode))


@pytest.mark.parametrize("task", ["install", "demo", "test", "format", "lint", "types", "bench"])
def test_makefile_has_the_task(task: str) -> None:
    assert re.search(rf"^{task}:", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_python_in_readme_runs() -> None:
    """Against the shipped draft: the example is the first thing that a reader copies."""
    example = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert example
    finished = subprocess.run(
        [sys.executable, "-c", example.group(1)], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "576" in finished.stdout
