"""Collecting: the evidence that a user gives, or that `quantize` left beside OUT, under the names that a bundle has.

Files are copied byte for byte, since their hashes are part of what they say. Only a verdict that nobody gave is made
here: by the rules that were asked for, and of the date that everything in the bundle has.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from quark_eagle.checkpoint.manifest import RECORD_NAME, digest
from quark_eagle.documents.base import DocumentT, write_text
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import Verdict
from quark_eagle.errors import QuarkEagleError, StorageError, UsageError, findings
from quark_eagle.parity.gate import gate
from quark_eagle.parity.verdict import NOT_ANCHORED, Rules
from quark_eagle.release import contents
from quark_eagle.release.evidence import Given
from quark_eagle.worth import worth

BESIDE = ("parity.json", "served.parity.json")
"""Measurements that `quantize` leaves beside OUT, as ``OUT.parity.json``."""
EPOCH = "SOURCE_DATE_EPOCH"
"""Seconds since 1970 that say how old a build is, whenever it is made (reproducible-builds.org)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the evidence about a checkpoint lies.

    Attributes:
        checkpoint: OUT.
        parity: one measurement, or a replayed one and a served one.
        verdict: on one of them; None: it is judged now.
        calibration: what static scales were observed on.
    """

    checkpoint: Path
    parity: tuple[Path, ...]
    verdict: Path | None = None
    calibration: Path | None = None

    @classmethod
    def of(
        cls,
        checkpoint: Path,
        *,
        parity: Sequence[Path] = (),
        verdict: Path | None = None,
        calibration: Path | None = None,
        judge: bool = False,
    ) -> Sources:
        """What was given; where no measurement was, what lies beside OUT.

        Args:
            checkpoint: OUT.
            parity: measurements.
            verdict: on one of them.
            calibration: the document; looked for beside OUT if it is not given.
            judge: anew, whatever verdict lies there.

        Raises:
            UsageError: there is no measurement, or more than one and its counterpart.
        """
        beside = [_beside(checkpoint, suffix) for suffix in BESIDE]
        found = tuple(parity) or tuple(path for path in beside if path.is_file())
        if not 1 <= len(found) <= 2:
            wanted = "one measurement was needed, or a replayed one and a served one"
            names = ", ".join(map(str, found)) or f"none, and none lies beside it ({beside[0].name})"
            raise UsageError(
                f"--evidence {names}: {len(found)} given, but {wanted}. "
                "Give what `quark-eagle parity --output` or `quark-eagle quantize` wrote."
            )
        here = _beside(checkpoint, "verdict.json")
        if verdict is None and not parity and not judge and here.is_file():
            verdict = here
        there = _beside(checkpoint, "calibration.json")
        if calibration is None and there.is_file():
            calibration = there
        return cls(checkpoint=checkpoint, parity=found, verdict=verdict, calibration=calibration)


def _beside(checkpoint: Path, suffix: str) -> Path:
    resolved = checkpoint.absolute()
    return resolved.with_name(f"{resolved.name}.{suffix}")


def collect(sources: Sources, room: Path, rules: Rules) -> Given:
    """Lay the evidence out in an empty directory as it lies in a bundle.

    Args:
        sources: where it lies.
        room: the directory.
        rules: of the verdict, if none was given.

    Raises:
        UsageError: two measurements are both served or both replayed, or the verdict is of neither.
        QuarkEagleError: a file is none of those that it should be; all of them are listed.
    """
    (room / contents.EVIDENCE).mkdir()
    reports, verdict = _read(sources)
    judged = _judged(reports, verdict)
    _copy(sources.checkpoint / RECORD_NAME, room / RECORD_NAME)
    for path, report in reports.items():
        beside = contents.REPLAYED if report.served is None else contents.SERVED
        _copy(path, room / (contents.PARITY if path == judged else beside))
    if sources.calibration is not None and _is_static(reports[judged]):
        _copy(sources.calibration, room / contents.CALIBRATION)
    if sources.verdict is not None:
        _copy(sources.verdict, room / contents.VERDICT)
    else:
        write_text(room / contents.VERDICT, _verdict(reports[judged], judged, rules).to_json())
    return Given.read(room)


def _read(sources: Sources) -> tuple[Mapping[Path, ParityReport], Verdict | None]:
    """Measurements and verdict, read under the names that the user knows."""
    reports = {path: _or_why(ParityReport.read, path) for path in sources.parity}
    verdict = None if sources.verdict is None else _or_why(Verdict.read, sources.verdict)
    problems = [str(it) for it in (*reports.values(), verdict) if isinstance(it, QuarkEagleError)]
    if problems or isinstance(verdict, QuarkEagleError):
        raise QuarkEagleError("\n".join(problems))
    return {path: report for path, report in reports.items() if isinstance(report, ParityReport)}, verdict


def _or_why(read: Callable[[Path], DocumentT], path: Path) -> DocumentT | QuarkEagleError:
    """A document, or why it cannot be read: the others are read all the same."""
    try:
        return read(path)
    except QuarkEagleError as error:
        return error


def date_of(given: Given) -> str:
    """The day of a release: of SOURCE_DATE_EPOCH if that is set, else of the verdict.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is no number of seconds.
    """
    return (_epoch() or given.verdict.created)[: len("2026-01-31")]


def _epoch() -> str | None:
    """SOURCE_DATE_EPOCH as a time, in ISO 8601; None where it is not set."""
    seconds = os.environ.get(EPOCH)
    if not seconds:
        return None
    try:
        return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"{EPOCH}={seconds}: is no number of seconds since 1970. Set it to one, or unset it."
        ) from error


def _judged(reports: Mapping[Path, ParityReport], verdict: Verdict | None) -> Path:
    """The measurement that the verdict is about: by its hash; where none was given, what an engine counted itself."""
    if len({report.served is None for report in reports.values()}) != len(reports):
        raise UsageError(
            findings(
                "--evidence",
                [f"{path}: {'replayed' if report.served is None else 'served'}." for path, report in reports.items()],
                "Of two measurements one is replayed and one is served, and the verdict is about one. Leave one out.",
            )
        )
    if verdict is None or verdict.evidence is None:
        return max(reports, key=lambda path: reports[path].served is not None)
    wanted = verdict.evidence.parity_sha256
    found = [path for path in reports if digest(path).sha256 == wanted]
    # What the verdict is not about is found and said by `binding`, with everything else that does not fit.
    return found[0] if found else next(iter(reports))


def _is_static(report: ParityReport) -> bool:
    """Whether the candidate has scales that somebody calibrated; a document beside another draft is not its own."""
    return report.candidate.calibrated_on is not None


def _verdict(report: ParityReport, path: Path, rules: Rules) -> Verdict:
    """A verdict of our own, on the file as it is; it says neither when nor on which machine it was reached."""
    if report.served is not None:
        rules = replace(rules, bias=NOT_ANCHORED)
    found = gate(report, rules, parity=Path(contents.PARITY), worth=worth(report, margin=rules.margin))
    assert found.evidence is not None  # what is judged is evidence
    evidence = found.evidence.model_copy(update={"parity_sha256": digest(path).sha256})
    return found.model_copy(update={"created": _epoch() or report.provenance.created, "evidence": evidence})


def _copy(source: Path, place: Path) -> None:
    try:
        shutil.copyfile(source, place)
    except OSError as error:
        needs = "A draft is released with what `quark-eagle quantize` wrote about it, so it is needed."
        raise StorageError(f"{source}: could not be copied ({error.strerror}). {needs}") from error
