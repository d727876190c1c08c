"""Paths that a user names, and that no file system takes: told as such, before anything is looked for there."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

_STAGING = f".{{}}.staging-{os.uname().nodename}-" + "x" * 16
"""As long as what a directory is called while it is filled (`checkpoint.writer`): a process and 8 digits behind it."""


def require_paths(read: Mapping[str, object], *, written: Mapping[str, Path] | None = None) -> None:
    """See that names may be names of files at all.

    Args:
        read: by the option or argument that gave it; None, or several in a list, as the parser gives them.
        written: the same, of directories that are to appear.

    Raises:
        UsageError: one is too long for the file system, or has a character that no name has; all of them.
    """
    from quark_eagle.errors import UsageError

    named = [
        (option, each) for option, value in read.items() for each in (value if isinstance(value, list) else [value])
    ]
    paths = [(option, Path(str(each)), Path(str(each))) for option, each in named if each is not None]
    for option, path in (written or {}).items():
        paths.append((option, path, path.with_name(_STAGING.format(path.name)) if path.name else path))
    problems = [f"{option}: {why}" for option, path, tried in paths if (why := _why_not(path, tried))]
    if problems:
        raise UsageError("\n".join(problems))


def _why_not(path: Path, tried: Path) -> str | None:
    """Why a path can name nothing; None if it can, whatever lies there."""
    shown = ascii(str(path)) if len(str(path)) <= 60 else f"{str(path)[:60]!a}…"
    try:
        tried.lstat()
    except ValueError:
        return f"{shown}: is no path: a NUL character ends a name. Check what was pasted."
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"{shown}: is longer than a name may be here ({len(str(path))} characters). Choose a shorter one."
    return None
