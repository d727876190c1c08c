"""`quark-eagle gate`: may the FP8 draft ship? The answer is the exit code."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quark_eagle.cli.options import JsonFlag, KvCacheDtypeOption, OverwriteFlag, speculative_tokens

if TYPE_CHECKING:
    from quark_eagle.cli.verdict_output import VerdictFiles
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.documents.verdict import Verdict
    from quark_eagle.parity.verdict import Rules

LONGEST_STEP_MS = 1e6
DEFAULT_PARITY_OUTPUT = Path("parity.json")


def gate(
    evidence: Annotated[
        list[str],
        typer.Argument(
            metavar="PARITY_JSON | BASELINE CANDIDATE",
            help="What was measured; or what to measure: the BF16 draft (or its stored counts) and the FP8 draft.",
            show_default=False,
        ),
    ],
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", metavar="TRACE", help="Measure BASELINE and CANDIDATE on this trace first, the walk alone."
        ),
    ] = None,
    margin: Annotated[float, typer.Option(help="The loss of τ that is still parity, as a fraction.")] = 0.01,
    alpha: Annotated[float, typer.Option(help="Probability of a false pass, and of a false fail.")] = 0.05,
    category_margin: Annotated[
        float | None, typer.Option(help="Let every category gate too, with this wider margin of its own.")
    ] = None,
    expect_baseline: Annotated[
        float | None,
        typer.Option(metavar="TAU", help="τ that the BF16 draft must have within 5 %, or nothing is decided."),
    ] = None,
    looks: Annotated[
        int | None, typer.Option(help="Looks planned while prompts are added, which share alpha: 1 (default) or 2.")
    ] = None,
    after: Annotated[
        Path | None, typer.Option(metavar="VERDICT", help="The second look, after this inconclusive first one.")
    ] = None,
    bias: Annotated[
        float | None, typer.Option(help="Bound of replay's error in the change, as a served run measured it.")
    ] = None,
    require_arch: Annotated[
        str | None,
        typer.Option(metavar="ARCH", help="Take only evidence measured there: gfx950 (MI355X), gfx942, sm_90, …"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the verdict as JSON.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as Markdown.")] = None,
    target_step_ms: Annotated[
        float | None, typer.Option(help="Time of one target step, to say what FP8 is worth; with --draft-step-ms.")
    ] = None,
    draft_step_ms: Annotated[float | None, typer.Option(help="Time of one step of the BF16 draft.")] = None,
    num_speculative_tokens: Annotated[
        int | None,
        speculative_tokens("With --trace: k. By default that of the draft served with it, else 3."),
    ] = None,
    kv_cache_dtype: KvCacheDtypeOption = "auto",
    parity_output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --trace: where the measurement is written. By default parity.json."),
    ] = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Decide whether the candidate's acceptance is at par with the baseline's, within a stated margin.

    Exits with 0 (pass), 3 (fail), 4 (inconclusive) or 5 (could not be evaluated). On GitHub Actions the step's summary
    and outputs and an annotation are written by themselves.
    Example: quark-eagle gate parity.json --margin 0.01 --junit gate.xml
    """
    from quark_eagle.cli.verdict_output import VerdictFiles
    from quark_eagle.documents.base import write_text
    from quark_eagle.documents.verdict import EXIT_CODES
    from quark_eagle.errors import QuarkEagleError
    from quark_eagle.parity.gate import first_look, not_evaluated
    from quark_eagle.parity.gate import gate as decide
    from quark_eagle.worth import worth

    _check_usage(
        evidence,
        trace,
        looks,
        after,
        (target_step_ms, draft_step_ms),
        num_speculative_tokens,
        parity_output,
        kv_cache_dtype,
    )
    rules = _rules(margin, alpha, category_margin, expect_baseline, looks, bias, require_arch)
    files = VerdictFiles(output=output, junit=junit, markdown=markdown)
    measured = Path(evidence[0]) if trace is None else parity_output or DEFAULT_PARITY_OUTPUT
    written = files.named() | ({} if trace is None else {"--parity-output": measured})
    names = ("PARITY_JSON",) if trace is None else ("BASELINE", "CANDIDATE")
    read = dict(zip(names, map(Path, evidence), strict=True)) | ({} if after is None else {"--after": after})
    _check_files(written, read, overwrite)
    try:
        if after is not None:
            rules = first_look(after, rules)
        report = _evidence(evidence, trace, num_speculative_tokens, kv_cache_dtype, quiet=json_)
        if trace is not None:
            write_text(measured, report.to_json())
        gain = worth(report, margin=margin, target_step_ms=target_step_ms, draft_step_ms=draft_step_ms)
        verdict = decide(report, rules, parity=measured, worth=gain, command_line=sys.argv)
    except QuarkEagleError as error:
        if error.exit_code == EXIT_CODES["unusable"]:
            _deliver(not_evaluated(error, rules, command_line=sys.argv), files, json_)
        raise
    _deliver(verdict, files, json_)
    raise typer.Exit(verdict.exit_code)


def _check_usage(
    evidence: list[str],
    trace: Path | None,
    looks: int | None,
    after: Path | None,
    times: tuple[float | None, float | None],
    num_speculative_tokens: int | None,
    parity_output: Path | None,
    kv_cache_dtype: Literal["auto", "fp8"],
) -> None:
    """Refuse combinations that cannot be meant, all at once.

    Raises:
        UsageError: there is one.
    """
    from quark_eagle.errors import UsageError

    problems = []
    needed = 1 if trace is None else 2
    if len(evidence) != needed:
        wanted = "one PARITY_JSON" if trace is None else "with --trace, BASELINE and CANDIDATE"
        hint = " To measure two drafts first, add --trace TRACE." if trace is None and len(evidence) == 2 else ""
        problems.append(f"{' '.join(evidence)}: {len(evidence)} given, but {wanted} was needed.{hint}")
    measuring = {
        "--num-speculative-tokens": num_speculative_tokens,
        "--kv-cache-dtype": None if kv_cache_dtype == "auto" else kv_cache_dtype,
        "--parity-output": parity_output,
    }
    if trace is None:
        problems += [
            f"{option}: nothing is measured without --trace. Leave it out."
            for option, value in measuring.items()
            if value is not None
        ]
    if looks == 1 and after is not None:
        problems.append("--looks 1 and --after: a look that follows another is the second of two. Leave --looks out.")
    if times != (None, None) and not all(time is not None and 0 < time < LONGEST_STEP_MS for time in times):
        problems.append("--target-step-ms and --draft-step-ms: both were needed, in milliseconds above 0, or neither.")
    if problems:
        raise UsageError("\n".join(problems))


def _rules(
    margin: float,
    alpha: float,
    category_margin: float | None,
    expect_baseline: float | None,
    looks: int | None,
    bias: float | None,
    require_arch: str | None,
) -> Rules:
    from quark_eagle.documents.verdict import STATED, Bias
    from quark_eagle.errors import UsageError
    from quark_eagle.parity.verdict import NOT_ANCHORED, Rules

    if bias is not None and not 0 <= bias < 1:  # before the document's own type says it in other words
        raise UsageError(f"--bias {bias:g}: the size of an error as a fraction was needed, from 0 to below 1.")
    return Rules(
        margin=margin,
        alpha=alpha,
        category_margin=category_margin,
        looks=1 if looks is None else looks,
        bias=NOT_ANCHORED if bias is None else Bias(bound=bias, anchored=True, source=STATED),
        expected_baseline=expect_baseline,
        require_arch=require_arch,
    )


def _check_files(written: Mapping[str, Path], read: Mapping[str, Path], overwrite: bool) -> None:
    """See before the work that every file may be written, and that none would replace another or what is read.

    Raises:
        UsageError: one may not.
    """
    from quark_eagle.documents.base import refuse_existing
    from quark_eagle.errors import UsageError

    taken = {path.resolve(): name for name, path in read.items()}
    for option, path in written.items():
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise UsageError(f"{option} {path}: is also {other}, but a file of its own was needed. Name another.")
    for path in written.values():
        refuse_existing(path, overwrite=overwrite)


def _evidence(
    evidence: list[str],
    trace: Path | None,
    num_speculative_tokens: int | None,
    kv_cache_dtype: Literal["auto", "fp8"],
    *,
    quiet: bool,
) -> ParityReport:
    """The measurement: read, or made now.

    Raises:
        QuarkEagleError: it cannot be.
    """
    from quark_eagle.documents.parity import ParityReport

    if trace is None:
        return ParityReport.read(Path(evidence[0]))
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.cli.replayed_parity import compare
    from quark_eagle.parity.measurement import Settings
    from quark_eagle.trace.target_trace import TargetTrace

    # A verdict takes the walk and nothing else; `quark-eagle parity` measures the rest as well.
    k = num_speculative_tokens or TargetTrace.open(trace).num_speculative_tokens
    settings = Settings(num_speculative_tokens=k, walk_only=True, kv_cache_dtype=kv_cache_dtype)
    baseline, candidate = map(resolve, evidence)
    return compare(baseline, candidate, trace, settings, json_=quiet)


def _deliver(verdict: Verdict, files: VerdictFiles, json_: bool) -> None:
    """Everything that says the verdict, the files first: what cannot be kept is not announced."""
    from quark_eagle.cli import render
    from quark_eagle.cli.verdict_output import show_verdict, tell_github
    from quark_eagle.errors import StorageError
    from quark_eagle.reporting.wording import TITLES

    files.write(verdict)
    try:
        tell_github(verdict)
    except StorageError:
        files.remove()
        raise
    if json_:
        render.emit(verdict.to_json())
        return
    if verdict.rule == "not evaluated":
        render.say(TITLES[verdict.outcome])  # the error itself follows on stderr
    else:
        show_verdict(verdict)
    for option, path in files.named().items():
        render.say(f"{option}: {path}")
    looks = verdict.looks
    if files.output is not None and verdict.outcome == "inconclusive" and looks.look < looks.planned:
        render.say(f"Second look: quark-eagle gate LARGER.json --after {shlex.quote(str(files.output))}")
