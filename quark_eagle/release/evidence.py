"""Evidence: everything that a bundle's prose is rendered from, read from the bundle itself. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.documents.calibration import Calibration
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.release import Environment, ReleaseRecord
from quark_eagle.documents.verdict import Verdict
from quark_eagle.documents.weights import WeightStatistics
from quark_eagle.errors import QuarkEagleError, StorageError, findings
from quark_eagle.release import contents

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a bundle says, and stands on.

    Attributes:
        directory: the bundle; config.json and the headers of the weights may be read from it.
        release: what is released, as what, and what was set aside for it.
        record: ``quark_eagle.json``: the plan, the sizes, the files that went in and came out.
        parity: the measurement that was judged.
        replayed: the replay beside it, where the judged one was served and a replay was given too.
        verdict: on `parity`.
        verification: ``verify --json`` of these weights, by an engine's rules; without paths.
        weights: of every tensor: dtype, shape, bytes, scales and, where BF16 was at hand, errors.
        environment: with what all of it was made.
        calibration: what static scales were observed on; None where there are none.
    """

    directory: Path
    release: ReleaseRecord
    record: Mapping[str, Any]
    parity: ParityReport
    replayed: ParityReport | None
    verdict: Verdict
    verification: Mapping[str, Any]
    weights: WeightStatistics
    environment: Environment
    calibration: Calibration | None

    @classmethod
    def read(cls, directory: Path | str) -> Evidence:
        """The evidence in a bundle, or in a directory that is becoming one.

        Raises:
            QuarkEagleError: files are missing, cannot be read, or are not what they should be; all are listed.
        """
        bundle = Path(directory)
        reading = _Reading(bundle)
        found: dict[str, Any] = {
            "release": reading.one(contents.RELEASE, ReleaseRecord.read),
            "record": reading.one(RECORD_NAME, read_object),
            "parity": reading.one(contents.PARITY, ParityReport.read),
            "replayed": reading.maybe(contents.REPLAYED, ParityReport.read),
            "verdict": reading.one(contents.VERDICT, Verdict.read),
            "verification": reading.one(contents.VERIFICATION, read_object),
            "weights": reading.one(contents.WEIGHTS, WeightStatistics.read),
            "environment": reading.one(contents.ENVIRONMENT, Environment.read),
            "calibration": reading.maybe(contents.CALIBRATION, Calibration.read),
        }
        reading.require_whole()
        return cls(directory=bundle, **found)


class _Reading:
    """Files of one bundle, read on past the first that is wrong."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.problems: list[str] = []

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
