"""Schemes are compared on prompts that serve nothing else, and the simplest of equals is suggested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quark_eagle.compare.candidates import candidates, require_calibration, require_selection
from quark_eagle.errors import TraceError, UsageError
from quark_eagle.quantize.calibration.observer import Observer, ObserverChoice
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.target_trace import TargetTrace
from quark_eagle.trace.trace_document import TracedPromptInfo
from tests.compare.conftest import as_selection
from tests.quantize.calibration.calibration_trace import relabel, write_calibration_trace
from tests.tiny_trace import write_tiny_trace

BOTH = (ObserverChoice(), ObserverChoice(observer=Observer.PERCENTILE, percentile=99.9))


def test_a_static_scheme_is_made_with_each_observer_and_a_dynamic_one_once() -> None:
    made = candidates(tuple(Scheme), BOTH, kv_cache_scales=False)
    assert [it.name for it in made] == [
        "ptpc_fp8",
        "fp8-min_max",
        "fp8-percentile99.9",
        "fp8_channel_static-min_max",
        "fp8_channel_static-percentile99.9",
    ]


def test_scales_of_the_kv_cache_have_an_observer_under_every_scheme() -> None:
    assert [it.name for it in candidates([Scheme.PTPC_FP8], BOTH, kv_cache_scales=True)] == [
        "ptpc_fp8-min_max",
        "ptpc_fp8-percentile99.9",
    ]


def test_what_needs_calibration_is_named_where_there_is_nothing_to_calibrate_on() -> None:
    dynamic, static = (candidates([scheme], BOTH, kv_cache_scales=False) for scheme in (Scheme.PTPC_FP8, Scheme.FP8))
    require_calibration(dynamic, None)
    with pytest.raises(UsageError, match="--calibration: not given, but fp8 writes scales of activations"):
        require_calibration((*dynamic, *static), None)


def trace_of(directory: Path, draft: Path, *, stolen: str = "") -> TargetTrace:
    """Of the split selection; its second prompt has the hash ``stolen`` if that is given."""
    relabel(write_tiny_trace(directory, draft, num_prompts=3), as_selection)

    def steal(info: TracedPromptInfo) -> TracedPromptInfo:
        return replace(info, sha256=stolen) if stolen and info.id == "prompt-1" else info

    return TargetTrace.open(relabel(directory, steal))


def test_a_parity_trace_is_refused_by_its_labels(tiny_draft: Path, tmp_path: Path) -> None:
    trace = TargetTrace.open(write_tiny_trace(tmp_path / "parity", tiny_draft, num_prompts=2))
    with pytest.raises(TraceError, match=r"prompt-0: is labelled parity.*\n.*prompt-1: is labelled parity"):
        require_selection(trace, None)


@pytest.mark.parametrize("split", ["parity", "calibration"])
def test_a_packaged_prompt_of_another_split_is_refused_though_its_label_lies(
    tiny_draft: Path, tmp_path: Path, split: str
) -> None:
    stolen = PromptSet.load(None, split).prompts[5]
    trace = trace_of(tmp_path / "trace", tiny_draft, stolen=stolen.sha256)
    with pytest.raises(TraceError, match=f"prompt-1: is the packaged {split} prompt {stolen.id} .*must stay unseen"):
        require_selection(trace, None)


def test_a_prompt_that_is_calibrated_on_is_refused_by_its_hash(tiny_draft: Path, tmp_path: Path) -> None:
    calibration = TargetTrace.open(write_calibration_trace(tmp_path / "calibration", tiny_draft, num_prompts=3))
    require_selection(trace_of(tmp_path / "apart", tiny_draft), calibration)
    same = trace_of(tmp_path / "same", tiny_draft, stolen=calibration.prompts[2].sha256)
    with pytest.raises(TraceError, match=r"prompt-1: is prompt prompt-2 of .*calibration, calibrated on"):
        require_selection(same, calibration)


def test_a_calibration_on_another_split_is_refused_too(tiny_draft: Path, tmp_path: Path) -> None:
    parity = TargetTrace.open(write_tiny_trace(tmp_path / "parity", tiny_draft, num_prompts=2))
    with pytest.raises(TraceError, match="parity: cannot be calibrated on"):
        require_selection(trace_of(tmp_path / "trace", tiny_draft), parity)
