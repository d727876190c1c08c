"""The scripts for ROCm say what the command line understands. They were not run on such a machine: this is held."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quark_eagle.cli.app import COMMANDS, command

FAKE = """#!{python}
import json, os, sys
with open(os.environ["CALLS"], "a") as log:
    log.write(json.dumps([sys.argv[1:], os.environ.get("VLLM_ROCM_USE_AITER")]) + "\\n")
if sys.argv[1] == "recipe":
    print("# a reason\\nexport VLLM_ROCM_USE_AITER=1\\nvllm serve target")
sys.exit(int(os.environ.get("EXIT_" + sys.argv[1].upper(), "0")))
"""
SCRIPTS = ("kimi_k25.sh", "minimax_m25.sh")
JOB = ["doctor", "recipe", "trace", "quantize", "verify", "parity", "gate"]


def run(repository: Path, directory: Path, script: str, **environment: str) -> tuple[int, list[list[str]], str]:
    """A script with a quark-eagle that writes down what it is told: exit code, the commands, stderr."""
    (directory / "bin").mkdir(exist_ok=True)
    fake = directory / "bin" / "quark-eagle"
    fake.write_text(FAKE.format(python=sys.executable))
    fake.chmod(0o755)
    calls = directory / "calls"
    calls.write_text("")
    done = subprocess.run(
        ["bash", str(repository / "examples" / "rocm" / script)],
        cwd=directory,
        env={"PATH": f"{fake.parent}:{os.environ['PATH']}", "CALLS": str(calls), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, [json.loads(line)[0] for line in calls.read_text().splitlines()], done.stderr


@pytest.mark.parametrize("path", ["kimi_k25.sh", "minimax_m25.sh", "job.sh"])
def test_bash_reads_every_script(repository: Path, path: str) -> None:
    subprocess.run(["bash", "-n", str(repository / "examples" / "rocm" / path)], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("more", [{}, {"VLLM_PYTHON": "/usr/bin/python3"}, {"DEVICES": ""}, {"FP8": "/models/fp8"}])
def test_every_command_of_the_scripts_is_understood(
    repository: Path, tmp_path: Path, script: str, more: dict[str, str]
) -> None:
    """Parsed by the real parsers: an option that was renamed fails here, not on a node that costs by the hour."""
    code, calls, err = run(repository, tmp_path, script, TRUST_REMOTE_CODE="1", **more)
    assert code == 0, err
    assert [call[0] for call in calls] == [name for name in JOB if name != "quantize" or "FP8" not in more]
    for name, *arguments in calls:
        assert name in COMMANDS
        command(name).make_context(name, arguments)


@pytest.mark.parametrize(("script", "k"), [("kimi_k25.sh", "6"), ("minimax_m25.sh", "3")])
def test_every_command_that_drafts_gets_the_published_k(repository: Path, tmp_path: Path, script: str, k: str) -> None:
    """Else the anchor of the trace would be of another k than what is replayed over it, and gate nothing."""
    _, calls, _ = run(repository, tmp_path, script, TRUST_REMOTE_CODE="1")
    said = {call[0]: call[call.index("-k") + 1] for call in calls if "-k" in call}
    assert said == dict.fromkeys(("recipe", "trace", "quantize", "parity"), k)


@pytest.mark.parametrize(("option", "value"), [("--tensor-parallel-size", "2"), ("--gpu", "mi300x")])
def test_every_command_that_serves_gets_the_gpus(repository: Path, tmp_path: Path, option: str, value: str) -> None:
    given = {"TRUST_REMOTE_CODE": "1", "TP": "2", "GPU": "mi300x"}
    for script in SCRIPTS:
        _, calls, _ = run(repository, tmp_path, script, **given)
        said = {call[0]: call[call.index(option) + 1] for call in calls if option in call}
        assert said == dict.fromkeys(("doctor", "recipe", "trace", "parity"), value)


def test_replay_may_use_the_gpu(repository: Path, tmp_path: Path) -> None:
    _, calls, _ = run(repository, tmp_path, "minimax_m25.sh")
    (quantize,) = [call for call in calls if call[0] == "quantize"]
    assert quantize[quantize.index("--device") + 1] == "auto"


def test_evidence_from_elsewhere_is_refused(repository: Path, tmp_path: Path) -> None:
    _, calls, _ = run(repository, tmp_path, "minimax_m25.sh")
    gate = calls[-1]
    assert gate[gate.index("--require-arch") + 1] == "gfx950"


def test_the_recipes_variables_hold_for_what_comes_after_it(repository: Path, tmp_path: Path) -> None:
    run(repository, tmp_path, "minimax_m25.sh")
    seen = {call[0]: aiter for call, aiter in map(json.loads, (tmp_path / "calls").read_text().splitlines())}
    assert (seen["doctor"], seen["trace"], seen["verify"], seen["parity"]) == (None, "1", "1", "1")


def test_nobodys_python_runs_unless_it_was_asked_for(repository: Path, tmp_path: Path) -> None:
    code, calls, err = run(repository, tmp_path, "kimi_k25.sh")
    assert code != 0
    assert calls == []
    assert "the tokenizer of Kimi is Python of its own" in err
    _, calls, _ = run(repository, tmp_path, "minimax_m25.sh")
    assert not any("--trust-remote-code" in call for call in calls)


@pytest.mark.parametrize(("failing", "code"), [("doctor", 3), ("quantize", 4), ("gate", 3)])
def test_the_first_command_that_fails_ends_the_job_with_its_code(
    repository: Path, tmp_path: Path, failing: str, code: int
) -> None:
    found, calls, _ = run(repository, tmp_path, "minimax_m25.sh", **{f"EXIT_{failing.upper()}": str(code)})
    assert found == code
    assert calls[-1][0] == failing


def test_the_image_is_pinned_and_public(repository: Path) -> None:
    text = (repository / "examples" / "rocm" / "Containerfile").read_text(encoding="utf-8")
    (image,) = re.findall(r"^FROM (\S+)$", text, flags=re.MULTILINE)
    assert re.fullmatch(r"docker\.io/vllm/vllm-openai-rocm:v\d+\.\d+\.\d+", image)
    assert "pip install" not in text, "tools/install.sh, which changes none of the image's packages"


def test_the_readme_says_plainly_that_it_was_not_run_there(repository: Path) -> None:
    text = (repository / "examples" / "rocm" / "README.md").read_text(encoding="utf-8")
    assert "We have not run them on MI355X" in text
    for target in re.findall(r"\]\(([\w.]+)\)", text):
        assert (repository / "examples" / "rocm" / target).is_file()
