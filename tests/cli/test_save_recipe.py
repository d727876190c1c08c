"""--save-recipe: what is written is read again, and its steps are the command that wrote it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app, command
from quark_eagle.cli.save_recipe_options import save_recipe
from quark_eagle.job.reading import read_recipe
from quark_eagle.job.step import Step
from quark_eagle.job.steps import steps
from tests.release import keys

STEPWISE = {
    "save_recipe",
    "dry_run",
    "target",
    "limit",
    "overwrite",
    "json_",
}  # of the command alone, or of other steps


@pytest.fixture
def here(tmp_path: Path, tiny_draft: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a draft, and something at the place of everything else that a recipe may name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "draft").symlink_to(tiny_draft)
    for name in ("trace", "calibration", "target"):
        (tmp_path / name).mkdir()
    return tmp_path


def saved(*arguments: str) -> dict[str, Step]:
    """The steps of the recipe that a command writes, whose arguments are parsed and which is not run."""
    name, *rest = arguments
    save_recipe(command(name).make_context(name, rest), Path("job.toml"))
    return {step.name: step for step in steps(read_recipe(Path("job.toml")))}


def understood(name: str, arguments: list[str]) -> dict[str, Any]:
    """What a command makes of its arguments: defaults filled in, paths absolute."""
    params = command(name).make_context(name, list(arguments)).params
    return {key: os.path.abspath(value) if isinstance(value, Path) else value for key, value in params.items()}


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--keep *.down_proj --keep *.o_proj --quantize-fc --format compressed-tensors",
        "--trace trace --margin 0.02 -k 5 --device cpu",
        "--trace trace --publish-anyway",
        "--scheme fp8 --calibration calibration --observer percentile --percentile 99.99999999 --calib-tokens 1000",
        "--calibration calibration --kv-cache-scales --trace trace",
    ],
)
def test_the_recipe_of_quantize_is_that_very_command(here: Path, options: str) -> None:
    given = ["draft", "--output", "out/fp8", *options.split()]
    table = saved("quantize", *given)
    assert "trace" not in table
    wanted, found = understood("quantize", given), understood("quantize", list(table["quantize"].arguments[1:]))
    assert {key: value for key, value in found.items() if key not in STEPWISE} == {
        key: value for key, value in wanted.items() if key not in STEPWISE
    }


def test_what_quantize_records_by_itself_are_steps_into_the_same_places(here: Path) -> None:
    line = "quantize draft --output out/fp8 --scheme fp8 --target target --limit 32"
    table = saved(*line.split())
    assert list(table) == ["trace", "calibration-trace", "quantize", "verify", "gate"]
    assert table["trace"].writes == ("out/fp8.trace",)
    assert table["calibration-trace"].writes == ("out/fp8.calibration-trace",)
    assert "--limit 32" in table["trace"].command
    assert "--limit 32" in table["calibration-trace"].command
    assert "--trace out/fp8.trace" in table["quantize"].command


def test_a_job_that_serves_says_how_its_recipe_differs(here: Path) -> None:
    line = "quantize draft --output fp8 --target target --engine vllm --gpu mi355x --tensor-parallel-size 4"
    table = saved(*line.split(), "--vllm-option=--max-num-seqs=8", "--blocks", "4")
    assert list(table) == ["trace", "quantize", "verify", "parity", "gate"]
    for name in ("trace", "parity"):
        assert "--gpu mi355x --tensor-parallel-size 4 --vllm-option --max-num-seqs=8" in table[name].command
    assert "`quantize` would have published" in Path("job.toml").read_text()


def test_paths_are_relative_to_the_recipe(here: Path) -> None:
    (here / "jobs").mkdir()
    line = ["quantize", "draft", "--output", "jobs/fp8", "--dry-run", "--save-recipe", "jobs/job.toml"]
    assert CliRunner().invoke(app, line).exit_code == 0
    text = Path("jobs/job.toml").read_text()
    assert f'draft = "{here / "draft"}"' in text
    assert 'fp8 = "fp8"' in text


def test_a_recipe_that_exists_is_not_replaced(here: Path) -> None:
    Path("job.toml").write_text("mine")
    line = ["quantize", "draft", "--output", "fp8", "--dry-run", "--save-recipe", "job.toml"]
    finished = CliRunner().invoke(app, line)
    assert finished.exit_code == 2
    assert "job.toml: exists" in finished.stderr
    assert Path("job.toml").read_text() == "mine"
    assert CliRunner().invoke(app, [*line, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    "options",
    [
        "--evidence parity.json --verdict verdict.json --source draft --trace trace --require-arch any",
        "--evidence a.json --evidence b.json --margin 0.02 --publish-anyway --repo-id me/it --license mit --name it",
        "--evidence a.json --signing-key k.pem --signing-password-env SECRET --target target --target-name T",
    ],
)
def test_the_recipe_of_release_is_that_very_command(here: Path, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("parity.json", "verdict.json", "a.json", "b.json"):
        (here / name).touch()
    keys.write_private(keys.new_key(), here / "k.pem", "a password")
    monkeypatch.setenv("SECRET", "a password")
    (here / "fp8").mkdir()
    given = ["fp8", "--output", "bundle", *options.split()]
    table = saved("release", *given)
    assert list(table) == ["release", "verify-release"]
    assert understood("release", list(table["release"].arguments[1:])) == understood("release", given)


def test_release_takes_what_lies_beside_its_draft_by_name(here: Path) -> None:
    for name in ("fp8.parity.json", "fp8.served.parity.json", "fp8.verdict.json"):
        (here / name).touch()
    (here / "fp8").mkdir()
    line = saved("release", "fp8", "--output", "bundle")["release"].command
    assert "--evidence fp8.parity.json --evidence fp8.served.parity.json --verdict fp8.verdict.json" in line


def test_a_verdict_that_is_not_there_is_not_named(here: Path) -> None:
    """`release` judges anew then, and a recipe that named it would be refused."""
    (here / "fp8.parity.json").touch()
    (here / "fp8").mkdir()
    assert "--verdict" not in saved("release", "fp8", "--output", "bundle")["release"].command


def test_a_signed_release_is_verified_with_the_public_half_of_its_key(here: Path) -> None:
    key = keys.new_key()
    keys.write_private(key, here / "k.pem")
    (here / "fp8.parity.json").touch()
    (here / "fp8").mkdir()
    table = saved("release", "fp8", "--output", "bundle", "--signing-key", "k.pem")
    assert "--public-key job.pub.pem" in table["verify-release"].command
    assert (here / "job.pub.pem").read_bytes() == keys.write_public(key, here / "wanted.pem").read_bytes()
