from __future__ import annotations

import shlex

import pytest

from quark_eagle.cli.app import COMMANDS
from quark_eagle.documents.parity import StoredBaseline
from quark_eagle.reporting import wording
from tests.reports import AT_PAR, UNCLEAR, VERDICTS, report, verdict, verdict_on


@pytest.mark.parametrize("name", VERDICTS)
def test_the_next_command_exists(name: str) -> None:
    command = wording.next_command(verdict(name))
    if command is None:
        assert verdict(name).outcome in ("pass", "unusable")
    else:
        program, verb, *_ = shlex.split(command)
        assert program == "quark-eagle"
        assert verb in COMMANDS


def test_the_next_command_can_be_pasted_into_a_shell() -> None:
    command = wording.next_command(verdict_on(report(UNCLEAR), parity="my reports/$(x).json"))
    assert command is not None
    assert shlex.split(command)[2] == "my reports/$(x).json"


def test_where_a_category_is_undecided_its_margin_is_planned_for() -> None:
    assert wording.next_command(verdict("a category is inconclusive")) == (
        "quark-eagle plan-prompts parity.json --margin 0.05"
    )


def test_a_category_without_a_comparison_keeps_its_row_and_says_why() -> None:
    measured = report(AT_PAR)
    gone = measured.prompts[0].model_copy(
        update={
            "category": "empty",
            "num_generated_tokens": 1,
            **dict.fromkeys(
                ("baseline", "candidate"), measured.prompts[0].baseline.model_copy(update={"walk": [0] * 4})
            ),
        }
    )
    found = verdict_on(measured.model_copy(update={"prompts": [*measured.prompts, gone]}))
    row = next(row for row in wording.category_rows(found) if row[0] == "empty")
    assert row[2:6] == (wording.NOTHING,) * 4
    assert row[-1] == "nothing to propose in its answers"


def test_a_miscast_module_and_a_stored_baseline_are_told() -> None:
    measured = report(AT_PAR)
    stored = StoredBaseline(
        file="ci/baseline.json",
        sha256="0" * 64,
        created="2026-01-02",
        engine="tests",
        arch="x86_64",
        noted=["num_threads: here 1, stored 2"],
    )
    miscast = measured.model_copy(
        update={
            "candidate": measured.candidate.model_copy(update={"miscast": ["fc"]}),
            "provenance": measured.provenance.model_copy(update={"stored_baseline": stored}),
        }
    )
    first, second = wording.warnings(verdict_on(miscast))
    assert "draft-fp8 was computed with fc cast into FP8 without a scale" in first
    assert "ci/baseline.json, measured on 2026-01-02; num_threads: here 1, stored 2." in second


def test_the_draft_acceptance_rate_is_accepted_of_proposed() -> None:
    found = verdict("pass")
    assert found.difference is not None
    proposed = found.difference.baseline_num_drafts * 3
    assert wording.draft_rows(found)[0][-1] == f"{found.difference.baseline_num_accepted_tokens / proposed:.3f}"
