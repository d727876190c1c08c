from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle.checked import Check
from quark_eagle.cli.app import app
from tests.broken.drafts import DRAFTS
from tests.quantize.conftest import StandIn
from tests.quantize.conftest import stand_in as stand_in  # a fixture is found by its name


def quantize(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, ["quantize", *map(str, arguments)], env={"NO_COLOR": "1", "COLUMNS": "160"})
    return result.exit_code, result.stdout, result.stderr


def test_a_draft_is_quantized_and_the_next_step_named(tiny_draft: Path, tmp_path: Path, stand_in: StandIn) -> None:
    code, out, err = quantize(tiny_draft, "--output", tmp_path / "fp8")
    assert code == 0, err
    assert "quantized to FP8, with scales" in out
    assert f"Next: quark-eagle verify {tmp_path / 'fp8'} --source {tiny_draft}" in out
    assert "quantize" in err
    assert (tmp_path / "fp8" / "quark_eagle.json").is_file()


def test_json_is_one_object_and_silence_beside_it(tiny_draft: Path, tmp_path: Path, stand_in: StandIn) -> None:
    code, out, err = quantize(tiny_draft, "--output", tmp_path / "fp8", "--json")
    content = json.loads(out)
    assert (code, err) == (0, "")
    assert content["schema_version"] == 1
    assert content["output_directory"] == str(tmp_path / "fp8")
    assert content["tensors_after_bytes"] < content["tensors_before_bytes"]
    assert {"plan", "input", "output", "carried", "left_out"} <= {*content}


def test_a_dry_run_shows_every_decision_and_writes_nothing(tiny_draft: Path, tmp_path: Path) -> None:
    code, out, _ = quantize(tiny_draft, "--output", tmp_path / "fp8", "--dry-run", "--keep", "*.down_proj")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "F8_E4M3   linear weight" in rows["midlayer.self_attn.o_proj.weight"]
    assert "kept by --keep '*.down_proj'" in rows["midlayer.mlp.down_proj.weight"]
    assert r"exclude: fc, lm_head, midlayer.mlp.down_proj, model.fc, re:.*\.down_proj$, re:.*\.fc$" in out
    assert "Nothing was written" in out
    assert not [*tmp_path.iterdir()]


def test_a_dry_run_refuses_the_output_that_the_real_one_would(tiny_draft: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path, tiny_draft):
        code, _, err = quantize(tiny_draft, "--output", output, "--dry-run")
        assert code == 2, err
        assert "Choose another --output" in err


def test_a_dry_run_needs_no_output_and_has_json(tiny_draft: Path) -> None:
    code, out, _ = quantize(tiny_draft, "--dry-run", "--json")
    content = json.loads(out)
    assert code == 0
    assert len(content["plan"]["decisions"]) == 15
    assert {"tensors_before_bytes", "tensors_after_bytes"} <= {*content}


def test_quantizing_fc_warns_of_sglang(tiny_draft: Path) -> None:
    code, out, err = quantize(tiny_draft, "--dry-run", "--quantize-fc")
    assert code == 0
    assert "SGLang" in err
    assert "SGLang" not in out
    assert "SGLang" not in quantize(tiny_draft, "--dry-run")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "*.q_proj", "--dry-run"], "Keep all three or none"),
        (["--keep", "qkv_proj", "--dry-run"], "matches no tensor"),
        ([], "--output: not given"),
        (["--output", "fp8", "--target", "a", "--trace", "b"], "only one of them"),
        (["--scheme", "int3", "--dry-run"], "int3"),
    ],
)
def test_wrong_usage_is_2(tiny_draft: Path, arguments: list[str], message: str) -> None:
    code, _, err = quantize(tiny_draft, *arguments)
    assert code == 2
    assert message in err


def check_of(draft: Path, output: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Check:
    """What the command line makes of these options; nothing is done."""
    seen: list[Check] = []

    def quantize_and_check(
        checkpoint: object, layout: object, plan: object, output: Path, check: Check, **rest: object
    ) -> None:
        seen.append(check)
        raise KeyboardInterrupt

    monkeypatch.setattr("quark_eagle.pipeline.quantize_and_check", quantize_and_check)
    _, _, err = quantize(draft, "--output", output, *arguments)
    assert seen, err
    return seen[0]


def test_a_target_is_recorded_as_it_is_served(
    tiny_draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One list of flags for both: what a recording settles by itself is for the servers alone."""
    given = ("--kv-cache-dtype=fp8", "--no-async-scheduling", "--enforce-eager", "--seed=7")
    check = check_of(
        tiny_draft,
        tmp_path / "fp8",
        monkeypatch,
        *("--engine", "vllm", "--target", "T", "--gpu", "mi300x", "--tensor-parallel-size", "8", "-k", "4"),
        *(f"--vllm-option={flag}" for flag in given),
    )
    assert check.serve is not None
    assert check.serve.vllm_option == list(given)
    assert check.options is not None
    vllm = check.options.vllm
    assert vllm is not None
    assert (vllm.gpu, vllm.tensor_parallel_size, vllm.num_speculative_tokens) == ("mi300x", 8, 4)
    assert vllm.options == {"kv_cache_dtype": "fp8", "async_scheduling": False}
    assert vllm.serves_draft
    check.options.check()


def test_what_is_not_said_is_left_to_the_recipe(
    tiny_draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_of(tiny_draft, tmp_path / "fp8", monkeypatch, "--engine", "vllm", "--target", "T")
    assert check.options is not None
    vllm = check.options.vllm
    assert vllm is not None
    assert (vllm.gpu, vllm.tensor_parallel_size, vllm.num_speculative_tokens) == (None, None, None)
    assert check.num_speculative_tokens is None


def test_gpus_are_said_once_for_the_recording_and_the_servers(tiny_draft: Path, tmp_path: Path) -> None:
    given = ("--engine", "vllm", "--target", "T", "--vllm-option=--tensor_parallel_size=4")
    code, _, err = quantize(tiny_draft, "--output", tmp_path / "fp8", *given)
    assert code == 2
    assert "--vllm-option --tensor-parallel-size: is an option of its own" in err


def test_an_existing_output_is_left_alone_without_overwrite(
    tiny_draft: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    assert quantize(tiny_draft, "--output", tmp_path / "fp8")[0] == 0
    (tmp_path / "fp8" / "mine.txt").write_text("here")
    code, _, err = quantize(tiny_draft, "--output", tmp_path / "fp8")
    assert code == 2
    assert "exists, and nothing existing is touched" in err
    assert (tmp_path / "fp8" / "mine.txt").read_text() == "here"
    assert quantize(tiny_draft, "--output", tmp_path / "fp8", "--overwrite")[0] == 0
    assert not (tmp_path / "fp8" / "mine.txt").exists()


def test_a_failed_overwrite_leaves_the_old_output(tiny_draft: Path, tmp_path: Path, stand_in: StandIn) -> None:
    assert quantize(tiny_draft, "--output", tmp_path / "fp8")[0] == 0
    before = (tmp_path / "fp8" / "quark_eagle.json").read_bytes()
    (tmp_path / "bad").mkdir()
    code, _, err = quantize(DRAFTS["nan_weight"].write(tmp_path / "bad"), "--output", tmp_path / "fp8", "--overwrite")
    assert code == 5
    assert "not finite" in err
    assert (tmp_path / "fp8" / "quark_eagle.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"fp8", "bad"}


def test_the_output_cannot_lie_in_the_input(tiny_draft: Path, stand_in: StandIn) -> None:
    code, _, err = quantize(tiny_draft, "--output", tiny_draft / "fp8")
    assert code == 2
    assert "lies inside the input" in err
    assert not (tiny_draft / "fp8").exists()


def test_a_quantized_input_is_refused(tmp_path: Path) -> None:
    code, _, err = quantize(DRAFTS["fp8_input"].write(tmp_path), "--dry-run")
    assert code == 5
    assert "already quantized" in err


def run_until_staging(draft: Path, output: Path) -> subprocess.Popen[str]:
    """The real command in a process of its own, at work in its staging directory (Quark is being imported)."""
    command = [sys.executable, "-m", "quark_eagle", "quantize", str(draft), "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    deadline = time.monotonic() + 120
    while not [*output.parent.glob(f".{output.name}.staging-*/model.safetensors")]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no staging directory appeared"
        time.sleep(0.05)
    return process


@pytest.mark.quark
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_quantize_cleans_up_and_says_so(
    tiny_draft: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    process = run_until_staging(tiny_draft, tmp_path / "fp8")
    process.send_signal(sent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert not [*tmp_path.iterdir()]


@pytest.mark.quark
def test_interrupted_quantize_leaves_no_output(tiny_draft: Path, tmp_path: Path, stand_in: StandIn) -> None:
    """SIGKILL cannot be handled: OUT is not there, and what is left is hidden and swept by the next run."""
    process = run_until_staging(tiny_draft, tmp_path / "fp8")
    process.kill()
    process.communicate(timeout=120)
    assert not (tmp_path / "fp8").exists()
    assert all(path.name.startswith(".fp8.staging-") for path in tmp_path.iterdir())
    assert quantize(tiny_draft, "--output", tmp_path / "fp8")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["fp8"]
