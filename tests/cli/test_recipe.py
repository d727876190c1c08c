from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from tests.tiny import write_tiny_draft

KIMI = ("amd/Kimi-K2.5-MXFP4", "amd/Kimi-K2.5-Eagle3-FP8")


def run(*args: str | Path | int) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["recipe", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_script_for_the_shell_is_all_that_stdout_gets() -> None:
    code, out, err = run(*KIMI, "--trust-remote-code")
    assert (code, err) == (0, "")
    assert out == run(*KIMI, "--trust-remote-code", "--shell")[1]
    assert subprocess.run(["bash", "-n"], input=out, text=True, check=False).returncode == 0
    assert "export VLLM_ROCM_USE_AITER=1\n" in out
    assert "vllm serve amd/Kimi-K2.5-MXFP4 \\\n" in out
    assert '"num_speculative_tokens": 6' in out
    assert out.endswith("--host 127.0.0.1 --port 8000\n")


def test_every_option_reaches_the_recipe() -> None:
    options = ("--gpu", "mi300x", "--tp", 8, "--isl", 8192, "--osl", 512, "-k", 2, "--port", 9000)
    _, out, _ = run(*KIMI, *options, "--engine", "vllm-0.20.1")
    for words in ("--tensor-parallel-size 8", "--max-model-len 8960", '"num_speculative_tokens": 2', "--port 9000"):
        assert words in out
    assert "vLLM 0.20 lacks attention_backend, per_request_metrics" in out
    assert "on mi300x nobody has" in out


def test_json_gives_every_part_its_reason_and_source() -> None:
    code, out, err = run(*KIMI, "--compare", "--json")
    document = json.loads(out)
    assert (code, err, document["schema_version"]) == (0, "", 1)
    assert all(part["reason"] and part["source"] for part in document["parts"])
    (k,) = [part for part in document["parts"] if part["name"] == "num_speculative_tokens"]
    assert (k["value"], k["reason"].startswith("k = 6 for every arm")) == (6, True)


def test_models_on_the_disk_are_read_and_not_guessed(tmp_path: Path) -> None:
    target = tmp_path / "Kimi-K2.5"
    target.mkdir()
    (target / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 32}))
    draft = write_tiny_draft(tmp_path / "draft-fp8")
    _, out, _ = run(target, draft, "--gpu", "cpu", "--json")
    document = json.loads(out)
    assert (document["family"], document["arch"], document["environment"]) == ("generic", None, {})
    assert "BF16" in document["parts"][-1]["reason"], "whatever its directory is called"


def test_the_target_alone_is_served_without_a_draft() -> None:
    document = json.loads(run(KIMI[0], "--json")[1])
    assert (document["draft"], document["speculative_config"]) == (None, None)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((*KIMI, "--gpu", "mi999"), "--gpu mi999: must be one of"),
        ((*KIMI, "--engine", "sglang-0.5"), "--engine sglang-0.5: an engine and its version were needed"),
        ((*KIMI, "--shell", "--json"), "--shell and --json: one answer was needed"),
        (("./nowhere",), "./nowhere: not found"),
    ],
)
def test_wrong_usage_exits_with_2(args: tuple[str, ...], said: str) -> None:
    code, _, err = run(*args)
    assert code == 2
    assert said in err


def test_a_directory_that_holds_no_model_exits_with_5(tmp_path: Path) -> None:
    code, _, err = run(tmp_path)
    assert code == 5
    assert "config.json: cannot be read" in err
