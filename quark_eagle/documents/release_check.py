"""What `quark-eagle verify-release --json` prints, schema version 1: each check of a bundle, and all that it found."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from quark_eagle.documents.base import Document

RELEASE_CHECK_SCHEMA_VERSION = 1

Status = Literal["ok", "not ok", "not checked"]
Outcome = Literal["as released", "not as released", "not checked"]
EXIT_CODES: dict[Outcome, int] = {"as released": 0, "not as released": 3, "not checked": 5}

Name = Literal[
    "files",
    "signature",
    "evidence",
    "binding",
    "engine",
    "verdict",
    "weights",
    "record",
    "prose",
    "bom",
    "source",
    "trace",
    "arch",
]
"""In the order in which they are made."""


class Check(Document):
    """One thing that was looked at, or not.

    Attributes:
        asked: whether an option asked for it. What was asked for and could not be checked is not passed over.
        says: what held, or why it was not looked at, in a sentence.
        differences: from what was released, a sentence each; of `not ok` at least one, else none.
    """

    name: Name
    status: Status
    asked: bool
    says: str
    differences: list[str]

    @model_validator(mode="after")
    def _differences_are_what_is_not_ok(self) -> Check:
        if bool(self.differences) != (self.status == "not ok"):
            raise ValueError(f"{self.name} is {self.status} with {len(self.differences)} differences")
        return self


class ReleaseCheck(Document):
    """Is a bundle as it was released?

    Attributes:
        bundle: as it was named.
        release: its name; null where the evidence cannot be read.
        made_by: version of quark-eagle that made it; null as `release`.
        checked_by: version that checked it.
        overrides: rules that were set aside for the release, as it says itself.
        beside: files that git or the hub put there; no part of the release, and not looked at.
        outcome: `not as released` if one check is not ok; else `not checked` if something that was asked for could not
            be; what nobody asked for may be `not checked`.
    """

    schema_version: Literal[1]
    bundle: str
    release: str | None
    made_by: str | None
    checked_by: str
    overrides: list[str]
    beside: list[str]
    outcome: Outcome
    exit_code: int
    checks: list[Check]

    @model_validator(mode="after")
    def _follows_from_the_checks(self) -> ReleaseCheck:
        if self.outcome != outcome_of(self.checks) or self.exit_code != EXIT_CODES[self.outcome]:
            raise ValueError(f"outcome {self.outcome} and exit code {self.exit_code} do not follow from the checks")
        return self


def outcome_of(checks: list[Check]) -> Outcome:
    """What all checks together say."""
    if any(check.status == "not ok" for check in checks):
        return "not as released"
    if any(check.status == "not checked" and check.asked for check in checks):
        return "not checked"
    return "as released"
