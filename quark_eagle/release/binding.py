"""Binding: evidence about a draft is evidence about exactly these bytes, or about nothing here.

    record.output   =  the checkpoint's files               what `quantize` wrote is what lies there
    candidate       =  its safetensors and its config       both measurements are of it
    baseline        =  record.input                         and of the draft that it was made from
    verdict         →  parity.json, by its sha256           and says of it what it says of itself
    calibration     →  the document, by its sha256

`release` asks this of OUT and of what was given beside it, `verify-release` of a bundle: the same functions. Each gives
every difference that it finds, none of which anybody may set aside: a number about other weights is not a weaker
number about these, it is none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quark_eagle.checkpoint.manifest import RECORD_NAME, FileDigest, Manifest, digest, sha256_of_shards
from quark_eagle.checkpoint.reader import CONFIG_NAME
from quark_eagle.documents.parity import Arm, CalibratedOn, ParityReport
from quark_eagle.documents.release import BoundTo, DraftIdentity
from quark_eagle.documents.verdict import Evidence as Judged
from quark_eagle.errors import CheckpointError, TraceError
from quark_eagle.progress import SILENT, Progress
from quark_eagle.release import contents
from quark_eagle.release.evidence import Given

TRACE_NAME = "trace.json"
_HASHES_OF_TARGET = ("config_sha256", "weights_sha256", "weights_size_sha256")
"""A recording hashes its target's weights, as long as they are not too large; a served run their names and sizes."""
_SHOWN = 16  # digits of a hash: enough to tell two apart, and to be compared by eye


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One place where two things that must be the same are not.

    Attributes:
        where: the file that says what was found.
        what: it is said of.
        wanted: what it had to be.
        found: what it is.
    """

    where: str
    what: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}, {self.what}: wanted {self.wanted}, found {self.found.rstrip('.')}."


def checkpoint_files(directory: Path, progress: Progress = SILENT) -> Manifest:
    """The files that ``quark_eagle.json`` speaks of, in OUT or in a bundle; reads every byte."""
    others = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    ours = frozenset(path for path in others if not contents.is_checkpoint_file(path))
    return Manifest.of(directory, exclude=ours | {RECORD_NAME}, progress=progress)


def unbound(given: Given, files: Manifest) -> list[Mismatch]:
    """Where the evidence is not about these files, or its parts not about each other; empty if it is bound.

    Args:
        given: the evidence.
        files: of the checkpoint, as `checkpoint_files` finds them.
    """
    return [
        *_other_files(RECORD_NAME, Manifest.from_json(given.record["output"]), files),
        *(found for name, report in given.reports.items() for found in _other_drafts(name, report, given, files)),
        *(found for name, report in given.reports.items() for found in _bound_to_nothing(name, report)),
        *_beside_another(given),
        *_other_evidence(given),
        *_other_calibration(given),
    ]


def unlike_source(given: Given, source: Path, progress: Progress = SILENT) -> list[Mismatch]:
    """Where a directory is not the BF16 draft that the record says went in; reads every byte that it names.

    Args:
        given: the evidence.
        source: the BF16 draft.
        progress: told of the bytes hashed.
    """
    wanted = Manifest.from_json(given.record["input"])
    others = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    found = Manifest.of(source, exclude=frozenset(others - wanted.files.keys()), progress=progress)
    return _other_files(str(source), wanted, found)


def unlike_trace(given: Given, trace: Path) -> list[Mismatch]:
    """Whether a directory is another trace than the one that was replayed: by its document and its files' sizes.

    Raises:
        TraceError: it is none.
    """
    try:
        found = hashlib.sha256((trace / TRACE_NAME).read_bytes()).hexdigest()
    except OSError as error:
        raise TraceError(
            f"{trace}: {TRACE_NAME} could not be read ({error.strerror}). Point at a trace's directory."
        ) from error
    if all(report.served is not None for report in given.reports.values()):
        return [Mismatch(where=str(trace), what="trace", wanted="none: the drafts were served", found=_short(found))]
    replayed = {name: report.provenance.trace_sha256 for name, report in given.reports.items() if not report.served}
    others = _unequal(str(trace), ((f"trace of {name}", sha256, found) for name, sha256 in replayed.items()))
    return others or _other_sizes(trace)


def _other_sizes(trace: Path) -> list[Mismatch]:
    """Of a trace whose document is known, the files that are not as long as it says; their bytes are not read."""
    try:
        shards = json.loads((trace / TRACE_NAME).read_bytes())["shards"]
        wanted: dict[str, int] = {shard["file"]: shard["size_bytes"] for shard in shards}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{trace}: {TRACE_NAME} names no files ({error}). Record the trace anew.") from error
    found = {name: (trace / name).stat().st_size for name in wanted if (trace / name).is_file()}
    return _unequal(str(trace), ((f"bytes of {name}", size, found.get(name)) for name, size in wanted.items()))


def unlike_target(given: Given, target: Path) -> list[Mismatch]:
    """Whether a directory is another target than the one that was recorded or served; reads its weights.

    Raises:
        CheckpointError: it is none.
    """
    try:
        found = {"config_sha256": hashlib.sha256((target / CONFIG_NAME).read_bytes()).hexdigest()}
        shards = sorted(target.glob("*.safetensors"))
        sizes = json.dumps([(shard.name, shard.stat().st_size) for shard in shards])
        if any(
            _records(report, "weights_sha256") and not _is_too_large(report, "weights_sha256")
            for report in given.reports.values()
        ):
            found["weights_sha256"] = _sha256_of_target(shards)
        found["weights_size_sha256"] = hashlib.sha256(sizes.encode()).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{target}: {CONFIG_NAME} could not be read ({error.strerror}). Point at a target's directory."
        ) from error
    return [
        mismatch
        for name, report in given.reports.items()
        for mismatch in _unequal(
            str(target),
            (
                (f"{key} of the target of {name}", report.provenance.target.get(key), found[key])
                for key in _HASHES_OF_TARGET
                if _records(report, key) and not _is_too_large(report, key)
            ),
        )
    ]


def _is_too_large(report: ParityReport, key: str) -> bool:
    """Whether a recording says of its target's weights that it hashed none: it then names them, as null."""
    return key == "weights_sha256" and report.provenance.target.get(key, "") is None


def bound_to(given: Given) -> BoundTo:
    """What the evidence is about, for ``release.json``."""
    report, target = given.parity, given.parity.provenance.target
    return BoundTo(
        baseline=_identity(report.baseline),
        candidate=_identity(report.candidate),
        target_config_sha256=target.get("config_sha256"),
        target_weights_sha256=target.get("weights_sha256"),
        trace_sha256=report.provenance.trace_sha256,
        prompts_sha256=report.provenance.prompts_sha256,
        parity_sha256=digest(given.directory / contents.PARITY).sha256,
        verdict_sha256=digest(given.directory / contents.VERDICT).sha256,
    )


def _other_files(where: str, wanted: Manifest, found: Manifest) -> list[Mismatch]:
    """Files that are missing, more or others."""
    difference = wanted.diff(found)
    names = sorted((*difference.missing, *difference.extra, *difference.changed))
    return [
        Mismatch(where=where, what=name, wanted=_file(wanted.files.get(name)), found=_file(found.files.get(name)))
        for name in names
    ]


def _other_drafts(name: str, report: ParityReport, given: Given, files: Manifest) -> Iterator[Mismatch]:
    """Drafts of a measurement that are not the checkpoint, or not what it was made from."""
    for arm, manifest in (("baseline", Manifest.from_json(given.record["input"])), ("candidate", files)):
        measured: Arm = getattr(report, arm)
        config = manifest.files.get(CONFIG_NAME)
        shards = [(path, file.sha256) for path, file in manifest.files.items() if path.endswith(".safetensors")]
        fields = (
            (f"{arm}'s weights", sha256_of_shards(sorted(shards)), measured.weights_sha256),
            (f"{arm}'s config.json", config.sha256 if config else "none", measured.config_sha256),
        )
        yield from _unequal(name, fields)


def _bound_to_nothing(name: str, report: ParityReport) -> Iterator[Mismatch]:
    """What a measurement must name, for otherwise it is of any target, or of any trace."""
    named = {"target's config.json": report.provenance.target.get("config_sha256")}
    if report.served is None:
        named["trace"] = report.provenance.trace_sha256
    for what, sha256 in named.items():
        if not sha256:
            yield Mismatch(where=name, what=what, wanted="its sha256", found="none: it is bound to nothing")


def _beside_another(given: Given) -> Iterator[Mismatch]:
    """What a second measurement was made with that the judged one was not; of its target what both ways record."""
    ours = given.parity
    for name, report in given.reports.items():
        wanted, found = ours.provenance.target, report.provenance.target
        both = [key for key in _HASHES_OF_TARGET if _records(ours, key) and _records(report, key)]
        yield from _unequal(name, ((f"target's {key}", wanted.get(key), found.get(key)) for key in both))


def _records(report: ParityReport, key: str) -> bool:
    """Whether measurements of this kind name this hash of their target, or this one does all the same."""
    of_its_kind = "weights_sha256" if report.served is None else "weights_size_sha256"
    return key in ("config_sha256", of_its_kind) or key in report.provenance.target


def _other_evidence(given: Given) -> Iterator[Mismatch]:
    """Where the verdict is about another measurement, or says another thing of it than it says itself."""
    judged = given.verdict.evidence
    if judged is None:
        yield Mismatch(
            where=contents.VERDICT, what="evidence", wanted="a measurement", found="none: nothing was judged"
        )
        return
    sha256 = digest(given.directory / contents.PARITY).sha256
    yield from _unequal(contents.VERDICT, [("sha256 of the measurement", sha256, judged.parity_sha256)])
    said, itself = judged.model_dump(mode="json"), _as_judged(given.parity, judged).model_dump(mode="json")
    yield from _unequal(contents.VERDICT, ((f"evidence.{path}", itself[path], said[path]) for path in itself))


def _as_judged(report: ParityReport, judged: Judged) -> Judged:
    """What a verdict on this report would have written of it."""
    splits = [prompt.split for prompt in report.prompts]
    return judged.model_copy(
        update={
            "num_speculative_tokens": report.num_speculative_tokens,
            "num_prompts": len(report.prompts),
            "splits": {split: splits.count(split) for split in sorted(set(splits))},
            "baseline": report.baseline,
            "candidate": report.candidate,
            "provenance": report.provenance,
        }
    )


def _other_calibration(given: Given) -> Iterator[Mismatch]:
    """Where static scales stand on another calibration than the one in the bundle, or on none that is there."""
    recorded = ((given.record.get("activation_scales") or {}).get("calibration") or {}).get("document_sha256")
    path = given.directory / contents.CALIBRATION
    found = digest(path).sha256 if given.calibration is not None else None
    yield from _unequal(contents.CALIBRATION, [("sha256 that quark_eagle.json names", recorded, found)])
    for name, report in given.reports.items():
        on = report.candidate.calibrated_on
        measured = on.document_sha256 if isinstance(on, CalibratedOn) else None
        yield from _unequal(name, [("calibration of the candidate", recorded, measured)])
    if given.calibration is not None:
        baseline = given.parity.baseline
        fields = (
            ("weights that were calibrated", baseline.weights_sha256, given.calibration.draft_weights_sha256),
            ("config.json that was calibrated", baseline.config_sha256, given.calibration.draft_config_sha256),
        )
        yield from _unequal(contents.CALIBRATION, fields)


def _unequal(where: str, fields: Any) -> list[Mismatch]:
    """Of (what, wanted, found) those that differ."""
    return [
        Mismatch(where=where, what=what, wanted=_short(wanted), found=_short(found))
        for what, wanted, found in fields
        if wanted != found
    ]


def _short(value: object) -> str:
    """A value as a person compares it: a hash by its first digits, anything long by its beginning."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return f"sha256 {text[:_SHOWN]}…"
    return text if len(text) <= 120 else f"{text[:120]}…"


def _file(found: FileDigest | None) -> str:
    return "none" if found is None else f"{found.size_bytes} bytes, {_short(found.sha256)}"


def _identity(arm: Arm) -> DraftIdentity:
    return DraftIdentity(weights_sha256=arm.weights_sha256, config_sha256=arm.config_sha256)


def _sha256_of_target(shards: list[Path]) -> str:
    """As a trace names its target's weights, worked out anew: names and hashes of its safetensors files."""
    whole = hashlib.sha256()
    for shard in shards:
        whole.update(json.dumps([shard.name, digest(shard).sha256]).encode())
    return whole.hexdigest()
