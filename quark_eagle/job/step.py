"""Step: one command of a job, what it reads and what it writes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command line of this tool.

    Attributes:
        name: unique in a job: ``trace``, ``calibration-trace``, ``quantize`` …
        heading: what it is for, as a sentence.
        arguments: after ``quark-eagle``, ``--overwrite`` left out.
        reads: paths of the files and directories whose content decides what it does.
        secrets: paths of the files whose content is never hashed: when they were changed counts.
        variables: of the environment, whose values decide it too.
        writes: paths that are there once it has ended well.
        resumes: whether its unfinished output is continued by the same command.
        goes_on_after: exit codes after which the job goes on all the same.
        next: what to do if it says no or cannot say, in a sentence for each of these exit codes.
    """

    name: str
    heading: str
    arguments: tuple[str, ...]
    reads: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    resumes: bool = False
    goes_on_after: tuple[int, ...] = (0,)
    next: tuple[tuple[int, str], ...] = ()

    @property
    def command(self) -> str:
        """As a person would type it."""
        return shlex.join(("quark-eagle", *self.arguments))

    def advice(self, exit_code: int) -> str:
        """What to do about an exit code; empty where the command's own message says all."""
        return dict(self.next).get(exit_code, "")
