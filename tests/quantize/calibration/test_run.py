"""A calibration gives the same bits however often it is interrupted, and says what it stands on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.documents.calibration import Calibration
from quark_eagle.errors import QuantizationError, QuarkEagleError, TraceMismatchError, UsageError
from quark_eagle.quantize.calibration import run as module_of_runs
from quark_eagle.quantize.calibration.observer import Observer, ObserverChoice
from quark_eagle.quantize.calibration.run import CalibrationOptions
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.trace.target_trace import TargetTrace
from tests.quantize.calibration.conftest import OpenRun

pytestmark = [pytest.mark.quark, pytest.mark.usefixtures("real_quark")]

CHOICES = [
    ObserverChoice(),
    ObserverChoice(observer=Observer.PERCENTILE, percentile=99.9),
    ObserverChoice(observer=Observer.MSE),
    ObserverChoice(observer=Observer.HISTOGRAM),
]


class _KilledError(Exception):
    pass


def options(choice: ObserverChoice) -> CalibrationOptions:
    """Of five prompts for MSE, which tries every bin and is slow where the first batch was small."""
    max_tokens = 5 * 15 if choice.observer is Observer.MSE else None
    return CalibrationOptions(choice=choice, kv_cache_scales=True, max_tokens=max_tokens)


def dies_after(monkeypatch: pytest.MonkeyPatch, prompts: int) -> None:
    """The next run ends between two prompts, as a kill would."""
    whole, given = TargetTrace.prompt, 0

    def counted(trace: TargetTrace, place: int) -> Any:
        nonlocal given
        if given == prompts:
            raise _KilledError
        given += 1
        return whole(trace, place)

    monkeypatch.setattr(TargetTrace, "prompt", counted)


@pytest.fixture
def _every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of_runs, "STATE_SECONDS", 0.0)


@pytest.mark.usefixtures("_every_state")
@pytest.mark.parametrize("choice", CHOICES, ids=lambda it: it.observer.value)
def test_interrupted_and_continued_is_bit_identical(
    open_run: OpenRun, monkeypatch: pytest.MonkeyPatch, choice: ObserverChoice
) -> None:
    whole = open_run(options(choice)).run()
    open_run(options(choice)).state_file.path.unlink(missing_ok=True)
    for prompts in (2, 1, 1):  # of those that are left each time
        doomed = open_run(options(choice))
        with monkeypatch.context() as patch:
            dies_after(patch, prompts)
            with pytest.raises(_KilledError):
                doomed.run()
    last = open_run(options(choice))
    assert last.state_file.read().num_done == 4
    assert last.run() == whole


def test_a_second_run_has_the_same_bytes(open_run: OpenRun) -> None:
    first = open_run(options(CHOICES[1])).run(command_line=["x"])
    open_run(options(CHOICES[1])).state_file.path.unlink(missing_ok=True)
    second = open_run(options(CHOICES[1])).run(command_line=["x"])
    assert first.document.to_json() == second.document.to_json()
    assert first.scales == second.scales


def test_a_finished_state_gives_the_scales_without_running_a_prompt(
    open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_run(options(CHOICES[1])).run()
    dies_after(monkeypatch, 0)
    assert open_run(options(CHOICES[1])).run() == whole


@pytest.mark.usefixtures("_every_state")
def test_the_state_of_another_plan_or_a_damaged_one_is_not_taken_up(
    open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_run(options(CHOICES[0])).run()
    other = open_run(options(CHOICES[1]))
    assert other.state_file.read().num_done == 0
    other.state_file.path.write_bytes(other.state_file.path.read_bytes()[:-100])
    assert open_run(options(CHOICES[0])).state_file.read().num_done == 0
    assert open_run(options(CHOICES[0])).run() == whole
    # A header that is JSON, but not ours.
    from safetensors.torch import save

    other.state_file.path.write_bytes(save({}, {"state": "[1]"}))
    assert open_run(options(CHOICES[0])).state_file.read().num_done == 0


def test_the_document_reads_back_and_says_what_was_seen(open_run: OpenRun, tmp_path: Path) -> None:
    run = open_run(options(CHOICES[0]))
    calibrated = run.run(command_line=["quark-eagle", "quantize"])
    path = tmp_path / "OUT.calibration.json"
    path.write_text(calibrated.document.to_json())
    found = Calibration.read(path)
    assert found == calibrated.document
    assert found.num_tokens == sum(it.num_tokens for it in found.prompts) == 12 * 15
    assert found.num_tokens_of_step == [12 * 15, 12 * 11, 12 * 11]
    assert {it.module: it.scale for it in found.scales if it.kind == "input"} == dict(calibrated.scales.inputs)
    assert set(calibrated.scales.keys) == set(calibrated.scales.values) == {0}
    for it in found.scales:
        assert len(it.convergence) == 8
        assert it.convergence[-1].num_tokens == found.num_tokens
        assert [peak.step for peak in it.peaks] == ([1] if it.module == "fc" else [1, 2, 3])
        growing = [point.scale for point in it.convergence]
        assert growing == sorted(growing), "min_max never falls"


def test_a_document_that_contradicts_itself_is_refused(open_run: OpenRun, tmp_path: Path) -> None:
    content = json.loads(open_run(options(CHOICES[0])).run().document.to_json())
    path = tmp_path / "c.json"
    for key, value, why in (
        ("prompts", content["prompts"][1:], "the prompts are not those"),
        ("outliers", ["fc"], "outliers are not those of the ratios"),
        ("scales", [{**it, "scale": 1.0} for it in content["scales"]], "the last point of its convergence"),
    ):
        path.write_text(json.dumps({**content, key: value}))
        with pytest.raises(QuarkEagleError, match=why):
            Calibration.read(path)


def test_fewer_tokens_are_a_prefix_of_the_same_calibration(open_run: OpenRun) -> None:
    whole = open_run(options(CHOICES[0])).run().document
    part = open_run(replace(options(CHOICES[0]), max_tokens=6 * 15)).run().document
    assert part.num_tokens == 6 * 15
    assert part.prompts == whole.prompts[:6]
    for some, every in zip(part.scales, whole.scales, strict=True):
        at = {point.num_tokens: point.scale for point in every.convergence}
        assert some.scale == at[6 * 15]


def test_scales_of_the_cache_alone_need_no_linear(open_run: OpenRun) -> None:
    whole = open_run(options(CHOICES[0])).run().scales
    alone = open_run(options(CHOICES[0]), scheme=Scheme.PTPC_FP8).run().scales
    assert alone.inputs == {}
    assert (alone.keys, alone.values) == (whole.keys, whole.values)


def test_more_steps_see_more(open_run: OpenRun) -> None:
    one = open_run(CalibrationOptions(num_speculative_tokens=1)).run().document
    three = open_run(CalibrationOptions(num_speculative_tokens=3)).run().document
    assert one.num_tokens_of_step == [12 * 15]
    for first, later in zip(one.scales, three.scales, strict=True):
        assert first.peaks[0] == later.peaks[0]
        assert first.scale <= later.scale


def test_a_module_that_saw_zeros_alone_has_no_scale(open_run: OpenRun) -> None:
    run = open_run()
    run.module.draft.weights["layers.0.post_attention_layernorm.weight"].zero_()
    with pytest.raises(QuantizationError, match=r"(?s)found no scale: 3 problems.*gate_proj: scale"):
        run.run()


def test_a_projected_trace_cannot_calibrate_fc(
    open_run: OpenRun, calibration_trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = TargetTrace.open(calibration_trace)
    states = replace(trace.states, projection="0" * 64)
    projected = TargetTrace(calibration_trace, replace(trace.document, states=states))
    monkeypatch.setattr(TargetTrace, "open", classmethod(lambda cls, path: projected))
    monkeypatch.setattr(TargetTrace, "require_fits", lambda *arguments: None)
    with pytest.raises(TraceMismatchError, match="is projected, so what enters fc is not in it"):
        open_run(quantize_fc=True)


def test_an_estimate_leaves_no_trace_in_what_is_found(open_run: OpenRun) -> None:
    whole = open_run(options(CHOICES[0])).run()
    run = open_run(options(CHOICES[0]))
    run.state_file.path.unlink(missing_ok=True)
    estimate = run.estimate()
    assert (estimate.num_prompts, estimate.num_done, estimate.num_tokens) == (12, 0, 12 * 15)
    assert estimate.seconds > 0
    assert run.run() == whole


def test_a_device_that_is_not_here_is_refused(open_run: OpenRun) -> None:
    with pytest.raises(UsageError, match="--device tpu"):
        open_run(CalibrationOptions(device="tpu"))
