"""A served measurement on its way to a verdict: what makes it unusable, its interval, and how it is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quark_eagle.documents.baseline import BaselineReport
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.served import LeftOut
from quark_eagle.errors import QuarkEagleError, UsageError
from quark_eagle.parity.bca import bca
from quark_eagle.parity.explain import explain
from quark_eagle.parity.gate import gate
from quark_eagle.parity.measured_with import require_measured
from quark_eagle.parity.paired import Conversations, change, paired_difference
from quark_eagle.parity.served.fitness import unfit
from quark_eagle.parity.verdict import NOT_ANCHORED, SERVED, Rules, judge
from quark_eagle.reporting.markdown import to_markdown
from quark_eagle.reporting.wording import facts, how_measured
from tests.reports import AT_PAR, lossless, passes, report, served_report, verdict, verdict_on


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
    with pytest.raises(UsageError, match="these counts were served"):
        gate(served_report(AT_PAR), Rules(bias=NOT_ANCHORED.model_copy(update={"bound": 0.01})), parity=Path("p.json"))


@pytest.mark.parametrize("name", ["serving noise", "not lossless", "requests failed"])
def test_what_makes_a_served_run_unusable_is_told(name: str) -> None:
    found = verdict(name)
    assert (found.outcome, found.exit_code) == ("unusable", 5)
    said = {
        "serving noise": "Serving differs from itself by",
        "not lossless": "The engine is not lossless: 1 of 100 answers with the candidate",
        "requests failed": "2 of 100 requests to the BF16 draft, 2 of 100 requests to the candidate",
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
    served = served_report(AT_PAR, passes=passes(failed)).served
    assert served is not None
    assert (unfit(served, None, 0.01) is None) is usable


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


def cells(num: int, noise: float, rng: np.random.Generator, block: float = 0.0, loss: float = 0.0) -> np.ndarray:
    """[C, 3, 4]: 128 tokens in each cell, in rounds that vary by conversation, block and cell."""
    conversation = rng.normal(0, 0.03, (num, 1))
    arms = []
    for sign, lost in ((-0.5, 0.0), (0.5, loss)):  # symmetric, so that the true change is that of `loss` alone
        log_tau = np.log(1.8 * (1 - lost)) + sign * conversation + rng.normal(0, block, (1, 3))
        rounds = np.rint(12800 / np.exp(log_tau + rng.normal(0, noise, (num, 3)))).astype(np.int64)
        arms += [np.full((num, 3), 12800, dtype=np.int64), rounds]
    return np.stack(arms, axis=-1)


def crossed(made: np.ndarray) -> Conversations:
    return Conversations(
        counts=made.sum(axis=1), strata=np.zeros(len(made), dtype=np.int64), num_prompts=len(made), by_block=made
    )


def test_blocks_that_repeat_each_other_add_nothing_to_the_interval() -> None:
    rng = np.random.default_rng(0)
    one = cells(80, 0.05, rng)[:, :1]
    same = np.repeat(one, 3, axis=1)
    first = bca([one[:, 0]], change, 0.9, num_resamples=4999, seed=1)
    second = bca([same], change, 0.9, num_resamples=4999, seed=1)
    assert first is not None
    assert second == pytest.approx(first, abs=3e-4)


def test_blocks_that_differ_widen_it() -> None:
    rng = np.random.default_rng(0)
    made = cells(200, 0.02, rng, block=0.01)
    found = paired_difference(crossed(made), 0.9, num_resamples=1999)
    plain = Conversations(counts=made.sum(axis=1), strata=np.zeros(len(made), dtype=np.int64), num_prompts=len(made))
    without = paired_difference(plain, 0.9, num_resamples=1999)
    assert found is not None
    assert without is not None
    assert found.interval is not None
    assert without.interval is not None
    assert found.interval.method.startswith("BCa bootstrap, blocks × conversations")
    assert found.interval.high - found.interval.low > 1.3 * (without.interval.high - without.interval.low)
    assert found.estimate == without.estimate


@pytest.mark.parametrize("block", [0.0, 0.003])
def test_a_served_interval_errs_no_more_often_than_it_says(block: float) -> None:
    """At a true loss of the margin, each tail on its own: 5 % of 200 runs, and three standard errors of that."""
    rng, margin, runs = np.random.default_rng(7), 0.01, 200
    passed = failed = 0
    for _ in range(runs):
        found = paired_difference(crossed(cells(64, 0.03, rng, block, loss=margin)), 0.9, num_resamples=499)
        assert found is not None
        assert found.interval is not None
        passed += found.interval.low > -margin
        failed += found.interval.high < -margin
    bar = runs * 0.05 + 3 * (runs * 0.05 * 0.95) ** 0.5
    assert passed <= bar
    assert failed <= bar
