from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from quark_eagle.cli.app import app
from tests.deploy.export import NAIVE_EXCLUDE, Export
from tests.tiny import TinyDraft


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return Export(TinyDraft()).write(tmp_path / "good")


@pytest.fixture
def naive(tmp_path: Path) -> Path:
    return Export(TinyDraft(), NAIVE_EXCLUDE).write(tmp_path / "naive")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def test_a_good_checkpoint_exits_with_0_and_names_the_next_command(good: Path, tiny_draft: Path) -> None:
    alone, compared = run(good), run(good, "--source", tiny_draft)

    assert alone.exit_code == compared.exit_code == 0, compared.output
    assert "model.layers.0.self_attn.qkv_proj" in alone.stdout
    assert f"quark-eagle verify {good} --source DRAFT" in alone.stdout
    assert f"quark-eagle parity {tiny_draft} {good} --trace TRACE" in compared.stdout


def test_a_quantized_source_is_a_mistake_of_the_user_and_no_broken_checkpoint(good: Path, tiny_draft: Path) -> None:
    for checkpoint in (good, tiny_draft):
        result = run(checkpoint, "--source", good)
        assert result.exit_code == 2, result.output
        assert "is quantized itself, but the BF16 draft" in result.stderr


def test_a_broken_checkpoint_exits_with_3_and_says_why(naive: Path) -> None:
    result = run(naive)

    assert result.exit_code == 3
    assert "ERROR model.fc: fc.weight is BF16, but vLLM builds an FP8 parameter" in result.stdout
    assert "BROKEN: 1 error." in result.stdout


def test_json_is_one_object_and_the_exit_code_is_the_verdict(naive: Path) -> None:
    result = run(naive, "--json")

    assert result.exit_code == 3
    assert json.loads(result.stdout)["verdict"] == "broken"


def test_what_cannot_be_read_exits_with_5_without_a_traceback(tmp_path: Path) -> None:
    result = run(tmp_path / "nothing")

    assert result.exit_code == 5
    assert "Traceback" not in result.output
    assert "nothing" in result.stderr


def test_an_unknown_engine_exits_with_2(good: Path) -> None:
    result = run(good, "--engine", "vllm-9")

    assert result.exit_code == 2
    assert "vllm-9" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "t"], "--target: is about asking the engine itself. Say --engine vllm as well."),
        (["--vllm-python", "p"], "--vllm-python: is about asking the engine itself."),
        (["--engine", "vllm", "--engine-version", "0.26"], "--engine-version: with --engine the engine tells that"),
        (["--engine", "vllm", "--real-target"], "--real-target: loads the target itself, but --target does not say"),
        (["--engine-version", "newest"], "--engine-version 'newest': is no version of vLLM"),
    ],
)
def test_options_that_would_be_read_by_nobody_exit_with_2(good: Path, options: list[str], said: str) -> None:
    result = run(good, *options)

    assert result.exit_code == 2
    assert said in result.stderr


def test_the_version_whose_rules_were_applied_is_named(good: Path) -> None:
    assert "by the rules of vllm-0.26 (LlamaForCausalLMEagle3)" in run(good, "--engine-version", "0.26.0").stdout

    unread = run(good, "--engine-version", "0.40.0")
    assert unread.exit_code == 0
    assert "WARNING vLLM 0.40.0: the sources of vLLM 0.40.0 were not read" in unread.stdout


def test_an_engine_that_cannot_be_asked_exits_with_5_and_the_end_of_its_log(good: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho No module named vllm; exit 1\n")
    python.chmod(0o755)

    result = run(good, "--engine", "vllm", "--vllm-python", python)

    assert result.exit_code == 5
    assert "vLLM could not be asked: it ended with 1" in result.stderr
    assert "No module named vllm" in result.stderr


def test_the_targets_number_of_layers_appears_in_the_lookups(good: Path) -> None:
    document = json.loads(run(good, "--num-target-layers", 61, "--json").stdout)

    assert "model.layers.61.mlp.down_proj" in {module["lookup"] for module in document["modules"]}
