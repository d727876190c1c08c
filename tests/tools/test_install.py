"""Installing beside an image's packages changes none of them: decided with fake packages, and without a network."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import textwrap
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path
from types import ModuleType

import pytest

IMAGE_TORCH = "2.11.0+gitd0c8b1f"


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_constraints", repository / "tools" / "image_constraints.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(site: Path, name: str, version: str, **files: str) -> None:
    """An installed distribution, as little of it as pip and importlib.metadata look at."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text("".join(f"{info.name}/{file},,\n" for file in ("METADATA", "INSTALLER", "RECORD")))
    for file, content in files.items():
        (info / file.replace("_json", ".json")).write_text(content)


def wheel(directory: Path, name: str, version: str, requires: str = "") -> None:
    """A wheel that pip can install from a directory."""
    directory.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    needed = f"Requires-Dist: {requires}\n" if requires else ""
    contents = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},sha256={_digest(text)},{len(text)}" for path, text in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)


def _digest(text: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def site_of(environment: Path) -> Path:
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An environment as an image's: torch from a wheel's path, vLLM in editable mode, and a library at 1.0."""
    environment = tmp_path / "image"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = site_of(environment)
    put(site, "torch", IMAGE_TORCH, direct_url_json='{"url": "file:///install/torch.whl", "archive_info": {}}')
    put(site, "vllm", "0.31.0+rocm723", direct_url_json='{"url": "file:///app/vllm", "dir_info": {"editable": true}}')
    put(site, "somelib", "1.0")
    return environment


def held(repository: Path, environment: Path) -> list[str]:
    python = environment / "bin" / "python"
    done = subprocess.run(
        [python, repository / "tools" / "image_constraints.py"], check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_every_package_is_held_by_its_version_however_it_was_installed(repository: Path, image: Path) -> None:
    assert held(repository, image) == ["somelib==1.0", f"torch=={IMAGE_TORCH}", "vllm==0.31.0+rocm723"]


def test_the_first_on_the_path_is_held_for_it_is_what_is_imported(tool: ModuleType) -> None:
    assert tool.pins([("Some_Lib", "2.0"), ("some-lib", "1.0")]) == ["some-lib==2.0"]


def test_what_is_being_installed_is_not_held(tool: ModuleType) -> None:
    assert tool.pins([("quark_eagle", "0.1.0"), ("amd-quark", "0.13")]) == ["amd-quark==0.13"]


@pytest.mark.parametrize("version", [None, "", "unknown", "1.0; import os", "0.1 beta"])
def test_a_version_that_pip_would_choke_on_is_a_remark(tool: ModuleType, version: str | None) -> None:
    (line,) = tool.pins([("odd", version)])
    assert line.startswith("# odd: version ")


@pytest.mark.parametrize(
    "version", ["1.0", "2.11.0+gitd0c8b1f", "0.19.1rc1.dev12+gfb1ac806c.rocm700", "1!2.0.post1", "2024b"]
)
def test_versions_of_real_images_are_held(tool: ModuleType, version: str) -> None:
    assert tool.pins([("package", version)]) == [f"package=={version}"]


def test_everything_here_is_held_as_pip_itself_lists_it(repository: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    found = held(repository, Path(sys.prefix))
    names = {line.partition("==")[0].lower().replace("_", "-").replace(".", "-") for line in listed} - {"quark-eagle"}
    assert names == {line.partition("==")[0] for line in found if not line.startswith("#")}


# pip itself


def pip_install(image: Path, wheels: Path, what: str, constraints: Path | None) -> subprocess.CompletedProcess[str]:
    options = ["--no-index", "--find-links", str(wheels), "--disable-pip-version-check", "--quiet", "--upgrade"]
    options += [] if constraints is None else ["--constraint", str(constraints)]
    return subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(image / "bin" / "python"), "install", *options, what],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("requires", "fits"), [("somelib>=1.0", True), ("somelib>=2.0", False), ("torch", True)])
def test_with_the_constraints_pip_adds_or_refuses_and_never_changes(
    repository: Path, image: Path, tmp_path: Path, requires: str, fits: bool
) -> None:
    wheel(tmp_path / "wheels", "added", "1.0", requires)
    wheel(tmp_path / "wheels", "somelib", "2.0")
    wheel(tmp_path / "wheels", "torch", "3.0")
    before = held(repository, image)
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(before) + "\n")
    done = pip_install(image, tmp_path / "wheels", "added", constraints)
    assert (done.returncode == 0) == fits, done.stderr
    assert held(repository, image) == sorted([*before, "added==1.0"] if fits else before)


def test_without_the_constraints_pip_would_change_the_image(repository: Path, image: Path, tmp_path: Path) -> None:
    """What the constraints are for: were this not so, the test above could not fail."""
    wheel(tmp_path / "wheels", "added", "1.0", "somelib>=2.0")
    wheel(tmp_path / "wheels", "somelib", "2.0")
    assert pip_install(image, tmp_path / "wheels", "added", None).returncode == 0
    assert "somelib==2.0" in held(repository, image)


# tools/install.sh

FAKE_PIP = """
import os, pathlib, sys
with open(os.environ["PIP_LOG"], "a") as log:
    print(*sys.argv[1:], file=log)
if "--constraint" in sys.argv:
    pathlib.Path(os.environ["PIP_LOG"] + ".held").write_text(
        pathlib.Path(sys.argv[sys.argv.index("--constraint") + 1]).read_text())
site = pathlib.Path(__file__).parent.parent
if os.environ.get("PIP_CHANGES"):
    (site / "somelib-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\\nName: somelib\\nVersion: 2.0\\n")
sys.exit(int(os.environ.get("PIP_EXIT", "0")))
"""


def install(repository: Path, image: Path, log: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """tools/install.sh on an environment whose pip writes down what it is told."""
    fake = site_of(image) / "pip"
    fake.mkdir(exist_ok=True)
    (fake / "__init__.py").write_text("")
    (fake / "__main__.py").write_text(textwrap.dedent(FAKE_PIP))
    told = {"PYTHON": sys.executable, "VENV": str(image), "PIP_LOG": str(log)}
    return subprocess.run(
        ["bash", str(repository / "tools" / "install.sh")],
        env={"PATH": os.environ["PATH"], **told, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_installer_holds_all_of_an_image_and_says_so(repository: Path, image: Path, tmp_path: Path) -> None:
    done = install(repository, image, tmp_path / "log")
    assert done.returncode == 0, done.stderr
    assert f"torch {IMAGE_TORCH} is installed and stays" in done.stdout
    calls = (tmp_path / "log").read_text().splitlines()
    assert all("torch==" not in call for call in calls)
    assert (tmp_path / "log.held").read_text().splitlines() == held(repository, image)


def test_the_installer_says_what_to_do_where_nothing_fits(repository: Path, image: Path, tmp_path: Path) -> None:
    done = install(repository, image, tmp_path / "log", PIP_EXIT="1")
    assert done.returncode == 1
    assert "OWN=1 make install" in done.stderr
    assert f"--vllm-python {sys.executable}" in done.stderr


def test_the_installer_notices_a_package_that_was_changed_after_all(
    repository: Path, image: Path, tmp_path: Path
) -> None:
    done = install(repository, image, tmp_path / "log", PIP_CHANGES="1")
    assert done.returncode == 1
    assert "pip changed packages of the image: somelib==1.0" in done.stderr


def test_an_environment_of_its_own_gets_no_engine_and_nothing_of_the_image(repository: Path, tmp_path: Path) -> None:
    environment = tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    done = install(repository, environment, tmp_path / "log", OWN="1")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "log").read_text()
    assert "--constraint" not in calls
    assert "torch==" in calls, "the CPU build, from the pins"
