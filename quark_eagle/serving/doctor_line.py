"""One line of a diagnosis: ok, warning or error, what was found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One finding.

    Attributes:
        subject: what was looked at.
        found: what there is, and what it means for the job.
        remedy: what to do about it; empty where it is ok.
    """

    level: Level
    subject: str
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """As a JSON object."""
        return {"level": self.level, "subject": self.subject, "found": self.found, "remedy": self.remedy}


def ok(subject: str, found: str) -> Line:
    """Nothing to do."""
    return Line(level="ok", subject=subject, found=found)


def warning(subject: str, found: str, remedy: str) -> Line:
    """The job can be done, or part of it; the user should know."""
    return Line(level="warning", subject=subject, found=found, remedy=remedy)


def error(subject: str, found: str, remedy: str) -> Line:
    """The job cannot be done so."""
    return Line(level="error", subject=subject, found=found, remedy=remedy)
