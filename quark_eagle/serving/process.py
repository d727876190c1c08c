"""A process and all that it starts, as one thing that begins with a log and ends without a trace."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quark_eagle.errors import EngineError
from quark_eagle.serving import guardian

LAST_LINES = 20
# vLLM's server needs about 2 s on a CPU to end in order, and some more to free GPUs.
GRACE_SECONDS = 10.0
# What the guardian itself needs beyond the grace period: SIGKILL and its own end.
_MARGIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A running command in a session of its own, its output in a log, with a guardian that ends it when we end.

    Attributes:
        guardian: the leader of the session; its exit status is the command's.
        log_path: stdout and stderr of everything in the session.
        grace_seconds: between SIGTERM and SIGKILL.
    """

    guardian: subprocess.Popen[bytes]
    log_path: Path
    grace_seconds: float

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> Guarded:
        """Start a command.

        Args:
            command: program and arguments; no shell sees them.
            log_path: is emptied first; its directory is made.
            environment: set over our own.
            grace_seconds: between SIGTERM and SIGKILL when it is stopped.

        Raises:
            EngineError: the log cannot be written.
        """
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            log = log_path.open("wb")
        except OSError as error:
            raise EngineError(f"{log_path}: the engine's log cannot be written ({error.strerror}).") from error
        with log:
            process = subprocess.Popen(
                [sys.executable, "-I", guardian.__file__, str(grace_seconds), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        return cls(guardian=process, log_path=log_path, grace_seconds=grace_seconds)

    @property
    def pid(self) -> int:
        """The session's id: every process of it carries this number, whatever started it."""
        return self.guardian.pid

    def exit_code(self) -> int | None:
        """Of the command, 128 + n where signal n ended it; None while it runs."""
        if self.guardian.poll() is None and self._has_ended():
            self._wait()
        status = self.guardian.poll()
        return None if status is None else status if status >= 0 else 128 - status

    def _has_ended(self) -> bool:
        """Whether the command has: the guardian then closes its output at once, and goes on to end the others."""
        pipe = self.guardian.stdout
        return pipe is not None and not pipe.closed and bool(select.select([pipe], [], [], 0.0)[0])

    def _wait(self) -> None:
        try:
            self.guardian.wait(self.grace_seconds + _MARGIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.guardian.kill()
            self.guardian.wait()

    def members(self) -> list[int]:
        """The processes that live, the guardian left out."""
        return [pid for pid in guardian.members(self.pid) if pid != self.pid]

    def log(self) -> str:
        """All that was printed so far; empty if somebody took the log away."""
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def last_lines(self, count: int = LAST_LINES) -> str:
        """The end of the log."""
        return "\n".join(self.log().strip().splitlines()[-count:])

    def stop(self) -> None:
        """End every process of the session and see that none is left; once stopped, nothing happens.

        Interrupted on its way it still comes about: the guardian has been told by the first line.

        Raises:
            EngineError: a process lives on even after SIGKILL, as one that waits for a broken device does.
        """
        for pipe in (self.guardian.stdin, self.guardian.stdout):
            if pipe is not None:
                pipe.close()
        self._wait()
        left = guardian.end(self.pid, grace_seconds=0.0)
        if left:
            raise EngineError(
                f"processes {', '.join(map(str, left))} of the engine live on after SIGKILL, which happens while a "
                f"driver does not answer. They may hold GPU memory. Log: {self.log_path}"
            )
