"""What is shipped: the wheel and the sdist hold what a user needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import quark_eagle

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree with the backend that is installed: nothing is downloaded."""
    directory = tmp_path_factory.mktemp("wheel")
    flags = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", str(directory), str(REPOSITORY)],
        check=True,
        capture_output=True,
        text=True,
    )
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    directory = tmp_path_factory.mktemp("sdist")
    program = f"from hatchling.build import build_sdist; print(build_sdist({str(directory)!r}))"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=REPOSITORY)
    (built,) = directory.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        return {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}


def sources(folder: str, pattern: str) -> set[str]:
    found = (path.relative_to(REPOSITORY) for path in (REPOSITORY / folder).rglob(pattern))
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def test_the_wheel_holds_every_module(wheel_names: set[str]) -> None:
    assert sources("quark_eagle", "*.py") <= wheel_names
    assert "quark_eagle/py.typed" in wheel_names


def test_the_wheel_holds_the_prompts_as_package_data(wheel_names: set[str]) -> None:
    prompts = sources("calib", "*.jsonl")
    assert prompts
    assert {f"quark_eagle/{name}" for name in prompts} <= wheel_names
    assert {"quark_eagle/calib/README.md", "quark_eagle/calib/SHA256SUMS"} <= wheel_names


def page_parts() -> set[str]:
    """What report.html is rendered with beside modules."""
    return sources("quark_eagle/release/html", "*.j2") | sources("quark_eagle/release/html", "*.css")


def test_the_wheel_holds_what_a_page_is_rendered_with(wheel_names: set[str]) -> None:
    assert len(page_parts()) >= 3
    assert page_parts() <= wheel_names


def test_the_wheel_holds_nothing_else(wheel_names: set[str]) -> None:
    info = f"quark_eagle-{quark_eagle.__version__}.dist-info"
    strays = {
        name
        for name in wheel_names
        if not name.startswith((f"{info}/", "quark_eagle/calib/", "quark_eagle/documents/schemas/"))
        and not (name.startswith("quark_eagle/") and name.endswith((".py", "py.typed")))
        and name not in page_parts()
    }
    assert not strays
    assert f"{info}/licenses/LICENSE" in wheel_names


def test_prompts_are_found_in_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """From the unpacked wheel alone, far from the source tree."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import quark_eagle; from quark_eagle.trace.prompts import PromptSet; "
        "print(quark_eagle.__file__, len(PromptSet.load(None, 'parity').prompts))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    where, number = finished.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert int(number) >= 320


def test_the_sdist_holds_the_sources_their_tests_and_the_pins(sdist_names: set[str]) -> None:
    wanted = sources("quark_eagle", "*.py") | sources("tests", "*.py") | sources("calib", "*.jsonl")
    wanted |= {"pyproject.toml", "constraints.txt", "Makefile", "tools/install.sh"}
    wanted |= {"README.md", "CHANGELOG.md", "LICENSE", "action.yml"}
    assert not wanted - sdist_names


def test_the_sdist_holds_no_weights_and_no_rubbish(sdist_names: set[str]) -> None:
    rubbish = (".safetensors", ".pyc", ".venv", ".gguf", ".bin")
    assert not {name for name in sdist_names if any(piece in name for piece in rubbish)}


def test_the_console_script_is_the_command_line() -> None:
    (script,) = entry_points(group="console_scripts", name="quark-eagle")
    assert script.value == "quark_eagle.cli.app:main"


@pytest.mark.parametrize("name", quark_eagle.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(quark_eagle, name) is not None


def test_public_names_are_those_that_have_a_home() -> None:
    assert set(quark_eagle.__all__) == {*quark_eagle._HOMES, "__version__"}
    assert dir(quark_eagle) == sorted(quark_eagle.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'speculator'"):
        _ = quark_eagle.speculator


def test_every_dependency_is_pinned_for_the_tests() -> None:
    """constraints.txt is installed without a resolver, so it must name everything that pyproject.toml asks for."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(name): version for name, _, version in pins}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [entry for group in project["optional-dependencies"].values() for entry in group]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        name = canonicalize_name(requirement.name)
        if name == "quark-eagle":
            continue
        assert name in pinned, f"{requirement} has no pin"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} excludes its own pin {pinned[name]}"
        assert {bound.operator for bound in requirement.specifier} == {">="}, f"{requirement}: lower bounds only"
