"""Outlives neither its charge nor its parent: runs one command in a session of its own and ends all of it.

    python -I guardian.py GRACE_SECONDS COMMAND...

A script of the standard library alone, started in a new session (`process.Guarded`). Its standard input is a pipe
whose other end only the parent holds: however the parent ends (a return, an exception, SIGKILL), the pipe closes. Then,
or when the command itself ends, every process of the session gets SIGTERM, and after the grace period SIGKILL: vLLM's
EngineCore and Worker processes survive the death of the server that started them.

Its standard output is a pipe too, on which nothing is written: it is closed as soon as the command has ended, so that
the parent knows before the rest of the session is gone. The command's own output goes where standard error goes.

It goes by the session and not by the process group, because a member may open a group of its own (vLLM's data parallel
supervisor does, `entrypoints/launchers/dp_supervisor.py`).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

_POLL_SECONDS = 0.1
_ORPHAN_SECONDS = 2.0  # for what a dead command left behind: nobody waits for its answers any more
_KILL_SECONDS = 5.0  # a process that waits for a driver dies late, or never
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def members(session: int) -> Iterator[int]:
    """Ids of the living processes of a session, its leader among them; a zombie is dead."""
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and _session_of(directory) == session:
            yield int(directory.name)


def _session_of(directory: Path) -> int | None:
    """Of a process, from proc(5)'s stat: the fields after the name in parentheses, which may itself hold any."""
    try:
        state, _parent, _group, session = (directory / "stat").read_text().rpartition(")")[2].split()[:4]
    except (OSError, ValueError):  # it ended while we looked
        return None
    return None if state in "ZX" else int(session)


def end(session: int, grace_seconds: float, spared: int = 0) -> list[int]:
    """SIGTERM to a session, SIGKILL to what lives after the grace period; returns who survived even that.

    Args:
        session: whose members to end.
        grace_seconds: between the two.
        spared: a process that is left alone: the caller itself.
    """
    for signum, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, _KILL_SECONDS)):
        deadline = time.monotonic() + seconds
        told: set[int] = set()
        while left := set(members(session)) - {spared}:
            for pid in left - told:
                _tell(pid, signum)
            told |= left
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        else:
            return []
    return sorted(left)


def _tell(pid: int, signum: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


def _with_its_parent() -> None:
    """In the child: die when the guardian does, should somebody kill the guardian itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(grace_seconds: float, command: list[str]) -> int:
    """Run the command until it ends or the parent has gone; its exit status as a shell would say it."""
    stop: list[int] = []

    def heard(signum: int, frame: FrameType | None) -> None:
        stop.append(signum)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, heard)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=_with_its_parent)
    while child.poll() is None and not stop:
        if select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
            break  # nobody ever writes: it is the end of the pipe
    if child.returncode is not None:
        os.close(sys.stdout.fileno())
        grace_seconds = min(grace_seconds, _ORPHAN_SECONDS)
    end(os.getsid(0), grace_seconds, spared=os.getpid())
    status = child.poll()
    if status is None:  # not even SIGKILL ended it
        return 128 + signal.SIGKILL
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    if os.getsid(0) != os.getpid():
        sys.exit("guardian: not the leader of its session, in which others live that are not its own to end")
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
