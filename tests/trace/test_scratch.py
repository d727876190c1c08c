"""The folder that states pass through: beside the trace, gone with its run, and with the next one if it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quark_eagle.errors import TraceError
from quark_eagle.trace.scratch import scratch_beside

KILLED = """
import os, sys
from pathlib import Path
from quark_eagle.trace.scratch import scratch_beside
with scratch_beside(Path(sys.argv[1])) as scratch:
    (scratch / "states").write_bytes(b"1")
    os.kill(os.getpid(), 9)
"""


def test_scratch_lies_beside_the_output_and_goes(tmp_path: Path) -> None:
    with scratch_beside(tmp_path / "deep" / "trace") as scratch:
        assert scratch.parent == tmp_path / "deep"
        (scratch / "states").write_bytes(b"1")
    assert not scratch.exists()


def test_what_a_killed_run_left_is_gone_with_the_next_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "trace")], check=False)
    (left,) = tmp_path.glob(".trace.*")
    assert (left / "states").is_file()
    with scratch_beside(tmp_path / "trace") as first:
        assert not left.exists()
        with scratch_beside(tmp_path / "trace") as second:
            assert first.is_dir()
            assert second.is_dir()
    assert not list(tmp_path.iterdir())


def test_another_outputs_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".trace2.states-x").mkdir()
    with scratch_beside(tmp_path / "trace"):
        assert (tmp_path / ".trace2.states-x").is_dir()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(TraceError, match="nothing can be written beside it"),
        scratch_beside(tmp_path / "file" / "trace"),
    ):
        pass
