"""`compare-schemes`: what it asks for, what it writes and says, and that nothing else is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.cli.app import app
from quark_eagle.compare.suggestion import suggested
from quark_eagle.documents.counts import PromptResult
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.schemes import SchemeResult, SchemesReport
from quark_eagle.errors import QuarkEagleError
from quark_eagle.quantize.record import QuantizeResult
from quark_eagle.quantize.stage import stage
from quark_eagle.reporting.schemes import next_command, sentences, to_markdown
from tests.compare.conftest import as_selection
from tests.quantize.calibration.calibration_trace import relabel, write_calibration_trace
from tests.quantize.conftest import StandIn
from tests.quantize.conftest import stand_in as stand_in  # a fixture is found by its name
from tests.tiny_trace import write_tiny_trace


def compare(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, ["compare-schemes", *map(str, arguments)], env={"NO_COLOR": "1", "COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def selection(tiny_draft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli") / "trace"
    return relabel(write_tiny_trace(directory, tiny_draft, num_prompts=6, num_generated=16), as_selection)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `report` leaves what it made."""
    return tmp_path_factory.mktemp("written") / "kept"


@pytest.fixture(scope="module")
def report(tiny_draft: Path, selection: Path, kept: Path) -> SchemesReport:
    """Of one dynamic scheme, which needs no Quark but its arithmetic."""
    output = kept.with_name("schemes.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quark_eagle.quantize.stage.load_quark", lambda scheme: StandIn())
        code, out, _ = compare(
            tiny_draft, "--selection", selection, "--schemes", "ptpc_fp8", "-o", output, "--keep-drafts", kept, "--json"
        )
    assert code == 0
    written = SchemesReport.read(output)
    assert json.loads(out) == {**written.model_dump(mode="json"), "output": str(output)}
    return written


def test_it_says_what_it_will_take_what_it_found_and_what_next(
    tiny_draft: Path, selection: Path, tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    files = ("--output", tmp_path / "schemes.json", "--markdown", tmp_path / "schemes.md")
    code, out, err = compare(tiny_draft, "--selection", selection, "--schemes", "ptpc_fp8", *files)
    assert code == 0
    assert "Compares ptpc_fp8 with bf16: replays 6 prompts for" in err
    for words in ("bytes a step", "90% interval", "vLLM 0.19-0.32: ROCm, CUDA, CPU*", "output, later steps"):
        assert words in out
    assert f"Next: quark-eagle quantize {tiny_draft} --output OUT --scheme ptpc_fp8 --trace PARITY_TRACE" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["schemes.json", "schemes.md"]
    assert (tmp_path / "schemes.md").read_text() == to_markdown(SchemesReport.read(tmp_path / "schemes.json"))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--schemes", "fp8"), "--calibration: not given, but fp8 writes scales"),
        (("--schemes", "int8"), "is a scheme of Quark's, but not of FP8"),
        (("--schemes", "ptpc_fp8", "--kv-cache-dtype", "fp8"), "--calibration: not given, but ptpc_fp8"),
        (("--observer", "median"), "--observer median: is not known"),
        (("--percentile", "99"), "means nothing without --observer percentile"),
        (("--keep-drafts", "."), "is a directory"),
        (("--keep", "*.no_such"), "*.no_such"),
        (("--schemes", ""), "--schemes '': names nothing"),
        (("--observer", " ,"), "--observer ' ,': names nothing"),
        (("--observer", "mse"), "--observer: no scheme in --schemes is calibrated"),
        (("--calibration", "TRACE", "--calib-tokens", "9"), "--calibration, --calib-tokens: no scheme in --schemes is"),
        (("--observer", "percentile", "--percentile", "99"), "--observer, --percentile: no scheme in --schemes is"),
        (("--output", "one.json", "--markdown", "./one.json"), "both are one.json, and one would replace the other"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    tiny_draft: Path, selection: Path, tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    ptpc = () if "--schemes" in options else ("--schemes", "ptpc_fp8")
    code, out, err = compare(
        tiny_draft, "--selection", selection, "--output", tmp_path / "schemes.json", *ptpc, *options
    )
    assert (code, out) == (2, "")
    assert why in err
    assert not [*tmp_path.iterdir()]


def test_a_parity_trace_stays_unseen(tiny_draft: Path, tmp_path: Path) -> None:
    parity = write_tiny_trace(tmp_path / "parity", tiny_draft, num_prompts=2)
    calibration = write_calibration_trace(tmp_path / "calibration", tiny_draft, num_prompts=2)
    code, _, err = compare(
        tiny_draft, "--selection", parity, "--calibration", calibration, "-o", tmp_path / "schemes.json"
    )
    assert code == 5
    assert "prompt-0: is labelled parity" in err
    assert "must stay unseen until the verdict" in err


@pytest.fixture
def _nothing_excluded(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts whose config names no module to leave alone: vLLM would build fc in FP8 and cast it."""

    def careless(*args: Any, **options: Any) -> QuantizeResult:
        result = stage(*args, **options)
        config = args[3] / "config.json"
        content = json.loads(config.read_text())
        content["quantization_config"]["exclude"] = []
        config.write_text(json.dumps(content))
        return result

    monkeypatch.setattr("quark_eagle.compare.measure.stage", careless)


@pytest.mark.usefixtures("_nothing_excluded")
def test_if_no_scheme_is_usable_the_answer_is_no_and_none_is_suggested(
    tiny_draft: Path, selection: Path, tmp_path: Path
) -> None:
    output = tmp_path / "schemes.json"
    code, out, _ = compare(tiny_draft, "--selection", selection, "--schemes", "ptpc_fp8", "-o", output)
    assert code == 3
    assert "ptpc_fp8 is not usable, whatever its τ: error: model.fc" in out
    assert "None of them is verified and measured, so none is suggested." in out
    assert "Next:" not in out
    found = SchemesReport.read(output)
    assert (found.suggested, found.schemes[0].is_usable) == (None, False)


def test_a_scheme_that_is_not_usable_is_said_so_beside_those_that_are(report: SchemesReport) -> None:
    broken = renamed(report, "fp8-mse", 0.5).model_copy(
        update={"verification": "broken", "findings": ["error: model.fc is cast."]}
    )
    said = sentences(report.model_copy(update={"schemes": [broken, *report.schemes]}))
    assert "fp8-mse is not usable, whatever its τ: error: model.fc is cast." in said
    assert not [line for line in said if line.startswith("ptpc_fp8 is not usable")]


def test_what_is_kept_or_quantized_beside_the_layers_is_so_under_every_scheme(
    tiny_draft: Path, selection: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    output, kept = tmp_path / "schemes.json", tmp_path / "kept"
    scope = ("--keep", "*.down_proj", "--quantize-fc")
    code, out, err = compare(
        tiny_draft, "--selection", selection, "--schemes", "ptpc_fp8", "-o", output, "--keep-drafts", kept, *scope
    )
    assert code == 0, err
    modules = {it.module for it in SchemesReport.read(output).schemes[0].modules}
    assert "fc" in modules
    assert "layers.0.mlp.down_proj" not in modules
    tensors = Checkpoint.open(kept / "ptpc_fp8").tensors
    assert {name for name, info in tensors.items() if info.dtype == "F8_E4M3"} >= {"fc.weight"}
    assert f"Next: quark-eagle quantize {tiny_draft} --output OUT --scheme ptpc_fp8 --keep '*.down_proj'" in out


def renamed(report: SchemesReport, name: str, estimate: float) -> SchemeResult:
    """A result of another name and change of τ; all but ptpc_fp8 as if they had been calibrated."""
    first = report.schemes[0]
    assert first.difference is not None
    observer = None if name == "ptpc_fp8" else {"name": "mse", "quark_class": "X", "parameters": {"num_bins": 2.0}}
    difference = first.difference.model_dump() | {"estimate": estimate}
    content = first.model_dump() | {"name": name, "observer": observer, "difference": difference}
    return SchemeResult.model_validate(content)


def dead(prompt: PromptResult) -> PromptResult:
    """The same prompt, of which the candidate got nothing accepted."""
    walk = [prompt.num_generated_tokens - 1, 0, 0, 0]
    return prompt.model_copy(update={"candidate": prompt.candidate.model_copy(update={"walk": walk})})


def test_what_needs_no_calibration_is_suggested_unless_the_best_is_told_apart_from_it(
    report: SchemesReport, kept: Path
) -> None:
    alive = ParityReport.read(kept / "ptpc_fp8.parity.json").prompts
    dynamic, static = renamed(report, "ptpc_fp8", 0.0), renamed(report, "fp8-a", 0.01)
    assert suggested([static, dynamic], {"ptpc_fp8": alive, "fp8-a": alive}, 0.9) == "ptpc_fp8"
    worse = {"ptpc_fp8": [*map(dead, alive)], "fp8-a": alive}
    assert suggested([static, dynamic], worse, 0.9) == "fp8-a"
    broken = static.model_copy(update={"verification": "broken"})
    assert suggested([broken, dynamic], worse, 0.9) == "ptpc_fp8"
    assert suggested([broken], worse, 0.9) is None


def test_a_static_suggestion_comes_with_its_calibration(report: SchemesReport) -> None:
    static = renamed(report, "fp8-mse", 0.1).model_copy(update={"scheme": "fp8"})
    chosen = report.model_copy(
        update={"schemes": [static], "suggested": "fp8-mse", "calibration": "seen before", "kv_cache_dtype": "fp8"}
    )
    command = next_command(chosen)
    assert command is not None
    assert "--scheme fp8 --calibration 'seen before' --observer mse --kv-cache-scales --trace PARITY_TRACE" in command


def test_markdown_names_every_module_and_the_console_the_worst(report: SchemesReport) -> None:
    text = to_markdown(report)
    assert text.count("| ptpc\\_fp8 | layers.0.") == 7
    ranks = [it.rank for it in report.schemes[0].worst]
    assert ranks == sorted(ranks)


def test_a_ratio_that_is_not_that_of_its_sums_is_refused(report: SchemesReport, tmp_path: Path) -> None:
    content = json.loads(report.to_json())
    content["schemes"][0]["modules"][0]["weight"]["sqnr_db"] += 1
    (tmp_path / "schemes.json").write_text(json.dumps(content))
    with pytest.raises(QuarkEagleError, match=r"modules\.0\.weight: .*but its sums of squares make"):
        SchemesReport.read(tmp_path / "schemes.json")
