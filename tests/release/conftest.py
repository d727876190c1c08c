"""Bundles of every kind, each made once for a file's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.release.made_evidence import write_bundle


@pytest.fixture(scope="session")
def made_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the bundle of a kind (`tests.release.made_evidence.VARIANTS`). Read it, never write to it: copy it."""
    made: dict[str, Path] = {}

    def bundle(variant: str = "pass") -> Path:
        if variant not in made:
            made[variant] = write_bundle(tmp_path_factory.mktemp("bundle") / "tiny-eagle3-fp8", variant)
        return made[variant]

    return bundle
