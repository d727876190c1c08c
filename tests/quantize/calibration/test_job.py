"""What `--target` records for a calibration is kept beside OUT, taken up again, and never that of another target."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import UsageError
from quark_eagle.quantize.calibration import job as module
from quark_eagle.quantize.calibration.job import Calibrating, CalibrationJob
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.target_trace import TRACE_NAME, TargetTrace


def calibrating(draft: Path, output: Path, **job: Any) -> Calibrating:
    checkpoint = Checkpoint.open(draft)
    layout = Eagle3Layout.of(checkpoint)
    plan = QuantPlan.of(layout, Scheme.FP8)
    return Calibrating(checkpoint=checkpoint, layout=layout, plan=plan, output=output, job=CalibrationJob(**job))


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch, calibration_trace: Path) -> list[tuple[str, PromptSet, Path]]:
    """What was recorded: target, prompts, place."""
    made: list[tuple[str, PromptSet, Path]] = []

    def record(
        target: str, draft: Checkpoint, prompts: PromptSet, output: Path, *rest: Any, **extra: Any
    ) -> TargetTrace:
        made.append((target, prompts, output))
        shutil.copytree(calibration_trace, output)
        document = TargetTrace.open(output).document
        of_target = replace(document.target, name=target)
        (output / TRACE_NAME).write_bytes(replace(document, target=of_target, prompts_sha256=prompts.sha256).to_bytes())
        return TargetTrace.open(output)

    monkeypatch.setattr(module, "record", record)
    return made


def test_the_packaged_calibration_prompts_are_recorded_once(
    tiny_draft: Path, tmp_path: Path, recordings: list[tuple[str, PromptSet, Path]]
) -> None:
    first = calibrating(tiny_draft, tmp_path / "fp8", target="a/target", limit=20)._trace()
    again = calibrating(tiny_draft, tmp_path / "fp8", target="a/target", limit=20)._trace()
    ((target, prompts, place),) = recordings
    assert (target, place) == ("a/target", tmp_path / "fp8.calibration-trace")
    assert {prompt.split for prompt in prompts} == {"calibration"}
    assert len(prompts) == 20
    assert first.sha256 == again.sha256


@pytest.mark.parametrize("changed", [{"target": "another/target", "limit": 20}, {"target": "a/target", "limit": 19}])
def test_what_was_recorded_of_something_else_is_refused(
    tiny_draft: Path, tmp_path: Path, recordings: list[tuple[str, PromptSet, Path]], changed: dict[str, Any]
) -> None:
    calibrating(tiny_draft, tmp_path / "fp8", target="a/target", limit=20)._trace()
    with pytest.raises(UsageError, match="was recorded before, of a/target"):
        calibrating(tiny_draft, tmp_path / "fp8", **changed)._trace()


def test_an_older_calibrations_document_is_not_replaced(
    tiny_draft: Path, tmp_path: Path, calibration_trace: Path
) -> None:
    job = calibrating(tiny_draft, tmp_path / "fp8", trace=calibration_trace)
    job.document_path.write_text("mine")
    with pytest.raises(UsageError, match=r"fp8.calibration.json: exists, and nothing existing is touched"):
        job.run()
