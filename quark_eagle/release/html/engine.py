"""What an engine makes of the files by its own rules, and what static scales stand on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quark_eagle.documents.calibration import CalibratedScale, Calibration
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.html.blocks import Block, Facts, Hash, Section, Table, Text
from quark_eagle.reporting.wording import NOTHING, count


def engine_check(evidence: Evidence) -> Section:
    """Every module as it would be loaded."""
    found = evidence.verification
    modules = found["modules"]
    in_fp8 = sum(bool(module["scheme"]) for module in modules)
    compared = ", each held against the BF16 draft" if found["source"] else ""
    return Section(
        anchor="engine",
        title="What an engine will load",
        lead=f"By the loading rules of {found['engine']}, worked out apart from what wrote the files{compared}: "
        f"{found['verdict']}. {count(len(modules))} modules, {count(in_fp8)} of them in FP8; "
        f"{count(found['num_errors'])} errors, {count(found['num_warnings'])} warnings.",
        blocks=[*_findings(found), _modules(modules)],
    )


def calibrated(evidence: Evidence) -> Iterator[Section]:
    """What was observed; nothing where scales are made as tokens come."""
    calibration = evidence.calibration
    if calibration is None:
        return
    outliers = f" Outliers: {', '.join(calibration.outliers)}." if calibration.outliers else " No module has outliers."
    yield Section(
        anchor="calibration",
        title="Calibration of static scales",
        lead="The scales of activations lie in the file, and were observed on prompts that no verdict stands on."
        + outliers,
        blocks=[_calibration(calibration), _observed(calibration)],
    )


def _findings(found: Mapping[str, Any]) -> Iterator[Block]:
    lines = [f"{it['severity']}: {it['subject']}: {it['message']}" for it in found["findings"]]
    if lines:
        yield Text(lines=lines, is_list=True)


def _modules(modules: list[Mapping[str, Any]]) -> Table:
    return Table(
        caption="Modules as the engine builds them",
        headers=("module", "status", "dtype", "scheme", "shape", "decided by"),
        rows=[
            (
                module["name"],
                module["status"],
                module["dtype"] or NOTHING,
                module["scheme"] or "none",
                " × ".join(map(str, module["shape"] or ())),
                module["decided_by"] or NOTHING,
            )
            for module in modules
        ],
        is_open=True,
        hides=(4, 5),
    )


def _calibration(calibration: Calibration) -> Facts:
    observer = calibration.observer
    parameters = ", ".join(f"{name} {value:g}" for name, value in sorted(observer.parameters.items()))
    return Facts(
        rows=[
            ("observer", f"{observer.name} ({observer.quark_class}{f', {parameters}' if parameters else ''})"),
            ("prompts", f"{count(len(calibration.prompts))}, {count(calibration.num_tokens)} tokens"),
            ("draft steps (k)", str(calibration.num_speculative_tokens)),
            ("computed by", f"{calibration.engine} on {calibration.arch}"),
            ("trace", Hash(sha256=calibration.trace_sha256)),
            ("prompts' hash", Hash(sha256=calibration.prompts_sha256)),
        ]
    )


def _observed(calibration: Calibration) -> Table:
    return Table(
        caption="Scales and what was seen of each activation",
        headers=("activation", "scale", "largest", "over 99.99 %", "clipped", "flushed to 0", "moved late"),
        rows=[_scale(it) for it in calibration.scales],
        right=range(1, 7),
        is_open=True,
        hides=(3, 5, 6),
    )


def _scale(it: CalibratedScale) -> tuple[str, ...]:
    kind = "" if it.kind == "input" else f" ({it.kind})"
    return (
        f"{it.module}{kind}",
        f"{it.scale:.3e}",
        f"{it.absmax:.3g}",
        NOTHING if it.outlier_ratio is None else f"{it.outlier_ratio:.1f} ×",
        count(it.num_clipped),
        count(it.num_flushed),
        f"{it.late_growth:.1%}",
    )
