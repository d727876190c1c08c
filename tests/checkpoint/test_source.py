from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from quark_eagle.checkpoint import source
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.checkpoint.source import at_revision, on_disk, resolve
from quark_eagle.errors import CheckpointError, UsageError
from tests.tiny import write_tiny_draft


def test_a_directory_that_exists_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert resolve("owner/name") == Path("owner/name")
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["no-such-draft", "/no/such/draft", "./owner/name", "a/b/c", "../x/y"])
def test_what_is_neither_a_directory_nor_an_id_is_refused(name: str) -> None:
    with pytest.raises(
        UsageError, match=r"not found, but a draft is a local directory or a Hugging Face id \(owner/name\)"
    ):
        resolve(name)


def test_without_a_network_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"owner/name: no such directory here.*not in the cache.*pass its directory"
    ):
        resolve("owner/name")


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("RepositoryNotFoundError", "it is unknown or private"),
        ("GatedRepoError", r"it is gated\. Accept its terms"),
        ("RevisionNotFoundError", "it has no revision 'v9'"),
        ("HfHubHTTPError", r"it cannot be fetched \(the hub says no\)"),
    ],
)
def test_each_refusal_of_the_hub_has_its_sentence(kind: str, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co/owner/name"))

    def refuse(*_: Any, **__: Any) -> str:
        raise getattr(errors, kind)("the hub says no", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=match):
        resolve("owner/name@v9")


def test_only_weights_and_small_text_files_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fnmatch import fnmatch

    import huggingface_hub

    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("owner/name@v1.0") == tmp_path
    assert (asked["repository"], asked["revision"]) == ("owner/name", "v1.0")
    assert asked["allow_patterns"] == list(source.PATTERNS)
    allowed = [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
        "merges.txt",
        "README.md",
    ]
    refused = ["pytorch_model.bin", "modeling_draft.py", "optimizer.pt", "training_args.bin", "weights.gguf", "x.pkl"]
    assert all(any(fnmatch(name, pattern) for pattern in source.PATTERNS) for name in allowed)
    assert not any(fnmatch(name, pattern) for name in refused for pattern in source.PATTERNS)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache as its client lays it out, holding the tiny draft as owner/name: snapshots are symlinks.

    Nothing answers from the network, whatever is asked.
    """
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    home = cache / "models--owner--name"
    draft, snapshot = write_tiny_draft(tmp_path / "draft"), home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for number, path in enumerate(sorted(draft.iterdir())):
        path.rename(home / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{number:040x}")
    for ref in ("main", "v1.0"):
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / ref).write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.mark.parametrize("name", ["owner/name", "owner/name@main", "owner/name@v1.0", f"owner/name@{COMMIT}"])
def test_what_the_cache_holds_needs_no_network(cached: Path, name: str) -> None:
    found = resolve(name)
    assert found == cached / "models--owner--name" / "snapshots" / COMMIT
    assert Checkpoint.open(found).tensors


def test_a_revision_that_the_cache_lacks_is_not_replaced_by_another(cached: Path) -> None:
    with pytest.raises(CheckpointError, match=r"owner/name@v2\.0: .*not in the cache"):
        resolve("owner/name@v2.0")


def test_a_cache_that_may_not_be_written_to_is_read(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub answers, and its client fails to note the answer in the cache."""
    import huggingface_hub
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    real = huggingface_hub.snapshot_download

    def download(repository: str, *, local_files_only: bool, **options: Any) -> str:
        if not local_files_only:
            raise PermissionError(13, "Permission denied", str(cached / ".locks"))
        return str(real(repository, local_files_only=True, **options))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("owner/name").name == COMMIT
    with pytest.raises(CheckpointError, match=r"cannot be fetched \(\[Errno 13\] Permission denied"):
        resolve("owner/other")


def test_reading_from_the_cache_changes_nothing_in_it(cached: Path) -> None:
    for path in sorted(cached.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)

    def state() -> list[tuple[str, int]]:
        return [(str(path), path.lstat().st_mtime_ns) for path in sorted(cached.rglob("*"))]

    before = state()
    assert Checkpoint.open(resolve("owner/name@v1.0")).tensors
    assert state() == before
    for path in [cached, *cached.rglob("*")]:  # so that pytest can remove it
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def test_the_revision_of_an_option_is_that_of_the_name(tmp_path: Path) -> None:
    assert at_revision("owner/name", "v1.0") == "owner/name@v1.0"
    assert at_revision("owner/name@v1.0", "v1.0") == "owner/name@v1.0"
    assert at_revision(str(tmp_path), None) == str(tmp_path)
    with pytest.raises(UsageError, match=r"--draft-revision v2: owner/name@v1 names revision v1 already"):
        at_revision("owner/name@v1", "v2", "--draft-revision")
    with pytest.raises(UsageError, match=r"is a directory, which has no revisions\. Leave --revision out"):
        at_revision(str(tmp_path), "main")


def test_python_is_fetched_only_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[list[str]] = []

    def download(repository: str, *, allow_patterns: list[str], **options: Any) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    resolve("owner/name")
    resolve("owner/name", python_too=True)
    assert asked == [list(source.PATTERNS), [*source.PATTERNS, "*.py"]]


def test_what_is_on_the_disk_is_found_without_asking_the_hub(cached: Path, tmp_path: Path) -> None:
    assert on_disk("owner/name") == cached / "models--owner--name" / "snapshots" / COMMIT
    assert on_disk(str(tmp_path)) == tmp_path
    assert on_disk("owner/other") is None
    with pytest.raises(UsageError, match="not found, but a draft is"):
        on_disk("./owner/name")
