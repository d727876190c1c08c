"""Leash: whoever started the script holds the other end of its standard input, and its going ends the whole group.

However the parent ends (an interrupt, SIGKILL), the pipe closes. Nothing is ever written on it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def end_with_the_parent() -> None:
    """From now on. Only the leader of a group does so: in any other, there are processes of somebody else's."""
    if os.getpgid(0) == os.getpid():
        threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.killpg(0, signal.SIGKILL)
