"""Scratch: a folder beside a trace that states pass through, which outlasts no run for long."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from quark_eagle.errors import TraceError


@contextmanager
def scratch_beside(output: Path) -> Iterator[Path]:
    """A folder on the output's disk, for states on their way; gone after the block.

    What a killed run of the same output left there goes first. A run that is alive holds a lock on its own.

    Raises:
        TraceError: it cannot be made.
    """
    beside, prefix = output.absolute().parent, f".{output.name}.states-"
    try:
        beside.mkdir(parents=True, exist_ok=True)
        for left in beside.glob(f"{escape(prefix)}*"):
            _remove_unless_in_use(left)
        folder = tempfile.TemporaryDirectory(prefix=prefix, dir=beside)
    except OSError as error:
        raise TraceError(
            f"{output}: nothing can be written beside it ({error.strerror}), but states pass through there."
        ) from error
    with folder as name, _locked(Path(name)):
        yield Path(name)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether a folder is ours alone, as long as the block runs; the kernel lets go of it however we end."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another has it, or the file system knows no locks: then nothing is swept
        return False
    return True


def _remove_unless_in_use(folder: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError), _locked(folder) as is_ours:
        if is_ours:
            shutil.rmtree(folder, ignore_errors=True)
