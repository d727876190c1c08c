"""A hash is taken from memory only where the file cannot have been written since."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from quark_eagle.checkpoint.manifest import digest
from quark_eagle.job import digests as module
from quark_eagle.job.digests import ABSENT, RACY_NS, Digests


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []

    def spy(path: Path, advance: object = None) -> object:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(module, "digest", spy)
    return names


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if files had been hashed long after they were written."""
    now = time.time_ns()
    monkeypatch.setattr(module.time, "time_ns", lambda: now + 10 * RACY_NS)


def test_an_unchanged_file_is_read_once(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("content")
    later(monkeypatch)
    digests = Digests(tmp_path, {})
    first = digests.of("a")
    assert Digests(tmp_path, digests.files).of("a") == first
    assert read == ["a"]


def test_a_file_hashed_right_after_it_was_written_is_read_again(tmp_path: Path, read: list[str]) -> None:
    """Another write within the same tick of the clock would leave no mark."""
    (tmp_path / "a").write_text("content")
    digests = Digests(tmp_path, {})
    digests.of("a")
    Digests(tmp_path, digests.files).of("a")
    assert read == ["a", "a"]


def test_setting_a_files_time_back_hides_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = path.stat()
    later(monkeypatch)
    digests = Digests(tmp_path, {})
    first = digests.of("a")
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert Digests(tmp_path, digests.files).of("a") != first


def write_trace(directory: Path) -> None:
    directory.mkdir()
    shard = directory / "shard.safetensors"
    shard.write_bytes(b"states")
    found = digest(shard)
    shards = [{"file": shard.name, "size_bytes": found.size_bytes, "sha256": found.sha256}]
    (directory / "trace.json").write_text(json.dumps({"shards": shards}))


def test_a_trace_is_believed_and_its_shards_are_not_read(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trace(tmp_path / "trace")
    later(monkeypatch)
    digests = Digests(tmp_path, {})
    digests.vouched("trace")
    believed = digests.of("trace")
    assert read == ["trace.json"]
    assert Digests(tmp_path, {}).of("trace") == believed  # which reads them


def test_a_shard_that_was_touched_after_recording_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trace(tmp_path / "trace")
    later(monkeypatch)
    digests = Digests(tmp_path, {})
    digests.vouched("trace")
    believed = digests.of("trace")
    (tmp_path / "trace" / "shard.safetensors").write_bytes(b"stetas")
    assert digests.of("trace") != believed


def test_names_of_files_count_and_the_directorys_own_does_not(tmp_path: Path) -> None:
    for name, inner in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / inner).write_text("content")
    digests = Digests(tmp_path, {})
    assert digests.of("a") == digests.of("b")
    assert digests.of("a") != digests.of("c")


def test_what_is_not_there_is_absent(tmp_path: Path) -> None:
    assert Digests(tmp_path, {}).of("work/fp8.json") == ABSENT


def test_a_large_model_is_known_by_times_and_is_not_read(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 8)
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "config.json").write_text("{}")
    weights = tmp_path / "target" / "model.safetensors"
    weights.write_bytes(bytes(16))
    first = Digests(tmp_path, {}).of("target")
    assert read == ["config.json"]
    weights.write_bytes(bytes(15) + b"1")
    assert Digests(tmp_path, {}).of("target") != first


def test_what_lies_behind_a_linked_directory_counts(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "code.py").write_text("one")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "inner").symlink_to(tmp_path / "elsewhere")
    first = Digests(tmp_path, {}).of("model")
    (tmp_path / "elsewhere" / "code.py").write_text("two")
    assert Digests(tmp_path, {}).of("model") != first


def test_a_link_to_a_directory_above_is_no_endless_walk(tmp_path: Path) -> None:
    (tmp_path / "model" / "inner").mkdir(parents=True)
    (tmp_path / "model" / "a").write_text("one")
    (tmp_path / "model" / "inner" / "up").symlink_to(tmp_path / "model")
    (tmp_path / "model" / "self").symlink_to(".")
    digests = Digests(tmp_path, {})
    digests.of("model")
    assert set(digests.files) == {"model/a"}
