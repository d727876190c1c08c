"""A served measurement on its way to a verdict: what makes it unusable, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.documents.baseline import BaselineReport
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.served import LeftOut, Noise, Served
from quark_eagle.documents.verdict import STATED
from quark_eagle.errors import QuarkEagleError, UsageError
from quark_eagle.parity.anchored import SERVED
from quark_eagle.parity.explain import explain
from quark_eagle.parity.gate import gate
from quark_eagle.parity.measured_with import require_measured
from quark_eagle.parity.served.fitness import unfit
from quark_eagle.parity.verdict import NOT_ANCHORED, Rules, judge
from quark_eagle.reporting.markdown import to_markdown
from quark_eagle.reporting.wording import facts, how_measured
from tests.reports import AT_PAR, lossless, passes, report, served_report, verdict, verdict_on

QUIET = Noise(
    num_blocks=3,
    block_changes=[0.0, 0.0, 0.0],
    standard_error=0.0,
    degrees_of_freedom=4,
    confidence=0.9,
    low=0.0,
    high=0.0,
)


def written(measured: ParityReport, path: Path) -> ParityReport:
    path.write_text(measured.to_json(), encoding="utf-8")
    return ParityReport.read(path)


def test_a_served_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = served_report(AT_PAR)
    assert written(made, tmp_path / "parity.json") == made


def test_a_replayed_report_has_none_of_it_and_is_still_read(tmp_path: Path) -> None:
    """Files of earlier releases hold neither of these keys, nor how they were measured."""
    content = json.loads(report(AT_PAR).to_json())
    assert "served" not in content
    assert "blocks" not in content["prompts"][0]["baseline"]
    del content["provenance"]["measured_by"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert ParityReport.read(tmp_path / "old.json").provenance.measured_by == "replay"


@pytest.mark.parametrize(
    ("change_it", "says"),
    [
        (lambda prompt: prompt["baseline"]["blocks"].pop(), "counts of 2 blocks, but 3 were served"),
        (lambda prompt: prompt["baseline"].pop("blocks"), "counts of None blocks, but 3 were served"),
        (lambda prompt: prompt["candidate"]["blocks"][1]["walk"].__setitem__(0, 7), "accepted \\+ rounds is not 100"),
        (lambda prompt: prompt["candidate"]["walk"].__setitem__(0, 7), "the walk is not the sum of its blocks"),
    ],
)
def test_counts_that_contradict_their_blocks_are_refused(tmp_path: Path, change_it: object, says: str) -> None:
    content = json.loads(served_report(AT_PAR).to_json())
    change_it(content["prompts"][0])  # type: ignore[operator]
    (tmp_path / "parity.json").write_text(json.dumps(content))
    with pytest.raises(QuarkEagleError, match=says):
        ParityReport.read(tmp_path / "parity.json")


def test_served_counts_have_no_error_of_replay() -> None:
    assert verdict("served").bias == SERVED
    assert verdict("pass").bias == NOT_ANCHORED
    stated = NOT_ANCHORED.model_copy(update={"bound": 0.01, "source": STATED})
    with pytest.raises(UsageError, match="these counts were served"):
        gate(served_report(AT_PAR), Rules(bias=stated), parity=Path("p.json"))


@pytest.mark.parametrize("name", ["serving noise", "not lossless", "requests failed"])
def test_what_makes_a_served_run_unusable_is_told(name: str) -> None:
    found = verdict(name)
    assert (found.outcome, found.exit_code) == ("unusable", 5)
    said = {
        "serving noise": "Serving differs from itself by",
        "not lossless": "The engine is not lossless: 1 of 100 answers with the candidate",
        "requests failed": "6 of 300 requests to the BF16 draft, 6 of 300 requests to the candidate",
    }
    assert said[name] in found.reason


def test_a_real_difference_names_prompt_place_tokens_and_margin() -> None:
    assert (
        "prompt prompt-7, position 12, token 6 for 5, which the target preferred by 2.000"
        in verdict("not lossless").reason
    )
    unknown = verdict_on(served_report(AT_PAR, lossless=[lossless(None)]))
    assert "by an unknown margin" in unknown.reason


@pytest.mark.parametrize(
    ("failed", "usable"),
    [
        ({}, True),
        ({"baseline": 1, "candidate": 1}, True),
        ({"baseline": 1}, False),
        ({"candidate": 1}, False),
        ({"none": 1}, True),
        ({"none": 2}, False),
        ({"baseline": 2, "candidate": 1}, False),
    ],
)
def test_failures_are_borne_up_to_one_percent_and_never_in_one_arm_alone(failed: dict[str, int], usable: bool) -> None:
    served = served_report(AT_PAR[:100], passes=passes(failed)).served
    assert served is not None
    assert (unfit(served, QUIET, 0.01, 100) is None) is usable


@pytest.mark.parametrize(
    "cut",
    [
        lambda served: {"passes": []},
        lambda served: {"passes": served.passes[:-1]},
        lambda served: {"passes": [*served.passes, served.passes[-1]]},
        lambda served: {"num_blocks": 1},
        lambda served: {"notes": []},  # the target was asked alone, and nothing is said of its answers
    ],
)
def test_a_report_that_was_cut_is_judged_by_nobody(cut: Callable[[Served], dict[str, Any]]) -> None:
    whole = served_report(AT_PAR)
    assert whole.served is not None
    found = judge(whole.model_copy(update={"served": whole.served.model_copy(update=cut(whole.served))}))
    assert (found.outcome, found.rule) == ("unusable", "evidence")


def test_prompts_that_are_neither_counted_nor_left_out_make_a_choice() -> None:
    found = judge(served_report(AT_PAR[:100], passes=passes({}, num_requests=101)))
    assert (found.outcome, found.rule) == ("unusable", "evidence")
    assert "100 prompts are counted and 0 left out" in found.reason


def test_noise_is_held_against_the_margin() -> None:
    noisy = served_report(AT_PAR, drift=(-1, 0, 1))
    assert judge(noisy, Rules(margin=0.01, num_resamples=999)).rule == "serving noise"
    assert judge(noisy, Rules(margin=0.20, num_resamples=999)).outcome == "pass"


def test_nothing_left_of_a_served_run_says_why() -> None:
    left = LeftOut(id="p", category="coding", arm="candidate", block=0, why="transport: gone")
    found = judge(served_report((), left_out=[left]))
    assert (found.outcome, found.rule) == ("unusable", "nothing evaluated")
    assert "1 prompts lack counts of a draft in some block. First: prompt p, candidate: transport: gone" in found.reason


def test_the_verdict_says_that_it_was_served_and_how_noisy() -> None:
    found = verdict("served")
    assert found.evidence is not None
    assert how_measured(found.evidence.provenance) == (
        "Counted while serving: vLLM 0.32.0 on x86_64. Acceptance only, not latency."
    )
    told = dict(facts(found))
    assert told["replay's own error"] == "none: served, not replayed"
    assert "+0.00% … +0.00% between two arms of the same draft (A/A, 90% interval" in told["serving's own noise"]
    assert "Counted while serving" in to_markdown(found)
    assert "Measured by replay" in to_markdown(verdict("pass"))


def test_a_served_baseline_is_not_stored() -> None:
    with pytest.raises(QuarkEagleError, match="serving counts anew in every run"):
        BaselineReport.of(served_report(AT_PAR))


def test_served_drafts_cannot_be_shown_proposal_by_proposal(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="drafts were served"):
        require_measured(served_report(AT_PAR), tmp_path, tmp_path, tmp_path)


def test_an_answer_twice_as_long_is_no_loss() -> None:
    """Explained in rounds for as many tokens: the candidate's answers are longer here, and cost no more a token."""
    made = served_report(AT_PAR[:64])
    longer = [
        prompt.model_copy(
            update={"candidate": prompt.baseline.model_copy(update={"walk": [2 * n for n in prompt.baseline.walk]})}
        )
        for prompt in made.prompts
    ]
    found = explain(made.model_copy(update={"prompts": longer})).overall
    assert (found.num_drafts_lost, found.num_drafts_gained) == (0, 0)
    assert found.change == pytest.approx(0)
    assert found.rounds.candidate_num_drafts == 2 * found.rounds.baseline_num_drafts
