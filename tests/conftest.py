"""What all tests share: a small machine's environment, skips that say why, and the drafts that many tests read."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

# Before torch is imported: tests are many small products, and a second thread only gets in the way of other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
# Importing readline sets it, as pytest does in the processes of pytest-xdist: tables would be 80 columns wide there.
os.environ.pop("COLUMNS", None)

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from quark_eagle.serving.server import VllmServer

REPOSITORY = Path(__file__).resolve().parent.parent


# What is dear and made once for all tests that ask for it, if one process runs them.
SHARED = ("tiny_server", "loads: dict", "prepared_target", "real_quark", "pytest.mark.vllm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs an engine that is not installed (a ROCm container without vLLM, say), and say so.

    Slow files begin, so that no process is left with one at the end. What kills a server that tests share comes last.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.get_closest_marker("last") is not None, item.path not in slow))
    for marker, module in (("vllm", "vllm"), ("quark", "quark")):
        if find_spec(module) is None:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=f"{module} is not installed: `make install` brings it"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where there are several processes (`make test`), what shares something dear runs in one of them.

    A file stays together, for what it sets up, and so do all files that name the same one of `SHARED`.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _together(nodeid.partition("::")[0])

    return Together(config, log)


@cache
def _together(file: str) -> str:
    source = (REPOSITORY / file).read_text(encoding="utf-8")
    named = [name for name in SHARED if name in source]
    starts_its_own = named in ([], ["pytest.mark.vllm"]) and "pytest.mark.slow" in source
    return named[0] if named and not starts_its_own else file


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def prepared_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, made by `examples/prepare_target.py` for these tests alone. Read it, never write to it."""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    script = [sys.executable, str(REPOSITORY / "examples" / "prepare_target.py")]
    prepared = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    return Path(prepared.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def real_quark() -> None:
    """Imports Quark, which takes 20 seconds; after the first test that asks for it, that is free."""
    from quark_eagle.quantize.quark_backend import load_quark
    from quark_eagle.quantize.scheme import PTPC_FP8

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Quark's own, and those of what it imports
        load_quark(PTPC_FP8)


@pytest.fixture(scope="session")
def tiny_draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 64-wide BF16 draft with the true tensor names. Shared by the session: read it, never write to it."""
    from tests.tiny import write_tiny_draft

    return write_tiny_draft(tmp_path_factory.mktemp("tiny") / "draft")


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny target and a draft that guesses it often and not always (directories). Read them, never write to them."""
    from tests.tiny_pair import write_tiny_pair

    return write_tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def tiny_server(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A real vLLM that serves the tiny pair in float32, k = 3. Ask it what you like, but leave it alive."""
    from quark_eagle.serving.engine import Engine
    from quark_eagle.serving.server import VllmServer
    from tests.served import READY_SECONDS, tiny_command

    log_path = tmp_path_factory.mktemp("served") / "vllm.log"
    command = tiny_command(*tiny_pair)
    with VllmServer.start(Engine.find(), command, log_path, ready_seconds=READY_SECONDS) as server:
        yield server
