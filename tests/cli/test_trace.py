"""`quark-eagle trace` as a user types it, with a tiny target."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.trace.target_trace import TargetTrace
from tests.parity.test_anchor import fitting
from tests.tiny import write_tiny_draft
from tests.tiny_target import VOCAB, write_prompts, write_tiny_target


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Target, draft and prompts, as arguments."""
    directory = tmp_path_factory.mktemp("pair")
    return (
        str(write_tiny_target(directory / "target")),
        str(write_tiny_draft(directory / "draft", vocab=VOCAB, aux_layer_ids=(1, 3, 5))),
        str(write_prompts(directory / "prompts.jsonl", ["Why?", "How many are there?", "Sing."])),
    )


def run(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["trace", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def arguments(pair: tuple[str, str, str], output: Path, *more: str) -> list[str]:
    target, draft, prompts = pair
    return [target, "--draft", draft, "--prompts", prompts, "--output", str(output), "--max-tokens", "8", *more]


def test_disk_and_time_are_told_first_and_the_next_command_last(pair: tuple[str, str, str], tmp_path: Path) -> None:
    code, out, err = run(*arguments(pair, tmp_path / "trace"))
    assert code == 0
    assert "3 prompts: " in err
    assert "up to 24 to write, in " in err
    assert "At most " in err
    assert f"Next: quark-eagle parity {pair[1]} FP8_DRAFT --trace {tmp_path / 'trace'}" in err
    assert err.index("At most ") < err.index("Next: ")
    for words in ("aux layers 1, 3, 5, bfloat16", "greedy", "embed_ids, embed_rows", str(tmp_path / "trace")):
        assert words in out
    assert len(TargetTrace.open(tmp_path / "trace")) == 3


def test_json_is_one_object_and_nothing_else(pair: tuple[str, str, str], tmp_path: Path) -> None:
    code, out, err = run(*arguments(pair, tmp_path / "trace", "--json"))
    document = json.loads(out)
    assert (code, err) == (0, "")
    trace = TargetTrace.open(tmp_path / "trace")
    assert document["schema_version"] == 1
    assert document["trace_sha256"] == trace.sha256
    assert document["num_generated_tokens"] == trace.num_generated_tokens
    assert document["num_prompts"] == 3


def test_every_option_reaches_the_trace(pair: tuple[str, str, str], tmp_path: Path) -> None:
    options = "--temperature 0.7 --top-p 0.9 --seed 5 --dtype float32 --limit 2 --batch-size 1 --state-dtype float32"
    code, _, _ = run(*arguments(pair, tmp_path / "trace", *options.split()))
    trace = TargetTrace.open(tmp_path / "trace")
    assert code == 0
    assert (trace.sampling.temperature, trace.sampling.top_p, trace.sampling.seed) == (0.7, 0.9, 5)
    assert trace.sampling.max_tokens == 8
    assert (trace.target.dtype, trace.states.dtype, len(trace)) == ("float32", "float32", 2)
    assert trace.provenance["batch_size"] == 1
    assert "--temperature" not in trace.provenance["draft"]


def test_project_stores_a_third(pair: tuple[str, str, str], tmp_path: Path) -> None:
    run(*arguments(pair, tmp_path / "whole"))
    code, out, _ = run(*arguments(pair, tmp_path / "projected", "--project"))
    assert code == 0
    assert "projected by the draft's fc" in out
    whole, projected = TargetTrace.open(tmp_path / "whole"), TargetTrace.open(tmp_path / "projected")
    assert projected.states.width * 3 == whole.states.width


def test_the_packaged_prompts_are_the_default(pair: tuple[str, str, str], tmp_path: Path) -> None:
    # The tiny target reads bytes, and has room for few of them.
    target = write_tiny_target(tmp_path / "long", max_position_embeddings=4096)
    code, _, _ = run(target, "--draft", pair[1], "--output", tmp_path / "trace", "--max-tokens", "2", "--limit", "10")
    trace = TargetTrace.open(tmp_path / "trace")
    assert code == 0
    assert {info.split for info in trace.prompts} == {"parity"}
    assert len({info.category for info in trace.prompts}) == 10


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--top-p", "1.5"], 2, "--top-p 1.5: must be above 0 and at most 1"),
        (["--split", "selection"], 2, "has no prompt in that split"),
        (["--prompts", "nowhere.jsonl"], 5, "nowhere.jsonl: not found"),
        (["--draft", "nowhere"], 2, "nowhere: not found"),
        (["--device", "tpu"], 2, "--device tpu: must be auto, cpu, cuda or cuda:N"),
        (["--max-tokens", "600"], 5, "more than the 512 positions of the target"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    pair: tuple[str, str, str], tmp_path: Path, more: list[str], code: int, message: str
) -> None:
    found, out, err = run(*arguments(pair, tmp_path / "trace", *more))
    assert (found, out) == (code, "")
    assert err.startswith("Error: ")
    assert message in err
    assert not (tmp_path / "trace").exists()


def test_an_existing_trace_is_refused_and_replaced_when_asked(pair: tuple[str, str, str], tmp_path: Path) -> None:
    assert run(*arguments(pair, tmp_path / "trace"))[0] == 0
    code, _, err = run(*arguments(pair, tmp_path / "trace"))
    assert code == 2
    assert "pass --overwrite" in err
    assert run(*arguments(pair, tmp_path / "trace", "--overwrite"))[0] == 0


def test_a_target_of_another_size_is_refused(pair: tuple[str, str, str], tmp_path: Path) -> None:
    wide = write_tiny_target(tmp_path / "wide", hidden_size=96)
    code, _, err = run(*arguments((str(wide), *pair[1:]), tmp_path / "trace"))
    assert code == 5
    assert "target hidden size: wanted 64 (draft), found 96 (target)." in err


def test_a_missing_target_is_called_a_target(pair: tuple[str, str, str], tmp_path: Path) -> None:
    code, _, err = run(*arguments(("./nowhere", *pair[1:]), tmp_path / "trace"))
    assert code == 2
    assert "./nowhere: not found, but a target is a local directory or a Hugging Face id" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_no_bug(pair: tuple[str, str, str], tmp_path: Path) -> None:
    code, _, err = run(*arguments(pair, tmp_path / "trace", "--device", "cuda"))
    assert code == 2
    assert "sees no GPU here" in err


def test_a_file_is_no_target(pair: tuple[str, str, str], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    code, _, err = run(*arguments((str(file), *pair[1:]), tmp_path / "trace"))
    assert code == 5
    assert "is a file, but a target is a directory" in err


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "quark_eagle", "trace", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_real_signal_leaves_what_the_same_command_continues(
    pair: tuple[str, str, str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    more = ["--batch-size", "1", "--max-tokens", "400", "--dtype", "float32"]
    line = [*arguments(pair, tmp_path / "trace"), *more]
    process = start(*line)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "trace").glob("shard-*.safetensors")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (code, 0), err  # 0: it was faster than the signal
    if process.returncode == 0:
        return
    assert not (tmp_path / "trace" / "trace.json").exists()
    if number is not signal.SIGKILL:
        assert "the same command continues where it stopped" in err
        assert "Traceback" not in err
        assert not list((tmp_path / "trace").glob("*.part"))
    assert run(*line)[0] == 0
    assert len(TargetTrace.open(tmp_path / "trace")) == 3
    assert not list((tmp_path / "trace").glob("*.part"))


def test_help_shows_an_example_and_imports_no_torch() -> None:
    script = "import sys; sys.argv = ['quark-eagle', 'trace', '--help']\nfrom quark_eagle.cli.app import main\n"
    script += "try:\n    main()\nexcept SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, "torch was imported"
    assert "Example: quark-eagle trace TARGET --draft DRAFT --output TRACE" in done.stdout


def test_options_of_vllm_mean_nothing_without_it(pair: tuple[str, str, str], tmp_path: Path) -> None:
    given = ("--vllm-python", "python3", "--tensor-parallel-size", "4", "--no-anchor", "-k", "4", "--gpu", "h200")
    code, _, err = run(*arguments(pair, tmp_path / "trace", *given))
    assert code == 2
    for option in ("--vllm-python", "--tensor-parallel-size", "--no-anchor", "--num-speculative-tokens", "--gpu"):
        assert f"{option}: means nothing without --engine vllm." in err


def test_an_engine_that_is_not_there_is_told(pair: tuple[str, str, str], tmp_path: Path) -> None:
    """Before anything is loaded, and without a trace of a trace."""
    missing = ("--engine", "vllm", "--vllm-python", str(tmp_path / "python"))
    code, _, err = run(*arguments(pair, tmp_path / "trace", *missing))
    assert code == 2
    assert "no such program, but an interpreter that has vLLM is needed" in " ".join(err.split())
    assert not (tmp_path / "trace").exists()


def test_an_anchor_needs_a_served_draft(pair: tuple[str, str, str], tmp_path: Path) -> None:
    code, _, err = run(*arguments(pair, tmp_path / "trace", "--engine", "vllm", "--no-anchor", "-k", "4"))
    assert code == 2
    assert "--num-speculative-tokens and --no-anchor: no draft is served" in err


@pytest.mark.parametrize(("difference", "exit_code"), [(0.009, 0), (0.011, 3)])
def test_a_trace_on_which_replay_is_not_what_was_served_exits_with_no(
    pair: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float, exit_code: int
) -> None:
    """Recorded by transformers, as if vLLM had done it: what is tested is what becomes of a mismatch."""
    run(*arguments(pair, tmp_path / "trace"))
    recorded = TargetTrace.open(tmp_path / "trace")
    monkeypatch.setattr("quark_eagle.trace.recording.record", lambda *given, **options: recorded)
    monkeypatch.setattr("quark_eagle.parity.anchor.anchor", lambda *given: fitting(difference=difference))
    code, _, err = run(*arguments(pair, tmp_path / "another", "--engine", "vllm"))
    assert code == exit_code
    assert ("no verdict can stand on this trace" in err) == (exit_code == 3)
    assert ("Next: quark-eagle parity" in err) == (exit_code == 0)
