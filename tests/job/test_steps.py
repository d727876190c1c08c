"""What follows from a recipe are commands that the command line understands, each reading what an earlier one wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from quark_eagle.cli.app import command
from quark_eagle.job.reading import read_recipe
from quark_eagle.job.steps import steps
from tests.job.world import JOB, World

MEASURED = 'draft = "draft"\ntarget = "target"\n'
VLLM = f"""{MEASURED}num_speculative_tokens = 3
[prompts]
limit = 320
max_tokens = 1024
[engine]
name = "vllm"
gpu = "mi355x"
tensor_parallel_size = 4
options = ["--kv-cache-dtype=fp8"]
blocks = 4
devices = "0,1/2,3"
trust_remote_code = true
[release]
"""
CERTIFIED = JOB.replace(
    'public_key = "key.pub.pem"', 'signing_certificate = "key.pub.pem"\ncertificate_chain = ["prompts.jsonl"]'
)
JOBS = {
    "signed by a certificate's key": (
        CERTIFIED,
        "inspect trace calibration-trace quantize verify gate explain release verify-release",
    ),
    "whole": (
        JOB,
        "inspect trace calibration-trace quantize verify gate explain release verify-release",
    ),
    "weights alone": ('draft = "draft"\n', "quantize verify"),
    "measured": (MEASURED, "trace quantize verify gate"),
    "shown": (
        MEASURED + 'show = ["doctor", "inspect", "explain", "plan-prompts", "recipe"]\n',
        "doctor inspect trace quantize verify gate explain plan-prompts recipe",
    ),
    "on a trace": ('draft = "draft"\ntrace = "target"\n', "quantize verify gate"),
    "served": (VLLM, "trace quantize verify parity gate release verify-release"),
    "an FP8 draft that is there": ('draft = "draft"\ntrace = "target"\nfp8 = "target"\n', "verify parity gate"),
    "evidence that is there": (
        'draft = "draft"\nfp8 = "target"\n[release]\nevidence = ["key.pem"]\nverdict = "key.pub.pem"\n',
        "release verify-release",
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_the_steps_of_a_job(tmp_path: Path, name: str) -> None:
    text, wanted = JOBS[name]
    world = World.made(tmp_path / "world", text)
    table = steps(read_recipe(world.recipe))
    assert [step.name for step in table] == wanted.split()
    written: set[str] = set()
    for step in table:
        for read in step.reads:
            assert read in written or (world.directory / read).exists(), (step.name, read)
        assert not written & set(step.writes)
        written |= set(step.writes)


@pytest.mark.parametrize("name", JOBS)
def test_a_step_depends_on_everything_that_its_command_names(tmp_path: Path, name: str) -> None:
    world = World.made(tmp_path / "world", JOBS[name][0])
    table = steps(read_recipe(world.recipe))
    files = {path.name for path in world.directory.iterdir()} | {name for step in table for name in step.writes}
    for step in table:
        assert files & set(step.arguments[1:]) <= {*step.reads, *step.secrets, *step.writes}, step.name


@pytest.mark.parametrize("name", JOBS)
def test_every_command_of_a_job_is_understood(tmp_path: Path, name: str) -> None:
    """Parsed by the real parsers: an option that was renamed fails here."""
    world = World.made(tmp_path / "world", JOBS[name][0])
    for step in steps(read_recipe(world.recipe)):
        verb, *arguments = step.arguments
        command(verb).make_context(verb, list(arguments))  # which takes from the list
        if step.writes:
            command(verb).make_context(verb, [*arguments, "--overwrite"])


def test_a_certificates_signature_is_verified_up_to_its_root(tmp_path: Path) -> None:
    world = World.made(tmp_path / "world", CERTIFIED)
    assert "--certificate-chain prompts.jsonl" in {step.name: step for step in world.steps}["verify-release"].command


def test_who_signs_without_a_key_is_verified(tmp_path: Path) -> None:
    keyless = 'keyless = true\nidentity = "me@example.org"\nidentity_provider = "https://example.org"\n'
    world = World.made(tmp_path / "world", f"{MEASURED}[release]\n{keyless}")
    line = {step.name: step for step in world.steps}["verify-release"].command
    assert "--identity me@example.org --identity-provider https://example.org" in line


def test_a_served_job_is_served_as_it_was_recorded(tmp_path: Path) -> None:
    table = {step.name: step for step in steps(read_recipe(World.made(tmp_path / "world", VLLM).recipe))}
    for name in ("trace", "parity"):
        line = table[name].command
        for said in ("--limit 320", "--max-tokens 1024", "--gpu mi355x", "--tensor-parallel-size 4", "--engine vllm"):
            assert said in line, name
        assert "--num-speculative-tokens 3" in line
    assert "--evidence work/served.parity.json --evidence work/fp8.parity.json" in table["release"].command
    assert table["gate"].arguments[1] == "work/served.parity.json"


def test_prompts_of_ones_own_are_not_calibrated_on(tmp_path: Path) -> None:
    world = World.made(tmp_path / "world")
    world.change("limit = 64", 'limit = 64\nfile = "prompts.jsonl"')
    table = {step.name: step for step in world.steps}
    assert "--prompts prompts.jsonl" in table["trace"].command
    assert "--prompts" not in table["calibration-trace"].arguments
