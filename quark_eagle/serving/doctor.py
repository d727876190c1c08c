"""Doctor: facts about a machine and a job → lines that say ok, warning or error, each with its remedy.

Data in, lines out: a machine that we do not have is tested as well as the one at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quark_eagle.serving.doctor_kernels import attention_lines
from quark_eagle.serving.doctor_line import Level, Line
from quark_eagle.serving.doctor_room import TraceSize, room_lines
from quark_eagle.serving.doctor_software import gpu_lines, software_lines
from quark_eagle.serving.machine import Machine
from quark_eagle.serving.recipes import Job

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All findings about one machine."""

    machine: Machine
    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing forbids the job."""
        return not any(line.level == "error" for line in self.lines)

    def count(self, level: Level) -> int:
        """Lines of a level."""
        return sum(line.level == level for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        machine = self.machine
        return {
            "schema_version": SCHEMA_VERSION,
            "ok": self.ok,
            "num_errors": self.count("error"),
            "num_warnings": self.count("warning"),
            "arch": machine.arch,
            "python": machine.executable,
            "versions": dict(_versions(machine)),
            "lines": [line.to_json() for line in self.lines],
        }


def _versions(machine: Machine) -> Mapping[str, str]:
    found = {"python": machine.python, "torch": machine.torch, "rocm": machine.rocm, **machine.packages}
    return {name: version for name, version in found.items() if version is not None}


def diagnose(
    machine: Machine,
    own: Mapping[str, str],
    *,
    gpu: str | None = None,
    job: Job | None = None,
    trace: TraceSize | None = None,
) -> Diagnosis:
    """What this machine can do of the job, and what it lacks.

    Args:
        machine: with the engine's Python on it.
        own: versions in the Python that runs quark-eagle: quark, transformers.
        gpu: that must be there, a key of `GPU_ARCHES`; None: any, or none.
        job: target and draft, if they are known.
        trace: that will be recorded.
    """
    lines = [*gpu_lines(machine, gpu), *software_lines(machine, own)]
    if job is not None:
        lines += attention_lines(machine, job)
        lines += room_lines(machine, job, trace or TraceSize())
    return Diagnosis(machine=machine, lines=tuple(lines))
