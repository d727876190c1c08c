from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from quark_eagle.errors import QuarkEagleError, UsageError
from quark_eagle.trace.token_text import open_tokenizer, tokenizer_of_target


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A directory with a config and a tokenizer of three words, one of them special."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed: `make install` brings it")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"cat": 0, "sat": 1, "<end>": 2}, unk_token="<end>"))
    made.add_special_tokens(["<end>"])
    (tmp_path / "config.json").write_text("{}")
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def named(directory: Path | str) -> dict[str, object]:
    return {"name": str(directory), "revision": None, "config_sha256": hashlib.sha256(b"{}").hexdigest()}


def test_tokens_are_text_and_special_ones_are_shown(target: Path) -> None:
    assert open_tokenizer(target)([0, 1, 2]) == "cat sat <end>"


def test_a_directory_without_a_tokenizer_that_is_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenization_model.py").write_text("raise SystemExit('run')")
    with pytest.raises(UsageError, match=r"found no tokenizer\.json, but only that can be read without running code"):
        open_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_a_sentence(target: Path) -> None:
    (target / "tokenizer.json").write_text("{")
    with pytest.raises(QuarkEagleError, match="could not be read as a tokenizer"):
        open_tokenizer(target)


def test_without_tokenizers_the_error_says_how_to_get_it(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(QuarkEagleError, match=r"pip install 'quark-eagle\[trace\]'"):
        open_tokenizer(target)


def test_a_reports_target_is_decoded_only_if_it_is_that_target(target: Path) -> None:
    decode = tokenizer_of_target(named(target))
    assert decode is not None
    assert decode([1]) == "sat"
    (target / "config.json").write_text('{"another": "target"}')
    assert tokenizer_of_target(named(target)) is None


@pytest.mark.parametrize("name", ["/no/such/directory", "owner/never-downloaded", "tiny-target"])
def test_a_target_that_is_not_here_is_shown_as_numbers(name: str) -> None:
    assert tokenizer_of_target(named(name)) is None


def test_a_damaged_tokenizer_that_nobody_asked_for_stops_nothing(target: Path) -> None:
    (target / "tokenizer.json").write_text("{")
    assert tokenizer_of_target(named(target)) is None
