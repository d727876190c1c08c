"""`parity --engine vllm`: what is refused before anything is started, and what the options become."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.cli.parity_output import show_report
from quark_eagle.cli.served_output import lossless_sentence
from quark_eagle.cli.served_parity import STARTING, announce_served, announce_turn
from quark_eagle.documents.served import LeftOut
from quark_eagle.opening import open_served
from quark_eagle.parity.served.schedule import Turn
from quark_eagle.parity.served.session import PassResult
from quark_eagle.parity.verdict import judge
from quark_eagle.serve_options import ServeOptions
from quark_eagle.serving.engine import Engine, EngineVersion
from tests.reports import AT_PAR, lossless, passes, served_report
from tests.tiny_target import write_prompts

MI355X = EngineVersion(
    vllm="0.32.0", torch="2.10", python="3.12", platform="rocm", arch="gfx950", device="MI355X", num_devices=8
)


def options(**given: Any) -> ServeOptions:
    return ServeOptions(**given)


def refusal(*arguments: str) -> str:
    """What the command says on stderr as it refuses to start."""
    found = CliRunner().invoke(app, ["parity", *arguments])
    assert found.exit_code == 2
    return found.stderr.removeprefix("Error: ")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """As much of a target as is read before it is served."""
    from tests.tiny_target import write_tiny_target

    return write_tiny_target(tmp_path / "target")


@pytest.fixture
def mi355x(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "version", lambda self: MI355X)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["A", "B"], "--target TARGET: was needed"),
        (["A", "B", "--target", "T", "--trace", "X", "--walk-only"], "--walk-only: belongs to replay"),
        (["A", "--target", "T"], "BASELINE and CANDIDATE were needed, but 1"),
        (["A", "B", "--baseline-url", "http://127.0.0.1:1"], "go together"),
        (
            ["A", "B", "--baseline-url", "http://a", "--candidate-url", "http://A/"],
            "are one server, which has one draft",
        ),
        (
            ["A", "B", "--baseline-url", "http://a", "--candidate-url", "http://b", "--devices", "0/1"],
            "--devices: is for servers that are started, but two were given",
        ),
        (["A", "B", "--target", "T", "--devices", "0/1", "--one-at-a-time"], "contradict each other"),
        (["A", "B", "--target", "T", "--deterministic", "--concurrency", "4"], "leave --concurrency out"),
    ],
)
def test_what_cannot_be_served_is_wrong_usage(arguments: list[str], says: str) -> None:
    assert says in refusal(*arguments, "--engine", "vllm")


def test_every_reason_is_told_at_once() -> None:
    assert len(refusal("A", "--engine", "vllm", "--trace", "X").splitlines()) == 3


@pytest.mark.parametrize("option", [["--target", "T"], ["--blocks", "4"], ["--deterministic"]])
def test_replay_takes_no_option_of_serving(option: list[str]) -> None:
    assert f"{option[0]}: for --engine vllm" in refusal("A", "B", "--trace", "X", *option)


def test_without_a_trace_or_an_engine_both_ways_are_named() -> None:
    assert "--engine vllm --target TARGET" in refusal("A", "B")


def test_options_of_starting_are_options() -> None:
    spelled = {f"--{name.replace('_', '-')}" for name in ServeOptions.__dataclass_fields__}
    assert set(STARTING) <= spelled


@pytest.mark.usefixtures("mi355x")
def test_on_a_gpu_the_recipe_is_served_with_the_users_flags_over_it(
    tiny_draft: Path, target: Path, tmp_path: Path
) -> None:
    file = write_prompts(tmp_path / "p.jsonl", ["a", "b"])
    made = open_served(
        (tiny_draft, tiny_draft),
        options(
            target=str(target),
            prompts=file,
            max_tokens=16,
            devices="0,1/2,3",
            tensor_parallel_size=2,
            vllm_option=["--max-num-seqs=8", "--enforce-eager"],
        ),
        num_speculative_tokens=6,
        dtype="auto",
    )
    assert made.arms is not None
    command = made.arms.command("candidate", "2,3")
    assert command.options["--tensor-parallel-size"] == 2
    assert command.options["--max-num-seqs"] == 8
    assert command.options["--enforce-eager"] is True
    assert command.options["--max-model-len"] == 1 + 16 + 256
    assert command.environment["HIP_VISIBLE_DEVICES"] == "2,3"
    assert command.speculative_config is not None
    assert command.speculative_config["num_speculative_tokens"] == 6
    assert (made.schedule.layout, made.schedule.num_blocks, made.schedule.num_loads) == ("disjoint devices", 4, 5)
    assert made.driving.sends_seed


@pytest.mark.usefixtures("mi355x")
def test_the_deterministic_way_asks_one_request_at_a_time(tiny_draft: Path, target: Path, tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "p.jsonl", ["a"])
    chosen = options(target=str(target), prompts=file, deterministic=True)
    made = open_served((tiny_draft, tiny_draft), chosen, num_speculative_tokens=3, dtype="auto")
    assert made.driving.concurrency == 1
    assert made.schedule.layout == "one at a time"


@pytest.mark.usefixtures("mi355x")
def test_loads_and_their_bytes_are_told_beforehand(
    tiny_draft: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_prompts(tmp_path / "p.jsonl", ["a", "b"])
    (target / "more.safetensors").touch()
    os.truncate(target / "more.safetensors", 551 * 10**9)
    chosen = options(target=str(target), prompts=file, devices="0/1", tensor_parallel_size=1)
    announce_served(open_served((tiny_draft, tiny_draft), chosen, num_speculative_tokens=3))
    said = capsys.readouterr().err
    assert "5 loads of the target (551 GB each: 9 min from a disk of 1 GB/s), disjoint devices" in said
    assert "18 answers of up to 128 tokens, 16 at a time" in said


@pytest.mark.parametrize(("seconds_left", "says"), [(720.0, "; about 12 min left\n"), (0.0, "none, block 1: 42 s\n")])
def test_each_pass_tells_how_long_the_rest_takes(
    seconds_left: float, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = PassResult(turn=Turn(arm="none", block=0), outcomes={}, counters=None, seconds=42.0)
    announce_turn(done, seconds_left)
    assert capsys.readouterr().err.endswith(says)


def test_people_see_passes_noise_losslessness_and_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    left = [LeftOut(id=f"p{i}", category="c", arm="candidate", block=0, why="timeout") for i in range(7)]
    report = served_report(
        AT_PAR[:93],
        passes=passes({"candidate": 1}),
        lossless=[lossless(2.0)],
        left_out=left,
        notes=["candidate: the engine cast 1 weights as it loaded them."],
    )
    show_report(report, judge(report))
    shown = capsys.readouterr().out
    assert "served in bfloat16" in shown
    assert "served: 3 blocks, side by side, 16 requests at a time" in shown
    assert "NOT LOSSLESS: 99 of 100 answers with the candidate" in shown
    assert "Left out of both: p4 (candidate, block 1): timeout" in shown
    assert "… and 2 more (served.left_out)." in shown
    assert "the engine cast 1 weights" in shown
    assert "NOT EVALUATED: " in shown
    assert "Counted while serving: vLLM 0.32.0" in shown


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_equal": 100, "real": []}, "Lossless: 100 of 100 answers with the candidate are the target's own"),
        ({"num_ties": 1, "real": []}, "Lossless but for ties: 99 of 100"),
        ({}, "NOT LOSSLESS: 99 of 100 answers with the candidate are the target's own; 0 first differ where"),
        ({"tie_margin": 0.0}, "NOT LOSSLESS: 99 of 100 answers with the candidate are the target's own; 1 differ"),
    ],
)
def test_losslessness_is_one_of_three_sentences(changes: dict[str, Any], says: str) -> None:
    assert lossless_sentence(lossless(2.0).model_copy(update=changes)).startswith(says)
