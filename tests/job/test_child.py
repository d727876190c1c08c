"""A step is told of signals once, cleans up, and never outlives the job unnoticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quark_eagle.errors import UsageError
from quark_eagle.job.books import open_books

PARENT = """
import sys
from pathlib import Path
from quark_eagle.cli.exit_codes import run
from quark_eagle.job.books import open_books
from quark_eagle.job.child import run_child
with run(), open_books(Path("ledger.json"), Path("."), "1", write=True) as books:
    raise SystemExit(run_child([], Path("."), lock=books.lock, quiet=False, program=[sys.executable, "child.py"]))
"""
CHILD = """
import pathlib, signal, sys, time
def told(signum, frame):
    with open("told", "a") as file:
        file.write(f"{signum}\\n")
    time.sleep(0.5)
    sys.exit(128 + signum)
signal.signal(signal.SIGINT, told)
signal.signal(signal.SIGTERM, told)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def started(directory: Path, child: str = CHILD) -> subprocess.Popen[bytes]:
    (directory / "child.py").write_text(child)
    return subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=directory, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@pytest.mark.parametrize("from_terminal", [False, True])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_and_the_step_cleans_up(
    tmp_path: Path, signum: signal.Signals, from_terminal: bool
) -> None:
    parent = started(tmp_path)
    wait_for(tmp_path / "ready")
    # As kill sends it, to the job alone, and as a terminal does, to all that it began.
    os.killpg(parent.pid, signum) if from_terminal else parent.send_signal(signum)
    _, err = parent.communicate(timeout=60)
    assert parent.returncode == 128 + signum
    assert (tmp_path / "told").read_text() == f"{int(signum)}\n"
    assert b"Traceback" not in err


def test_a_step_whose_job_is_killed_is_told_and_holds_the_lock_until_it_has_ended(tmp_path: Path) -> None:
    parent = started(tmp_path)
    wait_for(tmp_path / "ready")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(timeout=60)
    wait_for(tmp_path / "told")
    with (
        pytest.raises(UsageError, match="still at work"),
        open_books(tmp_path / "ledger.json", tmp_path, "1", write=True),
    ):
        pass
    deadline = time.monotonic() + 60
    while True:
        try:
            with open_books(tmp_path / "ledger.json", tmp_path, "1", write=True):
                break
        except UsageError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert (tmp_path / "told").read_text() == f"{int(signal.SIGTERM)}\n"
    parent.communicate(timeout=60)


@pytest.mark.parametrize("code", [0, 3, 4])
def test_the_exit_code_of_a_step_is_kept(tmp_path: Path, code: int) -> None:
    parent = started(tmp_path, f"import sys; sys.exit({code})")
    parent.communicate(timeout=60)
    assert parent.returncode == code
