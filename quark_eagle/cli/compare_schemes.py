"""`quark-eagle compare-schemes`: several ways to quantize one draft, held against BF16 and each other."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quark_eagle.cli import render
from quark_eagle.cli.calibration_options import CalibrationOption, CalibTokensOption, PercentileOption
from quark_eagle.cli.exit_codes import ExitCode
from quark_eagle.cli.options import (
    DraftArg,
    JsonFlag,
    KeepOption,
    OverwriteFlag,
    QuantizeFcFlag,
    ReplayDeviceOption,
    RevisionOption,
    speculative_tokens,
)
from quark_eagle.cli.quantize_output import announce_kernel
from quark_eagle.quantize.scheme import Scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quark_eagle.compare.run import SchemeComparison
    from quark_eagle.documents.schemes import SchemesReport
    from quark_eagle.quantize.calibration.observer import ObserverChoice

ALL_SCHEMES = ",".join(scheme.value for scheme in Scheme)


def compare_schemes(
    draft: DraftArg,
    selection: Annotated[
        Path,
        typer.Option(
            "--selection",
            metavar="TRACE",
            help="Trace of the selection split (`trace --split selection`), to compare on.",
            show_default=False,
        ),
    ],
    calibration: CalibrationOption = None,
    revision: RevisionOption = None,
    schemes: Annotated[
        str, typer.Option(metavar="NAMES", help="Schemes to compare, with commas between.")
    ] = ALL_SCHEMES,
    observer: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Static schemes are made once with each, with commas: min_max (default), percentile, mse, histogram.",
            show_default=False,
        ),
    ] = None,
    keep: KeepOption = None,
    quantize_fc: QuantizeFcFlag = False,
    percentile: PercentileOption = None,
    calib_tokens: CalibTokensOption = None,
    num_speculative_tokens: Annotated[
        int | None,
        speculative_tokens(
            "Tokens proposed per draft (k). Default: that of the draft served with the selection trace, else 3."
        ),
    ] = None,
    kv_cache_dtype: Annotated[
        Literal["auto", "fp8"],
        typer.Option(help="Of the candidates' KV cache: auto is the model's; fp8 is calibrated too."),
    ] = "auto",
    device: ReplayDeviceOption = "cpu",
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write all of it.")] = Path(
        "schemes.json"
    ),
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the tables as Markdown too, with every module.", show_default=False),
    ] = None,
    keep_drafts: Annotated[
        Path | None,
        typer.Option(
            "--keep-drafts",
            metavar="DIR",
            help="Keep the quantized drafts, their calibrations and counts in this new directory.",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Quantize DRAFT in several ways, and say what each costs and gains against BF16.

    Bytes, error of every weight and of every layer's output (SQNR), τ with its interval, and where each scheme runs.
    Every draft is made in a scratch directory, verified by vLLM's rules and replayed over prompts of the split
    selection; those of parity stay unseen until the verdict, and are refused here. It decides nothing: exit 0, and 3
    only if vLLM would load none of them as it was meant.
    Example: quark-eagle compare-schemes DRAFT --calibration CALIBRATION_TRACE --selection SELECTION_TRACE
    """
    from quark_eagle.checkpoint.source import at_revision, resolve
    from quark_eagle.compare.candidates import Scope
    from quark_eagle.compare.run import SchemeComparison
    from quark_eagle.documents.base import refuse_existing, write_text
    from quark_eagle.parity.measurement import Settings
    from quark_eagle.reporting.schemes import to_markdown
    from quark_eagle.trace.target_trace import TargetTrace

    named = [Scheme.named(name) for name in _names("--schemes", schemes)]
    observers = _observers(_names("--observer", "min_max" if observer is None else observer), percentile)
    if kv_cache_dtype == "auto" and not any(scheme.needs_calibration for scheme in named):
        _refuse_pointless(
            {
                "--calibration": calibration,
                "--observer": observer,
                "--percentile": percentile,
                "--calib-tokens": calib_tokens,
            }
        )
    _refuse_one_file(output, markdown)
    for file in filter(None, (output, markdown)):
        refuse_existing(file, overwrite=overwrite)
    comparison = SchemeComparison.open(
        resolve(at_revision(draft, revision)),
        selection,
        calibration,
        schemes=named,
        observers=observers,
        scope=Scope(keep=tuple(keep or ()), quantize_fc=quantize_fc),
        max_tokens=calib_tokens,
        settings=Settings(
            num_speculative_tokens=num_speculative_tokens or TargetTrace.open(selection).num_speculative_tokens,
            walk_only=True,
            device=device,
            kv_cache_dtype=kv_cache_dtype,
        ),
    )
    if not json_:
        _announce(comparison)
        announce_kernel()
    report = _run(comparison, keep_drafts, output, ["quark-eagle", *sys.argv[1:]], quiet=json_)
    write_text(output, report.to_json())
    comparison.forget(output)
    if markdown is not None:
        write_text(markdown, to_markdown(report))
    if json_:
        render.emit_json({**report.model_dump(mode="json"), "output": str(output)})
    else:
        _show(report, output)
    if not any(it.is_usable for it in report.schemes):
        raise typer.Exit(int(ExitCode.NO))


def _run(
    comparison: SchemeComparison, keep: Path | None, output: Path, command_line: list[str], *, quiet: bool
) -> SchemesReport:
    from quark_eagle.documents.base import refuse_existing

    progress = render.progress(quiet=quiet)
    if keep is not None:
        refuse_existing(keep, overwrite=False)
        keep.mkdir()
        return comparison.run(keep, output, keep=True, command_line=command_line, progress=progress)
    with tempfile.TemporaryDirectory(prefix="quark-eagle-schemes-") as scratch:
        return comparison.run(Path(scratch), output, command_line=command_line, progress=progress)


def _names(option: str, text: str) -> list[str]:
    """What stands between commas, each once.

    Raises:
        UsageError: nothing does.

    >>> _names("--schemes", "fp8, ptpc_fp8,fp8")
    ['fp8', 'ptpc_fp8']
    """
    from quark_eagle.errors import UsageError

    names = [*dict.fromkeys(name.strip() for name in text.split(",") if name.strip())]
    if not names:
        raise UsageError(
            f"{option} {text!r}: names nothing, but one name was needed at least. Name one, or leave it out."
        )
    return names


def _refuse_pointless(options: dict[str, object]) -> None:
    """Options of a calibration where none is made, as `quantize` refuses them."""
    from quark_eagle.errors import UsageError

    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UsageError(
            f"{', '.join(given)}: no scheme in --schemes is calibrated, so this would be read by nobody. Leave it out, "
            "or add a static scheme or --kv-cache-dtype fp8."
        )


def _refuse_one_file(output: Path, markdown: Path | None) -> None:
    from quark_eagle.errors import UsageError

    if markdown is not None and markdown.resolve() == output.resolve():
        raise UsageError(
            f"--output and --markdown: both are {output}, and one would replace the other. Give two files."
        )


def _observers(names: Sequence[str], percentile: float | None) -> list[ObserverChoice]:
    from quark_eagle.errors import UsageError
    from quark_eagle.quantize.calibration.observer import Observer, ObserverChoice

    chosen = [Observer.named(name) for name in names]
    if percentile is not None and Observer.PERCENTILE not in chosen:
        raise UsageError(f"--percentile {percentile:g}: means nothing without --observer percentile. Add it.")
    return [ObserverChoice(observer=it, percentile=percentile if it is Observer.PERCENTILE else None) for it in chosen]


def _announce(comparison: SchemeComparison) -> None:
    """Say what it will take, before it starts."""
    named = ", ".join(it.name for it in comparison.candidates)
    seconds = render.duration(comparison.estimate_seconds())
    observers = len({it.choice for it in comparison.candidates if it.choice is not None})
    calibrated = "" if comparison.calibration is None else f", and calibrates {observers} times"
    render.note(f"Compares {named} with bf16: replays {len(comparison.selection)} prompts for {seconds}{calibrated}.")


def _show(report: SchemesReport, output: Path) -> None:
    from quark_eagle.reporting.schemes import (
        MODULE_HEADERS,
        SCHEME_HEADERS,
        module_rows,
        next_command,
        scheme_rows,
        sentences,
    )

    render.show(render.table(SCHEME_HEADERS, scheme_rows(report), right=(1, 2, 3, 4)))
    render.say()
    render.show(render.table(MODULE_HEADERS, module_rows(report), right=(2, 3, 4)))
    render.say()
    for line in sentences(report):
        render.say(line)
    command = next_command(report)
    render.say(f"All of it: {output}" + ("" if command is None else f"\nNext: {command}"))
