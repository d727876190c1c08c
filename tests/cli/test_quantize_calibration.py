"""`quantize` with a static scheme: what it asks for, what it says, and what lies beside OUT afterwards."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.documents.calibration import Calibration
from quark_eagle.trace.target_trace import TargetTrace
from tests.quantize.calibration.calibration_trace import relabel, write_calibration_trace
from tests.tiny_trace import write_tiny_trace


def quantize(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, ["quantize", *map(str, arguments)], env={"NO_COLOR": "1", "COLUMNS": "160"})
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def calibration(tiny_draft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_calibration_trace(tmp_path_factory.mktemp("cli") / "trace", tiny_draft, num_prompts=3)


def test_a_static_scheme_with_nothing_to_calibrate_on_says_what_to_do(tiny_draft: Path, tmp_path: Path) -> None:
    code, out, err = quantize(tiny_draft, "--output", tmp_path / "fp8", "--scheme", "fp8")
    assert (code, out) == (2, "")
    for advice in ("--split calibration", "--calibration TRACE", "--target TARGET", "--scheme ptpc_fp8"):
        assert advice in err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--scheme", "fp8"), "--split calibration"),
        (("--observer", "mse"), "there is nothing to calibrate"),
        (("--scheme", "fp8", "--calibration", "TRACE", "--observer", "median"), "is not known"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(tiny_draft: Path, options: tuple[str, ...], why: str) -> None:
    code, out, err = quantize(tiny_draft, "--dry-run", *options)
    assert (code, out) == (2, "")
    assert why in err


def test_a_dry_run_looks_at_the_trace_to_calibrate_on(tiny_draft: Path, tmp_path: Path, calibration: Path) -> None:
    parity = write_tiny_trace(tmp_path / "parity", tiny_draft, num_prompts=2)
    found = [
        quantize(tiny_draft, "--dry-run", "--scheme", "fp8", "--calibration", trace)
        for trace in (calibration, parity, tmp_path / "none")
    ]
    assert [code for code, _, _ in found] == [0, 5, 5]
    assert "prompt-0: is labelled parity" in found[1][2]
    assert "a trace was needed" in found[2][2]


def test_a_dynamic_scheme_has_nothing_to_calibrate(tiny_draft: Path, tmp_path: Path, calibration: Path) -> None:
    code, _, err = quantize(tiny_draft, "-o", tmp_path / "fp8", "--calibration", calibration, "--observer", "mse")
    assert code == 2
    assert "--calibration, --observer: --scheme ptpc_fp8 scales activations as they come" in err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--observer", "median"), "is not known"),
        (("--observer", "histogram", "--percentile", "99"), "means nothing to --observer histogram"),
        (("--percentile", "99"), "means nothing to --observer min_max"),
        (("--observer", "percentile", "--percentile", "101"), "from 50 to 100"),
    ],
)
def test_an_observer_that_cannot_be_is_refused(
    tiny_draft: Path, tmp_path: Path, calibration: Path, options: tuple[str, ...], why: str
) -> None:
    static = ("--scheme", "fp8", "--calibration", calibration)
    code, _, err = quantize(tiny_draft, "-o", tmp_path / "fp8", *static, *options)
    assert code == 2
    assert why in err


def test_the_trace_to_be_judged_on_is_not_calibrated_on(tiny_draft: Path, tmp_path: Path) -> None:
    parity = write_tiny_trace(tmp_path / "parity", tiny_draft, num_prompts=2)
    lying = write_tiny_trace(tmp_path / "lying", tiny_draft, num_prompts=2)
    relabel(lying, lambda info: replace(info, split="calibration"))
    static = ("--scheme", "fp8_channel_static", "--calibration", lying, "--trace", parity)
    code, _, err = quantize(tiny_draft, "-o", tmp_path / "fp8", *static)
    assert code == 5
    for info in TargetTrace.open(parity).prompts:
        assert f"{info.id}: is prompt {info.id} of {parity}, which the draft is judged on" in err
    assert not (tmp_path / "fp8").exists()


@pytest.mark.quark
@pytest.mark.usefixtures("real_quark")
def test_a_calibrated_draft_lies_beside_its_calibration(tiny_draft: Path, tmp_path: Path, calibration: Path) -> None:
    static = ("--scheme", "fp8", "--calibration", calibration, "--observer", "percentile", "--kv-cache-scales")
    code, out, err = quantize(tiny_draft, "-o", tmp_path / "fp8", *static)
    assert code == 0, err
    assert {entry.name for entry in tmp_path.iterdir()} == {"fp8", "fp8.calibration.json"}
    assert "Calibrated with AMD Quark's PerTensorPercentileObserver (percentile 99.99999999, num_bins 4200)" in out
    assert "layers.0.self_attn.keys" in out
    assert "Calibrating on 3 prompts" in err
    document = Calibration.read(tmp_path / "fp8.calibration.json")
    record = json.loads((tmp_path / "fp8" / "quark_eagle.json").read_text())["activation_scales"]
    assert record["inputs"] == {it.module: it.scale for it in document.scales if it.kind == "input"}
    sha256 = hashlib.sha256((tmp_path / "fp8.calibration.json").read_bytes()).hexdigest()
    assert record["calibration"]["document_sha256"] == sha256
    assert record["calibration"]["prompts"] == [prompt.sha256 for prompt in document.prompts]

    # The same again: nothing existing is touched, and with --overwrite the same bytes come out.
    code, _, err = quantize(tiny_draft, "-o", tmp_path / "fp8", *static)
    assert code == 2
    assert "exists, and nothing existing is touched" in err
    before = (tmp_path / "fp8.calibration.json").read_bytes()
    code, out, err = quantize(tiny_draft, "-o", tmp_path / "fp8", *static, "--overwrite", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["calibration"] == str(tmp_path / "fp8.calibration.json")
    after = Calibration.read(tmp_path / "fp8.calibration.json")
    assert after.scales == Calibration.model_validate_json(before).scales


@pytest.mark.quark
@pytest.mark.usefixtures("real_quark")
def test_a_draft_that_is_not_published_keeps_its_calibration_for_the_next_try(
    tiny_draft: Path, tmp_path: Path, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parity = write_tiny_trace(tmp_path / "parity", tiny_draft, num_prompts=2)
    static = ("--scheme", "fp8_channel_static", "--calibration", calibration, "--trace", parity, "--overwrite")
    code, out, err = quantize(tiny_draft, "-o", tmp_path / "fp8", *static)
    assert code == 4, err
    assert "Not published" in out
    state = tmp_path / ".fp8.calibration-state.safetensors"
    assert state.exists()
    assert not (tmp_path / "fp8").exists()
    before = Calibration.read(tmp_path / "fp8.calibration.json")
    seen = json.loads((tmp_path / "fp8.parity.json").read_text())["candidate"]["calibrated_on"]["prompts"]
    assert seen == [prompt.sha256 for prompt in before.prompts]

    monkeypatch.setattr("quark_eagle.quantize.calibration.observed_draft.ObservedDraft._whole_text", None)
    monkeypatch.setattr("quark_eagle.quantize.calibration.run.CalibrationRun.estimate", lambda run: None)
    code, out, err = quantize(tiny_draft, "-o", tmp_path / "fp8", *static, "--publish-anyway", "--json")
    assert code == 4, err
    assert json.loads(out)["published"]
    assert Calibration.read(tmp_path / "fp8.calibration.json").scales == before.scales
    assert (tmp_path / "fp8").exists()
    assert not state.exists()


def test_an_output_that_exists_is_refused_before_anything_is_calibrated(
    tiny_draft: Path, tmp_path: Path, calibration: Path
) -> None:
    (tmp_path / "fp8").mkdir()
    (tmp_path / "fp8" / "mine").touch()
    code, _, err = quantize(tiny_draft, "-o", tmp_path / "fp8", "--scheme", "fp8", "--calibration", calibration)
    assert code == 2
    assert "Calibrating" not in err
    assert {entry.name for entry in tmp_path.iterdir()} == {"fp8"}
