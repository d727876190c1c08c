"""A guarded process and whatever it started end together, however we or they end. Small shell trees stand for vLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quark_eagle.errors import EngineError
from quark_eagle.serving import guardian
from quark_eagle.serving.process import Guarded

# A server whose engine does not listen to SIGTERM and whose worker has a process group of its own.
TREE = """
import os, signal, subprocess, sys, time
def child(program):
    program = "import os, signal, time; " + program + "; print('child', flush=True); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", program])
child("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
child("os.setpgid(0, 0)")
{then}
"""
WAITS, FAILS = "time.sleep(600)", "time.sleep(1); sys.exit(7)"
GRACE_SECONDS = 1.0
Start = Callable[..., Guarded]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a Python program, guarded; ends it after the test."""
    started: list[Guarded] = []

    def start(program: str, *arguments: str) -> Guarded:
        command = [sys.executable, "-c", program, *arguments]
        started.append(Guarded.start(command, tmp_path / "log", grace_seconds=GRACE_SECONDS))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def grown(process: Guarded) -> Guarded:
    until(lambda: process.log().count("child") == 2)
    return process


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def test_stopping_ends_every_descendant(start: Start) -> None:
    process = grown(start(TREE.format(then=WAITS)))
    began = time.monotonic()
    process.stop()
    assert process.members() == []
    assert GRACE_SECONDS <= time.monotonic() - began < GRACE_SECONDS + 3  # the deaf one had to be killed
    assert process.exit_code() == 128 + signal.SIGTERM


def test_the_commands_own_end_ends_what_it_left_behind(start: Start) -> None:
    process = start(TREE.format(then=FAILS))
    until(lambda: process.exit_code() is not None)
    assert process.log().count("child") == 2
    assert process.exit_code() == 7
    assert process.members() == []


def test_a_killed_command_is_told_from_one_that_failed(start: Start) -> None:
    process = start(f"import time; {WAITS}")
    until(lambda: len(process.members()) == 1)
    os.kill(process.members()[0], signal.SIGKILL)
    until(lambda: process.exit_code() is not None)
    assert process.exit_code() == 128 + signal.SIGKILL


def test_nothing_survives_the_guardian_itself(start: Start) -> None:
    """Its command gets SIGTERM from the kernel, and `stop` finds the rest by their session."""
    process = grown(start(TREE.format(then=WAITS)))
    command = min(process.members())
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: command not in process.members())
    process.stop()
    assert list(guardian.members(process.pid)) == []


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_the_program_that_started_it(tmp_path: Path, signum: signal.Signals) -> None:
    program = (
        "import signal, sys, time; from pathlib import Path; from quark_eagle.serving.process import Guarded\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "started = Guarded.start([sys.executable, '-c', sys.argv[2]], Path(sys.argv[1]), grace_seconds=1.0)\n"
        "print(started.pid, flush=True); time.sleep(600)"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "log"), TREE.format(then=WAITS)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        session = int(parent.stdout.readline())
        until(lambda: len(list(guardian.members(session))) == 4)
        parent.send_signal(signum)
        parent.wait(20)
    until(lambda: list(guardian.members(session)) == [])


def test_a_guardian_of_somebody_elses_session_ends_nothing() -> None:
    """It would end the shell that it was started from."""
    command = [sys.executable, "-I", guardian.__file__, "1.0", sys.executable, "-c", "print('started')"]
    refused = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert refused.returncode == 1
    assert "not the leader of its session" in refused.stderr
    assert "started" not in refused.stderr


def test_an_interrupted_stop_still_comes_about(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = grown(start(TREE.format(then=WAITS)))

    def interrupted(timeout: float) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(process.guardian, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            process.stop()
    until(lambda: process.members() == [])


def test_no_shell_reads_the_command(start: Start) -> None:
    process = start("import sys; print(sys.argv[1:])", "$HOME; ls", "a b")
    until(lambda: process.exit_code() == 0)
    assert process.last_lines() == "['$HOME; ls', 'a b']"


def test_the_log_holds_both_streams_and_its_end_is_quoted(start: Start) -> None:
    process = start("import sys; [print(i, flush=True) for i in range(100)]; print('oops', file=sys.stderr)")
    until(lambda: process.exit_code() == 0)
    assert process.last_lines(3) == "98\n99\noops"


def test_a_program_that_is_not_there_says_so(tmp_path: Path) -> None:
    process = Guarded.start([str(tmp_path / "nothing")], tmp_path / "log")
    until(lambda: process.exit_code() is not None)
    process.stop()
    assert process.exit_code() == 1
    assert "FileNotFoundError" in process.last_lines()
    assert str(tmp_path / "nothing") in process.last_lines()


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"file/log: the engine's log cannot be written"):
        Guarded.start(["true"], tmp_path / "file" / "log")
