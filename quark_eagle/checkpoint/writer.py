"""staged(): a directory that appears whole or not at all, whatever kills the process, at any byte.

Everything is written into a hidden sibling of OUT, ``.OUT.staging-<host>-<pid>-<token>``, and one rename makes
it OUT. An existing OUT is exchanged with the new one in the same single system call, so that no moment is
without a whole one. What a killed process leaves behind is that hidden sibling, and the next run for the same OUT
removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quark_eagle.checkpoint.reader import CONFIG_NAME
from quark_eagle.checkpoint.shard_writer import ShardWriter, TensorSpec
from quark_eagle.errors import StorageError, UsageError

__all__ = ["ShardWriter", "TensorSpec", "staged"]

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
# What the file system itself refuses; everything else is a bug and keeps its traceback.
_STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


@contextmanager
def staged(
    output: Path | str,
    *,
    overwrite: bool = False,
    source: Path | None = None,
    needed_bytes: int = 0,
    durable: bool = True,
) -> Iterator[Path]:
    """Yields an empty directory to fill; when the block ends well, it is OUT, and otherwise it is gone.

    Args:
        output: where the directory is to appear. A symbolic link is followed, and what it names replaced.
        overwrite: an existing checkpoint there may be replaced; it stays as it is until the new one is whole.
        source: the input directory, which may neither hold OUT nor lie in it.
        needed_bytes: how much will be written, refused beforehand if the disk has less.
        durable: flush every file to the disk before the rename, so that a power cut cannot empty it.

    Raises:
        UsageError: OUT exists, holds something other than a checkpoint, or overlaps the input.
        StorageError: the disk is full or may not be written; nothing is left, an existing OUT is untouched.
    """
    target = Path(output).resolve()
    _refuse_overlap(target, source)
    if target.parent.is_dir():
        sweep(target)
    _refuse_existing(target, overwrite)
    made = _missing_parents(target.parent)
    try:
        with _storage_errors(target, needed_bytes):
            target.parent.mkdir(parents=True, exist_ok=True)
            _refuse_full_disk(target.parent, needed_bytes)
            staging, lock = _create(target)
            try:
                yield staging
                if durable:
                    _flush(staging)
                _publish(staging, target, overwrite)
                _flush_directory(target.parent)
            finally:
                # After an exchange this is the old checkpoint, after a plain rename nothing, else the unfinished one.
                shutil.rmtree(staging, ignore_errors=True)
                os.close(lock)
    except BaseException:
        for directory in made:
            with suppress(OSError):
                directory.rmdir()
        raise


def sweep(target: Path) -> None:
    """Removes what killed processes left for this OUT, and brings back a checkpoint that one of them had put aside.

    A sibling counts as left behind if it was made on this machine, its process is gone, and nobody holds its lock
    (a process in another container has a number that means nothing here, but the same kernel keeps its lock).
    """
    pattern = re.compile(
        re.escape(f".{target.name}.") + r"(staging|replaced)-" + re.escape(_host()) + r"-(\d+)-[0-9a-f]+"
    )
    for sibling in sorted(target.parent.iterdir()):
        match = pattern.fullmatch(sibling.name)
        if match is None or _is_running(int(match[2])) or _is_locked(sibling):
            continue
        if match[1] == "replaced" and not os.path.lexists(target):
            sibling.rename(target)
        else:
            shutil.rmtree(sibling, ignore_errors=True)


def require_free(output: Path, *, overwrite: bool = False, source: Path | None = None) -> None:
    """See that `staged` would take this place, before anything is made for it.

    Raises:
        UsageError: OUT exists, holds something other than a checkpoint, or overlaps the input.
    """
    target = output.resolve()
    _refuse_overlap(target, source)
    _refuse_existing(target, overwrite)


def _refuse_overlap(target: Path, source: Path | None) -> None:
    if source is None:
        return
    origin = source.resolve()
    if target == origin:
        raise UsageError(f"{target}: is the input itself, which is never written to. Choose another --output.")
    if origin in target.parents:
        raise UsageError(
            f"{target}: lies inside the input {origin}, which is never written to. Choose an --output beside it."
        )
    if target in origin.parents:
        raise UsageError(
            f"{target}: holds the input {origin}, which would be replaced with it. Choose an --output beside it."
        )


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise UsageError(f"{target}: is a file, but the output is a directory. Choose another --output.")
    if not overwrite:
        raise UsageError(
            f"{target}: exists, and nothing existing is touched. Choose another --output, or pass --overwrite."
        )
    # --overwrite with a slip of the hand must not cost somebody's home directory.
    if any(target.iterdir()) and not (target / CONFIG_NAME).is_file():
        raise UsageError(
            f"{target}: holds files but no {CONFIG_NAME}, so it is no checkpoint, and --overwrite replaces "
            "nothing else. Choose another --output, or remove it yourself."
        )


def _refuse_full_disk(parent: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise StorageError(
            f"{parent}: has {free} bytes free, but {needed_bytes} are needed. Nothing was written. "
            "Free some space, or choose an --output on another disk."
        )


def _missing_parents(parent: Path) -> list[Path]:
    """Directories above OUT that do not exist yet, innermost first."""
    return [directory for directory in (parent, *parent.parents) if not directory.exists()]


def _host() -> str:
    """This machine's name, in characters that a file name may have and the pattern's separator has not."""
    return re.sub(r"[^A-Za-z0-9.]", "_", os.uname().nodename)


def _create(target: Path) -> tuple[Path, int]:
    """The staging directory, and the descriptor whose lock says that it is in use."""
    staging = target.with_name(f".{target.name}.staging-{_host()}-{os.getpid()}-{secrets.token_hex(4)}")
    staging.mkdir()
    lock = os.open(staging, os.O_RDONLY)
    # Some network file systems cannot lock a directory; the process number has to do there.
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return staging, lock


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_locked(directory: Path) -> bool:
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def _flush(directory: Path) -> None:
    for folder, _, files in os.walk(directory):
        for name in files:
            descriptor = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _flush_directory(Path(folder))


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        # Not every file system can flush a directory, and none loses a rename's atomicity by it.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(staging: Path, target: Path, overwrite: bool) -> None:
    """Makes staging OUT in one step; what was OUT, if it may be replaced, is then at staging's name."""
    if not os.path.lexists(target):
        if _renameat2(staging, target, _RENAME_NOREPLACE):
            return
        _refuse_existing(target, overwrite)
        staging.rename(target)
        return
    _refuse_existing(target, overwrite)
    if not _renameat2(staging, target, _RENAME_EXCHANGE):
        _swap_in_two_steps(staging, target)


def _swap_in_two_steps(staging: Path, target: Path) -> None:
    """The exchange where the system has none: a kill between the two renames leaves OUT to `sweep` to bring back."""
    aside = target.with_name(staging.name.replace(".staging-", ".replaced-"))
    target.rename(aside)
    try:
        staging.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _renameat2(old: Path, new: Path, flags: int) -> bool:
    """The Linux system call; False where it does not exist or the file system does not know the flag.

    Raises:
        OSError: it exists and failed.
    """
    if sys.platform != "linux":
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return True
    number = ctypes.get_errno()
    # EEXIST: another process was faster; the caller looks again and says so.
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EEXIST):
        return False
    raise OSError(number, os.strerror(number), str(new))


@contextmanager
def _storage_errors(target: Path, needed_bytes: int) -> Iterator[None]:
    """Turns what the file system refuses into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRNOS:
            raise
        where = error.filename or target
        needed = f", but {needed_bytes} bytes are needed in all" if needed_bytes else ""
        free = f" ({shutil.disk_usage(target.parent).free} bytes free{needed})" if target.parent.is_dir() else ""
        kept = f" The checkpoint at {target} is as it was." if target.exists() else " Nothing was left behind."
        raise StorageError(
            f"{where}: could not be written: {error.strerror}{free}.{kept} Free some space, or choose another --output."
        ) from error
