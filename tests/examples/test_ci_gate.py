"""The action and the workflow: whole, pinned, and deaf to what an input's text would make a shell do."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from quark_eagle.cli.app import COMMANDS, command
from quark_eagle.reporting.github import step_outputs
from tests.reports import AT_PAR, WORSE, report, verdict

REPOSITORY = Path(__file__).resolve().parents[2]
ACTION: dict[str, Any] = yaml.safe_load((REPOSITORY / "action.yml").read_text(encoding="utf-8"))
WORKFLOW: dict[str, Any] = yaml.safe_load((REPOSITORY / "examples/github_gate.yml").read_text(encoding="utf-8"))
PROSE = (REPOSITORY / "examples/ci_gate.md").read_text(encoding="utf-8")
STEPS: list[dict[str, Any]] = [*ACTION["runs"]["steps"], *WORKFLOW["jobs"]["gate"]["steps"]]
GATE = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "gate")


@pytest.mark.parametrize("step", [step for step in STEPS if "run" in step], ids=lambda step: step["name"])
def test_no_expression_is_pasted_into_a_script(step: dict[str, Any]) -> None:
    assert "${{" not in step["run"]


@pytest.mark.parametrize("step", [step for step in STEPS if "uses" in step], ids=lambda step: step["uses"])
def test_every_foreign_action_is_pinned_by_its_commit(step: dict[str, Any]) -> None:
    owner, _, commit = step["uses"].partition("@")
    assert re.fullmatch("[0-9a-f]{40}", commit) or owner == "OWNER/quark-eagle"


def test_every_input_and_every_output_is_used_and_described() -> None:
    text = (REPOSITORY / "action.yml").read_text(encoding="utf-8")
    for name, entry in ACTION["inputs"].items():
        assert f"inputs.{name}" in text, f"input {name} does nothing"
        assert entry["description"].endswith(".")
    written = {line.split("=")[0] for line in step_outputs(verdict("pass")).splitlines()}
    assert set(ACTION["outputs"]) == written
    for name, entry in ACTION["outputs"].items():
        assert entry["value"] == f"${{{{ steps.gate.outputs.{name} }}}}"


def test_the_workflow_gives_the_action_inputs_that_it_has() -> None:
    (step,) = (step for step in WORKFLOW["jobs"]["gate"]["steps"] if step.get("uses", "").startswith("OWNER/"))
    assert set(step["with"]) <= set(ACTION["inputs"])


def gate(directory: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The action's own script, as the runner starts it: bash, with the inputs in its environment."""
    defaults = {f"inputs.{name}": entry.get("default", "") for name, entry in ACTION["inputs"].items()}
    values = defaults | {f"inputs.{name.replace('_', '-')}": value for name, value in inputs.items()}
    environment = {name: values[expression.strip("${} ")] for name, expression in GATE["env"].items()}
    github = {
        "GITHUB_OUTPUT": str(directory / "outputs"),
        "GITHUB_STEP_SUMMARY": str(directory / "summary"),
        "GITHUB_ACTIONS": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    (directory / "step.sh").write_text(GATE["run"], encoding="utf-8")
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(directory / "step.sh")],
        cwd=directory,
        env={**os.environ, **environment, **github},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(("losses", "outcome", "code"), [(AT_PAR, "pass", 0), (WORSE, "fail", 3)])
def test_the_actions_exit_code_and_outputs_are_the_verdicts(
    tmp_path: Path, losses: tuple[int, ...], outcome: str, code: int
) -> None:
    (tmp_path / "my parity.json").write_text(report(losses).to_json(), encoding="utf-8")
    done = gate(tmp_path, parity="my parity.json", args="--alpha\n0.1\n")
    assert done.returncode == code, done.stderr
    assert f"outcome={outcome}\nexit-code={code}\n" in (tmp_path / "outputs").read_text()
    assert {"quark-eagle-verdict.json", "quark-eagle-junit.xml", "quark-eagle-verdict.md"} <= set(os.listdir(tmp_path))
    assert '"alpha": 0.1' in (tmp_path / "quark-eagle-verdict.json").read_text()


def test_an_input_is_never_run_and_never_an_option(tmp_path: Path) -> None:
    hostile = "$(touch pwned); `touch pwned` && touch pwned #"
    done = gate(tmp_path, parity=f"--help {hostile}", args=hostile, margin="0.01", output=f"v {hostile[:13]}")
    assert done.returncode == 2
    assert not (tmp_path / "pwned").exists()
    done = gate(tmp_path, parity="--help")
    assert done.returncode == 5, "a name that looks like an option is a name"
    assert "--help: could not be read" in done.stderr


def shell_lines() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", PROSE, flags=re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("quark-eagle ")])
def test_every_command_in_the_prose_exists_with_its_options(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    assert name in COMMANDS
    options = {option for parameter in command(name).params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("-")} <= options
