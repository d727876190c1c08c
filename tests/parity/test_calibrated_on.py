"""A draft is not judged on prompts that it was calibrated on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from quark_eagle.documents.parity import CalibratedOn, ParityReport
from quark_eagle.errors import CheckpointError
from quark_eagle.parity.calibrated_on import calibrated_on
from quark_eagle.parity.gate import gate
from quark_eagle.parity.side import Side
from quark_eagle.parity.verdict import Rules, judge
from quark_eagle.reporting.markdown import to_markdown
from quark_eagle.reporting.wording import warnings
from tests.reports import AT_PAR, report
from tests.tiny import TinyDraft, tiny_tensors, write_tensors, write_tiny_draft


def calibrated(measured: ParityReport, prompts: Sequence[str]) -> ParityReport:
    """The same measurement, of a candidate that was calibrated on these prompts."""
    known = CalibratedOn(document_sha256="0" * 64, observer="min_max", prompts=list(prompts))
    return measured.model_copy(update={"candidate": measured.candidate.model_copy(update={"calibrated_on": known})})


def test_a_shared_prompt_makes_the_evidence_unusable_and_is_named() -> None:
    measured = report(AT_PAR)
    first, second = measured.prompts[3], measured.prompts[150]
    seen = calibrated(measured, ["f" * 64, second.sha256, first.sha256])
    verdict = gate(seen, Rules(), parity=Path("parity.json"))
    assert (verdict.outcome, verdict.rule, verdict.exit_code) == ("unusable", "evidence", 5)
    for prompt in (first, second):
        assert f"{prompt.id} (sha256 {prompt.sha256})" in verdict.reason
    assert "2 of the 200 prompts" in verdict.reason


def test_a_collapse_does_not_hide_it_nor_the_split() -> None:
    measured = report([-10] * 200, split="calibration")
    seen = calibrated(measured, [measured.prompts[0].sha256])
    assert "was calibrated on 1 of the 200" in judge(seen).reason


def test_other_prompts_change_nothing() -> None:
    measured = report(AT_PAR)
    assert judge(calibrated(measured, ["f" * 64])).outcome == judge(measured).outcome == "pass"


def test_a_report_without_calibration_is_what_it_was() -> None:
    measured = report(AT_PAR[:4])
    assert "calibrated_on" not in measured.to_json()
    seen = calibrated(measured, ["f" * 64])
    assert ParityReport.model_validate_json(seen.to_json()) == seen


def test_a_draft_says_what_it_was_calibrated_on(tmp_path: Path, tiny_draft: Path) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    for file in tiny_draft.iterdir():
        (draft / file.name).symlink_to(file)
    assert Side.open(draft).arm().calibrated_on is None
    record = draft / "quark_eagle.json"
    known = {"document_sha256": "1" * 64, "observer": "mse", "prompts": ["2" * 64]}
    for scales, found in (
        (None, None),
        ({"inputs": {}, "calibration": {}}, None),
        ({"inputs": {}, "calibration": known}, CalibratedOn(**known)),
    ):
        record.write_text(json.dumps({"schema_version": 1, "activation_scales": scales}))
        assert Side.open(draft).arm().calibrated_on == found
    record.write_text(json.dumps({"schema_version": 1}))
    assert calibrated_on(draft) is None


def test_static_scales_without_a_record_are_said_to_be_of_unknown_origin(tmp_path: Path) -> None:
    draft = write_tiny_draft(tmp_path / "draft")
    scale = {"midlayer.self_attn.k_scale": torch.tensor(0.1)}
    write_tensors(draft, tiny_tensors(TinyDraft()) | scale)
    arm = Side.open(draft).arm()
    assert arm.calibrated_on == "unknown"
    measured = report(AT_PAR)
    of_unknown = measured.candidate.model_copy(update={"calibrated_on": arm.calibrated_on})
    verdict = gate(measured.model_copy(update={"candidate": of_unknown}), Rules(), parity=Path("parity.json"))
    assert verdict.outcome == "pass"
    assert '"calibrated_on": "unknown"' in verdict.to_json()
    assert "calibrated on: unknown" in to_markdown(verdict)
    assert any("calibrated on: unknown" in warning for warning in warnings(verdict))


@pytest.mark.parametrize("content", ["{", "[]", '{"activation_scales": {"calibration": {"prompts": ["x"]}}}'])
def test_a_record_that_cannot_be_read_is_no_proof_of_innocence(tmp_path: Path, content: str) -> None:
    (tmp_path / "quark_eagle.json").write_text(content)
    with pytest.raises(CheckpointError, match="it says what the draft was calibrated on"):
        calibrated_on(tmp_path)
