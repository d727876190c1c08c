"""A served measurement names its target by content, wherever the engine has found it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from quark_eagle.parity.served.report import target_identity

COMMIT = "c" * 40


def written(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache that holds owner/name."""
    import huggingface_hub.constants

    home = tmp_path / "hub" / "models--owner--name"
    snapshot = written(home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_an_id_of_the_hub_is_the_same_target_as_its_directory(cached: Path) -> None:
    by_id, by_path = target_identity("owner/name"), target_identity(str(cached))

    assert by_id.pop("name") == "owner/name"
    assert by_path.pop("name") == str(cached)
    assert by_id == by_path
    assert by_id["config_sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert by_id["weights_size_bytes"] == len(b"weights")


@pytest.mark.parametrize("name", ["owner/other", "kimi", "no such directory"])
def test_what_lies_elsewhere_has_its_name_alone(cached: Path, name: str) -> None:
    assert target_identity(name) == {"name": name}
