"""What is said of compared schemes: rows and sentences, on the console and as Markdown, in the same words."""

from __future__ import annotations

import shlex

from quark_eagle.documents.schemes import Error, SchemeResult, SchemesReport
from quark_eagle.reporting.markdown import escape, fenced, table
from quark_eagle.reporting.wording import NOTHING, Row, bounds, how_measured, percent

SCHEME_HEADERS = ("scheme", "bytes a step", "bytes of the file", "τ", "change", "90% interval", "verified", "runs on")
MODULE_HEADERS = ("scheme", "module", "weight", "output, step 1", "output, later steps")
NUM_WORST = 3  # modules named of each scheme


def scheme_rows(report: SchemesReport) -> list[Row]:
    """BF16 and every scheme, in the columns of `SCHEME_HEADERS`."""
    taus = [it.difference.baseline_mean_acceptance_length for it in report.schemes if it.difference is not None]
    tau = f"{taus[0]:.3f}" if taus else NOTHING
    step = _bytes(report.baseline.step_bytes.every_step)
    return [
        ("bf16", step, _bytes(report.baseline_file_bytes), tau, NOTHING, NOTHING, NOTHING, NOTHING),
        *(_scheme_row(report, it) for it in report.schemes),
    ]


def module_rows(report: SchemesReport, num_worst: int | None = NUM_WORST) -> list[Row]:
    """The modules whose outputs lose most, SQNR in dB, in the columns of `MODULE_HEADERS`; all of them if None."""
    return [
        (it.name, module.module, *map(_db, (module.weight, module.output_first_step, module.output_later_steps)))
        for it in report.schemes
        for module in it.worst[:num_worst]
    ]


def sentences(report: SchemesReport) -> list[str]:
    """What a reader should know beside the tables."""
    said = [
        "SQNR in dB of a layer's weight, and of its output for the BF16 draft's own input: 20 dB is an error of 10 %, "
        "each 6 dB more halve it. Where a scheme runs was read in the engine's source; * was tried.",
        f"τ of walks over {_num_prompts(report)} prompts of the selection split: chosen on these, a scheme is to be "
        "judged on others.",
    ]
    said += _how_measured(report)
    said += [
        f"{it.name} is not usable, whatever its τ: {' '.join(it.findings)}" for it in report.schemes if not it.is_usable
    ]
    if report.suggested is None:
        said.append("None of them is verified and measured, so none is suggested.")
    else:
        said.append(f"Suggested: {report.suggested}, the simplest that these prompts do not tell apart from the best.")
    return said


def next_command(report: SchemesReport) -> str | None:
    """What to do with the suggested scheme: quantize, and judge it on the parity split."""
    chosen = next((it for it in report.schemes if it.name == report.suggested), None)
    if chosen is None:
        return None
    words = ["quark-eagle", "quantize", report.draft, "--output", "OUT", "--scheme", chosen.scheme]
    if chosen.observer is not None and report.calibration is not None:
        words += ["--calibration", report.calibration, "--observer", chosen.observer.name]
        percentile = chosen.observer.parameters.get("percentile")
        words += [] if percentile is None else ["--percentile", repr(percentile)]
        words += ["--kv-cache-scales"] if report.kv_cache_dtype == "fp8" else []
    words += [word for pattern in report.keep for word in ("--keep", pattern)]
    words += ["--quantize-fc"] if report.quantize_fc else []
    return f"{shlex.join(words)} --trace PARITY_TRACE"


def to_markdown(report: SchemesReport) -> str:
    """The comparison as GitHub-flavoured Markdown, with every module."""
    parts = [
        f"## Schemes for {escape(report.baseline.name)}",
        table(SCHEME_HEADERS, scheme_rows(report), right=range(1, 5)),
        table(MODULE_HEADERS, module_rows(report, None), right=range(2, 5)),
        *map(escape, sentences(report)),
    ]
    command = next_command(report)
    return "\n\n".join([*parts, *([] if command is None else [f"Next:\n\n{fenced(command)}"])]) + "\n"


def _scheme_row(report: SchemesReport, it: SchemeResult) -> Row:
    before, found = report.baseline.step_bytes.every_step, it.difference
    after = it.arm.step_bytes.every_step
    return (
        it.name,
        f"{_bytes(after)} ({after / before - 1:+.1%})",
        f"{_bytes(it.file_bytes)} ({it.file_bytes / report.baseline_file_bytes - 1:+.1%})",
        NOTHING if found is None else f"{found.candidate_mean_acceptance_length:.3f}",
        NOTHING if found is None else percent(found.estimate),
        NOTHING if found is None else bounds(found.interval),
        it.verification,
        _runs(it),
    )


def _runs(it: SchemeResult) -> str:
    """Where the scheme runs: an asterisk where that was tried."""
    devices: dict[str, list[str]] = {}
    for where in it.engines:
        if where.runs:
            devices.setdefault(where.engine, []).append(f"{where.device}{'*' if where.seen else ''}")
    return "; ".join(f"{engine}: {', '.join(found)}" for engine, found in devices.items()) or "nowhere"


def _how_measured(report: SchemesReport) -> list[str]:
    """Where the counts come from and what was emulated, with the names of those it is true of."""
    names: dict[str, list[str]] = {}
    for it in report.schemes:
        said = how_measured(report.provenance.model_copy(update={"candidate_fp8": it.computed}))
        names.setdefault(said, []).append(it.name)
    return [f"{', '.join(found)}: {said[0].lower()}{said[1:]}" for said, found in names.items()]


def _num_prompts(report: SchemesReport) -> int:
    return max((it.difference.num_prompts for it in report.schemes if it.difference is not None), default=0)


def _bytes(number: int) -> str:
    return f"{number / 1e6:,.2f} MB" if number < 1e8 else f"{number / 1e9:,.2f} GB"


def _db(error: Error | None) -> str:
    if error is None:
        return NOTHING
    if error.noise_energy is None:
        return "not finite"
    return "exact" if error.sqnr_db is None else f"{error.sqnr_db:.1f}"
