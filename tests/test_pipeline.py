from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quark_eagle import pipeline
from quark_eagle.checked import Check, Checked
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import TraceMismatchError, UsageError
from quark_eagle.opening import open_comparison
from quark_eagle.parity.verdict import Rules, judge
from quark_eagle.pipeline import quantize_and_check
from quark_eagle.quantize.activation_scales import ActivationScales
from quark_eagle.quantize.calibration.job import CalibrationJob
from quark_eagle.quantize.calibration.run import CalibrationOptions
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.reporting.wording import how_measured
from quark_eagle.trace.target_trace import TargetTrace
from tests.parity.test_compare import to_fp8
from tests.quantize.test_quark_backend import quantize_with_quark
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace

NAIVE = ("fc", "lm_head")
ALL_NAMES = ("fc", "model.fc", "lm_head")
WIDE = Rules(margin=0.2)  # a tiny random draft loses more to FP8 than a trained one


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("pipeline")
    draft = write_tiny_draft(directory / "draft", draft_vocab=8)
    return draft, write_tiny_trace(directory / "trace", draft, num_prompts=64)


@pytest.fixture
def staging_with(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stages by the definition of PTPC instead of through Quark, whose import takes 20 s; the calls that were made."""
    return fake_stage(monkeypatch, ALL_NAMES)


def fake_stage(monkeypatch: pytest.MonkeyPatch, exclude: Sequence[str]) -> list[Path]:
    staged: list[Path] = []

    def stage(
        checkpoint: Checkpoint, layout: object, plan: object, staging: Path, *rest: object, **extra: object
    ) -> Any:
        staged.append(staging)
        staging.rmdir()
        to_fp8(checkpoint.directory, staging, exclude)
        return SimpleNamespace(to_json=lambda: {"schema_version": 1})

    monkeypatch.setattr("quark_eagle.quantize.stage.stage", stage)
    return staged


def run(draft: Path, output: Path, **options: Any) -> Checked:
    checkpoint = Checkpoint.open(draft)
    layout = Eagle3Layout.of(checkpoint)
    ours = {name: options.pop(name) for name in ("overwrite", "command_line", "calibrating") if name in options}
    check = Check(rules=options.pop("rules", WIDE), **options)
    return quantize_and_check(checkpoint, layout, QuantPlan.of(layout), output, check, **ours)


def trust_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `verify` find nothing, so that acceptance alone decides."""
    verify = pipeline._verify
    monkeypatch.setattr(pipeline, "_verify", lambda *args: replace(verify(*args), findings=()))


def test_a_draft_that_keeps_its_acceptance_is_published_with_its_report(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path]
) -> None:
    checked = run(pair[0], tmp_path / "out", trace=pair[1], command_line=["quark-eagle", "quantize"])
    assert checked.published
    assert checked.exit_code == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    report = ParityReport.read(tmp_path / "out.parity.json")
    assert report == checked.report
    assert report.candidate.name == "out"
    assert "Published." in checked.sentences()[-1]


def calibrating_the_cache() -> Any:
    """Stands for a calibration with ``--kv-cache-scales``."""
    return SimpleNamespace(
        job=CalibrationJob(options=CalibrationOptions(kv_cache_scales=True)),
        run=lambda judged_on: SimpleNamespace(scales=ActivationScales(inputs={}, keys={0: 0.1}, values={0: 0.1})),
        write=lambda calibrated: None,
        forget=lambda: None,
    )


def test_a_draft_with_scales_of_an_fp8_cache_is_judged_with_such_a_cache(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path]
) -> None:
    checked = run(pair[0], tmp_path / "out", trace=pair[1], calibrating=calibrating_the_cache())
    computed = checked.report.provenance.candidate_fp8
    assert computed is not None
    assert computed.kv_cache_dtype == "fp8"
    evidence = checked.verdict.evidence
    assert evidence is not None
    assert "an emulated FP8 KV cache" in how_measured(evidence.provenance)


def test_a_collapsed_draft_is_not_published_but_its_report_is(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stage(monkeypatch, NAIVE)
    trust_the_files(monkeypatch)
    checked = run(pair[0], tmp_path / "out", trace=pair[1])
    assert checked.verification.ok
    assert checked.verdict.outcome == "fail"
    assert (checked.published, checked.exit_code) == (False, 3)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.parity.json", "out.verdict.json"]
    assert "Not published." in checked.sentences()[-1]


def test_a_draft_that_an_engine_misreads_is_not_published_and_verify_says_why(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stage(monkeypatch, NAIVE)
    checked = run(pair[0], tmp_path / "out", trace=pair[1])
    assert (checked.published, checked.exit_code) == (False, 3)
    assert any(line.startswith("ERROR model.fc:") for line in checked.sentences())
    assert not (tmp_path / "out").exists()


def test_what_was_there_survives_a_draft_that_is_not_published(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pair[0], tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    fake_stage(monkeypatch, NAIVE)
    assert not run(pair[0], tmp_path / "out", trace=pair[1], overwrite=True).published
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_a_dead_baseline_publishes_nothing_and_is_not_called_a_failure_of_the_candidate(
    tmp_path: Path, staging_with: list[Path]
) -> None:
    draft = write_tiny_draft(tmp_path / "draft")
    trace = write_tiny_trace(tmp_path / "trace", draft, obeys=0.0)
    checked = run(draft, tmp_path / "out", trace=trace)
    assert checked.verdict.outcome == "unusable"
    assert (checked.published, checked.exit_code) == (False, 5)
    assert (tmp_path / "out.parity.json").is_file()


def test_an_existing_report_is_refused_before_the_work(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path]
) -> None:
    (tmp_path / "out.parity.json").write_text("mine")
    with pytest.raises(UsageError, match=r"out\.parity\.json: exists"):
        run(pair[0], tmp_path / "out", trace=pair[1])
    assert staging_with == []
    assert (tmp_path / "out.parity.json").read_text() == "mine"


def test_a_trace_of_another_target_is_refused_before_the_work(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path]
) -> None:
    foreign = write_tiny_draft(tmp_path / "foreign", aux_layer_ids=(1, 5, 9))
    with pytest.raises(TraceMismatchError, match="does not fit the draft"):
        run(foreign, tmp_path / "out", trace=pair[1])
    assert staging_with == []


def test_a_target_is_recorded_beside_the_output_and_kept(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(
        target: str, draft: Checkpoint, prompts: object, output: Path, *rest: object, **extra: object
    ) -> TargetTrace:
        assert target == "some-target"
        shutil.copytree(pair[1], output)
        return TargetTrace.open(output)

    monkeypatch.setattr("quark_eagle.trace.recording.record", record)
    checked = run(pair[0], tmp_path / "out", target="some-target")
    assert checked.published
    assert checked.trace == tmp_path / "out.trace"
    with pytest.raises(UsageError, match=r"was recorded before. Measure on it with --trace"):
        run(pair[0], tmp_path / "out", target="some-target", overwrite=True)


@pytest.mark.parametrize("given", [{}, {"target": "t", "trace": Path("x")}])
def test_there_is_one_thing_to_measure_on(pair: tuple[Path, Path], tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Give one of them"):
        run(pair[0], tmp_path / "out", **given)


def test_a_failure_on_the_way_publishes_nothing(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quark_eagle.parity.compare.Comparison.run", fail)
    with pytest.raises(KeyboardInterrupt):
        run(pair[0], tmp_path / "out", trace=pair[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.quark
@pytest.mark.usefixtures("real_quark")
def test_through_quark_the_whole_job_publishes_what_verify_and_parity_passed(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    checked = run(pair[0], tmp_path / "out", trace=pair[1])
    assert checked.published, checked.sentences()
    assert Checkpoint.open(tmp_path / "out").is_quantized
    assert checked.to_json()["verdict"]["outcome"] == "pass"


@pytest.mark.quark
@pytest.mark.usefixtures("real_quark")
def test_quarks_own_export_collapses_in_the_replay_of_what_vllm_makes_of_it(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_with_quark(pair[0], tmp_path / "naive", ["fc", "lm_head"])
    comparison = open_comparison(pair[0], tmp_path / "naive", pair[1])
    assert comparison.sides[1].miscast == ("fc",)
    report = comparison.run()
    assert judge(report).outcome == "fail"
