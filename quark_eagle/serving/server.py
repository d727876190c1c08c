"""A vLLM server of our own: started on the loopback interface, awaited, watched, and stopped whatever happens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from quark_eagle.errors import EngineError
from quark_eagle.progress import SILENT, Progress
from quark_eagle.serving.causes import obituary
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.engine import Engine, EngineVersion
from quark_eagle.serving.log_facts import facts_in_log
from quark_eagle.serving.ports import LOOPBACK, free_port, refuse_taken
from quark_eagle.serving.process import Guarded
from quark_eagle.serving.readiness import until_ready
from quark_eagle.serving.server_facts import ServerFacts

READY_SECONDS = 1800.0  # half a terabyte of weights from a cold disk


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmServer:
    """A server that was ready; leaving the `with` block ends every process of it.

    Attributes:
        engine: that runs it.
        command: that it was started with.
        port: on 127.0.0.1.
        process: everything that it consists of.
        ready_seconds: from the start until it served.
    """

    engine: Engine
    command: ServeCommand
    port: int
    process: Guarded
    ready_seconds: float

    @classmethod
    def start(
        cls,
        engine: Engine,
        command: ServeCommand,
        log_path: Path,
        port: int | None = None,
        ready_seconds: float = READY_SECONDS,
        progress: Progress = SILENT,
    ) -> VllmServer:
        """Start vLLM and wait until it serves the wanted model.

        Args:
            engine: which vLLM.
            command: what to serve.
            log_path: where everything that it prints goes.
            port: to listen at; None takes one that is free.
            ready_seconds: after which it is given up and ended.
            progress: is told of the start's stages.

        Raises:
            EngineError: it died, or was not ready in time, or the port is another's; the message names the log and
                quotes its end.
        """
        chosen = free_port() if port is None else port
        refuse_taken(chosen)
        began = time.monotonic()
        process = Guarded.start(command.argv(engine, chosen), log_path, command.variables(engine))
        try:
            until_ready(process, command, chosen, ready_seconds, progress)
        except BaseException:
            process.stop()
            raise
        return cls(engine=engine, command=command, port=chosen, process=process, ready_seconds=time.monotonic() - began)

    @property
    def url(self) -> str:
        """Where it listens, without a path: ``http://127.0.0.1:8000``."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def model(self) -> str:
        """What it calls its target."""
        return self.command.model

    @property
    def pid(self) -> int:
        """Of the session that all its processes belong to."""
        return self.process.pid

    @property
    def log_path(self) -> Path:
        """What it printed."""
        return self.process.log_path

    @property
    def version(self) -> EngineVersion:
        """What its engine and machine are."""
        return self.engine.version()

    def check_alive(self) -> None:
        """Raise if the server has ended.

        Raises:
            EngineError: with the log's end.
        """
        code = self.process.exit_code()
        if code is not None:
            raise EngineError(obituary(f"{self.url}: the server ended with {code} while it was in use", self.process))

    def facts(self) -> ServerFacts:
        """What it is really set to, as its log tells."""
        return facts_in_log(self.process.log())

    def stop(self) -> None:
        """End every process of it; a second time does nothing.

        Raises:
            EngineError: one lives on after SIGKILL.
        """
        self.process.stop()

    def __enter__(self) -> VllmServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
