"""SchemeComparison: a draft quantized in several ways, each verified, replayed and held against BF16.

open → estimate → run. The BF16 draft is replayed once, and each candidate against its counts. Candidates are made in a
scratch directory one after another; of each only its quantized layers stay in memory, for the pass over outputs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.compare.candidates import Candidate, Scope, candidates, require_calibration, require_selection
from quark_eagle.compare.measure import CONFIDENCE, Measured, Measuring, file_bytes
from quark_eagle.compare.output_error import OutputErrors, output_errors
from quark_eagle.compare.suggestion import suggested
from quark_eagle.documents.base import write_text
from quark_eagle.documents.schemes import SchemeResult, SchemesReport
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.parity.estimate import Estimate
from quark_eagle.parity.measurement import Measurement, Settings, provenance
from quark_eagle.parity.side import Side
from quark_eagle.parity.stored import measure_baseline
from quark_eagle.progress import SILENT, Progress
from quark_eagle.quantize.calibration.observer import ObserverChoice
from quark_eagle.quantize.calibration.run import Calibrated, CalibrationOptions, CalibrationRun
from quark_eagle.quantize.plan import require_quantizable
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.trace.target_trace import TargetTrace, TracedPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeComparison:
    """Everything that is checked before the long part starts.

    Attributes:
        checkpoint: the BF16 draft.
        layout: of the same checkpoint.
        candidates: to compare, in this order.
        scope: what is quantized of the draft.
        calibration: trace of the split "calibration"; None if nothing is calibrated.
        max_tokens: of the calibration; None is all.
        baseline: the BF16 draft over the trace of the split "selection".
    """

    checkpoint: Checkpoint
    layout: Eagle3Layout
    candidates: tuple[Candidate, ...]
    scope: Scope
    calibration: TargetTrace | None
    max_tokens: int | None
    baseline: Measurement

    @classmethod
    def open(
        cls,
        draft: Path,
        selection: Path,
        calibration: Path | None = None,
        *,
        schemes: Sequence[Scheme] = tuple(Scheme),
        observers: Sequence[ObserverChoice] = (ObserverChoice(),),
        scope: Scope | None = None,
        max_tokens: int | None = None,
        settings: Settings | None = None,
    ) -> SchemeComparison:
        """Check what belongs together, and load the BF16 draft.

        Args:
            draft: directory of the BF16 draft.
            selection: directory of the trace to compare on.
            calibration: directory of the trace to calibrate on.
            schemes: to compare.
            observers: each static scheme is made once with each.
            scope: what is quantized; every linear of the decoder layers if None.
            max_tokens: of the calibration; None is all.
            settings: of every replay; walks alone, at the k of the selection trace, if None.

        Raises:
            UsageError: a scheme needs a calibration, and there is none; or the scope names nothing.
            TraceError: a trace is of the wrong split, or holds prompts that are reserved.
            QuarkEagleError: the draft cannot be quantized or replayed.
        """
        opened = TargetTrace.open(selection)
        observed_on = None if calibration is None else TargetTrace.open(calibration)
        settings = settings or Settings(num_speculative_tokens=opened.num_speculative_tokens, walk_only=True)
        made = candidates(schemes, observers, kv_cache_scales=settings.kv_cache_dtype == "fp8")
        require_calibration(made, observed_on)
        require_selection(opened, observed_on)
        checkpoint = Checkpoint.open(draft)
        layout = Eagle3Layout.of(checkpoint)
        scope = scope or Scope()
        for scheme in schemes:
            require_quantizable(checkpoint, scope.plan(layout, scheme))
        return cls(
            checkpoint=checkpoint,
            layout=layout,
            candidates=made,
            scope=scope,
            calibration=observed_on,
            max_tokens=max_tokens,
            baseline=Measurement.open([("baseline", Side.open(draft))], opened, settings),
        )

    @property
    def selection(self) -> TargetTrace:
        """The trace to compare on."""
        return self.baseline.trace

    def estimate_seconds(self) -> float:
        """Of all replays together; calibrating and the pass over outputs come on top."""
        return Estimate.of(self.baseline).seconds * (1 + len(self.candidates))

    def run(
        self,
        scratch: Path,
        output: Path | None = None,
        *,
        keep: bool = False,
        command_line: Sequence[str] = (),
        progress: Progress = SILENT,
    ) -> SchemesReport:
        """Make, verify, replay and measure every candidate.

        Args:
            scratch: an existing directory, empty.
            output: the report's file to be, beside which the state of calibrations is kept until `forget`, so that a
                run that was ended takes them up again; None keeps it in ``scratch``.
            keep: leave the quantized drafts in it, with their calibrations and the counts of every prompt.
            command_line: for the records.
            progress: told of each step.

        Raises:
            QuarkEagleError: a step could not be done.
        """
        started = time.perf_counter()
        stored = scratch / "baseline.json"
        write_text(stored, measure_baseline(self.baseline, command_line=command_line, progress=progress).to_json())
        measuring = Measuring(
            checkpoint=self.checkpoint,
            layout=self.layout,
            scope=self.scope,
            selection=self.selection,
            settings=self.baseline.settings,
            stored=stored,
            scratch=scratch,
            command_line=command_line,
            progress=progress,
        )
        beside = scratch / "schemes.json" if output is None else output
        scales: dict[ObserverChoice, Calibrated] = {}
        measured: list[Measured] = []
        for candidate in self.candidates:
            choice = candidate.choice
            if choice is not None and choice not in scales:
                state = _state_path(beside, choice)
                scales[choice] = self._calibrate(choice, state, command_line, progress)
            calibrated = None if choice is None else scales[choice]
            measured.append(measuring.measure(candidate, calibrated))
            if keep and calibrated is not None:
                write_text(scratch / f"{candidate.name}.calibration.json", calibrated.document.to_json())
            if not keep:
                shutil.rmtree(scratch / candidate.name)
        if output is None:
            self.forget(beside)
        results = self._with_outputs(measured, progress)
        simplest = suggested(results, {it.result.name: it.prompts for it in measured}, CONFIDENCE)
        return self._report(results, simplest, time.perf_counter() - started, command_line)

    def forget(self, output: Path) -> None:
        """The state of calibrations, once the report is in its file."""
        for choice in {it.choice for it in self.candidates if it.choice is not None}:
            _state_path(output, choice).unlink(missing_ok=True)

    def _calibrate(
        self, choice: ObserverChoice, state: Path, command_line: Sequence[str], progress: Progress
    ) -> Calibrated:
        """Scales of one observer, for all schemes that need some."""
        assert self.calibration is not None  # require_calibration
        static = [it.scheme for it in self.candidates if it.scheme.needs_calibration]
        options = CalibrationOptions(
            choice=choice,
            max_tokens=self.max_tokens,
            kv_cache_scales=self.baseline.settings.kv_cache_dtype == "fp8",
            num_speculative_tokens=self.baseline.settings.num_speculative_tokens,
            device=self.baseline.settings.device,
        )
        plan = self.scope.plan(self.layout, static[0] if static else Scheme.PTPC_FP8)
        run = CalibrationRun.open(
            self.checkpoint, self.layout, plan, self.calibration, state, options, judged_on=[self.selection]
        )
        return run.run(command_line=command_line, progress=progress)

    def _with_outputs(self, measured: Sequence[Measured], progress: Progress) -> list[SchemeResult]:
        """The results with the losses of their layers' outputs: one pass for all candidates."""
        settings = self.baseline.settings
        draft = Eagle3Draft.load(
            self.checkpoint,
            self.layout,
            self.selection.rows.weights,
            settings.activations,
            settings.device,
            like=self.baseline.drafts[0],
            window=self.selection.target.sliding_window,
        )
        layers = {it.result.name: it.layers for it in measured}
        found = output_errors(draft, layers, self._prompts(progress), settings.num_speculative_tokens)
        return [_with_errors(it.result, found[it.result.name]) for it in measured]

    def _prompts(self, progress: Progress) -> Iterator[TracedPrompt]:
        with progress.task("compare outputs", len(self.selection), "prompt") as task:
            for traced in self.selection:
                yield traced
                task.advance(1)

    def _report(
        self, results: list[SchemeResult], simplest: str | None, seconds: float, command_line: Sequence[str]
    ) -> SchemesReport:
        settings, calibration = self.baseline.settings, self.calibration
        return SchemesReport(
            schema_version=1,
            draft=str(self.checkpoint.directory),
            num_speculative_tokens=settings.num_speculative_tokens,
            kv_cache_dtype=settings.kv_cache_dtype,
            keep=list(self.scope.keep),
            quantize_fc=self.scope.quantize_fc,
            split="selection",
            calibration=None if calibration is None else str(calibration.directory),
            calibration_trace_sha256=None if calibration is None else calibration.sha256,
            baseline=self.baseline.sides[0].arm(),
            baseline_file_bytes=file_bytes(self.checkpoint),
            provenance=provenance(self.selection, settings, command_line, seconds=seconds),
            suggested=simplest,
            schemes=results,
        )


def _state_path(output: Path, choice: ObserverChoice) -> Path:
    """How far the calibration of one observer has come."""
    return output.with_name(f".{output.name}.{choice.observer.value}.calibration-state.safetensors")


def _with_errors(result: SchemeResult, found: Mapping[str, OutputErrors]) -> SchemeResult:
    modules = [
        it.model_copy(
            update={
                "output_first_step": found[it.module].first_step,
                "output_later_steps": found[it.module].later_steps,
            }
        )
        for it in result.modules
    ]
    return result.model_copy(update={"modules": modules})
