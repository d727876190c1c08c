from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from junitparser import JUnitXml
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.documents.baseline import BaselineReport
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import Verdict
from quark_eagle.opening import open_comparison
from tests.parity.test_compare import to_fp8
from tests.reports import AT_PAR, UNCLEAR, WORSE, report
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace


@pytest.fixture(autouse=True)
def _not_on_github(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports by the verdict on them."""
    directory = tmp_path_factory.mktemp("reports")
    measured = {
        "pass": report(AT_PAR),
        "fail": report(WORSE),
        "inconclusive": report(UNCLEAR),
        "unusable": report(AT_PAR, baseline_rounds=96),
        "larger": report(AT_PAR * 2),
    }
    for name, content in measured.items():
        (directory / f"{name}.json").write_text(content.to_json(), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """BF16 draft, FP8 draft and trace, as arguments."""
    directory = tmp_path_factory.mktemp("three")
    draft = write_tiny_draft(directory / "draft", draft_vocab=8)
    trace = write_tiny_trace(directory / "trace", draft, num_prompts=70, num_generated=8)
    return str(draft), str(to_fp8(draft, directory / "draft-fp8", ("fc", "lm_head"))), str(trace)


def run(*args: str | Path | float) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["gate", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("outcome", "code", "title"),
    [("pass", 0, "PASS"), ("fail", 3, "FAIL"), ("inconclusive", 4, "INCONCLUSIVE"), ("unusable", 5, "NOT EVALUATED")],
)
def test_the_exit_code_the_first_word_and_every_file_say_the_same(
    reports: Path, tmp_path: Path, outcome: str, code: int, title: str
) -> None:
    files = {name: tmp_path / name for name in ("verdict.json", "gate.xml", "verdict.md")}
    options = zip(("--output", "--junit", "--markdown"), files.values(), strict=True)
    found, out, err = run(reports / f"{outcome}.json", *(part for pair in options for part in pair))
    assert (found, err) == (code, "")
    assert out.startswith(f"{title}: ")
    document = Verdict.read(files["verdict.json"])
    assert (document.outcome, document.exit_code) == (outcome, code)
    assert files["verdict.md"].read_text().startswith(f"## {title}: ")
    xml = JUnitXml.fromfile(str(files["gate.xml"]))
    assert (bool(xml.failures), bool(xml.errors)) == (outcome == "fail", outcome in ("inconclusive", "unusable"))
    assert all(f": {path}" in out.replace("\n", " ") for path in files.values())


def test_people_see_counts_intervals_categories_and_what_to_do_next(reports: Path) -> None:
    code, out, _ = run(reports / "inconclusive.json", "--category-margin", 0.05)
    assert code == 4
    for words in (
        "90% interval",
        "delta method",
        "not anchored",
        "1 of 1 planned",
        "80 of 80 prompts",
        "conversations if",
    ):
        assert words in out
    for words in ("draft-fp8", "coding", "math", "5.00%", "Worth: a draft step reads", "acceptance only, not latency"):
        assert words in out
    assert f"Next: quark-eagle plan-prompts {reports / 'inconclusive.json'} --margin 0.01" in out


def test_json_is_the_document_and_nothing_else(reports: Path, tmp_path: Path) -> None:
    code, out, err = run(reports / "fail.json", "--json", "--output", tmp_path / "v.json")
    assert (code, err) == (3, "")
    assert json.loads(out)["exit_code"] == 3
    assert out == (tmp_path / "v.json").read_text(encoding="utf-8")


def test_the_options_become_the_rules(reports: Path) -> None:
    _, out, _ = run(
        reports / "pass.json", "--margin", 0.02, "--alpha", 0.1, "--category-margin", 0.03, "--bias", 0.001,
        "--expect-baseline", 1.96, "--target-step-ms", 20, "--draft-step-ms", 1, "--json",
    )  # fmt: skip
    document = json.loads(out)
    assert (document["margin"], document["alpha"], document["expected_baseline"]) == (0.02, 0.1, 1.96)
    assert document["bias"] == {"bound": 0.001, "anchored": True, "source": "as stated with --bias"}
    assert [category["margin"] for category in document["categories"]] == [0.03, 0.03]
    assert "target 20 ms" in document["worth"]["source"]


def test_a_file_that_is_no_report_is_told_in_every_format_and_exits_with_5(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    code, out, err = run(
        bad, "--junit", tmp_path / "gate.xml", "--markdown", tmp_path / "v.md", "--output", tmp_path / "v"
    )
    assert code == 5
    assert out.startswith("NOT EVALUATED\n")
    assert err.startswith(f"Error: {bad}: ")
    assert JUnitXml.fromfile(str(tmp_path / "gate.xml")).errors == 1
    assert "It is not a parity.json" in (tmp_path / "v.md").read_text()
    assert Verdict.read(tmp_path / "v").rule == "not evaluated"
    code, out, err = run(bad, "--json")
    assert (code, json.loads(out)["outcome"]) == (5, "unusable")
    assert err.startswith(f"Error: {bad}: ")


def test_two_looks_are_planned_before_the_first(reports: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.json"
    code, out, _ = run(reports / "inconclusive.json", "--looks", 2, "-o", first)
    assert code == 4
    assert f"Second look: quark-eagle gate LARGER.json --after {first}" in out
    code, out, _ = run(reports / "larger.json", "--after", first, "--json")
    assert code == 0
    assert json.loads(out)["looks"]["look"] == 2
    assert json.loads(out)["looks"]["alpha_of_this_look"] == 0.025
    run(reports / "inconclusive.json", "-o", tmp_path / "only.json")
    code, _, err = run(reports / "larger.json", "--after", tmp_path / "only.json")
    assert code == 2
    assert "it planned one look" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b"], "To measure two drafts first, add --trace TRACE"),
        (["a", "b", "c", "--trace", "t"], "3 given, but with --trace, BASELINE and CANDIDATE"),
        (["pass.json", "--trace", "t"], "1 given, but with --trace, BASELINE and CANDIDATE"),
        (["pass.json", "-k", "3"], "--num-speculative-tokens: nothing is measured without --trace"),
        (["pass.json", "--parity-output", "p.json"], "--parity-output: nothing is measured without --trace"),
        (["pass.json", "--looks", "1", "--after", "v.json"], "--looks 1 and --after"),
        (["pass.json", "--looks", "0"], "--looks 0: 1 or 2"),
        (["pass.json", "--looks", "3"], "--looks 3: 1 or 2"),
        (["pass.json", "--margin", "0"], "--margin 0: "),
        (["pass.json", "--margin", "nan"], "--margin nan: "),
        (["pass.json", "--category-margin", "0.001"], "--category-margin 0.001: at least the margin"),
        (["pass.json", "--alpha", "0.5"], "--alpha 0.5: "),
        (["pass.json", "--bias", "-1"], "--bias -1: "),
        (["pass.json", "--bias", "nan"], "--bias nan: "),
        (["pass.json", "--expect-baseline", "0.5"], "--expect-baseline 0.5: "),
        (["pass.json", "--target-step-ms", "3"], "both were needed"),
        (["pass.json", "--target-step-ms", "3", "--draft-step-ms", "nan"], "both were needed"),
        (["pass.json", "--output", "none/v.json"], "its directory does not exist"),
        (["pass.json", "--junit", "fail.json"], "fail.json: exists, and nothing existing is touched"),
        (["pass.json", "--output", "x", "--junit", "./x"], "--junit x: is also --output"),
        (["pass.json", "--overwrite", "--markdown", "pass.json"], "--markdown pass.json: is also PARITY_JSON"),
        (["pass.json", "--after", "fail.json", "--overwrite", "-o", "fail.json"], "is also --after"),
        (["pass.json", "b", "--trace", "t", "--overwrite", "-o", "pass.json"], "--output pass.json: is also BASELINE"),
        (["a", "b", "--trace", "t", "--junit", "parity.json"], "--parity-output parity.json: is also --junit"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage_before_any_work(
    reports: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(reports)
    before = {path.name: path.read_bytes() for path in reports.iterdir()}
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert {path.name: path.read_bytes() for path in reports.iterdir()} == before


def test_a_file_that_cannot_be_written_leaves_none_of_them(
    reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict that was half written must not be found beside an exit code of 5."""
    written: list[int] = []

    def full_disk(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    code, out, err = run(reports / "pass.json", "--output", tmp_path / "v.json", "--junit", tmp_path / "gate.xml")
    assert (code, out) == (5, "")
    assert "No space left on device" in err
    assert not list(tmp_path.iterdir())


def test_on_github_the_summary_the_outputs_and_an_annotation_are_written(
    reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, outputs = tmp_path / "summary", tmp_path / "outputs"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_OUTPUT", str(outputs))
    code, out, err = run(reports / "fail.json", "--json")
    assert code == 3
    assert json.loads(out)["outcome"] == "fail"
    assert summary.read_text().startswith("before\n## FAIL: draft-fp8 against draft\n")
    assert "outcome=fail\nexit-code=3\n" in outputs.read_text()
    assert err.startswith("::error title=FAIL%3A draft-fp8 against draft::")
    assert len(err.splitlines()) == 1


def test_a_summary_that_cannot_be_written_is_an_error(
    reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    code, out, err = run(reports / "pass.json")
    assert (code, out) == (5, "")
    assert f"Error: $GITHUB_STEP_SUMMARY = {tmp_path}: could not be written to" in err


def test_two_drafts_are_measured_first_and_the_measurement_is_kept(three: tuple[str, str, str], tmp_path: Path) -> None:
    kept = tmp_path / "parity.json"
    code, out, err = run(three[0], three[0], "--trace", three[2], "--parity-output", kept, "-k", 2)
    assert code == 0
    assert out.startswith("PASS: ")
    assert "70 prompts: about" in err
    assert ParityReport.read(kept).num_speculative_tokens == 2
    assert run(kept)[0] == 0


def test_a_collapse_measured_here_fails_with_its_causes(three: tuple[str, str, str], tmp_path: Path) -> None:
    code, out, _ = run(*three[:2], "--trace", three[2], "--parity-output", tmp_path / "parity.json", "--json")
    document = json.loads(out)
    assert (code, document["rule"]) == (3, "collapse")
    assert "exclude" in document["causes"][0]


def test_stored_counts_take_the_place_of_the_baseline_and_stale_ones_are_refused_with_what_differs(
    three: tuple[str, str, str], tmp_path: Path
) -> None:
    draft, candidate, trace = three
    stored, kept, junit = tmp_path / "baseline.json", tmp_path / "parity.json", tmp_path / "gate.xml"
    measured = open_comparison(Path(draft), Path(draft), Path(trace), walk_only=True).run()
    stored.write_text(BaselineReport.of(measured).to_json(), encoding="utf-8")
    arguments = (stored, candidate, "--trace", trace, "--parity-output", kept)
    code, out, _ = run(*arguments)
    assert code == 3
    assert "FAIL: Acceptance collapsed" in out
    assert f"The baseline's counts are those of {stored}" in out.replace("\n", " ")
    code, _, err = run(*arguments, "-k", 2, "--overwrite", "--junit", junit)
    assert code == 5
    assert "k: wanted 2 (this measurement), found 3 (stored)" in err
    assert "found 3 (stored)" in junit.read_text(encoding="utf-8")


def test_the_three_lines_of_the_readme_make_a_gate(
    three: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand there: the baseline is stored with all its counts, and the gate measures the walk alone."""
    draft, _, trace = three
    monkeypatch.chdir(tmp_path)
    Path("ci").mkdir()
    stored = CliRunner().invoke(app, ["parity", draft, "--trace", trace, "--update-baseline", "ci/baseline.json"])
    assert stored.exit_code == 0, stored.output
    code, out, _ = run("ci/baseline.json", draft, "--trace", trace, "--junit", "gate.xml", "--markdown", "verdict.md")
    assert (code, out.splitlines()[0][:5]) == (0, "PASS:")
    assert Path("verdict.md").is_file()


def test_a_trace_that_is_none_is_told_in_junit_as_well(three: tuple[str, str, str], tmp_path: Path) -> None:
    kept, junit = tmp_path / "parity.json", tmp_path / "gate.xml"
    code, _, err = run(*three[:2], "--trace", three[0], "--parity-output", kept, "--junit", junit)
    assert code == 5
    assert "found a directory without trace.json" in err
    assert JUnitXml.fromfile(str(junit)).errors == 1
    assert not kept.exists()


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )


SLOW = ("torch", "transformers", "safetensors", "quark", "vllm", "scipy.stats", "matplotlib", "httpx")


def test_deciding_imports_nothing_that_is_slow_to_import(reports: Path, tmp_path: Path) -> None:
    """A decision takes two seconds at most (`benchmarks/start_up.py`); scipy.stats alone takes more than one."""
    program = (
        "import sys\nfrom quark_eagle.cli.app import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print([name for name in {SLOW!r} if name in sys.modules])"
    )
    files = ("--junit", tmp_path / "gate.xml", "--markdown", tmp_path / "v.md", "--output", tmp_path / "v.json")
    done = python("-c", program, "gate", reports / "pass.json", *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_who_leaves_early_does_not_change_the_verdict(reports: Path, form: list[str]) -> None:
    """`quark-eagle gate … | head -1`: the exit code is the verdict's, not 1, which says bug."""
    command = [sys.executable, "-m", "quark_eagle", "gate", str(reports / "fail.json"), *form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before anything is written
        complaint = process.stderr.read()
    assert process.returncode == 3, complaint
    assert b"Traceback" not in complaint


def test_evidence_from_another_arch_than_required_exits_with_5_and_says_both(reports: Path) -> None:
    code, out, err = run(reports / "pass.json", "--require-arch", "gfx950")
    assert (code, err) == (5, "")
    assert out.startswith("NOT EVALUATED: ")
    assert "wanted from gfx950, but the drafts were replayed on x86_64" in out
    assert "\nPASS" not in out
