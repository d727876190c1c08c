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

from quark_eagle.documents.base import write_text
from quark_eagle.documents.ledger import LEDGER_SCHEMA_VERSION, Ledger, StepRecord
from quark_eagle.errors import QuarkEagleError, StorageError, UsageError
from quark_eagle.job.circumstances import circumstances
from quark_eagle.job.digests import Digests
from quark_eagle.job.step import Step
from quark_eagle.progress import SILENT, Progress

UNFINISHED = "unfinished"
LOCK_NAME = ".job.lock"  # of the directory, so of every job that writes there


@dataclass(slots=True, kw_only=True)
class Books:
    """What is known of a job's steps.

    Attributes:
        path: of the ledger.
        version: of this program.
        digests: of all files.
        recipe: path of the job's recipe, relative to the ledger's directory.
        steps: by name.
        lock: descriptor that is locked as long as the job runs.
    """

    path: Path
    version: str
    digests: Digests
    recipe: str = ""
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
            recipe=self.recipe,
            steps=MappingProxyType(self.steps),
            files=MappingProxyType(self.digests.files),
        )
        write_text(self.path, ledger.model_dump_json(indent=1) + "\n")


@contextmanager
def open_books(
    path: Path, base: Path, version: str, *, write: bool, recipe: Path | None = None, progress: Progress = SILENT
) -> Iterator[Books]:
    """The books of a job.

    Args:
        path: of the ledger; its directory is made.
        base: directory that the paths in it are relative to.
        version: of this program.
        recipe: of the job; None where books are kept of none.
        write: lock the directory that they lie in, whichever job it is; else they are read alone, and nothing is made.
        progress: told of files that are hashed.

    Raises:
        UsageError: a job is running there already, or the ledger is another recipe's.
        StorageError: the directory cannot be written.
        QuarkEagleError: the ledger is damaged.
    """
    if not write:
        yield _books(path, base, version, recipe, progress)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(LOCK_NAME), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(
            f"{path.parent}: could not be written to ({error.strerror}). Free some space, or choose another "
            "outputs.directory."
        ) from error
    try:
        _take(lock, path)
        books = _books(path, base, version, recipe, progress)
        books.lock = lock
        yield books
    finally:
        os.close(lock)


def _books(path: Path, base: Path, version: str, recipe: Path | None, progress: Progress) -> Books:
    known = _read(path)
    said = "" if recipe is None else os.path.relpath(recipe, path.parent)
    if known is None:
        return Books(path=path, version=version, digests=Digests(base, {}, progress), recipe=said)
    if recipe is not None:
        _require_own(known, path, recipe)
    digests = Digests(base, known.files, progress)
    return Books(path=path, version=version, digests=digests, recipe=said, steps=dict(known.steps))


def _read(path: Path) -> Ledger | None:
    if not path.exists():
        return None
    try:
        return Ledger.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: could not be read ({error.strerror}).") from error
    except ValueError as error:  # no UTF-8, or what pydantic refuses
        raise QuarkEagleError(
            f"{path}: is damaged, or is no ledger of schema version {LEDGER_SCHEMA_VERSION}, so what was done is not "
            "known. Remove it: every step is then run anew, if --overwrite allows it to replace what lies there."
        ) from error


def _require_own(known: Ledger, path: Path, recipe: Path) -> None:
    """See that a ledger is not another recipe's of the same name; one that is gone was moved here.

    Raises:
        UsageError: it is.
    """
    other = path.parent / known.recipe
    if known.recipe and other.exists() and not other.samefile(recipe):
        raise UsageError(
            f"{path}: is the ledger of {os.path.normpath(other)}, which writes into the same directory, but "
            f"{recipe} needed one of its own. Nothing was run. Name another outputs.directory in one of them."
        )


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(
            f"{path.parent}: a job, or a step that one left behind, is still at work there. Wait for it, or end it."
        ) from None
