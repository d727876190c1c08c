"""What Quark's import does is known beforehand: whether it compiles, where, and who is in its way."""

from __future__ import annotations

import logging
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from quark_eagle.cli.quantize_output import announce_kernel
from quark_eagle.quantize import quark_import
from quark_eagle.quantize.quark_import import importing, kernel_build

NAME = "quark_hw_emulation_stable_abi"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed Quark that was not imported yet; its kernel is built under ``tmp_path/extensions``."""
    package = tmp_path / "site" / "quark"
    (package / "torch" / "kernel" / "hw_emulation" / "csrc").mkdir(parents=True)
    spec = ModuleSpec("quark", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(quark_import, "find_spec", lambda name: spec)
    monkeypatch.delitem(sys.modules, "quark.torch", raising=False)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    return package


def build(package: Path, directory: Path) -> None:
    """What a finished build leaves."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "build.ninja").write_text(f"cflags = -I{package}/torch/include\n")
    (directory / f"{NAME}.so").touch()


@pytest.mark.parametrize("root", ["extensions", None])
def test_the_directory_is_torchs_own(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str | None
) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if root is None:
        monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    found = kernel_build()
    assert found is not None
    assert not found.directory.exists()  # asking makes nothing
    assert str(found.directory) == _get_build_directory(NAME, verbose=False)


@pytest.mark.parametrize(("version", "name"), [("2.9.1+rocm6.4", "kernel_ext"), ("2.10.0", NAME), ("2.13.0+cpu", NAME)])
def test_the_name_is_quarks_for_this_torch(
    package: Path, monkeypatch: pytest.MonkeyPatch, version: str, name: str
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    found = kernel_build()
    assert found is not None
    assert found.directory.name == name


@pytest.mark.quark
def test_what_quark_really_built_is_done(real_quark: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an import of the installed Quark, in the place where it said it would."""
    monkeypatch.delitem(sys.modules, "quark.torch")
    found = kernel_build()
    assert found is None or found.is_done
    assert kernel_build() == found


def test_it_is_compiled_once_for_each_place_of_quark(package: Path, tmp_path: Path) -> None:
    found = kernel_build()
    assert found is not None
    assert not found.is_done
    build(tmp_path / "another" / "quark", found.directory)
    assert kernel_build() == found
    build(package, found.directory)
    again = kernel_build()
    assert again is not None
    assert again.is_done


def test_a_quark_that_came_compiled_or_is_imported_builds_nothing(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "quark.torch", sys)
    assert kernel_build() is None
    monkeypatch.delitem(sys.modules, "quark.torch")
    (package / "torch" / "kernel" / "hw_emulation" / "_C.cpython-311-x86_64-linux-gnu.so").touch()
    assert kernel_build() is None


def test_the_user_is_told_before_it_is_compiled_and_what_may_be_in_the_way(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "extensions" / NAME
    announce_kernel()
    assert (
        f"compiles its kernel first: about a minute, and only this once, into {directory}." in capsys.readouterr().err
    )
    build(package, directory)
    announce_kernel()
    assert capsys.readouterr().err == ""
    (directory / "lock").touch()
    announce_kernel()
    assert f"{directory}/lock: another process compiles" in capsys.readouterr().err


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_build_is_not_logged_as_an_error(
    raised: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``RocmUserArchitectureContext.__exit__`` logs whatever ended the build."""
    logger = logging.getLogger("quark.common.torch_cpp_ext_screen")
    handler, before = logging.StreamHandler(sys.stderr), list(logger.filters)
    logger.addHandler(handler)
    try:
        with importing():
            for error in (raised(), RuntimeError("no compiler")):
                logger.error("Exception Occurred of type %s.", error, exc_info=(type(error), error, None))
                print("a note")
    finally:
        logger.removeHandler(handler)
    told = capsys.readouterr()
    assert "no compiler" in told.err
    assert raised.__name__ not in told.err
    assert told.out == ""
    assert logger.filters == before


@pytest.mark.quark
def test_quark_still_logs_its_build_there(real_quark: None) -> None:
    from quark.common import torch_cpp_ext

    assert torch_cpp_ext.logger.logger.name == "quark.common.torch_cpp_ext_screen"
