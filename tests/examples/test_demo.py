"""`make demo` types commands that exist, and stops at the first that fails."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from quark_eagle.cli.app import COMMANDS, command


@pytest.fixture(scope="module")
def demo(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", repository / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def commands(demo: ModuleType, tmp_path: Path) -> list[list[str]]:
    return [list(step.command) for step in demo.steps(target=tmp_path, work=tmp_path, prompts=2, tokens=8)]


BESIDE_THE_MAIN_JOB = {"throughput", "compare-schemes", "export-onnx"}  # a server, a calibration, another runtime


def test_the_demo_shows_every_command_of_the_main_job(commands: list[list[str]]) -> None:
    assert {name for _, name, *_ in commands} == set(COMMANDS) - BESIDE_THE_MAIN_JOB


def test_every_command_of_the_demo_is_understood(commands: list[list[str]]) -> None:
    """Parsed by the real parsers: an option that was renamed fails here, not on a newcomer's machine."""
    for program, name, *arguments in commands:
        assert program == "quark-eagle"
        command(name).make_context(name, arguments)


def test_a_step_reads_what_an_earlier_one_wrote(commands: list[list[str]]) -> None:
    written: set[str] = set()
    for line in commands:
        if "--trace" in line:
            assert line[line.index("--trace") + 1] in written
        if "--output" in line:
            written.add(line[line.index("--output") + 1])


def test_the_demo_says_what_it_was_not_measured_on(demo: ModuleType, tmp_path: Path) -> None:
    report = tmp_path / "parity.json"
    report.write_text('{"provenance": {"arch": "x86_64 AVX2"}}')
    said = demo.not_measured_on_mi355x(report)
    assert said.startswith("Measured on x86_64 AVX2, not on MI355X (gfx950)")
    assert "--require-arch gfx950 refuses this" in said
    report.write_text('{"provenance": {"arch": "x86_64 AVX512, gfx950"}}')
    assert demo.not_measured_on_mi355x(report) == ""


def test_the_demo_stops_with_the_failing_steps_exit_code(demo: ModuleType, tmp_path: Path) -> None:
    step = demo.Step(heading="A directory without a draft", command=["quark-eagle", "inspect", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        demo.run(step)
    assert ended.value.code == 5


def test_a_step_that_succeeds_lets_the_demo_go_on(demo: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    demo.run(demo.Step(heading="Which version?", command=["quark-eagle", "--version"]))
    assert "$ quark-eagle --version" in capfd.readouterr().out
