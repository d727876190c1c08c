"""`quark-eagle parity`: how many proposals of two drafts one recorded path accepts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quark_eagle.cli.exit_codes import ExitCode
from quark_eagle.cli.options import JsonFlag, OverwriteFlag, SpeculativeTokensOption, TraceOption

if TYPE_CHECKING:
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.parity.estimate import Estimate
    from quark_eagle.parity.measurement import Settings


def parity(
    drafts: Annotated[
        list[str],
        typer.Argument(
            metavar="BASELINE CANDIDATE",
            help="The BF16 draft and the FP8 draft; CANDIDATE alone with --baseline-report, BASELINE alone with "
            "--update-baseline.",
            show_default=False,
        ),
    ],
    trace: TraceOption,
    num_speculative_tokens: SpeculativeTokensOption = 3,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the counts of every prompt.")
    ] = Path("parity.json"),
    baseline_report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Take BASELINE's counts from this file instead of replaying it; refused when stale."
        ),
    ] = None,
    update_baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Store BASELINE's counts for --baseline-report; replaces what it wrote before."
        ),
    ] = None,
    walk_only: Annotated[
        bool, typer.Option("--walk-only", help="Only the rounds a server makes: cheaper for large drafts, no τ curve.")
    ] = False,
    draft_sample_method: Annotated[
        Literal["greedy", "probabilistic"],
        typer.Option(help="As in vLLM: the draft proposes its argmax, or samples; the latter needs a sampled trace."),
    ] = "greedy",
    dtype: Annotated[
        Literal["auto", "bfloat16", "float32"],
        typer.Option(help="Of activations; auto is bfloat16, as engines run, float32 checks the algorithm."),
    ] = "auto",
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Replay BASELINE and CANDIDATE over a target's recorded path and count what would have been accepted.

    It measures and does not gate: exits with 0 whatever it finds, a collapse included (which it says), and with 5 where
    nothing could be evaluated.

    Example: quark-eagle parity DRAFT DRAFT-FP8 --trace TRACE

    Baseline once: quark-eagle parity DRAFT --trace TRACE --update-baseline baseline.json

    Candidate alone: quark-eagle parity DRAFT-FP8 --trace TRACE --baseline-report baseline.json
    """
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.cli import render
    from quark_eagle.cli.parity_output import show_report
    from quark_eagle.documents.base import refuse_existing, write_text
    from quark_eagle.documents.baseline import BaselineReport, refuse_replacing_another_file
    from quark_eagle.parity.measurement import Settings
    from quark_eagle.parity.verdict import judge

    _check_usage(drafts, baseline_report, update_baseline)
    directories = [resolve(draft) for draft in drafts]
    if update_baseline is not None:
        refuse_replacing_another_file(update_baseline)
    settings = Settings(
        num_speculative_tokens=num_speculative_tokens,
        dtype=dtype,
        walk_only=walk_only,
        draft_sample_method=draft_sample_method,
    )
    _check_files(output, baseline_report, update_baseline)
    if update_baseline is not None and len(directories) == 1:
        store_baseline(directories[0], trace, settings, update_baseline, json_=json_)
        return
    refuse_existing(output, overwrite=overwrite)
    report = compare(baseline_report or directories[0], directories[-1], trace, settings, json_=json_)
    write_text(output, report.to_json())
    if update_baseline is not None:
        write_text(update_baseline, BaselineReport.of(report).to_json())
    judgement = judge(report)
    if json_:
        render.emit_json({**report.model_dump(mode="json"), "output": str(output)})
    else:
        show_report(report, judgement)
        if update_baseline is not None:
            render.say(f"Stored baseline: {update_baseline}")
        render.say(f"Counts of every prompt: {output}\nNext: quark-eagle gate {shlex.quote(str(output))}")
    raise typer.Exit(int(ExitCode.FAILED if judgement.outcome == "unusable" else ExitCode.DONE))


def _check_usage(drafts: list[str], baseline_report: Path | None, update_baseline: Path | None) -> None:
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


def _check_files(output: Path, baseline_report: Path | None, update_baseline: Path | None) -> None:
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
    from quark_eagle.pipeline import open_comparison

    comparison = open_comparison(
        baseline,
        candidate,
        trace,
        num_speculative_tokens=settings.num_speculative_tokens,
        dtype=settings.dtype,
        walk_only=settings.walk_only,
        draft_sample_method=settings.draft_sample_method,
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
        f"{num_prompts} prompts: about {duration(estimate.seconds)}. Reads a trace of {trace} and {drafts} of draft "
        f"weights; needs about {memory} of memory."
    )


def duration(seconds: float) -> str:
    """A rough length of time.

    >>> duration(3.2), duration(200.0)
    ('3 s', '3 min')
    """
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"
