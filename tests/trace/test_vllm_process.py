"""The process that vLLM runs in, with a driver that only pretends: what is said when it fails, and that it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quark_eagle.errors import EngineError
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.guardian import members
from quark_eagle.trace import vllm_process
from quark_eagle.trace.vllm_process import VllmProcess

ENGINE = Engine(python=Path(sys.executable))
DRIVER = """
import json, os, socket, sys, time
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
def reply(**content):
    connection.sendall(json.dumps(content).encode() + b"\\n")
for line in connection.makefile():
    order = json.loads(line)
"""

Pretend = Callable[[str], None]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Puts code in the place of the driver's."""
    (tmp_path / "vllm_capture.py").write_text("")
    monkeypatch.setattr(vllm_process, "_HERE", tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # of the logs

    def write(code: str) -> None:
        (tmp_path / "vllm_driver.py").write_text(code)

    return write


def test_tokens_are_told_on_the_way_to_the_answer(pretend: Pretend, tmp_path: Path) -> None:
    long = "x" * 200_000  # more than one piece of a socket
    pretend(
        DRIVER + f"    reply(tokens=3); reply(tokens=4); reply(done={{'text': '{long}', 'asked': order['requests']}})\n"
    )
    told: list[int] = []
    with VllmProcess.running(ENGINE, "target", {}) as process:
        done = process.answer({"requests": [1, 2]}, told.append)
    assert told == [3, 4]
    assert done == {"text": long, "asked": [1, 2]}
    assert not list(tmp_path.glob("*.log"))  # it is kept only for who asks why


def test_what_the_driver_could_not_do_is_quoted_with_its_log(pretend: Pretend, tmp_path: Path) -> None:
    pretend(DRIVER + "    print('ValueError: no such layer', flush=True); reply(failed='ValueError: no such layer')\n")
    with (
        pytest.raises(EngineError, match=r"(?s)target: vLLM could not encode: ValueError: no such layer.*Log: .*\.log"),
        VllmProcess.running(ENGINE, "target", {}) as process,
    ):
        process.encode([[{"role": "user", "content": "Why?"}]])
    (log,) = tmp_path.glob("*.log")
    assert "no such layer" in log.read_text()


def test_a_driver_that_does_not_come_up_is_told_at_once(pretend: Pretend) -> None:
    pretend("raise SystemExit('No module named vllm')")
    with (
        pytest.raises(EngineError, match=r"(?s)target: vLLM's process ended at once.*No module named vllm"),
        VllmProcess.running(ENGINE, "target", {}),
    ):
        pass


@pytest.mark.parametrize(
    "death", ["os._exit(3)", "os.kill(os.getpid(), 9)", "connection.shutdown(socket.SHUT_RDWR); time.sleep(60)"]
)
def test_a_driver_that_dies_amid_its_work_is_told(pretend: Pretend, death: str) -> None:
    pretend(DRIVER + f"    reply(tokens=1); {death}\n")
    started = time.monotonic()
    with (
        pytest.raises(EngineError, match=r"target: vLLM.s process ended amid its work\. What was recorded is kept"),
        VllmProcess.running(ENGINE, "target", {}) as process,
    ):
        process.answer({"requests": []}, lambda n: None)
    assert time.monotonic() - started < 30
    assert not list(members(process.process.pid))


def test_a_driver_that_says_nothing_is_given_up(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "SILENT_SECONDS", 1.0)
    pretend(DRIVER + "    time.sleep(60)\n")
    with (
        pytest.raises(EngineError, match="target: told to answer, vLLM said nothing for 1 s and was ended"),
        VllmProcess.running(ENGINE, "target", {}) as process,
    ):
        process.answer({"requests": []}, lambda n: None)
    assert not list(members(process.process.pid))


def test_only_our_two_files_are_on_the_engines_path(pretend: Pretend) -> None:
    pretend(DRIVER + "    reply(done=sorted(os.listdir(sys.path[0])))\n")
    with VllmProcess.running(ENGINE, "target", {}) as process:
        found = process.encode([])
    assert found == ["orders", "quark_eagle_capture.py", "quark_eagle_driver.py"]


def test_what_the_user_set_wins_over_our_environment(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    pretend(
        DRIVER + "    reply(done=[os.environ.get(n) for n in ('VLLM_CPU_KVCACHE_SPACE', 'VLLM_NO_USAGE_STATS', 'A')])\n"
    )
    with VllmProcess.running(ENGINE, "target", {"A": "b"}) as process:
        assert process.encode([]) == ["7", "1", "b"]  # type: ignore[comparison-overlap]


def test_a_temporary_directory_with_a_long_path_holds_no_socket(
    pretend: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of one has 107 bytes at most."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    pretend(DRIVER + "    reply(done=[1])\n")
    with VllmProcess.running(ENGINE, "target", {}) as process:
        assert process.encode([]) == [1]  # type: ignore[comparison-overlap]


def test_an_interrupt_leaves_no_log(pretend: Pretend, tmp_path: Path) -> None:
    pretend(DRIVER + "    time.sleep(60)\n")
    running = VllmProcess.running(ENGINE, "target", {})
    running.__enter__()
    assert len(list(tmp_path.glob("*.log"))) == 1
    assert not running.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # the interrupt goes on
    assert not list(tmp_path.glob("*.log"))
