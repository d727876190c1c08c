"""JUnit XML: one suite, with a test case for the verdict and one for every category that gates.

JUnit has no third outcome. A regression is a `failure`: it was shown. Everything that was not decided is an `error`
with its own type: `unusable` (exit 5) and `inconclusive` (exit 4). An inconclusive verdict is not `skipped`, because CI
systems count a skipped test as one that did not fail, and the draft would ship; nor is it a `failure`, because no loss
was shown. A category is `skipped` only where the whole could not be evaluated, beside the error that says so.
"""

from __future__ import annotations

import re

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from quark_eagle.documents.verdict import Difference, Outcome, Verdict
from quark_eagle.reporting.wording import TITLES, bounds, category_outcome, headline, percent, subject

SUITE = "quark-eagle gate"

# XML 1.0 has no characters but these, not even escaped; a path or a category may hold others.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(verdict: Verdict) -> str:
    """The verdict as the text of a JUnit XML file."""
    suite = TestSuite(SUITE)
    suite.timestamp = verdict.created
    for name, value in _properties(verdict).items():
        suite.add_property(name, _text(value))
    cases = [_case("verdict", verdict.outcome, headline(verdict), _details(verdict))]
    for category in verdict.categories:
        if category.margin is None:
            continue
        change = "no change to be measured" if category.difference is None else _change(category.difference)
        outcome = category_outcome(verdict, category)
        message = f"{category.name}: {TITLES[outcome] if outcome else 'not looked at'}: {change}. {category.note}"
        cases.append(_case(f"category {category.name}", outcome, message.rstrip(), ""))
    for case in cases:
        case.classname = _text(subject(verdict))
    suite.add_testcases(cases)
    xml = JUnitXml()
    xml.add_testsuite(suite)
    text: str = xml.tostring().decode("utf-8")  # type: ignore[no-untyped-call]
    return f"{text.rstrip()}\n"


def _case(name: str, outcome: Outcome | None, message: str, details: str) -> TestCase:
    case = TestCase(_text(name), time=0.0)
    if outcome == "pass":
        case.system_out = _text(message)
        return case
    kind = {"fail": Failure, "inconclusive": Error, "unusable": Error, None: Skipped}[outcome]
    result = kind(_text(message), type_=outcome or "not looked at")
    if details:
        result.text = _text(details)
    case.result = [result]
    return case


def _properties(verdict: Verdict) -> dict[str, str]:
    """Numbers that a dashboard may want beside the outcome."""
    found = {"outcome": verdict.outcome, "exit_code": str(verdict.exit_code), "margin": f"{verdict.margin:g}"}
    if verdict.difference is not None:
        found["baseline_mean_acceptance_length"] = f"{verdict.difference.baseline_mean_acceptance_length:.6f}"
        found["candidate_mean_acceptance_length"] = f"{verdict.difference.candidate_mean_acceptance_length:.6f}"
        found["estimate"] = f"{verdict.difference.estimate:.6f}"
        found["interval"] = bounds(verdict.difference.interval)
    if verdict.evidence is not None:
        found["parity_sha256"] = verdict.evidence.parity_sha256
    return found


def _details(verdict: Verdict) -> str:
    return "\n".join(f"{place}. {cause}." for place, cause in enumerate(verdict.causes, 1))


def _change(found: Difference) -> str:
    return f"τ changes by {percent(found.estimate)}, interval {bounds(found.interval)}"


def _text(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
