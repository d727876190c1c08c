from __future__ import annotations

from xml.etree import ElementTree

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase

from quark_eagle.documents.verdict import Verdict
from quark_eagle.reporting.junit import to_junit
from tests.reports import AT_PAR, report, verdict, verdict_on


def cases(found: Verdict) -> dict[str, TestCase]:
    (suite,) = JUnitXml.fromstring(to_junit(found).encode())
    return {case.name: case for case in suite}


def test_a_regression_is_a_failure_and_what_was_not_decided_an_error() -> None:
    assert isinstance(cases(verdict("fail"))["verdict"].result[0], Failure)
    for name, kind in (("inconclusive", "inconclusive"), ("not evaluated", "unusable")):
        (result,) = cases(verdict(name))["verdict"].result
        assert (type(result), result.type) == (Error, kind)


def test_there_is_a_case_for_every_category_that_gates_and_for_no_other() -> None:
    assert set(cases(verdict("pass"))) == {"verdict"}
    found = cases(verdict("a category fails"))
    assert set(found) == {"verdict", "category coding", "category math"}
    assert not found["category coding"].result
    assert isinstance(found["category math"].result[0], Failure)
    assert "math: FAIL: τ changes by" in found["category math"].result[0].message


def test_a_category_of_unusable_evidence_is_skipped_and_never_passed() -> None:
    found = cases(verdict("dead baseline"))
    assert isinstance(found["verdict"].result[0], Error)
    assert isinstance(found["category math"].result[0], Skipped)


def test_the_causes_of_a_collapse_are_in_the_failure() -> None:
    (result,) = cases(verdict("collapse"))["verdict"].result
    assert result.text.startswith("1. a module that was kept (fc, lm_head)")


def test_the_numbers_are_properties() -> None:
    (suite,) = JUnitXml.fromstring(to_junit(verdict("pass")).encode())
    properties = {each.name: each.value for each in suite.properties()}
    assert properties["exit_code"] == "0"
    assert float(properties["baseline_mean_acceptance_length"]) > 1.9


def test_names_that_xml_cannot_hold_leave_a_file_that_can_be_read() -> None:
    named = verdict_on(
        report(AT_PAR, categories=("a\x1b[31m<&>", 'b"]]>\ud800'.encode("utf-8", "replace").decode())),
        category_margin=0.05,
    )
    names = [case.get("name", "") for case in ElementTree.fromstring(to_junit(named)).iter("testcase")]
    assert names[1] == "category a\ufffd[31m<&>"
    assert names[2].startswith('category b"]]>')
