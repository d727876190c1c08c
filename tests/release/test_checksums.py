"""SHA256SUMS: what coreutils reads is what is written, and what no release writes is refused."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from quark_eagle.errors import QuarkEagleError
from quark_eagle.release import checksums
from quark_eagle.release.contents import SIGNATURE, SUMS

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)), "evidence/parity.json": b"[1]", "a b.txt": b""}
HASH = "ab" * 32


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "bundle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "bundle"


def changed(bundle: Path) -> list[str]:
    return list(checksums.differences(checksums.read(bundle), checksums.hashed(checksums.listing(bundle))))


def test_coreutils_reads_what_is_written(bundle: Path) -> None:
    checksums.write(bundle)

    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS], cwd=bundle, capture_output=True, text=True, check=True
    )

    assert checked.stdout.splitlines() == [f"{name}: OK" for name in sorted(FILES)]
    written = subprocess.run(
        ["sha256sum", "--", *sorted(FILES)], cwd=bundle, capture_output=True, text=True, check=True
    )
    assert written.stdout == (bundle / SUMS).read_text()


def test_what_was_written_is_what_is_read(bundle: Path) -> None:
    checksums.write(bundle)

    assert checksums.read(bundle) == {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    assert changed(bundle) == []


def test_neither_the_list_nor_the_signature_is_listed(bundle: Path) -> None:
    (bundle / SIGNATURE).write_text("{}")
    checksums.write(bundle)
    first = (bundle / SUMS).read_bytes()
    checksums.write(bundle)

    assert (bundle / SUMS).read_bytes() == first
    assert not {SUMS, SIGNATURE} & checksums.read(bundle).keys()


def test_every_difference_is_told(bundle: Path) -> None:
    checksums.write(bundle)
    (bundle / "config.json").write_text("{ }")
    (bundle / "a b.txt").unlink()
    (bundle / "evidence" / "more.json").write_text("{}")

    assert [line.split(":")[0] for line in changed(bundle)] == [
        "a b.txt is missing.",
        "config.json has changed",
        "evidence/more.json is extra",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{HASH}  /etc/passwd", "is an absolute path"),
        (f"{HASH}  ../model.safetensors", "leaves the bundle"),
        (f"{HASH}  evidence/../../x", "leaves the bundle"),
        (f"{HASH}  ./config.json", "is not written in the shortest way"),
        (f"{HASH}  evidence//x.json", "is not written in the shortest way"),
        (f"{HASH}  evidence\\x.json", "holds a backslash"),
        (f"\\{HASH}  two\\nlines", "is not a hash, two blanks and a path"),  # how coreutils escapes a line break
        (f"{HASH}  \x1b[2Jx", "holds what cannot be printed"),
        (f"{HASH}  {'d/' * 20}x", "lies too deep"),
        (f"{HASH} *config.json", "is not a hash, two blanks and a path"),
        (f"{HASH.upper()}  config.json", "is not a hash, two blanks and a path"),
        (f"{HASH[:-1]}  config.json", "is not a hash, two blanks and a path"),
        (f"SHA256 (config.json) = {HASH}", "is not a hash, two blanks and a path"),
        ("", "is not a hash, two blanks and a path"),
        (f"{HASH}  a\n{HASH}  a", "a is listed twice"),
        (f"{HASH}  b\n{HASH}  a", "is not sorted by path"),
        (f"{HASH}  a\r", "holds what cannot be printed"),
    ],
)
def test_what_no_release_writes_is_refused(line: str, said: str) -> None:
    with pytest.raises(QuarkEagleError, match=said):
        checksums.parse(f"{line}\n")


def test_all_wrong_lines_are_listed_and_none_reaches_the_terminal_raw() -> None:
    with pytest.raises(QuarkEagleError) as refused:
        checksums.parse(f"{HASH}  /a\n\x1b[31mred\n{HASH}  ../b\n{HASH}  c")

    assert "4 problems" in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert "ends in the middle of a line" in str(refused.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\n", HASH.encode() + b"  caf\xe9\n"])
def test_what_is_no_text_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / SUMS).write_bytes(content)

    with pytest.raises(QuarkEagleError, match="UTF-8"):
        checksums.read(bundle)


def test_a_link_is_foreign_wherever_it_points(bundle: Path, tmp_path: Path) -> None:
    (bundle / "same").symlink_to("config.json")
    (bundle / "away").symlink_to("/etc/hostname")
    (bundle / "nowhere").symlink_to("gone")
    (bundle / "directory").symlink_to(tmp_path)
    os.mkfifo(bundle / "pipe")

    foreign = dict(checksums.listing(bundle).foreign)

    assert foreign.pop("pipe") == "is neither a file nor a directory"
    assert foreign == dict.fromkeys(("same", "away", "nowhere", "directory"), "is a symbolic link")
    with pytest.raises(QuarkEagleError, match="5 problems"):
        checksums.write(bundle)
    assert not (bundle / SUMS).exists()


def test_a_name_that_no_list_can_hold_is_foreign(bundle: Path) -> None:
    for name in (b"two\nlines", b"undecodable\xff", b"back\\slash"):
        (bundle / os.fsdecode(name)).write_text("")

    assert [what for _, what in checksums.listing(bundle).foreign] == [
        "has a name that holds a backslash",
        "has a name that holds what cannot be printed",
        "has a name that holds what cannot be printed",
    ]
    assert all(path.isprintable() for path, _ in checksums.listing(bundle).foreign)


def test_what_git_and_the_hub_put_beside_is_not_looked_into(bundle: Path) -> None:
    checksums.write(bundle)
    (bundle / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    for directory in (".git", ".cache/huggingface"):
        (bundle / directory).mkdir(parents=True)
        (bundle / directory / "link").symlink_to("/")
    (bundle / ".cache" / "other").write_text("")

    assert checksums.listing(bundle).beside == (".cache/huggingface", ".git", ".gitattributes")
    assert changed(bundle) == [".cache/other is extra: it was not released."]


def test_a_listing_does_not_go_down_without_end(bundle: Path) -> None:
    deep = bundle
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)

    assert [what for _, what in checksums.listing(bundle).foreign] == ["has a name that lies too deep"]


def test_a_digest_that_is_known_is_not_read_again(bundle: Path) -> None:
    known = checksums.hashed(checksums.listing(bundle)).files
    (bundle / "config.json").write_text("changed since")

    assert checksums.write(bundle, known=known).files["config.json"] == known["config.json"]
