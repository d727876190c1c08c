from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.documents.baseline import BaselineReport
from quark_eagle.documents.parity import ParityReport
from tests.parity.test_compare import to_fp8
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """BF16 draft, FP8 draft and trace, as arguments. The FP8 draft's exclude list is the one Quark writes."""
    directory = tmp_path_factory.mktemp("three")
    draft = write_tiny_draft(directory / "draft", draft_vocab=8)
    return (
        str(draft),
        str(to_fp8(draft, directory / "draft-fp8", ("fc", "lm_head"))),
        str(write_tiny_trace(directory / "trace", draft)),
    )


def run(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["parity", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_parity_prints_every_rate_of_both_drafts_and_writes_the_counts(
    three: tuple[str, str, str], tmp_path: Path
) -> None:
    draft, _, trace = three
    code, out, err = run(draft, draft, "--trace", trace, "--output", tmp_path / "parity.json")
    assert code == 0
    for words in (
        "walk:",
        "every start:",
        "τ of the walk by number",
        "draft acc. rate",
        "marginal 0…2",
        "conditional 0…2",
    ):
        assert words in out
    for row in ("all (4)", "coding (2)", "math (2)", "INCONCLUSIVE:", "acceptance only, not latency"):
        assert row in out
    assert re.search(r"^4 prompts: about 1 s\. Reads a trace of 65\.6 kB and \d+ kB of draft weights; needs about", err)
    report = ParityReport.read(tmp_path / "parity.json")
    assert f"{report.summary.overall.walk.baseline.mean_acceptance_length:.3f}" in out


def test_a_collapse_is_measured_and_said_loudly_but_exits_with_0(three: tuple[str, str, str], tmp_path: Path) -> None:
    code, out, _ = run(*three[:2], "--trace", three[2], "--output", tmp_path / "parity.json")
    assert code == 0
    assert "FAIL: Acceptance collapsed" in out
    assert "  1. a module that was kept (fc, lm_head) is built in FP8" in out
    assert "computed with fc cast into FP8 without a scale, as vLLM loads it" in out


def test_a_dead_baseline_exits_with_5_and_leaves_its_counts(three: tuple[str, str, str], tmp_path: Path) -> None:
    trace = write_tiny_trace(tmp_path / "trace", write_tiny_draft(tmp_path / "any"), obeys=0.0)
    dead = write_tiny_draft(tmp_path / "dead")
    code, out, _ = run(dead, dead, "--trace", trace, "--output", tmp_path / "parity.json")
    assert code == 5
    assert "NOT EVALUATED: Dead baseline" in out
    assert (tmp_path / "parity.json").is_file()


def test_json_is_one_object_and_the_estimate_stays_on_stderr(three: tuple[str, str, str], tmp_path: Path) -> None:
    draft, _, trace = three
    code, out, err = run(draft, draft, "--trace", trace, "--output", tmp_path / "parity.json", "--json", "--walk-only")
    document = json.loads(out)
    assert (code, err.count("\n")) == (0, 1)
    assert "Reads a trace of" in err
    assert document["schema_version"] == 1
    assert document["output"] == str(tmp_path / "parity.json")
    assert document["summary"]["overall"]["every_start"] is None


def test_a_baseline_is_stored_once_and_then_only_the_candidate_is_named(
    three: tuple[str, str, str], tmp_path: Path
) -> None:
    draft, fp8, trace = three
    stored, report = tmp_path / "baseline.json", tmp_path / "parity.json"
    code, out, _ = run(draft, "--trace", trace, "--update-baseline", stored, "--output", report)
    assert code == 0
    assert re.search(r"draft: τ \d\.\d{3} of the walk at k = 3 over 4 prompts", out)
    assert not report.exists(), "a stored baseline is no comparison"
    code, out, _ = run(fp8, "--trace", trace, "--baseline-report", stored, "--output", report)
    assert code == 0
    assert f"The baseline's counts are stored ({stored}" in out
    assert ParityReport.read(report).provenance.stored_baseline is not None


def test_a_comparison_can_store_its_baseline_as_well_and_update_it(three: tuple[str, str, str], tmp_path: Path) -> None:
    draft, fp8, trace = three
    stored, report = tmp_path / "baseline.json", tmp_path / "parity.json"
    for _ in range(2):
        arguments = (draft, fp8, "--trace", trace, "--update-baseline", stored, "--output", report, "--overwrite")
        code, out, _ = run(*arguments)
        assert code == 0
        assert f"Stored baseline: {stored}" in out
    assert BaselineReport.read(stored) == BaselineReport.of(ParityReport.read(report))


def test_a_stale_baseline_exits_with_5_and_writes_nothing(three: tuple[str, str, str], tmp_path: Path) -> None:
    draft, fp8, trace = three
    stored, report = tmp_path / "baseline.json", tmp_path / "parity.json"
    run(draft, "--trace", trace, "--update-baseline", stored, "--json")
    code, _, err = run(fp8, "--trace", trace, "--baseline-report", stored, "--output", report, "-k", "4")
    assert code == 5
    assert "k: wanted 4 (this measurement), found 3 (stored)." in err
    assert not report.exists()


def test_a_baseline_from_another_processor_is_used_with_a_warning(three: tuple[str, str, str], tmp_path: Path) -> None:
    draft, fp8, trace = three
    stored = tmp_path / "baseline.json"
    run(draft, "--trace", trace, "--update-baseline", stored)
    content = json.loads(stored.read_text())
    content["provenance"]["arch"] = "aarch64 NEON"
    stored.write_text(json.dumps(content))
    arguments = (fp8, "--trace", trace, "--baseline-report", stored, "--output", tmp_path / "parity.json")
    code, _, err = run(*arguments)
    assert code == 0
    assert "Warning: stored baseline, processor: here" in err
    assert "stored aarch64 NEON" in err


@pytest.mark.parametrize(
    ("drafts", "options", "message", "code"),
    [
        ((0,), (), r"BASELINE and CANDIDATE were needed, but 1 draft\(s\) are named", 2),
        ((0, 1, 1), (), r"but 3 draft\(s\) are named", 2),
        ((0, 1), ("--baseline-report", "there.json"), "name CANDIDATE alone, not 2 drafts", 2),
        ((1,), ("--baseline-report", "there.json", "--update-baseline", "new.json"), "Give one of them", 2),
        ((1,), ("--baseline-report", "none.json"), "none.json: is no file, but a stored baseline was needed", 5),
        ((0,), ("--update-baseline", "there.json"), "exists and is no stored baseline", 2),
    ],
)
def test_the_drafts_named_are_those_that_the_options_leave(
    three: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drafts: tuple[int, ...],
    options: tuple[str, ...],
    message: str,
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    found, _, err = run(*(three[i] for i in drafts), "--trace", three[2], *options)
    assert found == code
    assert re.search(message, err)


def test_drawn_proposals_are_refused_on_a_greedy_trace_and_measured_on_a_sampled_one(
    three: tuple[str, str, str], tmp_path: Path
) -> None:
    draft, fp8, trace = three
    report = tmp_path / "parity.json"
    arguments = ("--draft-sample-method", "probabilistic", "--output", report)
    code, _, err = run(draft, fp8, "--trace", trace, *arguments)
    assert code == 2
    assert "recorded at temperature 0" in err
    sampled = shutil.copytree(trace, tmp_path / "sampled")
    document = json.loads((sampled / "trace.json").read_text())
    document["sampling"]["temperature"] = 0.7
    (sampled / "trace.json").write_text(json.dumps(document))
    code, out, _ = run(draft, draft, "--trace", sampled, *arguments)
    assert code == 0
    assert "both were judged by the same uniform numbers" in out
    found = ParityReport.read(report)
    assert found.provenance.draft_sample_method == "probabilistic"
    assert found.summary.num_proposals_compared is None
    assert all(prompt.baseline == prompt.candidate for prompt in found.prompts), "a draft against itself"


def test_an_existing_report_is_refused_before_the_work_and_kept(three: tuple[str, str, str], tmp_path: Path) -> None:
    report = tmp_path / "parity.json"
    report.write_text("mine")
    code, _, err = run(three[0], three[0], "--trace", three[2], "--output", report)
    assert code == 2
    assert "exists, and nothing existing is touched" in err
    assert report.read_text() == "mine"
    assert run(three[0], three[0], "--trace", three[2], "--output", report, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("baseline", "candidate", "trace", "message", "code"),
    [
        (1, 0, 2, "is quantized, but the baseline is the BF16 draft", 5),
        (0, 0, 0, "found a directory without trace.json, but a trace was needed", 5),
    ],
)
def test_unusable_input_exits_with_its_code_and_a_sentence(
    three: tuple[str, str, str], tmp_path: Path, baseline: int, candidate: int, trace: int, message: str, code: int
) -> None:
    found, _, err = run(three[baseline], three[candidate], "--trace", three[trace], "--output", tmp_path / "p.json")
    assert found == code
    assert message in err
    assert not (tmp_path / "p.json").exists()


def test_k_of_zero_is_wrong_usage(three: tuple[str, str, str]) -> None:
    assert run(three[0], three[0], "--trace", three[2], "-k", "0")[0] == 2


def test_parity_imports_neither_quark_nor_vllm_nor_transformers(three: tuple[str, str, str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom quark_eagle.cli.app import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "print([name for name in ('quark', 'vllm', 'transformers') if name in sys.modules])"
    )
    arguments = ["parity", three[0], three[0], "--trace", three[2], "--output", str(tmp_path / "p.json")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
