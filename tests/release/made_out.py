"""A checkpoint and its evidence as `quantize` leaves them: OUT, and ``OUT.parity.json`` and its like beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import Verdict
from quark_eagle.release import contents
from quark_eagle.release.evidence import Given
from tests.reports import verdict_on

LEFT_BESIDE = {
    contents.PARITY: "parity.json",
    contents.VERDICT: "verdict.json",
    contents.CALIBRATION: "calibration.json",
}


def write_out(bundle: Path, directory: Path) -> Path:
    """Takes a made bundle apart: the checkpoint alone, its evidence beside it, and the BF16 draft in ``draft``."""
    out = directory / "tiny-fp8"
    shutil.copytree(bundle, out, ignore=shutil.ignore_patterns(contents.EVIDENCE, *contents.WRITTEN))
    shutil.copytree(bundle.with_name(f"{bundle.name}.draft"), directory / "draft")
    for name, suffix in LEFT_BESIDE.items():
        if (bundle / name).is_file():
            shutil.copyfile(bundle / name, beside(out, suffix))
    return out


def beside(out: Path, suffix: str) -> Path:
    """``OUT.suffix``."""
    return out.with_name(f"{out.name}.{suffix}")


def measured_again(given: Given, report: ParityReport, **rules: Any) -> Given:
    """The same evidence with another measurement, and a verdict of its own on that."""
    verdict = verdict_on(report, contents.PARITY, **rules)
    (given.directory / contents.PARITY).write_text(report.to_json(), encoding="utf-8")
    (given.directory / contents.VERDICT).write_text(verdict.to_json(), encoding="utf-8")
    return Given.read(given.directory)


def rewrite(given: Given, *, parity: ParityReport | None = None, verdict: Verdict | None = None) -> Given:
    """The same evidence with one document changed, and nothing that speaks of it."""
    for name, document in ((contents.PARITY, parity), (contents.VERDICT, verdict)):
        if document is not None:
            (given.directory / name).write_text(document.to_json(), encoding="utf-8")
    return Given.read(given.directory)
