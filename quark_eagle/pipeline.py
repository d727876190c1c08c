"""The whole job in order: plan, stage, verify, replay, decide, publish.

The only place that knows quantizing and measuring both. A draft is published if an engine will load it as it was meant
and the verdict on its acceptance is a pass; measurement and verdict are written in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quark_eagle.checked import Check, Checked
from quark_eagle.progress import SILENT, Progress

if TYPE_CHECKING:
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.deploy.verify import VerifyReport
    from quark_eagle.parity.compare import Comparison
    from quark_eagle.quantize.plan import QuantPlan
    from quark_eagle.quantize.record import QuantizeResult
    from quark_eagle.trace.record_options import Estimate


class _NotPublishedError(Exception):
    """Ends the staging without a result; never leaves this module."""


def quantize_and_check(
    checkpoint: Checkpoint,
    layout: Eagle3Layout,
    plan: QuantPlan,
    output: Path,
    check: Check,
    *,
    overwrite: bool = False,
    announce: Callable[[Estimate], None] = lambda estimate: None,
    progress: Progress = SILENT,
    command_line: Sequence[str] = (),
) -> Checked:
    """Quantize a draft, and publish it only if it can be served and its acceptance is at par.

    Args:
        checkpoint: the BF16 draft.
        layout: of the same checkpoint.
        plan: made for the same checkpoint.
        output: OUT. ``OUT.parity.json`` and ``OUT.verdict.json`` are written beside it, whatever the verdict.
        check: what it is measured on and has to reach.
        overwrite: OUT and its reports may be replaced; an OUT that is there survives a draft that is not published.
        announce: told what recording will take before it starts.
        progress: told of each step.
        command_line: for the records.

    Raises:
        QuarkEagleError: a step could not be done; nothing is published.
    """
    from quark_eagle.checkpoint.writer import staged
    from quark_eagle.documents.base import refuse_existing
    from quark_eagle.quantize.shards import output_bytes
    from quark_eagle.quantize.stage import stage

    output = Path(output)
    for suffix in ("parity.json", "verdict.json"):
        refuse_existing(_beside(output, suffix), overwrite=overwrite)
    _check_source(checkpoint, layout, check, _beside(output, "trace"))
    needed = output_bytes(checkpoint, plan)
    checked: Checked | None = None
    try:
        with staged(
            output, overwrite=overwrite, source=checkpoint.directory, needed_bytes=needed, durable=False
        ) as staging:
            result = stage(checkpoint, layout, plan, staging, progress, command_line=command_line)
            trace = _trace(checkpoint, output, check, announce, progress, command_line)
            checked = _measure(checkpoint, staging, output, trace, result, check, progress, command_line)
            if not checked.published:
                raise _NotPublishedError
    except _NotPublishedError:
        assert checked is not None
    return checked


def _measure(
    checkpoint: Checkpoint,
    staging: Path,
    output: Path,
    trace: Path,
    result: QuantizeResult,
    check: Check,
    progress: Progress,
    command_line: Sequence[str],
) -> Checked:
    """Verify and replay what was staged, decide, and write down both."""
    from quark_eagle.documents.base import write_text
    from quark_eagle.parity.gate import gate
    from quark_eagle.parity.verdict import Rules
    from quark_eagle.worth import worth

    rules = check.rules or Rules()
    report_path, verdict_path = _beside(output, "parity.json"), _beside(output, "verdict.json")
    comparison = open_comparison(
        checkpoint.directory,
        staging,
        trace,
        num_speculative_tokens=check.num_speculative_tokens,
        candidate_name=output.name,
    )
    verification = _verify(staging, checkpoint.directory, comparison, progress)
    report = comparison.run(command_line=command_line, progress=progress)
    write_text(report_path, report.to_json())
    verdict = gate(
        report,
        rules,
        parity=report_path,
        worth=worth(report, margin=rules.margin),
        misread=[finding.subject for finding in verification.errors],
        command_line=command_line,
    )
    write_text(verdict_path, verdict.to_json())
    return Checked(
        result=result,
        verification=verification,
        report=report,
        verdict=verdict,
        report_path=report_path,
        verdict_path=verdict_path,
        trace=trace,
        published=check.allows(verification, verdict),
    )


def open_comparison(
    baseline: Path,
    candidate: Path,
    trace: Path,
    *,
    num_speculative_tokens: int = 3,
    dtype: Literal["auto", "bfloat16", "float32"] = "auto",
    walk_only: bool = False,
    draft_sample_method: Literal["greedy", "probabilistic"] = "greedy",
    candidate_name: str | None = None,
) -> Comparison:
    """A comparison in which the candidate computes what the engine would make of its files.

    `parity` goes by tensors; which of them the engine casts on loading is for `deploy` to say. See
    `quark_eagle.parity.compare.Comparison.open` for arguments and errors; ``baseline`` may be a file of stored counts.
    """
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.deploy.miscast import miscast_weights
    from quark_eagle.parity.compare import Comparison
    from quark_eagle.trace.target_trace import TargetTrace

    checkpoint = Checkpoint.open(candidate)
    weights = miscast_weights(checkpoint, TargetTrace.open(trace).target.num_hidden_layers)
    slots = Eagle3Layout.of(checkpoint).slots
    return Comparison.open(
        baseline,
        candidate,
        trace,
        num_speculative_tokens=num_speculative_tokens,
        dtype=dtype,
        walk_only=walk_only,
        draft_sample_method=draft_sample_method,
        miscast=[slots[name].canonical.removesuffix(".weight") for name in weights],
        candidate_name=candidate_name,
    )


def _beside(output: Path, suffix: str) -> Path:
    """``OUT.suffix`` in the directory of OUT."""
    resolved = output.absolute()
    return resolved.with_name(f"{resolved.name}.{suffix}")


def _check_source(checkpoint: Checkpoint, layout: Eagle3Layout, check: Check, recorded: Path) -> None:
    """See before the long part that there is something to measure on, and that the BF16 draft fits it.

    Raises:
        UsageError: neither a target nor a trace, both, or a trace that would be recorded exists already.
        TraceError: the trace cannot be used.
    """
    from quark_eagle.errors import UsageError
    from quark_eagle.trace.target_trace import TRACE_NAME, TargetTrace

    if (check.target is None) == (check.trace is None):
        raise UsageError("Either --target or --trace says what the draft is measured on. Give one of them.")
    if check.trace is not None:
        TargetTrace.open(check.trace).require_fits(layout, checkpoint)
    elif (recorded / TRACE_NAME).exists():
        raise UsageError(f"{recorded}: was recorded before. Measure on it with --trace {recorded}, or remove it.")


def _trace(
    checkpoint: Checkpoint,
    output: Path,
    check: Check,
    announce: Callable[[Estimate], None],
    progress: Progress,
    command_line: Sequence[str],
) -> Path:
    """The trace to measure on, recorded first if a target was given."""
    if check.trace is not None:
        return check.trace
    from quark_eagle.trace.prompts import PromptSet
    from quark_eagle.trace.recording import record

    assert check.target is not None  # _check_source
    recorded = _beside(output, "trace")
    record(
        check.target,
        checkpoint,
        PromptSet.load(None, "parity"),
        recorded,
        check.options,
        progress=progress,
        announce=announce,
        command_line=command_line,
    )
    return recorded


def _verify(staging: Path, source: Path, comparison: Comparison, progress: Progress) -> VerifyReport:
    from quark_eagle.deploy.verify import verify

    return verify(staging, source, comparison.trace.target.num_hidden_layers, progress=progress)
