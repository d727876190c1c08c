"""SIGINT and SIGTERM as exceptions, so that `with` blocks and `finally` clauses clean up.

Python runs a signal's handler wherever it happens to be. From a callback of a weak reference (the lock of each import
has one) or a ``__del__`` no exception can leave: Python prints that it is ignored and goes on, and the signal is lost
(``sys.unraisablehook``, https://docs.python.org/3/library/sys.html). So the signal is sent again a moment later.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

    Hook = Callable[[UnraisableHookArgs], object]

AGAIN_SECONDS = 0.02
"""By then the callback that swallowed the exception has ended."""


@contextmanager
def raising() -> Iterator[list[int]]:
    """Within it SIGINT raises KeyboardInterrupt and SIGTERM SystemExit(143); both are noted in the list that it gives.

    Only the main thread may handle signals: elsewhere nothing changes, for the program around us owns them.
    """
    received: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signum)

    try:
        handlers = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield received
        return
    hook, again = sys.unraisablehook, _Again(received)
    sys.unraisablehook = again.unless_ours(hook)
    try:
        yield received
    finally:
        sys.unraisablehook = hook
        again.stop()
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


class _Again:
    """Sends a signal once more whose exception was swallowed."""

    def __init__(self, received: list[int]) -> None:
        self._received = received
        self._timer: threading.Timer | None = None

    def unless_ours(self, hook: Hook) -> Hook:
        """A hook that sends our own signal again, and leaves everything else to the one before."""

        def told(unraisable: UnraisableHookArgs) -> None:
            if self._received and issubclass(unraisable.exc_type, (KeyboardInterrupt, SystemExit)):
                self._timer = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), self._received[-1]))
                self._timer.start()
            else:
                hook(unraisable)

        return told

    def stop(self) -> None:
        """Send nothing any more: who comes after may handle the signal otherwise."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
