"""`parity --engine vllm` that ends before its time, with two servers at work: nobody is left, and nothing is written.

Its own processes, signals and files are real; only what is served is a stand-in, which dies and waits at will.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from quark_eagle.serving import guardian
from tests.parity import stand_in_vllm
from tests.tiny_target import write_prompts

Start = Callable[[Mapping[str, str]], "subprocess.Popen[str]"]
SECONDS = 60.0


@pytest.fixture
def start(tiny_draft: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the command, each draft on a device of its own and both asked at the same time."""
    started: list[subprocess.Popen[str]] = []

    def start(faults: Mapping[str, str]) -> subprocess.Popen[str]:
        for name in ("notes", "logs", "target"):
            (tmp_path / name).mkdir()
        for name in ("bf16", "fp8"):
            shutil.copytree(tiny_draft, tmp_path / name)
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 4096}
        (tmp_path / "target" / "config.json").write_text(json.dumps(config))
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in_vllm.__file__} "$@"\n')
        python.chmod(0o755)
        prompts = write_prompts(tmp_path / "p.jsonl", ["a", "b", "c"])
        command = f"parity bf16 fp8 --engine vllm --target target --vllm-python {python} --devices 0/1"
        command += f" --tensor-parallel-size 1 -k 3 --prompts {prompts} --max-tokens 8"
        environment = {
            "STAND_IN_NOTES": str(tmp_path / "notes"),
            "STAND_IN_FAULTS": json.dumps(faults),
            "TMPDIR": str(tmp_path / "logs"),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "quark_eagle", *command.split()],
                cwd=tmp_path,
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def left_running(directory: Path) -> list[int]:
    """Processes of the servers, and of whatever they started."""
    sessions = [int(note.read_text()) for note in (directory / "notes").glob("*.session")]
    assert len(sessions) == 3
    return [pid for session in sessions for pid in guardian.members(session)]


def test_a_server_that_dies_ends_the_other_and_is_told_with_its_log(start: Start, tmp_path: Path) -> None:
    process = start({"bf16": "waits", "fp8": "dies"})
    said, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (5, "")
    assert left_running(tmp_path) == []
    assert not (tmp_path / "parity.json").exists()
    (log,) = (tmp_path / "logs").glob("*/2-candidate.log")
    assert "the server ended with 7 while it was in use" in errors
    assert f"Log: {log}\nIts last lines:\n" in errors
    assert errors.endswith("the stand-in gives up\n")
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("signum", "code", "says"),
    [(signal.SIGTERM, 143, "Terminated."), (signal.SIGINT, 130, "Interrupted.")],
)
def test_a_measurement_that_is_ended_leaves_no_server_and_no_file(
    start: Start, tmp_path: Path, signum: signal.Signals, code: int, says: str
) -> None:
    process = start({"bf16": "waits", "fp8": "waits"})
    until(lambda: process.poll() is not None or len(list((tmp_path / "notes").glob("*.asked"))) == 2)
    assert len(left_running(tmp_path)) == 2 * len(("guardian", "server", "core"))
    process.send_signal(signum)
    said, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (code, "")
    assert errors.strip().endswith(says)
    assert "Traceback" not in errors
    assert not (tmp_path / "parity.json").exists()
    assert left_running(tmp_path) == []
    assert list((tmp_path / "logs").iterdir()) == []
