"""The anchor: replay held against a served run, and what a verdict makes of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from quark_eagle.documents.anchor import ANCHOR_NAME, Anchor
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import STATED, Bias
from quark_eagle.errors import QuarkEagleError, TraceError
from quark_eagle.parity.anchor import Rounds, compare
from quark_eagle.parity.gate import first_look, gate
from quark_eagle.parity.verdict import Rules, judge
from quark_eagle.trace.target_trace import TargetTrace
from tests.reports import report
from tests.tiny_trace import write_tiny_trace


class Traced(SimpleNamespace):
    """As much of a trace as its anchor is made of."""

    def __len__(self) -> int:
        return 80


TRACE: Any = Traced(
    directory=Path("trace"),
    sha256="a" * 64,
    target=SimpleNamespace(engine="vllm 0.32.0, torch 2.13.0", device="cpu", dtype="bfloat16"),
)


def compared(pairs: list[tuple[Rounds, Rounds]]) -> Anchor:
    return compare(TRACE, "b" * 64, 3, pairs, "quark-eagle replay 0.1.0, torch 2.13.0, x86_64 AVX2")


def test_rounds_that_are_equal_leave_no_error() -> None:
    found = compared([([2, 0, 1], [2, 0, 1]), ([3, 3], [3, 3])])
    assert (found.num_prompts, found.num_identical, found.num_prompts_of_trace) == (2, 2, 80)
    assert found.difference == found.bound == found.tau_error == 0
    assert found.matches


def test_the_error_is_that_of_tau_and_its_bound_knows_how_sure_it_is() -> None:
    """60 prompts of 20 rounds each; replay needs one round more on 3 of them, and one less on 1."""
    same: tuple[Rounds, Rounds] = ([1] * 20, [1] * 20)
    more: tuple[Rounds, Rounds] = ([1] * 20, [1] * 19 + [0, 0])
    fewer: tuple[Rounds, Rounds] = ([1] * 20, [1] * 18 + [3])
    found = compared([same] * 56 + [more] * 3 + [fewer])
    assert found.served_num_drafts == 1200
    assert found.replayed_num_drafts == 1202
    assert found.tau_error == pytest.approx(1200 / 1202 - 1)
    assert abs(found.tau_error) < found.bound < 0.005
    assert found.num_identical == 56
    few = compared([same] * 11 + [more])
    assert few.bound > found.bound  # the same kind of error on fewer prompts is known less well


def test_the_larger_of_the_two_differences_decides() -> None:
    found = compared([([0] * 98 + [1], [0] * 100), ([0] * 20, [0] * 20)])
    assert found.difference == 1.0  # one token of one is lost, though rounds differ by less than 1 %
    assert not found.matches


def test_no_rounds_are_no_anchor() -> None:
    for pairs in ([], [([], [])]):
        with pytest.raises(TraceError, match="no round of the served draft could be counted"):
            compared(pairs)


def measured_on_a_trace_of(engine: str, anchored: Anchor | None) -> ParityReport:
    made = report()
    provenance = made.provenance.model_copy(
        update={"target": {**made.provenance.target, "engine": engine}, "anchor": anchored}
    )
    return made.model_copy(update={"provenance": provenance})


def fitting(**changes: Any) -> Anchor:
    """An anchor of the report's own trace and baseline."""
    made = report()
    found = compared([([2, 0, 1], [2, 0, 1])] * 80)
    own = {
        "trace_sha256": made.provenance.trace_sha256,
        "draft_weights_sha256": made.baseline.weights_sha256,
        "bound": 0.002,
    }
    return found.model_copy(update=own | changes)


def outcome(measured: ParityReport, rules: Rules | None = None) -> tuple[str, str, str]:
    verdict = gate(measured, rules or Rules(num_resamples=499), parity=Path("parity.json"))
    return verdict.outcome, verdict.rule, verdict.reason


VLLM = "vllm 0.32.0, torch 2.13.0"


def test_a_trace_of_an_engine_gates_nothing_without_an_anchor() -> None:
    found, rule, reason = outcome(measured_on_a_trace_of(VLLM, None))
    assert (found, rule) == ("unusable", "evidence")
    assert f"recorded by {VLLM} and has no anchor" in reason
    assert "--engine vllm" in reason  # how to make one


def test_a_trace_of_transformers_needs_none() -> None:
    assert outcome(measured_on_a_trace_of("transformers 5.16.1, torch 2.13.0", None))[0] == "pass"


def test_an_anchored_trace_gates_and_its_bound_is_allowed_for() -> None:
    measured = measured_on_a_trace_of(VLLM, fitting())
    verdict = gate(measured, Rules(num_resamples=499), parity=Path("parity.json"))
    assert verdict.outcome == "pass"
    assert verdict.bias.anchored
    assert verdict.bias.bound == 0.002
    assert "served by vllm 0.32.0" in verdict.bias.source
    wide = measured_on_a_trace_of(VLLM, fitting(bound=0.02))
    assert outcome(wide)[0] == "inconclusive"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trace_sha256": "c" * 64}, "belongs to another trace"),
        ({"draft_weights_sha256": "c" * 64}, "of a draft with weights cccccccccccc…"),
        ({"num_prompts": 63}, r"holds for 63 prompts of 80, but at least 64 were needed"),
        ({"replay_dtype": "float32"}, r"replayed in float32, but the drafts in bfloat16"),
        ({"num_speculative_tokens": 6}, r"served at k = 6, but k = 3 was replayed"),
        ({"difference": 0.03}, r"does not hold: .* They differ by 3.0%"),
    ],
)
def test_an_anchor_that_does_not_hold_is_none(changes: dict[str, Any], message: str) -> None:
    import re

    found, rule, reason = outcome(measured_on_a_trace_of(VLLM, fitting(**changes)))
    assert (found, rule) == ("unusable", "evidence")
    assert re.search(message, reason)


@pytest.mark.parametrize("anchored", [None, fitting(difference=0.3)])
def test_nothing_stated_stands_in_the_place_of_an_anchor(anchored: Anchor | None) -> None:
    stated = Rules(num_resamples=499, bias=Bias(bound=0.0, anchored=True, source=STATED))
    assert outcome(measured_on_a_trace_of(VLLM, anchored), stated)[:2] == ("unusable", "evidence")


@pytest.mark.parametrize(("stated", "counts"), [(0.0, 0.002), (0.004, 0.004)])
def test_of_a_stated_error_and_a_measured_one_the_larger_counts(stated: float, counts: float) -> None:
    rules = Rules(num_resamples=499, bias=Bias(bound=stated, anchored=True, source=STATED))
    verdict = gate(measured_on_a_trace_of(VLLM, fitting()), rules, parity=Path("parity.json"))
    assert verdict.bias.bound == counts


def test_a_measurement_is_judged_with_its_anchor_whoever_judges() -> None:
    assert judge(measured_on_a_trace_of(VLLM, fitting())).outcome == "pass"


def test_an_anchor_whose_rates_are_not_those_of_its_counts_is_none(tmp_path: Path) -> None:
    for changes in ({"replayed_num_drafts": 300}, {"difference": 0.005}, {"tau_error": 0.1}, {"bound": -0.1}):
        content = fitting().model_copy(update=changes).to_json()
        with pytest.raises(ValidationError):
            Anchor.model_validate_json(content)


def test_a_second_look_may_have_another_anchor(tmp_path: Path) -> None:
    """It is measured with each trace anew; only what was stated beforehand has to stay."""
    rules = Rules(num_resamples=499, looks=2)
    first = gate(measured_on_a_trace_of(VLLM, fitting(bound=0.02)), rules, parity=Path("parity.json"))
    assert first.outcome == "inconclusive"
    (tmp_path / "first.json").write_text(first.to_json())
    assert first_look(tmp_path / "first.json", rules).look.look == 2


def test_the_anchor_travels_in_the_report() -> None:
    measured = measured_on_a_trace_of(VLLM, fitting())
    again = ParityReport.model_validate_json(measured.to_json())
    assert again.provenance.anchor == fitting()
    assert '"anchor"' not in report().to_json()  # a report without one is what it was before there were any


def test_an_anchor_file_of_another_trace_is_refused(tmp_path: Path, tiny_draft: Path) -> None:
    directory = write_tiny_trace(tmp_path / "trace", tiny_draft)
    trace = TargetTrace.open(directory)
    assert trace.anchor is None
    (directory / ANCHOR_NAME).write_text(fitting(trace_sha256=trace.sha256).to_json())
    assert trace.anchor is not None
    (directory / ANCHOR_NAME).write_text(fitting().to_json())
    with pytest.raises(TraceError, match=r"anchor\.json: belongs to another trace"):
        assert trace.anchor
    (directory / ANCHOR_NAME).write_text("{}")
    with pytest.raises(QuarkEagleError, match=r"It is not a"):
        assert trace.anchor
