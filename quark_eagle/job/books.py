"""Books: the ledger as it is kept while a job runs: locked, and written whole after each change."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from quark_eagle.documents.base import read_document, write_text
from quark_eagle.documents.ledger import LEDGER_SCHEMA_VERSION, Ledger, StepRecord
from quark_eagle.errors import StorageError, UsageError
from quark_eagle.job.circumstances import circumstances
from quark_eagle.job.digests import Digests
from quark_eagle.job.step import Step
from quark_eagle.progress import SILENT, Progress

UNFINISHED = "unfinished"


@dataclass(slots=True, kw_only=True)
class Books:
    """What is known of a job's steps.

    Attributes:
        path: of the ledger.
        version: of this program.
        digests: of all files.
        steps: by name.
        lock: descriptor that is locked as long as the job runs.
    """

    path: Path
    version: str
    digests: Digests
    steps: dict[str, StepRecord] = field(default_factory=dict)
    lock: int = -1

    def key(self, step: Step) -> tuple[str, dict[str, str]]:
        """What decides whether a step has to be run: its hash, and what is in it besides the command line, by name.

        A Hugging Face id is absent here, and its name is in the arguments: what a branch of it holds today is not
        asked, so a job that shall not depend on that names a revision.
        """
        inputs = {
            **{name: self.digests.of(name) for name in step.reads},
            **{name: self.digests.change_of(name) for name in step.secrets},
            "the version of quark-eagle": self.version,
            **circumstances(step, self.digests.base),
        }
        content = json.dumps([list(step.arguments), inputs], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest(), inputs

    def begun(self, step: Step, key: str, inputs: dict[str, str]) -> None:
        """Note that a step begins: what lies at its outputs from now on is its own."""
        outputs = dict.fromkeys(step.writes, UNFINISHED)
        self.steps[step.name] = StepRecord(
            key=key, inputs=inputs, outputs=outputs, ended=False, exit_code=0, seconds=0.0
        )
        self.write()

    def ended(self, step: Step, exit_code: int, seconds: float) -> None:
        """Note that it ended in a way after which the job goes on, and what it wrote."""
        for name in step.writes:
            if step.resumes:
                self.digests.vouched(name)
        outputs = {name: self.digests.of(name) for name in step.writes}
        end = {"outputs": outputs, "ended": True, "exit_code": exit_code, "seconds": seconds}
        self.steps[step.name] = self.steps[step.name].model_copy(update=end)
        self.write()

    def write(self) -> None:
        """Replace the ledger, whole.

        Raises:
            StorageError: it cannot be written.
        """
        ledger = Ledger(
            schema_version=LEDGER_SCHEMA_VERSION,
            quark_eagle=self.version,
            steps=MappingProxyType(self.steps),
            files=MappingProxyType(self.digests.files),
        )
        write_text(self.path, ledger.model_dump_json(indent=1) + "\n")


@contextmanager
def open_books(path: Path, base: Path, version: str, *, write: bool, progress: Progress = SILENT) -> Iterator[Books]:
    """The books of a job.

    Args:
        path: of the ledger; its directory is made.
        base: directory that the paths in it are relative to.
        version: of this program.
        write: lock them; else they are read alone, and nothing is made.
        progress: told of files that are hashed.

    Raises:
        UsageError: the job is running already.
        StorageError: the directory cannot be written.
        QuarkEagleError: the ledger is damaged.
    """
    known = None
    if not write:
        known = _read(path)
        yield _books(known, path, base, version, progress)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(
            f"{path.parent}: could not be written to ({error.strerror}). Free some space, or choose another "
            "outputs.directory."
        ) from error
    try:
        _take(lock, path)
        books = _books(_read(path), path, base, version, progress)
        books.lock = lock
        yield books
    finally:
        os.close(lock)


def _read(path: Path) -> Ledger | None:
    if not path.exists():
        return None
    return read_document(Ledger, path, f"ledger of schema version {LEDGER_SCHEMA_VERSION}", "quark-eagle run")


def _books(known: Ledger | None, path: Path, base: Path, version: str, progress: Progress) -> Books:
    digests = Digests(base, {} if known is None else known.files, progress)
    return Books(path=path, version=version, digests=digests, steps={} if known is None else dict(known.steps))


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(
            f"{path.parent}: a run of this job, or a step that it left behind, is still at work there. "
            "Wait for it, or end it."
        ) from None
