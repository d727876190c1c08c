"""What a file or a directory holds, as one hash; a large one is not read at every start.

A file's hash is taken from the ledger where the file is as it was when it was hashed: size, both times, inode. That is
safe as far as the kernel is believed. Whatever writes to a file, renames another over it or sets its modification time
also sets its change time (ctime), which no program can set to a value of its choice, so equal times mean that nothing
was written in between; except by somebody who sets the machine's clock back, writes past the file system, or writes
within the same tick of its clock. Against the last, a hash whose file was changed less than two seconds before it was
read (FAT's tick; git calls such an entry "racy") is not taken again. Against the other two, remove the ledger.

A trace of 14 GB is not read even once: ``trace.json`` holds the hash of each of its files, made while they were
written. It is believed for files of the size that it says, as they are when the step that wrote them has just ended; a
file that is touched afterwards is read and held against it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from quark_eagle.checkpoint.manifest import digest
from quark_eagle.documents.ledger import SeenFile
from quark_eagle.errors import StorageError
from quark_eagle.progress import SILENT, Progress, Task

RACY_NS = 2_000_000_000
READ_BYTES = 16 << 30
"""Weights of a model above this are known by name, size and times, as a trace knows its target by config alone."""
SHOWN_BYTES = 1 << 30  # reading less takes no time to speak of
TRACE_NAME = "trace.json"
ABSENT = "absent"


class Digests:
    """The hashes of a job's files, kept from one start to the next.

    Attributes:
        base: directory that relative paths are relative to.
        files: what is known of each, by path as it was named.
    """

    def __init__(self, base: Path, known: Mapping[str, SeenFile], progress: Progress = SILENT) -> None:
        self.base = base
        self.files = dict(known)
        self._progress = progress

    def of(self, name: str) -> str:
        """The digest of what lies at a path: ``absent`` if nothing does.

        Raises:
            StorageError: it may not be read.
        """
        path = self.base / name
        try:
            if path.is_dir():
                return self._directory(name)
            if path.exists():
                return self._file(name)
        except OSError as error:
            raise StorageError(f"{error.filename or path}: could not be read ({error.strerror}).") from error
        return ABSENT

    def change_of(self, name: str) -> str:
        """When a secret was written last, and its length: of a private key not even a hash is kept.

        Raises:
            StorageError: it may not be looked at.
        """
        try:
            found = (self.base / name).stat()
        except FileNotFoundError:
            return ABSENT
        except OSError as error:
            raise StorageError(f"{self.base / name}: could not be looked at ({error.strerror}).") from error
        return f"{found.st_size} bytes, changed at {found.st_mtime_ns} ns"

    def vouched(self, name: str) -> None:
        """Take the hashes of a trace that has just been recorded from its own ``trace.json``."""
        directory = self.base / name
        for file, (size_bytes, sha256) in _shards(directory).items():
            inner = f"{name}/{file}"
            with_state = _state(directory / file) if (directory / file).is_file() else None
            if with_state is not None and with_state["size_bytes"] == size_bytes:
                self.files[inner] = SeenFile(**with_state, hashed_at_ns=time.time_ns(), sha256=sha256)

    def _file(self, name: str, advance: Callable[[int], None] | None = None) -> str:
        seen = self._unchanged(name)
        if seen is not None:
            return seen.sha256
        started, state = time.time_ns(), _state(self.base / name)
        sha256 = digest(self.base / name, advance).sha256
        self.files[name] = SeenFile(**state, hashed_at_ns=started, sha256=sha256)
        return sha256

    def _unchanged(self, name: str) -> SeenFile | None:
        seen = self.files.get(name)
        if seen is None or seen.hashed_at_ns - max(seen.ctime_ns, seen.mtime_ns) < RACY_NS:
            return None
        return seen if _state(self.base / name) == seen.model_dump(exclude={"hashed_at_ns", "sha256"}) else None

    def _directory(self, name: str) -> str:
        """Of the names and hashes of the files in it, but hidden ones; empty directories do not count."""
        names = list(_files_in(self.base / name))
        sizes = {inner: (self.base / name / inner).stat().st_size for inner in names}
        whole = hashlib.sha256()
        if sum(sizes.values()) > READ_BYTES and not (self.base / name / TRACE_NAME).exists():
            for inner in names:
                whole.update(json.dumps([inner, self._known_by_times(f"{name}/{inner}")]).encode())
            return whole.hexdigest()
        unread = sum(size for inner, size in sizes.items() if self._unchanged(f"{name}/{inner}") is None)
        with self._progress.task(f"hash {name}", unread) if unread > SHOWN_BYTES else nullcontext(Task()) as task:
            for inner in names:
                whole.update(json.dumps([inner, self._file(f"{name}/{inner}", task.advance)]).encode())
        return whole.hexdigest()

    def _known_by_times(self, name: str) -> object:
        path = self.base / name
        return _state(path) if path.suffix == ".safetensors" else self._file(name)


def _state(path: Path) -> dict[str, int]:
    found = path.stat()
    return {
        "size_bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }


def _files_in(directory: Path) -> Iterator[str]:
    """Names of the files in a directory, and in those that links in it lead to; a link to one above it is not taken."""
    for folder, folders, names in os.walk(directory, followlinks=True):
        here = os.path.realpath(folder)
        folders[:] = sorted(each for each in folders if not each.startswith(".") and not _leads_up(folder, each, here))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(directory).as_posix()


def _leads_up(folder: str, name: str, here: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.islink(path) and f"{here}/".startswith(f"{os.path.realpath(path)}/")


def _shards(directory: Path) -> dict[str, tuple[int, str]]:
    """Size and hash of each file of a trace, as its document says."""
    try:
        content: Any = json.loads((directory / TRACE_NAME).read_text(encoding="utf-8"))
        return {it["file"]: (it["size_bytes"], it["sha256"]) for it in content["shards"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
