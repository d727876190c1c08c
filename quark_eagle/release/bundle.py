"""Bundle: a checkpoint and the evidence about it → a directory that is published as it is, whole or not at all.

    collect → bind, rejudge, verify → stage the checkpoint → measure → render → SHA256SUMS → sign → appear

All but the signature is a function of the inputs: the same draft and evidence make the same bytes, anywhere and at any
time. Nothing is written where the bundle is to appear before everything that could speak against it was heard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quark_eagle.checkpoint.manifest import RECORD_NAME, Manifest
from quark_eagle.checkpoint.writer import staged
from quark_eagle.deploy.verify import VerifyReport
from quark_eagle.documents.base import write_text
from quark_eagle.documents.release import ReleaseRecord
from quark_eagle.errors import CheckpointError, UsageError, findings
from quark_eagle.parity.verdict import Rules
from quark_eagle.progress import SILENT, Progress
from quark_eagle.release import checksums, contents
from quark_eagle.release.binding import (
    Mismatch,
    bound_to,
    checkpoint_files,
    unbound,
    unlike_source,
    unlike_target,
    unlike_trace,
)
from quark_eagle.release.collecting import Sources, collect, date_of
from quark_eagle.release.environment import environment, released_with
from quark_eagle.release.evidence import Evidence, Given, as_json
from quark_eagle.release.examining import Examination, Leave, examine
from quark_eagle.release.origin import origin, plain_name, require_name, require_repo_id, target_name
from quark_eagle.release.rejudging import misjudged
from quark_eagle.release.rendering import render
from quark_eagle.release.signature import Keyless, PrivateKey, require_can_sign, sign
from quark_eagle.release.verification import verification, verified
from quark_eagle.release.weight_statistics import measure

_ROOM_FOR_PROSE = 16 << 20  # evidence, report and card, beside the checkpoint's own bytes
_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What people are told that the evidence does not know.

    Attributes:
        name: of the release; None: the repository's, else the checkpoint's own.
        repo_id: on the Hugging Face hub.
        base_model: hub id or name of the BF16 draft; None: as its source is called.
        license: as the hub names it; None: what the source says.
        target: hub id or name; None: as the evidence calls it.
    """

    name: str | None = None
    repo_id: str | None = None
    base_model: str | None = None
    license: str | None = None
    target: str | None = None

    def require_sound(self) -> None:
        """See before the work that these are names.

        Raises:
            UsageError: one is a path, or none that the hub takes.
        """
        for option, name in (("--name", self.name), ("--base-model", self.base_model), ("--target-name", self.target)):
            if name is not None:
                require_name(name, option)
        if self.repo_id is not None:
            require_repo_id(self.repo_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be released, with which evidence, and with which leave.

    Attributes:
        sources: the checkpoint and where its evidence lies.
        rules: of the verdict, where none was given.
        source: the BF16 draft that it was made from, to compare with and to measure errors against.
        source_name: as the user called it.
        trace: to be the one that was replayed.
        target: to be the one that was recorded or served.
        naming: what people are told.
        leave: what is set aside.
        signer: in whose name it is signed; None: it is not.
    """

    sources: Sources
    rules: Rules = field(default_factory=Rules)
    source: Path | None = None
    source_name: str | None = None
    trace: Path | None = None
    target: Path | None = None
    naming: Naming = field(default_factory=Naming)
    leave: Leave = field(default_factory=Leave)
    signer: PrivateKey | Keyless | None = None

    @property
    def checkpoint(self) -> Path:
        """The draft that is released."""
        return self.sources.checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A bundle that lies where it was wanted.

    Attributes:
        directory: of the bundle.
        release: its record.
        files: all of it but `SHA256SUMS` and the signature, which hold these hashes.
        is_signed: whether it has a signature.
    """

    directory: Path
    release: ReleaseRecord
    files: Manifest
    is_signed: bool


def release(
    order: Order, bundle: Path, *, overwrite: bool = False, progress: Progress = SILENT
) -> Released | Examination:
    """Make a bundle, or say everything that speaks against it.

    Args:
        order: what is to be released.
        bundle: where it is to appear; its parent's missing directories are made.
        overwrite: an existing bundle there may be replaced.
        progress: told of the bytes that are read.

    Returns:
        What was released; or the examination whose objections stand, after which nothing was written.

    Raises:
        UsageError: the bundle exists or overlaps an input, the key cannot sign, or an option says something that it
            cannot mean.
        QuarkEagleError: the evidence or the draft cannot be read, or the bundle not be written or signed.
    """
    order.naming.require_sound()
    if isinstance(order.signer, PrivateKey):
        require_can_sign(order.signer)
    _refuse_inputs(order, bundle.resolve())
    try:
        with staged(
            bundle, overwrite=overwrite, source=order.checkpoint, needed_bytes=_needed(order.checkpoint)
        ) as staging:
            return _fill(order, bundle, staging, progress)
    except _NotReleasedError as error:
        return error.examination


class _NotReleasedError(Exception):
    """Ends the staging without a bundle; never leaves this module."""

    def __init__(self, examination: Examination) -> None:
        super().__init__()
        self.examination = examination


def _fill(order: Order, bundle: Path, staging: Path, progress: Progress) -> Released:
    """Everything that the bundle holds, into an empty directory."""
    given = collect(order.sources, staging, order.rules)
    files = checkpoint_files(order.checkpoint, progress)
    _refuse_taken_names(order.checkpoint, files)
    engine = verified(order.checkpoint, given, order.source, progress=progress)
    found = examine(given, _mismatches(order, given, files, engine, progress), engine, order.leave)
    if found.objections:
        raise _NotReleasedError(found)
    record = _record(order, given, found.overrides)
    _copy(order.checkpoint, files, staging, progress)
    _write_evidence(order, given, record, engine, staging, progress)
    for name, text in render(Evidence.read(staging)).items():
        write_text(staging / name, text)
    written = checksums.write(staging, progress=progress)
    _require_unchanged(order.checkpoint, files, written)
    if order.signer is not None:
        sign(staging, name=record.name, signer=order.signer)
    return Released(directory=bundle, release=record, files=written, is_signed=order.signer is not None)


def _needed(checkpoint: Path) -> int:
    """Bytes that the bundle will take."""
    return sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()) + _ROOM_FOR_PROSE


def _refuse_inputs(order: Order, bundle: Path) -> None:
    """See that --overwrite would replace nothing that is read here; of the checkpoint `staged` sees to it.

    Raises:
        UsageError: it would.
    """
    sources, signer = order.sources, order.signer
    read = [order.source, order.trace, order.target, *sources.parity, sources.verdict, sources.calibration]
    if isinstance(signer, PrivateKey):
        read += [signer.path, signer.certificate, *signer.chain]
    for path in read:
        if path is not None and bundle in (path.resolve(), *path.resolve().parents):
            raise UsageError(f"{bundle}: is or holds {path}, which is read here. Choose an --output beside it.")


def _mismatches(
    order: Order, given: Given, files: Manifest, engine: VerifyReport, progress: Progress
) -> list[Mismatch]:
    """Everything that is not about the same bytes, or does not follow from the counts."""
    return [
        *unbound(given, files),
        *([] if order.source is None else unlike_source(given, order.source, progress)),
        *([] if order.trace is None else unlike_trace(given, order.trace)),
        *([] if order.target is None else unlike_target(given, order.target)),
        *misjudged(given, [finding.subject for finding in engine.errors]),
    ]


def _record(order: Order, given: Given, overrides: tuple[str, ...]) -> ReleaseRecord:
    """What the release says of itself."""
    naming = order.naming
    known = origin(
        given.parity,
        order.checkpoint,
        source=order.source,
        named=order.source_name,
        base_model=naming.base_model,
        license=naming.license,
    )
    repo_name = None if naming.repo_id is None else naming.repo_id.rpartition("/")[2]
    return ReleaseRecord(
        schema_version=1,
        name=naming.name or repo_name or plain_name(str(order.checkpoint.absolute())),
        repo_id=naming.repo_id,
        base_model=known.base_model,
        base_model_revision=known.revision,
        license=known.license,
        license_source=known.license_source,
        target=target_name(given.parity, naming.target),
        released=date_of(given),
        required_arch=order.leave.required_arch,
        overrides=list(overrides),
        bound_to=bound_to(given),
        versions=released_with(),
    )


def _refuse_taken_names(checkpoint: Path, files: Manifest) -> None:
    """See that the checkpoint has no file where a release writes its own.

    Raises:
        UsageError: it has; `checkpoint_files` leaves those out.
    """
    there = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    taken = sorted(there - files.files.keys() - {RECORD_NAME})
    if taken:
        problems = [f"{path} is the name of a file that a release writes itself." for path in taken]
        raise UsageError(findings(str(checkpoint), problems, "Move it away: it is not what `quantize` wrote."))


def _copy(checkpoint: Path, files: Manifest, staging: Path, progress: Progress) -> None:
    """The checkpoint's files, and what symbolic links in it lead to."""
    with progress.task("copy", sum(file.size_bytes for file in files.files.values())) as task:
        for name in files.files:
            place = staging / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with (checkpoint / name).open("rb") as source, place.open("wb") as copy:
                while piece := source.read(_CHUNK):
                    copy.write(piece)
                    task.advance(len(piece))


def _write_evidence(
    order: Order, given: Given, record: ReleaseRecord, engine: VerifyReport, staging: Path, progress: Progress
) -> None:
    """What the release itself finds out about the weights, and its record."""
    said = verification(engine, name=record.name, base_model=record.base_model)
    written: Mapping[str, str] = {
        contents.RELEASE: record.to_json(),
        contents.VERIFICATION: as_json(said),
        contents.ENVIRONMENT: environment(given, record.versions).to_json(),
        contents.WEIGHTS: measure(staging, order.source, progress).to_json(),
    }
    for name, text in written.items():
        write_text(staging / name, text)


def _require_unchanged(checkpoint: Path, files: Manifest, written: Manifest) -> None:
    """See that what was copied is what was examined.

    Raises:
        CheckpointError: somebody wrote to the checkpoint meanwhile.
    """
    changed = [name for name, file in files.files.items() if written.files.get(name) != file]
    if changed:
        problems = [f"{name} changed while it was released." for name in changed]
        raise CheckpointError(findings(str(checkpoint), problems, "Let nobody write to it, and release again."))
