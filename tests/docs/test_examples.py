"""What a reader copies from a page works: recipes, prompts, scripts, and the figures that were worked out."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle.checkpoint.layout import Eagle3Layout, Role
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.cli.app import app
from quark_eagle.documents.parity import ParityReport
from quark_eagle.quantize.exclude import exclude_list
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.worth import worth
from tests.docs.pages import REPOSITORY, blocks, commands, name_of, pages

DOCS = REPOSITORY / "docs"
DRAFT = REPOSITORY / "examples" / "smollm2-135m-eagle3"
MEASURED = REPOSITORY / "tests" / "docs" / "demo.parity.json"
SHELL = [(name_of(it), block) for it in pages() for block in blocks(it.read_text(encoding="utf-8"), "bash", "sh")]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "block"), SHELL, ids=[f"{name}: {block[:40]}" for name, block in SHELL])
def test_bash_reads_every_block(name: str, block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{name}: {done.stderr}"


def test_the_job_in_one_file_is_the_commands_that_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page("how-to/one-file-job.md")
    (job,) = blocks(text, "toml")
    (shown,) = [it for it in commands(text) if it.output]
    (tmp_path / "job.toml").write_text(job, encoding="utf-8")
    (tmp_path / "models" / "target").mkdir(parents=True)
    (tmp_path / "models" / "draft").symlink_to(DRAFT)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shown.words[1:])
    assert result.exit_code == 0, result.stderr
    assert set(shown.output) - {"…", ""} <= set(result.stdout.splitlines())


def test_every_spelling_of_a_prompt_is_read(tmp_path: Path) -> None:
    (lines,) = blocks(page("how-to/own-prompts.md"), "json")
    (tmp_path / "mine.jsonl").write_text(lines, encoding="utf-8")
    assert len(PromptSet.load(tmp_path / "mine.jsonl", "parity")) == len(lines.splitlines())


def test_the_exclude_list_that_is_shown_is_the_one_that_is_written() -> None:
    _, ours = (
        json.loads(f"{{{block}}}")["exclude"] for block in blocks(page("explanation/silent-failures.md"), "json")
    )
    slots = Eagle3Layout.of(Checkpoint.open(DRAFT)).slots.values()
    kept = [slot for slot in slots if slot.role in (Role.FC, Role.HEAD)]
    assert tuple(ours) == exclude_list(kept)


def test_the_figures_of_readme_are_those_of_the_demo() -> None:
    """Of the measurement that the tutorial makes: counts, rates, and the verdict's lines."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    walk = ParityReport.read(MEASURED).summary.overall.walk
    for name, arm in (("bf16", walk.baseline), ("fp8", walk.candidate)):
        counts = f"{arm.num_drafts:,} +{arm.num_accepted_tokens:,}".replace(",", " ")
        rates = f"{arm.mean_acceptance_length:.3f} +{arm.draft_acceptance_rate:.3f}"
        assert re.search(rf"{name} +{counts} +{rates}", readme), (name, counts, rates)
    printed = CliRunner().invoke(app, ["gate", str(MEASURED)]).stdout.splitlines()
    shown = re.findall(r"^(?:PASS: τ|90% interval  ).*", readme, flags=re.MULTILINE)
    assert len(shown) == 3
    assert set(shown) <= {line.rstrip() for line in printed}


def test_the_gain_that_is_worked_out_is_what_worth_says() -> None:
    said = worth(ParityReport.read(MEASURED), margin=0.01, target_step_ms=20, draft_step_ms=1)
    text = page("explanation/worth.md")
    gain, loss = re.search(r"gain (\d\.\d\d) %, which a loss of (\d\.\d\d) % of τ", text).groups()  # type: ignore[union-attr]
    assert (float(gain), float(loss)) == (round(100 * said.gain[0], 2), round(100 * said.break_even_loss[0], 2))
