"""A real vLLM that is killed, never ready, out of memory or not alone: the run ends, says why, and leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from quark_eagle.errors import EngineError
from quark_eagle.serving import guardian
from quark_eagle.serving.client import Client, CompletionRequest
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.process import Guarded
from quark_eagle.serving.server import VllmServer
from tests.served import READY_SECONDS, tiny_command

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

Pair = tuple[Path, Path]
LONG = [CompletionRequest(prompt_token_ids=[i + 1] * 8, max_tokens=400, ignore_eos=True) for i in range(32)]
# A program that serves, as a command of ours does, and is killed itself.
PROGRAM = """
import sys
from pathlib import Path
from quark_eagle.cli import exit_codes
from quark_eagle.serving import server
from quark_eagle.serving.engine import Engine
from tests.served import tiny_command

def told(process, *others):
    print(process.pid, flush=True)
    wait(process, *others)

wait, server.until_ready = server.until_ready, told
with exit_codes.run(), server.VllmServer.start(Engine.find(), tiny_command(sys.argv[1], None), Path(sys.argv[2])):
    pass
"""


class Doomed:
    """Two starts at once, as there are two cores: a server to be killed, and one that asks for too much memory."""

    def __init__(self, pair: Pair, logs: Path, pool: ThreadPoolExecutor) -> None:
        self.logs = logs
        impossible = tiny_command(pair[0], None, environment={"VLLM_CPU_KVCACHE_SPACE": "100000"})
        self.victim: Future[VllmServer] = pool.submit(self.start, tiny_command(*pair), "victim")
        self.greedy: Future[VllmServer] = pool.submit(self.start, impossible, "greedy")

    def start(self, command: object, name: str) -> VllmServer:
        return VllmServer.start(Engine.find(), command, self.logs / f"{name}.log", ready_seconds=READY_SECONDS)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def doomed(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doomed]:
    with ThreadPoolExecutor(2) as pool:
        made = Doomed(tiny_pair, tmp_path_factory.mktemp("doomed"), pool)
        yield made
        if made.victim.exception() is None:
            made.victim.result().stop()


def engine_core(process: Guarded) -> int | None:
    """vLLM names its processes (setproctitle)."""
    return next((pid for pid in process.members() if b"EngineCore" in cmdline(pid)), None)


def api_process(process: Guarded) -> int:
    return min(pid for pid in process.members() if b"api_server" in cmdline(pid))


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def until_nothing_is_left(session: int, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while left := list(guardian.members(session)):
        assert time.monotonic() < deadline, f"left running: {[cmdline(pid) for pid in left]}"
        time.sleep(0.1)


def assert_tells_of_its_log(error: EngineError, log: Path) -> None:
    assert f"Log: {log}\nIts last lines:\n" in str(error)
    last = next(line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip())
    assert last in str(error)


def kill_during(server: VllmServer, victim: int) -> EngineError:
    """Kill a process of a server while it answers; the error that the run ends with."""
    killing = threading.Timer(1.0, os.kill, (victim, signal.SIGKILL))
    killing.start()
    began = time.monotonic()
    client = Client(url=server.url, model=server.model, concurrency=8, check_alive=server.check_alive)
    with pytest.raises(EngineError) as caught:
        client.complete(LONG)
    assert time.monotonic() - began < 15
    return caught.value


def test_a_killed_engine_ends_the_run_and_leaves_nothing(doomed: Doomed) -> None:
    server = doomed.victim.result()
    victim = engine_core(server.process)
    assert victim is not None
    error = kill_during(server, victim)
    assert "The process that computes (EngineCore) died under the server." in str(error)
    assert_tells_of_its_log(error, server.log_path)
    until_nothing_is_left(server.pid)


def test_too_little_memory_is_named_as_the_cause(doomed: Doomed) -> None:
    with pytest.raises(EngineError, match=r"less memory than was asked for") as caught:
        doomed.greedy.result()
    assert "requested memory for kv (100000.0 GiB)" in str(caught.value)  # the engine's own words
    assert_tells_of_its_log(caught.value, doomed.logs / "greedy.log")


def test_a_server_that_is_not_ready_in_time_is_ended(tiny_pair: Pair, tmp_path: Path) -> None:
    started: list[Guarded] = []
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Guarded, "start", remembering(started))
        with pytest.raises(EngineError, match=r"not ready within 2 s and was ended") as caught:
            VllmServer.start(Engine.find(), tiny_command(*tiny_pair), tmp_path / "log", ready_seconds=2)
    assert time.monotonic() - began < 15
    assert f"Log: {tmp_path / 'log'}" in str(caught.value)
    assert started[0].members() == []


def remembering(started: list[Guarded]) -> object:
    start = Guarded.start

    def remembered(*args: object, **kwargs: object) -> Guarded:
        started.append(start(*args, **kwargs))  # type: ignore[arg-type]
        return started[-1]

    return remembered


def test_a_port_that_is_taken_is_refused_before_anything_starts(tiny_pair: Pair, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EngineError, match=rf"127.0.0.1:{port}: cannot be listened at \(Address already in use\)"):
            VllmServer.start(Engine.find(), tiny_command(*tiny_pair), tmp_path / "log", port=port)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_killed_program_leaves_no_server(
    tiny_pair: Pair, tmp_path: Path, repository: Path, signum: signal.Signals, code: int
) -> None:
    arguments = [sys.executable, "-c", PROGRAM, str(tiny_pair[0]), str(tmp_path / "log")]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as program:
        assert program.stdout is not None
        session = int(program.stdout.readline())
        while not any(b"api_server" in cmdline(pid) for pid in guardian.members(session) if pid != session):
            assert program.poll() is None
            time.sleep(0.05)
        program.send_signal(signum)
        program.communicate(timeout=30)
    assert program.returncode == code
    until_nothing_is_left(session)


@pytest.mark.last
def test_a_killed_server_ends_the_run_and_leaves_nothing(tiny_server: VllmServer) -> None:
    """The last use of the server that all tests share."""
    error = kill_during(tiny_server, api_process(tiny_server.process))
    assert "the server ended with 137 while it was in use. It was killed (SIGKILL)" in str(error)
    assert_tells_of_its_log(error, tiny_server.log_path)
    until_nothing_is_left(tiny_server.pid)
