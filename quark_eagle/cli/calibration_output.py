"""What `quantize` says of a calibration: before it starts, and what its scales are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quark_eagle.cli import render

if TYPE_CHECKING:
    from quark_eagle.documents.calibration import CalibratedScale
    from quark_eagle.quantize.calibration.run import CalibrationEstimate

LATE_GROWTH = 0.02  # of a scale over the second half of the tokens, from which more tokens are worth asking for


def announce(estimate: CalibrationEstimate) -> None:
    """Time and memory, before the long part starts."""
    left = f"{estimate.num_prompts} prompts"
    if estimate.num_done:
        left = f"{estimate.num_prompts - estimate.num_done} of {left} left"
    render.note(
        f"Calibrating on {left}, {estimate.num_tokens} tokens in all: about {render.duration(estimate.seconds)}, after "
        f"20 s to import AMD Quark; {render.size(estimate.memory_bytes)} of memory."
    )


def show_calibration(path: Path) -> None:
    """The scales in a document as a table, then what a person should know of them."""
    from quark_eagle.documents.calibration import Calibration

    calibration = Calibration.read(path)
    observer = calibration.observer
    said = ", ".join(f"{name} {value:.10g}" for name, value in observer.parameters.items())
    steps = " + ".join(map(str, calibration.num_tokens_of_step))
    render.say(
        f"Calibrated with AMD Quark's {observer.quark_class}{f' ({said})' if said else ''} on "
        f"{len(calibration.prompts)} prompts: {steps} tokens in {calibration.num_speculative_tokens} steps."
    )
    headers = [
        "activation",
        "scale",
        "largest",
        "99.99 %",
        "clipped",
        "to zero",
        "2nd half",
        "by eighths of the tokens",
    ]
    rows = [_row(it) for it in calibration.scales]
    render.show(render.table(headers, rows, right=(1, 2, 3, 4, 5, 6)))
    chains = calibration.chain_tokens
    if chains.recorded or chains.ended:
        total = chains.own_proposals + chains.recorded + chains.ended
        render.say(
            f"{chains.own_proposals} of {total} tokens fed to later steps were the draft's own; for {chains.recorded} "
            f"the recorded token stood in, as the trace lends no embedding of the proposal, and {chains.ended} chains "
            "ended there."
        )
    for it in calibration.scales:
        if it.has_outliers:
            render.warn(_outlier(it))
    growing = [it for it in calibration.scales if it.late_growth > LATE_GROWTH]
    if growing:
        named = ", ".join(f"{it.module} ({it.late_growth:.1%})" for it in growing)
        render.warn(f"Still moving over the second half of the tokens: {named}. More prompts would say where it ends.")
    render.say(f"All of it: {path}\n")


def _row(it: CalibratedScale) -> tuple[object, ...]:
    last = it.scale
    shares = " ".join(f"{point.scale / last:.0%}" for point in it.convergence)
    return (
        it.module,
        f"{it.scale:.4g}",
        f"{it.absmax:.4g}",
        f"{it.percentile_99_99:.4g}",
        f"{it.num_clipped / max(1, it.num_values):.2g}",
        f"{it.num_flushed / max(1, it.num_values):.2g}",
        f"{it.late_growth:+.1%}" if it.late_growth else "0",
        shares,
    )


def _outlier(it: CalibratedScale) -> str:
    peak = it.peak
    return (
        f"{it.module}: the largest magnitude, {peak.absmax:.4g}, is {it.outlier_ratio:.0f} × the 99.99th percentile. "
        f"Step {peak.step}, prompt {peak.prompt}, position {peak.position}, channel {peak.channel}."
    )
