from __future__ import annotations

import pytest

from quark_eagle.documents.parity import ParityReport, StepBytes
from quark_eagle.errors import UsageError
from quark_eagle.opening import open_comparison
from quark_eagle.worth import PUBLISHED_GAIN, worth
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace

BF16 = StepBytes(layers=60, head=40, embedding=0, first_step=20)
FP8 = StepBytes(layers=30, head=40, embedding=0, first_step=20)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ParityReport:
    """A draft beside itself at k = 3; the tests say what a step reads."""
    directory = tmp_path_factory.mktemp("worth")
    draft = write_tiny_draft(directory / "draft", draft_vocab=8)
    return open_comparison(draft, draft, write_tiny_trace(directory / "trace", draft)).run()


def reading(report: ParityReport, before: StepBytes, after: StepBytes) -> ParityReport:
    arms = {"baseline": before, "candidate": after}
    return report.model_copy(
        update={name: getattr(report, name).model_copy(update={"step_bytes": read}) for name, read in arms.items()}
    )


def test_the_gain_is_that_of_a_round_of_k_draft_steps_and_one_target_step(report: ParityReport) -> None:
    found = worth(reading(report, BF16, FP8), margin=0.01, target_step_ms=7.0, draft_step_ms=1.0)
    # Before: 7 + 3 steps of 100 bytes and fc's 20 = 10.2; after: 7 + 3 of 70 and fc's 20 = 9.3.
    assert found.gain == pytest.approx((10.2 / 9.3 - 1,) * 2)
    assert found.break_even_loss == pytest.approx((1 - 9.3 / 10.2,) * 2)
    assert found.head_share == pytest.approx(40 / 70)
    assert "100 ms" not in found.sentence


def test_losing_the_break_even_of_tau_leaves_the_throughput_as_it_was(report: ParityReport) -> None:
    found = worth(reading(report, BF16, FP8), margin=0.01, target_step_ms=7.0, draft_step_ms=1.0)
    assert found.gain is not None
    assert found.break_even_loss is not None
    assert (1 + found.gain[0]) * (1 - found.break_even_loss[0]) == pytest.approx(1.0)


@pytest.mark.parametrize(("margin", "half"), [(0.04, True), (0.06, False)])
def test_a_margin_is_held_against_half_of_the_gain(report: ParityReport, margin: float, half: bool) -> None:
    found = worth(reading(report, BF16, FP8), margin=margin, target_step_ms=7.0, draft_step_ms=1.0)
    assert found.margin_is_at_most_half is half
    assert ("at most half" if half else "more than half") in found.sentence


def test_without_times_the_published_figures_serve_and_are_named(report: ParityReport) -> None:
    found = worth(reading(report, BF16, FP8), margin=0.01)
    assert found.gain == PUBLISHED_GAIN
    assert "no controlled comparison" in found.sentence
    assert found.margin_is_at_most_half is False


def test_a_candidate_that_reads_as_much_gains_nothing(report: ParityReport) -> None:
    found = worth(reading(report, BF16, BF16), margin=0.01)
    assert found.gain == (0.0, 0.0)
    assert "gains nothing" in found.sentence


@pytest.mark.parametrize(
    "times", [{"target_step_ms": 7.0}, {"draft_step_ms": 1.0}, {"target_step_ms": 0.0, "draft_step_ms": 1.0}]
)
def test_one_time_without_the_other_says_nothing(report: ParityReport, times: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="both were needed"):
        worth(report, margin=0.01, **times)
