"""GitHub Actions: an annotation of the run, and outputs that later steps read.

The step's summary is `quark_eagle.reporting.markdown`. The syntax and its escapes are those of GitHub's "Workflow
commands for GitHub Actions" and of `escapeData` and `escapeProperty` in actions/toolkit.
"""

from __future__ import annotations

from typing import Literal

from quark_eagle.documents.verdict import Outcome, Verdict
from quark_eagle.reporting.wording import TITLES, subject

LEVELS: dict[Outcome, Literal["notice", "warning", "error"]] = {
    "pass": "notice",
    "inconclusive": "warning",
    "fail": "error",
    "unusable": "error",
}


def annotation(verdict: Verdict) -> str:
    """The workflow command that annotates the run: one line, whatever the reason holds."""
    title = f"{TITLES[verdict.outcome]}: {subject(verdict)}"
    return f"::{LEVELS[verdict.outcome]} title={_property(title)}::{_data(verdict.reason)}"


def step_outputs(verdict: Verdict) -> str:
    """Lines for the file $GITHUB_OUTPUT: words and numbers only, so that none can start a line of its own.

    A number that there is none of is left empty.
    """
    found = verdict.difference
    interval = found.interval if found else None
    values: dict[str, object] = {
        "outcome": verdict.outcome,
        "exit-code": verdict.exit_code,
        "tau-baseline": found.baseline_mean_acceptance_length if found else "",
        "tau-candidate": found.candidate_mean_acceptance_length if found else "",
        "change": found.estimate if found else "",
        "interval-low": interval.low if interval else "",
        "interval-high": interval.high if interval else "",
        "num-conversations": found.num_conversations if found else "",
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _data(text: str) -> str:
    r"""Escaped for a command's message.

    >>> _data("5%\n::error::")
    '5%25%0A::error::'
    """
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escaped for a command's property, which a colon or a comma would end."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
