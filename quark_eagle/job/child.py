"""A step as a child process: `python -m quark_eagle …`, run as a person would have typed it.

Not in this process, for four reasons. What was printed is then exactly what ran. torch, Quark and a target give their
memory back only when their process ends. A step that the kernel kills for memory, or that crashes in a kernel of its
own, takes no ledger with it. And the exit code of a command is its answer, with nothing between.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


PROGRAM = (sys.executable, "-m", "quark_eagle")


def run_child(
    arguments: Sequence[str], directory: Path, *, lock: int, quiet: bool, program: Sequence[str] = PROGRAM
) -> int:
    """Run a command to its end.

    The child is in a session of its own, so that a signal reaches it exactly once: from us. Ctrl-C and SIGTERM are
    passed on, and it may clean up; a second one ends it at once. If we are killed, the kernel tells it to end
    (PR_SET_PDEATHSIG). Until it has ended it holds the job's lock, whose descriptor it inherits: a job that is started
    meanwhile is refused, and no step runs twice at a time.

    Args:
        arguments: after ``quark-eagle``.
        directory: to run it in.
        lock: descriptor of the job's lock.
        quiet: what it prints on stdout goes to stderr.
        program: that takes the arguments.

    Returns:
        Its exit code; that of a signal that killed it is negative, as `subprocess` has it.
    """
    us = os.getpid()
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork

    def ends_with_us() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != us:  # we were killed before that was said
            os._exit(128 + signal.SIGTERM)

    output: IO[str] | None = sys.stderr if quiet else None
    child = subprocess.Popen(
        [*program, *arguments],
        cwd=directory,
        stdout=output,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(lock,),
        preexec_fn=ends_with_us,
    )
    try:
        return child.wait()
    except BaseException as error:  # a signal, raised where we waited
        _end(child, signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
        raise


def _end(child: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    """Pass a signal on, and let the child clean up; if we are told again, it is killed."""
    child.send_signal(signum)
    try:
        child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
