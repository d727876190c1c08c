from __future__ import annotations

import pytest

from quark_eagle.reporting.markdown import escape, fenced, to_markdown
from tests.reports import AT_PAR, VERDICTS, report, verdict, verdict_on


@pytest.mark.parametrize("name", VERDICTS)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(name: str) -> None:
    blocks = [block for block in to_markdown(verdict(name)).split("\n\n") if block.startswith("|")]
    for block in blocks:
        widths = {line.replace(r"\|", "").count("|") for line in block.splitlines()}
        assert len(widths) == 1, block
    assert len(blocks) == (3 if verdict(name).difference else 0)


def test_a_name_is_shown_and_never_markup() -> None:
    hostile = report(AT_PAR, categories=("a|b", "<img src=x>@team [x](y) `z`\n# h"), name="**fp8**")
    text = to_markdown(verdict_on(hostile))
    assert r"| a\|b |" in text
    assert "<img" not in text
    assert "&lt;img src=x&gt;@&#8203;team \\[x\\](y) \\`z\\` \\# h" in text
    assert text.startswith(r"## PASS: \*\*fp8\*\* against draft")


def test_an_error_keeps_its_lines_whatever_it_holds() -> None:
    assert "```text\nparity.json: 2 problems.\n  - one | two\n" in to_markdown(verdict("not evaluated"))
    assert fenced("a ```` b").startswith("`````text\n")


def test_escaped_text_is_one_line() -> None:
    assert "\n" not in escape("a\r\nb\n\nc")


def test_an_inconclusive_verdict_says_how_many_conversations_would_decide() -> None:
    found = verdict("inconclusive")
    assert found.power is not None
    text = to_markdown(found)
    assert f"about {found.power.num_if_unchanged}" in text.replace(" ", " ")
    assert "quark-eagle plan-prompts parity.json --margin 0.01" in text
