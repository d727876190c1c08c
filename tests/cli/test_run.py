"""`run` with real commands: killed in the middle, taken up, and ended with the exit code of the step that says no."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.documents.parity import ParityReport
from tests.tiny_trace import write_tiny_trace

RECIPE = """\
draft = "draft"
fp8 = "candidate"
trace = "trace"
num_speculative_tokens = 2
"""
LEDGER = Path("work/job.ledger.json")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "quark_eagle", "run", *arguments]


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=directory, capture_output=True, text=True, check=False, timeout=300)


def kill_in_the_middle(directory: Path, step: str) -> None:
    """Start the job, kill -9 it while that step runs, and take it up once the step, which the kernel tells, is gone."""
    deadline = time.monotonic() + 120
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command("job.toml"), cwd=directory, stdout=log, stderr=log) as job,
    ):
        while f'"{step}"' not in _text(directory / LEDGER):
            assert time.monotonic() < deadline
            assert job.poll() is None, (directory / "log").read_text()
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
    while "still at work" in run(directory, "job.toml").stderr:
        assert time.monotonic() < deadline


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@dataclass(frozen=True)
class Job:
    directory: Path
    answer: Mapping[str, Any]
    exit_code: int
    stderr: str


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_draft: Path) -> Job:
    """A job over 4 conversations that was killed while it replayed, taken up, and run once more."""
    directory = tmp_path_factory.mktemp("job")
    for name in ("draft", "candidate"):
        shutil.copytree(tiny_draft, directory / name)
    write_tiny_trace(directory / "trace", directory / "draft", num_prompts=4)
    (directory / "job.toml").write_text(RECIPE)
    kill_in_the_middle(directory, "parity")
    finished = run(directory, "job.toml", "--json")
    return Job(directory, json.loads(finished.stdout), finished.returncode, finished.stderr)


def test_what_was_done_is_skipped_after_a_kill_and_after_an_end(job: Job) -> None:
    assert [(it["name"], it["status"]) for it in job.answer["steps"]] == [
        ("verify", "skipped"),
        ("parity", "skipped"),
        ("gate", "run"),
    ]
    assert len(ParityReport.read(job.directory / "work" / "parity.json").prompts) == 4


def test_inconclusive_passes_through_and_says_what_to_do(job: Job) -> None:
    assert job.exit_code == job.answer["exit_code"] == job.answer["steps"][-1]["exit_code"] == 4
    assert "plan-prompts work/parity.json" in job.stderr
    assert "Continue with: quark-eagle run job.toml" in job.stderr


def test_the_steps_output_is_on_stderr_with_json(job: Job) -> None:
    assert "INCONCLUSIVE" in job.stderr


def test_every_command_is_shown_as_it_would_be_typed(job: Job) -> None:
    line = "quark-eagle parity draft candidate --output work/parity.json --num-speculative-tokens 2 --trace trace"
    finished = run(job.directory, "job.toml", "--dry-run")
    assert finished.returncode == 0
    assert line in finished.stdout
    assert "# parity: skip, nothing changed." in finished.stdout


def test_a_mistake_is_told_before_anything_is_run(tmp_path: Path, tiny_draft: Path) -> None:
    recipe = tmp_path / "job.toml"
    recipe.write_text(f'draft = "{tiny_draft}"\n[quantize]\nkeep = ["*.donw_proj"]\n')
    finished = run(tmp_path, "job.toml")
    assert finished.returncode == 2
    assert "*.donw_proj" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_a_recipe_that_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    finished = run(tmp_path, "nothing.toml")
    assert finished.returncode == 5
    assert finished.stderr.startswith("Error: nothing.toml: could not be read")
