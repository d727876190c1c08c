"""The command hands the library what was asked for, and prints one report however it is asked to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from quark_eagle.cli.app import app
from quark_eagle.cli.throughput_output import show_report
from quark_eagle.documents.throughput import ThroughputReport
from quark_eagle.errors import EngineError
from quark_eagle.serving.engine import Engine, EngineVersion
from quark_eagle.throughput.sweep import Sweep
from tests.throughput.asked import sweep_report

CPU = EngineVersion(
    vllm="0.32.0", torch="2.13.0", python="3.11", platform="cpu", arch="x86_64 AVX2", device="", num_devices=0
)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sweep, dict[str, Any]]]:
    """Sweeps that were asked for; none of them starts anything."""
    asked: list[tuple[Sweep, dict[str, Any]]] = []

    def run(self: Sweep, **rest: Any) -> ThroughputReport:
        asked.append((self, rest))
        return sweep_report()

    monkeypatch.setattr(Engine, "version", lambda self: CPU)
    monkeypatch.setattr(Sweep, "run", run)
    return asked


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "target"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    return directory


def throughput(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["throughput", *map(str, arguments)])


def test_what_is_asked_for_is_what_is_measured(
    target: Path, tiny_draft: Path, tmp_path: Path, sweeps: list[tuple[Sweep, dict[str, Any]]]
) -> None:
    output = tmp_path / "report.json"
    done = throughput(
        *(target, tiny_draft, tiny_draft, "--concurrency", "8,2", "--isl", 100, "--osl", 50, "--repeats", 3, "-k", 5),
        *("--vllm-option=--enforce-eager", "--draft-step-ms", "1.5,1", "--passes", 1, "-o", output),
    )
    assert done.exit_code == 0, done.output
    (sweep, rest), *others = sweeps
    assert not others
    work = sweep.workload
    assert (work.concurrency, work.input_tokens, work.output_tokens, work.repeats) == ([2, 8], 100, 50, 3)
    assert list(sweep.commands) == ["none", "baseline", "candidate"]
    assert {command.options["--enforce-eager"] for command in sweep.commands.values()} == {True}
    assert sweep.commands["candidate"].num_speculative_tokens == 5
    assert rest["times"].step_ms == {"baseline": 1.5, "candidate": 1.0}
    assert rest["times"].candidate_share == 1.0  # the same draft twice
    assert ThroughputReport.read(output) == sweep_report()
    assert sweep.logs == tmp_path / "report.json.logs"


def test_json_is_one_object_on_stdout_and_the_same_that_is_written(
    target: Path, tiny_draft: Path, tmp_path: Path, sweeps: list[tuple[Sweep, dict[str, Any]]]
) -> None:
    output = tmp_path / "report.json"
    done = throughput(target, tiny_draft, "--json", "-o", output)
    said = json.loads(done.stdout)
    assert said.pop("output") == str(output)
    assert said == json.loads(output.read_text())
    assert list(sweeps[0][0].commands) == ["none", "baseline"]


def test_a_cpu_is_told_before_and_after(
    target: Path, tiny_draft: Path, tmp_path: Path, sweeps: list[tuple[Sweep, dict[str, Any]]]
) -> None:
    done = throughput(target, tiny_draft, "-o", tmp_path / "report.json")
    assert "mean nothing" in done.stderr
    assert "5 loads" not in done.stderr
    assert "3 loads" in done.stderr  # none, baseline, none: two arms
    assert "mean nothing" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--concurrency", "4,,8"], "--concurrency 4,,8: numbers above 0"),
        (["--concurrency", "0"], "--concurrency 0: numbers above 0"),
        (["--draft-step-ms", "nan"], "--draft-step-ms nan: numbers above 0"),
        (["--max-failed", "1"], "--max-failed 1: a share"),
        (["--passes", "5"], "--passes 5: each pass"),
        (["--gpu", "mi9000"], "--gpu mi9000"),
        (["--vllm-option", "--max-model-len=256"], "--max-model-len 256 is below"),
        (["third"], "3 drafts are named"),
    ],
)
def test_a_wrong_option_is_told_before_anything_starts(
    arguments: list[str],
    said: str,
    target: Path,
    tiny_draft: Path,
    tmp_path: Path,
    sweeps: list[tuple[Sweep, dict[str, Any]]],
) -> None:
    done = throughput(target, tiny_draft, tiny_draft, *arguments, "-o", tmp_path / "report.json")
    assert done.exit_code == 2
    assert said in done.stderr
    assert not sweeps


def test_an_existing_report_is_not_replaced_unasked(
    target: Path, tiny_draft: Path, tmp_path: Path, sweeps: list[tuple[Sweep, dict[str, Any]]]
) -> None:
    output = tmp_path / "report.json"
    output.write_text("mine")
    assert throughput(target, tiny_draft, "-o", output).exit_code == 2
    assert output.read_text() == "mine"
    assert throughput(target, tiny_draft, "-o", output, "--overwrite").exit_code == 0


def test_a_sweep_that_fails_exits_with_5_and_writes_no_report(
    target: Path, tiny_draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Sweep, **rest: Any) -> ThroughputReport:
        raise EngineError("the server ended with 137")

    monkeypatch.setattr(Engine, "version", lambda self: CPU)
    monkeypatch.setattr(Sweep, "run", fail)
    done = throughput(target, tiny_draft, "-o", tmp_path / "report.json")
    assert done.exit_code == 5
    assert "the server ended with 137" in done.stderr
    assert not (tmp_path / "report.json").exists()


def test_published_figures_stand_beside_their_own_cells(capsys: pytest.CaptureFixture[str]) -> None:
    from quark_eagle.throughput.published import PUBLISHED

    show_report(sweep_report().model_copy(update={"published": PUBLISHED[0], "caveat": None}))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (baseline,) = [line for line in lines if line[:2] == ["4", "baseline"] and "(1.90x)" in line]
    assert baseline[-2:] == ["157.0", "(1.90x)"]


def test_figures_of_another_target_are_mentioned_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    show_report(sweep_report())
    shown = capsys.readouterr().out
    assert "amd/Kimi-K2.5-MXFP4, 4 MI355X" in shown
    assert "cannot be compared" in shown
    assert "(1.90x)" not in shown
