"""The whole job in order: plan, calibrate, stage, verify, replay, serve, decide, publish.

The only place that knows quantizing and measuring both. A draft is published if an engine will load it as it was meant
and the verdict on its acceptance is a pass; measurements and verdicts are written in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quark_eagle.checked import Check, Checked, Judged
from quark_eagle.opening import open_comparison, open_served
from quark_eagle.progress import SILENT, Progress

if TYPE_CHECKING:
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.deploy.verify import VerifyReport
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.parity.compare import Comparison
    from quark_eagle.parity.served.measure import ServedComparison
    from quark_eagle.parity.served.session import OnTurn
    from quark_eagle.quantize.calibration.job import Calibrating
    from quark_eagle.quantize.plan import QuantPlan
    from quark_eagle.quantize.record import QuantizeResult
    from quark_eagle.trace.prompts import PromptSet
    from quark_eagle.trace.record_options import Estimate
    from quark_eagle.trace.target_trace import TargetTrace


PARITY, SERVED_PARITY, VERDICT = "parity.json", "served.parity.json", "verdict.json"  # what lies beside OUT


class _NotPublishedError(Exception):
    """Ends the staging without a result; never leaves this module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One draft on its way to OUT. One that is given scales of an FP8 KV cache is judged with one, however it is."""

    checkpoint: Checkpoint
    output: Path
    check: Check
    announce: Callable[[Estimate], None]
    announce_served: Callable[[ServedComparison], None]
    on_turn: OnTurn | None
    progress: Progress
    command_line: Sequence[str]
    kv_cache_dtype: Literal["auto", "fp8"]

    def beside(self, suffix: str) -> Path:
        """``OUT.suffix`` in the directory of OUT."""
        resolved = self.output.absolute()
        return resolved.with_name(f"{resolved.name}.{suffix}")

    @property
    def given(self) -> list[TargetTrace]:
        """The trace that the draft will be judged on, if it is there already."""
        from quark_eagle.trace.target_trace import TargetTrace

        return [] if self.check.trace is None else [TargetTrace.open(self.check.trace)]

    @property
    def prompts(self) -> PromptSet:
        """To be recorded."""
        from quark_eagle.trace.prompts import PromptSet

        return PromptSet.load(None, "parity").limited(self.check.limit)

    def without_anchor(self) -> TargetTrace | None:
        """The trace that an earlier run recorded and was ended before it came to the anchor; None if there is none."""
        from quark_eagle.parity.anchor import without_anchor

        options, target = self.check.options, self.check.target
        if options is None:
            return None
        return without_anchor(self.beside("trace"), str(target), self.checkpoint, self.prompts, options)


def quantize_and_check(
    checkpoint: Checkpoint,
    layout: Eagle3Layout,
    plan: QuantPlan,
    output: Path,
    check: Check,
    *,
    overwrite: bool = False,
    announce: Callable[[Estimate], None] = lambda estimate: None,
    announce_served: Callable[[ServedComparison], None] = lambda comparison: None,
    on_turn: OnTurn | None = None,
    progress: Progress = SILENT,
    command_line: Sequence[str] = (),
    calibrating: Calibrating | None = None,
) -> Checked:
    """Quantize a draft, and publish it only if it can be served and its acceptance is at par.

    Args:
        checkpoint: the BF16 draft.
        layout: of the same checkpoint.
        plan: made for the same checkpoint.
        output: OUT. ``OUT.parity.json``, ``OUT.served.parity.json`` where the drafts were served, and
            ``OUT.verdict.json``, what decided, are written beside it, whatever the verdict.
        check: what it is measured on and has to reach.
        overwrite: OUT and its reports may be replaced; an OUT that is there survives a draft that is not published.
        announce: told what recording will take before it starts.
        announce_served: told what serving will take before it starts.
        on_turn: told of each pass that was served, and how long the rest will take.
        progress: told of each step.
        command_line: for the records.
        calibrating: what finds the scales of activations; None where the scheme needs none.

    Raises:
        QuarkEagleError: a step could not be done; nothing is published.
    """
    from quark_eagle.checkpoint.writer import staged
    from quark_eagle.documents.base import refuse_existing
    from quark_eagle.quantize.shards import output_bytes
    from quark_eagle.quantize.stage import stage

    job = _Job(
        checkpoint=checkpoint,
        output=Path(output),
        check=check,
        announce=announce,
        announce_served=announce_served,
        on_turn=on_turn,
        progress=progress,
        command_line=command_line,
        kv_cache_dtype="fp8" if calibrating is not None and calibrating.job.options.kv_cache_scales else "auto",
    )
    for suffix in (PARITY, SERVED_PARITY, VERDICT):
        refuse_existing(job.beside(suffix), overwrite=overwrite)
    _check_source(job, layout)
    checked: Checked | None = None
    try:
        with staged(
            job.output,
            overwrite=overwrite,
            source=checkpoint.directory,
            needed_bytes=output_bytes(checkpoint, plan),
            durable=False,
        ) as staging:
            calibrated = None if calibrating is None else calibrating.run(judged_on=job.given)
            result = stage(
                checkpoint,
                layout,
                plan,
                staging,
                progress,
                activation_scales=None if calibrated is None else calibrated.scales,
                command_line=command_line,
            )
            checked = _measure(job, staging, _trace(job), result)
            if calibrating is not None and calibrated is not None:
                calibrating.write(calibrated)
            if not checked.published:
                raise _NotPublishedError
    except _NotPublishedError:
        assert checked is not None
    if calibrating is not None and checked.published:
        calibrating.forget()
    return checked


def _measure(job: _Job, staging: Path, trace: Path, result: QuantizeResult) -> Checked:
    """Verify and replay what was staged, serve it if that is asked for and it may still be published, and decide."""
    from quark_eagle.documents.base import write_text

    check = job.check
    comparison = open_comparison(
        job.checkpoint.directory,
        staging,
        trace,
        num_speculative_tokens=check.num_speculative_tokens,
        device=check.device,
        kv_cache_dtype=job.kv_cache_dtype,
        candidate_name=job.output.name,
    )
    verification = _verify(staging, job.checkpoint.directory, comparison, job.progress)
    report = comparison.run(command_line=job.command_line, progress=job.progress)
    for stale in (VERDICT, SERVED_PARITY):  # of an earlier draft: nothing may say of this one what was said of that
        job.beside(stale).unlink(missing_ok=True)
    replayed = _judge(job, report, verification, PARITY)
    served = None
    if check.serve is not None and check.allows(verification, replayed.verdict):
        served = _judge(job, _serve(job, staging, comparison.trace), verification, SERVED_PARITY)
    checked = Checked(
        result=result,
        verification=verification,
        replayed=replayed,
        served=served,
        trace=trace,
        verdict_path=job.beside(VERDICT),
        published=check.allows(verification, replayed.verdict, None if served is None else served.verdict),
    )
    write_text(checked.verdict_path, checked.verdict.to_json())  # once all has been heard
    return checked


def _judge(job: _Job, report: ParityReport, verification: VerifyReport, suffix: str) -> Judged:
    """Write a measurement down, and decide."""
    from quark_eagle.documents.base import write_text
    from quark_eagle.parity.gate import gate
    from quark_eagle.parity.verdict import Rules
    from quark_eagle.worth import worth

    rules = job.check.rules or Rules()
    report_path = job.beside(suffix)
    write_text(report_path, report.to_json())
    verdict = gate(
        report,
        rules,
        parity=report_path,
        worth=worth(report, margin=rules.margin),
        misread=[finding.subject for finding in verification.errors],
        command_line=job.command_line,
    )
    return Judged(report=report, report_path=report_path, verdict=verdict)


def _serve(job: _Job, staging: Path, trace: TargetTrace) -> ParityReport:
    """Both drafts in a real engine, at the k of the draft that was served along with the trace, if one was."""
    assert job.check.serve is not None
    recorded = None if trace.served is None else trace.served.num_speculative_tokens
    comparison = open_served(
        (job.checkpoint.directory, staging),
        job.check.serve,
        num_speculative_tokens=job.check.num_speculative_tokens or recorded,
        kv_cache_dtype=job.kv_cache_dtype,
        candidate_name=job.output.name,
    )
    job.announce_served(comparison)
    return comparison.run(command_line=job.command_line, progress=job.progress, on_turn=job.on_turn)


def _check_source(job: _Job, layout: Eagle3Layout) -> None:
    """See before the long part that there is something to measure on, and that the BF16 draft fits it.

    Raises:
        UsageError: neither a target nor a trace, both, or a trace that would be recorded exists already; or options
            of serving that contradict each other.
        TraceError: the trace cannot be used.
    """
    from quark_eagle.errors import UsageError
    from quark_eagle.trace.target_trace import TRACE_NAME, TargetTrace

    check, recorded = job.check, job.beside("trace")
    if (check.target is None) == (check.trace is None):
        raise UsageError("Either --target or --trace says what the draft is measured on. Give one of them.")
    if check.serve is not None:
        # What was said of serving is looked at now, and not after hours of recording.
        both = (job.checkpoint.directory, job.checkpoint.directory)
        k = check.num_speculative_tokens
        open_served(both, check.serve, num_speculative_tokens=k, kv_cache_dtype=job.kv_cache_dtype)
    if check.trace is not None:
        TargetTrace.open(check.trace).require_fits(layout, job.checkpoint)
    elif (recorded / TRACE_NAME).exists() and job.without_anchor() is None:
        raise UsageError(f"{recorded}: was recorded before. Measure on it with --trace {recorded}, or remove it.")


def _trace(job: _Job) -> Path:
    """The trace to measure on; recorded first if a target was given, and anchored if the draft was served along.

    A run that was ended on its way to the anchor is continued there.
    """
    check = job.check
    if check.trace is not None:
        return check.trace
    from quark_eagle.parity.anchor import anchor
    from quark_eagle.trace.recording import record

    assert check.target is not None  # _check_source
    recorded = job.without_anchor() or record(
        check.target,
        job.checkpoint,
        job.prompts,
        job.beside("trace"),
        check.options,
        progress=job.progress,
        announce=job.announce,
        command_line=job.command_line,
    )
    if recorded.served is not None:
        anchor(recorded, job.checkpoint.directory, job.progress)
    return recorded.directory


def _verify(staging: Path, source: Path, comparison: Comparison, progress: Progress) -> VerifyReport:
    from quark_eagle.deploy.verify import verify

    return verify(staging, source, comparison.trace.target.num_hidden_layers, progress=progress)
