"""`quark-eagle explain`: where acceptance was lost. It explains a measurement; `gate` decides on it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quark_eagle.cli.options import JsonFlag, OptionalTraceOption, OverwriteFlag

if TYPE_CHECKING:
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.parity.contexts import Contexts
    from quark_eagle.parity.explain import Explanation


def explain(
    report: Annotated[
        Path, typer.Argument(metavar="PARITY_JSON", help="Written by `quark-eagle parity`.", show_default=False)
    ],
    baseline: Annotated[
        str | None,
        typer.Option(metavar="DRAFT", help="The BF16 draft of that measurement: shows the tokens that were lost."),
    ] = None,
    candidate: Annotated[
        str | None, typer.Option(metavar="DRAFT", help="The FP8 draft of that measurement; with --baseline.")
    ] = None,
    trace: OptionalTraceOption = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory of the target, whose tokenizer.json turns tokens into text."),
    ] = None,
    prompts: Annotated[
        int, typer.Option(min=1, metavar="N", help="Conversations that are named and replayed, the worst first.")
    ] = 5,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw marginal acceptance with intervals: .png or .svg.")
    ] = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Show where acceptance was lost: by position, category and conversation, from the counts alone.

    With both drafts, the worst conversations are replayed on the trace (by default the one that the report names), and
    the tokens that the candidate lost are shown in their context. Exits with 0, or 5 if the report cannot be read.
    Example: quark-eagle explain parity.json --baseline DRAFT --candidate DRAFT-FP8 --plot acceptance.svg
    """
    from quark_eagle.cli import render
    from quark_eagle.cli.explain_output import draw, show_contexts, show_explanation
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.parity.explain import explain as explain_report
    from quark_eagle.reporting.plot import require_plottable

    drafts = _drafts(baseline, candidate, {"--trace": trace, "--tokenizer": tokenizer})
    if plot is not None:
        require_plottable(plot, overwrite=overwrite)
    measured = ParityReport.read(report)
    explanation = explain_report(measured, num_worst=prompts)
    contexts = None if drafts is None else _contexts(measured, explanation, drafts, trace, tokenizer, quiet=json_)
    if plot is not None:
        draw(explanation, plot)
    if json_:
        shown = None if contexts is None else contexts.to_json()
        render.emit_json({**explanation.to_json(), "contexts": shown, "plot": None if plot is None else str(plot)})
        return
    show_explanation(explanation)
    if contexts is not None:
        show_contexts(contexts)
    if plot is not None:
        render.say(f"\n--plot: {plot}")
    _suggest(report, explanation, replayed=contexts is not None)


def _drafts(baseline: str | None, candidate: str | None, others: dict[str, Path | None]) -> tuple[str, str] | None:
    """Both drafts, or None if nothing is to be replayed.

    Raises:
        UsageError: one of them is missing, or an option that only a replay uses is given without them.
    """
    from quark_eagle.errors import UsageError

    if baseline is not None and candidate is not None:
        return baseline, candidate
    given = {"--baseline": baseline, "--candidate": candidate, **others}
    named = [option for option, value in given.items() if value is not None]
    if named:
        raise UsageError(
            f"{', '.join(named)}: given, but --baseline and --candidate were both needed to replay anything: a report "
            "holds only hashes of its drafts. Give both, or leave these out."
        )
    return None


def _contexts(
    report: ParityReport,
    explanation: Explanation,
    drafts: tuple[str, str],
    trace: Path | None,
    tokenizer: Path | None,
    *,
    quiet: bool,
) -> Contexts:
    """The worst conversations, replayed."""
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.cli import render
    from quark_eagle.opening import open_comparison
    from quark_eagle.parity.contexts import show_contexts
    from quark_eagle.parity.measured_with import require_measured
    from quark_eagle.trace.token_text import open_tokenizer, tokenizer_of_target

    decode = tokenizer_of_target(report.provenance.target) if tokenizer is None else open_tokenizer(tokenizer)
    baseline, candidate = map(resolve, drafts)
    directory = _trace(report) if trace is None else trace
    require_measured(report, baseline, candidate, directory)
    comparison = open_comparison(
        baseline,
        candidate,
        directory,
        num_speculative_tokens=report.num_speculative_tokens,
        dtype="float32" if report.provenance.dtype == "float32" else "bfloat16",
    )
    worst = {(one.category, one.id): place for place, one in enumerate(explanation.worst)}
    chosen = [prompt for prompt in report.prompts if (prompt.category, prompt.id) in worst]
    chosen.sort(key=lambda prompt: worst[prompt.category, prompt.id])  # turns of a conversation stay in their order
    return show_contexts(comparison, chosen, decode, render.progress(quiet=quiet))


def _trace(report: ParityReport) -> Path:
    """Where the report says that its trace is.

    Raises:
        UsageError: it is not there, or there is none.
    """
    from quark_eagle.errors import UsageError

    if report.provenance.trace is None:
        raise UsageError(
            "the report's drafts were served, and a server tells how many of its proposals were accepted, not which "
            "they were. Leave out --baseline and --candidate; or record a trace, compare on it and explain that report."
        )
    directory = Path(report.provenance.trace)
    if not directory.is_dir():
        raise UsageError(
            f"{directory}: the report names this trace, but it is not here. Say where it is with --trace TRACE."
        )
    return directory


def _suggest(report: Path, explanation: Explanation, *, replayed: bool) -> None:
    """What to run next."""
    from quark_eagle.cli import render

    quoted = shlex.quote(str(report))
    render.say()
    if explanation.worst and not replayed:
        render.say(f"The tokens that were lost: quark-eagle explain {quoted} --baseline DRAFT --candidate DRAFT-FP8")
    render.say(f"Next: quark-eagle gate {quoted}")
