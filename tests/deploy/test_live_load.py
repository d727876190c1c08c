"""Whole engines: a few, as each takes half a minute; what the many loads are held against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.live_findings import live_findings
from quark_eagle.deploy.live_load import LiveLoad, live_load
from quark_eagle.deploy.live_report import verify_live
from quark_eagle.deploy.vllm_rules import VLLM_0_32
from quark_eagle.errors import VerificationError
from tests.deploy.export import Export
from tests.deploy.many_loads import LAYERS, Loaded, write_target
from tests.tiny import TinyDraft

QUARKS, MLA = "servable draft as Quark exports it", "servable MLA draft"


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("name", [QUARKS, MLA])
def test_a_whole_engine_does_what_the_short_way_does(loads: dict[str, Loaded], tmp_path: Path, name: str) -> None:
    report = verify_live(loads[name].directory, target=write_target(tmp_path / "kimi"))

    short = loads[name].live
    assert short is not None
    assert report.live == replace(short, ready=report.live.ready)
    assert report.live.num_target_layers == LAYERS
    assert report.live.ready, report.live.failure
    broken = {finding.subject for finding in report.errors}
    assert broken == ({"model.fc", "fc.weight", "model.fc.weight_scale"} if name == QUARKS else set())
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["live"]["vllm"] == report.live.vllm
    assert document["verdict"] == ("broken" if name == QUARKS else "ok")


@pytest.mark.vllm
@pytest.mark.slow
def test_a_tensor_that_arrived_changed_is_an_error(loads: dict[str, Loaded]) -> None:
    loaded = loads["llama midlayer fp8"]
    assert loaded.live is not None
    name = "model.norm.weight"
    other = replace(loaded.live.parameters[name], sha256="0" * 64)
    live = replace(loaded.live, parameters={**loaded.live.parameters, name: other})

    assert messages(live, loaded) == [
        f"{name}: holds other bytes than the file: its SHA-256 is not that of its tensors."
    ]


@pytest.mark.vllm
@pytest.mark.slow
def test_a_tensor_whose_file_was_not_opened_is_an_error(loads: dict[str, Loaded]) -> None:
    loaded = loads["llama midlayer fp8"]
    assert loaded.live is not None
    placements = {name: places for name, places in loaded.live.placements.items() if name != "t2d"}

    assert messages(replace(loaded.live, placements=placements), loaded) == [
        "t2d: was never read: vLLM does not open the file it lies in."
    ]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("real_target", [False, True])
def test_an_engine_that_loads_and_does_not_come_up_is_an_error_beside_the_real_target_only(
    loads: dict[str, Loaded], real_target: bool
) -> None:
    loaded = loads["llama midlayer fp8"]
    assert loaded.live is not None
    live = replace(loaded.live, ready=False, failure="out of memory")

    (finding,) = live_findings(live, Checkpoint.open(loaded.directory), VLLM_0_32, real_target=real_target)
    assert "did not come up: out of memory" in finding.message
    assert finding.severity == ("error" if real_target else "warning")


@pytest.mark.vllm
@pytest.mark.slow
def test_rules_of_another_version_only_warn_beside_the_engines_own_facts(
    loads: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loads[QUARKS]
    assert loaded.live is not None
    newer = replace(loaded.live, vllm="0.41.0")
    monkeypatch.setattr("quark_eagle.deploy.live_report.live_load", lambda *args, **options: newer)

    report = verify_live(loaded.directory)

    assert {finding.subject for finding in report.errors} == {"fc.weight", "model.fc.weight_scale"}
    assert all(finding.basis == "engine" for finding in report.errors)
    guessed = next(finding for finding in report.findings if finding.subject == "model.fc")
    assert "A guess: the sources of vLLM 0.41.0 were not read" in guessed.message


def test_a_python_without_vllm_says_so(tiny_draft: Path) -> None:
    with pytest.raises(VerificationError, match=r"vLLM could not be asked.*Is it installed there"):
        live_load(tiny_draft, python="/nonexistent/python")


def test_an_engine_that_ends_without_an_answer_is_quoted(tiny_draft: Path, tmp_path: Path) -> None:
    python = script(tmp_path, "echo No module named vllm; exit 3")

    with pytest.raises(VerificationError, match=r"it ended with 3\. The last lines of its log:\nNo module named vllm"):
        live_load(tiny_draft, python=python)


def test_an_engine_that_never_ends_is_killed_with_its_children(tiny_draft: Path, tmp_path: Path) -> None:
    python = script(tmp_path, f"sleep 300 & echo $! > {tmp_path}/child; wait")

    with pytest.raises(VerificationError, match="it took longer than 1 s"):
        live_load(tiny_draft, python=python, timeout_seconds=1)

    assert is_gone(int((tmp_path / "child").read_text()))


HELD = """
import os, sys
from pathlib import Path
from quark_eagle.deploy.live_load import SCRIPT, _running
with open(sys.argv[1] + ".log", "w") as log, _running([sys.executable, str(SCRIPT), sys.argv[1]], log) as process:
    print(process.pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_an_engine_does_not_outlive_whoever_asked_it(tmp_path: Path) -> None:
    """Even where nobody was left to end it."""
    job = tmp_path / "job"
    os.mkfifo(job)
    keeper = os.open(job, os.O_RDWR)  # a job whose end never comes
    try:
        died = subprocess.run([sys.executable, "-c", HELD, str(job)], capture_output=True, text=True, check=False)
        assert died.returncode == -9
        assert is_gone(int(died.stdout))
    finally:
        os.close(keeper)


def test_what_no_rule_covers_is_told_before_anything_starts(tmp_path: Path) -> None:
    export = Export(TinyDraft())
    export.quant["quant_method"] = "gptq"

    with pytest.raises(VerificationError, match="only 'quark' and 'compressed-tensors' are known here"):
        verify_live(export.write(tmp_path / "draft"), python="/nonexistent/python")


def test_a_target_without_sizes_is_refused_before_anything_starts(tiny_draft: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"hidden_size": 64}}')

    with pytest.raises(VerificationError, match="the target's has no num_hidden_layers, vocab_size"):
        live_load(tiny_draft, tmp_path)


def messages(live: LiveLoad, loaded: Loaded) -> list[str]:
    found = live_findings(live, Checkpoint.open(loaded.directory), VLLM_0_32, real_target=False)
    return [f"{finding.subject}: {finding.message}" for finding in found]


def script(directory: Path, text: str) -> Path:
    """What stands in for an interpreter."""
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def is_gone(process: int, seconds: float = 5.0) -> bool:
    """Whether a process ends, or is a zombie that nobody waits for."""
    for _ in range(int(seconds * 20)):
        status = Path(f"/proc/{process}/stat")
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
