"""`make demo` is a recipe that shows the main job, and stops with the exit code of the step that fails."""

from __future__ import annotations

import importlib.util
import stat
import sys
from pathlib import Path
from types import ModuleType

import pytest

from quark_eagle.cli.app import COMMANDS, command
from quark_eagle.job.reading import read_recipe
from quark_eagle.job.step import Step
from quark_eagle.job.steps import steps


@pytest.fixture(scope="module")
def demo(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", repository / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recipe(demo: ModuleType, tmp_path: Path) -> Path:
    """The demo's recipe as it lies in its directory, its key beside it."""
    (tmp_path / "target").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    demo.throw_away_key(work)
    path = work / "demo.toml"
    path.write_text(demo.filled_in(target=tmp_path / "target", work=work, prompts=65, tokens=17))
    return path


@pytest.fixture
def table(recipe: Path) -> dict[str, Step]:
    return {step.name: step for step in steps(read_recipe(recipe))}


# A server, a calibration, another runtime; what `quantize` measures by itself; and `run`, which runs all.
BESIDE_THE_MAIN_JOB = {"throughput", "compare-schemes", "export-onnx", "parity", "run"}


def test_the_demo_shows_every_command_of_the_main_job(table: dict[str, Step]) -> None:
    assert {step.arguments[0] for step in table.values()} == set(COMMANDS) - BESIDE_THE_MAIN_JOB


def test_every_command_of_the_demo_is_understood(table: dict[str, Step]) -> None:
    """Parsed by the real parsers: an option that was renamed fails here, not on a newcomer's machine."""
    for step in table.values():
        command(step.arguments[0]).make_context(step.arguments[0], list(step.arguments[1:]))


def test_all_of_the_demo_goes_to_its_directory(table: dict[str, Step], recipe: Path) -> None:
    for step in table.values():
        for path in step.writes:
            assert Path(path).is_relative_to(recipe.parent), step.name
    assert "--limit 65 --max-tokens 17" in table["trace"].command


def test_the_demos_release_is_signed_and_checked_with_the_key_of_the_demo(table: dict[str, Step], recipe: Path) -> None:
    assert f"--signing-key {recipe.parent}/throw-away-key.pem" in table["release"].command
    assert f"--public-key {recipe.parent}/throw-away-key.pub.pem" in table["verify-release"].command


def test_the_key_is_made_once_and_is_nobody_elses_to_read(demo: ModuleType, tmp_path: Path) -> None:
    demo.throw_away_key(tmp_path)
    private = tmp_path / "throw-away-key.pem"
    made = private.read_bytes()
    demo.throw_away_key(tmp_path)
    assert private.read_bytes() == made
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_the_demo_says_what_it_was_not_measured_on(demo: ModuleType, tmp_path: Path) -> None:
    report = tmp_path / "parity.json"
    report.write_text('{"provenance": {"arch": "x86_64 AVX2"}}')
    said = demo.not_measured_on_mi355x(report)
    assert said.startswith("Measured on x86_64 AVX2, not on MI355X (gfx950)")
    assert "--require-arch gfx950 refuses this" in said
    report.write_text('{"provenance": {"arch": "x86_64 AVX512, gfx950"}}')
    assert demo.not_measured_on_mi355x(report) == ""


def test_the_demo_stops_with_the_jobs_exit_code(demo: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.run(tmp_path / "nothing.toml")
    assert ended.value.code == 5


def test_the_demo_goes_on_where_the_job_succeeds(demo: ModuleType) -> None:
    assert demo.exit_code_of([sys.executable, "-c", ""]) == 0
