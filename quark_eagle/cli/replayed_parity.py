"""`quark-eagle parity --trace`: what it takes to replay drafts over a recorded path, from options to counts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.parity.estimate import Estimate
    from quark_eagle.parity.measurement import Settings
    from quark_eagle.serve_options import ServeOptions


def require_trace(trace: Path | None, serve: ServeOptions) -> Path:
    """See that there is something to replay on, and nothing that only serving takes.

    Raises:
        UsageError: there is not.
    """
    from quark_eagle.errors import UsageError

    if serve.given:
        raise UsageError(f"{', '.join(serve.given)}: for --engine vllm. Add it, or leave these out.")
    if trace is None:
        raise UsageError(
            "--trace TRACE: was needed, to replay the drafts over; or --engine vllm --target TARGET, to serve them."
        )
    return trace


def check_usage(drafts: list[str], baseline_report: Path | None, update_baseline: Path | None) -> None:
    """See that as many drafts are named as the options leave to be named.

    Raises:
        UsageError: more, or fewer; or both options.
        StorageError: there is no stored baseline in that place.
    """
    from quark_eagle.errors import StorageError, UsageError

    if baseline_report is not None and update_baseline is not None:
        raise UsageError(
            "--update-baseline stores what is replayed, and --baseline-report replays no baseline. Give one of them."
        )
    if baseline_report is not None and not baseline_report.is_file():
        raise StorageError(
            f"{baseline_report}: is no file, but a stored baseline was needed. Write it with "
            "`quark-eagle parity BASELINE --trace TRACE --update-baseline FILE`."
        )
    if baseline_report is not None and len(drafts) != 1:
        raise UsageError(f"--baseline-report stands for BASELINE: name CANDIDATE alone, not {len(drafts)} drafts.")
    if len(drafts) > 2 or (len(drafts) == 1 and baseline_report is None and update_baseline is None):
        raise UsageError(
            f"BASELINE and CANDIDATE were needed, but {len(drafts)} draft(s) are named. Name both, or CANDIDATE with "
            "--baseline-report, or BASELINE with --update-baseline."
        )


def check_files(output: Path, baseline_report: Path | None, update_baseline: Path | None) -> None:
    """See that the report replaces neither what is read nor what is stored.

    Raises:
        UsageError: it would.
    """
    from quark_eagle.errors import UsageError

    for option, other in (("--baseline-report", baseline_report), ("--update-baseline", update_baseline)):
        if other is not None and other.resolve() == output.resolve():
            raise UsageError(f"--output {output}: is also {option}, but a file of its own was needed. Name another.")


def compare(baseline: Path, candidate: Path, trace: Path, settings: Settings, *, json_: bool) -> ParityReport:
    """Replay the candidate, and the baseline unless it is stored."""
    from quark_eagle.cli import render
    from quark_eagle.opening import open_comparison

    comparison = open_comparison(
        baseline,
        candidate,
        trace,
        num_speculative_tokens=settings.num_speculative_tokens,
        dtype=settings.dtype,
        walk_only=settings.walk_only,
        draft_sample_method=settings.draft_sample_method,
        device=settings.device,
        kv_cache_dtype=settings.kv_cache_dtype,
    )
    for difference in comparison.stored_from.noted if comparison.stored_from is not None else ():
        render.warn(
            f"stored baseline, {difference}. Nearly tied proposals may turn out otherwise, in either direction."
        )
    announce(comparison.estimate(), len(comparison.trace))
    return comparison.run(command_line=sys.argv, progress=render.progress(quiet=json_))


def store_baseline(baseline: Path, trace: Path, settings: Settings, file: Path, *, json_: bool) -> None:
    """Replay the baseline alone and write its counts."""
    from quark_eagle.cli import render
    from quark_eagle.cli.parity_output import show_baseline
    from quark_eagle.documents.base import write_text
    from quark_eagle.parity.estimate import Estimate
    from quark_eagle.parity.measurement import Measurement
    from quark_eagle.parity.side import Side
    from quark_eagle.parity.stored import measure_baseline
    from quark_eagle.trace.target_trace import TargetTrace

    measurement = Measurement.open([("baseline", Side.open(baseline))], TargetTrace.open(trace), settings)
    announce(Estimate.of(measurement), len(measurement.trace))
    report = measure_baseline(measurement, command_line=sys.argv, progress=render.progress(quiet=json_))
    write_text(file, report.to_json())
    if json_:
        render.emit_json({**report.model_dump(mode="json"), "output": str(file)})
    else:
        show_baseline(report)
        render.say(
            f"Stored baseline: {file}\nNext: quark-eagle parity CANDIDATE --baseline-report {shlex.quote(str(file))}"
        )


def announce(estimate: Estimate, num_prompts: int) -> None:
    """Say on stderr what a measurement will take, before it starts."""
    from quark_eagle.cli import render

    trace, drafts, memory = map(render.size, (estimate.trace_bytes, estimate.draft_bytes, estimate.memory_bytes))
    render.note(
        f"{num_prompts} prompts: about {render.duration(estimate.seconds)}. Reads a trace of {trace} and {drafts} of "
        f"draft weights; needs about {memory} of memory."
    )
