"""Served comparison: two drafts, a target and prompts → a `ParityReport` counted by a real engine."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.served import ServedArmName
from quark_eagle.errors import CheckpointError, QuarkEagleError
from quark_eagle.parity.served.arms import Arms, size_of
from quark_eagle.parity.served.report import Setup, report_of
from quark_eagle.parity.served.schedule import Schedule
from quark_eagle.parity.served.session import Driving, OnTurn, Session
from quark_eagle.parity.side import Side
from quark_eagle.progress import SILENT, Progress
from quark_eagle.serving.engine import Engine
from quark_eagle.trace.prompts import PromptSet


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedComparison:
    """Everything that is decided before a server is started.

    Attributes:
        baseline: the BF16 draft.
        candidate: the draft under comparison.
        engine: that our own servers run; None where all were given.
        arms: their commands; None where all were given.
        given: addresses of running servers by arm.
    """

    baseline: Side
    candidate: Side
    prompts: PromptSet
    num_speculative_tokens: int
    driving: Driving
    schedule: Schedule
    engine: Engine | None = None
    arms: Arms | None = None
    given: Mapping[ServedArmName, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a baseline that is none.

        Raises:
            CheckpointError: it is quantized.
        """
        if self.baseline.checkpoint.is_quantized:
            raise CheckpointError(
                f"{self.baseline.checkpoint.directory}: is quantized, but the baseline is the BF16 draft that the "
                "candidate was made from. Give the BF16 draft first and the FP8 draft second."
            )

    @property
    def num_requests(self) -> int:
        """Of all passes, the one without speculation among them."""
        return len(self.prompts) * sum(len(step) for stage in self.schedule.stages for step in stage.steps)

    @property
    def target_bytes(self) -> int | None:
        """Of the target's weights, loaded anew by every start; None where it is not on this disk."""
        return (size_of(Path(self.arms.base.target)) or None) if self.arms is not None else None

    def session(self, logs: Path, progress: Progress = SILENT) -> Session:
        """Its servers and passes, which have not begun; what they print goes into a directory."""
        return Session(
            engine=self.engine,
            arms=self.arms,
            given=self.given,
            drafts={"baseline": self.baseline, "candidate": self.candidate},
            prompts=self.prompts,
            num_speculative_tokens=self.num_speculative_tokens,
            driving=self.driving,
            logs=logs,
            progress=progress,
        )

    def run(
        self, *, command_line: Sequence[str] = (), progress: Progress = SILENT, on_turn: OnTurn | None = None
    ) -> ParityReport:
        """Serve, count, and put it down. The servers' logs are kept where something went wrong.

        Args:
            command_line: to be recorded.
            progress: is told of starts and passes.
            on_turn: is told of each pass that is done, and how long the rest will take.

        Raises:
            EngineError: a server did not start, died, or may not be compared with the others.
        """
        began = time.perf_counter()
        logs = Path(tempfile.mkdtemp(prefix="quark-eagle-serve-"))
        session = self.session(logs, progress)
        try:
            session.run(self.schedule, on_turn)
        except QuarkEagleError:
            with suppress(OSError):
                logs.rmdir()  # where there is none: servers were given, or the first did not get so far
            raise
        except BaseException:  # interrupted: nobody will read them
            shutil.rmtree(logs, ignore_errors=True)
            raise
        shutil.rmtree(logs, ignore_errors=True)
        setup = Setup(
            baseline=self.baseline,
            candidate=self.candidate,
            schedule=self.schedule,
            seconds=time.perf_counter() - began,
            command_line=tuple(command_line),
        )
        return report_of(session, setup)
