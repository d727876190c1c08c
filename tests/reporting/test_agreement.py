"""All renderings of one verdict say the same: no format can pass what another fails."""

from __future__ import annotations

import json

import pytest
from junitparser import Error, Failure, JUnitXml

from quark_eagle.cli.exit_codes import ExitCode
from quark_eagle.cli.verdict_output import show_verdict
from quark_eagle.documents.verdict import EXIT_CODES, Rule, Verdict
from quark_eagle.reporting.github import annotation, step_outputs
from quark_eagle.reporting.junit import to_junit
from quark_eagle.reporting.markdown import to_markdown
from tests.reports import OUTCOMES, VERDICTS, verdict

TITLE = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE", "unusable": "NOT EVALUATED"}
EXIT = {"pass": 0, "fail": 3, "inconclusive": 4, "unusable": 5}
LEVEL = {"pass": "notice", "fail": "error", "inconclusive": "warning", "unusable": "error"}


def junit_says(found: Verdict) -> str:
    """The outcome that a JUnit reader comes to, by the marks alone."""
    (suite,) = JUnitXml.fromstring(to_junit(found).encode())
    (case,) = (case for case in suite if case.name == "verdict")
    if not case.result:
        return "pass"
    (result,) = case.result
    return "fail" if isinstance(result, Failure) else str(result.type) if isinstance(result, Error) else "skipped"


@pytest.mark.parametrize("name", VERDICTS)
def test_every_rendering_says_the_outcome_and_its_exit_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, outcome = verdict(name), OUTCOMES[name]
    show_verdict(found)
    outputs = dict(line.split("=", 1) for line in step_outputs(found).splitlines())
    document = json.loads(found.to_json())
    assert found.outcome == document["outcome"] == outputs["outcome"] == junit_says(found) == outcome
    assert found.exit_code == document["exit_code"] == int(outputs["exit-code"]) == EXIT[outcome]
    assert capsys.readouterr().out.startswith(f"{TITLE[outcome]}: ")
    assert to_markdown(found).startswith(f"## {TITLE[outcome]}: ")
    assert annotation(found).startswith(f"::{LEVEL[outcome]} title={TITLE[outcome]}%3A ")


@pytest.mark.parametrize("name", VERDICTS)
def test_the_numbers_are_the_same_everywhere(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = verdict(name)
    show_verdict(found)
    for text in (capsys.readouterr().out, to_markdown(found)):
        if found.difference is not None:
            assert f"{found.difference.estimate:+.2%}" in text
            assert f"{found.difference.baseline_mean_acceptance_length:.3f}" in text
        for category in found.categories:
            assert category.name in text, "a category was dropped"


@pytest.mark.parametrize("name", VERDICTS)
def test_a_junit_file_without_a_mark_is_a_pass_and_nothing_else_is(name: str) -> None:
    """What a CI system does: it counts failures and errors, and lets the rest through."""
    xml = JUnitXml.fromstring(to_junit(verdict(name)).encode())
    assert ((xml.failures or 0) + (xml.errors or 0) == 0) == (OUTCOMES[name] == "pass")


def test_the_process_ends_with_the_documents_code() -> None:
    assert EXIT_CODES == EXIT
    assert set(EXIT.values()) <= set(map(int, ExitCode))


def test_every_outcome_and_every_rule_but_one_is_among_these_verdicts() -> None:
    """That two methods disagree takes counts made for it: see the tests of the verdict."""
    assert {verdict(name).outcome for name in VERDICTS} == set(EXIT)
    assert {verdict(name).rule for name in VERDICTS} == set(Rule.__args__) - {"methods disagree"}  # type: ignore[attr-defined]
