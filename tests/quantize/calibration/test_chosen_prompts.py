"""No prompt that a draft is judged on is calibrated on, whatever its label says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quark_eagle.errors import TraceError, UsageError
from quark_eagle.quantize.calibration.chosen_prompts import ChosenPrompts
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.target_trace import TargetTrace
from tests.quantize.calibration.calibration_trace import relabel, write_calibration_trace
from tests.tiny_trace import write_tiny_trace


@pytest.fixture(scope="module")
def traces(tiny_draft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("chosen")
    write_calibration_trace(directory / "calibration", tiny_draft, num_prompts=6)
    write_tiny_trace(directory / "parity", tiny_draft, num_prompts=2)
    return directory


def test_categories_take_turns(traces: Path) -> None:
    chosen = ChosenPrompts.of(TargetTrace.open(traces / "calibration"), None)
    assert [info.category for info in chosen.infos] == ["coding", "math"] * 3
    assert sorted(chosen.places) == list(range(6))


def test_a_limit_takes_whole_prompts_up_to_it(traces: Path) -> None:
    trace = TargetTrace.open(traces / "calibration")
    each = trace.prompts[0].num_tokens - 1
    chosen = ChosenPrompts.of(trace, 3 * each - 1)
    assert len(chosen.places) == 2
    assert chosen.num_tokens == 2 * each
    with pytest.raises(UsageError, match=f"--calib-tokens 5: the first prompt alone has {each}"):
        ChosenPrompts.of(trace, 5)


def test_scales_are_noted_at_about_each_eighth_and_at_the_end(traces: Path) -> None:
    chosen = ChosenPrompts.of(TargetTrace.open(traces / "calibration"), None)
    many = replace(chosen, places=chosen.places * 8, infos=chosen.infos * 8)
    assert chosen.checkpoints == (1, 2, 3, 4, 5, 6)
    assert many.checkpoints == tuple(range(6, 49, 6))


def test_a_parity_trace_is_refused_by_its_label(traces: Path) -> None:
    with pytest.raises(TraceError, match=r"prompt-0: is labelled parity.*\n.*prompt-1: is labelled parity"):
        ChosenPrompts.of(TargetTrace.open(traces / "parity"), None)


@pytest.mark.parametrize("split", ["parity", "selection"])
def test_a_packaged_prompt_of_another_split_is_refused_though_its_label_lies(
    tiny_draft: Path, tmp_path: Path, split: str
) -> None:
    stolen = PromptSet.load(None, split).prompts[3]
    trace = write_calibration_trace(tmp_path / "trace", tiny_draft)
    relabel(trace, lambda info: replace(info, sha256=stolen.sha256) if info.id == "prompt-2" else info)
    with pytest.raises(TraceError, match=f"prompt-2: is the packaged {split} prompt {stolen.id}"):
        ChosenPrompts.of(TargetTrace.open(trace), None)


def test_a_prompt_of_the_trace_to_be_judged_on_is_refused_though_its_label_lies(traces: Path, tmp_path: Path) -> None:
    judged_on = TargetTrace.open(traces / "parity")
    calibration = TargetTrace.open(traces / "calibration")
    ChosenPrompts.of(calibration, None, [judged_on])
    liar = TargetTrace(
        tmp_path,
        replace(judged_on.document, prompts=tuple(replace(it, split="calibration") for it in judged_on.prompts)),
    )
    with pytest.raises(TraceError, match=r"prompt-0: is prompt prompt-0 of .*parity, which the draft is judged on"):
        ChosenPrompts.of(liar, None, [judged_on])
