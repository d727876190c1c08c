"""Ledger: what the steps of a job read and wrote, by hash; ``job.ledger.json`` in the job's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from quark_eagle.documents.base import Count, Document, Sha256

LEDGER_SCHEMA_VERSION: Literal[1] = 1


class SeenFile(Document):
    """A file as it was when it was hashed, so that it need not be read again while its state is the same.

    Attributes:
        size_bytes: its length.
        mtime_ns: when its content was changed last, in ns since 1970.
        ctime_ns: when it was changed in any way, as the kernel notes it.
        inode: its number in the file system.
        hashed_at_ns: when reading it began.
        sha256: of its content.
    """

    size_bytes: Count
    mtime_ns: int
    ctime_ns: int
    inode: int
    hashed_at_ns: int
    sha256: Sha256


class StepRecord(Document):
    """What is known of a step.

    Attributes:
        key: hash of its command line and of ``inputs``.
        inputs: digest of each path that it reads, as it was before it began; and by name the versions of the programs
            and the variables that it depends on. Of a private key, when it was changed.
        outputs: digest of each path that it writes; "unfinished" while it has not ended.
        ended: whether it has; else it was begun, and what lies at its outputs is its own.
        exit_code: with which it ended: 0, or one after which the job may go on.
        seconds: that it took.
    """

    key: Sha256
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    ended: bool
    exit_code: int
    seconds: float


class Ledger(Document):
    """Of one job.

    Attributes:
        schema_version: of this document.
        quark_eagle: version of the program that wrote it.
        recipe: path of the job's recipe, relative to the ledger's directory; empty where it is not known.
        steps: by name.
        files: by path, those that steps read and wrote.
    """

    schema_version: Literal[1]
    quark_eagle: str
    recipe: str = ""
    steps: Mapping[str, StepRecord]
    files: Mapping[str, SeenFile]
