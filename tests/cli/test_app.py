"""The command line as a whole: quick to help, light where it can be, and honest in its exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle import errors
from quark_eagle.cli import app as app_module
from quark_eagle.cli.app import COMMANDS, app, command
from quark_eagle.cli.exit_codes import ExitCode, run


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
        timeout=120,
    )


def loaded_by(program: str) -> set[str]:
    """Top-level modules that are in sys.modules after the program ran, whether it exits or not."""
    wrapped = (
        "import sys\ntry:\n"
        + "".join(f"    {line}\n" for line in program.splitlines())
        + "except SystemExit:\n    pass\n"
        + "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    finished = python("-c", wrapped)
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.rsplit("LOADED", 1)[1].split())


def loaded_by_command(*arguments: str) -> set[str]:
    return loaded_by(f"from quark_eagle.cli.app import app\napp({list(arguments)!r})")


HEAVY = {"torch", "transformers", "quark", "vllm", "scipy", "numpy", "safetensors", "rich"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not (HEAVY | {"pydantic"}) & loaded_by_command(*arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    """Typer itself imports pydantic as soon as a command's options are read."""
    assert not HEAVY & loaded_by_command(name, "--help")


def test_importing_the_package_imports_no_torch() -> None:
    assert not {"torch", "numpy", "typer", "pydantic"} & loaded_by("import quark_eagle")


def test_inspect_imports_neither_torch_nor_quark(tiny_draft: Path) -> None:
    loaded = loaded_by_command("inspect", str(tiny_draft), "--json")
    assert not {"torch", "transformers", "quark", "vllm"} & loaded


def test_verify_never_imports_quark(tiny_draft: Path) -> None:
    """Verify is the second road: it must not share Quark's view of what it wrote, nor wait 20 seconds for it."""
    loaded = loaded_by_command("verify", str(tiny_draft))
    assert "quark_eagle" in loaded
    assert not {"quark", "transformers"} & loaded


def test_parity_never_imports_quark(tiny_draft: Path, tmp_path: Path) -> None:
    """With a trace that is none, the modules of a real comparison are imported and then it stops."""
    program = (
        "import quark_eagle.parity.replay, quark_eagle.trace.target_trace, quark_eagle.cli.parity\n"
        "from quark_eagle.cli.app import app\n"
        f"app(['parity', {str(tiny_draft)!r}, {str(tiny_draft)!r}, '--trace', {str(tmp_path)!r}])"
    )
    loaded = loaded_by(program)
    assert "torch" in loaded
    assert not {"quark", "vllm"} & loaded


def test_no_arguments_is_wrong_usage_and_shows_help() -> None:
    finished = python("-m", "quark_eagle")
    assert finished.returncode == ExitCode.USAGE
    assert "Usage: quark-eagle" in finished.stdout + finished.stderr


def test_an_unknown_command_is_wrong_usage() -> None:
    finished = python("-m", "quark_eagle", "inspct")
    assert finished.returncode == ExitCode.USAGE
    assert "No such command 'inspct'" in finished.stderr


def test_version_is_the_packages() -> None:
    import quark_eagle

    finished = python("-m", "quark_eagle", "--version")
    assert finished.stdout == f"quark-eagle {quark_eagle.__version__}\n"


def test_every_command_module_has_the_function_of_its_name() -> None:
    # The ground, what commands print or share of their options, and the two ways of `parity`.
    ground = {"__init__", "app", "options", "render", "exit_codes", "signals", "counts"}
    ground |= {"replayed_parity", "served_parity"}
    stems = {path.stem for path in Path(app_module.__file__).parent.glob("*.py")}
    files = {stem for stem in stems - ground if not stem.endswith(("_output", "_options"))}
    assert files == {name.replace("-", "_") for name in COMMANDS}
    assert all(command(name).callback for name in COMMANDS)


def test_a_users_mistake_is_a_sentence_on_stderr_and_no_traceback(tmp_path: Path) -> None:
    finished = python("-m", "quark_eagle", "inspect", str(tmp_path))
    assert finished.returncode == ExitCode.FAILED
    assert finished.stdout == ""
    assert finished.stderr.startswith(f"Error: {tmp_path}")
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), ExitCode.USAGE),
        (errors.PlanError("x"), ExitCode.USAGE),
        (errors.CheckpointError("x"), ExitCode.FAILED),
        (errors.NonFiniteWeightError("x"), ExitCode.FAILED),
        (errors.TraceMismatchError("x"), ExitCode.FAILED),
        (errors.VerificationError("x"), ExitCode.FAILED),
        (errors.StorageError("x"), ExitCode.FAILED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_boundary_gives_each_error_its_code(error: BaseException, code: ExitCode) -> None:
    with pytest.raises(SystemExit) as ended, run():
        raise error
    assert ended.value.code == code


def test_a_bug_passes_the_boundary_as_itself() -> None:
    """Exit 1 and a traceback are Python's own; a bug must not read like a verdict."""
    with pytest.raises(ZeroDivisionError), run():
        raise ZeroDivisionError


def test_the_runner_of_tests_sees_the_same_exit_codes(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["inspect", str(tmp_path)]).exit_code == ExitCode.FAILED


SLEEPER = """
import sys, time, types
from pathlib import Path
from quark_eagle.cli.app import app

def inspect(mark: str) -> None:
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        Path(mark).write_text("cleaned up")

sys.modules["quark_eagle.cli.inspect"] = types.SimpleNamespace(inspect=inspect)
app()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]
)
def test_a_signal_cleans_up_and_has_its_own_code(number: signal.Signals, code: ExitCode, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = [sys.executable, "-c", SLEEPER, "inspect", str(mark)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(timeout=30) == code
    assert mark.read_text() == "cleaned up"


def test_no_color_means_no_escape_sequence(tiny_draft: Path) -> None:
    finished = python("-m", "quark_eagle", "inspect", str(tiny_draft), NO_COLOR="1", FORCE_COLOR="1")
    assert finished.returncode == 0, finished.stderr
    assert "\x1b[" not in finished.stdout


def test_the_answer_is_the_same_without_a_terminal(tiny_draft: Path) -> None:
    """Piped output holds no escape sequence, whatever the width of the terminal it came from."""
    finished = python("-m", "quark_eagle", "inspect", str(tiny_draft))
    assert finished.returncode == 0, finished.stderr
    assert "\x1b[" not in finished.stdout
