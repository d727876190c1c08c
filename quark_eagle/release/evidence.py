"""Evidence: everything that a bundle's prose is rendered from, read from the bundle itself. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from quark_eagle.checkpoint.manifest import RECORD_NAME, Manifest
from quark_eagle.documents.calibration import Calibration
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.release import Environment, ReleaseRecord
from quark_eagle.documents.verdict import Verdict
from quark_eagle.documents.weights import WeightStatistics
from quark_eagle.errors import QuarkEagleError, StorageError, findings
from quark_eagle.release import contents

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was there before the release: how the draft was made, what was measured of it, and the verdict.

    Attributes:
        directory: the bundle, or what is becoming one.
        record: ``quark_eagle.json``: the plan, the sizes, the files that went in and came out.
        parity: the measurement that was judged.
        replayed: the replay beside it, where the judged one was served and a replay was given too.
        served: the other way round: what was served, where the judged one was replayed.
        verdict: on `parity`.
        calibration: what static scales were observed on; None where there are none.
    """

    directory: Path
    record: Mapping[str, Any]
    parity: ParityReport
    replayed: ParityReport | None = None
    served: ParityReport | None = None
    verdict: Verdict
    calibration: Calibration | None = None

    @property
    def reports(self) -> dict[str, ParityReport]:
        """Every measurement by its file in the bundle, the judged one first."""
        found = {contents.PARITY: self.parity, contents.REPLAYED: self.replayed, contents.SERVED: self.served}
        return {name: report for name, report in found.items() if report is not None}

    @classmethod
    def read(cls, directory: Path | str) -> Given:
        """What was given, from a directory that is becoming a bundle.

        Raises:
            QuarkEagleError: files are missing, cannot be read, or are not what they should be; all are listed.
        """
        reading = _Reading(Path(directory))
        found = reading.given()
        reading.require_whole()
        return cls(directory=Path(directory), **found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(Given):
    """Everything that a bundle says, and stands on.

    Attributes:
        directory: the bundle; config.json and the headers of the weights may be read from it.
        release: what is released, as what, and what was set aside for it.
        verification: ``verify --json`` of these weights, by an engine's rules; without paths.
        weights: of every tensor: dtype, shape, bytes, scales and, where BF16 was at hand, errors.
        environment: with what all of it was made.
    """

    release: ReleaseRecord
    verification: Mapping[str, Any]
    weights: WeightStatistics
    environment: Environment

    @classmethod
    def read(cls, directory: Path | str) -> Evidence:
        """The evidence in a bundle.

        Raises:
            QuarkEagleError: files are missing, cannot be read, or are not what they should be; all are listed.
        """
        reading = _Reading(Path(directory))
        found = reading.given() | {
            "release": reading.one(contents.RELEASE, ReleaseRecord.read),
            "verification": reading.one(contents.VERIFICATION, read_verification),
            "weights": reading.one(contents.WEIGHTS, WeightStatistics.read),
            "environment": reading.one(contents.ENVIRONMENT, Environment.read),
        }
        reading.require_whole()
        return cls(directory=Path(directory), **found)


class _Reading:
    """Files of one bundle, read on past the first that is wrong."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.problems: list[str] = []

    def given(self) -> dict[str, Any]:
        """The fields of `Given`, as far as they can be read."""
        return {
            "record": self.one(RECORD_NAME, read_record),
            "parity": self.one(contents.PARITY, ParityReport.read),
            "replayed": self.maybe(contents.REPLAYED, ParityReport.read),
            "served": self.maybe(contents.SERVED, ParityReport.read),
            "verdict": self.one(contents.VERDICT, Verdict.read),
            "calibration": self.maybe(contents.CALIBRATION, Calibration.read),
        }

    def one(self, name: str, read: Callable[[Path], T]) -> T | None:
        """What a file holds; None where it cannot be read, which is noted."""
        if not (self.bundle / name).is_file():
            self.problems.append(f"{name} is missing.")
            return None
        try:
            return read(self.bundle / name)
        except QuarkEagleError as error:
            self.problems.append(str(error).removeprefix(f"{self.bundle}/"))
            return None

    def maybe(self, name: str, read: Callable[[Path], T]) -> T | None:
        """The same of a file that need not be there."""
        return self.one(name, read) if (self.bundle / name).exists() else None

    def require_whole(self) -> None:
        if self.problems:
            advice = "Without all of its evidence nothing can be said of a bundle. Fetch it again, or release again."
            raise QuarkEagleError(findings(str(self.bundle), self.problems, advice))


def read_record(path: Path) -> Mapping[str, Any]:
    """What `quantize` wrote down: its plan and sizes, and the manifests of what went in and came out.

    Raises:
        StorageError: the file may not be read.
        QuarkEagleError: it is not such a record.
    """
    record = read_object(path)
    kinds = {"plan": dict, "input": dict, "output": dict, "tensors_before_bytes": int, "tensors_after_bytes": int}
    problems = [
        f"{name} is missing, or no {kind.__name__}."
        for name, kind in kinds.items()
        if not isinstance(record.get(name), kind)
    ]
    if problems:
        raise QuarkEagleError(findings(str(path), problems, "Restore it as `quark-eagle quantize` wrote it."))
    for name in ("input", "output"):
        Manifest.from_json(record[name])
    decisions = record["plan"].get("decisions")
    if not isinstance(decisions, list) or not all(_is_decision(it) for it in decisions):
        raise QuarkEagleError(f"{path}: its plan has no decision for each tensor. Restore it as it was written.")
    plan = record["plan"]
    texts = {"plan.keep": plan.get("keep"), "command_line": record.get("command_line", [])}
    problems = [f"{name} is no list of strings." for name, found in texts.items() if not _is_texts(found)]
    if not isinstance(plan.get("scheme"), str) or not isinstance(plan.get("quantize_fc"), bool):
        problems.append("plan has no scheme, or does not say whether fc is quantized.")
    if not _names_a_calibration(record.get("activation_scales")):
        problems.append("activation_scales name no calibration.")
    if problems:
        raise QuarkEagleError(findings(str(path), problems, "Restore it as `quark-eagle quantize` wrote it."))
    return record


def _is_decision(entry: Any) -> bool:
    told = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("tensor", "action", "reason"))
    return told and entry["action"] in ("quantize", "keep")


def _is_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(it, str) for it in found)


def _names_a_calibration(scales: Any) -> bool:
    """Whether this is what a record says of static scales, which is nothing for others."""
    return scales is None or (isinstance(scales, dict) and isinstance(scales.get("calibration"), dict))


def read_verification(path: Path) -> Mapping[str, Any]:
    """What `verify --json` said, as far as prose is made of it.

    Raises:
        StorageError: the file may not be read.
        QuarkEagleError: it is no such report.
    """
    report = read_object(path)
    problems = _unlike(report, _VERIFICATION)
    for part, kinds in (("modules", _MODULE), ("findings", _FINDING)):
        entries = report.get(part)
        for place, entry in enumerate(entries if isinstance(entries, list) else ()):
            problems += [f"{part}.{place}: {problem}" for problem in _unlike(entry, kinds)]
    if problems:
        raise QuarkEagleError(findings(str(path), problems[:10], "Restore it as `quark-eagle release` wrote it."))
    return report


_MAYBE_TEXT = (str, type(None))
_VERIFICATION: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("verdict", "engine"), (str,)),
    **dict.fromkeys(("num_errors", "num_warnings"), (int,)),
    **dict.fromkeys(("modules", "findings"), (list,)),
    "source": _MAYBE_TEXT,
}
_MODULE: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "status"), (str,)),
    **dict.fromkeys(("dtype", "scheme", "decided_by"), _MAYBE_TEXT),
    "shape": (list, type(None)),
}
_FINDING: Mapping[str, tuple[type, ...]] = dict.fromkeys(("severity", "subject", "message"), (str,))


def _unlike(entry: Any, kinds: Mapping[str, tuple[type, ...]]) -> list[str]:
    """Where a JSON object is not of these kinds."""
    if not isinstance(entry, dict):
        return ["is no object."]
    return [f"{key} is missing, or of another kind." for key, kind in kinds.items() if _is_not(entry, key, kind)]


def _is_not(entry: Mapping[str, Any], key: str, kind: tuple[type, ...]) -> bool:
    return key not in entry or not isinstance(entry[key], kind) or isinstance(entry[key], bool)


def read_object(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file.

    Raises:
        StorageError: the file may not be read.
        QuarkEagleError: it holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: could not be read ({error.strerror}). Copy it again.") from error
    except ValueError as error:
        raise QuarkEagleError(f"{path}: is no JSON ({error}). Copy it again.") from error
    if not isinstance(content, dict):
        raise QuarkEagleError(f"{path}: holds no JSON object. Copy it again.")
    return content


def as_json(content: Mapping[str, Any]) -> str:
    """The text of a JSON file of evidence that is no document of ours."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
