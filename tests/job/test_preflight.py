"""What a later step would refuse is told before the first one, and all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from quark_eagle.errors import UsageError
from quark_eagle.job import preflight as module
from quark_eagle.job.preflight import preflight
from quark_eagle.job.recipe import Recipe
from quark_eagle.release import extra
from tests.release import keys


def refused(base: Path, **release: object) -> str:
    """What is said of a recipe with this table [release]."""
    content = {"fp8": "fp8", "release": {"evidence": ("parity.json",), **release}}
    with pytest.raises(UsageError) as error:
        preflight(Recipe.model_validate(content), base)
    return str(error.value)


def test_everything_that_a_release_would_refuse_is_told_at_once(tmp_path: Path) -> None:
    keys.write_private(keys.new_key(), tmp_path / "key.pem", "a password")
    keys.write_private(keys.new_key(), tmp_path / "private.pem")
    said = refused(
        tmp_path,
        name="a/b/c",
        repo_id="nobody",
        license="MIT License",
        signing_key="key.pem",
        signing_password_env="QUARK_EAGLE_UNSET",
        public_key="private.pem",
    )
    assert "5 problems" in said
    for wanted in (
        "[release] name: a/b/c: is no such name",
        "[release] repo_id: nobody: has no owner",
        "[release] license: 'MIT License': is no licence",
        "[release] signing_key: QUARK_EAGLE_UNSET: is not set",
        "is no public key in PEM. It is a private one",
    ):
        assert wanted in said


def test_a_public_key_of_another_private_one_is_told(tmp_path: Path) -> None:
    keys.write_private(keys.new_key(), tmp_path / "key.pem")
    keys.write_public(keys.new_key(), tmp_path / "other.pem")
    said = refused(tmp_path, signing_key="key.pem", public_key="other.pem")
    assert "is not the public half of signing_key" in said


def test_a_certificate_of_another_key_is_told(tmp_path: Path) -> None:
    key, other = keys.new_key(), keys.new_key()
    keys.write_private(key, tmp_path / "key.pem")
    keys.write_certificate(keys.certificate("root", other, authority=True), tmp_path / "root.pem")
    keys.write_certificate(keys.certificate("mine", other, issuer=("root", other)), tmp_path / "own.pem")
    said = refused(tmp_path, signing_key="key.pem", signing_certificate="own.pem", certificate_chain=("root.pem",))
    assert "is no certificate of" in said


def test_a_sound_release_is_let_pass(tmp_path: Path) -> None:
    key = keys.new_key()
    keys.write_private(key, tmp_path / "key.pem")
    keys.write_public(key, tmp_path / "pub.pem")
    release = {"evidence": ("p.json",), "signing_key": "key.pem", "public_key": "pub.pem", "license": "mit"}
    preflight(Recipe.model_validate({"fp8": "fp8", "release": release}), tmp_path)


def test_what_a_later_step_needs_and_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    recipe = {"draft": "a/b", "target": "c/d", "outputs": {"plot": "plot.svg"}, "release": {}}
    with pytest.raises(UsageError) as error:
        preflight(Recipe.model_validate(recipe), tmp_path)
    for name in ("quantize", "trace", "plot", "release"):
        assert f"pip install 'quark-eagle[{name}]'" in str(error.value)
