"""What all tests share: a small machine's environment, skips that say why, and the drafts that many tests read."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict

# Before torch is imported: tests are many small products, and a second thread only gets in the way of other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from quark_eagle.serving.server import VllmServer

REPOSITORY = Path(__file__).resolve().parent.parent


# What is made or imported once for all tests that ask for it (a fixture or a mark), if they run in one process.
SHARED = ("tiny_server", "loads", "real_quark", "vllm")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what runs in which order and, where pytest-xdist has several processes (`make test`), in which of them.

    A file stays together, for what it sets up, and so do all files that share something dear. Slow ones begin, so that
    no process is left with one at the end; what kills the server that others share comes last.
    """
    dear: dict[Path, set[str]] = defaultdict(set)
    for item in items:
        dear[item.path] |= {*getattr(item, "fixturenames", ()), *(mark.name for mark in item.iter_markers())}
    for item in items:
        shared = [name for name in SHARED if name in dear[item.path]]
        alone = shared in ([], ["vllm"]) and "slow" in dear[item.path]
        item.add_marker(pytest.mark.xdist_group(shared[0] if shared and not alone else str(item.path)))
    items.sort(key=_when)
    for marker, module in (("vllm", "vllm"), ("quark", "quark")):
        if find_spec(module) is None:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=f"{module} is not installed: `make install` brings it"))


def _when(item: pytest.Item) -> tuple[bool, bool]:
    return item.get_closest_marker("last") is not None, item.get_closest_marker("slow") is None


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


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
