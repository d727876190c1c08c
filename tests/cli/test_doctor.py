from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.serving.machine import Machine
from tests.serving.machines import CPU_NODE, MI300X_NODE, MI355X_NODE
from tests.tiny import write_tiny_draft


def run(*args: str | Path | int) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["doctor", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend to be on a machine, and note which Python is asked."""
    asked: list[Path | None] = []

    def become(machine: Machine) -> list[Path | None]:
        def read(python: Path | None = None, disk: Path | None = None) -> Machine:
            asked.append(python)
            return machine

        monkeypatch.setattr(Machine, "read", read)
        return asked

    return become


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A target's directory: config and the size of its weights."""
    directory = tmp_path / "target"
    directory.mkdir()
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(bytes(1000))
    return directory


def test_a_machine_without_a_gpu_is_fine_until_one_is_asked_for(on: Any) -> None:
    on(CPU_NODE)
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.startswith("warning  GPU")
    assert out.endswith("OK: 0 errors, 1 warning.\n")
    code, out, _ = run("--gpu", "mi355x")
    assert code == 3
    assert out.startswith("error    GPU")
    assert out.endswith("NOT READY: 1 error, 0 warnings.\n")


def test_a_remedy_stands_under_what_it_mends(on: Any) -> None:
    on(MI300X_NODE)
    _, out, _ = run()
    lines = out.splitlines()
    (place,) = [number for number, text in enumerate(lines) if text.startswith("warning  FP8")]
    assert lines[place + 1].strip().startswith("→ Measure here what is served here")


def test_json_is_one_object_and_nothing_else(on: Any) -> None:
    on(MI355X_NODE)
    code, out, err = run("--gpu", "mi355x", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert (document["schema_version"], document["ok"], document["arch"]) == (1, True, "gfx950")
    assert document["versions"]["vllm"] == "0.31.0+rocm723"


def test_target_and_draft_size_the_job_and_the_next_command_is_said(on: Any, target: Path, tmp_path: Path) -> None:
    on(MI355X_NODE)
    draft = write_tiny_draft(tmp_path / "draft")
    code, out, err = run("--target", target, "--draft", draft, "--prompts", 10, "--isl", 100, "--osl", 28)
    assert code == 0
    for subject in ("GPU memory", "host memory", "disk", "attention blocks", "draft attention"):
        assert f"ok       {subject}" in out
    assert "a trace of 10 × 128 tokens" in out
    assert f"Next: quark-eagle recipe {target} {draft} --gpu mi355x" in err


def test_the_python_that_was_named_is_the_one_that_is_asked(on: Any) -> None:
    asked = on(CPU_NODE)
    run("--vllm-python", "/opt/vllm/bin/python")
    assert asked == [Path("/opt/vllm/bin/python")]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--gpu", "mi999"), "--gpu mi999: must be one of mi355x"),
        (("--draft", "owner/name"), "--draft: says nothing without its target"),
        (("--target", "./nowhere"), "./nowhere: not found"),
    ],
)
def test_wrong_usage_exits_with_2(on: Any, args: tuple[str, ...], said: str) -> None:
    on(CPU_NODE)
    code, _, err = run(*args)
    assert code == 2
    assert said in err


def test_the_machine_that_runs_the_tests_is_read_by_a_process_of_its_own() -> None:
    """The real thing, once; our own process imports neither torch nor vLLM."""
    import subprocess

    program = (
        "import sys\n"
        "from quark_eagle.cli.app import app\n"
        "try:\n    app(['doctor', '--json'])\n"
        "except SystemExit as end:\n"
        "    print(end.code, [it for it in ('torch', 'vllm', 'transformers') if it in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0 []"
    document = json.loads(done.stdout)
    assert document["versions"]["python"] == sys.version.split()[0]
    assert {"GPU", "torch", "vLLM"} <= {line["subject"] for line in document["lines"]}
