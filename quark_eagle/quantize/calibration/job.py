"""Calibrating: from what a user has, a trace or a target, to the scales of a draft's activations, beside OUT."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.base import refuse_existing, write_text
from quark_eagle.errors import UsageError
from quark_eagle.progress import SILENT, Progress
from quark_eagle.quantize.calibration.chosen_prompts import SPLIT, ChosenPrompts
from quark_eagle.quantize.calibration.run import Calibrated, CalibrationEstimate, CalibrationOptions, CalibrationRun
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import Estimate, RecordOptions
from quark_eagle.trace.recording import record
from quark_eagle.trace.target_trace import TRACE_NAME, TargetTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationJob:
    """What a calibration is made from.

    Attributes:
        trace: of the split "calibration"; this or ``target``.
        target: record this target over the packaged calibration prompts first, into ``OUT.calibration-trace``: kept,
            and resumed.
        record_options: how to record.
        limit: prompts to record at most.
        options: of the calibration itself.
    """

    trace: Path | None = None
    target: str | None = None
    record_options: RecordOptions | None = None
    limit: int | None = None
    options: CalibrationOptions = field(default_factory=CalibrationOptions)

    def require_usable(self, checkpoint: Checkpoint, layout: Eagle3Layout) -> None:
        """See, without running anything, that the trace can be calibrated on; one to be recorded is not there yet.

        Raises:
            TraceError: it is none, or holds prompts that are reserved for judging or choosing.
            TraceMismatchError: it does not fit the draft.
            UsageError: the limit of tokens is below the first prompt's.
        """
        if self.trace is not None:
            trace = TargetTrace.open(self.trace)
            ChosenPrompts.of(trace, self.options.max_tokens)
            trace.require_fits(layout, checkpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrating:
    """A job for one draft on its way to OUT. What is recorded and observed is kept beside OUT until OUT is there.

    Attributes:
        checkpoint: the BF16 draft.
        layout: of the same checkpoint.
        plan: of a scheme that needs calibration, or any for scales of the KV cache.
        output: OUT.
        job: what it is made from.
        overwrite: an older document may be replaced.
        progress: told of recorded and calibrated tokens.
        announce: told what calibration will take before it starts.
        announce_recording: the same of recording.
        command_line: for the records.
    """

    checkpoint: Checkpoint
    layout: Eagle3Layout
    plan: QuantPlan
    output: Path
    job: CalibrationJob
    overwrite: bool = False
    progress: Progress = SILENT
    announce: Callable[[CalibrationEstimate], None] = lambda estimate: None
    announce_recording: Callable[[Estimate], None] = lambda estimate: None
    command_line: Sequence[str] = ()

    def run(self, *, judged_on: Iterable[TargetTrace] = ()) -> Calibrated:
        """The scales and their document.

        Args:
            judged_on: traces that the quantized draft will be judged on: none of their prompts may be calibrated on.

        Raises:
            UsageError: a document of an older calibration would be replaced.
            QuarkEagleError: a step could not be done; what is done is kept.
        """
        if not self.state_path.exists():  # else the document is of a run of this OUT that was not published
            refuse_existing(self.document_path, overwrite=self.overwrite)
        run = CalibrationRun.open(
            self.checkpoint,
            self.layout,
            self.plan,
            self._trace(),
            self.state_path,
            self.job.options,
            judged_on=judged_on,
        )
        self.announce(run.estimate())
        return run.run(command_line=self.command_line, progress=self.progress)

    def write(self, calibrated: Calibrated) -> None:
        """The document, beside OUT.

        Raises:
            StorageError: it cannot be written.
        """
        write_text(self.document_path, calibrated.document.to_json())

    def forget(self) -> None:
        """The state, once OUT is there."""
        self.state_path.unlink(missing_ok=True)

    @property
    def document_path(self) -> Path:
        """What the scales stand on: ``OUT.calibration.json``."""
        return self._beside("{}.calibration.json")

    @property
    def state_path(self) -> Path:
        """How far an unfinished run has come."""
        return self._beside(".{}.calibration-state.safetensors")

    def _beside(self, pattern: str) -> Path:
        resolved = self.output.absolute()
        return resolved.with_name(pattern.format(resolved.name))

    def _trace(self) -> TargetTrace:
        """The trace to calibrate on; one that an earlier run of the same OUT recorded to its end is taken.

        Raises:
            UsageError: what was recorded before is of another target, or of other prompts.
        """
        job, recorded = self.job, self._beside("{}.calibration-trace")
        if job.trace is not None:
            return TargetTrace.open(job.trace)
        assert job.target is not None
        prompts = PromptSet.load(None, SPLIT).limited(job.limit)
        if (recorded / TRACE_NAME).exists():
            found = TargetTrace.open(recorded)
            if (found.target.name, found.document.prompts_sha256) != (str(job.target), prompts.sha256):
                raise UsageError(
                    f"{recorded}: was recorded before, of {found.target.name} and {len(found)} prompts, but "
                    f"{job.target} and {len(prompts)} were asked for. Calibrate on it with --calibration, or remove it."
                )
            return found
        return record(
            job.target,
            self.checkpoint,
            prompts,
            recorded,
            job.record_options,
            progress=self.progress,
            announce=self.announce_recording,
            command_line=self.command_line,
        )
