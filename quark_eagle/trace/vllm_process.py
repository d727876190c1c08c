"""VllmProcess: vLLM in a process of its own, asked by lines of JSON over a socket in the file system.

Two files of ours go into that process, and nothing else: they are copied into a folder that stands on its Python path,
so that no module of this package is ever taken for one of vLLM's. The process and all that it starts live in a session
with a guardian (`serving.process`): however we end, it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quark_eagle.errors import EngineError
from quark_eagle.progress import SILENT, Progress, Task
from quark_eagle.serving.causes import obituary
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.process import Guarded
from quark_eagle.serving.readiness import STAGES, stages_passed

_HERE = Path(__file__).parent
CAPTURE_CLASS = "quark_eagle_capture.StateCapture"  # as vLLM's workers import it
_FILES = {"vllm_driver.py": "quark_eagle_driver.py", "vllm_capture.py": "quark_eagle_capture.py"}
_PREFIX, _SOCKET = "quark-eagle-", "orders"
_MAX_SOCKET_PATH = 107  # bytes
_POLL_SECONDS = 0.5
START_SECONDS = 3600.0  # half a terabyte of weights from a cold disk
SILENT_SECONDS = 1800.0  # no token for so long, and the engine is taken for stuck
_ENVIRONMENT = {  # where the user has not said otherwise
    # The engine in the driver's own process: batches do not depend on when a request happened to arrive. Workers of
    # tensor-parallel ranks are processes all the same.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GB; left to itself it takes nearly all memory there is
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(slots=True, kw_only=True)
class VllmProcess:
    """A driver that waits for orders.

    Attributes:
        process: it and all that it started.
        connection: to it.
        title: of the target, for messages.
    """

    process: Guarded
    connection: socket.socket
    title: str
    _received: bytearray = field(default_factory=bytearray)

    @classmethod
    @contextmanager
    def running(cls, engine: Engine, title: str, environment: Mapping[str, str]) -> Iterator[VllmProcess]:
        """A driver, as long as the block runs. Its log is kept where an `EngineError` names it, and nowhere else.

        Raises:
            EngineError: it did not come up.
        """
        handle, log = tempfile.mkstemp(prefix="quark-eagle-vllm-", suffix=".log")
        os.close(handle)
        try:
            with _folder() as folder, _driver(folder, Path(log), engine, environment, title) as process:
                yield process
        except EngineError:
            raise
        except BaseException:  # interrupted, or nothing that the engine could tell more of
            Path(log).unlink(missing_ok=True)
            raise
        Path(log).unlink(missing_ok=True)

    def start(self, engine: Mapping[str, Any], progress: Progress = SILENT) -> dict[str, Any]:
        """Load the target; what vLLM made of the arguments.

        Raises:
            EngineError: it cannot, or did not within an hour.
        """
        with progress.task(f"start vLLM: {self.title}", total=len(STAGES), unit="step") as task:
            passed = 0

            def look() -> None:
                nonlocal passed
                passed = _advance(task, passed, stages_passed(self.process.log()))

            done: dict[str, Any] = self._ask("start", {"engine": engine}, START_SECONDS, on_wait=look)
            _advance(task, passed, len(STAGES))
        return done

    def encode(self, chats: list[list[dict[str, str]]]) -> list[dict[str, Any]]:
        """Each conversation's ``token_ids``, or why it was ``refused``."""
        done: list[dict[str, Any]] = self._ask("encode", {"chats": chats}, SILENT_SECONDS)
        return done

    def answer(self, order: Mapping[str, Any], on_tokens: Callable[[int], None]) -> dict[str, Any]:
        """See `vllm_driver.Driver.answer`; told of the tokens while they are generated."""
        done: dict[str, Any] = self._ask("answer", order, SILENT_SECONDS, on_tokens=on_tokens)
        return done

    def _ask(
        self,
        order: str,
        content: Mapping[str, Any],
        seconds: float,
        *,
        on_tokens: Callable[[int], None] = lambda n: None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Any:
        """Send an order and wait for what it brings, at most so many seconds from one word to the next."""
        try:
            self.connection.sendall(json.dumps({"order": order, **content}).encode() + b"\n")
        except OSError:
            raise self._dead() from None
        heard = time.monotonic()
        while True:
            reply = self._receive()
            if reply is None:
                on_wait()
                if time.monotonic() - heard > seconds:
                    what = f"{self.title}: told to {order}, vLLM said nothing for {seconds:g} s and was ended"
                    raise EngineError(obituary(what, self.process))
                continue
            heard = time.monotonic()
            if "done" in reply:
                return reply["done"]
            if "failed" in reply:
                raise EngineError(obituary(f"{self.title}: vLLM could not {order}: {reply['failed']}", self.process))
            on_tokens(reply["tokens"])

    def _receive(self) -> dict[str, Any] | None:
        """The next reply; None if there is none yet."""
        if b"\n" not in self._received:
            try:
                chunk = self.connection.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                chunk = b""
            if not chunk:
                raise self._dead()
            self._received += chunk
            if b"\n" not in chunk:
                return None
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _dead(self) -> EngineError:
        what = f"{self.title}: vLLM's process ended amid its work. What was recorded is kept"
        return EngineError(obituary(what, self.process))


def _folder() -> tempfile.TemporaryDirectory[str]:
    """For our files, and for a socket, whose path may have 107 bytes (unix(7)): not below a TMPDIR that is longer.

    Raises:
        EngineError: it cannot be made.
    """
    path = Path(tempfile.gettempdir(), f"{_PREFIX}12345678", _SOCKET)
    place = "/tmp" if len(os.fsencode(path)) > _MAX_SOCKET_PATH else None
    try:
        return tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place)
    except OSError as error:
        raise EngineError(
            f"{place or tempfile.gettempdir()}: nothing can be written there ({error.strerror}), but vLLM is spoken to "
            "through a socket there. Set TMPDIR to a writable directory with a short path."
        ) from error


@contextmanager
def _driver(
    folder: str, log: Path, engine: Engine, environment: Mapping[str, str], title: str
) -> Iterator[VllmProcess]:
    """A driver that runs in a folder, once it has come up."""
    for name, copied in _FILES.items():
        shutil.copy(_HERE / name, Path(folder, copied))
    listening = socket.socket(socket.AF_UNIX)
    address = str(Path(folder, _SOCKET))
    listening.bind(address)
    listening.listen(1)
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    unsaid = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    variables = {**unsaid, "PYTHONPATH": path, **engine.environment, **environment}
    command = [str(engine.python), str(Path(folder, _FILES["vllm_driver.py"])), address]
    process = Guarded.start(command, log, variables)
    try:
        with listening, _accepted(listening, process, title) as connection:
            yield VllmProcess(process=process, connection=connection, title=title)
    finally:
        process.stop()


@contextmanager
def _accepted(listening: socket.socket, process: Guarded, title: str) -> Iterator[socket.socket]:
    """The driver's connection, once it has come up; or the news that it has not."""
    listening.settimeout(_POLL_SECONDS)
    while True:
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            if process.exit_code() is not None:
                raise EngineError(obituary(f"{title}: vLLM's process ended at once", process)) from None
            continue
        connection.settimeout(_POLL_SECONDS)
        with connection:
            yield connection
        return


def _advance(task: Task, passed: int, now: int) -> int:
    task.advance(now - passed)
    return now
