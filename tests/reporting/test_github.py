from __future__ import annotations

import pytest

from quark_eagle.reporting.github import annotation, step_outputs
from tests.reports import AT_PAR, VERDICTS, report, verdict, verdict_on


@pytest.mark.parametrize("name", VERDICTS)
def test_an_annotation_is_one_command_on_one_line(name: str) -> None:
    command = annotation(verdict(name))
    assert len(command.splitlines()) == 1
    assert command.count("::error") + command.count("::warning") + command.count("::notice") == 1 + (
        name == "not evaluated"  # whose reason holds one, further on in the line, where it is text
    )


def test_what_would_end_a_command_or_a_property_is_escaped() -> None:
    assert annotation(verdict("not evaluated")).endswith("one | two%0A  - 5%25 ::error::")
    named = annotation(verdict_on(report(AT_PAR, name="a,b::c\r\n::set-output name=x::y%")))
    assert named.startswith(
        "::notice title=PASS%3A a%2Cb%3A%3Ac%0D%0A%3A%3Aset-output name=x%3A%3Ay%25 against draft::"
    )


@pytest.mark.parametrize("name", VERDICTS)
def test_outputs_are_a_line_each_and_hold_no_text_of_a_stranger(name: str) -> None:
    found = verdict(name)
    values = dict(line.split("=") for line in step_outputs(found).splitlines())
    assert values.pop("outcome") == found.outcome
    assert [value for value in values.values() if value and not isinstance(float(value), float)] == []
    assert bool(values["change"]) == (found.difference is not None)
